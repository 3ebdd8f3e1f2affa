//! Calls that the relay itself makes, to the application of some unit. They take the way of all calls, from the story of a
//! shard on.
//!
//! # Invariants
//! - W1. Each call is answered once: by the reply, by the error that ended it, or because the shard ends.
//! - W2. A call says that a relay makes it ([`RELAY`]); no local service can say so of itself.
//!
//! # Not here
//! What is asked (`hooks`).

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio::sync::{mpsc, oneshot};

use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Code, Envelope, Facts, Geo, Metadata, Name, Place, RELAY,
    RelayError, ReplyEvent, Request, RequestBody, RequestEvent, RouteHints, SMALL_BODY_BYTES, Source, UnitId,
    wants_credit,
};

/// A call of one message, which may be executed twice.
#[derive(Clone, Debug)]
pub struct OwnCall {
    /// `/package.Service/Method`.
    pub path: Bytes,
    /// The unit whose service is meant.
    pub unit: UnitId,
    /// The message.
    pub body: Bytes,
    /// How long the answer is waited for.
    pub timeout: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// The service answered with an error.
    #[error("{code:?}: {message}")]
    Service {
        /// Its status.
        code: Code,
        /// Its text.
        message: String,
    },
    /// A relay ended the call.
    #[error(transparent)]
    Relay(Box<RelayError>),
    /// The answer is larger than those that are asked for.
    #[error("the answer is larger than {SMALL_BODY_BYTES} bytes")]
    TooLarge,
    /// This relay is shutting down.
    #[error("this relay is shutting down")]
    Ending,
}

/// Makes calls from any thread. Clones use the same shard.
#[derive(Clone, Debug)]
pub struct OwnCalls(mpsc::Sender<Asked>);

/// The other end, for the shard that makes them.
#[derive(Debug)]
pub struct OwnAsked(mpsc::Receiver<Asked>);

type Told = oneshot::Sender<Result<Bytes, OwnError>>;

#[derive(Debug)]
struct Asked {
    call: OwnCall,
    told: Told,
}

impl OwnCalls {
    /// Both ends.
    pub fn new() -> (Self, OwnAsked) {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        (Self(asks), OwnAsked(asked))
    }

    /// Makes a call. A caller that stops waiting leaves it to its time limit.
    ///
    /// # Errors
    /// [`OwnError`].
    pub async fn call(&self, call: OwnCall) -> Result<Bytes, OwnError> {
        let (told, answer) = oneshot::channel();
        self.0.send(Asked { call, told }).await.map_err(|_| OwnError::Ending)?;
        answer.await.unwrap_or(Err(OwnError::Ending))
    }
}

/// Makes the calls on a shard.
pub struct OwnStory {
    place: Place,
    geo: Geo,
    callee: Rc<dyn Callee>,
    open: RefCell<SlotMap<DefaultKey, Open>>,
    replies: Mailbox<(CallId, ReplyEvent)>,
    me: Weak<Self>,
}

struct Open {
    callee_id: CallId,
    reply: BytesMut,
    told: Told,
}

impl OwnStory {
    /// For a relay of this place; calls go to `callee`.
    pub fn new(place: Place, geo: Geo, callee: Rc<dyn Callee>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            place,
            geo,
            callee,
            open: RefCell::default(),
            replies: Mailbox::new(),
            me: me.clone(),
        })
    }

    /// Makes calls as they are asked for; runs as long as the shard.
    pub async fn run(&self, mut asked: OwnAsked) {
        loop {
            tokio::select! {
                asked = asked.0.recv() => match asked {
                    Some(asked) => self.make(asked),
                    None => return,
                },
                () = self.replies.some() => {
                    while let Some((id, event)) = self.replies.pop() {
                        self.on_event(id, event);
                    }
                }
            }
        }
    }

    fn make(&self, Asked { call, told }: Asked) {
        let Some(me) = self.me.upgrade() else { return };
        let request = Box::new(self.request(call));
        let open = Open {
            callee_id: CallId(0),
            reply: BytesMut::new(),
            told,
        };
        let key = self.open.borrow_mut().insert(open);
        let id = CallId(key.data().as_ffi());
        match self.callee.open(request, CallerRef { port: me, id }) {
            Ok(callee_id) => {
                if let Some(open) = self.open.borrow_mut().get_mut(key) {
                    open.callee_id = callee_id;
                }
            }
            Err(refused) => self.tell(id, Err(OwnError::Relay(refused.error))),
        }
    }

    fn request(&self, call: OwnCall) -> Request {
        let now = tokio::time::Instant::now().into_std();
        Request {
            path: call.path,
            authority: Bytes::new(),
            envelope: Envelope::Framed,
            metadata: Metadata::default(),
            hints: RouteHints {
                unit: Some(call.unit),
                idempotent: true,
                ..RouteHints::default()
            },
            facts: Facts {
                source: Some(Source {
                    geo: self.geo.clone(),
                    unit: self.place.unit.clone(),
                    service: Name::new(RELAY).ok(),
                }),
                ..Facts::default()
            },
            received: now,
            deadline: now.checked_add(call.timeout),
            body: RequestBody {
                chunk: call.body,
                end: true,
            },
        }
    }

    fn on_event(&self, id: CallId, event: ReplyEvent) {
        let part = match event {
            ReplyEvent::Part(part) => part,
            ReplyEvent::Failed(error) => return self.tell(id, Err(OwnError::Relay(error))),
            // The whole message went with the request.
            ReplyEvent::Credit(_) => return,
        };
        let bytes = part.body.0.len();
        let Some((callee_id, is_large)) = self.open.borrow_mut().get_mut(key_of(id)).map(|open| {
            open.reply.extend_from_slice(&part.body.0);
            (open.callee_id, open.reply.len() > SMALL_BODY_BYTES)
        }) else {
            return;
        };
        let Some(end) = part.end else {
            if is_large {
                let cancel = RequestEvent::Cancel(CancelReason::Caller);
                self.callee.on_request(callee_id, cancel);
                self.tell(id, Err(OwnError::TooLarge));
            } else if wants_credit(bytes, false) {
                self.callee.on_request(callee_id, RequestEvent::Credit(bytes));
            }
            return;
        };
        let ended = if end.status == Code::Ok {
            Ok(())
        } else {
            let said = end.trailers.value("grpc-message").unwrap_or(&end.message);
            let said = said.get(..TEXT_MAX).unwrap_or(said);
            Err(OwnError::Service {
                code: end.status,
                message: String::from_utf8_lossy(said).into_owned(),
            })
        };
        let open = self.open.borrow_mut().remove(key_of(id));
        if let Some(open) = open {
            // Whoever asked may not wait any more.
            let _ = open.told.send(ended.map(|()| open.reply.freeze()));
        }
    }

    fn tell(&self, id: CallId, answer: Result<Bytes, OwnError>) {
        let open = self.open.borrow_mut().remove(key_of(id));
        if let Some(open) = open {
            let _ = open.told.send(answer);
        }
    }
}

impl Caller for OwnStory {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.replies.push((id, event));
    }
}

fn key_of(id: CallId) -> DefaultKey {
    KeyData::from_ffi(id.0).into()
}

/// Calls that wait for the shard.
const WAITING_MAX: usize = 64;
/// What is kept of a text of a service.
const TEXT_MAX: usize = 512;

#[cfg(test)]
mod tests;
