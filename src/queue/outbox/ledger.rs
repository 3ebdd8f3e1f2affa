//! Which numbers of the line are done, and what the peer must still be told about those that will not come.
//!
//! # Invariants
//! - L1. A number is done when a record says so: what was acknowledged since the last record is `fresh`, and becomes done in
//!   the moment in which its record is wanted. So a snapshot holds each record as a whole or not at all (R2).
//! - L2. A number that ended with a gap is told to the peer until the peer acknowledged it (M-G2).

use std::collections::BTreeMap;
use std::time::Duration;

use roaring::RoaringTreemap;

use super::runs::Runs;
use super::topics::TopicId;
use crate::model::{GapReason, Seq};
use crate::queue::lanes::GAP_SPAN_MAX;
use crate::queue::line::{Settled, end_of_run};

/// Numbers of the line.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) done: Settled,
    fresh: Runs,
    fresh_counts: BTreeMap<TopicId, u64>,
    fresh_since: Option<Duration>,
    /// By code of the reason.
    untold: BTreeMap<u8, RoaringTreemap>,
    /// On its way to the peer.
    telling: BTreeMap<u8, RoaringTreemap>,
}

/// What a record of relayed messages holds.
pub(super) type Fresh = (Vec<(Seq, Seq)>, Vec<(TopicId, u64)>);

impl Ledger {
    /// What a snapshot held.
    pub(super) fn restored(done: Settled, untold: BTreeMap<u8, RoaringTreemap>) -> Self {
        Self {
            done,
            untold,
            ..Self::default()
        }
    }

    /// Whether nothing is to be done for a number any more, but for a record.
    pub(super) fn is_settled(&self, seq: Seq) -> bool {
        self.done.contains(seq) || self.fresh.contains(seq)
    }

    /// The unit has these.
    pub(super) fn relay(&mut self, now: Duration, runs: &[(Seq, Seq)], counts: &[(TopicId, u64)]) {
        for (from, to) in runs {
            self.fresh.insert(*from, *to);
        }
        for (topic, count) in counts {
            *self.fresh_counts.entry(*topic).or_default() += count;
        }
        self.fresh_since.get_or_insert(now);
    }

    /// Messages of a topic that the unit has, without a record yet.
    pub(super) fn fresh_of(&self, topic: TopicId) -> u64 {
        self.fresh_counts.get(&topic).copied().unwrap_or_default()
    }

    /// When the next record is due; `None`: there is nothing to say.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        let since = self.fresh_since?;
        let full = self.fresh.len() >= FRESH_MAX;
        Some(if full { since } else { since + FRESH_TIME })
    }

    /// Makes what is fresh done; a record must be written of it.
    pub(super) fn flush(&mut self) -> Option<Fresh> {
        self.fresh_since.take()?;
        let runs = self.fresh.take();
        for (from, to) in &runs {
            self.done.insert_range(*from, *to);
        }
        let counts = std::mem::take(&mut self.fresh_counts).into_iter().collect();
        Some((runs, counts))
    }

    /// These ended with a gap, which is on disk. Returns how many were not done before.
    pub(super) fn gap(&mut self, from: Seq, to: Seq, reason: GapReason) -> u64 {
        let new = self.done.insert_range(from, to);
        if new > 0 {
            self.untold.entry(reason.code()).or_default().insert_range(from..=to);
        }
        new
    }

    /// Takes a run that the peer must be told about; it is on its way now.
    pub(super) fn tell(&mut self) -> Option<((Seq, Seq), GapReason)> {
        let (code, untold) = self.untold.iter_mut().find(|(_, seqs)| !seqs.is_empty())?;
        let from = untold.min()?;
        let to = end_of_run(untold, from).min(from + GAP_SPAN_MAX);
        untold.remove_range(from..=to);
        self.telling.entry(*code).or_default().insert_range(from..=to);
        Some(((from, to), GapReason::from_code(*code)?))
    }

    /// The peer knows that these will not come.
    pub(super) fn told(&mut self, (from, to): (Seq, Seq)) {
        for seqs in self.telling.values_mut() {
            seqs.remove_range(from..=to);
        }
    }

    /// The peer may not have heard of these.
    pub(super) fn untell(&mut self, (from, to): (Seq, Seq), reason: GapReason) {
        if let Some(seqs) = self.telling.get_mut(&reason.code()) {
            seqs.remove_range(from..=to);
        }
        self.untold.entry(reason.code()).or_default().insert_range(from..=to);
    }

    /// The peer has these numbers, one way or the other: they need not be told.
    pub(super) fn there(&mut self, there: &Settled) {
        for seqs in self.untold.values_mut() {
            there.strike_from(seqs);
        }
    }

    /// The lowest number that is not done with in every way.
    pub(super) fn base(&self) -> Seq {
        let untold = self.untold.values().chain(self.telling.values());
        let lowest = untold.filter_map(RoaringTreemap::min).min();
        lowest.unwrap_or(Seq::MAX).min(self.done.frontier() + 1)
    }

    /// All that the peer must be told about, on its way or not.
    pub(super) fn all_untold(&self) -> BTreeMap<u8, RoaringTreemap> {
        let mut all = self.untold.clone();
        for (code, seqs) in &self.telling {
            *all.entry(*code).or_default() |= seqs;
        }
        all.retain(|_, seqs| !seqs.is_empty());
        all
    }
}

/// A record of relayed messages is written when so many are fresh,
const FRESH_MAX: u64 = 1000;
/// or after this time.
const FRESH_TIME: Duration = Duration::from_millis(100);
