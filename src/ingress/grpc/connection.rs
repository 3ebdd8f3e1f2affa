//! One connection of a local client.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use super::metrics::Slow;
use super::slow::{self, Look, Watch};
use super::{Context, request};
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Caller, CallerRef, CancelReason, Metadata, Part as ReplyPart, Reason, RelayError, ReplyEvent, RequestBody,
    RequestEvent, Retry, wants_credit,
};
use crate::wire::http2::{Event, Head, Link, LinkEnd, Part, SessionError, Side, StreamRef, code};
use crate::wire::io::BoxIo;
use crate::wire::status;

/// A connection and the calls on it. One task polls it.
pub(super) struct Connection {
    link: Link,
    context: Rc<Context>,
    port: Rc<Port>,
    /// By slot of the stream.
    calls: Vec<Option<Call>>,
    now: Instant,
    stage: Stage,
    look: Look,
    /// Calls with a [`Watch`].
    watched: usize,
}

/// Where replies wait for the connection's task.
struct Port(Mailbox<(CallId, ReplyEvent)>);

struct Call {
    stream: StreamRef,
    callee: CallId,
    is_grpc: bool,
    has_head: bool,
    /// Set if the request was not whole at once.
    watch: Option<Box<Watch>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Serving,
    /// The client has been told; new calls still come until it has heard it.
    Announced,
    Leaving,
}

impl Connection {
    pub(super) fn new(io: BoxIo, context: Rc<Context>) -> Result<Self, SessionError> {
        let link = Link::new(io, Side::Server, context.settings.limits(), context.settings.pace())?;
        context.metrics.on_connected();
        Ok(Self {
            link,
            context,
            port: Rc::new(Port(Mailbox::new())),
            calls: Vec::new(),
            now: tokio::time::Instant::now().into_std(),
            stage: Stage::Serving,
            look: Look::default(),
            watched: 0,
        })
    }

    /// Does all there is to do; ready when the connection is over.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>, drained: Pin<&mut impl Future>) -> Poll<LinkEnd> {
        match self.poll_rounds(cx, drained) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    pub(super) fn on_ended(&mut self, end: &LinkEnd) {
        self.context.metrics.on_ended(end);
        if matches!(end, LinkEnd::Session(_) | LinkEnd::Slow(_)) {
            let cause = std::error::Error::source(end)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::debug!(error = %end, cause, "disconnected a gRPC client");
        }
    }

    fn poll_rounds(&mut self, cx: &mut TaskContext<'_>, drained: Pin<&mut impl Future>) -> Result<(), LinkEnd> {
        self.link.poll_time(cx)?;
        if self.stage == Stage::Serving && drained.poll(cx).is_ready() {
            self.stage = Stage::Announced;
            self.link.session.announce_goaway();
            self.link.ask();
        }
        if self.look.is_due(cx) {
            self.end_slow_calls();
        }
        for _ in 0..ROUNDS_MAX {
            let mut any = false;
            if let Poll::Ready(read) = self.link.poll_read(cx) {
                self.now = read?;
                self.take_events();
                any = true;
            }
            while let Some((id, event)) = self.port.0.pop() {
                self.on_reply(id, event);
                any = true;
            }
            self.link.poll_write(cx)?;
            self.take_events();
            if !any && self.port.0.poll_some(cx).is_pending() {
                if self.watched > 0 || self.link.session.backlog() > 0 {
                    self.look_later(cx);
                }
                return Ok(());
            }
        }
        // Others on this thread are served before more of the same.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn look_later(&mut self, cx: &mut TaskContext<'_>) {
        let least = self.context.settings.body_pace();
        if least.is_some() {
            self.look.later(&least, cx);
        }
    }

    /// Ends calls whose caller drips or hardly reads (T13).
    fn end_slow_calls(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        let least = self.context.settings.body_pace();
        // A socket that takes nothing is timed as a whole.
        if !self.link.is_write_blocked() {
            for stream in self.link.session.slow(now, &least) {
                self.context.metrics.on_slow(Slow::Reply);
                self.link.session.reset(stream, code::CANCEL);
                self.give_up(stream);
            }
        }
        let session = &mut self.link.session;
        let mut drip = |call: &mut Call| {
            let takes = session.own_room(call.stream) > 0;
            let watch = call.watch.as_mut()?;
            watch
                .is_slow(now, takes, &least)
                .then_some((call.stream, call.is_grpc, call.has_head))
        };
        let slow: Vec<_> = self.calls.iter_mut().flatten().filter_map(&mut drip).collect();
        for (stream, is_grpc, has_head) in slow {
            self.context.metrics.on_slow(Slow::Request);
            self.give_up(stream);
            let error = RelayError::new(Reason::DeadlineExceeded, Retry::Ambiguous, slow::dripped(&least));
            self.fail(stream, is_grpc, has_head, error);
        }
    }

    /// The callee is told that nobody waits for a call any longer.
    fn give_up(&mut self, stream: StreamRef) {
        if let Some(call) = self.remove(stream) {
            self.context
                .callee
                .on_request(call.callee, RequestEvent::Cancel(CancelReason::Deadline));
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.link.session.next_event() {
            match event {
                Event::Closed { stream, .. } => self.on_closed(stream),
                Event::Part(part) => self.on_part(part),
                Event::Pong if self.stage == Stage::Announced => {
                    self.stage = Stage::Leaving;
                    self.link.session.goaway(code::NO_ERROR);
                }
                Event::Sent { stream, bytes, .. } => {
                    if let Some(call) = self.call(stream) {
                        let id = call.callee;
                        self.context.callee.on_request(id, RequestEvent::Credit(bytes));
                    }
                }
                Event::Settings => self.link.on_settings(),
                Event::Goaway { .. } | Event::Pong => {}
            }
        }
    }

    fn on_part(&mut self, part: Part) {
        let Part {
            stream,
            head,
            chunk,
            end,
            ..
        } = part;
        let len = chunk.len();
        let now = self.now;
        let body = RequestBody { chunk, end };
        if let Some(head) = head {
            self.context.metrics.on_call();
            let is_grpc = request::is_grpc(&head);
            let watch = (is_grpc && !end).then(|| {
                let mut watch = Box::new(Watch::new(now));
                watch.on_body(&body.chunk, end, now);
                watch
            });
            let admitted = self.admit(&head);
            let source = self.context.source.as_ref();
            let request = admitted.and_then(|()| request::parse(head, body, now, source));
            let opened = request.and_then(|request| {
                let caller = CallerRef {
                    port: Rc::<Port>::clone(&self.port),
                    id: CallId(stream.pack()),
                };
                self.context
                    .callee
                    .open(Box::new(request), caller)
                    .map_err(|refused| *refused.error)
            });
            match opened {
                Ok(callee) => self.keep(Call {
                    stream,
                    callee,
                    is_grpc,
                    has_head: false,
                    watch,
                }),
                Err(error) => {
                    self.context.metrics.on_refused(error.reason);
                    self.fail(stream, is_grpc, false, error);
                }
            }
        } else if let Some(call) = self.call(stream)
            && (len > 0 || end)
        {
            if let Some(watch) = &mut call.watch {
                watch.on_body(&body.chunk, end, now);
            }
            let callee = call.callee;
            self.context.callee.on_request(callee, RequestEvent::Body(body));
        }
        if len > 0 && !wants_credit(len, end) {
            self.link.session.consume(stream, len);
        }
    }

    /// Asks for the token, where there is one (G5).
    fn admit(&self, head: &Head) -> Result<(), RelayError> {
        match &self.context.token {
            Some(token) if !token.admits(head.apart.value("strait-local-token")) => {
                let detail = "calls to this address need the relay's token in strait-local-token";
                Err(RelayError::new(Reason::Policy, Retry::Never, detail))
            }
            _ => Ok(()),
        }
    }

    fn on_closed(&mut self, stream: StreamRef) {
        if let Some(call) = self.remove(stream) {
            self.context.metrics.on_cancelled();
            self.context
                .callee
                .on_request(call.callee, RequestEvent::Cancel(CancelReason::Caller));
        }
    }

    fn on_reply(&mut self, id: CallId, event: ReplyEvent) {
        let stream = StreamRef::unpack(id.0);
        let Some(call) = self.call(stream) else { return };
        match event {
            ReplyEvent::Credit(bytes) => self.link.session.consume(stream, bytes),
            ReplyEvent::Failed(error) => {
                let (is_grpc, has_head) = (call.is_grpc, call.has_head);
                self.remove(stream);
                self.fail(stream, is_grpc, has_head, *error);
            }
            ReplyEvent::Part(part) => {
                let is_first = !std::mem::replace(&mut call.has_head, true);
                if part.end.is_some() {
                    self.remove(stream);
                }
                self.write_part(stream, part, is_first);
            }
        }
    }

    fn write_part(&mut self, stream: StreamRef, part: ReplyPart, is_first: bool) {
        let session = &mut self.link.session;
        let body = part.body.0;
        let has_end = part.end.is_some();
        if is_first {
            let (http_status, fields) = part.head.unwrap_or((200, Metadata::default()));
            // A reply without body and trailers is one block that ends the stream: trailers-only.
            let is_all = body.is_empty() && part.end.as_ref().is_some_and(|end| end.trailers.is_empty());
            session.respond(stream, http_status, &fields, is_all);
            if is_all {
                return;
            }
        }
        let credit = wants_credit(body.len(), has_end);
        session.body(stream, body, credit);
        if let Some(end) = part.end {
            session.finish(stream, Some(end.trailers));
        }
    }

    /// Ends a call with an error of a relay.
    fn fail(&mut self, stream: StreamRef, is_grpc: bool, has_head: bool, error: RelayError) {
        let place = &self.context.place;
        let error = error.at(&place.unit, &place.relay);
        let session = &mut self.link.session;
        match (is_grpc, has_head) {
            (true, false) => session.respond(stream, 200, &status::trailers_only(&error), true),
            (true, true) => session.finish(stream, Some(status::trailers(&error))),
            (false, false) => {
                let (http_status, fields, text) = status::http_reply(&error);
                session.respond(stream, http_status, &fields, false);
                session.body(stream, text, false);
                session.finish(stream, None);
            }
            (false, true) => session.reset(stream, code::INTERNAL_ERROR),
        }
    }

    fn keep(&mut self, call: Call) {
        self.watched += usize::from(call.watch.is_some());
        let index = usize::try_from(call.stream.index).unwrap_or(usize::MAX);
        if index >= self.calls.len() {
            // Bounded by the streams the session allows.
            self.calls.resize_with(index.saturating_add(1), || None);
        }
        if let Some(slot) = self.calls.get_mut(index) {
            *slot = Some(call);
        }
    }

    fn call(&mut self, stream: StreamRef) -> Option<&mut Call> {
        let index = usize::try_from(stream.index).ok()?;
        self.calls.get_mut(index)?.as_mut().filter(|call| call.stream == stream)
    }

    fn remove(&mut self, stream: StreamRef) -> Option<Call> {
        self.call(stream)?;
        let call = self.calls.get_mut(usize::try_from(stream.index).ok()?)?.take()?;
        self.watched = self.watched.saturating_sub(usize::from(call.watch.is_some()));
        Some(call)
    }
}

impl Drop for Connection {
    /// The client is gone, or the relay ends: nobody waits for these replies (G2).
    fn drop(&mut self) {
        self.port.0.close();
        self.context.metrics.on_disconnected();
        for call in self.calls.drain(..).flatten() {
            self.context.metrics.on_cancelled();
            self.context
                .callee
                .on_request(call.callee, RequestEvent::Cancel(CancelReason::Caller));
        }
    }
}

impl Caller for Port {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.0.push((id, event));
    }
}

/// Batches in a row before other tasks of the thread get their turn.
const ROUNDS_MAX: usize = 8;
