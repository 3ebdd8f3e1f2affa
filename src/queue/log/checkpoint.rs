//! Checkpoints as bytes: the state of the engine and the table of segments.
//!
//! ```text
//!  0 magic "STRAITCP"        8 version u32 = 1      12 number u64
//! 20 covers: segment u64    28 offset u32           32 next segment u64
//! 40 length of state u64    48 segments u64
//! 56 state | segments | checksum u32: CRC32C of all before it
//!
//! segment: first u64 | last u64 | generation u32 | nonce 16 bytes | end u64 | lines u64
//! line:    line u64 | min u64 | max u64 | records u64 | bytes u64
//! ```

use bytes::{Buf, BufMut, BytesMut};
use crc32c::crc32c;

use super::Position;
use super::format::{Identity, is_summed, long, version};
use super::table::{Lines, Segment, Use};
use crate::queue::line::LineId;

/// A checkpoint that was read.
pub(super) struct Checkpoint {
    pub(super) number: u64,
    pub(super) covers: Position,
    pub(super) next: u64,
    pub(super) state: Vec<u8>,
    pub(super) segments: Vec<Segment>,
}

/// Why a checkpoint is of no use.
pub(super) enum Unfit {
    /// It is damaged, or was not finished.
    Damaged,
    /// A later version of Strait wrote it.
    Newer(u32),
}

/// Name of the file of a checkpoint.
pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// Number of the checkpoint in a file of this name.
pub(super) fn number(file: &str) -> Option<u64> {
    let number = u64::from_str_radix(file.strip_prefix(PREFIX)?, 16).ok()?;
    (name(number) == file).then_some(number)
}

impl Checkpoint {
    pub(super) fn to_bytes(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.state.len() + 1024);
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        out.put_u64(self.number);
        out.put_u64(self.covers.segment);
        out.put_u32(self.covers.offset);
        out.put_u64(self.next);
        out.put_u64(long(self.state.len()));
        out.put_u64(long(self.segments.len()));
        out.put_slice(&self.state);
        for segment in &self.segments {
            out.put_u64(segment.identity.first);
            out.put_u64(segment.identity.last);
            out.put_u32(segment.identity.generation);
            out.put_u128(segment.identity.nonce);
            out.put_u64(segment.end);
            out.put_u64(long(segment.lines.len()));
            for (line, part) in segment.lines.iter() {
                for number in [line.0, part.min, part.max, part.records, part.bytes] {
                    out.put_u64(number);
                }
            }
        }
        let sum = crc32c(&out);
        out.put_u32(sum);
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Unfit> {
        match version(bytes, MAGIC) {
            Some(version) if version > VERSION && is_summed(bytes) => return Err(Unfit::Newer(version)),
            Some(VERSION) if is_summed(bytes) => {}
            _ => return Err(Unfit::Damaged),
        }
        Self::read(bytes).ok_or(Unfit::Damaged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(MAGIC.len() + 4..bytes.len().checked_sub(4)?)?;
        let number = rest.try_get_u64().ok()?;
        let covers = Position {
            segment: rest.try_get_u64().ok()?,
            offset: rest.try_get_u32().ok()?,
        };
        let next = rest.try_get_u64().ok()?;
        let state_bytes = usize::try_from(rest.try_get_u64().ok()?).ok()?;
        let count = rest.try_get_u64().ok()?;
        let (state, mut rest) = rest.split_at_checked(state_bytes)?;
        let segments = (0..count).map(|_| segment(&mut rest)).collect::<Option<_>>()?;
        Some(Self {
            number,
            covers,
            next,
            state: state.to_vec(),
            segments,
        })
    }
}

fn segment(rest: &mut &[u8]) -> Option<Segment> {
    let identity = Identity {
        first: rest.try_get_u64().ok()?,
        last: rest.try_get_u64().ok()?,
        generation: rest.try_get_u32().ok()?,
        nonce: rest.try_get_u128().ok()?,
    };
    let end = rest.try_get_u64().ok()?;
    let count = rest.try_get_u64().ok()?;
    let lines = (0..count).map(|_| line(rest)).collect::<Option<Vec<_>>>()?;
    Some(Segment {
        identity,
        end,
        file_bytes: end,
        sealed: true,
        lines: Lines::from_parts(lines),
    })
}

fn line(rest: &mut &[u8]) -> Option<(LineId, Use)> {
    let line = LineId(rest.try_get_u64().ok()?);
    let part = Use {
        min: rest.try_get_u64().ok()?,
        max: rest.try_get_u64().ok()?,
        records: rest.try_get_u64().ok()?,
        bytes: rest.try_get_u64().ok()?,
    };
    Some((line, part))
}

const MAGIC: &[u8] = b"STRAITCP";
const VERSION: u32 = 1;
const PREFIX: &str = "checkpoint-";
