//! Values to frames of lanes.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::{LEN_BYTES, NUMBERS_MAX, RUNS_MAX, TELL_DELIVERED, TEXT_BYTES_MAX};
use crate::model::lanes::{LaneKind, Refused, Sent, ToReceiver, ToSender};
use crate::model::{GapReason, Seq};
use crate::wire::frame::encode::{begin, finish};
use crate::wire::frame::{clip, count, kind, tag};
use crate::wire::{attributes, message};

/// Appends what a relay that has messages says.
pub fn put_to_receiver(out: &mut BytesMut, frame: &ToReceiver) {
    match frame {
        ToReceiver::Open { epoch, kind, base } => {
            let start = begin(out, kind::LANE_OPEN, 0, *epoch);
            let put = |out: &mut BytesMut| {
                attributes::put_number(out, tag::LANE, u64::from(*kind == LaneKind::Live));
                attributes::put_number(out, tag::BASE, *base);
            };
            end_with(out, start, put);
        }
        ToReceiver::Messages { batch, messages } => {
            let start = begin(out, kind::MESSAGES, 0, *batch);
            let mut before = 0;
            for sent in messages {
                put_number(out, &mut before, sent.seq);
                out.put_u8(if sent.tell_delivered { TELL_DELIVERED } else { 0 });
                put_message(out, sent);
            }
            finish(out, start, 0);
        }
        ToReceiver::Gap { batch, seqs, reason } => {
            let start = begin(out, kind::GAP, 0, *batch);
            let put = |out: &mut BytesMut| {
                attributes::put_number(out, tag::FIRST, seqs.0);
                attributes::put_number(out, tag::LAST, seqs.1);
                attributes::put_number(out, tag::REASON, known_to_all(*reason).code().into());
                if known_to_all(*reason) != *reason {
                    attributes::put_number(out, tag::CAUSE, reason.code().into());
                }
            };
            end_with(out, start, put);
        }
    }
}

/// Appends what a relay that takes messages says.
pub fn put_to_sender(out: &mut BytesMut, frame: &ToSender) {
    match frame {
        ToSender::Opened {
            frontier,
            above,
            highest,
        } => put_opened(out, *frontier, above, *highest),
        ToSender::Denied { detail } => {
            let start = begin(out, kind::LANE_DENIED, 0, 0);
            out.put_slice(clip(detail.as_bytes(), TEXT_BYTES_MAX));
            finish(out, start, 0);
        }
        ToSender::Ack { batch, refused } => {
            // All but the last speak for no number, so that the refusals are there before the word that nothing is open.
            let mut parts = refused.chunks(NUMBERS_MAX).peekable();
            while let Some(part) = parts.next() {
                put_refused(out, (kind::ACK, if parts.peek().is_some() { 0 } else { *batch }), part);
            }
            if refused.is_empty() {
                put_refused(out, (kind::ACK, *batch), &[]);
            }
        }
        ToSender::Busy { pushback } => {
            let start = begin(out, kind::BUSY, 0, 0);
            end_with(out, start, |out| {
                if let Some(pushback) = pushback {
                    attributes::put_number(out, tag::PUSHBACK_MS, millis(*pushback));
                }
            });
        }
        ToSender::Delivered { seqs } => {
            for part in seqs.chunks(NUMBERS_MAX) {
                let start = begin(out, kind::DELIVERED, 0, 0);
                let mut before = 0;
                for seq in part {
                    put_number(out, &mut before, *seq);
                }
                finish(out, start, 0);
            }
        }
        ToSender::Ended { ended } => {
            for part in ended.chunks(NUMBERS_MAX) {
                put_refused(out, (kind::ENDED, 0), part);
            }
        }
    }
}

fn put_message(out: &mut BytesMut, sent: &Sent) {
    let at = out.len();
    out.put_u32(0);
    message::put(out, &sent.message);
    let len = u32::try_from(out.len() - at - LEN_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + LEN_BYTES) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

fn put_opened(out: &mut BytesMut, frontier: Seq, above: &[(Seq, Seq)], highest: Seq) {
    let start = begin(out, kind::LANE_OPENED, 0, 0);
    let attributes_at = out.len();
    attributes::put_number(out, tag::FRONTIER, frontier);
    attributes::put_number(out, tag::HIGHEST, highest);
    let attributes_len = out.len() - attributes_at;
    let mut before = frontier;
    for (first, last) in above.iter().take(RUNS_MAX) {
        attributes::put_varint(out, first.wrapping_sub(before));
        attributes::put_varint(out, last.wrapping_sub(*first));
        before = *last;
    }
    finish(out, start, attributes_len);
}

fn put_refused(out: &mut BytesMut, (kind, id): (u8, u64), refused: &[Refused]) {
    let start = begin(out, kind, 0, id);
    let mut before = 0;
    for refused in refused {
        put_number(out, &mut before, refused.seq);
        for text in [&refused.reason, &refused.detail] {
            let text = clip(text.as_bytes(), TEXT_BYTES_MAX);
            attributes::put_varint(out, count(text.len()));
            out.put_slice(text);
        }
    }
    finish(out, start, 0);
}

/// Ends a frame that has attributes and no body.
fn end_with(out: &mut BytesMut, start: usize, put: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    put(out);
    let attributes_len = out.len() - at;
    finish(out, start, attributes_len);
}

/// Appends the difference to the number before; small whichever of the two is larger.
fn put_number(out: &mut BytesMut, before: &mut Seq, seq: Seq) {
    let up = seq.wrapping_sub(*before);
    // The sign moves to the lowest bit.
    let zigzag = if up >> 63 == 0 { up << 1 } else { !(up << 1) };
    attributes::put_varint(out, zigzag);
    *before = seq;
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The reason that relays are told which end a lane when they do not know the true one: for them as for all, what is skipped is
/// not missed.
fn known_to_all(reason: GapReason) -> GapReason {
    match reason {
        GapReason::Rerouted => GapReason::Purged,
        reason => reason,
    }
}
