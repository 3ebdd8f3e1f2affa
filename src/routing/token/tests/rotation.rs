use super::*;

const OLD: u8 = 0x11;
const NEW: u8 = 0x22;

fn opens(ring: &Ring, with: u8, now: u64) -> bool {
    let issuer = Ring::new(secrets(&[(with, "")]), GEO, now);
    let token = Token {
        issued_at: now,
        ..token()
    };
    open(ring, &issue(&issuer, &token), now).is_ok()
}

/// Which of the two secrets signs.
fn signer(ring: &Ring, now: u64) -> u8 {
    let token = Token {
        issued_at: now,
        ..token()
    };
    let text = issue(ring, &token);
    let by = |byte| open(&Ring::new(secrets(&[(byte, "")]), GEO, now), &text, now).is_ok();
    match (by(OLD), by(NEW)) {
        (true, false) => OLD,
        (false, true) => NEW,
        other => panic!("{other:?}"),
    }
}

// both masters are accepted, whichever signs.
#[test]
fn the_master_before_and_the_next_one_are_accepted() {
    let ring = Ring::new(secrets(&[(OLD, "verify"), (NEW, "sign")]), GEO, NOW);
    assert!(opens(&ring, OLD, NOW) && opens(&ring, NEW, NOW) && !opens(&ring, 0x33, NOW));
    assert_eq!(signer(&ring, NOW), NEW);
}

// verify-only for 24 h before a new master signs.
#[test]
fn a_new_master_signs_after_a_day() {
    let file = || secrets(&[(OLD, "verify"), (NEW, "sign")]);
    let ring = ring().renewed(file(), NOW);
    assert!(opens(&ring, NEW, NOW), "it is accepted at once");
    assert_eq!(signer(&ring, NOW + DAY - 1), OLD);
    assert_eq!(signer(&ring, NOW + DAY), NEW);
    // Reading the file again in between neither hastens nor delays it.
    let ring = ring.renewed(file(), NOW + 20 * HOUR);
    assert_eq!(signer(&ring, NOW + DAY - 1), OLD);
    assert_eq!(signer(&ring, NOW + DAY), NEW);
    let ring = ring.renewed(file(), NOW + 2 * DAY);
    assert_eq!(signer(&ring, NOW + 2 * DAY), NEW);
}

#[test]
fn a_master_that_was_there_to_verify_signs_a_day_after_it_came() {
    let ring = ring().renewed(secrets(&[(OLD, "sign"), (NEW, "verify")]), NOW);
    assert_eq!(signer(&ring, NOW + HOUR), OLD);
    let early = ring.renewed(secrets(&[(OLD, "verify"), (NEW, "sign")]), NOW + HOUR);
    assert_eq!(signer(&early, NOW + DAY - 1), OLD);
    assert_eq!(signer(&early, NOW + DAY), NEW);
    let later = ring.renewed(secrets(&[(OLD, "verify"), (NEW, "sign")]), NOW + DAY);
    assert_eq!(signer(&later, NOW + DAY), NEW);
}

#[test]
fn without_the_old_master_the_new_one_signs_at_once() {
    let ring = ring().renewed(secrets(&[(NEW, "sign")]), NOW);
    assert_eq!(signer(&ring, NOW), NEW);
    assert!(!opens(&ring, OLD, NOW), "what was removed is refused");
}

// A ring that nobody renews at midnight still signs and opens with the key of the day.
#[test]
fn keys_follow_the_day_by_themselves() {
    let ring = ring();
    for days in [0, 1, 2, 30, 300] {
        let now = NOW + days * DAY;
        assert!(opens(&ring, OLD, now));
        assert_eq!(signer(&ring, now), OLD);
    }
}
