//! What is to become of messages of peers, as the engine says.

use std::time::Duration;

use crate::model::{Geo, Message, Seq, UnitId};
use crate::queue::effects::Now;

/// Decides about messages of peers.
pub trait Judge {
    /// What is to become of a message of a unit. Numbers it gives are used.
    fn judge(&mut self, now: Now, from: &UnitId, geo: &Geo, message: &Message) -> Verdict;
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
}
