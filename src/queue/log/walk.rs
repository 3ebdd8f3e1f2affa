//! Reads a segment record by record, and finds its way behind damage.
//!
//! # Invariants
//! - L12. What the disk does not give is an error first: it may give it later. A walk that confines takes it for damage, in
//!   pieces as small as a disk loses; only if the disk gives nothing of the file at all, it is an error still (M-A4).

use std::io;

use bytes::Bytes;

use super::format::{self, ALIGN, HEAD, HEADER, Head, Identity, MARK, Seeds, long};
use super::storage::{Storage, read_full};
use super::{Damage, Found, Position};
use crate::model::Seq;
use crate::queue::line::LineId;

/// A place in a segment, and what was read ahead of it.
pub(super) struct Walk<F> {
    pub(super) identity: Identity,
    /// Where the segment ends.
    pub(super) end: u64,
    file: F,
    seeds: Seeds,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    /// Bytes to read at a time.
    ahead: usize,
    /// Bytes read so far.
    pub(super) bytes_read: u64,
    /// Bytes that cannot be read are damage (L12).
    confines: bool,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes that are no record; if nothing but zeros, it may be that none was written.
    Damaged(Damage, Zeros),
    /// Nothing more.
    End,
    /// A record. Its head was right; its content has not been looked at.
    Record(Seen),
}

/// Whether all bytes are zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Zeros(pub(super) bool);

/// A record and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) head: Head,
    pub(super) offset: u32,
}

impl<F> Walk<F> {
    /// At the first record.
    pub(super) fn new(identity: Identity, file: F, end: u64, ahead: usize) -> Self {
        Self {
            seeds: identity.seeds(),
            identity,
            end,
            file,
            at: long(HEADER),
            window: Vec::new(),
            window_at: 0,
            ahead,
            bytes_read: 0,
            confines: false,
        }
    }

    /// Takes bytes that cannot be read for damage (L12).
    pub(super) fn confine(&mut self) {
        self.confines = true;
    }

    /// Goes to a place where a record begins.
    pub(super) fn seek(&mut self, offset: u32) {
        self.at = u64::from(offset);
    }

    /// Reads so much at a time from now on.
    pub(super) fn set_ahead(&mut self, bytes: usize) {
        self.ahead = bytes;
    }

    /// The next record or damaged place.
    pub(super) fn step<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<Step> {
        if self.at >= self.end {
            return Ok(Step::End);
        }
        if let Some(seen) = self.head(storage, self.at)? {
            self.at += seen.head.bytes();
            if u64::from(seen.offset) + long(seen.head.bytes_used()) > self.end {
                let mut damage = self.damage(u64::from(seen.offset), self.end);
                damage.lines = self.lines(storage, &seen)?;
                return Ok(Step::Damaged(damage, Zeros(false)));
            }
            return Ok(Step::Record(seen));
        }
        let from = self.at;
        let zeros = self.skip_damage(storage)?;
        Ok(Step::Damaged(self.damage(from, self.at), zeros))
    }

    /// Lines of a record.
    pub(super) fn lines<S: Storage<File = F>>(&mut self, storage: &S, seen: &Seen) -> io::Result<Vec<(LineId, Seq)>> {
        let front = self.bytes(storage, u64::from(seen.offset), seen.head.front_bytes())?;
        Ok(format::lines(front).collect())
    }

    /// Its number in a line, if it is in it.
    pub(super) fn seq<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        seen: &Seen,
        line: LineId,
    ) -> io::Result<Option<Seq>> {
        let front = self.bytes(storage, u64::from(seen.offset), seen.head.front_bytes())?;
        let mut lines = format::lines(front);
        Ok(lines.find(|(other, _)| *other == line).map(|(_, seq)| seq))
    }

    /// All of a record, or its damage.
    pub(super) fn found<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        seen: &Seen,
    ) -> io::Result<Result<Found, Damage>> {
        let (seeds, offset) = (self.seeds, u64::from(seen.offset));
        let segment = self.identity.first;
        let record = self.bytes(storage, offset, seen.head.bytes_used())?;
        let (front, content) = record.split_at_checked(seen.head.front_bytes()).unwrap_or_default();
        let lines = format::lines(front).collect();
        if seen.head.is_whole(seeds, seen.offset, record) {
            return Ok(Ok(Found {
                position: Position {
                    segment,
                    offset: seen.offset,
                },
                kind: seen.head.kind,
                lines,
                content: Bytes::copy_from_slice(content),
            }));
        }
        let mut damage = self.damage(offset, offset + seen.head.bytes());
        damage.lines = lines;
        Ok(Err(damage))
    }

    fn damage(&self, from: u64, to: u64) -> Damage {
        Damage {
            segment: self.identity.first,
            bytes: (from, to),
            lines: Vec::new(),
            unfinished: false,
        }
    }

    fn head<S: Storage<File = F>>(&mut self, storage: &S, at: u64) -> io::Result<Option<Seen>> {
        let (Ok(offset), seeds) = (u32::try_from(at), self.seeds) else {
            return Ok(None);
        };
        let Some(head) = Head::peek(self.bytes(storage, at, HEAD)?) else {
            return Ok(None);
        };
        let front = self.bytes(storage, at, head.front_bytes())?;
        Ok(head.is_right(seeds, offset, front).then_some(Seen { head, offset }))
    }

    /// Goes to the next place behind this one where a record begins, or to the end.
    fn skip_damage<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<Zeros> {
        let mut zeros = true;
        let mut at = self.at;
        while at < self.end {
            // The place itself is no record; the rest of what was read may have one.
            let skip = usize::from(at == self.at);
            let bytes = self.bytes_ahead(storage, at)?;
            if bytes.is_empty() {
                break;
            }
            let blank = blank_pieces(bytes);
            if blank > 0 {
                at += long(blank).next_multiple_of(ALIGN);
                continue;
            }
            let mut places = bytes.chunks(PLACE).skip(skip);
            let mark = places.position(|place| place.starts_with(&MARK.to_be_bytes()));
            let skipped = mark.map_or(bytes.len(), |mark| (mark + skip) * PLACE);
            zeros &= bytes.iter().take(skipped).all(|byte| *byte == 0);
            at += long(skipped).next_multiple_of(ALIGN);
            if mark.is_some() && self.head(storage, at)?.is_some() {
                self.at = at;
                return Ok(Zeros(false));
            }
            if mark.is_some() {
                zeros = false;
                at += ALIGN;
            }
        }
        self.at = self.end;
        Ok(Zeros(zeros))
    }

    /// Bytes of the segment, fewer at its end.
    fn bytes<S: Storage<File = F>>(&mut self, storage: &S, at: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX));
        if self.cached(at, len).is_none() {
            self.load(storage, at, len)?;
        }
        let len = len.min(self.window.len());
        Ok(self.cached(at, len).unwrap_or_default())
    }

    /// Bytes from a place on, as many as were read ahead, some at least unless the file ends.
    fn bytes_ahead<S: Storage<File = F>>(&mut self, storage: &S, at: u64) -> io::Result<&[u8]> {
        self.bytes(storage, at, PLACE)?;
        let skip = at
            .checked_sub(self.window_at)
            .and_then(|skip| usize::try_from(skip).ok());
        Ok(skip.and_then(|skip| self.window.get(skip..)).unwrap_or_default())
    }

    fn cached(&self, at: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.window_at)?).ok()?;
        self.window.get(from..from.checked_add(len)?)
    }

    fn load<S: Storage<File = F>>(&mut self, storage: &S, at: u64, len: usize) -> io::Result<()> {
        let rest = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut window = std::mem::take(&mut self.window);
        window.clear();
        // Whole places, so that `skip_damage` sees each of them whole.
        let whole = len.max(self.ahead).next_multiple_of(PLACE);
        window.resize(whole.min(rest), 0);
        match read_full(storage, &self.file, at, &mut window) {
            Err(error) if self.confines => {
                self.read_pieces(storage, (at, at + long(whole.min(rest))), &mut window, error)?;
            }
            read => read?,
        }
        self.bytes_read += long(window.len());
        self.window = window;
        self.window_at = at;
        Ok(())
    }
}

impl<F> Walk<F> {
    /// Reads piece by piece what cannot be read at once.
    fn read_pieces<S: Storage<File = F>>(
        &self,
        storage: &S,
        (mut from, to): (u64, u64),
        window: &mut Vec<u8>,
        error: io::Error,
    ) -> io::Result<()> {
        let (mut some, mut none) = (false, false);
        window.clear();
        while from < to {
            let end = (from + 1).next_multiple_of(PIECE).min(to);
            let len = usize::try_from(end - from).unwrap_or(0);
            if let Some(mut piece) = self.piece(storage, from, len) {
                some = true;
                window.append(&mut piece);
            } else {
                none = true;
                window.resize(window.len() + len, UNREADABLE);
            }
            from = end;
        }
        let places = [0, self.end.saturating_sub(PIECE)];
        let mut elsewhere = places.into_iter().filter_map(|at| self.piece(storage, at, PLACE));
        if none && !some && elsewhere.next().is_none() {
            return Err(error);
        }
        Ok(())
    }

    /// A piece, if the disk gives it.
    fn piece<S: Storage<File = F>>(&self, storage: &S, at: u64, len: usize) -> Option<Vec<u8>> {
        (0..TRIES).find_map(|_| {
            let mut piece = vec![0; len];
            read_full(storage, &self.file, at, &mut piece).ok()?;
            Some(piece)
        })
    }
}

/// How many bytes are zeros, piece by piece: nearly all of a segment that was made ready and not used, compared as a whole.
fn blank_pieces(bytes: &[u8]) -> usize {
    let pieces = bytes.chunks(BLANK.len());
    let blank = pieces.take_while(|piece| BLANK.starts_with(piece));
    blank.map(<[u8]>::len).sum()
}

/// Bytes that a disk loses together.
const PIECE: u64 = 4096;
/// A piece that nothing was written to.
static BLANK: [u8; 4096] = [0; 4096];
/// Reads of a piece before it counts as lost.
const TRIES: usize = 3;
/// In the place of bytes that cannot be read: neither zeros, which could mean that nothing was written, nor a mark.
const UNREADABLE: u8 = 0xFF;
/// [`ALIGN`] as a length.
const PLACE: usize = 8;
