//! Frames of lanes to values.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::{FRAME_BYTES_MAX, LEN_BYTES, NUMBERS_MAX, RUNS_MAX, TELL_DELIVERED, TEXT_BYTES_MAX};
use crate::model::lanes::{LaneKind, Refused, Sent, ToReceiver, ToSender};
use crate::model::{GapReason, Seq};
use crate::wire::frame::raw::Raw;
use crate::wire::frame::{FrameError, clip, kind, tag};
use crate::wire::{attributes, message};

/// Reads frames of one direction of a lane.
#[derive(Default)]
pub struct LaneDecoder {
    buffer: BytesMut,
}

impl LaneDecoder {
    /// A decoder for a new lane.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame of the relay that sends messages, and its length.
    ///
    /// # Errors
    /// [`FrameError`]; the lane cannot go on after it.
    pub fn to_receiver(&mut self) -> Result<Option<(ToReceiver, usize)>, FrameError> {
        let before = self.buffer.len();
        while let Some(raw) = Raw::split_off(&mut self.buffer, FRAME_BYTES_MAX)? {
            let frame = match raw.kind {
                kind::LANE_OPEN => open(&raw)?,
                kind::MESSAGES => ToReceiver::Messages {
                    batch: raw.id,
                    messages: messages(raw.body)?,
                },
                kind::GAP => gap(&raw)?,
                unknown => {
                    skip(unknown)?;
                    continue;
                }
            };
            return Ok(Some((frame, before - self.buffer.len())));
        }
        Ok(None)
    }

    /// The next whole frame of the relay that receives messages.
    ///
    /// # Errors
    /// [`FrameError`]; the lane cannot go on after it.
    pub fn to_sender(&mut self) -> Result<Option<ToSender>, FrameError> {
        while let Some(raw) = Raw::split_off(&mut self.buffer, FRAME_BYTES_MAX)? {
            let frame = match raw.kind {
                kind::LANE_OPENED => opened(&raw)?,
                kind::LANE_DENIED => ToSender::Denied {
                    detail: text(&raw.body),
                },
                kind::ACK => ToSender::Ack {
                    batch: raw.id,
                    refused: refused(&raw)?,
                },
                kind::BUSY => busy(&raw)?,
                kind::DELIVERED => ToSender::Delivered {
                    seqs: numbers(&raw.body)?,
                },
                kind::ENDED => ToSender::Ended { ended: refused(&raw)? },
                unknown => {
                    skip(unknown)?;
                    continue;
                }
            };
            return Ok(Some(frame));
        }
        Ok(None)
    }
}

fn open(raw: &Raw) -> Result<ToReceiver, FrameError> {
    let (mut kind, mut base) = (None, None);
    let mut rest: &[u8] = &raw.block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::LANE => {
                kind = Some(match raw.number(tag, value)? {
                    0 => LaneKind::Backlog,
                    1 => LaneKind::Live,
                    _ => return Err(raw.bad(tag)),
                });
            }
            tag::BASE => base = Some(raw.number(tag, value)?),
            unknown => raw.skip(unknown)?,
        }
    }
    Ok(ToReceiver::Open {
        epoch: raw.id,
        kind: needed(raw, kind, "a lane")?,
        base: needed(raw, base, "a base")?,
    })
}

fn gap(raw: &Raw) -> Result<ToReceiver, FrameError> {
    let (mut first, mut last, mut reason, mut cause) = (None, None, None, None);
    let mut rest: &[u8] = &raw.block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::FIRST => first = Some(raw.number(tag, value)?),
            tag::LAST => last = Some(raw.number(tag, value)?),
            tag::REASON => {
                let code = u8::try_from(raw.number(tag, value)?).ok();
                reason = Some(code.and_then(GapReason::from_code).ok_or(raw.bad(tag))?);
            }
            tag::CAUSE => {
                let code = u8::try_from(raw.number(tag, value)?).ok();
                cause = code.and_then(GapReason::from_code);
            }
            unknown => raw.skip(unknown)?,
        }
    }
    let first = needed(raw, first, "a first number")?;
    let last = needed(raw, last, "a last number")?;
    if first == 0 || last < first {
        return Err(raw.bad(tag::LAST));
    }
    Ok(ToReceiver::Gap {
        batch: raw.id,
        seqs: (first, last),
        reason: cause.unwrap_or(needed(raw, reason, "a reason")?),
    })
}

fn messages(mut body: Bytes) -> Result<Vec<Sent>, FrameError> {
    const BROKEN: FrameError = FrameError::List(kind::MESSAGES);
    let mut messages = Vec::new();
    let mut before = 0;
    while !body.is_empty() {
        let mut rest: &[u8] = &body;
        let seq = take_number(&mut rest, &mut before).ok_or(BROKEN)?;
        body.advance(body.len() - rest.len());
        if body.len() < 1 + LEN_BYTES {
            return Err(BROKEN);
        }
        let flags = body.get_u8();
        let len = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
        if body.len() < len {
            return Err(BROKEN);
        }
        messages.push(Sent {
            seq,
            tell_delivered: flags & TELL_DELIVERED != 0,
            message: message::read(body.split_to(len))?,
        });
    }
    Ok(messages)
}

fn opened(raw: &Raw) -> Result<ToSender, FrameError> {
    let (mut frontier, mut highest) = (None, None);
    let mut rest: &[u8] = &raw.block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::FRONTIER => frontier = Some(raw.number(tag, value)?),
            tag::HIGHEST => highest = Some(raw.number(tag, value)?),
            unknown => raw.skip(unknown)?,
        }
    }
    let frontier = needed(raw, frontier, "a frontier")?;
    Ok(ToSender::Opened {
        frontier,
        above: runs(frontier, &raw.body).ok_or(FrameError::List(raw.kind))?,
        highest: needed(raw, highest, "a highest number")?,
    })
}

/// Runs that ascend and do not touch; `None` if they are something else.
fn runs(frontier: Seq, mut rest: &[u8]) -> Option<Vec<(Seq, Seq)>> {
    let mut runs = Vec::new();
    let mut before = frontier;
    while !rest.is_empty() {
        let step = attributes::take_varint(&mut rest).filter(|step| *step > 0)?;
        let first = before.checked_add(step)?;
        before = first.checked_add(attributes::take_varint(&mut rest)?)?;
        runs.push((first, before));
        if runs.len() > RUNS_MAX {
            return None;
        }
    }
    Some(runs)
}

fn refused(raw: &Raw) -> Result<Vec<Refused>, FrameError> {
    let broken = FrameError::List(raw.kind);
    let mut refused = Vec::new();
    let (mut rest, mut before): (&[u8], Seq) = (&raw.body, 0);
    while !rest.is_empty() {
        if refused.len() == NUMBERS_MAX {
            return Err(broken);
        }
        let seq = take_number(&mut rest, &mut before).ok_or(broken)?;
        refused.push(Refused {
            seq,
            reason: take_text(&mut rest).ok_or(broken)?,
            detail: take_text(&mut rest).ok_or(broken)?,
        });
    }
    Ok(refused)
}

fn busy(raw: &Raw) -> Result<ToSender, FrameError> {
    let mut pushback = None;
    let mut rest: &[u8] = &raw.block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::PUSHBACK_MS => pushback = Some(Duration::from_millis(raw.number(tag, value)?)),
            unknown => raw.skip(unknown)?,
        }
    }
    Ok(ToSender::Busy { pushback })
}

fn numbers(body: &[u8]) -> Result<Vec<Seq>, FrameError> {
    let mut seqs = Vec::new();
    let (mut rest, mut before) = (body, 0);
    while !rest.is_empty() {
        let seq = take_number(&mut rest, &mut before).filter(|_| seqs.len() < NUMBERS_MAX);
        seqs.push(seq.ok_or(FrameError::List(kind::DELIVERED))?);
    }
    Ok(seqs)
}

fn skip(kind: u8) -> Result<(), FrameError> {
    if kind >= 128 {
        return Err(FrameError::Mandatory(kind));
    }
    Ok(())
}

fn needed<T>(raw: &Raw, value: Option<T>, what: &'static str) -> Result<T, FrameError> {
    value.ok_or(FrameError::Missing { kind: raw.kind, what })
}

/// A number of a line; there is no 0.
fn take_number(rest: &mut &[u8], before: &mut Seq) -> Option<Seq> {
    let zigzag = attributes::take_varint(rest)?;
    let up = if zigzag & 1 == 0 { zigzag >> 1 } else { !(zigzag >> 1) };
    let seq = before.wrapping_add(up);
    *before = seq;
    (seq > 0).then_some(seq)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(attributes::take_varint(rest)?).ok()?;
    let (value, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(text(value))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(clip(bytes, TEXT_BYTES_MAX)).into_owned()
}
