//! One call: its request, its reply, and the two ports its events travel through.
//!
//! A call is a pair of event streams between a *caller* (an ingress connection, or the lane a peer
//! sends on) and a *callee* (a story, a lane, a local service). Events are pushed, never awaited:
//! each side owns a mailbox and wakes once per batch. Everything happens on one shard, so ports are
//! `Rc`, not `Arc`.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Code, Key, Metadata, RelayError, RouteHints, RoutedBy, Source, UnitId};

/// Bytes of a body that travel without asking for credit: what a lane carries per call and direction.
/// More than this is a *large* body and flows under credit, on a stream of its own between relays.
pub const SMALL_BODY_BYTES: usize = 16 * 1024;

/// Name of a call at the side that issued the id; opaque to the other side. Slab index and
/// generation, so that an event for a call that has ended is recognised and ignored.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CallId(pub u64);

/// Where replies of a call go.
#[derive(Clone)]
pub struct CallerRef {
    /// The caller's port.
    pub port: Rc<dyn Caller>,
    /// The call's name at the caller.
    pub id: CallId,
}

impl CallerRef {
    /// Hands one event to the caller.
    pub fn send(&self, event: ReplyEvent) {
        self.port.on_reply(self.id, event);
    }
}

/// Where a call goes on: a story, a lane to a peer, or a local service.
///
/// Must obey V2: neither method calls the caller back before it returns.
pub trait Callee {
    /// Starts a call and takes its first body chunk with it. From `Ok` on, the callee owes the
    /// caller exactly one ending: a part with `end`, or `Failed`. It owes nothing after a `Cancel`.
    ///
    /// # Errors
    /// [`Refused`] if no byte of the request was passed on; the request comes back with it.
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused>;

    /// Takes an event of a call that was opened here. Events of ended calls are ignored.
    fn on_request(&self, id: CallId, event: RequestEvent);
}

/// Where the reply of a call goes back to.
pub trait Caller {
    /// Takes an event of a call. Events of ended calls are ignored.
    fn on_reply(&self, id: CallId, event: ReplyEvent);

    /// Whether it wants to hear when keys that it used get another owner.
    fn takes_routes(&self) -> bool {
        false
    }

    /// A key that it used has another owner. May be lost.
    fn on_route(&self, _: &RoutePush) {}
}

/// A key got another owner.
#[derive(Clone, Eq, PartialEq)]
pub struct RoutePush {
    /// The key.
    pub key: Key,
    /// What to bring along with calls of it from now on, as a route token's text.
    pub token: Bytes,
}

impl fmt::Debug for RoutePush {
    /// The dimension only (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoutePush({:?})", self.key)
    }
}

/// Something calls can be sent to, with what a balancer needs to choose it.
pub trait Endpoint: Callee {
    /// Calls that were opened here and have not ended.
    fn in_flight(&self) -> usize;
    /// Whether new calls may be sent here now.
    fn is_ready(&self) -> bool;
}

/// A call that was not started. Sending it elsewhere can make no service act twice.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Box<RelayError>,
    /// The request as it came, for another attempt.
    pub request: Box<Request>,
}

/// The request of a call with the first part of its body.
#[derive(Clone)]
pub struct Request {
    /// `/package.Service/Method`, as in gRPC. Names the service in the framed protocol too.
    pub path: Bytes,
    /// `:authority` of the caller; empty on framed calls.
    pub authority: Bytes,
    /// What the body bytes are.
    pub envelope: Envelope,
    /// Fields to pass on; routing fields and HTTP/2 pseudo fields are already taken out.
    pub metadata: Metadata,
    /// What the caller said about where to go.
    pub hints: RouteHints,
    /// What relays found out about the call.
    pub facts: Facts,
    /// When the first byte of the request was read here (C-D1).
    pub received: Instant,
    /// When the caller stops waiting. `None` until a story sets the route's default (C-D3).
    pub deadline: Option<Instant>,
    /// The first chunk of the body.
    pub body: RequestBody,
}

impl Request {
    /// `package.Service`, if the path has the form `/service/method`.
    pub fn service(&self) -> Option<&str> {
        let path = std::str::from_utf8(&self.path).ok()?;
        let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
        (!service.is_empty() && !method.is_empty()).then_some(service)
    }

    /// `Method`, if the path has the form `/service/method`.
    pub fn method(&self) -> Option<&str> {
        let path = std::str::from_utf8(&self.path).ok()?;
        let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
        (!service.is_empty() && !method.is_empty()).then_some(method)
    }
}

impl fmt::Debug for Request {
    /// What of the path is names, and nothing else that the caller wrote (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split(|byte| *byte == b'?').next().unwrap_or_default();
        f.debug_struct("Request")
            .field("path", &String::from_utf8_lossy(path))
            .field("envelope", &self.envelope)
            .field("metadata", &self.metadata)
            .field("hints", &self.hints)
            .field("facts", &self.facts)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// A chunk of a request body.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct RequestBody {
    /// Body bytes; may be empty.
    pub chunk: Bytes,
    /// No more body follows.
    pub end: bool,
}

impl RequestBody {
    /// Joins what came before and what follows: for calls that wait. What may come is bounded by the
    /// credit of the call.
    pub fn append(&mut self, more: Self) {
        self.chunk = if self.chunk.is_empty() {
            more.chunk
        } else {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + more.chunk.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&more.chunk);
            joined.freeze()
        };
        self.end = more.end;
    }

    /// Whether this is less than the whole of a small body: the rest moves under credit.
    pub fn is_partial(&self) -> bool {
        !self.end || self.chunk.len() > SMALL_BODY_BYTES
    }
}

impl fmt::Debug for RequestBody {
    /// Sizes only: a payload never reaches a log (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes{}", self.chunk.len(), if self.end { ", end" } else { "" })
    }
}

/// What the bytes of a body are. The relay translates envelopes, never what is in them (I7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Envelope {
    /// HTTP/2 data of a gRPC call: length-prefixed messages.
    Grpc,
    /// One message without a prefix.
    Framed,
}

/// What relays established about a call. Never taken from a local client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// Who calls.
    pub source: Option<Source>,
    /// Units whose relays the call has passed, origin first (C-R2).
    pub visited: Vec<UnitId>,
    /// Version of the route table that chose the unit (C-R1).
    pub epoch: u64,
    /// Since when its unit owns the key, if a route store says so; told to the service, stays in the relay (R-D11).
    pub owner_epoch: Option<u64>,
    /// By which of its keys the first relay has routed it.
    pub routed_by: RoutedBy,
    /// Attempts before this one (C-T2).
    pub attempt: u8,
    /// The unit this relay has chosen; stays in the relay.
    pub destination: Option<UnitId>,
    /// For whom the local service executes it; stays in the relay.
    pub mode: Mode,
    /// Same id in the access log of each relay.
    pub request_id: u64,
}

/// For whom a local service executes a call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// In place of the owner of its key, which is away and gets the call later (C-P2).
    Local,
    /// As the owner of its key, of a call that was kept while this unit was away (C-P1).
    Replay,
    /// As the owner of its key.
    #[default]
    Usual,
}

/// What a caller tells the callee after `open`.
#[derive(Debug)]
pub enum RequestEvent {
    /// More body.
    Body(RequestBody),
    /// The caller no longer wants the reply. The call has ended for it.
    Cancel(CancelReason),
    /// The caller has passed on this many reply bytes of chunks that want credit.
    Credit(usize),
}

/// Why a caller gave up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CancelReason {
    /// It cancelled or its connection broke.
    Caller,
    /// Its deadline passed.
    Deadline,
    /// It broke the protocol in the middle of the call.
    Protocol,
}

/// What a callee tells the caller.
#[derive(Debug)]
pub enum ReplyEvent {
    /// Some of the reply.
    Part(Part),
    /// A relay ended the call. The service may or may not have acted: `RelayError::retry` says.
    Failed(Box<RelayError>),
    /// The callee has passed on this many request bytes of chunks that want credit.
    Credit(usize),
}

/// A part of a reply: whatever of it was ready together.
#[derive(Debug, Default)]
pub struct Part {
    /// HTTP status and initial metadata; in the first part only.
    pub head: Option<(u16, Metadata)>,
    /// Body bytes; may be empty.
    pub body: ReplyBody,
    /// The end of the reply; in the last part only.
    pub end: Option<Ending>,
}

/// Body bytes of a reply whose `Debug` shows their number only.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct ReplyBody(pub Bytes);

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// How a service ended a reply.
#[derive(Default)]
pub struct Ending {
    /// The status the service gave, from trailers or, trailers-only, from the head (C-T6).
    pub status: Code,
    /// Status text; set on framed replies, part of the trailers on gRPC ones.
    pub message: Bytes,
    /// Trailing metadata; empty on trailers-only replies.
    pub trailers: Metadata,
    /// Where the time went at the destination.
    pub timing: Timing,
}

impl fmt::Debug for Ending {
    /// Not what the service said: that is for its caller (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending")
            .field("status", &self.status)
            .field("trailers", &self.trailers)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Where the time of a call went, as the destination relay measured it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timing {
    /// From handing the request to the service until its reply ended.
    pub service: Duration,
    /// Waiting inside the destination relay.
    pub relay: Duration,
}

/// How a call ended, once per call and relay (I1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The service answered with an error status of its own.
    AppError,
    /// The caller gave up.
    Cancelled,
    /// The deadline passed.
    Expired,
    /// Transport or relay failure.
    Failed,
    /// The service answered with status OK.
    Ok,
    /// Policy, routing or input said no.
    Rejected,
    /// Overload said no.
    Shed,
}

impl Outcome {
    /// All outcomes, for registering series.
    pub const ALL: [Self; 7] = [
        Self::AppError,
        Self::Cancelled,
        Self::Expired,
        Self::Failed,
        Self::Ok,
        Self::Rejected,
        Self::Shed,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AppError => "app_error",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Shed => "shed",
        }
    }
}

/// Whether the receiver of a chunk must return credit for it once it has passed it on.
///
/// A small chunk that ends its body needs none: nothing waits for the credit, and what calls may hold
/// this way is bounded by the limits on calls in flight. Both sides of a port use this one rule.
pub fn wants_credit(chunk_bytes: usize, end: bool) -> bool {
    chunk_bytes > 0 && !(end && chunk_bytes <= SMALL_BODY_BYTES)
}
