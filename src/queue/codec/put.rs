//! Writing heads of records.

use bytes::{BufMut, BytesMut};

use super::super::line::LineId;
use super::super::record::{DeadLetter, DeadSource, Record, Stored};
use super::{
    AT_GROUP, AT_OUTBOX, ATTEMPT, ATTEMPTS, CHUNK, CHUNK_AT, CHUNK_EPOCH, COUNT, DEAD, DEAD_GONE, DEAD_REASON,
    DEAD_SEQ, ENTRIES, EPOCH, EPOCH_NUMBER, ERROR, FAILED, FAILURES, FROM_NUMBER, FROM_RELAY, FROM_UNIT, GAP, GROUP,
    INBOX, KEPT, KEY, MIRROR, NOT_BEFORE, ONLY, OUT, PLACE, REASON, REDRIVEN, RELAY, RELAYED, REMEMBERED, REROUTED,
    RUNS, SEQ, SETTLED, SKIPPED, STORED, TOPIC, UNIT, VALUE,
};
use crate::model::{GapReason, Message, Name, Seq};
use crate::wire::attributes::{put_bytes, put_number, put_number_and_bytes, put_varint};

type Lines = Vec<(LineId, Seq)>;

/// Appends the head. Says its kind, the lines of the record, and the message that follows.
pub(super) fn head<'a>(out: &mut BytesMut, record: &'a Record) -> (u8, Lines, Option<&'a Message>) {
    let kind = match record {
        Record::Stored(stored) => return (STORED, put_stored(out, stored), Some(&stored.message)),
        Record::Dead(letter) => {
            put_dead(out, letter);
            let lines = vec![(LineId::dead_letters(), letter.seq)];
            return (DEAD, lines, Some(&letter.message));
        }
        Record::Remembered(chunk) => {
            put_number(out, CHUNK, chunk.number);
            put_bytes(out, CHUNK_EPOCH, &chunk.epoch.to_be_bytes());
            put_number(out, CHUNK_AT, chunk.at.0);
            put_bytes(out, ENTRIES, &chunk.entries_as_bytes());
            return (REMEMBERED, vec![(LineId::remembered(), chunk.number)], None);
        }
        Record::Kept(kept) => {
            // Writing to a vector fails for no value of ours.
            put_bytes(out, VALUE, &serde_json::to_vec(&**kept).unwrap_or_default());
            KEPT
        }
        Record::Epoch(epoch) => {
            put_bytes(out, EPOCH_NUMBER, &epoch.to_be_bytes());
            EPOCH
        }
        Record::DeadGone { seqs, reason } => {
            put_runs(out, seqs);
            put_reason(out, *reason);
            DEAD_GONE
        }
        Record::Gap { .. } | Record::Skipped { .. } | Record::Relayed { .. } => put_link(out, record),
        Record::Settled { .. } | Record::Attempt { .. } => put_group(out, record),
    };
    (kind, Lines::new(), None)
}

fn put_stored(out: &mut BytesMut, stored: &Stored) -> Lines {
    let mut lines = Lines::with_capacity(stored.outs.len() + 2);
    if let Some((stream, seq)) = &stored.from {
        put_name(out, FROM_UNIT, &stream.unit);
        put_name(out, FROM_RELAY, &stream.relay);
        put_bytes(out, FROM_NUMBER, &pair(stream.epoch, *seq));
    }
    for (unit, seq) in &stored.outs {
        put_number_and_bytes(out, OUT, *seq, unit.as_str().as_bytes());
        lines.push((LineId::outbox(unit), *seq));
    }
    if let Some(seq) = stored.inbox {
        put_number(out, INBOX, seq);
        lines.push((LineId::inbox(&stored.message.topic), seq));
    }
    if let Some(group) = &stored.only {
        put_name(out, ONLY, group);
    }
    if let Some(seq) = stored.redriven {
        put_number(out, REDRIVEN, seq);
    }
    if let Some((unit, seq)) = &stored.rerouted {
        put_number_and_bytes(out, REROUTED, *seq, unit.as_str().as_bytes());
    }
    if let Some(seq) = stored.mirror {
        put_number(out, MIRROR, seq);
        lines.push((LineId::mirror(&stored.message.topic), seq));
    }
    lines
}

fn put_dead(out: &mut BytesMut, letter: &DeadLetter) {
    put_number(out, DEAD_SEQ, letter.seq);
    put_number(out, PLACE, u64::from(letter.place.code()));
    put_bytes(out, DEAD_REASON, letter.reason.as_bytes());
    put_number(out, ATTEMPTS, u64::from(letter.attempts));
    put_bytes(out, FAILURES, &pair(letter.first_failure.0, letter.last_failure.0));
    put_bytes(out, ERROR, letter.error.as_bytes());
    match &letter.at {
        DeadSource::None => {}
        DeadSource::Outbox(unit, seq) => put_number_and_bytes(out, AT_OUTBOX, *seq, unit.as_str().as_bytes()),
        DeadSource::Group(group, seq) => put_number_and_bytes(out, AT_GROUP, *seq, group.as_str().as_bytes()),
    }
}

fn put_link(out: &mut BytesMut, record: &Record) -> u8 {
    match record {
        Record::Gap {
            unit,
            seqs,
            reason,
            counts,
        } => {
            put_runs(out, &[*seqs]);
            put_reason(out, *reason);
            put_name(out, UNIT, unit);
            put_counts(out, counts);
            GAP
        }
        Record::Skipped { stream, seqs, reason } => {
            put_runs(out, &[*seqs]);
            put_reason(out, *reason);
            put_name(out, UNIT, &stream.unit);
            put_name(out, RELAY, &stream.relay);
            put_bytes(out, EPOCH_NUMBER, &stream.epoch.to_be_bytes());
            SKIPPED
        }
        Record::Relayed { unit, seqs, counts } => {
            put_runs(out, seqs);
            put_name(out, UNIT, unit);
            put_counts(out, counts);
            RELAYED
        }
        _ => 0,
    }
}

fn put_group(out: &mut BytesMut, record: &Record) -> u8 {
    match record {
        Record::Settled {
            topic,
            group,
            seqs,
            reason,
        } => {
            put_runs(out, seqs);
            if let Some(reason) = reason {
                put_reason(out, *reason);
            }
            put_name(out, TOPIC, topic);
            put_name(out, GROUP, group);
            SETTLED
        }
        Record::Attempt {
            topic,
            group,
            seq,
            failed,
            not_before,
            key,
        } => {
            put_name(out, TOPIC, topic);
            put_name(out, GROUP, group);
            put_number(out, SEQ, *seq);
            put_number(out, FAILED, u64::from(*failed));
            put_number(out, NOT_BEFORE, not_before.0);
            if let Some(key) = key {
                put_bytes(out, KEY, &key.to_be_bytes());
            }
            ATTEMPT
        }
        _ => 0,
    }
}

fn put_runs(out: &mut BytesMut, runs: &[(Seq, Seq)]) {
    let mut value = BytesMut::with_capacity(runs.len() * 4);
    for (first, last) in runs {
        put_varint(&mut value, *first);
        put_varint(&mut value, last.saturating_sub(*first));
    }
    put_bytes(out, RUNS, &value);
}

fn put_reason(out: &mut BytesMut, reason: GapReason) {
    put_number(out, REASON, u64::from(reason.code()));
}

fn put_name(out: &mut BytesMut, tag: u8, name: &Name) {
    put_bytes(out, tag, name.as_str().as_bytes());
}

fn put_counts(out: &mut BytesMut, counts: &[(Name, u64)]) {
    for (topic, count) in counts {
        put_number_and_bytes(out, COUNT, *count, topic.as_str().as_bytes());
    }
}

fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut rest = &mut bytes[..];
    rest.put_u64(first);
    rest.put_u64(second);
    bytes
}
