//! What is to become of messages of peers, as the engine says.

use std::time::Duration;

use crate::model::{Geo, Message, Seq, UnitId};
use crate::queue::effects::Now;
use crate::queue::lanes::{FROZEN, MOVED};

/// Decides about messages of peers.
pub trait Judge {
    /// What is to become of a message of a unit. Numbers it gives are used.
    fn judge(&mut self, now: Now, from: &UnitId, geo: &Geo, message: &Message) -> Verdict;

    /// What the owner of its key makes of a message, if that is not to take it: `Frozen`, `Moved`, or `Later`.
    fn elsewhere(&self, _message: &Message) -> Option<Verdict> {
        None
    }
}

/// What is to become of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It cannot be taken now: the same message again after a while.
    Busy {
        /// How long, about.
        pushback: Duration,
    },
    /// Its topic is full: it is to be sent again.
    Later {
        /// For a person.
        detail: String,
        /// The order of the topic's keys counts.
        ordered: bool,
    },
    /// Its key is about to move, or it is not known here yet that the key is this unit's: it is to be sent again.
    Frozen {
        /// For a person.
        detail: String,
        /// The order of its key counts.
        ordered: bool,
    },
    /// Its key is another unit's: its origin sends it there.
    Moved {
        /// That unit.
        unit: UnitId,
        /// Since when it is.
        epoch: u64,
        /// The order of its key counts.
        ordered: bool,
    },
    /// It will never be taken (M-E5).
    Refuse {
        /// A word, see `lanes::Refused`.
        reason: String,
        /// For a person.
        detail: String,
    },
    /// It is stored.
    Store {
        /// Units it goes on to, with its number in the line of each.
        outs: Vec<(UnitId, Seq)>,
        /// Its number in the inbox of its topic.
        inbox: Option<Seq>,
        /// Its number among the copies of its topic.
        mirror: Option<Seq>,
    },
}

impl Verdict {
    /// An earlier message of the topic, which was full, must come first.
    pub(super) fn behind() -> Self {
        Self::Later {
            detail: "earlier messages of its topic come first, which was full".to_owned(),
            ordered: true,
        }
    }

    /// The word for what is not this unit's to take now.
    pub(super) fn is_elsewhere(&self) -> Option<&'static str> {
        match self {
            Self::Frozen { .. } => Some(FROZEN),
            Self::Moved { .. } => Some(MOVED),
            Self::Busy { .. } | Self::Later { .. } | Self::Refuse { .. } | Self::Store { .. } => None,
        }
    }

    /// An earlier message of the key, which was about to move or had moved, must come first.
    pub(super) fn behind_key() -> Self {
        Self::Frozen {
            detail: "earlier messages of its key come first".to_owned(),
            ordered: true,
        }
    }
}
