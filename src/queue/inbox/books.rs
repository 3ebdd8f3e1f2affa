//! The books of a group (M-G8), and how its ends get into the log.

use serde::{Deserialize, Serialize};

use super::group::Group;
use super::retries::Failure;
use crate::model::{GapReason, GroupName, Seq, Topic, UnixMillis};
use crate::queue::effects::Effects;
use crate::queue::operator::AuditRow;
use crate::queue::record::Record;

/// What a group was given and what became of it: `accepted = pending + all others`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Books {
    pub accepted: u64,
    pub delivered: u64,
    pub expired: u64,
    pub dropped: u64,
    pub dead_lettered: u64,
    pub purged: u64,
    pub corrupted: u64,
    /// Bytes of the pending ones. Exact where the message is at hand when it ends, the mean of the others where it is not.
    pub bytes: u64,
}

impl Books {
    /// A message came.
    pub(super) fn accept(&mut self, bytes: usize) {
        self.accepted += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Messages ended; `None`: a consumer acknowledged them.
    pub(super) fn end(&mut self, reason: Option<GapReason>, count: u64, bytes: Option<usize>) {
        let pending = self.pending();
        let bytes = match bytes {
            Some(bytes) => u64::try_from(bytes).unwrap_or(u64::MAX),
            None => self.bytes / pending.max(1) * count,
        };
        *self.place(reason) += count;
        let left = self.bytes.saturating_sub(bytes);
        self.bytes = if pending <= count { 0 } else { left };
    }

    /// Not ended yet.
    pub(super) fn pending(&self) -> u64 {
        self.accepted.saturating_sub(self.ended())
    }

    /// Accepted less all that became of it.
    pub(super) fn balance(&self) -> i64 {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        whole(self.accepted).saturating_sub(whole(self.ended()))
    }

    fn ended(&self) -> u64 {
        let ended = [
            self.delivered,
            self.expired,
            self.dropped,
            self.dead_lettered,
            self.purged,
            self.corrupted,
        ];
        ended.iter().sum()
    }

    /// For operators. `pending` and `difference` are for those who count in the log.
    pub(super) fn row(&self, topic: &Topic, group: &GroupName) -> AuditRow {
        AuditRow {
            topic: topic.to_string(),
            to: format!("group {group}"),
            accepted: self.accepted,
            relayed: self.delivered,
            expired: self.expired,
            dropped: self.dropped,
            dead_lettered: self.dead_lettered,
            purged: self.purged,
            corrupted: self.corrupted,
            ..AuditRow::default()
        }
    }

    fn place(&mut self, reason: Option<GapReason>) -> &mut u64 {
        match reason {
            None => &mut self.delivered,
            Some(GapReason::Corrupted) => &mut self.corrupted,
            Some(GapReason::DeadLettered) => &mut self.dead_lettered,
            Some(GapReason::Dropped) => &mut self.dropped,
            Some(GapReason::Expired) => &mut self.expired,
            // A group gives nothing to another unit: what it has was delivered here before its key moved.
            Some(GapReason::Purged | GapReason::Rerouted) => &mut self.purged,
        }
    }
}

impl Group {
    /// Puts what has ended into records.
    pub(super) fn save(&mut self, topic: &Topic, fx: &mut Effects) {
        self.unsaved.sort_unstable_by_key(|(seq, reason)| (*reason, *seq));
        let mut ended = self.unsaved.drain(..).peekable();
        while let Some((first, reason)) = ended.next() {
            let mut seqs = vec![(first, first)];
            while let Some((seq, _)) = ended.next_if(|(_, next)| *next == reason) {
                match seqs.last_mut() {
                    Some((_, last)) if *last + 1 == seq => *last = seq,
                    _ => seqs.push((seq, seq)),
                }
            }
            fx.record(Record::Settled {
                topic: topic.clone(),
                group: self.name.clone(),
                seqs,
                reason,
            });
        }
    }

    /// What [`save`](Self::save) wrote, after a restart.
    pub(super) fn on_settled(&mut self, seqs: &[(Seq, Seq)], reason: Option<GapReason>) {
        for (from, to) in seqs {
            let new = self.done.insert_range(*from, *to);
            self.books.end(reason, new, None);
        }
        if !self.failures.is_empty() {
            self.failures.retain(|seq, _| !self.done.contains(*seq));
        }
    }

    /// An attempt that failed before a restart, or that an operator took all attempts back (zero). What is known from a
    /// later time stays (R2): each record of a message names a later time than those before.
    pub(super) fn on_attempt(&mut self, (seq, key): (Seq, Option<u64>), failed: u32, not_before: UnixMillis) {
        if self.done.contains(seq) {
            return;
        }
        let first = Failure {
            first: not_before,
            ..Failure::default()
        };
        let failure = self.failures.entry(seq).or_insert(first);
        if (not_before, failed) >= (failure.not_before, failure.failed) {
            failure.failed = failed;
            failure.not_before = not_before;
        }
        failure.key = failure.key.or(key);
    }
}
