//! Tells clients that flood with resets from clients that give up calls (T14). Pure: time is an argument.
//!
//! Rapid Reset works because a stream that is reset no longer counts against the limit of open streams: the
//! client opens and resets as fast as it can write, and each stream costs the work of a call. So a reset is
//! held against the client only if it comes so early that this side could hardly have answered. Whoever waits
//! longer is bounded by the limit of open streams, as any other client is: a gateway whose calls all reach
//! their deadline at once resets thousands, and has done nothing wrong.
//!
//! # Invariants
//! - R1. A client whose streams all live [`Resets::new`]'s `within` or longer is never flooding, however many
//!   it resets.
//! - R2. Of streams that it resets sooner, it has at most the burst, what was added per second, and as many as
//!   it let this side answer: a client that sends calls twice and resets the slower ones stays.

use std::time::{Duration, Instant};

use super::limits::ResetLimits;

/// Early resets that a client has left.
#[derive(Debug)]
pub(super) struct Resets {
    limits: ResetLimits,
    left: u64,
    filled: Option<Instant>,
    is_flooding: bool,
}

impl Resets {
    pub(super) fn new(limits: ResetLimits) -> Self {
        Self {
            limits,
            left: limits.burst,
            filled: None,
            is_flooding: false,
        }
    }

    /// A stream that was opened at `opened` was broken off by the client, or because of it.
    pub(super) fn on_reset(&mut self, opened: Option<Instant>, now: Instant) {
        if opened.is_some_and(|opened| now.saturating_duration_since(opened) >= self.limits.within) {
            return;
        }
        self.fill(now);
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.is_flooding = true,
        }
    }

    /// A stream was answered to its end.
    pub(super) fn on_answered(&mut self) {
        self.left = self.limits.burst.min(self.left + 1);
    }

    pub(super) fn is_flooding(&self) -> bool {
        self.is_flooding
    }

    /// Adds what whole seconds have brought.
    fn fill(&mut self, now: Instant) {
        let filled = *self.filled.get_or_insert(now);
        let seconds = now.saturating_duration_since(filled).as_secs();
        if seconds > 0 {
            let more = seconds.saturating_mul(self.limits.per_second);
            self.left = self.limits.burst.min(self.left.saturating_add(more));
            self.filled = filled.checked_add(Duration::from_secs(seconds));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ResetLimits = ResetLimits {
        burst: 10,
        per_second: 2,
        within: Duration::from_millis(20),
    };

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    proptest! {
        // R1
        #[test]
        fn whoever_resets_late_is_never_flooding(resets in prop::collection::vec((20_u64..10_000, 0_u64..3), 1..2000)) {
            let start = tokio::time::Instant::now().into_std();
            let mut meter = Resets::new(LIMITS);
            let mut now = 10_000;
            for (age, pause) in resets {
                now += pause;
                meter.on_reset(Some(ms(start, now - age)), ms(start, now));
                prop_assert!(!meter.is_flooding());
            }
        }

        // R2: against a count kept apart.
        #[test]
        fn early_resets_are_bounded_by_burst_time_and_answers(
            steps in prop::collection::vec((prop::bool::weighted(0.7), 0_u64..200), 1..400),
        ) {
            let start = tokio::time::Instant::now().into_std();
            let mut meter = Resets::new(LIMITS);
            let (mut now, mut resets, mut answers) = (0, 0, 0);
            for (is_reset, pause) in steps {
                now += pause;
                if is_reset {
                    resets += 1;
                    meter.on_reset(Some(ms(start, now)), ms(start, now));
                } else {
                    answers += 1;
                    meter.on_answered();
                }
                if resets <= LIMITS.burst {
                    prop_assert!(!meter.is_flooding());
                }
                let most = LIMITS.burst + answers + now / 1000 * LIMITS.per_second;
                prop_assert!(meter.is_flooding() || resets <= most, "{} of {}", resets, most);
            }
        }
    }

    // R2
    #[test]
    fn a_client_that_hedges_every_call_stays() {
        let start = tokio::time::Instant::now().into_std();
        let mut meter = Resets::new(LIMITS);
        for call in 0..100_000 {
            meter.on_answered();
            meter.on_reset(Some(ms(start, call / 100)), ms(start, call / 100 + 1));
        }
        assert!(!meter.is_flooding());
    }
}
