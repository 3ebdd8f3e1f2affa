//! Calls of the other side: the service calls out through us.

use std::rc::Rc;
use std::time::Instant;

use super::flow::{Inbox, Outbox};
use super::ids::{self, Calls};
use super::session::Wire;
use super::{Connection, Limits, SessionError};
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Ending, Envelope, Facts, Metadata, Part, Reason, RelayError,
    ReplyBody, ReplyEvent, Request, RequestBody, RequestEvent, Retry,
};
use crate::wire::frame;
use crate::wire::pace::Progress;

/// Open calls of the other side.
///
/// They have two numbers with the same index: the one the other side gave, and ours for the callee. The
/// generation of ours never repeats soon, whatever the other side does, so that a late reply of an
/// ended call is never taken for one of a new call.
#[derive(Default)]
pub(super) struct Incoming {
    calls: Calls<Call>,
    generation: u32,
    /// Calls with a [`Watch`].
    watched: usize,
}

/// What moved of a call that was not over at once.
struct Watch {
    got: u64,
    request: Progress,
    reply: Option<Progress>,
}

struct Call {
    /// The number the other side gave.
    remote: u64,
    callee: Rc<dyn Callee>,
    id: CallId,
    request: Inbox,
    request_ended: bool,
    reply: Outbox,
    /// Waiting for the first piece of the reply.
    head: Option<(u16, Metadata)>,
    /// Waiting for the last piece of the reply.
    ending: Option<Ending>,
    /// Set if the request was not whole at once, or the reply had to wait for credit.
    watch: Option<Box<Watch>>,
}

impl Incoming {
    /// A new call.
    pub(super) fn on_open(
        &mut self,
        id: u64,
        mut request: Box<Request>,
        connection: &Rc<Connection>,
        draining: bool,
        wire: &mut Wire<'_>,
    ) -> Result<(), SessionError> {
        let limit = wire.surroundings.limits.calls_max;
        let within = ids::index(id) < usize::try_from(limit).unwrap_or(usize::MAX);
        if within && self.calls.at(ids::index(id)).is_some() {
            return Err(SessionError::Violation(
                "the index of an open call was used for a new one",
            ));
        }
        let mut inbox = Inbox::default();
        let body_ok = inbox.take(
            request.body.chunk.len(),
            request.body.end,
            wire.surroundings.limits.call_bytes_max,
        );
        let Some(callee) = wire.surroundings.callee_of(&request).cloned() else {
            let detail = "this connection was made to deliver calls; call out through the relay's framed socket";
            refuse(wire, id, &RelayError::new(Reason::BadInput, Retry::Never, detail));
            return Ok(());
        };
        let refusal = if !within {
            let detail = format!("this connection may have {limit} calls open");
            Some(RelayError::new(Reason::Limited, Retry::Safe, detail))
        } else if draining {
            let detail = "this relay is shutting down; connect to another one";
            Some(RelayError::new(Reason::Draining, Retry::Safe, detail))
        } else if request.envelope == Envelope::Grpc {
            let detail = "the GRPC flag is for links between relays; send the bare message";
            Some(RelayError::new(Reason::BadInput, Retry::Never, detail))
        } else if request.service().is_none() {
            let detail = "the path must have the form /package.Service/Method";
            Some(RelayError::new(Reason::BadInput, Retry::Never, detail))
        } else if body_ok {
            None
        } else {
            Some(overrun(wire))
        };
        if let Some(error) = refusal {
            refuse(wire, id, &error);
            return Ok(());
        }
        distrust(&mut request, wire);
        let request_ended = request.body.end;
        let port: Rc<dyn Caller> = Rc::<Connection>::clone(connection);
        self.generation = self.generation.wrapping_add(1);
        let local = ids::join(ids::index(id), self.generation);
        let back = CallerRef {
            port,
            id: CallId(local),
        };
        match callee.open(request, back) {
            Ok(callee_id) => {
                let call = Call {
                    remote: id,
                    callee,
                    id: callee_id,
                    request: inbox,
                    request_ended,
                    reply: Outbox::default(),
                    head: None,
                    ending: None,
                    watch: (!request_ended).then(|| Box::new(Watch::new(wire.now))),
                };
                self.watched += usize::from(call.watch.is_some());
                self.calls.put(local, call);
            }
            Err(refused) => frame::put_failed(wire.out, id, &refused.error),
        }
        Ok(())
    }

    /// More of a request body.
    pub(super) fn on_body(&mut self, id: u64, body: RequestBody, wire: &mut Wire<'_>) {
        let Some((local, call)) = self.find(id) else { return };
        let window = wire.surroundings.limits.call_bytes_max;
        let error = if call.request_ended {
            let detail = "the request body had ended before";
            Some(RelayError::new(Reason::BadInput, Retry::Ambiguous, detail))
        } else if call.request.take(body.chunk.len(), body.end, window) {
            None
        } else {
            Some(overrun(wire))
        };
        if let Some(error) = error {
            call.callee
                .on_request(call.id, RequestEvent::Cancel(CancelReason::Protocol));
            self.take(local);
            refuse(wire, id, &error);
            return;
        }
        call.request_ended = body.end;
        if let Some(watch) = &mut call.watch {
            watch.got = watch.got.saturating_add(u64::try_from(body.chunk.len()).unwrap_or(0));
        }
        call.callee.on_request(call.id, RequestEvent::Body(body));
    }

    /// The other side gave up.
    pub(super) fn on_cancel(&mut self, id: u64, reason: CancelReason) {
        let Some((local, call)) = self.find(id) else { return };
        call.callee.on_request(call.id, RequestEvent::Cancel(reason));
        self.take(local);
    }

    /// The other side has passed on reply bytes.
    pub(super) fn on_credit(&mut self, id: u64, bytes: usize, wire: &mut Wire<'_>) {
        let Some((local, call)) = self.find(id) else { return };
        let credit = call.reply.on_credit(bytes);
        if credit > 0 {
            call.callee.on_request(call.id, RequestEvent::Credit(credit));
        }
        if call.pump(wire) {
            self.take(local);
        }
    }

    /// The callee has something to say; `local` is our number.
    pub(super) fn on_event(&mut self, local: u64, event: ReplyEvent, wire: &mut Wire<'_>) {
        let Some(call) = self.calls.get(local) else { return };
        let id = call.remote;
        let ended = match event {
            ReplyEvent::Part(part) => call.on_part(part, wire),
            ReplyEvent::Failed(error) => {
                frame::put_failed(wire.out, id, &error);
                true
            }
            ReplyEvent::Credit(bytes) => {
                call.request.credit(bytes);
                if !call.request_ended {
                    frame::put_credit(wire.out, id, bytes, false);
                }
                false
            }
        };
        if ended {
            self.take(local);
        } else if call.watch.is_none() && call.reply.blocked(wire.agreed.bytes_max).is_some() {
            call.watch = Some(Box::new(Watch::new(wire.now)));
            self.watched += 1;
        }
    }

    /// Calls that the other side may hold up.
    pub(super) fn watched(&self) -> usize {
        self.watched
    }

    /// Ends calls of which too little moved. A framed call has one message in each direction, so all of a body is
    /// under way from its first byte to its last.
    pub(super) fn end_slow(&mut self, wire: &mut Wire<'_>) {
        let (limits, window) = (&wire.surroundings.limits, wire.agreed.bytes_max);
        let slow: Vec<_> = self
            .calls
            .iter_mut()
            .filter_map(|(local, call)| Some((local, call.slow(wire.now, limits, window)?)))
            .collect();
        for (local, what) in slow {
            let Some(call) = self.take(local) else { continue };
            call.callee
                .on_request(call.id, RequestEvent::Cancel(CancelReason::Deadline));
            let pace = &wire.surroundings.limits.body_pace;
            let detail = format!(
                "{what} less than {} bytes per second for {:?}",
                pace.bytes_per_second, pace.time
            );
            wire.surroundings.metrics.on_slow();
            let error = RelayError::new(Reason::DeadlineExceeded, Retry::Ambiguous, detail);
            frame::put_failed(wire.out, call.remote, &error);
        }
    }

    fn take(&mut self, local: u64) -> Option<Call> {
        let call = self.calls.take(local)?;
        self.watched = self.watched.saturating_sub(usize::from(call.watch.is_some()));
        Some(call)
    }

    /// The open call to which the other side gave this number, and our number of it.
    fn find(&mut self, remote: u64) -> Option<(u64, &mut Call)> {
        let found = self.calls.at(ids::index(remote))?;
        (found.1.remote == remote).then_some(found)
    }

    /// Number of open calls.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The connection has ended.
    pub(super) fn close(&mut self, reason: CancelReason) {
        for (_, call) in self.calls.drain() {
            call.callee.on_request(call.id, RequestEvent::Cancel(reason));
        }
    }
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self {
            got: 0,
            request: Progress::new(now, 0),
            reply: None,
        }
    }
}

impl Call {
    /// What the caller is too slow in, if it is.
    fn slow(&mut self, now: Instant, limits: &Limits, window: usize) -> Option<&'static str> {
        let watch = self.watch.as_mut()?;
        if self.request_ended || !self.request.has_room(limits.call_bytes_max) {
            watch.request = Progress::new(now, watch.got);
        } else if watch.request.is_slow(now, watch.got, 0, &limits.body_pace) {
            return Some("the request body was begun and then came at");
        }
        let Some((sent, ahead)) = self.reply.blocked(window) else {
            watch.reply = None;
            return None;
        };
        let reply = watch.reply.get_or_insert(Progress::new(now, sent));
        let is_slow = reply.is_slow(now, sent, ahead, &limits.body_pace);
        is_slow.then_some("the reply waited for credit that came at")
    }

    /// `true` if the reply has been sent to its end.
    fn on_part(&mut self, part: Part, wire: &mut Wire<'_>) -> bool {
        let (len, end) = (part.body.0.len(), part.end.is_some());
        if self.head.is_none() && self.reply.passes(len, end) {
            frame::put_reply(wire.out, self.remote, &part, false, 0);
            return true;
        }
        if part.head.is_some() {
            self.head = part.head;
        }
        self.ending = part.end;
        let credit = self.reply.push(len, part.body.0, end);
        self.credit(credit);
        self.pump(wire)
    }

    /// Sends what fits into the window; `true` if the reply has been sent to its end.
    fn pump(&mut self, wire: &mut Wire<'_>) -> bool {
        while let Some(piece) = self.reply.next(wire.agreed.bytes_max) {
            let part = Part {
                head: self.head.take(),
                body: ReplyBody(piece.bytes),
                end: piece.end.then(|| self.ending.take().unwrap_or_default()),
            };
            frame::put_reply(wire.out, self.remote, &part, false, 0);
            self.credit(piece.credit);
            if piece.end {
                return true;
            }
        }
        if let Some(head) = self.head.take() {
            let part = Part {
                head: Some(head),
                ..Part::default()
            };
            frame::put_reply(wire.out, self.remote, &part, false, 0);
        }
        false
    }

    fn credit(&self, bytes: usize) {
        if bytes > 0 {
            self.callee.on_request(self.id, RequestEvent::Credit(bytes));
        }
    }
}

fn refuse(wire: &mut Wire<'_>, id: u64, error: &RelayError) {
    wire.surroundings.metrics.on_refused();
    frame::put_failed(wire.out, id, error);
}

fn overrun(wire: &Wire<'_>) -> RelayError {
    let limit = wire.surroundings.limits.call_bytes_max;
    let detail = format!("more than {limit} body bytes were sent without waiting for credit");
    RelayError::new(Reason::BadInput, Retry::Ambiguous, detail)
}

/// Takes out what only relays may say (S3).
fn distrust(request: &mut Request, wire: &Wire<'_>) {
    request.facts = Facts {
        source: wire.surroundings.source.clone(),
        ..Facts::default()
    };
    request.metadata = std::mem::take(&mut request.metadata).distrusted();
}
