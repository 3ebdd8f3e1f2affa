//! Retry budget: how many calls may be sent again (C-T3). Pure.

use std::cell::Cell;

/// Lets at most a fifth of the calls be sent again, and a few when there are few calls.
///
/// Each first attempt earns a fifth of a retry; what is earned is capped, so that a quiet hour does
/// not pay for a storm of retries.
#[derive(Debug)]
pub struct RetryBudget {
    /// Fifths of a retry.
    fifths: Cell<u32>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            fifths: Cell::new(RESERVE),
        }
    }
}

impl RetryBudget {
    /// A first attempt was sent.
    pub fn on_sent(&self) {
        self.fifths.set((self.fifths.get() + 1).min(CAP));
    }

    /// Whether one more retry may be sent; takes it.
    pub fn take(&self) -> bool {
        let Some(left) = self.fifths.get().checked_sub(PRICE) else {
            return false;
        };
        self.fifths.set(left);
        true
    }
}

/// Fifths of a retry that one retry costs: 20 %.
const PRICE: u32 = 5;
/// Retries that are there at first: what a relay loses at once when one link of a quiet pair breaks. C-T3 asks for three
/// at least.
const RESERVE: u32 = 32 * PRICE;
/// A hundred retries saved at most.
const CAP: u32 = 100 * PRICE;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // C-T3: retries never exceed a fifth of the calls plus the reserve.
        #[test]
        fn retries_stay_within_a_fifth_of_the_calls(steps in prop::collection::vec(any::<bool>(), 0..2000)) {
            let budget = RetryBudget::default();
            let (mut calls, mut retries) = (0_u32, 0_u32);
            for retry in steps {
                if retry {
                    retries += u32::from(budget.take());
                } else {
                    calls += 1;
                    budget.on_sent();
                }
                prop_assert!(retries * 5 <= calls + RESERVE);
            }
        }
    }
}
