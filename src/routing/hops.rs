//! Loop check of a forwarded call (C-R2).

use crate::model::{Reason, RelayError, Retry, UnitId};

/// Why a call may not go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The call came back.
    #[error("the call has passed unit {unit} before; the route tables of the units on its path disagree")]
    CameBack {
        /// The unit it came back to.
        unit: UnitId,
    },
    /// The call passed as many units as are allowed.
    #[error("the call has passed {hops} units, routing.hops_max allows {hops_max}")]
    TooManyHops {
        /// Units it has passed.
        hops: usize,
        /// The limit.
        hops_max: usize,
    },
}

impl From<LoopError> for RelayError {
    fn from(error: LoopError) -> Self {
        Self::new(Reason::Loop, Retry::Never, error.to_string())
    }
}

/// Checks that a call which passed `visited` may enter `local`.
///
/// # Errors
/// [`LoopError`] if `local` is in `visited`, or `visited` has `hops_max` units or more.
pub fn check_hops(visited: &[UnitId], local: &UnitId, hops_max: usize) -> Result<(), LoopError> {
    if visited.contains(local) {
        return Err(LoopError::CameBack { unit: local.clone() });
    }
    if visited.len() >= hops_max {
        return Err(LoopError::TooManyHops {
            hops: visited.len(),
            hops_max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn check(visited: &[&str], hops_max: usize, ok: bool) {
        let visited: Vec<_> = visited.iter().map(|unit| Name::new(unit).unwrap()).collect();
        let result = check_hops(&visited, &Name::new("b").unwrap(), hops_max);
        assert_eq!(result.is_ok(), ok, "{visited:?}: {result:?}");
    }

    #[test]
    fn a_call_that_comes_back_or_goes_too_far_is_refused() {
        // C-R2
        check(&[], 4, true);
        check(&["a"], 4, true);
        check(&["a", "b"], 4, false);
        check(&["b"], 4, false);
        check(&["a", "c", "d"], 4, true);
        check(&["a", "c", "d", "e"], 4, false);
        check(&["a"], 1, false);
    }
}
