//! Numbers as runs of first and last.

use std::collections::BTreeMap;

use crate::model::Seq;

/// A set of numbers that come mostly one behind the other. Nothing is put in twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// Last by first.
    runs: BTreeMap<Seq, Seq>,
    numbers: u64,
}

impl Runs {
    /// Adds the numbers from `from` to `to`, both included.
    pub(super) fn insert(&mut self, mut from: Seq, mut to: Seq) {
        self.numbers += to - from + 1;
        if let Some((first, last)) = self.runs.range(..from).next_back().map(|(first, last)| (*first, *last))
            && last + 1 == from
        {
            self.runs.remove(&first);
            from = first;
        }
        if let Some(last) = self.runs.remove(&(to + 1)) {
            to = last;
        }
        self.runs.insert(from, to);
    }

    /// Whether a number is in it.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.runs
            .range(..=seq)
            .next_back()
            .is_some_and(|(_, last)| seq <= *last)
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> u64 {
        self.numbers
    }

    /// Takes all.
    pub(super) fn take(&mut self) -> Vec<(Seq, Seq)> {
        self.numbers = 0;
        std::mem::take(&mut self.runs).into_iter().collect()
    }
}
