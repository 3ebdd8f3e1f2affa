//! Whether a unit counts as away to which this relay has no link: most units have to say so. So a path that is broken between two
//! units lets neither of them execute what is the other's, while the rest of the world still reaches it.
//!
//! # Invariants
//! - K1. What an operator or the route store says of a unit needs no quorum.
//!
//! # Not here
//! Who says what, and how many are enough (`peer::observers`).

use super::fence::is_given_up;
use crate::model::{AwayBy, UnitId, WhileAway};
use crate::outbound::rpc::Rpc;
use crate::peer::Others;

impl Rpc {
    /// What other units say of one of which this relay says that it is away, if they outvote it: none of its calls is kept.
    pub(super) fn outvoted(&self, unit: &UnitId, away: WhileAway) -> Option<Others> {
        let calls = self.kept.as_ref()?;
        let needs_quorum = away.away_by == AwayBy::Quorum
            && !calls.parts.away.contains(unit)
            && !is_given_up(&self.parts.routing.table(), unit);
        let others = needs_quorum.then(|| calls.parts.observers.others(unit))?;
        (!others.agree()).then_some(others)
    }
}

/// Why no call of the unit is kept then.
pub(super) fn why(others: Others) -> String {
    let (observers, away) = (others.reach + others.away + 1, others.away + 1);
    format!("{away} of {observers} units say that it is away, this one among them, and it takes more than half")
}
