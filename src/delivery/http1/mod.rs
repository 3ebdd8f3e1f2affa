//! Hands unary calls to services that speak HTTP/1.1 (C-E1): `POST /service/method`.
//!
//! # Invariants
//! - T1. One connection carries one call at a time; connections are kept and used again.
//! - T2. A call that could not be written to a connection is `Retry::Safe`; one that was, and was not
//!   answered, is `Retry::Ambiguous`.
//! - T3. Bodies are held up to the limit in the settings, and replies are sent on under credit.
//!
//! # Not here
//! Streaming calls: a second message fails the call.

mod exchange;
mod settings;
#[cfg(test)]
mod tests;
mod translate;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::settings::Settings;
use super::dial::Place;
use super::slot::Control;
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, CallerRef, Endpoint, Reason, Refused, RelayError, Request, RequestBody, RequestEvent, Retry,
};
use crate::wire::io::BoxIo;

/// Pushback of an endpoint with all its connections in use.
const PUSHBACK: Duration = Duration::from_millis(50);

type Sender = SendRequest<Full<Bytes>>;

/// One HTTP/1.1 endpoint with its connections.
pub(super) struct Pool {
    me: Weak<Self>,
    place: Place,
    settings: Settings,
    calls: RefCell<SlotMap<DefaultKey, Rc<Post>>>,
    idle: RefCell<Vec<Sender>>,
    /// Connects no longer: the keeper finds out when it does again.
    broken: CancellationToken,
    retired: Cell<bool>,
    tracker: TaskTracker,
}

/// What the caller of one call says.
#[derive(Default)]
struct Post {
    body: Mailbox<RequestBody>,
    credit: Mailbox<usize>,
    cancelled: CancellationToken,
}

impl Pool {
    /// An endpoint with a first connection.
    pub(super) async fn new(place: Place, io: BoxIo, settings: Settings, tracker: TaskTracker) -> io::Result<Rc<Self>> {
        let pool = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            place,
            settings,
            calls: RefCell::default(),
            idle: RefCell::default(),
            broken: CancellationToken::new(),
            retired: Cell::new(false),
            tracker,
        });
        let sender = pool.shake(io).await?;
        pool.keep(sender);
        Ok(pool)
    }

    /// Lasts as long as connections can be made, or until the calls of a retired endpoint have ended.
    pub(super) async fn lasting(self: Rc<Self>) {
        self.broken.cancelled().await;
    }

    async fn shake(&self, io: BoxIo) -> io::Result<Sender> {
        let handshake = http1::handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        self.tracker.spawn_local(async move {
            // Whoever uses the connection hears of its end too.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if !self.retired.get() && idle.len() < self.settings.connections_max {
            idle.push(sender);
        }
    }

    /// An open connection without a call, if there is one.
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn end(&self, key: DefaultKey) {
        self.calls.borrow_mut().remove(key);
        self.end_if_retired();
    }

    fn end_if_retired(&self) {
        if self.retired.get() && self.calls.borrow().is_empty() {
            self.broken.cancel();
        }
    }
}

impl Callee for Pool {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let limit = self.settings.connections_max;
        let error = match self.me.upgrade() {
            Some(me) if self.is_open() && self.in_flight() < limit => {
                let post = Rc::new(Post::default());
                let key = self.calls.borrow_mut().insert(Rc::clone(&post));
                self.tracker.spawn_local(me.carry(key, request, caller, post));
                return Ok(CallId(key.data().as_ffi()));
            }
            Some(_) if self.is_open() => {
                let detail = format!("all {limit} connections to the HTTP/1.1 endpoint are in use; slow down");
                RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK)
            }
            _ => {
                let detail = "the HTTP/1.1 endpoint cannot be reached now";
                RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail)
            }
        };
        Err(Refused {
            error: Box::new(error),
            request,
        })
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let key = DefaultKey::from(KeyData::from_ffi(id.0));
        let Some(post) = self.calls.borrow().get(key).cloned() else {
            return;
        };
        match event {
            RequestEvent::Body(body) => post.body.push(body),
            RequestEvent::Credit(bytes) => post.credit.push(bytes),
            RequestEvent::Cancel(_) => post.cancelled.cancel(),
        }
    }
}

impl Endpoint for Pool {
    fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_ready(&self) -> bool {
        self.is_open() && self.in_flight() < self.settings.connections_max
    }
}

impl Control for Pool {
    fn is_open(&self) -> bool {
        !self.retired.get() && !self.broken.is_cancelled()
    }

    fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.end_if_retired();
    }
}
