//! Calls that came to services of this client on one connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::call::Received;
use super::calls::{Limits, Received as Body, index};
use super::sending::Sending;
use super::{Answer, Command, Reply, Shared, Status};
use crate::model::{Code, Part, Reason, RelayError, ReplyBody, Request, RequestBody, Retry, wants_credit};
use crate::wire::frame;

/// Calls in the hands of this client, by the relay's index.
pub(super) struct Served {
    slots: Vec<Option<Call>>,
    /// Number of the connection, so that answers for an older one are thrown away.
    session: u64,
    calls_max: u32,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

struct Call {
    id: u64,
    state: State,
}

enum State {
    /// More of the request must come.
    Coming { request: Option<Box<Request>>, body: Body },
    /// The handler works.
    Running(AbortHandle),
    /// The reply goes out as the relay gives credit.
    Replying { part: Part, sending: Sending },
}

impl Served {
    pub(super) fn new(session: u64, calls_max: u32, shared: Arc<Shared>, tasks: TaskTracker) -> Self {
        Self {
            slots: Vec::new(),
            session,
            calls_max,
            shared,
            tasks,
        }
    }

    /// A new call.
    pub(super) fn on_request(&mut self, id: u64, mut request: Request, out: &mut BytesMut, limits: Limits) {
        let at = index(id);
        let legal = u64::try_from(at).is_ok_and(|at| at < u64::from(self.calls_max));
        if !legal || matches!(self.slots.get(at), Some(Some(_))) {
            let detail = "the service has as many calls open as it accepts";
            frame::put_failed(out, id, &RelayError::new(Reason::Limited, Retry::Safe, detail));
            return;
        }
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        if request.body.end {
            self.start(id, request, out, limits);
            return;
        }
        let chunk = std::mem::take(&mut request.body.chunk);
        let state = State::Coming {
            request: Some(Box::new(request)),
            body: Body::default(),
        };
        self.set(id, Some(state));
        self.on_body(id, RequestBody { chunk, end: false }, out, limits);
    }

    /// More of a request.
    pub(super) fn on_body(&mut self, id: u64, chunk: RequestBody, out: &mut BytesMut, limits: Limits) {
        let Some(State::Coming { request, body }) = self.state(id) else {
            return;
        };
        let (len, end) = (chunk.chunk.len(), chunk.end);
        if !body.push(chunk.chunk, limits.message_bytes_max) {
            let detail = format!(
                "the service takes messages of {} bytes at most",
                limits.message_bytes_max
            );
            frame::put_failed(out, id, &RelayError::new(Reason::TooLarge, Retry::Never, detail));
            self.set(id, None);
            return;
        }
        if end {
            let Some(mut request) = request.take() else { return };
            request.body = RequestBody {
                chunk: body.take(),
                end: true,
            };
            self.start(id, *request, out, limits);
        } else if wants_credit(len, end) {
            frame::put_credit(out, id, len, false);
        }
    }

    /// The caller gave up.
    pub(super) fn on_cancel(&mut self, id: u64) {
        if let Some(State::Running(task)) = self.state(id) {
            task.abort();
        }
        if self.state(id).is_some() {
            self.set(id, None);
        }
    }

    /// The relay has passed on reply bytes.
    pub(super) fn on_credit(&mut self, id: u64, bytes: usize, out: &mut BytesMut, limits: Limits) {
        if let Some(State::Replying { sending, .. }) = self.state(id) {
            sending.on_credit(bytes);
            self.pump(id, out, limits);
        }
    }

    /// A handler is done.
    pub(super) fn on_answer(
        &mut self,
        session: u64,
        id: u64,
        result: Result<Reply, Status>,
        out: &mut BytesMut,
        limits: Limits,
    ) {
        if session == self.session && matches!(self.state(id), Some(State::Running(_))) {
            self.reply(id, result, out, limits);
        }
    }

    /// The connection is gone: whoever works for it works for nobody.
    pub(super) fn close(&mut self) {
        for call in self.slots.drain(..).flatten() {
            if let State::Running(task) = call.state {
                task.abort();
            }
        }
    }

    /// Calls the handler; what does not wait is answered at once, without a task.
    fn start(&mut self, id: u64, request: Request, out: &mut BytesMut, limits: Limits) {
        let Some(handler) = self.shared.handler(&request) else {
            let detail = "the service is not served by this instance";
            frame::put_failed(out, id, &RelayError::new(Reason::UnknownService, Retry::Safe, detail));
            self.set(id, None);
            return;
        };
        let deadline = request.deadline;
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut answer = handler(Received::new(request));
            match answer.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
                Poll::Ready(result) => Ok(result),
                Poll::Pending => Err(answer),
            }
        }));
        match made {
            Ok(Ok(result)) => self.reply(id, result, out, limits),
            Ok(Err(answer)) => self.spawn(id, answer, deadline),
            Err(_) => self.reply(id, Err(panicked()), out, limits),
        }
    }

    fn spawn(&mut self, id: u64, answer: Answer, deadline: Option<Instant>) {
        let (shared, session) = (Arc::clone(&self.shared), self.session);
        let task = self.tasks.spawn(async move {
            let mut report = Report {
                shared,
                session,
                id,
                result: Some(Err(panicked())),
            };
            report.result = Some(match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Status::new(
                            Code::DeadlineExceeded,
                            "the deadline passed in the service",
                        ))
                    }),
                None => answer.await,
            });
        });
        self.set(id, Some(State::Running(task.abort_handle())));
    }

    fn reply(&mut self, id: u64, result: Result<Reply, Status>, out: &mut BytesMut, limits: Limits) {
        let (mut part, body) = Reply::into_wire(result);
        if !wants_credit(body.len(), true) {
            part.body = ReplyBody(body);
            frame::put_reply(out, id, &part, false, 0);
            self.set(id, None);
            return;
        }
        let sending = Sending::new(body);
        self.set(id, Some(State::Replying { part, sending }));
        self.pump(id, out, limits);
    }

    fn pump(&mut self, id: u64, out: &mut BytesMut, limits: Limits) {
        let Some(State::Replying { part, sending }) = self.state(id) else {
            return;
        };
        let mut done = false;
        while let Some((chunk, end)) = sending.next(limits.window) {
            let piece = Part {
                head: part.head.take(),
                body: ReplyBody(chunk),
                end: if end { part.end.take() } else { None },
            };
            frame::put_reply(out, id, &piece, false, 0);
            done = end;
        }
        if done {
            self.set(id, None);
        }
    }

    fn state(&mut self, id: u64) -> Option<&mut State> {
        let call = self.slots.get_mut(index(id))?.as_mut()?;
        (call.id == id).then_some(&mut call.state)
    }

    fn set(&mut self, id: u64, state: Option<State>) {
        if let Some(slot) = self.slots.get_mut(index(id)) {
            *slot = state.map(|state| Call { id, state });
        }
    }
}

/// Reports the result of a handler, also when it panics.
struct Report {
    shared: Arc<Shared>,
    session: u64,
    id: u64,
    result: Option<Result<Reply, Status>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            let (session, id) = (self.session, self.id);
            self.shared.push(Command::Answered { session, id, result });
        }
    }
}

fn panicked() -> Status {
    Status::new(Code::Internal, "the handler of the service panicked")
}
