//! What two relays say to each other on a lane for messages.
//!
//! The relay that has messages opens the lane; what it sends is numbered, and the other side says up to which number
//! it has everything on disk. Both sides may have a live and a backlog lane to the same relay.
//!
//! # Invariants
//! - A1. `Messages` and `Gap` of a lane are numbered 1, 2, 3 ...; an `Ack` speaks for its number and all before.
//! - A2. An `Ack` is sent when all that it speaks for is on disk, or refused by name.
//! - A3. A message that is refused as [`FULL`] is sent again after a while; the others of its topic rest with it, and all other
//!   topics go on (M-C3). Until it has come again the receiver takes no later one of its topic that has a key (M-C1).
//!   [`FROZEN`] and [`MOVED`] say the same of one key; other keys of the topic go on. They are said to senders only that have
//!   named the epoch of the owner ([`Message::routed`]), and `moved` only if that one is older than the receiver's.
//! - A4. A receiver that is out of resources says `Busy` and stops reading; it never takes later messages in place of
//!   earlier ones of the same lane.

use std::time::Duration;

use super::{GapReason, Message, Seq, UnitId};

/// The last number of a gap is so far behind its first one, at most: a longer gap is told in parts.
pub const GAP_SPAN_MAX: u64 = 1 << 20;

/// Which of the two lanes of a pair (M-D1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LaneKind {
    /// What waited: accepted while the pair was down or paused, or too old.
    Backlog,
    /// What was just accepted.
    Live,
}

impl LaneKind {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Live => "live",
        }
    }
}

/// What goes to the relay that receives.
#[derive(Clone, Debug, PartialEq)]
pub enum ToReceiver {
    /// First of all.
    Open {
        /// Life of the sender's log (M-A1).
        epoch: u64,
        /// Which lane this is.
        kind: LaneKind,
        /// All lower numbers are done with, as far as the sender knows.
        base: Seq,
    },
    /// Messages in the order of their numbers.
    Messages {
        /// Number on this lane.
        batch: u64,
        /// The messages.
        messages: Vec<Sent>,
    },
    /// These will not come (M-G2).
    Gap {
        /// Number on this lane.
        batch: u64,
        /// First and last, both included.
        seqs: (Seq, Seq),
        /// Why.
        reason: GapReason,
    },
}

/// A message on a lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Number in the stream.
    pub seq: Seq,
    /// The publisher waits until it is delivered: say `Delivered` then.
    pub tell_delivered: bool,
    /// The message.
    pub message: Message,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSender {
    /// Answer to `Open`: what is here already (M-B2).
    Opened {
        /// All numbers up to this one are.
        frontier: Seq,
        /// And these above it, as runs; the first thousands if there are more.
        above: Vec<(Seq, Seq)>,
        /// The highest number that ever came, so that a sender whose log was restored notices (M-A1).
        highest: Seq,
    },
    /// The lane is not wanted: settings of the receiver forbid it. Sent in place of `Opened`.
    Denied {
        /// For a person.
        detail: String,
    },
    /// All up to a number of the lane is on disk here, but for what was refused.
    Ack {
        /// Number on the lane.
        batch: u64,
        /// Messages that were not taken.
        refused: Vec<Refused>,
    },
    /// Out of resources: nothing is taken before a later `Busy` says `None` (M-D5).
    Busy {
        /// How long that will last, about.
        pushback: Option<Duration>,
    },
    /// All groups of the unit are done with these messages, whose publishers wait for it.
    Delivered {
        /// Numbers in the stream.
        seqs: Vec<Seq>,
    },
    /// These, whose publishers wait for `Delivered`, ended otherwise in some group of the unit.
    Ended {
        /// Which and why.
        ended: Vec<Refused>,
    },
}

/// The reason of a message whose time is over (M-E2).
pub const EXPIRED: &str = "expired";
/// The reason of a message that is not taken now, because its topic is full.
pub const FULL: &str = "full";

/// The reason of a message that is not taken now, because its key is about to move, or the relay has not heard yet of what its
/// sender knows about it.
pub const FROZEN: &str = "frozen";
/// The reason of a message whose key belongs to another unit; see [`Refused::moved`].
pub const MOVED: &str = "moved";

/// A message that a relay will never take (M-E5), or that ended there; but for [`FULL`] and [`FROZEN`] ones, which it does not
/// take now, and [`MOVED`] ones, which another unit takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Number in the stream.
    pub seq: Seq,
    /// A word: `too_large`, `unknown_topic`, `not_allowed`, `loop`, `limited`, `expired`, `full`, `frozen`, `moved`; of one that ended that of its dead
    /// letter or its gap.
    pub reason: String,
    /// For a person.
    pub detail: String,
}

impl Refused {
    /// A message that was not taken.
    pub fn new(seq: Seq, reason: &str, detail: String) -> Self {
        Self {
            seq,
            reason: reason.to_owned(),
            detail,
        }
    }

    /// The key of the message belongs to a unit, since an epoch.
    pub fn moved(seq: Seq, unit: &UnitId, epoch: u64) -> Self {
        Self {
            seq,
            reason: MOVED.to_owned(),
            detail: format!("{epoch} {unit}"),
        }
    }

    /// Epoch and unit of a message that was refused as [`MOVED`]; `None` if it does not say so, or not in the right form.
    pub fn owner(&self) -> Option<(u64, UnitId)> {
        let (epoch, unit) = (self.reason == MOVED).then(|| self.detail.split_once(' ')).flatten()?;
        Some((epoch.parse().ok()?, unit.parse().ok()?))
    }
}
