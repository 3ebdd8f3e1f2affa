//! Least pace of bodies (T13). Pure: time and counts are arguments.
//!
//! # Invariants
//! - P1. Only while something is under way: the owner starts afresh when nothing waits, or when it is not the
//!   other side that holds things up. A stream that is silent between messages is never slow.
//! - P2. Whoever moves at the least pace or faster is never slow, in whatever lumps it goes: bytes that the
//!   other side has and has not answered for yet are given the time they need at that pace.

use std::time::{Duration, Instant};

/// How slow the other side may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeastPace {
    /// Zero: any byte will do.
    pub bytes_per_second: u64,
    /// What is looked at together.
    pub time: Duration,
}

impl LeastPace {
    /// For sides that are bounded by other means.
    pub const NONE: Self = Self {
        bytes_per_second: 0,
        time: Duration::ZERO,
    };

    /// Whether there is any.
    pub fn is_some(&self) -> bool {
        !self.time.is_zero()
    }

    /// How soon to look again.
    pub fn look_again(&self) -> Duration {
        (self.time / 4).max(Duration::from_millis(1))
    }

    /// What has to move in [`LeastPace::time`].
    fn bytes(&self) -> u64 {
        let bytes = u128::from(self.bytes_per_second) * self.time.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }

    /// How long the other side may take over so many bytes.
    fn time_for(&self, bytes: u64) -> Duration {
        let seconds = bytes.checked_div(self.bytes_per_second).unwrap_or(0);
        self.time.saturating_add(Duration::from_secs(seconds))
    }
}

/// What moved since something is under way.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    since: Instant,
    total: u64,
}

impl Progress {
    /// Begins at `now`; `total` has moved before.
    pub fn new(now: Instant, total: u64) -> Self {
        Self { since: now, total }
    }

    /// When it can be too slow at the earliest.
    pub fn due(&self, least: &LeastPace) -> Instant {
        self.since + least.time
    }

    /// Whether the other side is too slow: `total` has moved by now, and of `ahead` bytes that it has it has not
    /// said yet whether it took them.
    pub fn is_slow(&mut self, now: Instant, total: u64, ahead: u64, least: &LeastPace) -> bool {
        if total.saturating_sub(self.total) >= least.bytes() {
            *self = Self::new(now, total);
            return false;
        }
        now.saturating_duration_since(self.since) >= least.time_for(ahead)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAST: LeastPace = LeastPace {
        bytes_per_second: 1024,
        time: Duration::from_secs(10),
    };

    proptest! {
        // P2: a reader at a pace above the least one that tells of what it read in lumps of any size.
        #[test]
        fn nobody_who_keeps_the_pace_is_slow(pace in 1100_u64..1_000_000, lump in 1_u64..4_000_000, look in 1_u64..5000) {
            let start = tokio::time::Instant::now().into_std();
            let mut progress = Progress::new(start, 0);
            for step in 1..2000 {
                let at = step * look;
                let read = pace * at / 1000;
                // All the room there is was filled at once: a lump more than what was told.
                let told = read / lump * lump;
                let sent = told + lump;
                let now = start + Duration::from_millis(at);
                prop_assert!(!progress.is_slow(now, sent, lump, &LEAST), "after {at} ms");
            }
        }

        // The other way round: below half the pace everyone is found, after the time his bytes allow.
        #[test]
        fn nobody_at_half_the_pace_gets_away(pace in 0_u64..500, lump in 1_u64..64_000) {
            let start = tokio::time::Instant::now().into_std();
            let mut progress = Progress::new(start, 0);
            let mut found = false;
            for step in 1..200 {
                let at = step * 2500;
                let sent = pace * at / 1000 / lump * lump + lump;
                found |= progress.is_slow(start + Duration::from_millis(at), sent, lump, &LEAST);
            }
            prop_assert!(found);
        }
    }

    #[test]
    fn without_a_pace_any_byte_counts_and_nothing_is_slow_before_its_time() {
        let start = tokio::time::Instant::now().into_std();
        let least = LeastPace {
            bytes_per_second: 0,
            ..LEAST
        };
        let mut progress = Progress::new(start, 5);
        assert_eq!(progress.due(&least), start + LEAST.time);
        assert!(!progress.is_slow(start + Duration::from_secs(9), 6, 1 << 30, &least));
        assert!(!progress.is_slow(start + Duration::from_secs(18), 6, 1 << 30, &least));
        assert!(progress.is_slow(start + Duration::from_secs(19), 6, 1 << 30, &least));
        assert!(!LeastPace::NONE.is_some());
    }
}
