//! Which segments there are and what is in them: what writer, readers and keeper share.
//!
//! # Invariants
//! - L7. Memory is per segment and line, not per record (M-G7).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::Identity;
use super::storage::Storage;
use super::{Options, Position};
use crate::model::{Map, Seq};
use crate::queue::line::LineId;

/// What writer, readers and keeper share.
pub(super) struct Shared<S: Storage> {
    pub(super) storage: S,
    pub(super) options: Options,
    table: Mutex<Table>,
    /// The segment that comes next: zeros on disk, nothing in it.
    prepared: Mutex<Option<Prepared<S::File>>>,
}

/// A file of zeros with the header of a segment.
pub(super) struct Prepared<F> {
    pub(super) identity: Identity,
    pub(super) file: F,
    pub(super) bytes: u64,
}

/// All segments.
#[derive(Default)]
pub(super) struct Table {
    /// By the first of their numbers.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Number of the next one.
    pub(super) next: u64,
    /// Checkpoints on disk that are good, oldest first: number, and what they cover. Two at most.
    pub(super) checkpoints: Vec<(u64, Position)>,
    /// Bytes of files that are no segments of this table.
    pub(super) other_bytes: u64,
    /// The file that only essential writes may use is there.
    pub(super) reserve: bool,
    /// Segments were removed, ever.
    pub(super) released: bool,
    /// Segments to whose file a write failed, by nonce: the disk may not keep what is written there.
    pub(super) failed: BTreeSet<u128>,
    /// Damage that was told: segment and first byte.
    told: BTreeSet<(u128, u64)>,
    /// How often the disk did not give what is in a segment.
    unreadable: BTreeMap<u128, u32>,
}

/// A segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) identity: Identity,
    /// Behind the last record that may be read.
    pub(super) end: u64,
    /// Length of the file.
    pub(super) file_bytes: u64,
    /// Nothing will be added.
    pub(super) sealed: bool,
    pub(super) lines: Lines,
}

/// What of which lines is in a segment. While records are added, lines are in the order in which they came, and found by their places;
/// once it is [sealed](Self::seal) they are in their own order. So a line more costs the same however many there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lines {
    parts: Vec<(LineId, Use)>,
    /// Where each line is in `parts`; of no use once they are in order.
    places: Map<LineId, usize>,
    sealed: bool,
}

/// What of a line is in a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Use {
    pub(super) min: Seq,
    pub(super) max: Seq,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl<S: Storage> Shared<S> {
    pub(super) fn new(storage: S, options: Options, table: Table) -> Self {
        Self {
            storage,
            options,
            table: Mutex::new(table),
            prepared: Mutex::new(None),
        }
    }

    /// The table. Held for a few lines only, never while the disk works.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another segment fits into what the queue may use.
    pub(super) fn has_room(&self) -> bool {
        let used = self.table().bytes();
        used.saturating_add(u64::from(self.options.segment_bytes)) <= self.options.bytes_max
    }

    /// Counts a read of a segment that failed (L12).
    pub(super) fn noted<T>(&self, identity: &Identity, read: io::Result<T>) -> io::Result<T> {
        if read.is_err() {
            let mut table = self.table();
            let times = table.unreadable.entry(identity.nonce).or_default();
            *times = times.saturating_add(1);
        }
        read
    }

    pub(super) fn prepared(&self) -> MutexGuard<'_, Option<Prepared<S::File>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The next segment behind number `after` with records of the line from `seq` on.
    pub(super) fn holding(&self, line: LineId, seq: Seq, after: u64) -> Option<&Segment> {
        // One that was merged may begin before `after` and end behind it.
        let behind = self.segments.values().filter(|segment| segment.identity.last > after);
        let mut holding = behind.filter(|segment| segment.lines.get(line).is_some_and(|part| part.max >= seq));
        holding.next()
    }

    /// Number of a new segment.
    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next = number.saturating_add(1);
        number
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let segments = self.segments.values().map(|segment| segment.file_bytes);
        segments.sum::<u64>() + self.other_bytes
    }

    /// Segments that no checkpoint needs: what their records did is in the older one of two. The newer one may turn out
    /// to be damaged.
    pub(super) fn covered(&self) -> impl Iterator<Item = &Segment> {
        let covers = match self.checkpoints.as_slice() {
            [older, _newer] => older.1.segment,
            _ => 0,
        };
        let sealed = self.segments.values().filter(|segment| segment.sealed);
        sealed.take_while(move |segment| segment.identity.last < covers)
    }

    /// Whether the disk did not give what is in a segment so often that it never will (L12).
    pub(super) fn is_unreadable(&self, identity: &Identity) -> bool {
        self.unreadable
            .get(&identity.nonce)
            .is_some_and(|times| *times >= PATIENCE)
    }

    /// Whether damage is told for the first time.
    pub(super) fn is_news(&mut self, identity: &Identity, from: u64) -> bool {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert((identity.nonce, from))
    }
}

impl Lines {
    pub(super) fn from_parts(parts: Vec<(LineId, Use)>) -> Self {
        let mut lines = Self {
            parts,
            ..Self::default()
        };
        lines.seal();
        lines
    }

    /// Nothing more is added.
    pub(super) fn seal(&mut self) {
        self.parts.sort_unstable_by_key(|(line, _)| *line);
        self.parts.shrink_to_fit();
        self.places = Map::default();
        self.sealed = true;
    }

    pub(super) fn get(&self, line: LineId) -> Option<&Use> {
        self.parts.get(self.place(line)?).map(|(_, part)| part)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(LineId, Use)> {
        self.parts.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Adds a record of a line.
    pub(super) fn add(&mut self, line: LineId, seq: Seq, bytes: u64) {
        if self.sealed {
            self.places = self
                .parts
                .iter()
                .enumerate()
                .map(|(at, (line, _))| (*line, at))
                .collect();
            self.sealed = false;
        }
        if let Some((_, part)) = self.place(line).and_then(|at| self.parts.get_mut(at)) {
            part.min = part.min.min(seq);
            part.max = part.max.max(seq);
            part.records += 1;
            part.bytes += bytes;
            return;
        }
        let part = Use {
            min: seq,
            max: seq,
            records: 1,
            bytes,
        };
        self.places.insert(line, self.parts.len());
        self.parts.push((line, part));
    }

    fn place(&self, line: LineId) -> Option<usize> {
        if self.sealed {
            return self.parts.binary_search_by_key(&line, |(line, _)| *line).ok();
        }
        self.places.get(&line).copied()
    }
}

/// Reads of a segment that fail before what cannot be read counts as damaged.
pub const PATIENCE: u32 = 10;
/// Damaged places that are remembered as told.
const TOLD_MAX: usize = 10_000;
