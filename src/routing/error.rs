//! What can be wrong with a rule, and with a call that is to be routed.

use super::record::Epoch;
use crate::model::{Name, Reason, RelayError, Retry, UnitId};

/// One mistake in the rules; all of them are reported together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {problem}", path = self.path())]
pub struct RuleError {
    /// Position in `routing.rules`, from 0; `None` if the mistake is in `routing.dimensions`.
    pub rule: Option<usize>,
    /// Key of the rule that is wrong, such as `range`.
    pub key: &'static str,
    /// The mistake.
    pub problem: RuleProblem,
}

impl RuleError {
    /// Path of the wrong value in the settings, such as `routing.rules[2].range`.
    pub fn path(&self) -> String {
        match self.rule {
            Some(rule) => format!("routing.rules[{rule}].{}", self.key),
            None => format!("routing.{}", self.key),
        }
    }
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleProblem {
    /// Another rule of the same kind has this already.
    #[error("{what} is already given to a unit by routing.rules[{other}]; remove one of the two")]
    Duplicate {
        /// What both name.
        what: String,
        /// The other rule.
        other: usize,
    },
    /// A dimension is listed twice.
    #[error("dimension {0:?} is listed twice")]
    DuplicateDimension(Name),
    /// An empty key or prefix.
    #[error("an empty text is not a key; for all other keys use default = true")]
    EmptyKey,
    /// None or several of the ways to name keys.
    #[error("exactly one of keys, prefix, range, hash and default = true must say which keys are meant; found {found}")]
    Kinds {
        /// The ones that are set.
        found: String,
    },
    /// Ranges or shares of two rules meet.
    #[error("overlaps with {what} of routing.rules[{other}]")]
    Overlap {
        /// The other range or share.
        what: String,
        /// The other rule.
        other: usize,
    },
    /// A range that is not two whole numbers in order.
    #[error("expected two whole decimal numbers in order, such as [\"1000\", \"1999\"]")]
    Range,
    /// A share that is not two percentages in order.
    #[error("expected two percentages from 0 to 100 in order, such as [0, 50], at least one bucket (100/4096 %) apart")]
    Share,
    /// A dimension that is not listed in `routing.dimensions`.
    #[error("dimension {0:?} is not in routing.dimensions; add it there, where its position is its precedence")]
    UnknownDimension(Name),
    /// A unit that is neither this relay's nor in `[units]`.
    #[error("unit {0:?} is neither in [units] nor this relay's own")]
    UnknownUnit(UnitId),
}

/// Why a call has no unit.
///
/// Texts name dimensions and units, never keys.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Neither key nor unit, and the service wants one.
    #[error("the call names no key and the service demands one; send `strait-key: <dimension>=<key>`")]
    MissingKey,
    /// Keys were sent, but none that routes calls of this method.
    #[error(
        "no key of the call routes calls of this method (calls.route); send `strait-key: <dimension>=<key>` of {}",
        list(wanted)
    )]
    OtherDimension {
        /// The dimensions that do.
        wanted: Vec<Name>,
    },
    /// A read of a key that nobody has claimed.
    #[error("no unit has claimed this key of dimension {dimension}, so there is nothing to read")]
    Free {
        /// The dimension.
        dimension: Name,
    },
    /// No rule of the dimension matches.
    #[error("no rule of dimension {dimension} matches the key; add one, or one with default = true")]
    NoRule {
        /// The dimension that decided.
        dimension: Name,
    },
    /// The key is longer than its dimension allows.
    #[error("the key is longer than the {bytes_max} bytes that dimension {dimension} allows (key_bytes_max)")]
    KeyTooLong {
        /// The dimension.
        dimension: Name,
        /// Its limit.
        bytes_max: u16,
    },
    /// Nobody is known to have claimed the key.
    #[error("no unit has claimed this key of dimension {dimension} yet")]
    Unclaimed {
        /// The dimension.
        dimension: Name,
        /// Whether the store was asked a moment ago.
        looked_up: bool,
    },
    /// Nobody is known to have claimed the key, the store is away, and there is no room for one more choice without it.
    #[error(
        "no unit is known to have this key of dimension {dimension}, the route store is away, and this relay keeps as many \
         choices without it as it may (routes.provisional_max); see strait route provisional"
    )]
    ProvisionalFull {
        /// The dimension.
        dimension: Name,
    },
    /// What is known of the key speaks of a revision that this relay has not heard of yet.
    #[error("this relay has not heard yet of revision {needs}, of which the call's token or the key's claim speaks")]
    Behind {
        /// The revision.
        needs: Epoch,
    },
    /// There is a route store, and nothing of it is here yet.
    #[error("nothing of the route store is here yet; a running relay that hears it says more: strait route get")]
    NoCopy,
    /// A key belongs to a group that belongs to it.
    #[error("the key of dimension {dimension} leads to a group that leads back to it; give one of them a unit")]
    Circle {
        /// The dimension.
        dimension: Name,
    },
    /// The key goes where another key of the call goes, and there is none.
    #[error("the key goes where the call's key of dimension {dimension} goes; send that too")]
    NoParent {
        /// The other dimension.
        dimension: Name,
    },
    /// Keys lead to keys for too long.
    #[error(
        "the key of dimension {dimension} leads to a group that leads to a group, and so on; three steps are allowed"
    )]
    TooDeep {
        /// The dimension.
        dimension: Name,
    },
    /// The unit was evacuated, and no unit that took over is left.
    #[error("unit {unit} was evacuated and no unit that took over its keys is left")]
    NobodyTookOver {
        /// The unit, which owned the key.
        unit: UnitId,
        /// The newest of all records that say so: whoever takes over does so later.
        epoch: Epoch,
    },
    /// Keys were sent, but none of a known dimension.
    #[error("no key of the call is of a dimension in routing.dimensions; found {found:?}")]
    UnknownDimension {
        /// The first dimension the call named.
        found: String,
    },
    /// The call, or the policy for calls without key, names a unit that is not configured.
    #[error("unit {unit} is not configured at this relay")]
    UnknownUnit {
        /// The unit.
        unit: UnitId,
    },
}

impl RouteError {
    /// What it is to a call that only reads: nobody has the key, so there is nothing to wait for.
    #[must_use]
    pub fn of_call(self, reads: bool) -> Self {
        match self {
            Self::Unclaimed {
                dimension,
                looked_up: true,
            } if reads => Self::Free { dimension },
            other => other,
        }
    }
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(" or ")
}

impl From<RouteError> for RelayError {
    fn from(error: RouteError) -> Self {
        let (reason, retry) = match error {
            RouteError::UnknownUnit { .. } => (Reason::UnknownUnit, Retry::Never),
            RouteError::KeyTooLong { .. } | RouteError::NoParent { .. } => (Reason::BadInput, Retry::Never),
            RouteError::Unclaimed { .. }
            | RouteError::ProvisionalFull { .. }
            | RouteError::Behind { .. }
            | RouteError::NoCopy => (Reason::RoutesAway, Retry::Safe),
            // The key has an owner, and that is away.
            RouteError::NobodyTookOver { .. } => (Reason::UnitAway, Retry::Never),
            // The same table gives the same answer.
            _ => (Reason::NoRoute, Retry::Never),
        };
        Self::new(reason, retry, error.to_string())
    }
}
