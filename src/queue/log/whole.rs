//! The log for a single thread: the simulation's, and everybody's before there are threads.

use std::io;
use std::time::Duration;

use super::disk::Freed;
use super::storage::Storage;
use super::{AppendError, Damage, Entry, Found, Keeper, Position, Reader, Scan, Scanned, Space, Writer};
use crate::model::Seq;
use crate::queue::line::LineId;

/// The log, whole: what a single thread needs. [`split`](Self::split) makes parts for several.
pub struct Log<S: Storage> {
    pub(super) writer: Writer<S>,
    pub(super) reader: Reader<S>,
    pub(super) keeper: Keeper<S>,
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
