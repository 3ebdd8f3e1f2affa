//! What was decided about one node.

use super::packed::{self, Code};
use super::past::Past;
use super::{KeyHash, Routes};
use crate::model::UnitId;
use crate::routing::record::{Node, Rev, State, Target, Term};

/// What was decided about one node. Of keys at rest a copy does not keep the whole record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NodeView<'a> {
    /// A key with an owner at rest.
    Rest {
        /// The owner.
        unit: &'a UnitId,
        /// The revision that says so.
        rev: Rev,
        /// Since when it has it.
        since: Rev,
        /// The unit that a drain took it from.
        home: Option<&'a UnitId>,
        /// When something was decided about it last.
        decided: Rev,
    },
    /// A key about which a decision was taken back.
    Tombstone {
        /// The revision that did so.
        rev: Rev,
    },
    /// The whole record of anything else.
    Whole(&'a Node),
}

impl<'a> NodeView<'a> {
    pub(super) fn of(routes: &'a Routes, hash: KeyHash) -> Option<Self> {
        if let Some(node) = routes.details.get(hash) {
            return Some(Self::Whole(node));
        }
        let packed = *routes.overrides.get(hash)?;
        let rev = packed::rev(packed);
        match packed::code(packed) {
            Code::Unit(number) => {
                let Past { since, home, is_swept } = routes.past(hash, rev);
                Some(Self::Rest {
                    unit: routes.book.unit(number)?,
                    rev,
                    since,
                    home,
                    decided: if is_swept { since } else { rev },
                })
            }
            Code::Tombstone => Some(Self::Tombstone { rev }),
            Code::Details => None,
        }
    }

    /// The revision of its record, for compares.
    pub fn rev(&self) -> Rev {
        match self {
            Self::Rest { rev, .. } | Self::Tombstone { rev } => *rev,
            Self::Whole(node) => node.rev,
        }
    }

    /// The revision at which something was decided about it last: that of its record, unless this one only forgets who had it before.
    pub fn decided(&self) -> Rev {
        match self {
            Self::Rest { decided, .. } => *decided,
            Self::Tombstone { rev } => *rev,
            Self::Whole(node) => node.decided(),
        }
    }

    /// The term for a record that leaves it with its owner.
    pub fn same_term(&self) -> Term {
        match self {
            Self::Rest { since, .. } => Term::since(*since),
            Self::Tombstone { rev } => Term::since(*rev),
            Self::Whole(node) => node.same_term(),
        }
    }

    /// The unit that a drain took it from.
    pub fn home(&self) -> Option<&'a UnitId> {
        match self {
            Self::Rest { home, .. } => *home,
            Self::Tombstone { .. } => None,
            Self::Whole(node) => node.home.as_ref(),
        }
    }

    /// The unit that has it by this record alone; `None` of what follows something else, and of tombstones.
    pub fn unit(&self) -> Option<&'a UnitId> {
        match self {
            Self::Rest { unit, .. } => Some(unit),
            Self::Tombstone { .. } => None,
            Self::Whole(node) => match &node.target {
                Target::Unit(unit) if node.state != State::Tombstone => Some(unit),
                _ => None,
            },
        }
    }

    /// Whether it is being moved.
    pub fn state(&self) -> &'a State {
        match self {
            Self::Rest { .. } => &State::Active,
            Self::Tombstone { .. } => &State::Tombstone,
            Self::Whole(node) => &node.state,
        }
    }

    /// The owner before, if its application may be asked now to forget the node: [`Node::cleaned_up`].
    pub fn cleaned_up(&self) -> Option<&'a UnitId> {
        match self {
            Self::Whole(node) => node.cleaned_up(),
            Self::Rest { .. } | Self::Tombstone { .. } => None,
        }
    }

    /// The owner before, while late messages may still come to it.
    pub fn previous(&self) -> Option<&'a UnitId> {
        match self {
            Self::Whole(node) => node.previous.as_ref(),
            Self::Rest { .. } | Self::Tombstone { .. } => None,
        }
    }
}
