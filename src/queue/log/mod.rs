//! The log: records on disk, in segments that are only ever appended to.
//!
//! # Path
//! [`Writer`] appends batches of records, each with one write and one sync; [`Reader`] finds them again by line and number, or
//! all in the order of writing; [`Keeper`] writes checkpoints, removes segments that are done with, merges sparse ones and
//! prepares the next. [`Log`] is the three for one thread, [`disk`] runs them on two. [`Log::open`] makes a log of what a crash
//! left. The parts' invariants are numbered L1 to L17 in their modules.
//!
//! # The directory
//! ```text
//! <first>-<last>-<generation>-<nonce>.segment    hexadecimal: 16, 16, 8 and 32 digits
//! checkpoint-<number>                            the last two that were written; see `checkpoint`
//! reserve                                        zeros, as many as a segment has, for essential writes
//! released                                       empty; there if a segment was ever removed
//! lock                                           locked by the process that has the directory
//! *.tmp                                          not finished, or a segment that was, to be used again; removed at the start
//! ```
//! Segments have ascending numbers. One that was merged from neighbours has the numbers of all of them, from `first` to `last`,
//! and a higher generation; files that it replaces are removed, now or at the next start.
//!
//! # A segment
//! Numbers are big endian. Checksums are CRC32C.
//! ```text
//!  0 magic "STRAITLG"        8 version u32 = 1      12 generation u32
//! 16 first u64              24 last u64             32 nonce, 16 bytes
//! 48 zero, 12 bytes         60 checksum u32: of bytes 0 to 59
//! 64 records, each at a multiple of 8, with zeros between; then zeros, or the end of the file
//! ```
//! A record:
//! ```text
//!  0 mark u32 = 0x53545243   4 kind u8               5 zero u8          6 lines u16
//!  8 content bytes u32      12 offset u32 of the first record of its write
//! 16 head checksum u32: of the first 8 bytes of the nonce, its own offset u32, bytes 0 to 15, lines
//! 20 content checksum u32: of the last 8 bytes of the nonce, its own offset u32, bytes 0 to 19, lines, content
//! 24 lines: each the line's id u64 and the record's number in it u64
//!    content: what `queue::record` wrote, and a message (`wire::message`) if there is one
//! ```
//! Records of kind 0 are the log's own. Their content is a list of nonces (16 bytes) and ends (u32) of segments.
//!
//! # Invariants of the format
//! - F1. A record is one only in its place: nonce and offset are in both checksums. So a record of another segment, or of
//!   another place, is none, and neither is anything that a message carries, whose sender does not know the nonce.
//! - F2. A header is not needed to read a segment: the name of the file says the same. It tells formats apart.
//! - F3. Reading goes on behind damage at the next place with a right head. If only the content of a record is damaged, its head
//!   still tells which numbers are lost.
//! - F4. Where a segment ends, the first record of the next one says, or a checkpoint: what is behind that in the file was never
//!   acknowledged. A segment that a checkpoint does not know, and older than one that it knows or than where replay begins, is none any more. Of the last segment nobody says it: it ends behind its last right record. So of the very last writes,
//!   damage cannot be told from what a crash left of them; a file that was cut there, or zeros, not from nothing written.
//! - F6. A record names where its write begins (`offset` of the first), and a write begins when all before it is on disk and told. So a
//!   right record says that all before its write was finished; of the last write of the last segment nothing says it. If that write
//!   has a sector that was never written (L15), it was not: the segment ends before the first of its records that is missing, whatever
//!   survived behind (L16). Else, and anywhere before, a damaged record costs itself alone (F3).
//! - F5. A number of a line may be twice in the files only with the same content: after a crash behind a sync that failed, the
//!   batch may be in the file that failed as well. Reading a line gives the first; applying both does no harm (R2).
//!
//! # Size
//! 40 bytes of memory for each line of each segment, 60 of the one that is written to, whatever the number of records (M-G7): ten million messages of 1 KiB on ten
//! lines are 160 segments, 64 KiB. Records have 24 bytes and 16 for each line beside their content.
//!
//! # Not here
//! What records mean (`queue::record`), which numbers are done (`queue::line`), which lines there are.

mod checkpoint;
pub mod disk;
mod format;
mod keeper;
mod memory;
mod merge;
mod pages;
mod reader;
mod recovery;
mod spares;
mod storage;
mod table;
#[cfg(test)]
mod tests;
mod unwritten;
mod walk;
mod whole;
mod writer;

use std::fmt;
use std::io;

use bytes::Bytes;

pub use keeper::Keeper;
pub use memory::{Faults, MemoryStorage, Operation};
pub use reader::Reader;
pub use recovery::{OpenError, Recovery};
pub use storage::{DirStorage, Storage, StorageError};
pub use table::PATIENCE;
pub use whole::Log;
pub use writer::Writer;

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
    /// All numbers below were looked for; the next scan begins here. `None`: the line had no further record when the scan came
    /// to its end.
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
    /// All of its content, in memory of its own.
    pub content: Bytes,
}

/// Why records were not written. None of them will be found again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// An append before it failed; see D2 of [`disk`].
    #[error("records before these were not written")]
    Behind,
    /// The disk failed, and in another file again.
    #[error("the disk does not take records")]
    Failed(#[source] io::Error),
    /// There is no space, or none that these may use.
    #[error("the disk is full, or the queue has used up queue.bytes_max")]
    Full,
    /// More than a file can hold.
    #[error("the records are too long for one write")]
    TooLong,
}

/// A part of a segment that cannot be read any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Number of the segment.
    pub segment: u64,
    /// First damaged byte, and the first behind them.
    pub bytes: (u64, u64),
    /// The lost record's lines and numbers, if its head could be read. Else what numbers are lost is seen from those
    /// that are not found.
    pub lines: Vec<(LineId, Seq)>,
    /// It may be what a crash left of a write that nobody was told about.
    pub unfinished: bool,
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Space {
    /// Bytes of the queue's files.
    pub used: u64,
    /// Bytes it may use (`queue.bytes_max`).
    pub used_max: u64,
    /// Free bytes of the file system.
    pub free: u64,
    /// All bytes of the file system.
    pub total: u64,
    /// Segments.
    pub segments: u64,
}

/// What a log is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a segment. A batch is never divided, so a segment can be longer by one.
    pub segment_bytes: u32,
    /// Bytes that all files may have; essential writes may go beyond.
    pub bytes_max: u64,
    /// When an append is done.
    pub sync: super::Sync,
    /// Another one each time the log is opened: what is written now must not look like what was written before.
    pub seed: u64,
}

impl Position {
    /// Behind the record that begins here, and not behind the next one.
    #[must_use]
    pub fn after(self) -> Self {
        Self {
            offset: self.offset.saturating_add(1),
            ..self
        }
    }
}

impl Space {
    /// Percent that are used, of the queue's share or of the file system, whichever is more (M-G6).
    pub fn percent(&self) -> u8 {
        let percent = |part: u64, whole: u64| match whole {
            0 => 0,
            _ => u128::from(part) * 100 / u128::from(whole),
        };
        let share = percent(self.used, self.used_max);
        let system = percent(self.total.saturating_sub(self.free), self.total);
        u8::try_from(share.max(system)).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Damage {
    /// For a person. Numbers of lines are told by the engine, which knows their names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = self.bytes;
        write!(f, "segment {} is damaged from byte {from} to {to}", self.segment)?;
        if self.unfinished {
            f.write_str(", or a write to it was not finished")?;
        }
        Ok(())
    }
}

/// Names of files that are not finished end so.
const TMP: &str = ".tmp";
const MERGE_TMP: &str = "merge.tmp";
const PREPARED_TMP: &str = "prepared.tmp";
/// It is there if segments were removed, ever.
const RELEASED: &str = "released";
/// Space that is kept for essential writes.
const RESERVE: &str = "reserve";
const RESERVE_TMP: &str = "reserve.tmp";
