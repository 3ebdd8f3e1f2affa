//! The task of a connection: the only one that touches its session.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::call::{self, Call};
use super::connection::{Connection, Post, split};
use super::{Metrics, Settings};
use crate::model::{
    CallId, CallerRef, Endpoint, Envelope, PREVIOUS_ATTEMPTS, Reason, RelayError, ReplyEvent, Request, RequestBody,
    RequestEvent, Retry, SMALL_BODY_BYTES, wants_credit,
};
use crate::wire::http2::{Event, Link, LinkEnd, Part, RequestHead, SessionError, Side, code};
use crate::wire::io::BoxIo;
use crate::wire::status::TimeoutText;

pub(super) struct Driver {
    link: Link,
    authority: Bytes,
    metrics: Metrics,
    shared: Rc<Connection>,
    /// By index of the call's id.
    calls: Vec<Option<Call>>,
    /// Calls without a stream, oldest first.
    waiting: VecDeque<CallId>,
    streams: usize,
    /// What both the service and the settings allow.
    streams_max: usize,
    streams_wanted: usize,
    translated_max: usize,
}

impl Driver {
    pub(super) fn new(
        io: BoxIo,
        authority: Bytes,
        settings: &Settings,
        metrics: Metrics,
        shared: Rc<Connection>,
    ) -> Result<Self, SessionError> {
        let link = Link::new(io, Side::Client, settings.limits(), settings.pace())?;
        metrics.on_connected();
        let mut driver = Self {
            link,
            authority,
            metrics,
            shared,
            calls: Vec::new(),
            waiting: VecDeque::new(),
            streams: 0,
            streams_max: settings.streams_max,
            streams_wanted: settings.streams_max,
            translated_max: settings.translated_bytes_max.as_usize(),
        };
        driver.on_state();
        Ok(driver)
    }

    /// Does all there is to do; ready when the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        match self.poll_rounds(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => {
                self.metrics.on_ended(&end);
                self.fail_all(&end.to_string());
                Poll::Ready(end)
            }
        }
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        self.link.poll_time(cx)?;
        for _ in 0..ROUNDS_MAX {
            let mut any = false;
            if let Poll::Ready(read) = self.link.poll_read(cx) {
                let now = read?;
                self.take_events(now);
                any = true;
            }
            if !self.shared.mailbox.is_empty() {
                let now = tokio::time::Instant::now().into_std();
                while let Some(post) = self.shared.mailbox.pop() {
                    self.on_post(post, now);
                }
                any = true;
            }
            self.advance();
            self.link.poll_write(cx)?;
            self.look_for_room();
            while let Some(event) = self.link.session.next_event() {
                self.on_event(event, None);
            }
            if self.shared.is_retired.get() && self.shared.in_flight() == 0 {
                return Err(LinkEnd::Over);
            }
            if !any && self.shared.mailbox.poll_some(cx).is_pending() {
                return Ok(());
            }
        }
        // Others on this thread are served before more of the same.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Whether the bodies of streaming calls have used up what the service gives to the connection (C-F1).
    fn look_for_room(&mut self) {
        let is_blocked = self.shared.streaming() > 0 && self.link.session.peer_room() < SMALL_BODY_BYTES;
        if self.shared.is_blocked.replace(is_blocked) != is_blocked {
            self.metrics.on_blocked(is_blocked);
        }
    }

    // ---- from callers

    fn on_post(&mut self, post: Post, now: Instant) {
        match post {
            Post::Event(id, event) => self.on_request(id, event),
            Post::Open(id, request, caller) => self.on_open(id, request, caller, now),
        }
    }

    fn on_open(&mut self, id: CallId, request: Box<Request>, caller: CallerRef, now: Instant) {
        let mut call = Call::new(id, caller, &request, self.translated_max, now);
        if self.streams < self.streams_max && self.waiting.is_empty() {
            self.keep(call);
            self.send(id, request, now);
        } else {
            self.metrics.on_waited();
            call.waiting = Some(request);
            self.keep(call);
            self.waiting.push_back(id);
        }
    }

    fn on_request(&mut self, id: CallId, event: RequestEvent) {
        let Some(call) = self.call(id) else { return };
        let stream = call.stream;
        match event {
            RequestEvent::Body(body) => match (&mut call.waiting, stream) {
                (Some(request), _) => {
                    request.body.append(body);
                }
                (None, Some(_)) => self.send_body(id, body),
                (None, None) => {}
            },
            RequestEvent::Cancel(_) => {
                if let Some(stream) = stream {
                    self.link.session.reset(stream, code::CANCEL);
                }
                self.end(id);
            }
            RequestEvent::Credit(bytes) => {
                if let Some(stream) = stream {
                    self.link.session.consume(stream, bytes);
                }
            }
        }
    }

    /// Opens a stream for a call.
    fn send(&mut self, id: CallId, request: Box<Request>, now: Instant) {
        let left = request.deadline.map(|deadline| deadline.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            let detail = "the deadline passed before the call reached the service";
            self.fail(id, RelayError::new(Reason::DeadlineExceeded, Retry::Safe, detail));
            return;
        }
        let timeout = left.map(TimeoutText::new);
        let source = request.facts.source.as_ref();
        let attempts = (request.facts.attempt > 0).then(|| request.facts.attempt.to_string());
        let owner_epoch = request.facts.owner_epoch.map(|epoch| epoch.to_string());
        let mut added: [(&[u8], &[u8]); 8] = [(b"te", b"trailers"); 8];
        let mut count = 1;
        let mut add = |name: &'static [u8], value| {
            if let Some(place) = added.get_mut(count) {
                *place = (name, value);
                count += 1;
            }
        };
        if let Some(timeout) = &timeout {
            add(b"grpc-timeout", timeout.as_bytes());
        }
        if let Some(attempts) = &attempts {
            add(PREVIOUS_ATTEMPTS, attempts.as_bytes());
        }
        if let Some(epoch) = &owner_epoch {
            add(b"strait-owner-epoch", epoch.as_bytes());
        }
        if let Some(source) = source {
            add(b"strait-source-geo", source.geo.as_str().as_bytes());
            add(b"strait-source-unit", source.unit.as_str().as_bytes());
            if let Some(service) = &source.service {
                add(b"strait-source-service", service.as_str().as_bytes());
            }
        }
        if request.envelope == Envelope::Framed && request.metadata.value("content-type").is_none() {
            add(b"content-type", b"application/grpc");
        }
        let authority = if request.authority.is_empty() {
            &self.authority
        } else {
            &request.authority
        };
        let head = RequestHead {
            authority,
            path: &request.path,
            fields: &request.metadata,
            added: added.get(..count).unwrap_or_default(),
        };
        match self.link.session.request(id.0, &head) {
            Ok(stream) => {
                self.metrics.on_call();
                self.streams += 1;
                if let Some(call) = self.call(id) {
                    call.on_sent(stream, now);
                }
                self.send_body(id, request.body);
            }
            Err(error) => {
                self.on_state();
                self.fail(
                    id,
                    RelayError::new(Reason::ServiceUnavailable, Retry::Safe, error.to_string()),
                );
            }
        }
    }

    fn send_body(&mut self, id: CallId, body: RequestBody) {
        let RequestBody { chunk, end } = body;
        let credit = wants_credit(chunk.len(), end);
        let Some(call) = self.calls.get_mut(split(id).0).and_then(Option::as_mut) else {
            return;
        };
        let Some(stream) = call.stream else { return };
        let session = &mut self.link.session;
        if let Some(wrap) = &mut call.wrap {
            let len = chunk.len();
            if let Err(error) = wrap.push(chunk) {
                session.reset(stream, code::CANCEL);
                let mut error = call::translation(&error);
                error.retry = Retry::Never;
                self.fail(id, error);
                return;
            }
            if end {
                let (prefix, chunks) = wrap.finish();
                session.body(stream, Bytes::copy_from_slice(&prefix), false);
                for chunk in chunks {
                    session.body(stream, chunk, false);
                }
            } else if credit {
                // The message is collected here, up to its limit.
                call.caller.send(ReplyEvent::Credit(len));
            }
        } else {
            session.body(stream, chunk, credit);
        }
        if end {
            session.finish(stream, None);
        }
    }

    // ---- from the service

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.link.session.next_event() {
            self.on_event(event, Some(now));
        }
    }

    /// Gives streams to calls that wait for one.
    fn advance(&mut self) {
        if self.waiting.is_empty() || self.streams >= self.streams_max {
            return;
        }
        let now = tokio::time::Instant::now().into_std();
        while self.streams < self.streams_max {
            let Some(id) = self.waiting.pop_front() else { break };
            if let Some(request) = self.call(id).and_then(|call| call.waiting.take()) {
                self.send(id, request, now);
            }
        }
    }

    fn on_event(&mut self, event: Event, now: Option<Instant>) {
        match event {
            Event::Closed { token, code, .. } => self.on_closed(CallId(token), code),
            Event::Goaway { .. } => self.on_state(),
            Event::Part(part) => {
                let now = now.unwrap_or_else(|| tokio::time::Instant::now().into_std());
                self.on_part(part, now);
            }
            Event::Pong => {}
            Event::Sent { token, bytes, .. } => {
                if let Some(call) = self.call(CallId(token)) {
                    call.caller.send(ReplyEvent::Credit(bytes));
                }
            }
            Event::Settings => {
                self.link.on_settings();
                self.on_state();
            }
        }
    }

    fn on_part(&mut self, part: Part, now: Instant) {
        let id = CallId(part.token);
        let stream = part.stream;
        let (received, end) = (part.chunk.len(), part.end);
        let Some(call) = self.call(id) else { return };
        match call.reply(part, now) {
            Ok(reply) => {
                let len = reply.body.0.len();
                call.caller.send(ReplyEvent::Part(reply));
                // What nobody will give credit for is given back at once.
                let unasked = if wants_credit(len, end) {
                    received - len
                } else {
                    received
                };
                if end {
                    self.end(id);
                } else if unasked > 0 {
                    self.link.session.consume(stream, unasked);
                }
            }
            Err(error) => {
                self.link.session.reset(stream, code::CANCEL);
                self.fail(id, *error);
            }
        }
    }

    fn on_closed(&mut self, id: CallId, reset: u32) {
        if reset == code::REFUSED_STREAM {
            let detail = "the service refused the call without processing it; try again";
            self.fail(id, RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail));
            return;
        }
        self.metrics.on_lost();
        let detail = format!("the service broke the call off (HTTP/2 error {reset}); see its log");
        self.fail(id, RelayError::new(Reason::ServiceLost, Retry::Ambiguous, detail));
    }

    /// What the service allows may have changed.
    fn on_state(&mut self) {
        self.streams_max = self.link.session.peer_streams_max().min(self.streams_wanted);
        self.shared.streams_max.set(self.streams_max);
        if !self.link.session.takes_requests() {
            self.shared.retire();
            self.fail_waiting("the service is closing the connection; try again");
        }
    }

    // ---- ends

    fn keep(&mut self, call: Call) {
        let (index, _) = split(call.id);
        if index >= self.calls.len() {
            // Bounded by the calls the connection takes.
            self.calls.resize_with(index.saturating_add(1), || None);
        }
        if let Some(slot) = self.calls.get_mut(index) {
            *slot = Some(call);
        }
    }

    fn call(&mut self, id: CallId) -> Option<&mut Call> {
        self.calls.get_mut(split(id).0)?.as_mut().filter(|call| call.id == id)
    }

    fn end(&mut self, id: CallId) -> Option<Call> {
        self.call(id)?;
        let call = self.calls.get_mut(split(id).0)?.take()?;
        if call.stream.is_some() {
            self.streams = self.streams.saturating_sub(1);
        } else {
            self.waiting.retain(|waiting| *waiting != id);
        }
        self.shared.release(id, call.is_streaming);
        Some(call)
    }

    fn fail(&mut self, id: CallId, error: RelayError) {
        if let Some(call) = self.end(id) {
            call.caller.send(ReplyEvent::Failed(Box::new(error)));
        }
    }

    fn fail_waiting(&mut self, detail: &str) {
        while let Some(id) = self.waiting.pop_front() {
            if self.call(id).is_some_and(|call| call.waiting.is_some()) {
                self.fail(id, RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail));
            }
        }
    }

    /// The connection is gone.
    fn fail_all(&mut self, why: &str) {
        self.shared.is_taking.set(false);
        self.fail_waiting(why);
        for index in 0..self.calls.len() {
            let Some(id) = self.calls.get(index).and_then(Option::as_ref).map(|call| call.id) else {
                continue;
            };
            self.metrics.on_lost();
            let detail = format!("{why} while the service was working on the call");
            self.fail(id, RelayError::new(Reason::ServiceLost, Retry::Ambiguous, detail));
        }
        self.shared.mailbox.close();
        while let Some(post) = self.shared.mailbox.pop() {
            if let Post::Open(id, request, caller) = post {
                self.shared.release(id, request.body.is_partial());
                let error = RelayError::new(Reason::ServiceUnavailable, Retry::Safe, why);
                caller.send(ReplyEvent::Failed(Box::new(error)));
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.fail_all("the connection to the service was closed");
        if self.shared.is_blocked.take() {
            self.metrics.on_blocked(false);
        }
        self.metrics.on_disconnected();
    }
}

/// Batches in a row before other tasks of the thread get their turn.
const ROUNDS_MAX: usize = 8;
