//! Retry budget of one destination unit: how many retries at a time, and who waits for one (C-T3). Pure.
//!
//! # Invariants
//! - B1. A permit is given only while fewer than [`permits`] are out.
//! - B2. Whoever waits gets a permit before whoever comes later.
//! - B3. When [`Line::next`] was asked until it said no, nobody waits while a permit is free.

use std::collections::BTreeMap;

/// Retries that may be under way at a time while this many calls are: a fifth, but three at least.
pub(super) fn permits(active: usize) -> usize {
    (active / SHARE).max(PERMITS_MIN)
}

/// The permits that are out, and those who wait for one in the order in which they came.
#[derive(Debug)]
pub(super) struct Line<W> {
    out: usize,
    waiting: BTreeMap<u64, W>,
    last: u64,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            out: 0,
            waiting: BTreeMap::new(),
            last: 0,
        }
    }
}

impl<W> Line<W> {
    /// Takes a permit, unless all are out or somebody waits (B1, B2).
    pub(super) fn take(&mut self, permits: usize) -> bool {
        let free = self.waiting.is_empty() && self.out < permits;
        self.out += usize::from(free);
        free
    }

    /// Gets in line; the number is for [`Line::leave`].
    pub(super) fn wait(&mut self, who: W) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, who);
        self.last
    }

    /// Gets out of line. Without effect once a permit was given.
    pub(super) fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// A permit came back.
    pub(super) fn give_back(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// Takes a permit for the first in line, if one is free.
    pub(super) fn next(&mut self, permits: usize) -> Option<(u64, W)> {
        if self.out >= permits {
            return None;
        }
        let next = self.waiting.pop_first()?;
        self.out += 1;
        Some(next)
    }
}

/// One retry for so many calls: 20 %.
const SHARE: usize = 5;
/// Retries at a time when there are few calls.
const PERMITS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    // C-T3
    #[test]
    fn a_fifth_of_the_active_calls_and_three_at_least() {
        for (active, expected) in [(0, 3), (15, 3), (19, 3), (20, 4), (64, 12), (1000, 200)] {
            assert_eq!(permits(active), expected, "{active}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take,
        Wait,
        Leave(usize),
        Back,
        Active(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Take),
            Just(Step::Wait),
            (0_usize..8).prop_map(Step::Leave),
            Just(Step::Back),
            (0_usize..200).prop_map(Step::Active),
        ]
    }

    proptest! {
        // C-T3, B1 to B3: whatever happens in whatever order.
        #[test]
        fn permits_stay_within_the_budget_and_go_to_whoever_came_first(steps in prop::collection::vec(step(), 0..400)) {
            let mut line = Line::default();
            let (mut active, mut out, mut comers) = (0, 0_usize, 0_u32);
            let mut waiting: VecDeque<(u64, u32)> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Active(now) => {
                        // The number of calls moves without anybody looking at the line.
                        active = now;
                        continue;
                    }
                    Step::Take => {
                        let free = out < permits(active) && waiting.is_empty();
                        prop_assert_eq!(line.take(permits(active)), free);
                        out += usize::from(free);
                    }
                    Step::Wait => {
                        comers += 1;
                        waiting.push_back((line.wait(comers), comers));
                    }
                    Step::Leave(at) => {
                        if let Some((number, _)) = waiting.remove(at) {
                            line.leave(number);
                            line.leave(number);
                        }
                    }
                    Step::Back if out > 0 => {
                        line.give_back();
                        out -= 1;
                    }
                    Step::Back => {}
                }
                while let Some(next) = line.next(permits(active)) {
                    prop_assert!(out < permits(active), "B1");
                    prop_assert_eq!(Some(next), waiting.pop_front(), "B2");
                    out += 1;
                }
                prop_assert!(waiting.is_empty() || out >= permits(active), "B3");
            }
        }
    }
}
