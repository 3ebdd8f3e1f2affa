//! Each limit and each contradiction is named.

use std::path::Path;

use super::super::Checked;
use super::*;

const BASICS: &str = "[relay]\ngeo = \"cn\"\nunit = \"a\"\nname = \"a-1\"\n[units.b]\ngeo = \"sg\"\n[routing]\ndimensions = [\"uid\"]\n\
     [peer]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n[peer.trust]\nsg = \"ca.pem\"\n";

fn checked(text: &str) -> Result<Checked, String> {
    let settings: Settings = toml::from_str(&format!("{BASICS}{text}")).map_err(|error| error.to_string())?;
    settings.check(Path::new(".")).map_err(|problems| problems.to_string())
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let found = checked(text).map(drop).unwrap_err();
    assert_eq!(found.lines().count(), 1, "{text}: {found}");
    assert!(
        found.starts_with(expected),
        "{text}\nexpected {expected}\nfound    {found}"
    );
}

// O-C1: each limit, at its edge.
#[test]
fn values_of_the_queue_out_of_range_are_named_with_what_fits() {
    checked("").unwrap();
    let edge = "[queue]\nsegment_bytes = \"64KiB\"\nbytes_max = \"256KiB\"\nrefuse_all_at = 95\nrefuse_low_at = 94\ndedup.window = \"24h\"\n\
                message_bytes_max = \"15MiB\"\npublish_bytes_max = \"15MiB\"\n[replay]\nmin_share = 50\n";
    checked(edge).unwrap();
    checked("[queue]\ndedup.window = \"0s\"\ndedup.messages_max = 0\n").unwrap();
    for (text, expected) in [
        (
            "segment_bytes = \"63KiB\"",
            "queue.segment_bytes: is 63KiB; it must be from 64KiB to 1GiB",
        ),
        (
            "bytes_max = \"255MiB\"",
            "queue.bytes_max: is 255MiB; it must be four segments",
        ),
        (
            "message_bytes_max = \"16MiB\"",
            "queue.message_bytes_max: is 16MiB; it must be from 1KiB to 15MiB",
        ),
        (
            "publish_bytes_max = \"1023KiB\"",
            "queue.publish_bytes_max: is 1023KiB; it must be queue.message",
        ),
        (
            "lane_bytes_max = \"127KiB\"",
            "queue.lane_bytes_max: is 127KiB; it must be queue.batch_bytes",
        ),
        ("live_bytes_max = \"1KiB\"", "queue.live_bytes_max: "),
        (
            "batch_bytes = \"5MiB\"\nlane_bytes_max = \"8MiB\"",
            "queue.batch_bytes: is 5MiB",
        ),
        ("dead_letters.bytes_max = \"1B\"", "queue.dead_letters.bytes_max: "),
        (
            "dead_letters.retention = \"0s\"",
            "queue.dead_letters.retention: must be more than 0",
        ),
        ("refuse_all_at = 96", "queue.refuse_all_at: must be 95 at most"),
        (
            "refuse_low_at = 90",
            "queue.refuse_low_at: is 90; it must be from 1 to less than queue.refuse_all_at (90)",
        ),
        ("refuse_low_at = 0", "queue.refuse_low_at: is 0"),
        ("dedup.window = \"25h\"", "queue.dedup.window: must be 24h at most"),
        (
            "dedup.messages_max = 0",
            "queue.dedup.messages_max: must be more than 0",
        ),
        ("parked_max = 0", "queue.parked_max: must be more than 0"),
        ("topics_max = 0", "queue.topics_max: must be more than 0"),
        ("backlog_keys_max = 0", "queue.backlog_keys_max: must be more than 0"),
        (
            "checkpoint_interval = \"0s\"",
            "queue.checkpoint_interval: must be more than 0",
        ),
    ] {
        check(&format!("[queue]\n{text}\n"), expected);
    }
}

// M-D2, M-D4
#[test]
fn limits_of_replay_that_cannot_hold_are_named() {
    checked("[replay.units.b.limits]\nmessages_per_second = 0.5\n[replay.units.b.topics.t]\nburst = 1\n").unwrap();
    for (text, expected) in [
        (
            "[replay]\nmin_share = 51",
            "replay.min_share: is 51; a backlog gets from 1 to 50 percent at least",
        ),
        ("[replay]\nmin_share = 0", "replay.min_share: is 0"),
        (
            "[replay]\nbacklog_after = \"0s\"",
            "replay.backlog_after: must be more than 0",
        ),
        (
            "[replay.default]\nmessages_per_second = -1.0",
            "replay.default.messages_per_second: is -1; ",
        ),
        (
            "[replay.units.x]",
            "replay.units.x: unit x is neither in [units] nor this relay's own",
        ),
        ("[replay.units.a]", "replay.units.a: unit a is this relay's own"),
        (
            "[replay.units.b.topics.\"c.t\"]\nmessages_per_second = nan",
            "replay.units.b.topics.\"c.t\".messages_per_second: is NaN",
        ),
    ] {
        check(text, expected);
    }
}

// M-G4, M-D6, M-C3
#[test]
fn topics_that_contradict_themselves_or_the_relay_are_named() {
    checked("[topics.\"*\"]\n[topics.\"chat.*\"]\nrule = \"units\"\nunits = [\"a\", \"b\"]\nfrom = [\"b\"]\n").unwrap();
    for (text, expected) in [
        (
            "[topics.\"c/*\"]",
            "topics.\"c/*\": a name may hold A-Z a-z 0-9 . _ - only, not '/'; the key is a topic",
        ),
        ("[topics.\"a*b\"]", "topics.\"a*b\": "),
        (
            "[topics.t]\nrule = \"units\"",
            "topics.t.units: the rule \"units\" needs at least one unit",
        ),
        (
            "[topics.t]\nunits = [\"b\"]",
            "topics.t.units: units are only for rule = \"units\"",
        ),
        (
            "[topics.t]\nrule = \"units\"\nunits = [\"b\", \"b\"]",
            "topics.t.units: lists unit b twice",
        ),
        (
            "[topics.t]\nrule = \"units\"\nunits = [\"x\"]",
            "topics.t.units: unit x is neither",
        ),
        (
            "[topics.t]\nfrom = [\"a\"]",
            "topics.t.from: unit a is this relay's own",
        ),
        (
            "[topics.t]\nmessage_bytes_max = \"2MiB\"",
            "topics.t.message_bytes_max: is 2MiB, more than",
        ),
        (
            "[topics.t]\nreplay_order = \"newest-first\"",
            "topics.t.replay_order: \"newest-first\" needs ordered",
        ),
        (
            "[topics.t]\nordered = false\nexhausted = \"block-key\"",
            "topics.t.exhausted: ",
        ),
        (
            "[topics.t]\nvisibility_timeout = \"0s\"",
            "topics.t.visibility_timeout: must be more",
        ),
        ("[topics.t.retry]\nfirst = \"0s\"", "topics.t.retry.first: must be more"),
        (
            "[topics.t.retry]\nlongest = \"1ms\"",
            "topics.t.retry.longest: must not be less",
        ),
        (
            "[topics.t.retry]\nattempts = 0",
            "topics.t.retry.attempts: must be more",
        ),
        (
            "[topics.t.groups.g.push]\nservice = \"grpc.health.v1.Health\"",
            "topics.t.groups.g.push.service: grpc.health.v1.Health is this relay itself",
        ),
        (
            "[topics.t.groups.g.push]\nservice = \"x\"\nin_flight_max = 0",
            "topics.t.groups.g.push.in_flight_max: must be more than 0",
        ),
    ] {
        check(&format!("{text}\n"), expected);
    }
    let alone = "[relay]\ngeo = \"cn\"\nunit = \"a\"\nname = \"a-1\"\n[topics.t]\n";
    let alone: Settings = toml::from_str(alone).unwrap();
    let found = alone.check(Path::new(".")).unwrap_err().to_string();
    assert!(
        found.starts_with("topics.t.rule: the rule \"owner\" (the default) needs routing.dimensions"),
        "{found}"
    );
}

#[test]
fn what_is_odd_is_a_warning() {
    let odd = "[topics.t]\noverflow = \"drop-oldest\"\n[topics.t.groups.g.push]\nservice = \"im.Archive\"\n";
    let warnings = checked(odd).unwrap().warnings.to_string();
    let expected = "topics.t.overflow: \"drop-oldest\" takes effect only with bytes_max or messages_max\n\
         topics.t.groups.g.push.service: im.Archive is not in [services]; messages wait until a service of this name registers";
    assert_eq!(warnings, expected);
    let known = "[services.\"im.Archive\"]\n[topics.t]\noverflow = \"drop-oldest\"\nmessages_max = 9\n[topics.t.groups.g.push]\nservice = \"im.Archive\"\n";
    assert_eq!(checked(known).unwrap().warnings, Problems::default());
}
