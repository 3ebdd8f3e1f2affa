//! What is decided about one key, bucket, rule or unit.

use serde::{Deserialize, Serialize};

use super::{Epoch, KeyBytes, MoveId, NodeId, OpId, Rev, Term};
use crate::model::{Name, UnitId};

/// What is decided about one node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// What it is about.
    pub id: NodeId,
    /// Who owns it. Of a unit: itself.
    pub target: Target,
    /// Whether it is being moved.
    pub state: State,
    /// The revision that wrote it; filled in by the store.
    #[serde(default)]
    pub rev: Rev,
    /// Since when its owner has it.
    #[serde(default, skip_serializing_if = "Term::is_new")]
    pub term: Term,
    /// The owner before, while late messages may still come to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<UnitId>,
    /// The unit that a drain took it from, and that gets it back when it takes keys again: the first, if several were drained one
    /// after the other. Whatever else gives it to another unit forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<UnitId>,
    /// The operation that wrote it.
    pub op: OpId,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Who owns a node.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This unit.
    Unit(UnitId),
    /// Whoever owns the key of that dimension which the same call carries, such as the company of a conversation.
    Follow(Name),
    /// Whoever owns that key.
    Group {
        /// Its dimension.
        dimension: Name,
        /// The key.
        key: KeyBytes,
    },
}

/// Whether a node is being moved (R-D3).
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// At rest.
    #[default]
    Active,
    /// The source owns and serves it, the application copies.
    Migrating {
        /// The new owner, if all goes well.
        to: UnitId,
        /// The work this belongs to.
        by: MoveId,
    },
    /// Nobody admits writes. Only a newer record ends this (R-D4).
    Frozen {
        /// The new owner, if all goes well.
        to: UnitId,
        /// The work this belongs to.
        by: MoveId,
    },
    /// Of a unit: it serves its keys and gets no new ones.
    Draining,
    /// Of a unit: nobody admits writes of its keys until its relays are known to have stopped.
    Fencing {
        /// The work this belongs to.
        by: MoveId,
    },
    /// Of a unit: others have its keys, each as much as its weight says.
    Evacuated {
        /// Units and weights.
        takeover: Vec<(UnitId, u16)>,
    },
    /// Of a unit: nobody admits writes of its keys until those who have them are known to have stopped; then it has them again.
    Returning {
        /// Units and weights, as they were while it was evacuated.
        takeover: Vec<(UnitId, u16)>,
        /// The work this belongs to.
        by: MoveId,
    },
    /// As if it were not there, but its revision counts (K2).
    Tombstone,
}

impl State {
    /// The work that moves the node, if some does.
    pub fn work(&self) -> Option<MoveId> {
        match self {
            Self::Migrating { by, .. }
            | Self::Frozen { by, .. }
            | Self::Fencing { by }
            | Self::Returning { by, .. } => Some(*by),
            Self::Active | Self::Draining | Self::Evacuated { .. } | Self::Tombstone => None,
        }
    }

    /// Whether nobody admits writes.
    pub fn is_frozen(&self) -> bool {
        matches!(
            self,
            Self::Frozen { .. } | Self::Fencing { .. } | Self::Returning { .. }
        )
    }

    /// Of a unit: who has its keys in its place; `None` if it has them itself.
    pub fn takeover(&self) -> Option<&[(UnitId, u16)]> {
        match self {
            Self::Evacuated { takeover } | Self::Returning { takeover, .. } => Some(takeover),
            _ => None,
        }
    }
}

impl Target {
    /// The unit, if it is one.
    pub fn unit(&self) -> Option<&UnitId> {
        match self {
            Self::Unit(unit) => Some(unit),
            Self::Follow(_) | Self::Group { .. } => None,
        }
    }
}

impl Node {
    /// The revision that gave it to its owner; not later than that of the record.
    pub fn since(&self) -> Rev {
        self.term.since.unwrap_or(self.rev)
    }

    /// The revision at which something was decided about it last: that of the record, unless this one only forgets.
    pub fn decided(&self) -> Rev {
        if self.term.is_swept { self.since() } else { self.rev }
    }

    /// The term for a record that leaves it with its owner.
    #[must_use]
    pub fn same_term(&self) -> Term {
        Term {
            since: Some(self.since()),
            earlier: self.term.earlier.clone(),
            is_swept: false,
        }
    }

    /// The owner before, if its application may be asked now to forget the node (R-3.9 S8): nothing is to be copied there.
    pub fn cleaned_up(&self) -> Option<&UnitId> {
        self.previous.as_ref().filter(|_| self.term.is_swept)
    }

    /// Whether relays of this unit may have admitted writes before the node was frozen: those that a barrier waits for (R-3.9 S4).
    pub fn is_served_by(&self, unit: &UnitId) -> bool {
        match &self.state {
            State::Returning { takeover, .. } => takeover.iter().any(|(other, _)| other == unit),
            _ => self.target == Target::Unit(unit.clone()),
        }
    }
}

/// Who was first with a key. Written once, never changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Claim {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// The owner since birth.
    pub target: Target,
    /// What the claiming relay's copy was at.
    pub base: Epoch,
    /// The operation that won.
    pub op: OpId,
    /// The unit that asked.
    pub by: UnitId,
}
