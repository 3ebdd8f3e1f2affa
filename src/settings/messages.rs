//! Whether `[queue]`, `[replay]` and `[topics.*]` fit together, and with units, services and routes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Problems, Settings, path};
use crate::ingress;
use crate::model::{ByteSize, Name, UnitId};
use crate::queue::{
    Exhausted, Overflow, ReplayLimits, ReplayOrder, Settings as Queue, TopicRule, TopicSettings, UnitReplay,
};

impl Settings {
    /// What is wrong goes to `problems`; what is only odd to `warnings`.
    pub(super) fn check_messages(&self, problems: &mut Problems, warnings: &mut Problems) {
        check_queue(&self.queue, problems);
        self.check_replay(problems);
        for (pattern, topic) in &self.topics {
            let key = path::join("topics", pattern);
            if let Err(error) = check_pattern(pattern) {
                problems.add(None, key.clone(), error);
            }
            self.check_where(&key, topic, problems);
            self.check_topic(&key, topic, problems, warnings);
            self.check_groups(&key, topic, problems, warnings);
        }
    }

    fn check_replay(&self, problems: &mut Problems) {
        let replay = &self.replay;
        if replay.backlog_after.is_zero() {
            problems.add(None, "replay.backlog_after", POSITIVE);
        }
        if !(1..=50).contains(&replay.min_share) {
            let text = format!("is {}; a backlog gets from 1 to 50 percent at least", replay.min_share);
            problems.add(None, "replay.min_share", text);
        }
        check_limits("replay.default", &replay.default, problems);
        for (unit, settings) in &replay.units {
            let key = path::join("replay.units", unit.as_str());
            self.check_other(&key, unit, problems);
            let UnitReplay { limits, topics } = settings;
            check_limits(&path::join(&key, "limits"), limits, problems);
            for (topic, limits) in topics {
                let key = path::join(&path::join(&key, "topics"), topic.as_str());
                check_limits(&key, limits, problems);
            }
        }
    }

    fn check_where(&self, key: &str, topic: &TopicSettings, problems: &mut Problems) {
        let own = path::join(key, "units");
        let mut seen = BTreeSet::new();
        for unit in &topic.units {
            self.check_known(&own, unit, problems);
            if !seen.insert(unit) {
                problems.add(None, own.clone(), format!("lists unit {unit} twice"));
            }
        }
        match topic.rule {
            TopicRule::Units if topic.units.is_empty() => {
                problems.add(None, own, "the rule \"units\" needs at least one unit here");
            }
            TopicRule::Units => {}
            _ if !topic.units.is_empty() => {
                problems.add(
                    None,
                    own,
                    "units are only for rule = \"units\"; set the rule or leave them out",
                );
            }
            TopicRule::Owner if self.routing.dimensions.is_empty() => {
                let text = "the rule \"owner\" (the default) needs routing.dimensions, by which the owner of a key is \
                            found; or use \"all\", \"local\" or \"units\"";
                problems.add(None, path::join(key, "rule"), text);
            }
            _ => {}
        }
        for unit in topic.from.iter().flatten() {
            self.check_other(&path::join(key, "from"), unit, problems);
        }
    }

    fn check_topic(&self, key: &str, topic: &TopicSettings, problems: &mut Problems, warnings: &mut Problems) {
        let mut wrong = |name: &str, text: String| problems.add(None, format!("{key}.{name}"), text);
        if topic.message_bytes_max > self.queue.message_bytes_max {
            let text = format!(
                "is {}, more than queue.message_bytes_max ({}) lets through",
                topic.message_bytes_max, self.queue.message_bytes_max
            );
            wrong("message_bytes_max", text);
        }
        if topic.ordered && topic.replay_order == ReplayOrder::NewestFirst {
            wrong("replay_order", "\"newest-first\" needs ordered = false".to_owned());
        }
        if !topic.ordered && topic.exhausted != Exhausted::DlqAndContinue {
            let text = "what stops a key needs ordered = true; without order there is only \"dlq-and-continue\"";
            wrong("exhausted", text.to_owned());
        }
        if topic.visibility_timeout.is_zero() {
            wrong("visibility_timeout", POSITIVE.to_owned());
        }
        let retry = &topic.retry;
        if retry.first.is_zero() {
            wrong("retry.first", POSITIVE.to_owned());
        }
        if retry.longest < retry.first {
            wrong("retry.longest", "must not be less than retry.first".to_owned());
        }
        if retry.attempts == 0 {
            wrong("retry.attempts", POSITIVE.to_owned());
        }
        let limited = topic.messages_max > 0 || topic.bytes_max > ByteSize::default();
        if topic.overflow == Overflow::DropOldest && !limited {
            let text = "\"drop-oldest\" takes effect only with bytes_max or messages_max";
            warnings.add(None, path::join(key, "overflow"), text);
        }
    }

    fn check_groups(&self, key: &str, topic: &TopicSettings, problems: &mut Problems, warnings: &mut Problems) {
        for (group, settings) in &topic.groups {
            let Some(push) = &settings.push else { continue };
            let key = path::join(&path::join(&path::join(key, "groups"), group.as_str()), "push");
            if push.in_flight_max == 0 {
                problems.add(None, path::join(&key, "in_flight_max"), POSITIVE);
            }
            if ingress::api::services_for(&self.services).any(|own| own == push.service) {
                let text = format!("{} is this relay itself; messages cannot be pushed to it", push.service);
                problems.add(None, path::join(&key, "service"), text);
            } else if !self.services.contains_key(&push.service) {
                let text = format!(
                    "{} is not in [services]; messages wait until a service of this name registers",
                    push.service
                );
                warnings.add(None, path::join(&key, "service"), text);
            }
        }
    }

    /// A unit that messages come from or go to: not this one.
    fn check_other(&self, key: &str, unit: &UnitId, problems: &mut Problems) {
        if Some(unit) == self.relay.unit.as_ref() {
            let text = format!("unit {unit} is this relay's own; only other units belong here");
            problems.add(None, key, text);
        } else {
            self.check_known(key, unit, problems);
        }
    }
}

fn check_queue(queue: &Queue, problems: &mut Problems) {
    let mut wrong = |name: &str, text: String| problems.add(None, format!("queue.{name}"), text);
    let between = |value: ByteSize, min: ByteSize, max: ByteSize| {
        let fits = min <= value && value <= max;
        (!fits).then(|| format!("is {value}; it must be from {min} to {max}"))
    };
    let ranges = [
        (
            "segment_bytes",
            queue.segment_bytes,
            ByteSize::kib(64),
            ByteSize::mib(1024),
        ),
        (
            "message_bytes_max",
            queue.message_bytes_max,
            ByteSize::kib(1),
            MESSAGE_BYTES_HARD_MAX,
        ),
        ("batch_bytes", queue.batch_bytes, ByteSize::kib(1), ByteSize::mib(4)),
    ];
    for (name, value, min, max) in ranges {
        if let Some(text) = between(value, min, max) {
            wrong(name, text);
        }
    }
    let segments = ByteSize::bytes(queue.segment_bytes.as_u64().saturating_mul(SEGMENTS_MIN));
    let least = [
        (
            "bytes_max",
            queue.bytes_max,
            segments,
            "four segments (queue.segment_bytes)",
        ),
        (
            "publish_bytes_max",
            queue.publish_bytes_max,
            queue.message_bytes_max,
            "queue.message_bytes_max",
        ),
        (
            "lane_bytes_max",
            queue.lane_bytes_max,
            queue.batch_bytes,
            "queue.batch_bytes",
        ),
        (
            "live_bytes_max",
            queue.live_bytes_max,
            queue.batch_bytes,
            "queue.batch_bytes",
        ),
        (
            "dead_letters.bytes_max",
            queue.dead_letters.bytes_max,
            ByteSize::mib(1),
            "1MiB",
        ),
    ];
    for (name, value, min, what) in least {
        if value < min {
            wrong(name, format!("is {value}; it must be {what} at least"));
        }
    }
    if queue.refuse_all_at > REFUSE_MAX {
        let text = "must be 95 at most: acknowledgements and dead letters need the rest of the disk";
        wrong("refuse_all_at", text.to_owned());
    }
    if queue.refuse_low_at == 0 || queue.refuse_low_at >= queue.refuse_all_at {
        let text = format!(
            "is {}; it must be from 1 to less than queue.refuse_all_at ({})",
            queue.refuse_low_at, queue.refuse_all_at
        );
        wrong("refuse_low_at", text);
    }
    if queue.dedup.window > DAY {
        wrong("dedup.window", "must be 24h at most".to_owned());
    }
    let positive = [
        ("backlog_keys_max", queue.backlog_keys_max > 0),
        ("parked_max", queue.parked_max > 0),
        ("checkpoint_interval", !queue.checkpoint_interval.is_zero()),
        (
            "dedup.messages_max",
            queue.dedup.messages_max > 0 || queue.dedup.window.is_zero(),
        ),
        ("dead_letters.retention", !queue.dead_letters.retention.is_zero()),
    ];
    for (name, _) in positive.into_iter().filter(|(_, is_right)| !is_right) {
        wrong(name, POSITIVE.to_owned());
    }
}

fn check_limits(key: &str, limits: &ReplayLimits, problems: &mut Problems) {
    let rate = limits.messages_per_second;
    if !rate.is_finite() || rate < 0.0 {
        let text = format!("is {rate}; expected messages per second, or 0 for no limit");
        problems.add(None, path::join(key, "messages_per_second"), text);
    }
}

/// A name, or the beginning of names with `*` behind it.
fn check_pattern(pattern: &str) -> Result<(), String> {
    let start = pattern.strip_suffix('*').unwrap_or(pattern);
    if start.is_empty() && pattern == "*" {
        return Ok(());
    }
    match Name::new(start) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{error}; the key is a topic, or the beginning of topics and one * at the end"
        )),
    }
}

const POSITIVE: &str = "must be more than 0";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Above it there is no room for what ends messages.
const REFUSE_MAX: u8 = 95;
/// One is written, one is read, one is merged into another.
const SEGMENTS_MIN: u64 = 4;
/// A message goes between relays in one frame, of 16 MiB at most, with all that is said about it.
const MESSAGE_BYTES_HARD_MAX: ByteSize = ByteSize::mib(15);

#[cfg(test)]
mod tests {
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
        checked("[topics.\"*\"]\n[topics.\"chat.*\"]\nrule = \"units\"\nunits = [\"a\", \"b\"]\nfrom = [\"b\"]\n")
            .unwrap();
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
}
