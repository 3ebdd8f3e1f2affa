//! The frame: what lanes between relays and the framed protocol of local services are made of.
//!
//! ```text
//!  0        1        2                 4                                   8
//! +--------+--------+-----------------+-----------------------------------+
//! | kind   | flags  | attributes len  | body len                          |
//! +--------+--------+-----------------+-----------------------------------+
//! | id                                                                    |
//! +-----------------------------------------------------------------------+ 16
//! | attributes (`wire::attributes`) ...                                   |
//! +-----------------------------------------------------------------------+
//! | body ...                                                              |
//! +-----------------------------------------------------------------------+
//! ```
//! All numbers are big endian. `id` is the number the caller gave the call; replies carry it back. Its
//! lower 32 bits are an index below the number of calls the callee allows (`Hello.calls_max`), its upper
//! 32 bits a generation, so that neither side needs a hash map.
//!
//! # Invariants
//! - F1. A frame longer than the limit is refused from its header alone (W1).
//! - F2. Names are defined (`NAME`) before they are used; a reference to an unknown one is an error.
//! - F3. Deadlines travel as remaining time.
//!
//! # Not here
//! Who may send which frame when: `peer` and `ingress` decide that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::attributes::{self, AttributeError};
use crate::model::{
    CancelReason, Code, Ending, Envelope, Facts, Key, Metadata, MetadataError, Name, OnFailure, Part, Place, Reason,
    RelayError, ReplyBody, Request, RequestBody, Retry, RouteHints, Source,
};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;
/// Names one side may define on a connection.
pub const NAMES_MAX: usize = 4096;

/// One frame, decoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Frame {
    /// The caller gave up.
    Cancel {
        /// Call.
        id: u64,
        /// Why.
        reason: CancelReason,
    },
    /// Body bytes of the call were passed on. `reply` tells whose body.
    Credit {
        /// Call.
        id: u64,
        /// How many bytes.
        bytes: usize,
        /// Of the reply; else of the request.
        reply: bool,
    },
    /// The sender takes no new calls; open ones go on.
    Drain,
    /// A relay ended the call.
    Failed {
        /// Call.
        id: u64,
        /// How.
        error: Box<RelayError>,
    },
    /// First frame of each side; the body is a protobuf `Hello`.
    Hello(Bytes),
    /// Liveness probe; answered by `Pong` with the same number.
    Ping(u64),
    /// Answer to `Ping`.
    Pong(u64),
    /// Body is a protobuf `Register`: a local service says what it serves.
    Register {
        /// Number to answer to.
        id: u64,
        /// The message.
        body: Bytes,
    },
    /// Body is a protobuf `Registered`.
    Registered {
        /// Number of the `Register`.
        id: u64,
        /// The message.
        body: Bytes,
    },
    /// Some of a reply. With `large`, further body bytes come on a stream of their own.
    Reply {
        /// Call.
        id: u64,
        /// Content.
        part: Part,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
        /// With `large` and an end: how many bytes that stream carries in all.
        large_bytes: u64,
    },
    /// A call. With `large`, body bytes come on a stream of their own.
    Request {
        /// Call.
        id: u64,
        /// Content; `received` is the time the decoder was given, `deadline` counts from it.
        request: Box<Request>,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
    },
    /// More of a request body.
    RequestBody {
        /// Call.
        id: u64,
        /// Content.
        body: RequestBody,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
    },
    /// A kind this version does not know, without a mandatory bit: skipped.
    Unknown(u8),
}

/// Why bytes are not a frame. All of these end the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Attributes are broken.
    #[error("frame kind {kind}: {source}")]
    Attributes {
        /// Kind of frame.
        kind: u8,
        /// What is wrong.
        source: AttributeError,
    },
    /// An attribute that this kind needs is missing.
    #[error("frame kind {kind} lacks {what}")]
    Missing {
        /// Kind of frame.
        kind: u8,
        /// What is missing.
        what: &'static str,
    },
    /// A frame kind of 128 or more that this version does not know.
    #[error("frame kind {0} is mandatory and unknown to this version; upgrade this side")]
    Mandatory(u8),
    /// Metadata is broken.
    #[error("frame kind {kind}: {source}")]
    Metadata {
        /// Kind of frame.
        kind: u8,
        /// What is wrong.
        source: MetadataError,
    },
    /// A name id was used before it was defined, defined twice, or out of range.
    #[error("name {0} is not defined, defined twice, or out of range")]
    NameId(u64),
    /// The frame is longer than the limit of this connection.
    #[error("frame of {size} bytes exceeds the limit of {limit}")]
    TooLong {
        /// As its header says.
        size: usize,
        /// As the settings say.
        limit: usize,
    },
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const REQUEST_BODY: u8 = 4;
    pub(super) const CANCEL: u8 = 5;
    pub(super) const REPLY: u8 = 6;
    pub(super) const FAILED: u8 = 7;
    pub(super) const CREDIT: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
    pub(super) const DRAIN: u8 = 11;
    pub(super) const REGISTER: u8 = 12;
    pub(super) const REGISTERED: u8 = 13;
}

mod flag {
    /// Last body bytes (request) or end of the reply.
    pub(super) const END: u8 = 0x01;
    /// Further body bytes travel on a stream of their own.
    pub(super) const LARGE: u8 = 0x02;
    /// The body is in gRPC framing; else it is one message.
    pub(super) const GRPC: u8 = 0x04;
    /// The reply part carries status and initial metadata.
    pub(super) const HEAD: u8 = 0x08;
    /// Credit is for the reply; else for the request.
    pub(super) const REPLY: u8 = 0x10;
}

mod tag {
    pub(super) const PATH: u8 = 1;
    pub(super) const PATH_TEXT: u8 = 2;
    pub(super) const TIMEOUT_US: u8 = 3;
    pub(super) const KEY: u8 = 4;
    pub(super) const KEY_TEXT: u8 = 5;
    pub(super) const UNIT: u8 = 6;
    pub(super) const CLASS: u8 = 7;
    pub(super) const TOKEN: u8 = 8;
    pub(super) const MARKS: u8 = 9;
    pub(super) const METADATA: u8 = 10;
    pub(super) const AUTHORITY: u8 = 11;
    pub(super) const VISITED: u8 = 12;
    pub(super) const EPOCH: u8 = 13;
    pub(super) const SOURCE_SERVICE: u8 = 14;
    pub(super) const REQUEST_ID: u8 = 15;
    pub(super) const ATTEMPT: u8 = 16;
    pub(super) const HTTP_STATUS: u8 = 17;
    pub(super) const TRAILERS: u8 = 18;
    pub(super) const STATUS: u8 = 19;
    pub(super) const MESSAGE: u8 = 20;
    pub(super) const SERVICE_US: u8 = 21;
    pub(super) const RELAY_US: u8 = 22;
    pub(super) const REASON: u8 = 23;
    pub(super) const RETRY: u8 = 24;
    pub(super) const PUSHBACK_MS: u8 = 25;
    pub(super) const OWNER: u8 = 26;
    pub(super) const PLACE_UNIT: u8 = 27;
    pub(super) const PLACE_RELAY: u8 = 28;
    pub(super) const CREDIT: u8 = 29;
    pub(super) const LARGE_BYTES: u8 = 30;
    pub(super) const SOURCE_GEO: u8 = 31;
    pub(super) const SOURCE_UNIT: u8 = 32;
}

const MARK_IDEMPOTENT: u64 = 1;
const MARK_PARK: u64 = 2;
const MARK_LOCAL: u64 = 4;

/// Writes frames into a buffer; remembers which names the other side knows.
#[derive(Default)]
pub struct Encoder {
    names: HashMap<Bytes, u32>,
}

impl Encoder {
    /// An encoder for a new connection or stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call; `now` turns its deadline into remaining time (F3). With `large` the body is left out.
    pub fn request(&mut self, out: &mut BytesMut, id: u64, request: &Request, large: bool, now: Instant) {
        let path = self.name(out, &request.path);
        let dimensions: Vec<Option<u32>> = request
            .hints
            .keys
            .iter()
            .map(|key| self.name(out, &key.dimension))
            .collect();
        let mut flags = if large {
            flag::LARGE
        } else if request.body.end {
            flag::END
        } else {
            0
        };
        if request.envelope == Envelope::Grpc {
            flags |= flag::GRPC;
        }
        let body: &[u8] = if large { &[] } else { &request.body.chunk };
        frame(out, kind::REQUEST, flags, id, body, |out| {
            match path {
                Some(number) => attributes::put_number(out, tag::PATH, number.into()),
                None => attributes::put_bytes(out, tag::PATH_TEXT, &request.path),
            }
            if let Some(deadline) = request.deadline {
                attributes::put_number(out, tag::TIMEOUT_US, micros(deadline.saturating_duration_since(now)));
            }
            for (key, dimension) in request.hints.keys.iter().zip(dimensions) {
                put_key(out, key, dimension);
            }
            put_hints(out, &request.hints);
            put_facts(out, &request.facts);
            put_nonempty(out, tag::AUTHORITY, &request.authority);
            put_nonempty(out, tag::METADATA, request.metadata.as_bytes());
        });
    }

    /// The number of a name; defines it when it is new. `None` when the table is full.
    fn name(&mut self, out: &mut BytesMut, name: &Bytes) -> Option<u32> {
        if let Some(number) = self.names.get(name) {
            return Some(*number);
        }
        if self.names.len() >= NAMES_MAX {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        // A copy: the caller's bytes are part of a large read buffer that the table must not pin.
        self.names.insert(Bytes::copy_from_slice(name), number);
        frame(out, kind::NAME, 0, number.into(), name, |_| {});
        Some(number)
    }
}

/// First frame of a side.
pub fn put_hello(out: &mut BytesMut, hello: &[u8]) {
    frame(out, kind::HELLO, 0, 0, hello, |_| {});
}

/// More of a request body. With `large` it carries none: it says that the rest is on a stream.
pub fn put_request_body(out: &mut BytesMut, id: u64, chunk: &[u8], end: bool, large: bool) {
    let flags = if large {
        flag::LARGE
    } else if end {
        flag::END
    } else {
        0
    };
    frame(out, kind::REQUEST_BODY, flags, id, chunk, |_| {});
}

/// The caller gave up.
pub fn put_cancel(out: &mut BytesMut, id: u64, reason: CancelReason) {
    let number = match reason {
        CancelReason::Caller => 0,
        CancelReason::Deadline => 1,
        CancelReason::Protocol => 2,
    };
    frame(out, kind::CANCEL, 0, id, &[], |out| {
        attributes::put_number(out, tag::REASON, number);
    });
}

/// Body bytes were passed on.
pub fn put_credit(out: &mut BytesMut, id: u64, bytes: usize, reply: bool) {
    let flags = if reply { flag::REPLY } else { 0 };
    frame(out, kind::CREDIT, flags, id, &[], |out| {
        attributes::put_number(out, tag::CREDIT, count(bytes));
    });
}

/// Some of a reply. With `large` the body of the part is left out; `large_bytes` is told with the end.
pub fn put_reply(out: &mut BytesMut, id: u64, part: &Part, large: bool, large_bytes: u64) {
    let mut flags = 0;
    if part.head.is_some() {
        flags |= flag::HEAD;
    }
    if part.end.is_some() {
        flags |= flag::END;
    }
    if large {
        flags |= flag::LARGE;
    }
    let body: &[u8] = if large { &[] } else { &part.body.0 };
    frame(out, kind::REPLY, flags, id, body, |out| {
        if let Some((http_status, metadata)) = &part.head {
            if *http_status != 200 {
                attributes::put_number(out, tag::HTTP_STATUS, (*http_status).into());
            }
            put_nonempty(out, tag::METADATA, metadata.as_bytes());
        }
        if let Some(end) = &part.end {
            put_ending(out, end);
            if large_bytes > 0 {
                attributes::put_number(out, tag::LARGE_BYTES, large_bytes);
            }
        }
    });
}

/// A relay ended the call.
pub fn put_failed(out: &mut BytesMut, id: u64, error: &RelayError) {
    frame(out, kind::FAILED, 0, id, clip(error.detail.as_bytes(), 4096), |out| {
        attributes::put_bytes(out, tag::REASON, error.reason.as_str().as_bytes());
        let retry = match error.retry {
            Retry::Ambiguous => 0,
            Retry::Never => 1,
            Retry::Safe => 2,
        };
        attributes::put_number(out, tag::RETRY, retry);
        if let Some(pushback) = error.pushback {
            attributes::put_number(out, tag::PUSHBACK_MS, micros(pushback) / 1000);
        }
        if let Some((unit, epoch)) = &error.owner {
            attributes::put_number_and_bytes(out, tag::OWNER, *epoch, unit.as_str().as_bytes());
        }
        if let Some(place) = &error.place {
            attributes::put_bytes(out, tag::PLACE_UNIT, place.unit.as_str().as_bytes());
            attributes::put_bytes(out, tag::PLACE_RELAY, place.relay.as_str().as_bytes());
        }
    });
}

/// Liveness probe.
pub fn put_ping(out: &mut BytesMut, number: u64) {
    frame(out, kind::PING, 0, number, &[], |_| {});
}

/// Answer to a probe.
pub fn put_pong(out: &mut BytesMut, number: u64) {
    frame(out, kind::PONG, 0, number, &[], |_| {});
}

/// No new calls, please.
pub fn put_drain(out: &mut BytesMut) {
    frame(out, kind::DRAIN, 0, 0, &[], |_| {});
}

/// What a local service serves; a protobuf `Register`.
pub fn put_register(out: &mut BytesMut, id: u64, body: &[u8]) {
    frame(out, kind::REGISTER, 0, id, body, |_| {});
}

/// Answer to a `Register`; a protobuf `Registered`.
pub fn put_registered(out: &mut BytesMut, id: u64, body: &[u8]) {
    frame(out, kind::REGISTERED, 0, id, body, |_| {});
}

fn frame(out: &mut BytesMut, kind: u8, flags: u8, id: u64, body: &[u8], put_attributes: impl FnOnce(&mut BytesMut)) {
    out.reserve(HEADER_BYTES + 64 + body.len());
    out.put_u8(kind);
    out.put_u8(flags);
    let lengths_at = out.len();
    out.put_u16(0);
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_u64(id);
    let attributes_at = out.len();
    put_attributes(out);
    // Metadata and hints are bounded at the edges far below 64 KiB.
    let attributes_len = u16::try_from(out.len() - attributes_at).unwrap_or(u16::MAX);
    debug_assert_eq!(usize::from(attributes_len), out.len() - attributes_at);
    if let Some(slot) = out.get_mut(lengths_at..lengths_at + 2) {
        slot.copy_from_slice(&attributes_len.to_be_bytes());
    }
    out.put_slice(body);
}

fn put_key(out: &mut BytesMut, key: &Key, dimension: Option<u32>) {
    if let Some(number) = dimension {
        attributes::put_number_and_bytes(out, tag::KEY, number.into(), &key.key);
    } else {
        let mut text = BytesMut::with_capacity(1 + key.dimension.len() + key.key.len());
        text.put_u8(u8::try_from(key.dimension.len()).unwrap_or(u8::MAX));
        text.put_slice(clip(&key.dimension, 255));
        text.put_slice(&key.key);
        attributes::put_bytes(out, tag::KEY_TEXT, &text);
    }
}

fn put_hints(out: &mut BytesMut, hints: &RouteHints) {
    if let Some(unit) = &hints.unit {
        attributes::put_bytes(out, tag::UNIT, unit.as_str().as_bytes());
    }
    if let Some(class) = &hints.class {
        attributes::put_bytes(out, tag::CLASS, class.as_str().as_bytes());
    }
    if let Some(token) = &hints.token {
        attributes::put_bytes(out, tag::TOKEN, token);
    }
    let marks = u64::from(hints.idempotent) * MARK_IDEMPOTENT
        + match hints.on_failure {
            OnFailure::Fail => 0,
            OnFailure::Park => MARK_PARK,
            OnFailure::Local => MARK_LOCAL,
        };
    if marks != 0 {
        attributes::put_number(out, tag::MARKS, marks);
    }
}

fn put_facts(out: &mut BytesMut, facts: &Facts) {
    for unit in &facts.visited {
        attributes::put_bytes(out, tag::VISITED, unit.as_str().as_bytes());
    }
    if facts.epoch != 0 {
        attributes::put_number(out, tag::EPOCH, facts.epoch);
    }
    if facts.attempt != 0 {
        attributes::put_number(out, tag::ATTEMPT, facts.attempt.into());
    }
    if facts.request_id != 0 {
        attributes::put_number(out, tag::REQUEST_ID, facts.request_id);
    }
    if let Some(source) = &facts.source {
        attributes::put_bytes(out, tag::SOURCE_GEO, source.geo.as_str().as_bytes());
        attributes::put_bytes(out, tag::SOURCE_UNIT, source.unit.as_str().as_bytes());
        if let Some(service) = &source.service {
            attributes::put_bytes(out, tag::SOURCE_SERVICE, service.as_str().as_bytes());
        }
    }
}

fn put_ending(out: &mut BytesMut, end: &Ending) {
    if end.status != Code::Ok {
        attributes::put_number(out, tag::STATUS, end.status.number().into());
    }
    put_nonempty(out, tag::MESSAGE, clip(&end.message, 8192));
    put_nonempty(out, tag::TRAILERS, end.trailers.as_bytes());
    attributes::put_number(out, tag::SERVICE_US, micros(end.timing.service));
    attributes::put_number(out, tag::RELAY_US, micros(end.timing.relay));
}

fn put_nonempty(out: &mut BytesMut, tag: u8, value: &[u8]) {
    if !value.is_empty() {
        attributes::put_bytes(out, tag, value);
    }
}

/// Reads frames from a byte stream; knows the names the other side has defined.
pub struct Decoder {
    buffer: BytesMut,
    names: Vec<Bytes>,
    frame_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses frames longer than `frame_bytes_max` in all.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            names: Vec::new(),
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
            let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
                return Ok(None);
            };
            let [kind, flags, a0, a1, b0, b1, b2, b3, i0, i1, i2, i3, i4, i5, i6, i7] = *header;
            let attributes_len = usize::from(u16::from_be_bytes([a0, a1]));
            let body_len = usize::try_from(u32::from_be_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX);
            let size = HEADER_BYTES.saturating_add(attributes_len).saturating_add(body_len);
            if size > self.frame_bytes_max {
                return Err(FrameError::TooLong {
                    size,
                    limit: self.frame_bytes_max,
                });
            }
            if self.buffer.len() < size {
                return Ok(None);
            }
            let mut bytes = self.buffer.split_to(size).freeze();
            bytes.advance(HEADER_BYTES);
            let block = bytes.split_to(attributes_len);
            let raw = Raw {
                kind,
                flags,
                id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
                block,
                body: bytes,
            };
            if kind == kind::NAME {
                self.define(&raw)?;
                continue;
            }
            return self.frame(raw, now).map(Some);
        }
    }

    fn define(&mut self, raw: &Raw) -> Result<(), FrameError> {
        let expected = count(self.names.len());
        if raw.id != expected || self.names.len() >= NAMES_MAX || raw.body.len() > 1024 {
            return Err(FrameError::NameId(raw.id));
        }
        self.names.push(Bytes::copy_from_slice(&raw.body));
        Ok(())
    }

    fn frame(&self, raw: Raw, now: Instant) -> Result<Frame, FrameError> {
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
            kind::HELLO => Frame::Hello(raw.body),
            kind::REGISTER => Frame::Register { id, body: raw.body },
            kind::REGISTERED => Frame::Registered { id, body: raw.body },
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

    fn request(&self, mut raw: Raw, now: Instant) -> Result<Frame, FrameError> {
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
        while let Some((tag, mut value)) = raw.take()? {
            match tag {
                tag::PATH => path = Some(self.name(raw.number(tag, value)?)?),
                tag::PATH_TEXT => path = Some(value),
                tag::TIMEOUT_US => {
                    request.deadline = now.checked_add(Duration::from_micros(raw.number(tag, value)?));
                }
                tag::KEY => {
                    let number = attributes::take_varint(&mut value).ok_or(raw.bad(tag))?;
                    request.hints.keys.push(Key {
                        dimension: self.name(number)?,
                        key: value,
                    });
                }
                tag::KEY_TEXT => request.hints.keys.push(key_text(value).ok_or(raw.bad(tag))?),
                tag::UNIT => request.hints.unit = Some(raw.name(tag, &value)?),
                tag::CLASS => request.hints.class = Some(raw.name(tag, &value)?),
                tag::TOKEN => request.hints.token = Some(value),
                tag::MARKS => read_marks(&mut request.hints, raw.number(tag, value)?),
                tag::METADATA => request.metadata = raw.metadata(value)?,
                tag::AUTHORITY => request.authority = value,
                tag::VISITED => request.facts.visited.push(raw.name(tag, &value)?),
                tag::EPOCH => request.facts.epoch = raw.number(tag, value)?,
                tag::ATTEMPT => request.facts.attempt = u8::try_from(raw.number(tag, value)?).unwrap_or(u8::MAX),
                tag::REQUEST_ID => request.facts.request_id = raw.number(tag, value)?,
                tag::SOURCE_GEO => geo = Some(raw.name(tag, &value)?),
                tag::SOURCE_UNIT => unit = Some(raw.name(tag, &value)?),
                tag::SOURCE_SERVICE => service = Some(raw.name(tag, &value)?),
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

/// A frame whose attributes are not read yet.
struct Raw {
    kind: u8,
    flags: u8,
    id: u64,
    block: Bytes,
    body: Bytes,
}

impl Raw {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn take(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        attributes::take(&mut self.block).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    fn number(&self, tag: u8, value: Bytes) -> Result<u64, FrameError> {
        attributes::number(tag, value).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    fn name(&self, tag: u8, value: &[u8]) -> Result<Name, FrameError> {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| Name::new(text).ok())
            .ok_or(self.bad(tag))
    }

    fn metadata(&self, value: Bytes) -> Result<Metadata, FrameError> {
        Metadata::parse(value).map_err(|source| FrameError::Metadata {
            kind: self.kind,
            source,
        })
    }

    fn skip(&self, tag: u8) -> Result<(), FrameError> {
        attributes::skip_unknown(tag).map_err(|source| FrameError::Attributes {
            kind: self.kind,
            source,
        })
    }

    fn bad(&self, tag: u8) -> FrameError {
        FrameError::Attributes {
            kind: self.kind,
            source: AttributeError::Value(tag),
        }
    }
}

fn reply(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut http_status = 200;
    let mut metadata = Metadata::default();
    let mut end = Ending::default();
    let mut large_bytes = 0;
    while let Some((tag, value)) = raw.take()? {
        match tag {
            tag::HTTP_STATUS => http_status = u16::try_from(raw.number(tag, value)?).map_err(|_| raw.bad(tag))?,
            tag::METADATA => metadata = raw.metadata(value)?,
            tag::TRAILERS => end.trailers = raw.metadata(value)?,
            tag::STATUS => end.status = Code::from_number(raw.number(tag, value)?),
            tag::MESSAGE => end.message = value,
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
    while let Some((tag, value)) = raw.take()? {
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
    while let Some((tag, value)) = raw.take()? {
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
    let (mut pushback, mut owner, mut unit, mut relay) = (None, None, None, None);
    while let Some((tag, mut value)) = raw.take()? {
        match tag {
            // A reason that a later version invented still ends the call; its text is kept.
            tag::REASON => {
                reason = std::str::from_utf8(&value)
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
                owner = Some((raw.name(tag, &value)?, epoch));
            }
            tag::PLACE_UNIT => unit = Some(raw.name(tag, &value)?),
            tag::PLACE_RELAY => relay = Some(raw.name(tag, &value)?),
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
        }),
    })
}

fn key_text(mut value: Bytes) -> Option<Key> {
    if value.is_empty() {
        return None;
    }
    let len = usize::from(value.get_u8());
    (len <= value.len()).then(|| Key {
        dimension: value.split_to(len),
        key: value,
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn clip(bytes: &[u8], max: usize) -> &[u8] {
    bytes.get(..max).unwrap_or(bytes)
}
