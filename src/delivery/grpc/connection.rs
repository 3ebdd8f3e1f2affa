//! The side of a connection that callers see: an endpoint whose methods only put events into a mailbox.

use std::cell::{Cell, RefCell};

use super::Settings;
use crate::mailbox::Mailbox;
use crate::model::{CallId, Callee, CallerRef, Endpoint, Reason, Refused, RelayError, Request, RequestEvent, Retry};

/// A connection to one endpoint of a local service.
pub struct Connection {
    pub(super) mailbox: Mailbox<Post>,
    ids: RefCell<Ids>,
    in_flight: Cell<usize>,
    pub(super) streams_max: Cell<usize>,
    pub(super) is_taking: Cell<bool>,
    pub(super) is_retired: Cell<bool>,
    /// Calls whose request body is, or was, not whole at once.
    streaming: Cell<usize>,
    /// The service gives no room for the bodies of this connection.
    pub(super) is_blocked: Cell<bool>,
    pending_max: usize,
}

/// What callers send to the connection's task.
pub(super) enum Post {
    Event(CallId, RequestEvent),
    Open(CallId, Box<Request>, CallerRef),
}

impl Connection {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            mailbox: Mailbox::new(),
            ids: RefCell::new(Ids::default()),
            in_flight: Cell::new(0),
            streams_max: Cell::new(settings.streams_max),
            is_taking: Cell::new(true),
            is_retired: Cell::new(false),
            streaming: Cell::new(0),
            is_blocked: Cell::new(false),
            pending_max: settings.pending_max,
        }
    }

    /// Takes no more calls; the connection ends when those under way have ended.
    pub fn retire(&self) {
        self.is_retired.set(true);
        self.is_taking.set(false);
        self.mailbox.wake();
    }

    /// Whether the connection is up and takes calls, be there a stream free or not.
    pub fn is_open(&self) -> bool {
        self.is_taking.get()
    }

    /// Calls here that can use up the window which the service gives to the connection as a whole.
    pub fn streaming(&self) -> usize {
        self.streaming.get()
    }

    /// Whether they have used it up.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// A call has ended: its id may be used again.
    pub(super) fn release(&self, id: CallId, is_streaming: bool) {
        if self.ids.borrow_mut().release(id) {
            self.in_flight.set(self.in_flight.get().saturating_sub(1));
            self.streaming
                .set(self.streaming.get().saturating_sub(usize::from(is_streaming)));
        }
    }
}

impl Callee for Connection {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let refuse = |reason, detail: &str, request| {
            Err(Refused {
                error: Box::new(RelayError::new(reason, Retry::Safe, detail)),
                request,
            })
        };
        if !self.is_taking.get() {
            let detail = "the connection to the service's endpoint takes no more calls; try again";
            return refuse(Reason::ServiceUnavailable, detail, request);
        }
        if self.in_flight.get() >= self.streams_max.get().saturating_add(self.pending_max) {
            let detail = "the service allows no more calls at a time and too many wait already; slow down";
            return refuse(Reason::Limited, detail, request);
        }
        let id = self.ids.borrow_mut().allot();
        self.in_flight.set(self.in_flight.get() + 1);
        self.streaming
            .set(self.streaming.get() + usize::from(request.body.is_partial()));
        self.mailbox.push(Post::Open(id, request, caller));
        Ok(id)
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        self.mailbox.push(Post::Event(id, event));
    }
}

impl Endpoint for Connection {
    fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Whether a call would get a stream at once.
    fn is_ready(&self) -> bool {
        self.is_taking.get() && self.in_flight.get() < self.streams_max.get()
    }
}

/// Index and generation of a call.
pub(super) fn split(id: CallId) -> (usize, u32) {
    let generation = id.0 & u64::from(u32::MAX);
    (
        usize::try_from(id.0 >> 32).unwrap_or(usize::MAX),
        u32::try_from(generation).unwrap_or(u32::MAX),
    )
}

/// Gives out ids: the smallest free index, and a generation that is new for it.
#[derive(Default)]
struct Ids {
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Ids {
    fn allot(&mut self) -> CallId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.generations.push(1);
            u32::try_from(self.generations.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self
            .generations
            .get(usize::try_from(index).unwrap_or(usize::MAX))
            .copied()
            .unwrap_or(0);
        CallId((u64::from(index) << 32) | u64::from(generation))
    }

    fn release(&mut self, id: CallId) -> bool {
        let (index, generation) = split(id);
        match self.generations.get_mut(index) {
            Some(current) if *current == generation => {
                *current = current.wrapping_add(1);
                self.free.extend(u32::try_from(index));
                true
            }
            _ => false,
        }
    }
}
