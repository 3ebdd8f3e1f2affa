//! Frames to values.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::raw::Raw;
use super::sightings;
use super::{
    Frame, FrameError, LIST_MAX, MARK_IDEMPOTENT, MARK_LOCAL, MARK_PARK, NAME_BYTES_MAX, NAMES_MAX, clip, count, flag,
    kind, tag,
};
use crate::model::{
    CancelReason, Code, Ending, Envelope, Facts, Key, Metadata, Name, OnFailure, Part, Place, Reason, RelayError,
    ReplyBody, Request, RequestBody, Retry, RouteHints, RoutePush, RoutedBy, Source,
};
use crate::wire::attributes;

/// Reads frames from a byte stream; knows the names the other side has defined.
pub struct Decoder {
    buffer: BytesMut,
    names: Vec<Bytes>,
    recent: Recent,
    frame_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses frames longer than `frame_bytes_max` in all.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            names: Vec::new(),
            recent: Recent::default(),
            frame_bytes_max,
        }
    }

    /// Adds bytes as they came from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Room to read into; what was written there is taken by [`Decoder::next`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether a frame has begun but not ended: the sender may be slow.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame, if there is one. `now` is when its bytes were read.
    ///
    /// # Errors
    /// [`FrameError`]; the connection cannot go on after it.
    pub fn next(&mut self, now: Instant) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(raw) = Raw::split_off(&mut self.buffer, self.frame_bytes_max)? else {
                return Ok(None);
            };
            if raw.kind == kind::NAME {
                self.define(&raw)?;
                continue;
            }
            return self.frame(raw, now).map(Some);
        }
    }

    fn define(&mut self, raw: &Raw) -> Result<(), FrameError> {
        let expected = count(self.names.len());
        if raw.id != expected || self.names.len() >= NAMES_MAX || raw.body.len() > NAME_BYTES_MAX {
            return Err(FrameError::NameId(raw.id));
        }
        self.names.push(Bytes::copy_from_slice(&raw.body));
        Ok(())
    }

    fn frame(&mut self, raw: Raw, now: Instant) -> Result<Frame, FrameError> {
        let id = raw.id;
        Ok(match raw.kind {
            kind::REQUEST => self.request(raw, now)?,
            kind::REQUEST_BODY => Frame::RequestBody {
                id,
                large: raw.has(flag::LARGE),
                body: RequestBody {
                    end: raw.has(flag::END),
                    chunk: raw.body,
                },
            },
            kind::REPLY => reply(raw)?,
            kind::CANCEL => cancel(raw)?,
            kind::FAILED => failed(raw)?,
            kind::CREDIT => credit(raw)?,
            kind::PING => Frame::Ping(id),
            kind::PONG => Frame::Pong(id),
            kind::DRAIN => Frame::Drain,
            kind::RENEW => Frame::Renew,
            kind::RETIRE => Frame::Retire {
                done: raw.has(flag::END),
            },
            kind::HELLO => Frame::Hello(raw.body),
            kind::REGISTER => Frame::Register { id, body: raw.body },
            kind::REGISTERED => Frame::Registered { id, body: raw.body },
            kind::ROUTE => route(raw)?,
            kind::SIGHTINGS => sightings::read(raw)?,
            unknown if unknown >= 128 => return Err(FrameError::Mandatory(unknown)),
            unknown => Frame::Unknown(unknown),
        })
    }

    fn name(&self, number: u64) -> Result<Bytes, FrameError> {
        usize::try_from(number)
            .ok()
            .and_then(|index| self.names.get(index).cloned())
            .ok_or(FrameError::NameId(number))
    }

    fn key(&self, raw: &Raw, block: &Bytes, mut value: &[u8]) -> Result<Key, FrameError> {
        let number = attributes::take_varint(&mut value).ok_or(raw.bad(tag::KEY))?;
        Ok(Key {
            dimension: self.name(number)?,
            key: block.slice_ref(value),
        })
    }

    fn request(&mut self, mut raw: Raw, now: Instant) -> Result<Frame, FrameError> {
        let mut path = None;
        let mut request = Request {
            path: Bytes::new(),
            authority: Bytes::new(),
            envelope: if raw.has(flag::GRPC) {
                Envelope::Grpc
            } else {
                Envelope::Framed
            },
            metadata: Metadata::default(),
            hints: RouteHints::default(),
            facts: Facts::default(),
            received: now,
            deadline: None,
            body: RequestBody {
                chunk: std::mem::take(&mut raw.body),
                end: raw.has(flag::END),
            },
        };
        let (mut geo, mut unit, mut service) = (None, None, None);
        let block = std::mem::take(&mut raw.block);
        let mut rest: &[u8] = &block;
        while let Some((tag, value)) = raw.take(&mut rest)? {
            match tag {
                tag::PATH => path = Some(self.name(raw.number(tag, value)?)?),
                tag::PATH_TEXT => path = Some(block.slice_ref(value)),
                tag::TIMEOUT_US => {
                    request.deadline = now.checked_add(Duration::from_micros(raw.number(tag, value)?));
                }
                tag::KEY | tag::KEY_TEXT if request.hints.keys.len() >= LIST_MAX => {
                    return Err(FrameError::TooMany(raw.kind));
                }
                tag::VISITED if request.facts.visited.len() >= LIST_MAX => {
                    return Err(FrameError::TooMany(raw.kind));
                }
                tag::KEY => request.hints.keys.push(self.key(&raw, &block, value)?),
                tag::KEY_TEXT => request.hints.keys.push(key_text(&block, value).ok_or(raw.bad(tag))?),
                tag::UNIT => request.hints.unit = Some(self.recent.name(value).ok_or(raw.bad(tag))?),
                tag::CLASS => request.hints.class = Some(self.recent.name(value).ok_or(raw.bad(tag))?),
                tag::TOKEN => request.hints.token = Some(block.slice_ref(value)),
                tag::MARKS => read_marks(&mut request.hints, raw.number(tag, value)?),
                tag::METADATA => request.metadata = raw.metadata(block.slice_ref(value))?,
                tag::AUTHORITY => request.authority = block.slice_ref(value),
                tag::VISITED => request.facts.visited.push(self.recent.name(value).ok_or(raw.bad(tag))?),
                tag::EPOCH => request.facts.epoch = raw.number(tag, value)?,
                tag::ROUTED_BY if value.is_empty() => request.facts.routed_by = RoutedBy::NoKey,
                tag::ROUTED_BY => {
                    request.facts.routed_by = RoutedBy::Dimension(self.recent.name(value).ok_or(raw.bad(tag))?);
                }
                tag::ATTEMPT => request.facts.attempt = u8::try_from(raw.number(tag, value)?).unwrap_or(u8::MAX),
                tag::REQUEST_ID => request.facts.request_id = raw.number(tag, value)?,
                tag::SOURCE_GEO => geo = Some(self.recent.name(value).ok_or(raw.bad(tag))?),
                tag::SOURCE_UNIT => unit = Some(self.recent.name(value).ok_or(raw.bad(tag))?),
                tag::SOURCE_SERVICE => service = Some(self.recent.name(value).ok_or(raw.bad(tag))?),
                unknown => raw.skip(unknown)?,
            }
        }
        request.path = path.ok_or(FrameError::Missing {
            kind: raw.kind,
            what: "a path",
        })?;
        if let (Some(geo), Some(unit)) = (geo, unit) {
            request.facts.source = Some(Source { geo, unit, service });
        }
        Ok(Frame::Request {
            id: raw.id,
            large: raw.has(flag::LARGE),
            request: Box::new(request),
        })
    }
}

/// Names seen last: the frames of a lane carry the same few again and again, which then cost a comparison and a reference
/// count instead of an allocation.
#[derive(Default)]
struct Recent {
    names: [Option<Name>; 8],
    next: usize,
}

impl Recent {
    fn name(&mut self, value: &[u8]) -> Option<Name> {
        let mut known = self.names.iter().flatten();
        if let Some(name) = known.find(|name| name.as_str().as_bytes() == value) {
            return Some(name.clone());
        }
        let name = Name::new(std::str::from_utf8(value).ok()?).ok()?;
        if let Some(place) = self.names.get_mut(self.next) {
            *place = Some(name.clone());
        }
        self.next = (self.next + 1) % self.names.len();
        Some(name)
    }
}

fn reply(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut http_status = 200;
    let mut metadata = Metadata::default();
    let mut end = Ending::default();
    let mut large_bytes = 0;
    let block = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::HTTP_STATUS => http_status = u16::try_from(raw.number(tag, value)?).map_err(|_| raw.bad(tag))?,
            tag::METADATA => metadata = raw.metadata(block.slice_ref(value))?,
            tag::TRAILERS => end.trailers = raw.metadata(block.slice_ref(value))?,
            tag::STATUS => end.status = Code::from_number(raw.number(tag, value)?),
            tag::MESSAGE => end.message = block.slice_ref(value),
            tag::SERVICE_US => end.timing.service = Duration::from_micros(raw.number(tag, value)?),
            tag::RELAY_US => end.timing.relay = Duration::from_micros(raw.number(tag, value)?),
            tag::LARGE_BYTES => large_bytes = raw.number(tag, value)?,
            unknown => raw.skip(unknown)?,
        }
    }
    let part = Part {
        head: raw.has(flag::HEAD).then_some((http_status, metadata)),
        end: raw.has(flag::END).then_some(end),
        body: ReplyBody(std::mem::take(&mut raw.body)),
    };
    Ok(Frame::Reply {
        id: raw.id,
        part,
        large: raw.has(flag::LARGE),
        large_bytes,
    })
}

fn cancel(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut reason = CancelReason::Caller;
    let block = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::REASON => {
                reason = match raw.number(tag, value)? {
                    1 => CancelReason::Deadline,
                    2 => CancelReason::Protocol,
                    _ => CancelReason::Caller,
                }
            }
            unknown => raw.skip(unknown)?,
        }
    }
    Ok(Frame::Cancel { id: raw.id, reason })
}

fn credit(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut bytes = None;
    let block = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::CREDIT => bytes = usize::try_from(raw.number(tag, value)?).ok(),
            unknown => raw.skip(unknown)?,
        }
    }
    let bytes = bytes.ok_or(FrameError::Missing {
        kind: raw.kind,
        what: "a number of bytes",
    })?;
    Ok(Frame::Credit {
        id: raw.id,
        bytes,
        reply: raw.has(flag::REPLY),
    })
}

fn failed(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut reason = Reason::Internal;
    let mut retry = Retry::Ambiguous;
    let (mut pushback, mut owner, mut unit, mut relay, mut token, mut ticket) = (None, None, None, None, None, None);
    let block = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, mut value)) = raw.take(&mut rest)? {
        match tag {
            // A reason that a later version invented still ends the call; its text is kept.
            tag::REASON => {
                reason = std::str::from_utf8(value)
                    .ok()
                    .and_then(Reason::from_word)
                    .unwrap_or(Reason::Internal);
            }
            tag::RETRY => {
                retry = match raw.number(tag, value)? {
                    1 => Retry::Never,
                    2 => Retry::Safe,
                    _ => Retry::Ambiguous,
                }
            }
            tag::PUSHBACK_MS => pushback = Some(Duration::from_millis(raw.number(tag, value)?)),
            tag::OWNER => {
                let epoch = attributes::take_varint(&mut value).ok_or(raw.bad(tag))?;
                owner = Some((raw.name(tag, value)?, epoch));
            }
            tag::TOKEN => token = Some(block.slice_ref(value)),
            tag::TICKET => ticket = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
            tag::PLACE_UNIT => unit = Some(raw.name(tag, value)?),
            tag::PLACE_RELAY => relay = Some(raw.name(tag, value)?),
            unknown => raw.skip(unknown)?,
        }
    }
    let place = unit.zip(relay).map(|(unit, relay)| Place { unit, relay });
    let detail = String::from_utf8_lossy(clip(&raw.body, 4096)).into_owned();
    Ok(Frame::Failed {
        id: raw.id,
        error: Box::new(RelayError {
            reason,
            place,
            detail,
            retry,
            pushback,
            owner,
            token: token.map(Box::new),
            ticket: ticket.map(Box::new),
        }),
    })
}

fn route(mut raw: Raw) -> Result<Frame, FrameError> {
    let (mut key, mut token) = (None, None);
    let block = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        match tag {
            tag::KEY_TEXT => key = Some(key_text(&block, value).ok_or(raw.bad(tag))?),
            tag::TOKEN => token = Some(block.slice_ref(value)),
            unknown => raw.skip(unknown)?,
        }
    }
    let missing = |what| FrameError::Missing { kind: raw.kind, what };
    Ok(Frame::Route(RoutePush {
        key: key.ok_or(missing("a key"))?,
        token: token.ok_or(missing("a token"))?,
    }))
}

fn key_text(block: &Bytes, value: &[u8]) -> Option<Key> {
    let (&len, rest) = value.split_first()?;
    let (dimension, key) = rest.split_at_checked(usize::from(len))?;
    Some(Key {
        dimension: block.slice_ref(dimension),
        key: block.slice_ref(key),
    })
}

fn read_marks(hints: &mut RouteHints, marks: u64) {
    hints.idempotent = marks & MARK_IDEMPOTENT != 0;
    hints.on_failure = if marks & MARK_PARK != 0 {
        OnFailure::Park
    } else if marks & MARK_LOCAL != 0 {
        OnFailure::Local
    } else {
        OnFailure::Fail
    };
}
