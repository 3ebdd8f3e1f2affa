//! Whether `[queue]`, `[replay]` and `[topics.*]` fit together, and with units, services and routes.

#[cfg(test)]
mod tests;

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
        check_sizes(&self.queue, problems);
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
            if ingress::api::own_services(&self.services).any(|own| own == push.service) {
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

fn check_sizes(queue: &Queue, problems: &mut Problems) {
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
}

fn check_queue(queue: &Queue, problems: &mut Problems) {
    let mut wrong = |name: &str, text: String| problems.add(None, format!("queue.{name}"), text);
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
        ("topics_max", queue.topics_max > 0),
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
