//! A client for local services that speaks the framed protocol with their relay.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use strait::client::{Call, Client, Reply};
//!
//! let client = Client::connect("unix:/run/strait/strait.sock").await?;
//! let call = Call::new("im.Echo/Say").key("im.conversation", "cid:1").timeout(Duration::from_secs(1));
//! let reply = client.call(call.body("hello")).await?;
//! assert_eq!(reply.body(), "hello");
//!
//! // The same connection can serve: no port, no listener.
//! client.serve("im.Receiver", async |received| Ok(Reply::new(received.body().clone()))).await?;
//! # Ok(()) }
//! ```
//!
//! One connection carries any number of calls in both directions. It is made again when it breaks, with
//! a jittered backoff, and services are registered again. Calls that were not yet sent wait for the new
//! connection until their deadline; calls that were sent fail with [`CallError::Lost`], because the
//! service may have acted.
//!
//! Messages are published and received over the same connection:
//!
//! ```no_run
//! # async fn example(client: strait::client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use strait::client::{Publish, Subscribe};
//!
//! let message = Publish::new("im.sent").key("im.conversation", "cid:1").attribute("type", "im.sent.v1").body("hello");
//! println!("{} is safe", client.publish(message).await?.id());
//!
//! // At least once: whoever takes messages must stand one twice, and knows it by its id.
//! client.subscribe(Subscribe::new("im.sent", "archive"), async |message| {
//!     println!("{}: {} bytes", message.id(), message.body().len());
//!     Ok(())
//! }).await?;
//! # Ok(()) }
//! ```
//!
//! Calls with keys that are claimed are answered with route tokens. The client keeps those of its hottest keys
//! ([`Builder::tokens_max`]) and sends them along by itself, which spares its relay to ask who owns the key.
//!
//! Unary calls only; bodies up to [`Builder::message_bytes_max`] flow in chunks under credit. For
//! streaming calls use gRPC.
//!
//! # Invariants
//! - L1. Every call ends: by a reply, an error of a relay, or its deadline. There is always a deadline.
//! - L2. At most [`Builder::in_flight_max`] calls are under way or queued; others wait in their own
//!   futures.
//! - L3. Dropping the future of a call cancels it.

mod address;
mod builder;
mod call;
mod calls;
mod messages;
mod sending;
mod served;
mod session;
mod tokens;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

pub use self::address::{Address, AddressError};
pub use self::builder::Builder;
use self::call::Outcome;
pub use self::call::{Call, CallError, InvalidCall, Received, Reply, Status};
pub use self::messages::{Attempt, Nack, Publish, Published, Settle, Subscribe};
use self::tokens::Tokens;
pub use crate::model::AckLevel;
use crate::model::{Key, Metadata, Name, NameError, Request};
use crate::wire::messages::SUBSCRIBER;

/// A connection to a relay. Clones share it; it closes when the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address has no known form.
    #[error("invalid address")]
    Address(#[source] AddressError),
    /// The socket could not be connected.
    #[error("cannot connect to the relay at {address}; is it running?")]
    Socket {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The relay does not speak this protocol, or refuses to.
    #[error("the relay at {address} refused the connection: {detail}")]
    Refused {
        /// Where.
        address: String,
        /// In its own words, or ours about its words.
        detail: String,
    },
}

/// Why a service cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The name breaks the name rule.
    #[error("invalid service name")]
    Name(#[source] NameError),
    /// The relay does not take it.
    #[error("the relay refused {service}: {reason}")]
    Refused {
        /// Which service or topic.
        service: Name,
        /// In the relay's words.
        reason: String,
    },
    /// The client was closed meanwhile.
    #[error("the client is closed")]
    Closed,
}

/// What clones of a client share; closes the client when it is dropped.
struct Handle {
    shared: Arc<Shared>,
    timeout: Duration,
}

/// What handles and the worker share.
struct Shared {
    queue: Mutex<VecDeque<Command>>,
    /// Wakes the worker; one permit stands for any number of commands.
    wake: Notify,
    in_flight: Semaphore,
    /// Some call's future was dropped.
    dropped: AtomicBool,
    closed: AtomicBool,
    services: Mutex<HashMap<Wanted, (Handler, u32)>>,
    /// Short sections: each takes or changes a few of them.
    tokens: Mutex<Tokens>,
}

/// What a client receives calls for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Wanted {
    Service(Name),
    /// Messages.
    Group {
        topic: Name,
        group: Name,
    },
}

type Answer = Pin<Box<dyn Future<Output = Result<Reply, Status>> + Send>>;
type Handler = Arc<dyn Fn(Received) -> Answer + Send + Sync>;

enum Command {
    /// A call to make.
    Call(Pending),
    /// Tell the relay about a service or subscription; it is among them already.
    Register {
        wanted: Wanted,
        done: oneshot::Sender<Result<(), ServeError>>,
    },
    /// A handler is done. `session` tells whether the connection is still the same.
    Answered {
        session: u64,
        id: u64,
        result: Result<Reply, Status>,
    },
}

/// A call that has not ended.
struct Pending {
    request: Box<Request>,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl Client {
    /// Connects with default settings. Addresses: `unix:/path`, `tcp://host:port`.
    ///
    /// Must be called within a tokio runtime with I/O and time; any flavour.
    ///
    /// # Errors
    /// [`ConnectError`] if the first connection fails. Later ones are retried without end.
    pub async fn connect(address: &str) -> Result<Self, ConnectError> {
        Self::builder(address).connect().await
    }

    /// Settings to change before connecting.
    pub fn builder(address: &str) -> Builder {
        Builder::new(address)
    }

    /// Makes a call and waits for its reply.
    ///
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// [`CallError`]; its [`CallError::retry`] says whether calling again can make a service act twice.
    pub async fn call(&self, mut call: Call) -> Result<Reply, CallError> {
        let shared = &self.handle.shared;
        shared.tokens().attach(call.hints_mut());
        let keys = call.hints_mut().keys.clone();
        let now = tokio::time::Instant::now();
        let deadline = now + call.timeout_or(self.handle.timeout);
        let permit = match shared.in_flight.try_acquire() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout_at(deadline, shared.in_flight.acquire())
                .await
                .map_err(|_| CallError::Deadline { sent: false })?
                .map_err(|_| CallError::Closed)?,
        };
        let outcome = self.begin(call, deadline, permit)?.end().await;
        if !keys.is_empty() {
            shared.learn(&keys, &outcome);
        }
        outcome
    }

    /// The route token that it keeps of a key, as relays gave it. It is sent along with calls of the key by itself.
    pub fn route_token(&self, dimension: &str, key: impl AsRef<[u8]>) -> Option<Bytes> {
        let tokens = self.handle.shared.tokens();
        tokens.of(dimension.as_bytes(), key.as_ref())
    }

    /// Hands a call to the worker.
    fn begin<'a>(
        &'a self,
        call: Call,
        deadline: tokio::time::Instant,
        permit: SemaphorePermit<'a>,
    ) -> Result<UnderWay<'a>, CallError> {
        let shared = &self.handle.shared;
        let now = tokio::time::Instant::now().into_std();
        let deadline = deadline.into_std();
        let (sender, receiver) = oneshot::channel();
        shared.push(Command::Call(Pending {
            request: Box::new(call.into_request(now, deadline)?),
            deadline,
            reply: sender,
        }));
        Ok(UnderWay {
            guard: Guard {
                shared,
                receiver: Some(receiver),
            },
            _permit: permit,
        })
    }

    /// Serves a service over this connection: `handler` is called for each call, on the client's task
    /// until it first waits, then on a task of its own; so it must not block. It is dropped if the caller
    /// cancels or its deadline passes.
    ///
    /// Returns when the relay has accepted the service. It is served until the client is dropped, and
    /// registered again whenever the connection is made again.
    ///
    /// # Errors
    /// [`ServeError`] if the relay refuses it.
    pub async fn serve<H, F>(&self, service: &str, handler: H) -> Result<(), ServeError>
    where
        H: Fn(Received) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Status>> + Send + 'static,
    {
        let service = Name::new(service).map_err(ServeError::Name)?;
        let handler: Handler = Arc::new(move |received| Box::pin(handler(received)));
        self.register(Wanted::Service(service), handler, 0).await
    }

    async fn register(&self, wanted: Wanted, handler: Handler, in_flight_max: u32) -> Result<(), ServeError> {
        let shared = &self.handle.shared;
        shared.services().insert(wanted.clone(), (handler, in_flight_max));
        let (done, registered) = oneshot::channel();
        shared.push(Command::Register {
            wanted: wanted.clone(),
            done,
        });
        let result = registered.await.unwrap_or(Err(ServeError::Closed));
        if result.is_err() {
            shared.services().remove(&wanted);
        }
        result
    }
}

impl Shared {
    fn push(&self, command: Command) {
        let was_empty = {
            let mut queue = self.queue();
            queue.push_back(command);
            queue.len() == 1
        };
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Command>> {
        // Sections under this lock cannot panic half-way: they move values.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn services(&self) -> MutexGuard<'_, HashMap<Wanted, (Handler, u32)>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the answer of a call with these keys says of them.
    fn learn(&self, keys: &[Key], outcome: &Outcome) {
        let none = Metadata::default();
        match outcome {
            Ok(reply) => self.tokens().learn_from(keys, [reply.metadata(), reply.trailers()]),
            Err(CallError::Status(status)) => self.tokens().learn_from(keys, [&none, &status.trailers]),
            Err(CallError::Relay(error)) => {
                if let Some(token) = &error.token {
                    self.tokens().learn(keys, token);
                }
            }
            Err(_) => {}
        }
    }

    /// Everything to tell a relay about.
    fn wanted(&self) -> Vec<Wanted> {
        self.services().keys().cloned().collect()
    }

    /// Messages at a time of a subscription.
    fn in_flight_of(&self, wanted: &Wanted) -> u32 {
        self.services()
            .get(wanted)
            .map_or(0, |(_, in_flight_max)| *in_flight_max)
    }

    /// Who takes a call of the relay.
    fn handler(&self, request: &Request) -> Option<Handler> {
        let service = request.service()?;
        let wanted = if service == SUBSCRIBER {
            let name = |field| request.metadata.text(field).unwrap_or_default();
            Wanted::group(name("strait-topic"), name("strait-group"))?
        } else {
            Wanted::Service(Name::new(service).ok()?)
        };
        self.services().get(&wanted).map(|(handler, _)| Arc::clone(handler))
    }
}

impl Wanted {
    fn group(topic: &str, group: &str) -> Option<Self> {
        Some(Self::Group {
            topic: Name::new(topic).ok()?,
            group: Name::new(group).ok()?,
        })
    }

    fn name(&self) -> &Name {
        match self {
            Self::Service(name) => name,
            Self::Group { topic, .. } => topic,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.in_flight.close();
        self.shared.wake.notify_one();
    }
}

/// A call that was handed to the worker. Dropping it cancels the call.
struct UnderWay<'a> {
    guard: Guard<'a>,
    _permit: SemaphorePermit<'a>,
}

impl UnderWay<'_> {
    async fn end(mut self) -> Outcome {
        let outcome = match &mut self.guard.receiver {
            Some(receiver) => receiver.await,
            None => return Err(CallError::Closed),
        };
        self.guard.receiver = None;
        outcome.unwrap_or(Err(CallError::Closed))
    }
}

/// Tells the worker that nobody waits for a call any more (L3).
struct Guard<'a> {
    shared: &'a Shared,
    receiver: Option<oneshot::Receiver<Outcome>>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.receiver.take().is_some() {
            self.shared.dropped.store(true, Ordering::Release);
            self.shared.wake.notify_one();
        }
    }
}
