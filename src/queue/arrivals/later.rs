//! Messages that were not taken because their topic was full or their key was moving, until their sender sends them again.
//!
//! # Invariants
//! - T1. A message with a key is not taken while one of its topic that was full, or one of its key that was moving, has a lower
//!   number and has to come again: those under way behind a message that was not taken come again too, so the order of each
//!   key stays (M-C1).
//! - T2. What is expected goes with the lanes it was sent on: after them the sender begins anew, in order, or elsewhere.
//! - T3. What moved to another unit is expected until the sender says that it will not come: a key that comes back to this unit
//!   meanwhile must not begin with what was under way behind it.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::{Key, Seq, Topic};
use crate::queue::lanes::LaneId;

/// What has to come again from one life of the log of a relay.
#[derive(Debug, Default)]
pub(super) struct Later {
    topics: BTreeMap<Topic, Expected>,
    len: usize,
}

/// What has to come again of a topic.
#[derive(Debug, Default)]
struct Expected {
    /// All later messages with a key wait for these.
    topic: BTreeMap<Seq, BTreeSet<LaneId>>,
    /// All later messages of the key wait for these. Two keys with the same hash wait for each other.
    keys: BTreeMap<u64, BTreeMap<Seq, BTreeSet<LaneId>>>,
}

/// What waits for a message that has to come again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behind<'a> {
    /// Its key.
    Key(&'a Key),
    /// All keys of its topic.
    Topic,
}

impl Later {
    /// Whether a lower number of the topic has to come first.
    pub(super) fn is_before(&self, topic: &Topic, seq: Seq) -> bool {
        let expected = self.topics.get(topic);
        expected.is_some_and(|expected| is_lower(&expected.topic, seq))
    }

    /// Whether a lower number of the key has to come first.
    pub(super) fn is_before_of_key(&self, topic: &Topic, key: &Key, seq: Seq) -> bool {
        let expected = self.topics.get(topic).filter(|expected| !expected.keys.is_empty());
        let of_key = expected.and_then(|expected| expected.keys.get(&hash(key)));
        of_key.is_some_and(|seqs| is_lower(seqs, seq))
    }

    /// A message was not taken; `false` if no more can be remembered.
    pub(super) fn expect(&mut self, topic: &Topic, behind: Behind<'_>, seq: Seq, lane: LaneId) -> bool {
        let full = self.len >= EXPECTED_MAX;
        let expected = match self.topics.get_mut(topic) {
            Some(expected) => expected,
            None if full => return false,
            None => self.topics.entry(topic.clone()).or_default(),
        };
        let seqs = match behind {
            Behind::Topic => &mut expected.topic,
            Behind::Key(key) => expected.keys.entry(hash(key)).or_default(),
        };
        match seqs.get_mut(&seq) {
            Some(lanes) => _ = lanes.insert(lane),
            None if full => return false,
            None => {
                seqs.insert(seq, [lane].into());
                self.len += 1;
            }
        }
        true
    }

    /// It came again and was taken, or will never be.
    pub(super) fn came(&mut self, topic: &Topic, key: Option<&Key>, seq: Seq) {
        if self.len == 0 {
            return;
        }
        let Some(expected) = self.topics.get_mut(topic) else {
            return;
        };
        self.len -= usize::from(expected.topic.remove(&seq).is_some());
        if let Some(hash) = key.map(hash)
            && let Some(seqs) = expected.keys.get_mut(&hash)
        {
            self.len -= usize::from(seqs.remove(&seq).is_some());
            if seqs.is_empty() {
                expected.keys.remove(&hash);
            }
        }
        if expected.is_empty() {
            self.topics.remove(topic);
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
        let mut len = 0;
        self.topics.retain(|_, expected| {
            expected.topic.retain(|seq, lanes| stays(*seq, lanes));
            len += expected.topic.len();
            expected.keys.retain(|_, seqs| {
                seqs.retain(|seq, lanes| stays(*seq, lanes));
                len += seqs.len();
                !seqs.is_empty()
            });
            !expected.is_empty()
        });
        self.len = len;
    }
}

impl Expected {
    fn is_empty(&self) -> bool {
        self.topic.is_empty() && self.keys.is_empty()
    }
}

fn is_lower(seqs: &BTreeMap<Seq, BTreeSet<LaneId>>, seq: Seq) -> bool {
    seqs.first_key_value().is_some_and(|(lowest, _)| *lowest < seq)
}

fn hash(key: &Key) -> u64 {
    xxh3_64_with_seed(&key.key, xxh3_64(&key.dimension))
}

/// Messages of a stream that are remembered so; with more of them the lane waits in place.
const EXPECTED_MAX: usize = 16_384;
