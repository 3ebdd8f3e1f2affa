//! One framed connection with a local service: calls in both directions over one socket.
//!
//! A connection is at once a `Caller` (the service calls out through us) and an `Endpoint` (we call the
//! service). It is used from two sides: `ingress::framed` serves connections that services made,
//! delivery makes connections to `framed://` endpoints itself with [`connect`].
//!
//! ```text
//!  ports: open, on_request, on_reply            socket
//!         | push only                             |
//!         v                                       v
//!      Mailbox ------> driver (one task) <---- Decoder
//!                        |  Session: incoming calls, outgoing calls, names, windows
//!                        +--> everything that is ready, in one write
//! ```
//!
//! # Invariants
//! - S1. Port methods only push into the mailbox (V2); all other state belongs to the one task.
//! - S2. Each call that was opened here gets exactly one ending, also when the connection breaks:
//!   `Safe` if the request was never written, `Ambiguous` after that.
//! - S3. What the other side says about itself, its rights or the path of a call is ignored: facts,
//!   tokens for other units' eyes, `strait-` metadata.
//! - S4. Memory is bounded: calls by `calls_max`, bodies by the windows, output by not reading on.
//!
//! # Not here
//! Which endpoint a call goes to (`balance`), deadlines of calls (the stories cancel).

mod driver;
mod error;
mod flow;
mod handshake;
mod ids;
mod incoming;
mod metrics;
mod outgoing;
mod session;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub use self::error::{Ended, SessionError};
use self::ids::Ids;
pub use self::metrics::{Metrics, Side};
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, Caller, CallerRef, Endpoint, Reason, Refused, Registry, RelayError, ReplyEvent, Request,
    RequestEvent, Retry, RoutePush, Source, Subscriptions,
};
use crate::wire::hello::{self, Agreed};
use crate::wire::messages;
use crate::wire::pace::LeastPace;

/// Limits of a framed connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Calls the other side may have open here at a time.
    pub calls_max: u32,
    /// Un-credited body bytes per call that are accepted.
    pub call_bytes_max: usize,
    /// Longest frame that is accepted.
    pub frame_bytes_max: usize,
    /// Longest message that is put into gRPC framing for a gRPC caller.
    pub message_bytes_max: usize,
    /// Services one connection may register.
    pub services_max: usize,
    /// Time for the first frame of the other side.
    pub hello_timeout: Duration,
    /// Time from the first to the last byte of a frame.
    pub frame_timeout: Duration,
    /// Time for which the other side may read nothing, or less than `body_pace` says, while something is to be
    /// written.
    pub write_timeout: Duration,
    /// Least pace of bodies of calls of the other side.
    pub body_pace: LeastPace,
    /// Time without a frame and without a call after which the connection is ended; zero = never.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_max: 4096,
            call_bytes_max: 256 * 1024,
            frame_bytes_max: 1024 * 1024,
            message_bytes_max: crate::wire::envelope::MESSAGE_BYTES_DEFAULT,
            services_max: 256,
            hello_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            body_pace: LeastPace {
                bytes_per_second: 1024,
                time: Duration::from_secs(10),
            },
            idle_timeout: Duration::ZERO,
        }
    }
}

/// What a connection needs from around it.
#[derive(Clone)]
pub struct Surroundings {
    /// Where calls of the other side go; `None` on connections that relays made.
    pub callee: Option<Rc<dyn Callee>>,
    /// Takes calls of the relay's own API for messages that say no other place, past the story of calls: nothing of it
    /// is for them, and there are many. `None` if they go where all calls go.
    pub messages: Option<Rc<dyn Callee>>,
    /// Where services register; `None` if that is not possible here.
    pub registry: Option<Rc<dyn Registry>>,
    /// Where consumers of messages register; `None` if that is not possible here.
    pub subscriptions: Option<Rc<dyn Subscriptions>>,
    /// Who the other side is, as the socket told.
    pub source: Option<Source>,
    /// Limits.
    pub limits: Limits,
    /// Counters of this side.
    pub metrics: Side,
}

impl Surroundings {
    /// Who takes a call of the other side.
    fn callee_of(&self, request: &Request) -> Option<&Rc<dyn Callee>> {
        let is_of_messages = || {
            let hints = &request.hints;
            hints.unit.is_none() && hints.keys.is_empty() && request.service() == Some(messages::SERVICE)
        };
        let own = self.messages.as_ref().filter(|_| is_of_messages());
        own.or(self.callee.as_ref())
    }
}

/// The ports of one framed connection.
pub struct Connection {
    mailbox: Mailbox<Event>,
    ids: RefCell<Ids>,
    /// Calls the other side takes at a time.
    calls_max: Cell<usize>,
    /// Whether the other side takes calls now.
    taking: Cell<bool>,
    /// How many routes it may be told before those on their way are written; `None` if it wants none.
    routes_room: Cell<Option<usize>>,
}

/// What ports tell the task.
enum Event {
    /// A call to the other side; its number is taken already.
    Open {
        id: u64,
        request: Box<Request>,
        caller: CallerRef,
    },
    /// For a call to the other side.
    Request { id: u64, event: RequestEvent },
    /// For a call of the other side.
    Reply { id: u64, event: ReplyEvent },
    /// A key that the other side used has another owner.
    Route(RoutePush),
    /// A subscription is in force, or is not; to be told to the other side.
    Subscribed {
        /// Which REGISTER asked for it, as the session counts.
        register: u64,
        /// What was asked for.
        wanted: hello::Subscription,
        /// Why it is not.
        result: Result<(), String>,
    },
}

impl Connection {
    fn new(agreed: &Agreed, taking: bool) -> Rc<Self> {
        let routes_room = agreed.has(hello::ROUTES).then_some(ROUTES_WAITING_MAX);
        Rc::new(Self {
            mailbox: Mailbox::new(),
            ids: RefCell::default(),
            calls_max: Cell::new(agreed.calls_max),
            taking: Cell::new(taking),
            routes_room: Cell::new(routes_room),
        })
    }

    /// Whether the connection still lives.
    pub fn is_open(&self) -> bool {
        self.mailbox.is_open()
    }

    fn refusal(&self) -> Option<RelayError> {
        let (reason, detail) = if !self.mailbox.is_open() {
            (Reason::ServiceUnavailable, "the connection of the service is closed")
        } else if !self.taking.get() {
            (Reason::ServiceUnavailable, "the service takes no new calls")
        } else {
            return None;
        };
        Some(RelayError::new(reason, Retry::Safe, detail))
    }
}

impl Callee for Connection {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let id = match self.refusal() {
            Some(error) => Err(error),
            None => self.ids.borrow_mut().take(self.calls_max.get()).ok_or_else(|| {
                let detail = "the service has as many calls open as it accepts";
                RelayError::new(Reason::Limited, Retry::Safe, detail)
            }),
        };
        match id {
            Ok(id) => {
                self.mailbox.push(Event::Open { id, request, caller });
                Ok(CallId(id))
            }
            Err(error) => Err(Refused {
                error: Box::new(error),
                request,
            }),
        }
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        self.mailbox.push(Event::Request { id: id.0, event });
    }
}

impl Caller for Connection {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.mailbox.push(Event::Reply { id: id.0, event });
    }

    fn takes_routes(&self) -> bool {
        self.routes_room.get().is_some()
    }

    /// Lost if the other side does not read what it was told before: answers of its calls will tell.
    fn on_route(&self, push: &RoutePush) {
        let Some(room) = self.routes_room.get().and_then(|room| room.checked_sub(1)) else {
            return;
        };
        self.routes_room.set(Some(room));
        self.mailbox.push(Event::Route(push.clone()));
    }
}

impl Endpoint for Connection {
    fn in_flight(&self) -> usize {
        self.ids.borrow().in_use()
    }

    fn is_ready(&self) -> bool {
        self.refusal().is_none() && self.in_flight() < self.calls_max.get()
    }
}

/// Serves a connection that a service made, until it ends or, after `drain`, has no call left.
///
/// One task per connection runs this. Dropping it drops the connection without a word; callers of open
/// calls then hear nothing, so do it only when their side ends as well.
pub async fn serve(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    surroundings: Surroundings,
    drain: CancellationToken,
) -> Ended {
    let metrics = surroundings.metrics.clone();
    metrics.on_open();
    let ended = match handshake::shake(&mut io, &surroundings.limits, surroundings.limits.calls_max).await {
        Ok(shaken) => {
            let connection = Connection::new(&shaken.agreed, false);
            driver::run(io, connection, shaken, surroundings, drain).await
        }
        Err(error) => Ended::Failed(handshake::give_up(&mut io, error).await),
    };
    metrics.on_end(&ended);
    ended
}

/// Shakes hands on a connection that was made to a `framed://` endpoint. Gives the endpoint, and the
/// work of the connection to be run as a task; the endpoint takes calls while that runs.
///
/// # Errors
/// [`SessionError`] if the other side does not speak the protocol, refuses, or is too slow.
pub async fn connect<I>(
    mut io: I,
    limits: Limits,
    metrics: Side,
    drain: CancellationToken,
) -> Result<(Rc<Connection>, impl Future<Output = Ended> + use<I>), SessionError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let surroundings = Surroundings {
        callee: None,
        messages: None,
        registry: None,
        subscriptions: None,
        source: None,
        limits,
        metrics,
    };
    let shaken = match handshake::shake(&mut io, &surroundings.limits, 0).await {
        Ok(shaken) => shaken,
        Err(error) => return Err(handshake::give_up(&mut io, error).await),
    };
    let connection = Connection::new(&shaken.agreed, true);
    let metrics = surroundings.metrics.clone();
    let work = driver::run(io, Rc::clone(&connection), shaken, surroundings, drain);
    let work = async move {
        metrics.on_open();
        let ended = work.await;
        metrics.on_end(&ended);
        ended
    };
    Ok((connection, work))
}

/// Routes that may wait to be written, as many as a connection is told of keys.
const ROUTES_WAITING_MAX: usize = 256;
