//! The log: records on disk.

use bytes::Bytes;

use super::line::LineId;
use crate::model::{Message, Seq};

/// A record to be written. `head` and, behind it, the message as `wire::message` writes it are its content.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Kind of record; opaque here.
    pub kind: u8,
    /// The lines it is in, with its number in each: found again by [`Scan`].
    pub lines: Vec<(LineId, Seq)>,
    /// Content, as `queue::record` wrote it.
    pub head: Bytes,
    /// Content behind it. Encoded by the thread that writes.
    pub message: Option<Message>,
}

/// Where a record begins. Positions of later records are larger.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Segment, from 1 on.
    pub segment: u64,
    /// Byte in its file.
    pub offset: u32,
}

/// Wants records of a line in the order of their numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scan {
    /// The line.
    pub line: LineId,
    /// The first number wanted.
    pub from: Seq,
    /// At most so many.
    pub messages_max: usize,
    /// And not many more bytes than this, but one record at least.
    pub bytes_max: usize,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// Records, by number. A number between two of them, or between `from` and the first, is not on disk: released
    /// or damaged.
    pub found: Vec<(Seq, Found)>,
    /// All numbers below were looked for; the next scan begins here. `None`: the line has no record from there on.
    pub next: Option<Seq>,
}

/// A record that was read. Its checksum was right.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where.
    pub position: Position,
    /// Kind of record.
    pub kind: u8,
    /// The lines it is in.
    pub lines: Vec<(LineId, Seq)>,
    /// All of its content; a part of what was read at once.
    pub content: Bytes,
}
