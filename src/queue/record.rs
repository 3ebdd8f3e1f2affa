//! What the log holds: messages, and what became of them.
//!
//! # Invariants
//! - R1. State changes only by records that are on disk: what a restart reads again leads to the same state.
//! - R2. A record can be applied twice without harm: a number that is done stays done.
//! - R3. What belongs together is one record: a dead letter and the end of its message, a redriven message and the end of
//!   its dead letter, a message from a peer and its number there, a
//!   message that goes to another unit and its end in the line of the one before (M-B2, M-E4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dedup::Chunk;
use super::line::StreamId;
use crate::model::{DeadPlace, GapReason, GroupName, Message, Seq, Topic, UnitId, UnixMillis};

/// One record, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A consumer group failed a message; it waits for its next attempt (M-E1).
    Attempt {
        /// Topic of the line.
        topic: Topic,
        /// The group.
        group: GroupName,
        /// Number in the inbox of the topic.
        seq: Seq,
        /// Attempts that failed so far.
        failed: u32,
        /// Not again before.
        not_before: UnixMillis,
        /// Hash of its key, if it has one and the topic is ordered: a blocked key can be named before the message is read again.
        key: Option<u64>,
    },
    /// A message was given up: it leaves where it was and is a dead letter, in one (M-E4).
    Dead(Box<DeadLetter>),
    /// Dead letters are no longer wanted: purged, or older than their retention.
    DeadGone {
        /// Numbers among the dead letters.
        seqs: Vec<(Seq, Seq)>,
        /// Why.
        reason: GapReason,
    },
    /// The log has begun a new life (M-A1).
    Epoch(u64),
    /// Messages for a unit will not go there; the unit must be told (M-G2).
    Gap {
        /// The unit.
        unit: UnitId,
        /// First and last number, both included.
        seqs: (Seq, Seq),
        /// Why.
        reason: GapReason,
        /// How many, by topic.
        counts: Vec<(Topic, u64)>,
    },
    /// What an operator or a consumer set up and a restart must keep: groups, pauses, limits, tasks.
    Kept(Box<Kept>),
    /// A relay of the unit has these messages on its disk (M-A2).
    Relayed {
        /// The unit.
        unit: UnitId,
        /// Numbers, as runs of first and last.
        seqs: Vec<(Seq, Seq)>,
        /// How many, by topic.
        counts: Vec<(Topic, u64)>,
    },
    /// A group is done with messages.
    Settled {
        /// Topic of the line.
        topic: Topic,
        /// The group.
        group: GroupName,
        /// Numbers in the inbox of the topic, as runs of first and last.
        seqs: Vec<(Seq, Seq)>,
        /// `None`: a consumer acknowledged them.
        reason: Option<GapReason>,
    },
    /// What publishers sent is remembered, beyond the records of the messages (M-B3).
    Remembered(Box<Chunk>),
    /// A peer will never send these (M-G2).
    Skipped {
        /// Whose numbers.
        stream: StreamId,
        /// First and last, both included.
        seqs: (Seq, Seq),
        /// Why.
        reason: GapReason,
    },
    /// A message, with all that was decided about it.
    Stored(Box<Stored>),
}

/// A message on disk and where it is to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The message.
    pub message: Message,
    /// Number in the stream of the peer it came from; `None` if it was accepted here.
    pub from: Option<(StreamId, Seq)>,
    /// Units it goes to, with its number in the line of each.
    pub outs: Vec<(UnitId, Seq)>,
    /// Its number in the inbox of its topic, if it is for this unit too.
    pub inbox: Option<Seq>,
    /// The only group that gets it; all others are done with it (a redriven message).
    pub only: Option<GroupName>,
    /// The dead letter it was; that one is gone.
    pub redriven: Option<Seq>,
    /// The line of a unit that it was in, and its number there; it is in that one no more, because its key moved.
    pub rerouted: Option<(UnitId, Seq)>,
    /// Its number among the copies of its topic (M-G5).
    pub mirror: Option<Seq>,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Number among the dead letters.
    pub seq: Seq,
    /// The message as it was.
    pub message: Message,
    /// What gave it up.
    pub place: DeadPlace,
    /// Why, as a word: `attempts`, `terminated`, `expired`, `too_large`, `unknown_topic`, `not_allowed`, `loop`, `rest_of_key`.
    pub reason: String,
    /// Where it was.
    pub at: DeadSource,
    /// Attempts that failed.
    pub attempts: u32,
    /// When the first failed.
    pub first_failure: UnixMillis,
    /// When the last failed.
    pub last_failure: UnixMillis,
    /// What the last one said. At most 1 KiB.
    pub error: String,
}

/// The place that a dead letter left, and goes back to when it is redriven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeadSource {
    /// Nowhere: it never had a place here.
    None,
    /// The line of a unit.
    Outbox(UnitId, Seq),
    /// A group's share of the inbox of its topic.
    Group(GroupName, Seq),
}

/// What a restart must keep beside messages.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Kept {
    /// A group was made.
    Group {
        /// Of this topic.
        topic: Topic,
        /// Its name.
        group: GroupName,
        /// Its first number.
        first: Seq,
    },
    /// A group was removed.
    GroupGone {
        /// Of this topic.
        topic: Topic,
        /// Its name.
        group: GroupName,
    },
    /// From now on all messages of a key go to the dead letters (M-C3), or do no more.
    RestOfKey {
        /// Of this topic.
        topic: Topic,
        /// Of this group.
        group: GroupName,
        /// Hash of the key.
        key: u64,
        /// Whether they do.
        on: bool,
    },
    /// Something was paused (M-H3), or goes on if `None`.
    Pause {
        /// What.
        what: Pausable,
        /// Why and until when.
        pause: Option<Pause>,
    },
    /// Replay limits were changed at run time (M-D2); `None` puts the settings back in force.
    Limits {
        /// To this unit.
        unit: UnitId,
        /// Of this topic; `None`: all together.
        topic: Option<Topic>,
        /// Messages per second, bytes per second, burst.
        limits: Option<(f64, u64, u32)>,
    },
    /// A key that was on its way out of the line of a unit stays in it: it has come back before it had left (M-B2).
    Stays {
        /// The unit.
        unit: UnitId,
        /// The key, as the line names it.
        key: u64,
    },
    /// State of a redrive, as the engine writes it (M-F1).
    Task(Vec<u8>),
    /// The queue was closed. As the last record it says that nothing is missing behind it, also if syncs are buffered.
    Closed,
}

/// What can be paused.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Pausable {
    /// Calls to a unit, of methods that keep them while it is away, and what is kept.
    Calls {
        /// The unit.
        unit: UnitId,
    },
    /// Delivery to a group.
    Group {
        /// Its topic.
        topic: Topic,
        /// Its name.
        group: GroupName,
    },
    /// A redrive.
    Redrive {
        /// Its number.
        task: u64,
    },
    /// Sending and delivering messages of a topic.
    Topic {
        /// The topic.
        topic: Topic,
    },
    /// Sending to a unit.
    Unit {
        /// The unit.
        unit: UnitId,
    },
}

/// A pause.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pause {
    /// Why, in the operator's words.
    pub reason: String,
    /// When it ends by itself, as milliseconds since 1970.
    pub until: Option<u64>,
}

impl Pause {
    /// Whether it is over.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.until.is_some_and(|until| until <= now.0)
    }

    /// For so long from now on.
    pub fn for_time(reason: &str, time: Option<Duration>, now: UnixMillis) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            reason: reason.to_owned(),
            until: time.map(|time| now.0.saturating_add(millis(time))),
        }
    }
}
