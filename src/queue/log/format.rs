//! Segments and records as bytes; the format is in the documentation of the log.

use bytes::{Buf, BufMut, BytesMut};
use crc32c::{crc32c, crc32c_append};

use super::Entry;
use crate::model::Seq;
use crate::queue::line::LineId;
use crate::wire::message;

/// Which file a segment is in. All of it is in the file's name, and again in its header.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Identity {
    /// Its number; of a merged one, the lowest of those it was made of.
    pub(super) first: u64,
    /// The highest of those it was made of; else its own.
    pub(super) last: u64,
    /// How often it was merged.
    pub(super) generation: u32,
    /// Random: which of all files that ever had this number.
    pub(super) nonce: u128,
}

/// What checksums of a segment begin with, so that a record of another segment is none of this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds {
    head: u32,
    content: u32,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    /// Offset of the first record that was written with it.
    pub(super) write: u32,
    lines: u16,
    content: u32,
    sum: u32,
    content_sum: u32,
}

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Header {
    /// It belongs to the file.
    Good,
    /// It is damaged; the name of the file says all that it said.
    Damaged,
    /// A later version of Strait wrote it.
    Newer(u32),
}

impl Identity {
    /// Whether this file was made of the other one.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last && self.generation > other.generation
    }

    /// Name of the file.
    pub(super) fn name(&self) -> String {
        let Self {
            first,
            last,
            generation,
            nonce,
        } = self;
        format!("{first:016x}-{last:016x}-{generation:08x}-{nonce:032x}{SUFFIX}")
    }

    /// Reads the name of a file; `None` if it is not one of a segment.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let identity = Self {
            first: u64::from_str_radix(parts.next()?, 16).ok()?,
            last: u64::from_str_radix(parts.next()?, 16).ok()?,
            generation: u32::from_str_radix(parts.next()?, 16).ok()?,
            nonce: u128::from_str_radix(parts.next()?, 16).ok()?,
        };
        (identity.name() == name && identity.first <= identity.last).then_some(identity)
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        out.put_u32(self.generation);
        out.put_u64(self.first);
        out.put_u64(self.last);
        out.put_u128(self.nonce);
        out.put_bytes(0, HEADER - out.len() - 4);
        let sum = crc32c(&out);
        out.put_u32(sum);
        out
    }

    /// Looks at the header of the file.
    pub(super) fn check(&self, header: &[u8]) -> Header {
        if header == self.header() {
            return Header::Good;
        }
        match version(header, MAGIC) {
            Some(version) if version > VERSION && is_summed(header) => Header::Newer(version),
            _ => Header::Damaged,
        }
    }

    pub(super) fn seeds(&self) -> Seeds {
        let mut halves = self.nonce.to_be_bytes();
        let (head, content) = halves.split_at_mut(8);
        Seeds {
            head: crc32c(head),
            content: crc32c(content),
        }
    }
}

impl Head {
    /// Reads the fixed part, without checking it.
    pub(super) fn peek(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEAD || bytes.get_u32() != MARK {
            return None;
        }
        let kind = bytes.get_u8();
        if bytes.get_u8() != 0 {
            return None;
        }
        Some(Self {
            kind,
            lines: bytes.get_u16(),
            content: bytes.get_u32(),
            write: bytes.get_u32(),
            sum: bytes.get_u32(),
            content_sum: bytes.get_u32(),
        })
    }

    /// Bytes of the fixed part and the lines.
    pub(super) fn front_bytes(&self) -> usize {
        HEAD + usize::from(self.lines) * LINE
    }

    /// Bytes of the record up to the next one.
    pub(super) fn bytes(&self) -> u64 {
        padded(long(self.front_bytes()) + u64::from(self.content))
    }

    /// Bytes of the record without those that fill up to the next one.
    pub(super) fn bytes_used(&self) -> usize {
        self.front_bytes()
            .saturating_add(usize::try_from(self.content).unwrap_or(usize::MAX))
    }

    /// Whether fixed part and lines are as they were written, in this place.
    pub(super) fn is_right(&self, seeds: Seeds, offset: u32, front: &[u8]) -> bool {
        head_sum(seeds, offset, front) == Some(self.sum)
    }

    /// Whether all of the record is as it was written, in this place.
    pub(super) fn is_whole(&self, seeds: Seeds, offset: u32, record: &[u8]) -> bool {
        content_sum(seeds, offset, record) == Some(self.content_sum)
    }
}

/// Lines in the front of a record.
pub(super) fn lines(front: &[u8]) -> impl Iterator<Item = (LineId, Seq)> {
    let lines = front.get(HEAD..).unwrap_or_default();
    lines
        .chunks_exact(LINE)
        .map(|mut line| (LineId(line.get_u64()), line.get_u64()))
}

/// Appends a record that begins at `offset` in the file; `out` begins at `write`. `None`: it is too long.
pub(super) fn put(out: &mut BytesMut, seeds: Seeds, write: u32, entry: &Entry) -> Option<u32> {
    let start = out.len();
    let offset = write.checked_add(u32::try_from(start).ok()?)?;
    out.put_u32(MARK);
    out.put_u8(entry.kind);
    out.put_u8(0);
    out.put_u16(u16::try_from(entry.lines.len()).ok()?);
    out.put_u32(0);
    out.put_u32(write);
    out.put_u64(0);
    for (line, seq) in &entry.lines {
        out.put_u64(line.0);
        out.put_u64(*seq);
    }
    let front = out.len() - start;
    out.put_slice(&entry.head);
    if let Some(message) = &entry.message {
        message::put(out, message);
    }
    let content = u32::try_from(out.len() - start - front).ok()?;
    let record = out.get_mut(start..)?;
    set(record, CONTENT_AT, content)?;
    let sum = head_sum(seeds, offset, record.get(..front)?)?;
    set(record, HEAD_SUM_AT, sum)?;
    let sum = content_sum(seeds, offset, record)?;
    set(record, CONTENT_SUM_AT, sum)?;
    let end = usize::try_from(padded(long(out.len() - start))).ok()?;
    out.put_bytes(0, end - (out.len() - start));
    (out.len() <= WRITE_BYTES_MAX).then_some(offset)
}

/// A record of the log's own: where segments before this one end. What is in their files behind that was never acknowledged.
pub(super) fn ends_entry(ends: &[(u128, u32)]) -> Entry {
    let mut head = BytesMut::with_capacity(ends.len() * END);
    for (nonce, end) in ends {
        head.put_u128(*nonce);
        head.put_u32(*end);
    }
    Entry {
        kind: OWN,
        lines: Vec::new(),
        head: head.freeze(),
        message: None,
    }
}

/// Reads the content of such a record.
pub(super) fn read_ends(content: &[u8]) -> impl Iterator<Item = (u128, u32)> {
    content.chunks_exact(END).map(|mut end| (end.get_u128(), end.get_u32()))
}

/// The version in a header that begins with `magic`.
pub(super) fn version(header: &[u8], magic: &[u8]) -> Option<u32> {
    let rest = header.strip_prefix(magic)?;
    rest.first_chunk().map(|version| u32::from_be_bytes(*version))
}

/// Whether bytes end with their checksum.
pub(super) fn is_summed(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(bytes, sum)| crc32c(bytes) == u32::from_be_bytes(*sum))
}

/// Up to the next place where a record may begin.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// A length as an offset in a file.
pub(super) fn long(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn head_sum(seeds: Seeds, offset: u32, front: &[u8]) -> Option<u32> {
    let sum = crc32c_append(seeds.head, &offset.to_be_bytes());
    let sum = crc32c_append(sum, front.get(..HEAD_SUM_AT)?);
    Some(crc32c_append(sum, front.get(HEAD..)?))
}

fn content_sum(seeds: Seeds, offset: u32, record: &[u8]) -> Option<u32> {
    let sum = crc32c_append(seeds.content, &offset.to_be_bytes());
    let sum = crc32c_append(sum, record.get(..CONTENT_SUM_AT)?);
    Some(crc32c_append(sum, record.get(HEAD..)?))
}

fn set(record: &mut [u8], at: usize, value: u32) -> Option<()> {
    record.get_mut(at..at + 4)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// Bytes before the first record of a segment.
pub(super) const HEADER: usize = 64;
/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// Bytes of the fixed part of a record.
pub(super) const HEAD: usize = 24;
/// Kind of records that the log writes for itself.
pub(super) const OWN: u8 = 0;
/// What a record begins with.
pub(super) const MARK: u32 = 0x5354_5243;
/// The most that is written at once: offsets have 32 bits.
pub(super) const WRITE_BYTES_MAX: usize = 1 << 30;

const MAGIC: &[u8] = b"STRAITLG";
const VERSION: u32 = 1;
const SUFFIX: &str = ".segment";
const LINE: usize = 16;
const END: usize = 20;
const CONTENT_AT: usize = 8;
const HEAD_SUM_AT: usize = 16;
const CONTENT_SUM_AT: usize = 20;
