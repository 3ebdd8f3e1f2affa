//! Records as bytes, for the log.
//!
//! ```text
//! head len u32 (big endian) | head (`wire::attributes`) | message (`wire::message`), of kinds 1 and 2
//!
//! kind 1 stored      tag 1 from: unit    text                tag 5 inbox     number
//!                    tag 2 from: relay   text                tag 6 only      text
//!                    tag 3 from          epoch u64 | seq u64 tag 7 redriven  number
//!                    tag 4 out, list     number | unit       tag 8 mirror    number
//!                    tag 9 rerouted      number | unit
//! kind 2 dead        tag 1 seq           number              tag 6 failures  first u64 | last u64
//!                    tag 2 place         number              tag 7 error     text
//!                    tag 3 reason        text                tag 8 outbox    number | unit
//!                    tag 5 attempts      number              tag 9 group     number | group
//! kind 3 dead gone   tag 1 runs, tag 2 reason number
//! kind 4 gap         tag 1 runs, tag 2 reason, tag 3 unit text, tag 6 count, list: number | topic
//! kind 5 skipped     tag 1 runs, tag 2 reason, tag 3 unit text, tag 4 relay text, tag 5 epoch u64
//! kind 6 relayed     tag 1 runs, tag 3 unit text, tag 6 count, list: number | topic
//! kind 7 settled     tag 1 runs, tag 2 reason, tag 7 topic text, tag 8 group text
//! kind 8 attempt     tag 7 topic text, tag 8 group text, tag 9 seq, tag 10 failed, tag 11 not before, tag 12 key u64
//! kind 9 kept        tag 1 value: JSON of `record::Kept`
//! kind 10 epoch      tag 5 epoch u64
//! kind 11 remembered tag 1 chunk number, tag 2 epoch u64, tag 3 at number, tag 4 entries (`dedup`)
//!
//! runs = (first varint | last - first varint)*; numbers of lines are from 1 to 2^62.
//! ```
//!
//! # Invariants
//! - K1. Any bytes either are a record or an error; nothing panics, and nothing is believed that cannot be.
//! - K2. A record is in the lines of all its numbers, so that what the log keeps for a line is what its owner needs.

mod put;
mod read;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::log::Entry;
use super::record::Record;
use crate::model::Message;
use crate::wire::attributes::{self, AttributeError};
use crate::wire::message::{self, MessageError};

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Its attributes are broken.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// The bytes end too early.
    #[error("the record is cut off")]
    Cut,
    /// A later version wrote it.
    #[error("the record is of kind {0}, which this version does not know")]
    Kind(u8),
    /// Its message is broken.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// What each record of the kind has is not there.
    #[error("the record lacks {0}")]
    Missing(&'static str),
}

/// A record as the log takes it.
pub fn encode(record: &Record) -> Entry {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u32(0);
    let (kind, lines, message) = put::head(&mut head, record);
    let len = u32::try_from(head.len() - LEN_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = head.get_mut(..LEN_BYTES) {
        place.copy_from_slice(&len.to_be_bytes());
    }
    Entry {
        kind,
        lines,
        head: head.freeze(),
        message: message.cloned(),
    }
}

/// Reads a record; a message keeps parts of the bytes.
///
/// # Errors
/// [`CodecError`].
pub fn decode(kind: u8, mut content: Bytes) -> Result<Record, CodecError> {
    let head = split_head(&mut content)?;
    match kind {
        STORED => read::stored(&head, content),
        DEAD => read::dead(&head, content),
        KEPT => read::kept(&head),
        REMEMBERED => read::remembered(&head),
        DEAD_GONE | GAP | SKIPPED | RELAYED | SETTLED | ATTEMPT | EPOCH => read::state(kind, &head),
        _ => Err(CodecError::Kind(kind)),
    }
}

/// Reads the message of a record, and of the rest of it only whether this version may read it: who reads a line back wants no more.
/// `None`: records of the kind have none.
///
/// # Errors
/// [`CodecError`].
pub fn decode_message(kind: u8, mut content: Bytes) -> Result<Option<Message>, CodecError> {
    let head = split_head(&mut content)?;
    let mut rest: &[u8] = &head;
    while let Some((tag, _)) = attributes::take(&mut rest)? {
        if tag >= MANDATORY {
            attributes::skip_unknown(tag)?;
        }
    }
    match kind {
        STORED | DEAD => Ok(Some(message::read(content)?)),
        _ => Ok(None),
    }
}

/// Takes the head off; the message is left.
fn split_head(content: &mut Bytes) -> Result<Bytes, CodecError> {
    if content.len() < LEN_BYTES {
        return Err(CodecError::Cut);
    }
    let len = usize::try_from(content.get_u32()).unwrap_or(usize::MAX);
    if content.len() < len {
        return Err(CodecError::Cut);
    }
    Ok(content.split_to(len))
}

/// Tags from here on have to be understood, and none of ours is that high.
const MANDATORY: u8 = 128;
const LEN_BYTES: usize = 4;
const HEAD_BYTES: usize = 64;
/// Numbers stay so far below the end that adding to them is safe.
const SEQ_MAX: u64 = 1 << 62;

const STORED: u8 = 1;
const DEAD: u8 = 2;
const DEAD_GONE: u8 = 3;
const GAP: u8 = 4;
const SKIPPED: u8 = 5;
const RELAYED: u8 = 6;
const SETTLED: u8 = 7;
const ATTEMPT: u8 = 8;
const KEPT: u8 = 9;
const EPOCH: u8 = 10;
const REMEMBERED: u8 = 11;

// Stored.
const FROM_UNIT: u8 = 1;
const FROM_RELAY: u8 = 2;
const FROM_NUMBER: u8 = 3;
const OUT: u8 = 4;
const INBOX: u8 = 5;
const ONLY: u8 = 6;
const REDRIVEN: u8 = 7;
const MIRROR: u8 = 8;
const REROUTED: u8 = 9;
// Dead.
const DEAD_SEQ: u8 = 1;
const PLACE: u8 = 2;
const DEAD_REASON: u8 = 3;
const ATTEMPTS: u8 = 5;
const FAILURES: u8 = 6;
const ERROR: u8 = 7;
const AT_OUTBOX: u8 = 8;
const AT_GROUP: u8 = 9;
// Kept.
const VALUE: u8 = 1;
// Remembered.
const CHUNK: u8 = 1;
const CHUNK_EPOCH: u8 = 2;
const CHUNK_AT: u8 = 3;
const ENTRIES: u8 = 4;
// All others.
const RUNS: u8 = 1;
const REASON: u8 = 2;
const UNIT: u8 = 3;
const RELAY: u8 = 4;
const EPOCH_NUMBER: u8 = 5;
const COUNT: u8 = 6;
const TOPIC: u8 = 7;
const GROUP: u8 = 8;
const SEQ: u8 = 9;
const FAILED: u8 = 10;
const NOT_BEFORE: u8 = 11;
const KEY: u8 = 12;
