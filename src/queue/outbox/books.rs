//! The books of one topic to one unit: what came in and what became of it (M-G8).
//!
//! # Invariants
//! - B1. Each number is counted once as accepted and once as something else, when it becomes done.

use serde::{Deserialize, Serialize};

use crate::model::{GapReason, Topic, UnitId};
use crate::queue::operator::AuditRow;
use crate::queue::planted::{Bug, planted};

/// Counts of one topic.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Books {
    pub(super) accepted: u64,
    pub(super) relayed: u64,
    expired: u64,
    dropped: u64,
    dead_lettered: u64,
    purged: u64,
    corrupted: u64,
    rerouted: u64,
}

impl Books {
    /// So many will not go there.
    pub(super) fn gone(&mut self, reason: GapReason, count: u64) {
        let place = match reason {
            GapReason::Corrupted => &mut self.corrupted,
            GapReason::DeadLettered => &mut self.dead_lettered,
            GapReason::Dropped => &mut self.dropped,
            GapReason::Expired => &mut self.expired,
            GapReason::Purged => &mut self.purged,
            GapReason::Rerouted => &mut self.rerouted,
        };
        *place += if planted(Bug::CountedTwice) { 2 * count } else { count };
    }

    /// Accepted and not accounted for. Of an unknown topic it may be less than nothing: see [`rows`].
    pub(super) fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.ended())
    }

    /// Accepted less all that became of it.
    pub(super) fn balance(&self) -> i64 {
        whole(self.accepted).saturating_sub(whole(self.ended()))
    }

    fn ended(&self) -> u64 {
        self.relayed + self.expired + self.dropped + self.dead_lettered + self.purged + self.corrupted + self.rerouted
    }

    fn row(&self, topic: &Topic, unit: &UnitId) -> AuditRow {
        AuditRow {
            topic: topic.as_str().to_owned(),
            to: unit.as_str().to_owned(),
            accepted: self.accepted,
            relayed: self.relayed,
            expired: self.expired,
            dropped: self.dropped,
            dead_lettered: self.dead_lettered,
            purged: self.purged,
            corrupted: self.corrupted,
            rerouted: self.rerouted,
            ..AuditRow::default()
        }
    }
}

pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The rows of all topics: name, books and how many messages are really there. A damaged record does not tell its topic:
/// such messages are counted under `unknown` until what a topic misses shows that they were its own. Those that a restart did not
/// find are damaged from then on, also while nobody has written down yet that they will not go there.
pub(super) fn rows<'a>(
    unit: &UnitId,
    unknown: &Topic,
    topics: impl Iterator<Item = (&'a Topic, &'a Books, u64)>,
) -> Vec<AuditRow> {
    let mut rows: Vec<AuditRow> = Vec::new();
    let (mut found, mut undecided) = (0, 0);
    let mut nameless = Books::default();
    for (topic, books, there) in topics.filter(|(_, books, _)| **books != Books::default()) {
        if topic == unknown {
            nameless = *books;
            undecided = books.open().min(there);
            continue;
        }
        let mut row = books.row(topic, unit);
        let missing = books.open().saturating_sub(there);
        row.corrupted += missing;
        found += missing;
        rows.push(row);
    }
    if nameless != Books::default() {
        let mut row = nameless.row(unknown, unit);
        row.corrupted = (row.corrupted + undecided).saturating_sub(found);
        rows.push(row);
    }
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    rows
}
