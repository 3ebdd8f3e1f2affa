//! Writes records, each batch with one write and one sync.
//!
//! # Invariants
//! - L1. A batch lies in one segment, whole. It can be read, and is acknowledged, when its sync has come back (M-A2).
//! - L2. Into a file that failed nothing is written any more, and it is never synced again: the segment ends where it ended
//!   before. The batch is written once more, into another file (I16, M-G6).
//! - L3. What a failed write left behind the end of a segment is none of its records: the next segment begins with a record that
//!   says where it ends. After a failure that record is on the disk before anything else is written. So numbers that were
//!   taken back can be given again. Until it is there, a crash may bring back what failed.
//! - L17. The page that the end is in is written once more with what follows. Up to the end nothing changes in it, so of whatever a
//!   crash keeps of that write, records of before are whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::format::{self, HEADER, Identity, long};
use super::pages::{PAGE, Pages};
use super::storage::{Storage, is_full, write_full};
use super::table::{Lines, Prepared, Segment, Shared};
use super::{AppendError, Entry, Position};
use crate::queue;

/// The one who writes.
pub struct Writer<S: Storage> {
    shared: Arc<Shared<S>>,
    active: Option<Active<S::File>>,
    /// Ends of segments that no record on disk tells yet (L3).
    ends: Vec<(u128, u32)>,
    /// One of them failed.
    has_failed: bool,
    dice: fastrand::Rng,
    buffer: BytesMut,
    pages: Pages,
    synced: Option<Duration>,
}

/// The segment that is written to.
struct Active<F> {
    identity: Identity,
    file: F,
    end: u32,
    /// Zeros, from the end on, up to here.
    zeros: u64,
    /// What there is of the page that the end is in (L17).
    tail: Vec<u8>,
    /// It was made of what is kept free for essential writes.
    reserved: bool,
}

/// A batch as bytes: where each record begins.
struct Encoded {
    offsets: Vec<u32>,
    end: u32,
}

impl<S: Storage> Writer<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, ends: Vec<(u128, u32)>, dice: fastrand::Rng) -> Self {
        Self {
            shared,
            active: None,
            ends,
            has_failed: false,
            dice,
            buffer: BytesMut::new(),
            pages: Pages::default(),
            synced: None,
        }
    }

    /// Writes records, all or none; where they begin. With `Sync::Group` they are on disk when this returns. With no records, what
    /// failed before is done away with for good (L3).
    ///
    /// # Errors
    /// [`AppendError`]; none of the records is in the log.
    pub fn append(&mut self, entries: &[Entry], essential: bool) -> Result<Vec<Position>, AppendError> {
        self.synced = None;
        if entries.is_empty() && !self.has_failed {
            return Ok(Vec::new());
        }
        match self.attempt(entries, essential, false) {
            Err(AppendError::Failed(_)) => self.attempt(entries, essential, false),
            Err(AppendError::Full) if essential => self.attempt(entries, essential, true),
            result => result,
        }
    }

    /// How long the sync of the last append took; `None` if it had none.
    pub fn synced(&self) -> Option<Duration> {
        self.synced
    }

    /// Begins a segment, if there is none, so that the first append need not.
    pub(super) fn begin(&mut self) -> Result<(), AppendError> {
        self.begin_segment(false, false)
    }

    /// Brings to the disk what `Sync::Buffered` left with the operating system.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        if self.shared.options.sync == queue::Sync::Buffered {
            self.shared.storage.sync_data(&active.file)?;
        }
        Ok(())
    }

    fn attempt(&mut self, entries: &[Entry], essential: bool, zeroed: bool) -> Result<Vec<Position>, AppendError> {
        match &self.active {
            None => self.begin_segment(essential, zeroed)?,
            // It is not for these. What takes them has to have its space already: the reserve is given up for it.
            Some(active) if active.reserved && !essential => self.begin_segment(essential, true)?,
            Some(_) => {}
        }
        self.tell_ends()?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut encoded = self.encode(entries)?;
        let max = self.shared.options.segment_bytes;
        let full = |active: &Active<_>| encoded.end > max && active.end > HEADER_END;
        if self.active.as_ref().is_some_and(full) {
            self.begin_segment(essential, zeroed)?;
            encoded = self.encode(entries)?;
        }
        self.write()?;
        Ok(self.publish(entries, &encoded))
    }

    /// After a failure: the record of ends alone, on the disk before numbers are given again (L3).
    fn tell_ends(&mut self) -> Result<(), AppendError> {
        if self.has_failed {
            let encoded = self.encode(&[])?;
            self.write()?;
            self.publish(&[], &encoded);
            self.has_failed = false;
        }
        Ok(())
    }

    /// Puts the batch into the buffer, as the active segment needs it.
    fn encode(&mut self, entries: &[Entry]) -> Result<Encoded, AppendError> {
        let active = self.active.as_ref().ok_or(AppendError::Full)?;
        let (seeds, start) = (active.identity.seeds(), active.end);
        self.buffer.clear();
        if start == HEADER_END {
            let ends = format::ends_entry(&self.ends);
            format::put(&mut self.buffer, seeds, start, &ends).ok_or(AppendError::TooLong)?;
        }
        let put = |entry| format::put(&mut self.buffer, seeds, start, entry).ok_or(AppendError::TooLong);
        let offsets = entries.iter().map(put).collect::<Result<_, _>>()?;
        let len = u32::try_from(self.buffer.len()).map_err(|_| AppendError::TooLong)?;
        let end = start.checked_add(len).ok_or(AppendError::TooLong)?;
        Ok(Encoded { offsets, end })
    }

    fn write(&mut self) -> Result<(), AppendError> {
        let Some(active) = &self.active else {
            return Err(AppendError::Full);
        };
        let storage = &self.shared.storage;
        let group = self.shared.options.sync == queue::Sync::Group;
        let end = u64::from(active.end).saturating_add(long(self.buffer.len()));
        // In whole pages where there are zeros behind the end anyway. What is not synced is left to the operating system, which then
        // has nothing to read first.
        let written = if end.next_multiple_of(long(PAGE)) > active.zeros {
            write_full(storage, &active.file, u64::from(active.end), &self.buffer)
        } else {
            let begin = u64::from(active.end).saturating_sub(long(active.tail.len()));
            let parts = [active.tail.as_slice(), &self.buffer];
            self.pages.write(begin, parts, |offset, bytes| {
                if group {
                    storage.write_pages(&active.file, offset, bytes)
                } else {
                    write_full(storage, &active.file, offset, bytes)
                }
            })
        };
        let written = written.and_then(|()| group.then(|| storage.sync_data(&active.file)).transpose());
        match written {
            Ok(synced) => {
                self.synced = synced;
                Ok(())
            }
            Err(error) => {
                self.finish(true);
                Err(append_error(error))
            }
        }
    }

    /// The batch is on disk: it can be read.
    fn publish(&mut self, entries: &[Entry], encoded: &Encoded) -> Vec<Position> {
        let Some(active) = &mut self.active else {
            return Vec::new();
        };
        active.on_written(encoded.end, &self.buffer);
        self.ends.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = BytesMut::new();
        }
        let segment = active.identity.first;
        let mut table = self.shared.table();
        if let Some(shown) = table.segments.get_mut(&segment) {
            shown.end = u64::from(encoded.end);
            shown.file_bytes = shown.file_bytes.max(shown.end);
            let next = encoded.offsets.iter().skip(1).copied().chain([encoded.end]);
            for ((entry, from), to) in entries.iter().zip(&encoded.offsets).zip(next) {
                for (line, seq) in &entry.lines {
                    shown.lines.add(*line, *seq, u64::from(to - from));
                }
            }
        }
        let position = |&offset| Position { segment, offset };
        encoded.offsets.iter().map(position).collect()
    }

    /// Begins the next segment, if there can be one. `zeroed`: only in a file that has its space already.
    fn begin_segment(&mut self, essential: bool, zeroed: bool) -> Result<(), AppendError> {
        if self.ends.len() >= ENDS_MAX {
            return Err(AppendError::Failed(io::Error::other("too many files failed")));
        }
        if let Some(prepared) = self.take_prepared() {
            self.activate(prepared, false);
            return Ok(());
        }
        if !zeroed && (essential || self.has_room()) {
            match self.create() {
                Ok(created) => {
                    self.activate(created, false);
                    return Ok(());
                }
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(append_error(error)),
            }
        }
        if essential && self.shared.table().reserve {
            let reserve = self.take_reserve().map_err(append_error)?;
            self.activate(reserve, true);
            return Ok(());
        }
        Err(AppendError::Full)
    }

    fn take_prepared(&mut self) -> Option<Prepared<S::File>> {
        let prepared = self.shared.prepared().take()?;
        let mut table = self.shared.table();
        table.other_bytes = table.other_bytes.saturating_sub(prepared.bytes);
        let last = table.segments.last_key_value().map_or(0, |(number, _)| *number);
        drop(table);
        if prepared.identity.first < last {
            // It came too late: positions must ascend.
            let _ = self.shared.storage.remove(&prepared.identity.name());
            return None;
        }
        Some(prepared)
    }

    fn has_room(&self) -> bool {
        let options = &self.shared.options;
        let used = self.shared.table().bytes();
        used.saturating_add(u64::from(options.segment_bytes)) <= options.bytes_max
    }

    /// A file that grows as it is written to: what there is when none was prepared in time.
    fn create(&mut self) -> io::Result<Prepared<S::File>> {
        let identity = self.new_identity();
        let storage = &self.shared.storage;
        let file = storage.create(&identity.name())?;
        let made = write_full(storage, &file, 0, &identity.header())
            .and_then(|()| storage.sync_data(&file))
            .and_then(|_| storage.sync_dir());
        if let Err(error) = made {
            // If it stays, the next start removes it: there is nothing in it.
            let _ = storage.remove(&identity.name());
            return Err(error);
        }
        Ok(Prepared {
            identity,
            file,
            bytes: long(HEADER),
        })
    }

    /// The file that is kept for this case becomes a segment.
    fn take_reserve(&mut self) -> io::Result<Prepared<S::File>> {
        let identity = self.new_identity();
        let storage = &self.shared.storage;
        let name = identity.name();
        storage.rename(super::RESERVE, &name)?;
        let bytes = u64::from(self.shared.options.segment_bytes);
        {
            let mut table = self.shared.table();
            table.reserve = false;
            table.other_bytes = table.other_bytes.saturating_sub(bytes);
        }
        let file = storage.open(&name)?;
        write_full(storage, &file, 0, &identity.header())?;
        storage.sync_data(&file)?;
        storage.sync_dir()?;
        Ok(Prepared { identity, file, bytes })
    }

    fn new_identity(&mut self) -> Identity {
        let number = self.shared.table().take_number();
        Identity {
            first: number,
            last: number,
            generation: 0,
            nonce: self.dice.u128(..),
        }
    }

    /// Goes on in this file.
    fn activate(&mut self, next: Prepared<S::File>, reserved: bool) {
        self.seal();
        let segment = Segment {
            identity: next.identity,
            end: long(HEADER),
            file_bytes: next.bytes,
            sealed: false,
            lines: Lines::default(),
        };
        self.shared.table().segments.insert(next.identity.first, segment);
        self.active = Some(Active {
            identity: next.identity,
            file: next.file,
            end: HEADER_END,
            zeros: next.bytes,
            tail: next.identity.header(),
            reserved,
        });
    }

    /// Nothing more comes into the active segment.
    fn seal(&mut self) {
        if let Err(error) = self.sync() {
            // Nobody was promised more than `Sync::Buffered` says.
            tracing::warn!(%error, "a segment of the queue was not synced");
        }
        self.finish(false);
    }

    /// Nothing more comes into the active segment. If it failed, it ends where it ended before (L2).
    fn finish(&mut self, failed: bool) {
        let Some(active) = self.active.take() else { return };
        self.has_failed |= failed;
        let (number, storage) = (active.identity.first, &self.shared.storage);
        if active.end == HEADER_END {
            self.shared.table().segments.remove(&number);
            let gone = storage
                .remove(&active.identity.name())
                .and_then(|()| storage.sync_dir());
            if gone.is_err() {
                self.ends.push((active.identity.nonce, active.end));
            }
            return;
        }
        self.ends.push((active.identity.nonce, active.end));
        let mut table = self.shared.table();
        let Some(shown) = table.segments.get_mut(&number) else {
            return;
        };
        shown.sealed = true;
        shown.lines.seal();
        let cut = failed || shown.file_bytes > shown.end;
        if failed {
            table.failed.insert(active.identity.nonce);
        }
        drop(table);
        // Zeros, or what a failed write left. Readers know the end without it (L3).
        if cut
            && storage.set_len(&active.file, u64::from(active.end)).is_ok()
            && let Some(shown) = self.shared.table().segments.get_mut(&number)
        {
            shown.file_bytes = shown.end;
        }
    }
}

impl<F> Active<F> {
    /// The end is behind these bytes now.
    fn on_written(&mut self, end: u32, bytes: &[u8]) {
        self.end = end;
        let len = usize::try_from(end).unwrap_or_default() % PAGE;
        self.tail
            .extend_from_slice(bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default());
        self.tail.drain(..self.tail.len().saturating_sub(len));
    }
}

fn append_error(error: io::Error) -> AppendError {
    if is_full(&error) {
        AppendError::Full
    } else {
        AppendError::Failed(error)
    }
}

const HEADER_END: u32 = 64;
/// Segments that failed one after the other.
const ENDS_MAX: usize = 10_000;
/// A buffer that grew beyond this is given back.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;
