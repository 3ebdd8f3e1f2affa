//! How things stand, as the engine says it once a second, of many groups less often.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::core::{Atomic, GenericGaugeVec};

use super::Metrics;
use super::labels::{DEAD, known_group, known_reason, pattern};
use crate::model::{GroupName, Topic};
use crate::queue::operator::{AuditRow, GroupStatus, RedriveStatus, Status, UnitStatus};

/// Which labels the gauges have, to take back those of units, groups and reasons that are gone.
#[derive(Default)]
pub(super) struct Shown {
    units: BTreeSet<String>,
    groups: BTreeSet<(String, String)>,
    reasons: BTreeSet<&'static str>,
    /// Messages that the last audit, and the last look at the books, could not account for.
    audit: u64,
    books: u64,
}

/// States of messages to a unit (M-G1).
const STATES: [&str; 7] = ["connecting", "denied", "down", "draining", "live", "paused", "stalled"];
const LEVELS: [&str; 4] = ["failing", "full", "low", "ok"];
const WAITING: [&str; 4] = ["behind", "in_flight", "pending", "retrying"];
const TASKS: [&str; 2] = ["paused", "running"];

impl Metrics {
    /// How things stand, but for groups.
    pub fn on_status(&mut self, status: &Status) {
        let gauges = &self.gauges;
        gauges.used.set(whole(status.bytes_used));
        gauges.limit.set(whole(status.bytes_max));
        gauges.segments.set(whole(status.segments));
        gauges.buffered.set(i64::from(status.durability == "buffered"));
        gauges
            .damaged
            .set(whole(u64::try_from(status.damaged.len()).unwrap_or(u64::MAX)));
        gauges.dead_bytes.set(whole(status.dead_letter_bytes));
        for level in LEVELS {
            gauges
                .level
                .with_label_values(&[level])
                .set(i64::from(status.disk == level));
        }
        self.units(&status.units);
        self.dead_letters(&status.dead_by_reason);
    }

    /// How groups stand, all of them.
    pub fn on_groups(&mut self, groups: &[GroupStatus]) {
        // Groups and topics that share labels are added up.
        let mut sums: BTreeMap<(String, String), GroupStatus> = BTreeMap::new();
        for group in groups {
            let (Ok(topic), Ok(name)) = (Topic::new(&group.topic), GroupName::new(&group.group)) else {
                continue;
            };
            let labels = (
                pattern(&self.topics, &topic).to_owned(),
                known_group(&self.topics, &topic, &name).to_owned(),
            );
            add(sums.entry(labels).or_default(), group);
        }
        for ((topic, group), status) in &sums {
            self.on_group(topic, group, status);
        }
        let now: BTreeSet<_> = sums.into_keys().collect();
        for (topic, group) in self.shown.groups.difference(&now) {
            let labels = [topic.as_str(), group.as_str()];
            for gauge in [
                &self.gauges.group_blocked,
                &self.gauges.group_consumers,
                &self.gauges.group_paused,
            ] {
                take_back(gauge, &labels);
            }
            take_back(&self.gauges.group_oldest, &labels);
            for state in WAITING {
                take_back(&self.gauges.group_messages, &[labels[0], labels[1], state]);
            }
        }
        self.shown.groups = now;
    }

    /// How redrives stand.
    pub fn on_redrives(&self, tasks: &[RedriveStatus]) {
        let in_state = |state: &'static str| tasks.iter().filter(move |task| task.state == state);
        for state in TASKS {
            let number = u64::try_from(in_state(state).count()).unwrap_or(u64::MAX);
            self.gauges.redrives.with_label_values(&[state]).set(whole(number));
        }
        let remaining = TASKS
            .iter()
            .flat_map(|state| in_state(state))
            .map(|task| task.remaining);
        self.gauges
            .redrive_remaining
            .set(whole(remaining.fold(0, u64::saturating_add)));
    }

    /// What the books and the log disagree about.
    pub fn on_audit(&mut self, rows: &[AuditRow]) {
        let differences = rows.iter().map(|row| row.difference.unsigned_abs());
        self.shown.audit = differences.fold(0, u64::saturating_add);
        self.show_difference();
    }

    /// What the books and what is known to be open disagree about. What an audit found stays until the next one.
    pub fn on_books(&mut self, messages: u64) {
        self.shown.books = messages;
        self.show_difference();
    }

    fn show_difference(&self) {
        let difference = self.shown.audit.max(self.shown.books);
        self.gauges.difference.set(whole(difference));
    }

    fn units(&mut self, units: &[UnitStatus]) {
        for unit in units {
            self.on_unit(unit);
        }
        let now: BTreeSet<_> = units.iter().map(|unit| unit.unit.clone()).collect();
        for gone in self.shown.units.difference(&now) {
            let gauges = &self.gauges;
            let labels = [self.local.as_str(), gone.as_str()];
            for gauge in [
                &gauges.live,
                &gauges.backlog,
                &gauges.waiting_bytes,
                &gauges.keys_behind,
                &gauges.replay_limit_bytes,
                &gauges.replay_eta,
                &gauges.away,
            ] {
                take_back(gauge, &labels);
            }
            for gauge in [&gauges.oldest, &gauges.replay_rate, &gauges.replay_limit] {
                take_back(gauge, &labels);
            }
            for state in STATES {
                take_back(&gauges.link_state, &[labels[0], labels[1], state]);
            }
        }
        self.shown.units = now;
    }

    fn on_unit(&self, unit: &UnitStatus) {
        let gauges = &self.gauges;
        let labels = [self.local.as_str(), unit.unit.as_str()];
        gauges.live.with_label_values(&labels).set(whole(unit.live));
        gauges.backlog.with_label_values(&labels).set(whole(unit.backlog));
        gauges.waiting_bytes.with_label_values(&labels).set(whole(unit.bytes));
        gauges.oldest.with_label_values(&labels).set(seconds(unit.oldest_ms));
        gauges
            .keys_behind
            .with_label_values(&labels)
            .set(whole(unit.keys_behind));
        gauges.replay_rate.with_label_values(&labels).set(unit.replay_rate);
        let limits = &unit.limits;
        gauges
            .replay_limit
            .with_label_values(&labels)
            .set(limits.messages_per_second);
        gauges
            .replay_limit_bytes
            .with_label_values(&labels)
            .set(whole(limits.bytes_per_second));
        let eta = match unit.eta_seconds {
            Some(eta) => whole(eta),
            None if unit.backlog == 0 => 0,
            None => -1,
        };
        gauges.replay_eta.with_label_values(&labels).set(eta);
        let is_away = i64::from(unit.counts_as_away.is_some());
        gauges.away.with_label_values(&labels).set(is_away);
        for state in STATES {
            let labels = [labels[0], labels[1], state];
            gauges
                .link_state
                .with_label_values(&labels)
                .set(i64::from(unit.state == state));
        }
    }

    fn on_group(&self, topic: &str, group: &str, status: &GroupStatus) {
        let gauges = &self.gauges;
        let labels = [topic, group];
        let numbers = [status.behind, status.in_flight, status.pending, status.retrying];
        for (state, number) in WAITING.into_iter().zip(numbers) {
            gauges
                .group_messages
                .with_label_values(&[topic, group, state])
                .set(whole(number));
        }
        gauges
            .group_blocked
            .with_label_values(&labels)
            .set(whole(status.blocked_keys));
        gauges
            .group_consumers
            .with_label_values(&labels)
            .set(whole(status.consumers));
        gauges
            .group_oldest
            .with_label_values(&labels)
            .set(seconds(status.oldest_ms));
        gauges
            .group_paused
            .with_label_values(&labels)
            .set(i64::from(status.pause.is_some()));
    }

    fn dead_letters(&mut self, by_reason: &[(String, u64)]) {
        let mut sums: BTreeMap<&'static str, u64> = DEAD.into_iter().map(|(_, reason)| (reason, 0)).collect();
        for (reason, number) in by_reason {
            let sum = sums.entry(known_reason(reason)).or_default();
            *sum = sum.saturating_add(*number);
        }
        for (reason, number) in &sums {
            self.gauges.dead.with_label_values(&[reason]).set(whole(*number));
        }
        let now: BTreeSet<_> = sums.into_keys().collect();
        for gone in self.shown.reasons.difference(&now) {
            take_back(&self.gauges.dead, &[gone]);
        }
        self.shown.reasons = now;
    }
}

fn add(sum: &mut GroupStatus, group: &GroupStatus) {
    sum.consumers += group.consumers;
    sum.pending += group.pending;
    sum.in_flight += group.in_flight;
    sum.retrying += group.retrying;
    sum.behind += group.behind;
    sum.blocked_keys += group.blocked_keys;
    sum.oldest_ms = sum.oldest_ms.max(group.oldest_ms);
    sum.pause = sum.pause.take().or_else(|| group.pause.clone());
}

/// It is no matter if it was not there.
fn take_back<P: Atomic>(gauge: &GenericGaugeVec<P>, labels: &[&str]) {
    let _ = gauge.remove_label_values(labels);
}

pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seconds(millis: Option<u64>) -> f64 {
    std::time::Duration::from_millis(millis.unwrap_or_default()).as_secs_f64()
}
