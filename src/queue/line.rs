//! Lines: numbered sequences of messages in the log, and which of their numbers are done with.
//!
//! A line is what goes to one unit, what came in for one topic, or the dead letters. A record names the lines it is
//! in and its number in each of them.
//!
//! # Invariants
//! - N1. Numbers of a line begin with 1 and have no holes: what is missing on disk is a gap that somebody must account for (M-G2).

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::model::{Name, RelayName, Seq, Topic, UnitId};

/// A line, as records name it: a hash of its name, so that no table of names must survive with them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct LineId(pub u64);

impl LineId {
    /// What goes to a unit.
    pub fn outbox(unit: &UnitId) -> Self {
        Self::named("out", unit)
    }

    /// What came in for a topic.
    pub fn inbox(topic: &Topic) -> Self {
        Self::named("in", topic)
    }

    /// What was copied for a topic because it crossed a Geo's border.
    pub fn mirror(topic: &Topic) -> Self {
        Self::named("mirror", topic)
    }

    /// The dead letters.
    pub fn dead_letters() -> Self {
        Self(hash_joined(&[b"dead"]))
    }

    /// What publishers sent, as it is remembered.
    pub fn remembered() -> Self {
        Self(hash_joined(&[b"remembered"]))
    }

    fn named(kind: &str, name: &Name) -> Self {
        Self(hash_joined(&[kind.as_bytes(), &[0], name.as_str().as_bytes()]))
    }
}

/// The hash of parts one behind the other. Each message has several, of names and keys: joined first, as they are short, they cost a
/// fraction of what they cost when the hash is fed part by part.
pub fn hash_joined(parts: &[&[u8]]) -> u64 {
    let mut joined = [0; JOINED_MAX];
    let mut len = 0;
    for part in parts {
        let Some(place) = joined.get_mut(len..len + part.len()) else {
            return hash_one_by_one(parts);
        };
        place.copy_from_slice(part);
        len += part.len();
    }
    xxh3_64(joined.get(..len).unwrap_or_default())
}

fn hash_one_by_one(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(part);
    }
    hash.digest()
}

/// One direction between two relays as the receiver numbers it: who sends, and in which life of its log (M-A1).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId {
    /// Unit of the sender, from its certificate.
    pub unit: UnitId,
    /// The sender.
    pub relay: RelayName,
    /// Life of the sender's log.
    pub epoch: u64,
}

/// Which numbers of a line are done: all up to a frontier, and some above it. Exact, without a window (M-B2); a run
/// of numbers costs a few bytes for each 65,536 of them, scattered ones two bytes each. Nothing here goes number by number
/// through a run.
///
/// Invariant: `frontier + 1` is not in `above`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    frontier: Seq,
    above: RoaringTreemap,
}

impl Settled {
    /// All numbers up to `frontier` are done.
    pub fn up_to(frontier: Seq) -> Self {
        Self {
            frontier,
            above: RoaringTreemap::new(),
        }
    }

    /// The highest number below which, itself included, all are done.
    pub fn frontier(&self) -> Seq {
        self.frontier
    }

    /// The highest number that is done.
    pub fn highest(&self) -> Seq {
        self.above.max().unwrap_or(self.frontier)
    }

    /// Whether a number is done.
    pub fn contains(&self, seq: Seq) -> bool {
        seq <= self.frontier || self.above.contains(seq)
    }

    /// Marks a number; `false` if it was done already.
    pub fn insert(&mut self, seq: Seq) -> bool {
        if self.contains(seq) {
            return false;
        }
        if seq == self.frontier + 1 {
            self.frontier = seq;
            self.join();
        } else {
            self.above.insert(seq);
        }
        true
    }

    /// Marks all numbers from `from` to `to`, both included. Returns how many were not done before.
    pub fn insert_range(&mut self, from: Seq, to: Seq) -> u64 {
        let from = from.max(self.frontier + 1);
        if from > to {
            return 0;
        }
        let new = (to - from + 1) - self.done_between(from, to);
        if from == self.frontier + 1 {
            self.frontier = to;
            self.above.remove_range(..=to);
            self.join();
        } else {
            self.above.insert_range(from..=to);
        }
        new
    }

    /// How many numbers from `from` to `to`, both included, are done.
    pub fn done_between(&self, from: Seq, to: Seq) -> u64 {
        if from > to {
            return 0;
        }
        let below = self.frontier.min(to).saturating_sub(from.saturating_sub(1));
        let start = from.max(self.frontier + 1);
        if start > to {
            return below;
        }
        below + self.above.range_cardinality(start..=to)
    }

    /// The lowest number from `seq` on that is not done.
    pub fn next_open(&self, seq: Seq) -> Seq {
        let seq = seq.max(self.frontier + 1);
        if self.above.contains(seq) {
            end_of_run(&self.above, seq).saturating_add(1)
        } else {
            seq
        }
    }

    /// The numbers that are done above the frontier, as runs of first and last, `max` of them.
    pub fn runs_above(&self, max: usize) -> Vec<(Seq, Seq)> {
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        let mut done = self.above.iter();
        while runs.len() < max
            && let Some(first) = done.next()
        {
            let last = end_of_run(&self.above, first);
            runs.push((first, last));
            done.advance_to(last.saturating_add(1));
        }
        runs
    }

    /// What is done both here and there.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let (less, more) = if self.frontier <= other.frontier {
            (self, other)
        } else {
            (other, self)
        };
        let mut below = less.above.clone();
        below.remove_range(more.frontier + 1..);
        let mut both = Self {
            frontier: less.frontier,
            above: (&less.above & &more.above) | below,
        };
        both.join();
        both
    }

    /// Takes the numbers that are done out of others.
    pub fn strike_from(&self, numbers: &mut RoaringTreemap) {
        numbers.remove_range(..=self.frontier);
        *numbers -= &self.above;
    }

    /// Bytes for a snapshot; [`from_bytes`](Self::from_bytes) reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.frontier.to_be_bytes().to_vec();
        // Writing to a vector cannot fail.
        let _ = self.above.serialize_into(&mut bytes);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` if it is broken.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (frontier, above) = bytes.split_first_chunk::<8>()?;
        let mut settled = Self {
            frontier: u64::from_be_bytes(*frontier),
            above: RoaringTreemap::deserialize_from(above).ok()?,
        };
        settled.above.remove_range(..=settled.frontier);
        settled.join();
        Some(settled)
    }

    fn join(&mut self) {
        let next = self.next_open(self.frontier + 1);
        if next > self.frontier + 1 {
            self.frontier = next - 1;
            self.above.remove_range(..=self.frontier);
        }
    }
}

/// The last number of the run that a number of the set is in.
pub fn end_of_run(numbers: &RoaringTreemap, first: Seq) -> Seq {
    let (mut last, mut step) = (first, 1);
    while step < Seq::MAX / 2 && numbers.contains_range(last..=last.saturating_add(step)) {
        last = last.saturating_add(step);
        step *= 2;
    }
    while step > 1 {
        step /= 2;
        if numbers.contains_range(last..=last.saturating_add(step)) {
            last = last.saturating_add(step);
        }
    }
    last
}

/// Longer parts than a name and a key mostly are.
const JOINED_MAX: usize = 192;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lower_number_that_did_not_come_is_no_duplicate() {
        // M-B2: 3, 4, 5 are sent, 3 fails, 3 comes again.
        let mut seen = Settled::up_to(2);
        assert!(seen.insert(4) && seen.insert(5));
        assert!(!seen.contains(3));
        assert!(seen.insert(3));
        assert_eq!((seen.frontier(), seen.highest()), (5, 5));
        assert!(!seen.insert(4));
    }

    #[test]
    fn lines_and_keys_keep_their_hashes() {
        // They are in files: N1.
        let bytes: Vec<u8> = (0..=255).collect();
        for first in 0..bytes.len() {
            for second in [0, 1, 7, 100, 255] {
                let parts = [&bytes[..first], &[0], &bytes[..second]];
                assert_eq!(hash_joined(&parts), hash_one_by_one(&parts));
            }
        }
        let unit = Name::new("unit-b").unwrap();
        assert_eq!(LineId::outbox(&unit).0, xxh3_64(b"out\0unit-b"));
        assert_eq!(LineId::dead_letters().0, xxh3_64(b"dead"));
    }

    #[test]
    fn a_hole_below_a_long_run_is_closed_at_once() {
        // M-B2, M-G7: number by number this takes minutes.
        let mut seen = Settled::default();
        seen.insert_range(2, 1 << 32);
        assert_eq!(seen.runs_above(3), [(2, 1 << 32)]);
        assert_eq!(seen.next_open(1 << 20), (1 << 32) + 1);
        assert!(seen.insert(1));
        assert_eq!(seen, Settled::up_to(1 << 32));
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(steps in proptest::collection::vec((1_u64..60, 0_u64..6), 0..80), half_from in 0_u64..60) {
            let (mut settled, mut model) = (Settled::default(), BTreeSet::new());
            for (from, more) in steps {
                if more == 0 {
                    prop_assert_eq!(settled.insert(from), model.insert(from));
                } else {
                    let new = (from..=from + more).filter(|seq| model.insert(*seq)).count();
                    prop_assert_eq!(settled.insert_range(from, from + more), u64::try_from(new).unwrap());
                }
                let frontier = (1..200).find(|seq| !model.contains(seq)).unwrap() - 1;
                prop_assert_eq!(settled.frontier(), frontier);
                for seq in 1..70 {
                    prop_assert_eq!(settled.contains(seq), model.contains(&seq));
                    let open = (seq..200).find(|seq| !model.contains(seq)).unwrap();
                    prop_assert_eq!(settled.next_open(seq), open);
                    prop_assert_eq!(settled.done_between(seq, seq + 9), u64::try_from(model.range(seq..=seq + 9).count()).unwrap());
                }
                prop_assert_eq!(Settled::from_bytes(&settled.to_bytes()).unwrap(), settled.clone());
                let mut half = Settled::default();
                let even: Vec<Seq> = model.iter().copied().filter(|seq| seq % 4 != 0 || *seq < half_from).collect();
                for seq in &even {
                    half.insert(*seq);
                }
                prop_assert_eq!(&settled.common(&half), &half);
                prop_assert_eq!(&half.common(&settled), &half);
                let above: Vec<Seq> = settled.runs_above(99).into_iter().flat_map(|(from, to)| from..=to).collect();
                prop_assert!(above.iter().eq(model.iter().filter(|seq| **seq > frontier)));
                let mut others: RoaringTreemap = (1..70).collect();
                settled.strike_from(&mut others);
                prop_assert!(others.iter().eq((1..70).filter(|seq| !model.contains(seq))));
            }
        }
    }
}
