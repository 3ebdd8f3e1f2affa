//! One link: a pair of QUIC connections to one relay of another unit, and the calls on it.
//!
//! Small calls travel as frames on *lanes*, long-lived streams of the first connection. A body that
//! outgrows [`SMALL_BODY_BYTES`] in its direction moves to a stream of its own on the second
//! connection, so that a reader that stops reading holds up that body and nothing else; head, trailers
//! and cancels stay on the lane.
//!
//! # Invariants
//! - L1. A call holds its credit from `open` until it ends here; `open` beyond the credit waits in a
//!   bounded line, then refuses.
//! - L2. Whatever ends the link ends each of its calls exactly once, towards the caller or the callee.
//! - L3. Nothing a peer writes changes who it is: the source of a call is the identity in its certificate.
//! - L4. A body stream may come before the lane frame that announces it; it then waits, bounded in
//!   number and time.
//!
//! # Not here
//! Which unit a call goes to (`routing`), how links come to be (`pool`).

mod incoming;
mod large;
mod outgoing;
mod retirement;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use slotmap::{DefaultKey, Key, KeyData, SlotMap};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::retirement::Retirement;
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Ending, Endpoint, Geo, Part, Reason, Refused, RelayError,
    RelayName, ReplyEvent, Request, RequestBody, RequestEvent, Retry, SMALL_BODY_BYTES, UnitId,
};
use crate::peer::bodies::{BodySide, Inflow, Outflow};
use crate::peer::credit::Credit;
use crate::peer::messages::LaneHandler;
use crate::peer::metrics::LinkMetrics;
use crate::wire::frame::Frame;

/// Who is at the other end, from its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkPeer {
    /// Its Geo.
    pub geo: Geo,
    /// Its unit.
    pub unit: UnitId,
    /// The relay's name in its unit.
    pub relay: RelayName,
}

/// Limits of one link, as both sides agreed in the handshake.
#[derive(Clone, Copy, Debug)]
pub(in crate::peer) struct Limits {
    /// Calls of ours the peer lets us have open.
    pub calls_out_max: usize,
    /// Bytes our open calls may hold on the peer's lanes.
    pub bytes_out_max: usize,
    /// Calls we let the peer have open.
    pub calls_in_max: usize,
    /// Calls that may wait for credit.
    pub pending_max: usize,
    /// Lanes for calls.
    pub lanes: usize,
}

/// A link and its open calls. See the module documentation.
pub(in crate::peer) struct Link {
    /// Who is at the other end.
    pub(in crate::peer) peer: LinkPeer,
    pub(in crate::peer) lanes: Vec<Mailbox<LaneItem>>,
    pub(in crate::peer) bodies: quinn::Connection,
    pub(in crate::peer) tracker: TaskTracker,
    pub(in crate::peer) closed: CancellationToken,
    pub(in crate::peer) metrics: LinkMetrics,
    /// Takes lanes for messages, if the peer knows them.
    pub(in crate::peer) lane_handler: Option<Rc<dyn LaneHandler>>,
    handler: Rc<dyn Callee>,
    limits: Limits,
    out: RefCell<Outgoing>,
    inn: RefCell<Vec<Option<InCall>>>,
    early: RefCell<HashMap<(BodySide, u64), (quinn::RecvStream, Instant)>>,
    /// The lane that the last call went on.
    last_lane: Cell<usize>,
    in_open: Cell<usize>,
    /// The relay at the other end takes no new calls; shared by all links of this shard to that relay.
    peer_drains: Rc<Cell<bool>>,
    we_drain: CancellationToken,
    body_streams: Cell<u64>,
    silent: Cell<bool>,
    /// Wakes who waits for a change of what the peer takes.
    takes: Notify,
    retirement: Retirement,
    me: Weak<Self>,
}

/// What a lane's writer encodes.
#[derive(Debug)]
pub(in crate::peer) enum LaneItem {
    Request {
        id: u64,
        request: Box<Request>,
        large: bool,
    },
    RequestBody {
        id: u64,
        body: RequestBody,
        large: bool,
    },
    Cancel {
        id: u64,
        reason: CancelReason,
    },
    Reply {
        id: u64,
        part: Part,
        large: bool,
        large_bytes: u64,
    },
    Failed {
        id: u64,
        error: Box<RelayError>,
    },
}

struct Outgoing {
    calls: SlotMap<DefaultKey, OutCall>,
    /// Calls by the number the peer knows them by. Only started calls have one, so that its index stays
    /// below the number of calls the peer allows.
    wires: SlotMap<DefaultKey, DefaultKey>,
    credit: Credit,
    pending: VecDeque<DefaultKey>,
}

impl Outgoing {
    /// The call with this number on the wire.
    fn by_wire(&self, wire: u64) -> Option<&OutCall> {
        self.calls.get(*self.wires.get(slot(wire))?)
    }

    fn by_wire_mut(&mut self, wire: u64) -> Option<&mut OutCall> {
        self.calls.get_mut(*self.wires.get(slot(wire))?)
    }
}

/// A call of ours.
struct OutCall {
    caller: CallerRef,
    /// Its number on the wire; 0 while it waits for credit.
    wire: u64,
    lane: usize,
    /// Bytes of credit it holds; `None` while it waits for credit.
    share: Option<usize>,
    /// Body bytes that went out on the lane.
    on_lane: usize,
    /// A lane writer has taken it: from then on the service may have acted.
    written: bool,
    waiting: Option<Waiting>,
    request_body: Option<Rc<Outflow>>,
    reply_body: Option<Rc<Inflow>>,
    /// The end of a large reply that came before the last of its body.
    ending: Option<Ending>,
}

struct Waiting {
    request: Box<Request>,
    more: Vec<RequestBody>,
}

/// A call of the peer.
struct InCall {
    id: u64,
    callee_id: CallId,
    lane: usize,
    on_lane: usize,
    request_body: Option<Rc<Inflow>>,
    reply_body: Option<Rc<Outflow>>,
}

impl Link {
    /// A link over two established connections; `bodies` is the one for large bodies.
    pub(in crate::peer) fn new(
        peer: LinkPeer,
        limits: Limits,
        bodies: quinn::Connection,
        (handler, lane_handler): (Rc<dyn Callee>, Option<Rc<dyn LaneHandler>>),
        metrics: LinkMetrics,
        peer_drains: Rc<Cell<bool>>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            peer,
            lanes: (0..limits.lanes.max(1)).map(|_| Mailbox::new()).collect(),
            bodies,
            tracker: TaskTracker::new(),
            closed: CancellationToken::new(),
            metrics,
            lane_handler,
            handler,
            limits,
            out: RefCell::new(Outgoing {
                calls: SlotMap::new(),
                wires: SlotMap::new(),
                credit: Credit::new(limits.calls_out_max, limits.bytes_out_max),
                pending: VecDeque::new(),
            }),
            inn: RefCell::new(Vec::new()),
            early: RefCell::new(HashMap::new()),
            last_lane: Cell::new(0),
            in_open: Cell::new(0),
            peer_drains,
            we_drain: CancellationToken::new(),
            body_streams: Cell::new(0),
            silent: Cell::new(false),
            takes: Notify::new(),
            retirement: Retirement::default(),
            me: me.clone(),
        })
    }

    /// Calls of the peer that are open here.
    pub(in crate::peer) fn calls_in(&self) -> usize {
        self.in_open.get()
    }

    /// From now on calls of the peer are refused as never delivered; open ones go on.
    pub(in crate::peer) fn drain(&self) {
        self.we_drain.cancel();
    }

    /// Resolves when the peer should be told that no new calls are taken.
    pub(in crate::peer) async fn drain_wanted(&self) {
        self.we_drain.cancelled().await;
    }

    /// Streams of large bodies under way, both ways.
    pub(in crate::peer) fn body_streams(&self) -> u64 {
        self.body_streams.get()
    }

    /// The peer takes no new calls.
    pub(in crate::peer) fn on_peer_drains(&self) {
        if !self.peer_drains.replace(true) {
            self.takes.notify_one();
        }
    }

    /// Whether the peer has not answered probes for a while; new calls then go elsewhere.
    pub(in crate::peer) fn set_silent(&self, silent: bool) {
        if self.silent.replace(silent) != silent {
            self.takes.notify_one();
        }
    }

    /// Whether it has not answered probes for a while.
    pub(in crate::peer) fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// Resolves after the peer has fallen silent, has been heard again, or takes no new calls any more.
    pub(in crate::peer) async fn takes_changed(&self) {
        self.takes.notified().await;
    }

    /// Takes one frame of a lane.
    pub(in crate::peer) fn on_frame(&self, lane: usize, frame: Frame) {
        match frame {
            Frame::Request { id, request, large } => self.on_call(lane, id, request, large),
            Frame::RequestBody { id, body, large } => self.on_call_body(id, body, large),
            Frame::Cancel { id, reason } => self.on_call_cancelled(id, reason),
            Frame::Reply {
                id,
                part,
                large,
                large_bytes,
            } => self.on_part(id, part, large, large_bytes),
            Frame::Failed { id, error } => {
                // The word on the control stream may be later; the next attempt must not come here again.
                if error.reason == Reason::Draining {
                    self.on_peer_drains();
                }
                self.end_out(id, ReplyEvent::Failed(error));
            }
            // Lanes carry calls only; the control stream has the rest.
            _ => {}
        }
    }

    /// Ends every call on the link (L2) and wakes the tasks that wait for work.
    pub(in crate::peer) fn shut(&self, why: &str) {
        self.closed.cancel();
        let keys: Vec<DefaultKey> = self.out.borrow().calls.keys().collect();
        for key in keys {
            // No new credit is handed out: the waiting calls end here as well.
            let call = self.out.borrow_mut().calls.remove(key);
            if let Some(call) = call {
                let retry = if call.written { Retry::Ambiguous } else { Retry::Safe };
                let detail = format!("the link to unit {} was lost: {why}", self.peer.unit);
                call.caller.send(ReplyEvent::Failed(Box::new(RelayError::new(
                    Reason::LinkLost,
                    retry,
                    detail,
                ))));
                call.abort();
            }
        }
        let count = self.inn.borrow().len();
        for index in 0..count {
            self.drop_in(index);
        }
        self.early.borrow_mut().clear();
        for lane in &self.lanes {
            lane.close();
            lane.wake();
        }
    }

    fn to_lane(&self, lane: usize, item: LaneItem) {
        if let Some(lane) = self.lanes.get(lane) {
            lane.push(item);
        }
    }

    /// Calls of ours that wait for credit.
    pub(in crate::peer) fn pending(&self) -> usize {
        self.out.borrow().pending.len()
    }

    /// Bytes of credit our calls hold.
    pub(in crate::peer) fn bytes_out(&self) -> usize {
        self.out.borrow().credit.bytes()
    }
}

impl Callee for Link {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        if !self.takes_calls() {
            let detail = format!(
                "relay {} of unit {} takes no new calls",
                self.peer.relay, self.peer.unit
            );
            let error = Box::new(RelayError::new(Reason::UnitAway, Retry::Safe, detail));
            return Err(Refused { error, request });
        }
        let share = share_of(&request);
        let lane = self.lane_for_call();
        let mut out = self.out.borrow_mut();
        let has_credit = out.pending.is_empty() && out.credit.take(share);
        if !has_credit && out.pending.len() >= self.limits.pending_max {
            let detail = format!(
                "{} calls to unit {} are open and {} wait",
                out.credit.calls(),
                self.peer.unit,
                out.pending.len()
            );
            let error = RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK);
            return Err(Refused {
                error: Box::new(error),
                request,
            });
        }
        let mut call = OutCall {
            caller,
            wire: 0,
            lane,
            share: has_credit.then_some(share),
            on_lane: 0,
            written: false,
            waiting: None,
            request_body: None,
            reply_body: None,
            ending: None,
        };
        if has_credit {
            let key = out.calls.insert(call);
            drop(out);
            self.start(key, request);
            return Ok(CallId(key.data().as_ffi()));
        }
        call.waiting = Some(Waiting {
            request,
            more: Vec::new(),
        });
        let key = out.calls.insert(call);
        out.pending.push_back(key);
        Ok(CallId(key.data().as_ffi()))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        let key = slot(id.0);
        match event {
            RequestEvent::Body(body) => self.send_body(key, body),
            RequestEvent::Credit(bytes) => {
                let out = self.out.borrow();
                if let Some(flow) = out.calls.get(key).and_then(|call| call.reply_body.as_ref()) {
                    flow.give(bytes);
                }
            }
            RequestEvent::Cancel(reason) => {
                if let Some(call) = self.take_out(key) {
                    if call.waiting.is_none() {
                        self.to_lane(call.lane, LaneItem::Cancel { id: call.wire, reason });
                    }
                    call.abort();
                }
            }
        }
    }
}

impl Caller for Link {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        match event {
            ReplyEvent::Part(part) => self.send_part(id.0, part),
            ReplyEvent::Failed(error) => {
                if let Some(call) = self.take_in(id.0) {
                    self.to_lane(call.lane, LaneItem::Failed { id: id.0, error });
                    call.abort();
                }
            }
            ReplyEvent::Credit(bytes) => {
                self.with_in(id.0, |call| {
                    if let Some(flow) = &call.request_body {
                        flow.give(bytes);
                    }
                });
            }
        }
    }
}

impl Endpoint for Link {
    fn in_flight(&self) -> usize {
        self.out.borrow().calls.len()
    }

    fn is_ready(&self) -> bool {
        self.takes_calls() && !self.is_retiring()
    }
}

impl OutCall {
    fn abort(&self) {
        if let Some(flow) = &self.request_body {
            flow.abort();
        }
        if let Some(flow) = &self.reply_body {
            flow.abort();
        }
    }
}

impl InCall {
    fn abort(&self) {
        if let Some(flow) = &self.request_body {
            flow.abort();
        }
        if let Some(flow) = &self.reply_body {
            flow.abort();
        }
    }
}

/// Credit a call holds: what it may put on a lane, and a little for its frame.
fn share_of(request: &Request) -> usize {
    request.body.chunk.len().min(SMALL_BODY_BYTES) + request.metadata.as_bytes().len() + 256
}

fn slot(id: u64) -> DefaultKey {
    KeyData::from_ffi(id).into()
}

fn in_index(id: u64) -> usize {
    usize::try_from(id & 0xffff_ffff).unwrap_or(usize::MAX)
}

/// Application error code of streams nobody wants any more.
pub(in crate::peer) const CODE_UNWANTED: quinn::VarInt = quinn::VarInt::from_u32(1);

/// Body streams that may wait for their call.
const EARLY_STREAMS_MAX: usize = 256;
const EARLY_STREAM_WAIT: Duration = Duration::from_secs(5);
/// When a refused caller should try again at the earliest.
const PUSHBACK: Duration = Duration::from_millis(50);
