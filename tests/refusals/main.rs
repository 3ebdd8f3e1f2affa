//! Peers with bad credentials over real QUIC, in both directions (O-S1): each is refused in the handshake, for its own
//! named reason, and not one of its application bytes is read. Good credentials beside them pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "a test ends where it finds something unexpected, and its tables are long"
)]

mod cases;
mod loading;
mod parties;
mod sessions;

use strait::peer::refusals::Direction;
use strait::peer::settings::CrlExpired;

use cases::{B1, SERIAL_REVOKED, World, cases, leaf, signed};
use parties::{Bad, Good, Seen, bad_dials_good, good_dials_bad};

/// Checks one outcome: `ok` and bytes read, or refused for exactly this reason and nothing read.
fn check(name: &str, good: &Good, direction: Direction, seen: &Seen, expected: &str) -> Option<String> {
    let total = good.refusals.total(direction);
    let named = good.refusals.count(direction, expected);
    let right = match (seen, expected) {
        (Some(Ok(bytes)), "ok") => *bytes == 17 && total == 0,
        (None | Some(Err(_)), expected) if expected != "ok" => named == 1 && total == 1,
        _ => false,
    };
    let direction = direction.as_str();
    (!right).then(|| format!("{name} ({direction}): expected {expected}, {named} of {total} refusals so, saw {seen:?}"))
}

async fn accepted(name: &str, good: &Good, bad: &Bad, expected: &str) -> Option<String> {
    let seen = bad_dials_good(good, bad).await;
    check(name, good, Direction::Accepted, &seen, expected)
}

async fn dialled(name: &str, good: &Good, bad: &Bad, expected: &str) -> Option<String> {
    let seen = good_dials_bad(good, bad).await;
    check(name, good, Direction::Dialled, &seen, expected)
}

// O-S1, T1, T7: the whole table against a server of ours.
#[tokio::test]
async fn callers_with_bad_credentials_are_refused_before_a_byte_is_read() {
    let world = World::new();
    let settings = world.settings();
    let mut wrong = Vec::new();
    for case in cases(&world) {
        let good = Good::new(&settings);
        wrong.extend(accepted(case.name, &good, &Bad::with(case.certificate), case.accepted).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// O-S1, T1, T7: the whole table against a client of ours, which dialled relay b-1.
#[tokio::test]
async fn answers_with_bad_credentials_are_refused_before_a_byte_is_read() {
    let world = World::new();
    let settings = world.settings();
    let mut wrong = Vec::new();
    for case in cases(&world) {
        let good = Good::new(&settings);
        wrong.extend(dialled(case.name, &good, &Bad::with(case.certificate), case.dialled).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// O-S1: revocation lists, and what an old one means, in both directions.
#[tokio::test]
async fn revoked_peers_are_refused_and_old_lists_follow_the_policy() {
    let world = World::new();
    let mut revoked = leaf(B1);
    revoked.serial_number = Some(rcgen::SerialNumber::from_slice(&[SERIAL_REVOKED]));
    let revoked = Bad::with(signed(&revoked, world.sg.issuer()));
    let fine = Bad::with(signed(&leaf(B1), world.sg.issuer()));
    let current = world.settings_with_crl(&world.sg, 30, CrlExpired::Refuse);
    let old_refused = world.settings_with_crl(&world.sg, -1, CrlExpired::Refuse);
    let old_accepted = world.settings_with_crl(&world.sg, -1, CrlExpired::Accept);
    let of_another = world.settings_with_crl(&world.cn, 29, CrlExpired::Refuse);
    let table = [
        ("revoked", &current, &revoked, "revoked"),
        ("not revoked", &current, &fine, "ok"),
        ("old list", &old_refused, &fine, "crl_expired"),
        ("old list, accepted", &old_accepted, &fine, "ok"),
        ("revoked on an old list", &old_accepted, &revoked, "revoked"),
        ("no list of this CA", &of_another, &fine, "revocation_unknown"),
        ("no list at all", &world.settings(), &revoked, "ok"),
    ];
    let mut wrong = Vec::new();
    for (name, settings, bad, expected) in table {
        wrong.extend(accepted(name, &Good::new(settings), bad, expected).await);
        wrong.extend(dialled(name, &Good::new(settings), bad, expected).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// O-S1: what is wrong beside the certificate.
#[tokio::test]
async fn peers_without_certificate_or_protocol_are_refused() {
    let world = World::new();
    let settings = world.settings();
    let good = || Good::new(&settings);
    let fine = Bad::with(signed(&leaf(B1), world.sg.issuer()));
    let nameless = Bad {
        certificate: None,
        ..fine.clone()
    };
    let other_version = Bad {
        alpn: vec![b"strait/2".to_vec(), b"h3".to_vec()],
        ..fine.clone()
    };
    let no_protocol = Bad {
        alpn: vec![],
        ..fine.clone()
    };
    let mut wrong = Vec::new();
    wrong.extend(accepted("no certificate", &good(), &nameless, "no_client_certificate").await);
    wrong.extend(accepted("strait/2", &good(), &other_version, "wrong_alpn").await);
    wrong.extend(accepted("no ALPN", &good(), &no_protocol, "wrong_alpn").await);
    wrong.extend(dialled("strait/2", &good(), &other_version, "by_peer").await);
    wrong.extend(dialled("no ALPN", &good(), &no_protocol, "by_peer").await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
