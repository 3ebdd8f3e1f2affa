//! The log: records on disk.

mod checkpoint;
pub mod disk;
mod format;
mod keeper;
mod memory;
mod merge;
mod reader;
mod recovery;
mod storage;
mod table;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

pub use keeper::Keeper;
pub use memory::{Faults, MemoryStorage, Operation};
pub use reader::Reader;
pub use recovery::{OpenError, Recovery};
pub use storage::{DirStorage, Storage, StorageError};
pub use writer::Writer;

use self::disk::Freed;

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

/// The log, whole: what a single thread needs. [`split`](Self::split) makes parts for several.
pub struct Log<S: Storage> {
    writer: Writer<S>,
    reader: Reader<S>,
    keeper: Keeper<S>,
}

impl<S: Storage> Log<S> {
    /// See [`Writer::append`].
    ///
    /// # Errors
    /// See there.
    pub fn append(&mut self, entries: &[Entry], essential: bool) -> Result<Vec<Position>, AppendError> {
        self.writer.append(entries, essential)
    }

    /// How long the sync of the last append took; `None` if it had none.
    pub fn synced(&self) -> Option<Duration> {
        self.writer.synced()
    }

    /// See [`Reader::scan`].
    ///
    /// # Errors
    /// See there.
    pub fn scan(&mut self, scan: Scan) -> io::Result<Scanned> {
        self.reader.scan(scan)
    }

    /// See [`Reader::fetch`].
    ///
    /// # Errors
    /// See there.
    pub fn fetch(&mut self, line: LineId, seq: Seq) -> io::Result<Option<Found>> {
        self.reader.fetch(line, seq)
    }

    /// See [`Reader::replay`].
    ///
    /// # Errors
    /// See there.
    pub fn replay(&mut self, from: Position, f: impl FnMut(Found)) -> io::Result<()> {
        self.reader.replay(from, f)
    }

    /// See [`Reader::take_damage`].
    pub fn take_damage(&mut self) -> Vec<Damage> {
        self.reader.take_damage()
    }

    /// See [`Keeper::checkpoint`].
    ///
    /// # Errors
    /// See there.
    pub fn checkpoint(&mut self, state: &[u8], covers: Position) -> io::Result<()> {
        self.keeper.checkpoint(state, covers)
    }

    /// See [`Keeper::release`].
    pub fn release(&mut self, done: impl FnMut(LineId, Seq, Seq) -> bool) -> Freed {
        self.keeper.release(done)
    }

    /// See [`Keeper::sparse`].
    pub fn sparse(&self, wanted: impl FnMut(LineId, Seq, Seq) -> u64) -> Option<Vec<u64>> {
        self.keeper.sparse(wanted)
    }

    /// See [`Keeper::merge`].
    ///
    /// # Errors
    /// See there.
    pub fn merge(&mut self, segments: &[u64], keep: impl Fn(LineId, Seq) -> bool) -> io::Result<Freed> {
        self.keeper.merge(segments, keep)
    }

    /// See [`Keeper::upkeep`].
    ///
    /// # Errors
    /// See there.
    pub fn upkeep(&mut self) -> io::Result<bool> {
        self.keeper.upkeep()
    }

    /// See [`Keeper::space`].
    ///
    /// # Errors
    /// See there.
    pub fn space(&self) -> io::Result<Space> {
        self.keeper.space()
    }

    /// The parts, which can be used by different threads at the same time.
    pub fn split(self) -> (Writer<S>, Reader<S>, Keeper<S>) {
        (self.writer, self.reader, self.keeper)
    }
}

impl Position {
    /// Behind the record that begins here, and not behind the next one.
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
