//! How long to wait before the next attempt to connect. Pure.
//!
//! Full jitter: the wait is drawn between the floor and a bound that doubles with each failure, so that
//! relays that lost an endpoint at the same moment do not come back at the same moment (C-F9).

use std::time::Duration;

/// Shortest wait. Endpoints are local: a restart is a matter of milliseconds.
pub(super) const FLOOR: Duration = Duration::from_millis(25);
/// Bound that the doubling stops at.
pub(super) const CAP: Duration = Duration::from_secs(1);

/// The wait after `failures` failed attempts in a row; `dice` is drawn from `0.0..1.0`.
pub(super) fn wait(failures: u32, dice: f64) -> Duration {
    let bound = FLOOR.saturating_mul(1 << failures.min(16)).min(CAP);
    FLOOR + bound.saturating_sub(FLOOR).mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // C-F9
        #[test]
        fn a_wait_is_between_floor_and_cap(failures in any::<u32>(), dice in 0.0..1.0) {
            let wait = wait(failures, dice);
            prop_assert!((FLOOR..=CAP).contains(&wait), "{wait:?}");
        }

        // C-F9
        #[test]
        fn the_bound_grows_with_failures(failures in 0_u32..20) {
            prop_assert!(wait(failures, 1.0) <= wait(failures + 1, 1.0));
        }
    }

    // C-F9
    #[test]
    fn many_failures_spread_over_the_whole_second() {
        assert!(wait(10, 0.01) < Duration::from_millis(50));
        assert!(wait(10, 0.99) > Duration::from_millis(950));
    }
}
