//! Credentials that cannot work are refused when they are loaded, with the file and what to do (O-S2, T24).

use std::os::unix::fs::PermissionsExt;

use rcgen::KeyPair;
use rustls::pki_types::UnixTime;
use time::Duration;

use strait::peer::Settings;
use strait::peer::credentials::Credentials;
use strait::peer::settings::CrlExpired;

use super::cases::{World, leaf};
use super::parties::{name, own, units};

const A1: &str = "spiffe://strait.local/geo/cn-east/unit/a/relay/a-1";

/// Error of loading these settings, with its sources, as an operator reads it.
fn load(settings: &Settings) -> Result<Credentials, String> {
    Credentials::load(settings, &units(), &own(), UnixTime::now()).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    })
}

/// Loads after `break_it`, and expects all `parts` in the text.
fn check(break_it: impl FnOnce(&World, &mut Settings), parts: &[&str]) {
    let world = World::new();
    let mut settings = world.settings();
    break_it(&world, &mut settings);
    let text = load(&settings).map(|_| ()).expect_err(parts[0]);
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Puts a certificate with this identity in place of ours, valid from and to so many hours from now.
fn replace_own(world: &World, uri: &str, hours: std::ops::Range<i64>) {
    let mut params = leaf(uri);
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + Duration::hours(hours.start);
    params.not_after = now + Duration::hours(hours.end);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, world.cn.issuer()).unwrap();
    world.dir.write("a-1.pem", &certificate.pem());
    world.dir.write("a-1.key", &key.serialize_pem());
}

#[test]
fn good_credentials_are_loaded() {
    let world = World::new();
    let credentials = load(&world.settings()).unwrap();
    assert_eq!(credentials.identity().to_string(), A1);
    let left = credentials.not_after() - time::OffsetDateTime::now_utc().unix_timestamp();
    assert!((3500..=3600).contains(&left), "{left}");
    replace_own(&world, "spiffe://strait.local/geo/cn-east/unit/a", -1..1);
    assert!(
        load(&world.settings()).is_ok(),
        "a certificate for the unit is good for its relays"
    );
}

#[test]
fn missing_settings_and_files_are_named() {
    check(
        |_, settings| settings.certificate = None,
        &["[peer] certificate is not set"],
    );
    check(|_, settings| settings.key = None, &["[peer] key is not set"]);
    check(|_, settings| settings.trust.clear(), &["[peer] trust is not set"]);
    check(
        |world, settings| settings.certificate = Some(world.dir.0.join("nothing.pem")),
        &["cannot read", "nothing.pem", "No such file"],
    );
    check(
        |world, settings| {
            settings.crls.insert(name("eu"), vec![world.dir.0.join("eu.crl")]);
        },
        &["Geo eu", "no bundle"],
    );
}

// T24: a key that others can read is as good as published.
#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
    for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
        check(
            |world, _| {
                let key = world.dir.0.join("a-1.key");
                std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
            },
            &["chmod 600 ", "a-1.key", &format!("mode {mode:04o}")],
        );
    }
}

#[test]
fn key_and_certificate_must_belong_together() {
    check(
        |world, _| {
            let other = KeyPair::generate().unwrap();
            world.dir.write("a-1.key", &other.serialize_pem());
        },
        &["is not the key of the certificate", "a-1.key", "a-1.pem"],
    );
    check(
        |world, _| {
            world.dir.write("a-1.key", "no key");
        },
        &["no usable private key", "a-1.key"],
    );
    check(
        |world, _| {
            world.dir.write("a-1.pem", "no certificate");
        },
        &["no usable certificate", "a-1.pem"],
    );
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let uris = [
        "spiffe://strait.local/geo/cn-east/unit/d/relay/a-1",
        "spiffe://strait.local/geo/sg/unit/a/relay/a-1",
        "spiffe://strait.local/geo/cn-east/unit/a/relay/a-2",
        "spiffe://other.local/geo/cn-east/unit/a/relay/a-1",
    ];
    for uri in uris {
        check(|world, _| replace_own(world, uri, -1..1), &[uri, A1, "a-1.pem"]);
    }
    check(
        |world, _| replace_own(world, "spiffe://strait.local/geo/cn-east/unit/a/", -1..1),
        &["a-1.pem", "ends with a slash"],
    );
}

#[test]
fn a_certificate_outside_of_its_validity_is_refused() {
    check(
        |world, _| replace_own(world, A1, -2..-1),
        &["certificate 1 in", "a-1.pem", "expired"],
    );
    check(
        |world, _| replace_own(world, A1, 1..2),
        &["certificate 1 in", "a-1.pem", "not valid yet"],
    );
}

// T24: an incomplete chain, or one of another CA, would be refused by every peer; say so before the first call is lost.
#[test]
fn a_chain_that_peers_would_refuse_is_refused_at_home() {
    check(
        |world, _| {
            world.dir.write("cn-east-ca.pem", world.stranger.certificate());
        },
        &["peers would refuse", "a-1.pem", "not vouched for"],
    );
    check(
        |world, _| {
            let mut params = leaf(A1);
            params.extended_key_usages.pop();
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, world.cn.issuer()).unwrap();
            world.dir.write("a-1.pem", &certificate.pem());
            world.dir.write("a-1.key", &key.serialize_pem());
        },
        &["peers would refuse", "extended key usage"],
    );
}

#[test]
fn bundles_and_lists_hold_what_they_should() {
    check(
        |world, _| {
            let leaf = std::fs::read_to_string(world.dir.0.join("a-1.pem")).unwrap();
            world.dir.write("sg-ca.pem", &[world.sg.certificate(), &leaf].concat());
        },
        &["certificate 2", "sg-ca.pem", "not a CA"],
    );
    check(
        |world, _| {
            world.dir.write("sg-ca.pem", "");
        },
        &["sg-ca.pem", "certificate"],
    );
    check(
        |world, settings| {
            *settings = {
                let settings = world.settings_with_crl(&world.sg, 30, CrlExpired::Refuse);
                world.dir.write("sg-30.crl", world.sg.certificate());
                settings
            }
        },
        &["sg-30.crl", "revocation list"],
    );
}

// O-S5: nothing of the key in what is printed.
#[test]
fn debug_output_has_no_key_in_it() {
    let world = World::new();
    let credentials = load(&world.settings()).unwrap();
    let text = format!("{credentials:?}");
    assert!(text.contains("cn-east") && !text.contains("key"), "{text}");
}
