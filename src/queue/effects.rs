//! What the parts of the queue want done: they decide, the engine has it done.
//!
//! The parts (`outbox`, `inbox`, `arrivals`) know no clock, no dice, no disk and no network. Each method gets the
//! moment and a place for its wishes.

use std::time::Duration;

use super::api::Output;
use super::line::LineId;
use super::log::Scan;
use super::metrics::Seen;
use super::record::{DeadSource, Record};
use crate::model::{DeadPlace, GapReason, Message, Seq, Topic, UnitId, UnixMillis};

/// The moment, twice: since the start of the process, for pauses and rates, and by the calendar, for deadlines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Since some start; never goes back.
    pub mono: Duration,
    /// By the calendar; may jump.
    pub wall: UnixMillis,
}

/// A message whose key another unit owns now: it leaves a line for that of the other unit (R3).
#[derive(Clone, Debug, PartialEq)]
pub struct RerouteWish {
    /// The message.
    pub message: Message,
    /// Unit whose line it is in, and its number there.
    pub from: (UnitId, Seq),
    /// Its key, as that line names it.
    pub key: u64,
    /// The unit that owns its key.
    pub to: UnitId,
    /// Since when it does.
    pub epoch: u64,
}

/// Wishes of a part.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be written, in this order.
    pub writes: Vec<Write>,
    /// To be read. Each is answered by one call of the part's `on_read`.
    pub reads: Vec<(Reader, Scan)>,
    /// To go out now.
    pub outputs: Vec<Output>,
    /// What publishers may wait for.
    pub told: Vec<Told>,
    /// To be counted.
    pub seen: Vec<Seen>,
}

/// A message has come so far; the engine knows who waits for that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// All groups of another unit are done with these, as its relay says.
    Delivered {
        /// The unit.
        unit: UnitId,
        /// Numbers in its line.
        seqs: Vec<Seq>,
    },
    /// All groups of this unit are done with it, and the last one acknowledged it.
    Done {
        /// Its topic.
        topic: Topic,
        /// Its number in the inbox.
        seq: Seq,
    },
    /// Messages ended on their way to another unit, or there: they will not be delivered.
    Gone {
        /// The unit.
        unit: UnitId,
        /// First and last number in its line, both included.
        seqs: (Seq, Seq),
        /// It had come there.
        there: bool,
        /// Why.
        why: Why,
    },
    /// A group of this unit is done with a message that it did not acknowledge.
    GivenUp {
        /// Its topic.
        topic: Topic,
        /// Its number in the inbox.
        seq: Seq,
        /// Why.
        why: Why,
    },
    /// A relay of the unit has these on its disk.
    Relayed {
        /// The unit.
        unit: UnitId,
        /// Numbers in its line, as runs.
        seqs: Vec<(Seq, Seq)>,
    },
}

/// Why a message ended without a consumer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Why {
    /// A word: that of its dead letter or of its gap.
    pub reason: String,
    /// For a person.
    pub detail: String,
}

/// What was read for a part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadBack {
    /// The first number that was wanted.
    pub from: Seq,
    /// Messages by number. Numbers between them, and between `from` and the first, are not on disk any more: released
    /// because they are done, or damaged.
    pub found: Vec<(Seq, Message)>,
    /// All numbers below were looked for; `None`: the line has nothing from there on.
    pub next: Option<Seq>,
    /// Reading failed: the same again later.
    pub failed: bool,
}

/// To be written, or to be done when all that was to be written before is on disk.
#[derive(Debug)]
pub enum Write {
    /// A message is given up: the engine gives it a number among the dead letters and writes a `Record::Dead`.
    Dead(Box<DeadWish>),
    /// A record; once it is on disk the engine applies it to the parts (`apply`).
    Record(Record),
    /// A message leaves for another line: the engine gives it a number there and writes a `Record::Stored`.
    Reroute(Box<RerouteWish>),
    /// Goes out once all records before it are on disk (M-A2, A2).
    Then(Output),
}

/// A dead letter without its number (M-E4).
#[derive(Clone, Debug, PartialEq)]
pub struct DeadWish {
    /// The message as it was.
    pub message: Message,
    /// What gave it up.
    pub place: DeadPlace,
    /// Why, as a word: see `record::DeadLetter`.
    pub reason: String,
    /// Where it was.
    pub at: DeadSource,
    /// Attempts that failed.
    pub attempts: u32,
    /// When the first failed.
    pub first_failure: UnixMillis,
    /// When the last failed.
    pub last_failure: UnixMillis,
    /// What the last one said.
    pub error: String,
}

/// Who wants to read.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Reader {
    /// The backlog of a unit; `topic` if that topic is read apart.
    Outbox {
        /// The unit.
        unit: UnitId,
        /// Which cursor.
        cursor: u32,
    },
    /// A group, by its place in the inbox. Not by its name: that may be another group's when the answer comes.
    Group {
        /// The place.
        place: usize,
    },
    /// A single message of a group, for its next attempt.
    Retry {
        /// The group's place.
        place: usize,
        /// Number in the inbox.
        seq: Seq,
    },
    /// Something an operator asked for, or the engine itself.
    Job(u64),
}

impl Why {
    /// Of a message that was left out.
    pub fn of_gap(reason: GapReason) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            detail: String::new(),
        }
    }

    /// Of a message that became a dead letter; `error` may be empty.
    pub fn of_dead(reason: &str, error: &str) -> Self {
        let colon = if error.is_empty() { "" } else { ": " };
        Self {
            reason: reason.to_owned(),
            detail: format!("it is a dead letter{colon}{error}"),
        }
    }
}

impl Effects {
    /// Wants a record on disk.
    pub fn record(&mut self, record: Record) {
        self.writes.push(Write::Record(record));
    }

    /// Wants a message among the dead letters.
    pub fn dead(&mut self, wish: DeadWish) {
        self.writes.push(Write::Dead(Box::new(wish)));
    }

    /// Wants a message in another line.
    pub fn reroute(&mut self, wish: RerouteWish) {
        self.writes.push(Write::Reroute(Box::new(wish)));
    }

    /// Wants something said once all records so far are on disk.
    pub fn then(&mut self, output: Output) {
        self.writes.push(Write::Then(output));
    }

    /// Wants something said at once.
    pub fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    /// Wants to read a line from a number on.
    pub fn read(&mut self, reader: Reader, line: LineId, from: Seq, messages_max: usize, bytes_max: usize) {
        let scan = Scan {
            line,
            from,
            messages_max,
            bytes_max,
        };
        self.reads.push((reader, scan));
    }
}
