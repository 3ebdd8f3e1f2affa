//! Calls to the other side: we call the service.

use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Connection;
use super::flow::{Inbox, Outbox, Paced};
use super::ids::Calls;
use super::session::Wire;
use crate::model::{
    CallerRef, CancelReason, Ending, Envelope, Facts, Metadata, MetadataBuilder, Part, Reason, RelayError, ReplyBody,
    ReplyEvent, Request, RequestBody, RequestEvent, Retry, RouteHints, SMALL_BODY_BYTES, wants_credit,
};
use crate::wire::envelope::{self, EnvelopeError, PREFIX_BYTES, UnaryStrip, UnaryWrap};
use crate::wire::frame;

/// Un-credited reply bytes of a translated call that its caller may hold.
const PACE_BYTES: usize = 256 * 1024;

/// Open calls to the other side, by the number we gave them.
#[derive(Default)]
pub(super) struct Outgoing {
    calls: Calls<Call>,
}

struct Call {
    caller: CallerRef,
    request: Outbox,
    reply: Inbox,
    sent: Instant,
    /// Set if the caller speaks gRPC framing.
    translation: Option<Box<Translation>>,
}

/// A gRPC caller at a framed service (C-G5).
struct Translation {
    strip: UnaryStrip,
    wrap: UnaryWrap,
    head: Metadata,
    paced: Paced,
    ending: Option<Ending>,
}

impl Outgoing {
    /// A new call.
    pub(super) fn on_open(
        &mut self,
        id: u64,
        mut request: Box<Request>,
        caller: CallerRef,
        connection: &Rc<Connection>,
        wire: &mut Wire<'_>,
    ) {
        let mut call = Call {
            caller,
            request: Outbox::default(),
            reply: Inbox::default(),
            sent: wire.now,
            translation: None,
        };
        if request.envelope == Envelope::Grpc {
            call.translation = Some(Box::new(Translation::new(wire)));
            request.metadata = envelope::carried(&request.metadata);
            request.envelope = Envelope::Framed;
        }
        narrow(&mut request);
        let body = std::mem::take(&mut request.body);
        let chunk_bytes = body.chunk.len();
        let end = body.end;
        let kept = match call.strip(body) {
            Ok(kept) => kept,
            Err(error) => {
                call.fail(&error, Retry::Never);
                connection.ids.borrow_mut().give(id);
                return;
            }
        };
        if call.request.passes(chunk_bytes, end) {
            request.body = RequestBody { chunk: kept, end };
            wire.encoder.request(wire.out, id, &request, false, wire.now);
        } else {
            let credit = call.request.push(chunk_bytes, kept, end);
            let first = call.request.next(wire.agreed.bytes_max);
            let mut credit_now = credit;
            if let Some(first) = first {
                credit_now += first.credit;
                request.body = RequestBody {
                    chunk: first.bytes,
                    end: first.end,
                };
            }
            wire.encoder.request(wire.out, id, &request, false, wire.now);
            call.credit(credit_now);
            call.pump(id, wire);
        }
        self.calls.put(id, call);
    }

    /// The caller has something to say.
    pub(super) fn on_event(&mut self, id: u64, event: RequestEvent, connection: &Rc<Connection>, wire: &mut Wire<'_>) {
        let Some(call) = self.calls.get(id) else { return };
        match event {
            RequestEvent::Body(body) => {
                let (chunk_bytes, end) = (body.chunk.len(), body.end);
                match call.strip(body) {
                    Ok(kept) => {
                        let credit = call.request.push(chunk_bytes, kept, end);
                        call.credit(credit);
                        call.pump(id, wire);
                    }
                    Err(error) => {
                        frame::put_cancel(wire.out, id, CancelReason::Protocol);
                        call.fail(&error, Retry::Ambiguous);
                        self.end(id, connection);
                    }
                }
            }
            RequestEvent::Cancel(reason) => {
                frame::put_cancel(wire.out, id, reason);
                self.end(id, connection);
            }
            RequestEvent::Credit(bytes) => {
                if call.translation.is_some() {
                    if call.pace(bytes) {
                        self.end(id, connection);
                    }
                } else {
                    call.reply.credit(bytes);
                    frame::put_credit(wire.out, id, bytes, true);
                }
            }
        }
    }

    /// The service has passed on request bytes.
    pub(super) fn on_request_credit(&mut self, id: u64, bytes: usize, wire: &mut Wire<'_>) {
        let Some(call) = self.calls.get(id) else { return };
        let credit = call.request.on_credit(bytes);
        call.credit(credit);
        call.pump(id, wire);
    }

    /// The service answers.
    pub(super) fn on_reply(&mut self, id: u64, mut part: Part, connection: &Rc<Connection>, wire: &mut Wire<'_>) {
        let window = wire.surroundings.limits.call_bytes_max;
        let Some(call) = self.calls.get(id) else { return };
        if let Some(end) = &mut part.end {
            end.timing.service = wire.now.saturating_duration_since(call.sent);
        }
        let (len, end) = (part.body.0.len(), part.end.is_some());
        if !call.reply.take(len, end, window) {
            frame::put_cancel(wire.out, id, CancelReason::Protocol);
            let detail = format!("the service sent more than {window} reply bytes without waiting for credit");
            call.caller.send(ReplyEvent::Failed(Box::new(RelayError::new(
                Reason::ServiceLost,
                Retry::Ambiguous,
                detail,
            ))));
            self.end(id, connection);
            return;
        }
        let ended = if call.translation.is_some() {
            call.on_translated(id, part, wire)
        } else {
            call.caller.send(ReplyEvent::Part(part));
            end
        };
        if ended {
            self.end(id, connection);
        }
    }

    /// The service, or its client library, could not take the call.
    pub(super) fn on_failed(&mut self, id: u64, error: &RelayError, connection: &Rc<Connection>) {
        let Some(call) = self.calls.get(id) else { return };
        // A service cannot speak for a relay: only its word on overload and on `Safe` counts (S3).
        let reason = match error.reason {
            Reason::Draining | Reason::Limited | Reason::Shed | Reason::UnknownService => Reason::ServiceUnavailable,
            _ => Reason::ServiceLost,
        };
        let mut error = RelayError::new(reason, error.retry, error.detail.clone());
        if error.detail.is_empty() {
            "the service gave the call up".clone_into(&mut error.detail);
        }
        call.caller.send(ReplyEvent::Failed(Box::new(error)));
        self.end(id, connection);
    }

    /// The connection has ended.
    pub(super) fn close(&mut self) {
        for (_, call) in self.calls.drain() {
            let detail = "the connection of the service broke while it worked on the call";
            let error = RelayError::new(Reason::ServiceLost, Retry::Ambiguous, detail);
            call.caller.send(ReplyEvent::Failed(Box::new(error)));
        }
    }

    /// The connection has ended before the request could be written.
    pub(super) fn never_sent(caller: &CallerRef) {
        let detail = "the connection of the service closed before the call was sent";
        let error = RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail);
        caller.send(ReplyEvent::Failed(Box::new(error)));
    }

    fn end(&mut self, id: u64, connection: &Rc<Connection>) {
        if self.calls.take(id).is_some() {
            connection.ids.borrow_mut().give(id);
        }
    }
}

impl Call {
    /// What of a chunk is for the service.
    fn strip(&mut self, body: RequestBody) -> Result<Bytes, EnvelopeError> {
        let Some(translation) = &mut self.translation else {
            return Ok(body.chunk);
        };
        let kept = translation.strip.push(body.chunk)?;
        if body.end {
            translation.strip.end()?;
        }
        Ok(kept)
    }

    fn pump(&mut self, id: u64, wire: &mut Wire<'_>) {
        while let Some(piece) = self.request.next(wire.agreed.bytes_max) {
            frame::put_request_body(wire.out, id, &piece.bytes, piece.end, false);
            self.credit(piece.credit);
        }
    }

    fn credit(&self, bytes: usize) {
        if bytes > 0 {
            self.caller.send(ReplyEvent::Credit(bytes));
        }
    }

    fn fail(&self, error: &EnvelopeError, retry: Retry) {
        let reason = match error {
            EnvelopeError::TooLong { .. } => Reason::TooLarge,
            _ => Reason::BadInput,
        };
        let error = RelayError::new(reason, retry, error.to_string());
        self.caller.send(ReplyEvent::Failed(Box::new(error)));
    }

    /// A reply part for a gRPC caller; `true` if the call has ended.
    fn on_translated(&mut self, id: u64, part: Part, wire: &mut Wire<'_>) -> bool {
        let Some(translation) = &mut self.translation else {
            return true;
        };
        if let Some((_, head)) = &part.head {
            translation.head = envelope::carried(head);
        }
        let (len, end) = (part.body.0.len(), part.end.is_some());
        if let Err(error) = translation.wrap.push(part.body.0) {
            frame::put_cancel(wire.out, id, CancelReason::Protocol);
            self.fail(&error, Retry::Ambiguous);
            return true;
        }
        // The message is held here until it is whole: the service may go on at once.
        if wants_credit(len, end) {
            self.reply.credit(len);
            frame::put_credit(wire.out, id, len, true);
        }
        let Some(end) = part.end else { return false };
        let has_message = end.status == crate::model::Code::Ok || !translation.wrap.is_empty();
        let (prefix, chunks) = translation.wrap.finish();
        if has_message {
            translation.paced.fill(prefixed(prefix, chunks));
        } else {
            translation.paced.fill([]);
        }
        translation.ending = Some(Ending {
            trailers: envelope::grpc_trailers(&end),
            ..end
        });
        let head = grpc_head(&translation.head);
        self.send_paced(Some((200, head)))
    }

    /// The gRPC caller has passed bytes on; `true` if the call has ended.
    fn pace(&mut self, bytes: usize) -> bool {
        if let Some(translation) = &mut self.translation {
            translation.paced.on_credit(bytes);
        }
        self.send_paced(None)
    }

    fn send_paced(&mut self, mut head: Option<(u16, Metadata)>) -> bool {
        let Some(translation) = &mut self.translation else {
            return true;
        };
        while let Some((chunk, last)) = translation.paced.next(PACE_BYTES) {
            self.caller.send(ReplyEvent::Part(Part {
                head: head.take(),
                body: ReplyBody(chunk),
                end: last.then(|| translation.ending.take().unwrap_or_default()),
            }));
            if last {
                return true;
            }
        }
        false
    }
}

impl Translation {
    fn new(wire: &Wire<'_>) -> Self {
        let limit = wire.surroundings.limits.message_bytes_max;
        Self {
            strip: UnaryStrip::new(limit),
            wrap: UnaryWrap::new(limit),
            head: Metadata::default(),
            paced: Paced::default(),
            ending: None,
        }
    }
}

/// Prefix and message; a small message is copied behind its prefix, so that it stays one chunk.
fn prefixed(prefix: [u8; PREFIX_BYTES], mut chunks: Vec<Bytes>) -> Vec<Bytes> {
    let len: usize = chunks.iter().map(Bytes::len).sum();
    if len <= SMALL_BODY_BYTES {
        let mut whole = BytesMut::with_capacity(PREFIX_BYTES + len);
        whole.extend_from_slice(&prefix);
        for chunk in &chunks {
            whole.extend_from_slice(chunk);
        }
        return vec![whole.freeze()];
    }
    chunks.insert(0, Bytes::copy_from_slice(&prefix));
    chunks
}

fn grpc_head(own: &Metadata) -> Metadata {
    let mut head = MetadataBuilder::new();
    let _ = head.push(b"content-type", b"application/grpc"); // a legal constant
    for (name, value) in own.iter() {
        let _ = head.push(name, value); // was legal in the frame it came in
    }
    head.build()
}

/// What the service is told: who calls, about which key and since when it is ours, not which way the call took.
fn narrow(request: &mut Request) {
    request.facts = Facts {
        source: request.facts.source.take(),
        request_id: request.facts.request_id,
        attempt: request.facts.attempt,
        epoch: request.facts.owner_epoch.unwrap_or_default(),
        ..Facts::default()
    };
    request.hints = RouteHints {
        keys: std::mem::take(&mut request.hints.keys),
        class: request.hints.class.take(),
        idempotent: request.hints.idempotent,
        ..RouteHints::default()
    };
}
