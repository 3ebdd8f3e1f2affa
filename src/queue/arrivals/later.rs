//! Messages that a full topic did not take, until their sender sends them again.
//!
//! # Invariants
//! - T1. A message with a key is not taken while one of its topic with a lower number has to come again: those under way behind a
//!   message that was not taken come again too, so the order of each key stays (M-C1).
//! - T2. What is expected goes with the lanes it was sent on: after them the sender begins anew, in order, or elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Seq, Topic};
use crate::queue::lanes::LaneId;

/// What has to come again from one life of the log of a relay.
#[derive(Debug, Default)]
pub(super) struct Later {
    topics: BTreeMap<Topic, BTreeMap<Seq, BTreeSet<LaneId>>>,
    len: usize,
}

impl Later {
    /// Whether a lower number of the topic has to come first.
    pub(super) fn is_before(&self, topic: &Topic, seq: Seq) -> bool {
        let lowest = self.topics.get(topic).and_then(BTreeMap::first_key_value);
        lowest.is_some_and(|(lowest, _)| *lowest < seq)
    }

    /// A message was not taken; `false` if no more can be remembered.
    pub(super) fn expect(&mut self, topic: &Topic, seq: Seq, lane: LaneId) -> bool {
        let known = self.topics.get_mut(topic).and_then(|seqs| seqs.get_mut(&seq));
        match known {
            Some(lanes) => _ = lanes.insert(lane),
            None if self.len >= EXPECTED_MAX => return false,
            None => {
                let seqs = self.topics.entry(topic.clone()).or_default();
                seqs.insert(seq, [lane].into());
                self.len += 1;
            }
        }
        true
    }

    /// It came again and was taken, or will never be.
    pub(super) fn came(&mut self, topic: &Topic, seq: Seq) {
        if self.len > 0
            && let Some(seqs) = self.topics.get_mut(topic)
        {
            self.len -= usize::from(seqs.remove(&seq).is_some());
            if seqs.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// These will not come.
    pub(super) fn gone(&mut self, (from, to): (Seq, Seq)) {
        self.keep(|seq, _| !(from..=to).contains(&seq));
    }

    /// A lane ended.
    pub(super) fn lane_down(&mut self, lane: LaneId) {
        self.keep(|_, lanes| {
            lanes.remove(&lane);
            !lanes.is_empty()
        });
    }

    fn keep(&mut self, mut stays: impl FnMut(Seq, &mut BTreeSet<LaneId>) -> bool) {
        if self.len == 0 {
            return;
        }
        self.topics.retain(|_, seqs| {
            seqs.retain(|seq, lanes| stays(*seq, lanes));
            !seqs.is_empty()
        });
        self.len = self.topics.values().map(BTreeMap::len).sum();
    }
}

/// Messages of a stream that are remembered so; with more of them the lane waits in place.
const EXPECTED_MAX: usize = 16_384;
