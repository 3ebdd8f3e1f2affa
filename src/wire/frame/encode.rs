//! Values to frames.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    HEADER_BYTES, MARK_IDEMPOTENT, MARK_LOCAL, MARK_PARK, NAME_BYTES_MAX, NAMES_MAX, clip, count, flag, kind, micros,
    tag,
};
use crate::model::{
    CancelReason, Code, Ending, Envelope, Facts, Key, Map, OnFailure, Part, RelayError, Request, Retry, RouteHints,
    RoutePush, RoutedBy,
};
use crate::wire::attributes;

/// Writes frames into a buffer; remembers which names the other side knows.
#[derive(Default)]
pub struct Encoder {
    names: Map<Bytes, u32>,
}

impl Encoder {
    /// An encoder for a new connection or stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call; `now` turns its deadline into remaining time (F3). With `large` the body is left out.
    pub fn request(&mut self, out: &mut BytesMut, id: u64, request: &Request, large: bool, now: Instant) {
        let path = self.name(out, &request.path);
        // Names are defined before the frame that uses them.
        for key in &request.hints.keys {
            self.name(out, &key.dimension);
        }
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
            for key in &request.hints.keys {
                put_key(out, key, self.names.get(&key.dimension).copied());
            }
            put_hints(out, &request.hints);
            put_facts(out, &request.facts);
            put_nonempty(out, tag::AUTHORITY, &request.authority);
            put_nonempty(out, tag::METADATA, request.metadata.as_bytes());
        });
    }

    /// The number of a name; defines it when it is new. `None` when the table is full or the name too long.
    fn name(&mut self, out: &mut BytesMut, name: &Bytes) -> Option<u32> {
        if let Some(number) = self.names.get(name) {
            return Some(*number);
        }
        if self.names.len() >= NAMES_MAX || name.len() > NAME_BYTES_MAX {
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
        if let Some(token) = &error.token {
            attributes::put_bytes(out, tag::TOKEN, token);
        }
        if let Some(ticket) = &error.ticket {
            attributes::put_bytes(out, tag::TICKET, ticket.to_string().as_bytes());
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

/// Please put another link in the place of this one.
pub fn put_renew(out: &mut BytesMut) {
    frame(out, kind::RENEW, 0, 0, &[], |_| {});
}

/// Another link has taken the place of this one; with `done`, no call of the sender is left on it.
pub fn put_retire(out: &mut BytesMut, done: bool) {
    frame(out, kind::RETIRE, if done { flag::END } else { 0 }, 0, &[], |_| {});
}

/// What a local service serves; a protobuf `Register`.
pub fn put_register(out: &mut BytesMut, id: u64, body: &[u8]) {
    frame(out, kind::REGISTER, 0, id, body, |_| {});
}

/// Answer to a `Register`; a protobuf `Registered`.
pub fn put_registered(out: &mut BytesMut, id: u64, body: &[u8]) {
    frame(out, kind::REGISTERED, 0, id, body, |_| {});
}

/// A key that the service used has another owner.
pub fn put_route(out: &mut BytesMut, push: &RoutePush) {
    frame(out, kind::ROUTE, 0, 0, &[], |out| {
        put_key(out, &push.key, None);
        attributes::put_bytes(out, tag::TOKEN, &push.token);
    });
}

pub(super) fn frame(
    out: &mut BytesMut,
    kind: u8,
    flags: u8,
    id: u64,
    body: &[u8],
    put_attributes: impl FnOnce(&mut BytesMut),
) {
    out.reserve(HEADER_BYTES + 64 + body.len());
    let start = begin(out, kind, flags, id);
    put_attributes(out);
    let attributes_len = out.len() - start - HEADER_BYTES;
    out.put_slice(body);
    finish(out, start, attributes_len);
}

/// Begins a frame: its attributes follow, then its body, then [`finish`] with where it began.
pub(super) fn begin(out: &mut BytesMut, kind: u8, flags: u8, id: u64) -> usize {
    let start = out.len();
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_slice(&[0; 6]);
    out.put_u64(id);
    start
}

/// Ends a frame: writes its lengths into its header.
pub(super) fn finish(out: &mut BytesMut, start: usize, attributes_len: usize) {
    // Chunks are cut, and metadata and messages bounded, below the 16 MiB that three bytes can say.
    let length = |len: usize| {
        let [zero, high, middle, low] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        debug_assert_eq!(zero, 0, "frame part of {len} bytes");
        [high, middle, low]
    };
    let body_len = out.len() - start - HEADER_BYTES - attributes_len;
    if let Some(place) = out.get_mut(start + 2..start + 8) {
        let (attributes, body) = place.split_at_mut(3);
        attributes.copy_from_slice(&length(attributes_len));
        body.copy_from_slice(&length(body_len));
    }
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
    match &facts.routed_by {
        RoutedBy::Order => {}
        RoutedBy::Dimension(name) => attributes::put_bytes(out, tag::ROUTED_BY, name.as_str().as_bytes()),
        RoutedBy::NoKey => attributes::put_bytes(out, tag::ROUTED_BY, b""),
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
