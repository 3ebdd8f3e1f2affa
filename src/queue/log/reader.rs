//! Reads lines back, while the writer goes on.
//!
//! # Invariants
//! - L4. A record is given out only if its checksum is right, and only if its batch was synced (L1).
//! - L5. Damage costs the damaged records and no others, and each place is told (M-A4).
//! - L6. Who reads a line in order reads each byte about once: the place is remembered, with what was read ahead.
//! - L14. Between the numbers that a scan gives none is missing that the log has: it goes no further than the segment that is
//!   written to, as that was when the scan came to it. What came meanwhile is left to the next scan, all of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::format::{Identity, OWN};
use super::storage::Storage;
use super::table::Shared;
use super::walk::{Seen, Step, Walk};
use super::{Damage, Found, Position, Scan, Scanned};
use crate::model::Seq;
use crate::queue::line::LineId;

/// One who reads.
pub struct Reader<S: Storage> {
    shared: Arc<Shared<S>>,
    cursors: VecDeque<Cursor<S::File>>,
    marks: Marks,
    damage: Vec<Damage>,
}

/// Where a scan of a line stopped.
struct Cursor<F> {
    line: LineId,
    /// The next number that is wanted.
    next: Seq,
    walk: Walk<F>,
}

/// Some places of lines: by segment and line, numbers and where they are. All higher numbers are behind.
#[derive(Default)]
struct Marks {
    places: BTreeMap<(u128, LineId), Vec<(Seq, u32)>>,
    count: usize,
}

/// A scan under way.
struct Progress {
    scan: Scan,
    /// The only number that is wanted.
    only: bool,
    found: Vec<(Seq, Found)>,
    bytes: usize,
    /// The next number that is wanted.
    next: Seq,
    bytes_read: u64,
}

impl<S: Storage> Reader<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self {
            shared,
            cursors: VecDeque::new(),
            marks: Marks::default(),
            damage: Vec::new(),
        }
    }

    /// Reads a line in the order of its numbers.
    ///
    /// # Errors
    /// If the disk does not give the bytes.
    pub fn scan(&mut self, scan: Scan) -> io::Result<Scanned> {
        self.read(scan, false)
    }

    /// Reads one record; `None` if it is not on disk or damaged.
    ///
    /// # Errors
    /// If the disk does not give the bytes.
    pub fn fetch(&mut self, line: LineId, seq: Seq) -> io::Result<Option<Found>> {
        let scan = Scan {
            line,
            from: seq,
            messages_max: 1,
            bytes_max: 0,
        };
        let mut scanned = self.read(scan, true)?;
        Ok(scanned.found.pop().map(|(_, found)| found))
    }

    /// Gives all records from a position on, in the order they were written.
    ///
    /// # Errors
    /// If the disk does not give the bytes.
    pub fn replay(&mut self, from: Position, mut f: impl FnMut(Found)) -> io::Result<()> {
        let mut after = None;
        loop {
            let next = {
                let table = self.shared.table();
                let mut behind = table.segments.values().filter(|segment| {
                    segment.identity.last >= from.segment && after.is_none_or(|after| segment.identity.last > after)
                });
                behind.next().map(|segment| (segment.identity, segment.end))
            };
            let Some((identity, end)) = next else { return Ok(()) };
            after = Some(identity.last);
            let mut walk = Walk::new(identity, self.open(&identity)?, end, AHEAD_MAX);
            // Who replays cannot wait for what may never be read.
            walk.confine();
            while let Some(seen) = self.step(&mut walk)? {
                let before = identity.first == from.segment && seen.offset < from.offset;
                if before || seen.head.kind == OWN {
                    continue;
                }
                match walk.found(&self.shared.storage, &seen)? {
                    Ok(found) => f(found),
                    Err(damage) => self.on_damage(&identity, damage),
                }
            }
        }
    }

    /// Damage that was found since the last call, each place once.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    fn read(&mut self, scan: Scan, only: bool) -> io::Result<Scanned> {
        let mut progress = Progress {
            scan,
            only,
            found: Vec::new(),
            bytes: 0,
            next: scan.from,
            bytes_read: 0,
        };
        let mut after = 0;
        loop {
            let target = {
                let table = self.shared.table();
                let holding = table.holding(scan.line, progress.next, after);
                holding.map(|segment| (segment.identity, segment.end, segment.sealed))
            };
            let Some((identity, end, sealed)) = target else {
                return Ok(progress.done(None));
            };
            let walk = match self.walk(&progress, &identity, end) {
                // Merged or released since; the table knows.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_there(&identity) => continue,
                walk => walk?,
            };
            let read = self.read_segment(&mut progress, walk);
            if self.shared.noted(&identity, read)? {
                let next = progress.next;
                return Ok(progress.done(Some(next)));
            }
            if !sealed {
                // It was the last one. More may have come into it since, and then behind it (L14).
                return Ok(progress.done(None));
            }
            after = identity.last;
        }
    }

    /// Reads what a segment has; whether that is all that was wanted.
    fn read_segment(&mut self, progress: &mut Progress, mut walk: Walk<S::File>) -> io::Result<bool> {
        let (line, identity) = (progress.scan.line, walk.identity);
        let read_before = walk.bytes_read;
        while let Some(seen) = self.step(&mut walk)? {
            let Some(seq) = walk.seq(&self.shared.storage, &seen, line)? else {
                continue;
            };
            self.marks.add(&identity, line, seq, seen.offset);
            if seq < progress.next {
                continue;
            }
            if progress.only && seq > progress.scan.from {
                return Ok(true);
            }
            // A damaged record ends no search: its number may be there again, in a file behind (F5).
            if self.take(progress, &mut walk, seq, &seen)? {
                progress.next = seq + 1;
            }
            if progress.is_full() {
                self.keep(line, progress.next, walk);
                return Ok(true);
            }
        }
        progress.bytes_read += walk.bytes_read - read_before;
        Ok(!progress.found.is_empty() && progress.bytes_read >= BYTES_READ_MAX)
    }

    /// Takes a record; `false` if it is damaged.
    fn take(&mut self, progress: &mut Progress, walk: &mut Walk<S::File>, seq: Seq, seen: &Seen) -> io::Result<bool> {
        match walk.found(&self.shared.storage, seen)? {
            Ok(found) => {
                progress.bytes += found.content.len();
                progress.found.push((seq, found));
                Ok(true)
            }
            Err(damage) => {
                self.on_damage(&walk.identity, damage);
                Ok(false)
            }
        }
    }

    /// The next record; `None` at the end.
    fn step(&mut self, walk: &mut Walk<S::File>) -> io::Result<Option<Seen>> {
        loop {
            match walk.step(&self.shared.storage)? {
                Step::Damaged(damage, _) => self.on_damage(&walk.identity, damage),
                Step::End => return Ok(None),
                Step::Record(seen) => return Ok(Some(seen)),
            }
        }
    }

    fn on_damage(&mut self, identity: &Identity, damage: Damage) {
        if self.shared.table().is_news(identity, damage.bytes.0) {
            self.damage.push(damage);
        }
    }

    /// A walk that meets the number that is wanted next.
    fn walk(&mut self, progress: &Progress, identity: &Identity, end: u64) -> io::Result<Walk<S::File>> {
        let ahead = if progress.only {
            AHEAD_MIN
        } else {
            progress.scan.bytes_max.clamp(AHEAD_MIN, AHEAD_MAX)
        };
        let (line, next) = (progress.scan.line, progress.next);
        let at = self.cursors.iter().position(|cursor| {
            cursor.line == line && cursor.next == next && cursor.walk.identity == *identity && !progress.only
        });
        if let Some(cursor) = at.and_then(|at| self.cursors.remove(at)) {
            let mut walk = cursor.walk;
            walk.end = end;
            walk.set_ahead(ahead);
            return Ok(walk);
        }
        let mut walk = Walk::new(*identity, self.open(identity)?, end, ahead);
        if self.shared.table().is_unreadable(identity) {
            walk.confine();
        }
        if let Some(offset) = self.marks.before(identity, line, next) {
            walk.seek(offset);
        }
        Ok(walk)
    }

    fn keep(&mut self, line: LineId, next: Seq, walk: Walk<S::File>) {
        if self.cursors.len() >= CURSORS_MAX {
            self.cursors.pop_front();
        }
        self.cursors.push_back(Cursor { line, next, walk });
    }

    fn open(&self, identity: &Identity) -> io::Result<S::File> {
        self.shared.storage.open(&identity.name())
    }

    fn is_there(&self, identity: &Identity) -> bool {
        let table = self.shared.table();
        let segment = table.segments.get(&identity.first);
        segment.is_some_and(|segment| segment.identity == *identity)
    }
}

impl Progress {
    fn is_full(&self) -> bool {
        self.found.len() >= self.scan.messages_max || (self.bytes >= self.scan.bytes_max && !self.found.is_empty())
    }

    fn done(self, next: Option<Seq>) -> Scanned {
        Scanned {
            found: self.found,
            next,
        }
    }
}

impl Marks {
    /// A place at or before the number.
    fn before(&self, identity: &Identity, line: LineId, seq: Seq) -> Option<u32> {
        let places = self.places.get(&(identity.nonce, line))?;
        let behind = places.partition_point(|(marked, _)| *marked <= seq);
        places.get(behind.checked_sub(1)?).map(|(_, offset)| *offset)
    }

    fn add(&mut self, identity: &Identity, line: LineId, seq: Seq, offset: u32) {
        if self.count >= MARKS_MAX {
            *self = Self::default();
        }
        let places = self.places.entry((identity.nonce, line)).or_default();
        if places
            .last()
            .is_none_or(|(last, at)| *last < seq && offset >= at.saturating_add(MARK_STEP))
        {
            places.push((seq, offset));
            self.count += 1;
        }
    }
}

/// Bytes read at a time.
const AHEAD_MIN: usize = 64 * 1024;
const AHEAD_MAX: usize = 1024 * 1024;
/// Bytes that one scan reads before it gives what it has.
const BYTES_READ_MAX: u64 = 64 * 1024 * 1024;
/// Lines read side by side without reading twice; each has up to 1 MiB read ahead.
const CURSORS_MAX: usize = 16;
/// Places that are remembered, of 16 bytes.
const MARKS_MAX: usize = 100_000;
/// Bytes of a segment between two of them.
const MARK_STEP: u32 = 64 * 1024;
