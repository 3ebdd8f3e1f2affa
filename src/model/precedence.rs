//! Which of a call's keys route it, whether it only reads, and what becomes of it while its unit is away.

use std::borrow::Cow;

use super::{AwayBy, MissingKey, Name, OnFailure, ParkedAs, WhileAway};

/// How calls of a method are routed, as the settings say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoutePolicy {
    /// Where those without a key go.
    pub missing_key: MissingKey,
    /// Dimensions whose keys route them, in order of precedence; keys of others route nothing. Empty: all, in the order of the
    /// route table.
    pub dimensions: Vec<Name>,
    /// They only read: they claim no key, and go on at its owner while it moves.
    pub reads: bool,
    /// What becomes of them while the unit of their key is away.
    pub away: WhileAway,
    /// Topic of this unit where it is told if the owner refuses a call that was kept.
    pub rejected_to: Option<Name>,
    /// Topic of this unit where it is told of calls that are kept.
    pub kept_to: Option<Name>,
}

/// By any key; without one not at all.
pub static ANY_KEY: RoutePolicy = RoutePolicy {
    missing_key: MissingKey::Reject,
    dimensions: Vec::new(),
    reads: false,
    away: WhileAway {
        on_failure: OnFailure::Fail,
        parked_as: ParkedAs::Unavailable,
        away_by: AwayBy::Quorum,
    },
    rejected_to: None,
    kept_to: None,
};

impl RoutePolicy {
    /// What other relays are told of a call that a key of this dimension has routed, or none.
    pub fn routed_by(&self, dimension: Option<&Name>) -> RoutedBy {
        if self.dimensions.is_empty() {
            return RoutedBy::Order;
        }
        dimension.map_or(RoutedBy::NoKey, |name| RoutedBy::Dimension(name.clone()))
    }

    /// The same for a call of which another relay said by which key it has routed it.
    pub fn with(&self, routed_by: &RoutedBy) -> Cow<'_, Self> {
        let dimensions = match routed_by {
            RoutedBy::Dimension(name) => std::slice::from_ref(name),
            RoutedBy::Order | RoutedBy::NoKey => &[],
        };
        if self.dimensions == dimensions {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            dimensions: dimensions.to_vec(),
            ..self.clone()
        })
    }
}

/// By which of a call's keys its first relay has routed it: settings of a method are that relay's, and all others go by them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RoutedBy {
    /// The first one in the order of the route table.
    #[default]
    Order,
    /// The one of this dimension.
    Dimension(Name),
    /// By none, whichever it has.
    NoKey,
}
