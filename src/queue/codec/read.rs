//! Reading heads of records.

use bytes::{Buf, Bytes};

use super::super::dedup::Chunk;
use super::super::line::StreamId;
use super::super::record::{DeadLetter, DeadSource, Kept, Record, Stored};
use super::{
    AT_GROUP, AT_OUTBOX, ATTEMPT, ATTEMPTS, CHUNK, CHUNK_AT, CHUNK_EPOCH, COUNT, CodecError, DEAD_GONE, DEAD_REASON,
    DEAD_SEQ, ENTRIES, EPOCH, EPOCH_NUMBER, ERROR, FAILED, FAILURES, FROM_NUMBER, FROM_RELAY, FROM_UNIT, GAP, GROUP,
    INBOX, KEY, MIRROR, NOT_BEFORE, ONLY, OUT, PLACE, REASON, REDRIVEN, RELAY, RELAYED, REROUTED, RUNS, SEQ, SEQ_MAX,
    SETTLED, SKIPPED, TOPIC, UNIT, VALUE,
};
use crate::model::{DeadPlace, GapReason, Name, Seq, UnixMillis};
use crate::wire::attributes::{self, AttributeError};
use crate::wire::{message, names};

pub(super) fn stored(mut head: &[u8], content: Bytes) -> Result<Record, CodecError> {
    let mut stored = Stored {
        message: message::read(content)?,
        from: None,
        outs: Vec::new(),
        inbox: None,
        only: None,
        redriven: None,
        rerouted: None,
        mirror: None,
    };
    let (mut unit, mut relay, mut from) = (None, None, None);
    while let Some((tag, value)) = attributes::take(&mut head)? {
        match tag {
            FROM_UNIT => unit = Some(name(tag, value)?),
            FROM_RELAY => relay = Some(name(tag, value)?),
            FROM_NUMBER => from = Some(numbers(tag, value)?),
            OUT => {
                let (seq, unit) = number_and_name(tag, value)?;
                stored.outs.push((unit, legal(tag, seq)?));
            }
            INBOX => stored.inbox = Some(seq(tag, value)?),
            ONLY => stored.only = Some(name(tag, value)?),
            REDRIVEN => stored.redriven = Some(seq(tag, value)?),
            REROUTED => {
                let (seq, unit) = number_and_name(tag, value)?;
                stored.rerouted = Some((unit, legal(tag, seq)?));
            }
            MIRROR => stored.mirror = Some(seq(tag, value)?),
            _ => attributes::skip_unknown(tag)?,
        }
    }
    if let Some((epoch, seq)) = from {
        let stream = StreamId {
            unit: unit.ok_or(CodecError::Missing("the unit it came from"))?,
            relay: relay.ok_or(CodecError::Missing("the relay it came from"))?,
            epoch,
        };
        stored.from = Some((stream, legal(FROM_NUMBER, seq)?));
    }
    Ok(Record::Stored(Box::new(stored)))
}

pub(super) fn dead(mut head: &[u8], content: Bytes) -> Result<Record, CodecError> {
    let mut letter = DeadLetter {
        seq: 0,
        message: message::read(content)?,
        place: DeadPlace::Delivery,
        reason: String::new(),
        at: DeadSource::None,
        attempts: 0,
        first_failure: UnixMillis(0),
        last_failure: UnixMillis(0),
        error: String::new(),
    };
    while let Some((tag, value)) = attributes::take(&mut head)? {
        match tag {
            DEAD_SEQ => letter.seq = seq(tag, value)?,
            PLACE => letter.place = code(tag, value, DeadPlace::from_code)?,
            DEAD_REASON => letter.reason = text(tag, value)?,
            ATTEMPTS => letter.attempts = small(tag, value)?,
            FAILURES => {
                let (first, last) = numbers(tag, value)?;
                (letter.first_failure, letter.last_failure) = (UnixMillis(first), UnixMillis(last));
            }
            ERROR => letter.error = text(tag, value)?,
            AT_OUTBOX => {
                let (seq, unit) = number_and_name(tag, value)?;
                letter.at = DeadSource::Outbox(unit, legal(tag, seq)?);
            }
            AT_GROUP => {
                let (seq, group) = number_and_name(tag, value)?;
                letter.at = DeadSource::Group(group, legal(tag, seq)?);
            }
            _ => attributes::skip_unknown(tag)?,
        }
    }
    if letter.seq == 0 {
        return Err(CodecError::Missing("its number among the dead letters"));
    }
    Ok(Record::Dead(Box::new(letter)))
}

pub(super) fn kept(mut head: &[u8]) -> Result<Record, CodecError> {
    let mut kept = None;
    while let Some((tag, value)) = attributes::take(&mut head)? {
        match tag {
            VALUE => kept = Some(serde_json::from_slice::<Kept>(value).map_err(|_| AttributeError::Value(tag))?),
            _ => attributes::skip_unknown(tag)?,
        }
    }
    let kept = kept.ok_or(CodecError::Missing("its value"))?;
    Ok(Record::Kept(Box::new(kept)))
}

pub(super) fn remembered(mut head: &[u8]) -> Result<Record, CodecError> {
    let mut chunk = Chunk::default();
    while let Some((tag, value)) = attributes::take(&mut head)? {
        match tag {
            CHUNK => chunk.number = seq(tag, value)?,
            CHUNK_EPOCH => chunk.epoch = epoch(tag, value)?,
            CHUNK_AT => chunk.at = UnixMillis(attributes::number(tag, value)?),
            ENTRIES => chunk.entries = Chunk::entries_from_bytes(value).ok_or(AttributeError::Value(tag))?,
            _ => attributes::skip_unknown(tag)?,
        }
    }
    if chunk.number == 0 {
        return Err(CodecError::Missing("its number"));
    }
    Ok(Record::Remembered(Box::new(chunk)))
}

/// A record without a message.
pub(super) fn state(kind: u8, head: &[u8]) -> Result<Record, CodecError> {
    let mut parts = Parts::default();
    let mut rest = head;
    while let Some((tag, value)) = attributes::take(&mut rest)? {
        parts.take(tag, value)?;
    }
    parts.into_record(kind)
}

#[derive(Default)]
struct Parts {
    runs: Vec<(Seq, Seq)>,
    reason: Option<GapReason>,
    unit: Option<Name>,
    relay: Option<Name>,
    epoch: Option<u64>,
    counts: Vec<(Name, u64)>,
    topic: Option<Name>,
    group: Option<Name>,
    seq: Option<Seq>,
    failed: u32,
    not_before: UnixMillis,
    key: Option<u64>,
}

impl Parts {
    fn take(&mut self, tag: u8, value: &[u8]) -> Result<(), CodecError> {
        match tag {
            RUNS => self.runs = runs(tag, value)?,
            REASON => self.reason = Some(code(tag, value, GapReason::from_code)?),
            UNIT => self.unit = Some(name(tag, value)?),
            RELAY => self.relay = Some(name(tag, value)?),
            EPOCH_NUMBER => self.epoch = Some(epoch(tag, value)?),
            COUNT => {
                let (count, topic) = number_and_name(tag, value)?;
                self.counts.push((topic, count));
            }
            TOPIC => self.topic = Some(name(tag, value)?),
            GROUP => self.group = Some(name(tag, value)?),
            SEQ => self.seq = Some(seq(tag, value)?),
            FAILED => self.failed = small(tag, value)?,
            KEY => self.key = Some(epoch(tag, value)?),
            NOT_BEFORE => self.not_before = UnixMillis(attributes::number(tag, value)?),
            _ => attributes::skip_unknown(tag)?,
        }
        Ok(())
    }

    fn into_record(self, kind: u8) -> Result<Record, CodecError> {
        let unit = self.unit.ok_or(CodecError::Missing("its unit"));
        let topic = self.topic.ok_or(CodecError::Missing("its topic"));
        let group = self.group.ok_or(CodecError::Missing("its group"));
        let reason = self.reason.ok_or(CodecError::Missing("its reason"));
        let epoch = self.epoch.ok_or(CodecError::Missing("its epoch"));
        let first = self.runs.first().copied().ok_or(CodecError::Missing("its numbers"));
        let (seqs, counts) = (self.runs, self.counts);
        Ok(match kind {
            DEAD_GONE => Record::DeadGone { seqs, reason: reason? },
            GAP => Record::Gap {
                unit: unit?,
                seqs: first?,
                reason: reason?,
                counts,
            },
            SKIPPED => Record::Skipped {
                stream: StreamId {
                    unit: unit?,
                    relay: self.relay.ok_or(CodecError::Missing("its relay"))?,
                    epoch: epoch?,
                },
                seqs: first?,
                reason: reason?,
            },
            RELAYED => Record::Relayed {
                unit: unit?,
                seqs,
                counts,
            },
            SETTLED => Record::Settled {
                topic: topic?,
                group: group?,
                seqs,
                reason: self.reason,
            },
            ATTEMPT => Record::Attempt {
                topic: topic?,
                group: group?,
                seq: self.seq.ok_or(CodecError::Missing("its number"))?,
                failed: self.failed,
                not_before: self.not_before,
                key: self.key,
            },
            EPOCH => Record::Epoch(epoch?),
            _ => return Err(CodecError::Kind(kind)),
        })
    }
}

fn numbers(tag: u8, value: &[u8]) -> Result<(u64, u64), AttributeError> {
    let value: [u8; 16] = value.try_into().map_err(|_| AttributeError::Value(tag))?;
    let mut rest = &value[..];
    Ok((rest.get_u64(), rest.get_u64()))
}

fn epoch(tag: u8, value: &[u8]) -> Result<u64, AttributeError> {
    let value: [u8; 8] = value.try_into().map_err(|_| AttributeError::Value(tag))?;
    Ok(u64::from_be_bytes(value))
}

fn runs(tag: u8, mut value: &[u8]) -> Result<Vec<(Seq, Seq)>, AttributeError> {
    let mut runs = Vec::new();
    while !value.is_empty() {
        let first = attributes::take_varint(&mut value).ok_or(AttributeError::Value(tag))?;
        let more = attributes::take_varint(&mut value).ok_or(AttributeError::Value(tag))?;
        let last = first.checked_add(more).ok_or(AttributeError::Value(tag))?;
        runs.push((legal(tag, first)?, legal(tag, last)?));
    }
    Ok(runs)
}

fn seq(tag: u8, value: &[u8]) -> Result<Seq, AttributeError> {
    legal(tag, attributes::number(tag, value)?)
}

fn legal(tag: u8, seq: Seq) -> Result<Seq, AttributeError> {
    if (1..=SEQ_MAX).contains(&seq) {
        Ok(seq)
    } else {
        Err(AttributeError::Value(tag))
    }
}

fn small(tag: u8, value: &[u8]) -> Result<u32, AttributeError> {
    u32::try_from(attributes::number(tag, value)?).map_err(|_| AttributeError::Value(tag))
}

fn code<T>(tag: u8, value: &[u8], from: fn(u8) -> Option<T>) -> Result<T, AttributeError> {
    u8::try_from(attributes::number(tag, value)?)
        .ok()
        .and_then(from)
        .ok_or(AttributeError::Value(tag))
}

fn number_and_name(tag: u8, mut value: &[u8]) -> Result<(u64, Name), AttributeError> {
    let number = attributes::take_varint(&mut value).ok_or(AttributeError::Value(tag))?;
    Ok((number, name(tag, value)?))
}

fn name(tag: u8, value: &[u8]) -> Result<Name, AttributeError> {
    names::read(value).map_err(|_| AttributeError::Value(tag))
}

fn text(tag: u8, value: &[u8]) -> Result<String, AttributeError> {
    String::from_utf8(value.to_vec()).map_err(|_| AttributeError::Value(tag))
}
