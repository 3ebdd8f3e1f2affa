//! Carries calls from one shard to an endpoint that lives on another.
//!
//! A call lives on one shard, except when what it needs exists on another only: a service registered
//! over a connection of that shard, or a link made there. A bridge has a near side, an ordinary
//! `Endpoint` on the calling shard, and a far side that runs next to the real endpoint. Between them
//! are two pipes of plain events; nothing is encoded.
//!
//! # Invariants
//! - X1. A receiver is woken by the first event after its last look, not by each (as in `mailbox`).
//! - X2. A pipe is bounded: by the limit on calls and the credit of each call.
//! - X3. When one side ends, the other learns it: calls under way fail at the near side and are
//!   cancelled at the far side.
//!
//! # Not here
//! Deciding which calls must cross (`delivery`, `app`).

mod pipe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SecondaryMap, SlotMap};

pub use self::pipe::{Receiver, Sender, pipe};
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Endpoint, Reason, Refused, RelayError, ReplyEvent, Request,
    RequestEvent, Retry,
};

/// Pushback of a full bridge: about the time in which some of its calls end.
const PUSHBACK: Duration = Duration::from_millis(25);
/// How often the far side looks whether an endpoint that took no calls takes them again.
const READY_POLL: Duration = Duration::from_millis(20);

/// Makes a bridge for at most `limit` calls at once. Both halves can be sent to their shards.
pub fn bridge(limit: usize) -> (Near, Far) {
    let (to_far, from_near) = pipe();
    let (to_near, from_far) = pipe();
    let ready = Arc::new(AtomicBool::new(true));
    let near = Near {
        requests: to_far,
        replies: from_far,
        ready: Arc::clone(&ready),
        limit,
    };
    let far = Far {
        requests: from_near,
        replies: to_near,
        ready,
    };
    (near, far)
}

/// Half of a bridge for the shard that calls.
pub struct Near {
    requests: Sender<Going>,
    replies: Receiver<Coming>,
    ready: Arc<AtomicBool>,
    limit: usize,
}

impl Near {
    /// The endpoint to call, and the task that brings the replies: run it on the same shard. It ends
    /// when the far side ends or the endpoint is dropped. When dropped early, calls under way get no reply.
    pub fn into_endpoint(self) -> (Rc<dyn Endpoint>, impl Future<Output = ()>) {
        let port = Rc::new(NearPort {
            calls: RefCell::new(SlotMap::new()),
            requests: self.requests,
            ready: self.ready,
            limit: self.limit,
        });
        let task = bring_replies(Rc::downgrade(&port), self.replies);
        (port, task)
    }
}

/// Half of a bridge for the shard where the real endpoint is.
pub struct Far {
    requests: Receiver<Going>,
    replies: Sender<Coming>,
    ready: Arc<AtomicBool>,
}

impl Far {
    /// Opens the calls that come over the bridge on `endpoint` until the near side is dropped. When
    /// dropped itself, its calls are cancelled at the endpoint.
    pub async fn run(self, endpoint: Rc<dyn Endpoint>) {
        let mut calls = FarCalls {
            port: Rc::new(FarPort {
                ended: RefCell::new(Vec::new()),
                replies: self.replies,
            }),
            endpoint,
            open: SecondaryMap::new(),
        };
        let mut batch = VecDeque::new();
        loop {
            let is_ready = calls.endpoint.is_ready();
            self.ready.store(is_ready, Ordering::Relaxed);
            let look_again = async {
                if is_ready {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(READY_POLL).await;
            };
            tokio::select! {
                open = self.requests.take(&mut batch) => if !open { return },
                () = look_again => {}
            }
            for event in batch.drain(..) {
                calls.on_event(event);
            }
            calls.forget_ended();
        }
    }
}

/// What travels to the endpoint.
enum Going {
    Open(DefaultKey, Box<Request>),
    Event(DefaultKey, RequestEvent),
}

/// What travels back.
type Coming = (DefaultKey, ReplyEvent);

struct NearPort {
    calls: RefCell<SlotMap<DefaultKey, CallerRef>>,
    requests: Sender<Going>,
    ready: Arc<AtomicBool>,
    limit: usize,
}

impl NearPort {
    fn on_reply(&self, key: DefaultKey, event: ReplyEvent) {
        let caller = if is_ending(&event) {
            self.calls.borrow_mut().remove(key)
        } else {
            self.calls.borrow().get(key).cloned()
        };
        if let Some(caller) = caller {
            caller.send(event);
        }
    }

    fn fail_all(&self) {
        let calls = mem::take(&mut *self.calls.borrow_mut());
        for (_, caller) in calls {
            caller.send(ReplyEvent::Failed(Box::new(RelayError::new(
                Reason::ServiceLost,
                Retry::Ambiguous,
                "the connection that served this call on another thread of the relay ended; \
                 retry if the method may run twice",
            ))));
        }
    }
}

impl Callee for NearPort {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let refuse = |reason, detail: &str, request| {
            let error = RelayError::new(reason, Retry::Safe, detail).pushed_back(PUSHBACK);
            Refused {
                error: Box::new(error),
                request,
            }
        };
        if !self.requests.is_open() {
            let detail = "the connection that serves this call has ended; try again";
            return Err(refuse(Reason::ServiceUnavailable, detail, request));
        }
        if self.calls.borrow().len() >= self.limit {
            let detail = "too many calls between two threads of the relay; try again later or raise \
                          delivery.crossing_in_flight_max";
            return Err(refuse(Reason::Limited, detail, request));
        }
        let key = self.calls.borrow_mut().insert(caller);
        self.requests.push(Going::Open(key, request));
        Ok(CallId(key.data().as_ffi()))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let key = DefaultKey::from(KeyData::from_ffi(id.0));
        let known = if matches!(event, RequestEvent::Cancel(_)) {
            self.calls.borrow_mut().remove(key).is_some()
        } else {
            self.calls.borrow().contains_key(key)
        };
        if known {
            self.requests.push(Going::Event(key, event));
        }
    }
}

impl Endpoint for NearPort {
    fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && self.requests.is_open() && self.in_flight() < self.limit
    }
}

async fn bring_replies(port: Weak<NearPort>, replies: Receiver<Coming>) {
    let mut batch = VecDeque::new();
    loop {
        let open = replies.take(&mut batch).await;
        let Some(port) = port.upgrade() else { return };
        for (key, event) in batch.drain(..) {
            port.on_reply(key, event);
        }
        if !open {
            port.fail_all();
            return;
        }
    }
}

struct FarCalls {
    port: Rc<FarPort>,
    endpoint: Rc<dyn Endpoint>,
    open: SecondaryMap<DefaultKey, CallId>,
}

impl FarCalls {
    fn on_event(&mut self, event: Going) {
        match event {
            Going::Open(key, request) => {
                let port: Rc<dyn Caller> = self.port.clone();
                let id = CallId(key.data().as_ffi());
                let caller = CallerRef { port, id };
                match self.endpoint.open(request, caller) {
                    Ok(id) => {
                        self.open.insert(key, id);
                    }
                    Err(refused) => self.port.replies.push((key, ReplyEvent::Failed(refused.error))),
                }
            }
            Going::Event(key, event) => {
                let id = if matches!(event, RequestEvent::Cancel(_)) {
                    self.open.remove(key)
                } else {
                    self.open.get(key).copied()
                };
                if let Some(id) = id {
                    self.endpoint.on_request(id, event);
                }
            }
        }
    }

    fn forget_ended(&mut self) {
        for key in self.port.ended.borrow_mut().drain(..) {
            self.open.remove(key);
        }
    }
}

impl Drop for FarCalls {
    fn drop(&mut self) {
        self.forget_ended();
        for (_, id) in self.open.drain() {
            self.endpoint.on_request(id, RequestEvent::Cancel(CancelReason::Caller));
        }
    }
}

struct FarPort {
    /// Calls whose ending has gone by since the far side last looked; at most those in flight (X2),
    /// because it looks whenever a call is opened.
    ended: RefCell<Vec<DefaultKey>>,
    replies: Sender<Coming>,
}

impl Caller for FarPort {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        let key = DefaultKey::from(KeyData::from_ffi(id.0));
        if is_ending(&event) {
            self.ended.borrow_mut().push(key);
        }
        self.replies.push((key, event));
    }
}

fn is_ending(event: &ReplyEvent) -> bool {
    match event {
        ReplyEvent::Part(part) => part.end.is_some(),
        ReplyEvent::Failed(_) => true,
        ReplyEvent::Credit(_) => false,
    }
}
