//! The relay's own API for messages, `strait.v1.Messages`: a callee in this process, reached by its path as any service.
//!
//! It works on the events of calls, in both envelopes: no HTTP/2 and no task of its own per call is between a publisher and the
//! queue. Documented in `proto/strait/v1/messages.proto`.
//!
//! ```text
//! open, on_request ---> Call: Reader -> publish / settle ---> outbound::Publishers, inbound::Consumers
//!                                                                      |
//! caller <--- run() <--- Mailbox <--- on_published, on_deliver <-------+
//! ```
//!
//! # Invariants
//! - M1. Replies leave through the mailbox only, so that no method calls a caller back (V2) and replies of a call keep their order.
//! - M2. Each call that was opened gets exactly one end; what it still had under way is forgotten or unsubscribed then.
//! - M3. Bounded: a unary body by its limit, a stream of publications by messages and bytes under way (beyond, its bytes get no
//!   credit), a consumer by its messages in flight and the credit of its reply. Who does not read holds up himself only.
//! - M4. Only services of this unit are served: other units reach topics over lanes, by the rules of topics (M-G4).
//!
//! # Not here
//! What a message may be and where it goes (`outbound::message`), consumers that are called (`inbound::push`).

mod call;
mod publish;
mod reader;
mod reply;
mod subscribe;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio_util::sync::CancellationToken;

use self::call::{Call, Kind};
use self::reply::Replies;
use crate::inbound::{Consumer, Consumers};
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, CallerRef, Endpoint, Place, Reason, Refused, RelayError, ReplyEvent, Request, RequestBody,
    RequestEvent, Retry, wants_credit,
};
use crate::outbound::{Published, Publisher, Publishers};
use crate::queue::api::{Deliver, DeliveryId};

/// What the API of one shard is made of.
pub struct Parts {
    /// This unit and relay.
    pub place: Place,
    /// Takes messages.
    pub publishers: Rc<Publishers>,
    /// Gives messages.
    pub consumers: Rc<Consumers>,
    /// Longest wait of a publication whose call names no deadline (`calls.timeout`).
    pub timeout: Duration,
    /// The relay takes no new work.
    pub drain: CancellationToken,
}

/// The API of one shard.
pub struct Messages {
    parts: Parts,
    replies: Replies,
    calls: RefCell<SlotMap<DefaultKey, Call>>,
    out: Mailbox<(CallerRef, ReplyEvent)>,
    draining: Cell<bool>,
    me: Weak<Self>,
}

impl Messages {
    /// The API; attach it to `delivery` under [`SERVICE`](crate::wire::messages::SERVICE).
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            parts,
            replies: Replies::new(),
            calls: RefCell::default(),
            out: Mailbox::new(),
            draining: Cell::new(false),
            me: me.clone(),
        })
    }

    /// Brings replies to their callers, and ends streams when the relay drains (C-L1); runs as long as the shard.
    pub async fn run(&self) {
        let replies = async {
            loop {
                self.out.some().await;
                while let Some((caller, event)) = self.out.pop() {
                    caller.send(event);
                }
            }
        };
        let drain = async {
            self.parts.drain.cancelled().await;
            self.drain();
            std::future::pending::<()>().await;
        };
        tokio::join!(replies, drain, self.watch_blocked());
    }

    fn drain(&self) {
        self.draining.set(true);
        self.parts.publishers.drain();
        let keys: Vec<_> = self.calls.borrow().keys().collect();
        for key in keys {
            let is_over = self.calls.borrow().get(key).is_some_and(|call| match &call.kind {
                Kind::Subscribing | Kind::Consumer(_) => true,
                Kind::Stream(stream) => stream.is_quiet(),
                Kind::Unary(_) | Kind::Single(_) | Kind::Batch(_) => false,
            });
            if is_over {
                self.fail(key, draining());
            }
        }
    }

    /// More of a request.
    fn feed(&self, key: DefaultKey, body: RequestBody) {
        let result = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.get_mut(key) else { return };
            let (bytes, end) = (body.chunk.len(), body.end);
            if wants_credit(bytes, end) && !end {
                call.owed += bytes;
            }
            call.reader.push(body.chunk, end);
            Ok(())
        };
        let result = result.and_then(|()| self.advance(key));
        if let Err(error) = result {
            self.fail(key, error);
        }
    }

    /// Does what the messages of a request ask for, as far as they are here.
    fn advance(&self, key: DefaultKey) -> Result<(), RelayError> {
        loop {
            let message = {
                let mut calls = self.calls.borrow_mut();
                let Some(call) = calls.get_mut(key) else { return Ok(()) };
                if call.is_full() {
                    return Ok(());
                }
                let message = call.reader.next().map_err(|error| call::unreadable(&error))?;
                if message.is_none() {
                    // Nothing is kept back: the caller may go on.
                    let owed = std::mem::take(&mut call.owed);
                    if owed > 0 && !call.reader.is_ended() {
                        self.out.push((call.caller.clone(), ReplyEvent::Credit(owed)));
                    }
                    if !call.reader.is_ended() {
                        return Ok(());
                    }
                }
                message
            };
            let Some(message) = message else {
                return self.on_end(key);
            };
            self.on_message(key, message)?;
        }
    }

    /// The request has ended.
    fn on_end(&self, key: DefaultKey) -> Result<(), RelayError> {
        let is_over = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.get_mut(key) else { return Ok(()) };
            match &mut call.kind {
                Kind::Unary(_) => return Err(bad("the request has no message")),
                Kind::Single(_) | Kind::Batch(_) => false,
                Kind::Stream(stream) => stream.is_quiet(),
                Kind::Subscribing => return Err(bad("the first request of Subscribe must be `start`")),
                // Nothing can be settled any more.
                Kind::Consumer(_) => true,
            }
        };
        if is_over {
            self.end_ok(key);
        }
        Ok(())
    }

    fn on_message(&self, key: DefaultKey, message: bytes::Bytes) -> Result<(), RelayError> {
        let kind = self.calls.borrow().get(key).map(|call| call.kind.name());
        match kind {
            Some(call::Name::Unary) => self.on_unary(key, message),
            Some(call::Name::Stream) => self.on_streamed(key, message),
            Some(call::Name::Subscribe) => self.on_said(key, message),
            Some(call::Name::Answering) => Err(bad("the call takes one message, more than one came")),
            None => Ok(()),
        }
    }

    /// Ends a call with an error.
    fn fail(&self, key: DefaultKey, error: RelayError) {
        if let Some(call) = self.calls.borrow_mut().remove(key) {
            self.leave(&call);
            let error = error.at(&self.parts.place.unit, &self.parts.place.relay);
            self.out.push((call.caller, ReplyEvent::Failed(Box::new(error))));
        }
    }

    /// Ends a stream with success.
    fn end_ok(&self, key: DefaultKey) {
        if let Some(call) = self.calls.borrow_mut().remove(key) {
            self.leave(&call);
            let part = self.replies.end(call.is_grpc, call.has_head);
            self.out.push((call.caller, ReplyEvent::Part(part)));
        }
    }

    /// Nobody waits for what the call has under way (M2).
    fn leave(&self, call: &Call) {
        match &call.kind {
            Kind::Single(number) => self.parts.publishers.forget(*number),
            Kind::Batch(batch) => batch.numbers().for_each(|number| self.parts.publishers.forget(number)),
            Kind::Stream(stream) => stream.numbers().for_each(|number| self.parts.publishers.forget(number)),
            Kind::Consumer(consumer) => self.parts.consumers.unsubscribe(consumer.id),
            Kind::Unary(_) | Kind::Subscribing => {}
        }
    }

    fn check_caller(&self, request: &Request) -> Result<(), RelayError> {
        let own = &self.parts.place.unit;
        let facts = &request.facts;
        let is_own = facts.source.as_ref().is_none_or(|source| source.unit == *own) && facts.visited.is_empty();
        if is_own {
            return Ok(());
        }
        let detail = format!(
            "messages are published and received at a relay of the own unit; this one serves unit {own}. Call without a \
             key or unit: the key belongs into the message"
        );
        Err(RelayError::new(Reason::Policy, Retry::Never, detail))
    }
}

impl Callee for Messages {
    fn open(&self, mut request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let body = std::mem::take(&mut request.body);
        let call = self
            .check_caller(&request)
            .and_then(|()| Call::new(&request, caller.clone(), &self.parts));
        let call = match call {
            Ok(call) => call,
            Err(error) => {
                // Refusing would make the directory look for another endpoint.
                let error = error.at(&self.parts.place.unit, &self.parts.place.relay);
                self.out.push((caller, ReplyEvent::Failed(Box::new(error))));
                return Ok(CallId(u64::MAX));
            }
        };
        let key = self.calls.borrow_mut().insert(call);
        if self.draining.get() {
            self.fail(key, draining());
        } else {
            self.begin(key);
            self.feed(key, body);
        }
        Ok(CallId(key.data().as_ffi()))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let key = key_of(id.0);
        match event {
            RequestEvent::Body(body) => self.feed(key, body),
            RequestEvent::Cancel(_) => {
                if let Some(call) = self.calls.borrow_mut().remove(key) {
                    self.leave(&call);
                }
            }
            RequestEvent::Credit(bytes) => self.on_reply_credit(key, bytes),
        }
    }
}

impl Endpoint for Messages {
    fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_ready(&self) -> bool {
        true
    }
}

impl Publisher for Messages {
    fn on_published(&self, id: u64, index: u64, end: Published) {
        self.on_publication(key_of(id), index, end);
    }
}

impl Consumer for Messages {
    fn on_subscribed(&self, id: u64, result: Result<(), Box<RelayError>>) {
        match result {
            Ok(()) => self.on_in_force(key_of(id)),
            Err(error) => self.fail(key_of(id), *error),
        }
    }

    fn on_deliver(&self, id: u64, deliver: Box<Deliver>) {
        self.on_delivery(key_of(id), deliver);
    }

    fn on_overdue(&self, id: u64, delivery: DeliveryId) {
        self.on_kept_too_long(key_of(id), delivery);
    }
}

fn key_of(id: u64) -> DefaultKey {
    DefaultKey::from(KeyData::from_ffi(id))
}

fn bad(detail: impl Into<String>) -> RelayError {
    RelayError::new(Reason::BadInput, Retry::Never, detail)
}

fn draining() -> RelayError {
    let detail = "this relay is shutting down; use another relay of the unit";
    RelayError::new(Reason::Draining, Retry::Safe, detail)
}
