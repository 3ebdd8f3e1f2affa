//! How long to wait before the next attempt to reach a relay. Pure.

use std::time::Duration;

/// Exponential backoff with full jitter.
///
/// The cap is short: a link must be back within 5 s of its path (C-L4), and an attempt takes time too.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; `dice` is in `0.0..1.0`.
    pub(super) fn after_failure(&mut self, dice: f64) -> Duration {
        let top = BASE.saturating_mul(1_u32 << self.failures.min(10)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        // Never zero: a peer that refuses at once must not be asked in a tight loop.
        (BASE / 2).max(top.mul_f64(dice.clamp(0.0, 1.0)))
    }

    /// A link was up; the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

const BASE: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // C-L4, C-F9: jittered, never zero, never beyond the cap.
        #[test]
        fn waits_grow_within_their_bounds(dice in prop::collection::vec(0.0_f64..1.0, 1..30)) {
            let mut backoff = Backoff::default();
            for (attempt, dice) in dice.into_iter().enumerate() {
                let wait = backoff.after_failure(dice);
                prop_assert!(wait >= BASE / 2);
                prop_assert!(wait <= CAP.min(BASE * (1 << attempt.min(10))).max(BASE / 2));
            }
        }
    }
}
