//! The story of a call that a local service makes: route it, admit it, send it, count how it ended.
//!
//! # Invariants
//! - O1. Every call that comes in here ends with exactly one outcome (I1), whoever ends it.
//! - O2. A call is sent again only if no byte of it reached a service or it is marked idempotent, or to the owner that a
//!   relay named with a newer epoch (C-R1, C-T1). Only this story does so (C-T2).
//! - O3. Without a deadline of its own a call gets the route's default, a stream its idle and longest
//!   time (C-D3); they are enforced here and not sent along as if the caller had asked for them.
//!
//! # Not here
//! What happens at the destination (`inbound`), and when a call is tried again (`retries`).

use std::cell::Cell;
use std::rc::{Rc, Weak};

use tokio::time::Instant;

use super::Ways;
use super::kept::{KeptCalls, KeptParts};
pub(super) use super::open::Open;
use super::open::add_answer_fields;
use super::parked::Wait;
use super::parking::{Parking, ParkingLimits};
use super::retries::Retries;
use super::tokens::{Offer, TokenParts, Tokens};
use super::verdict::{self, Failure};
use crate::admission::{ShardBudget, ShardBudgets};
use crate::calls::{CallRecord, Calls, ShardPolicies, TimeLimits};
use crate::control::claims::Claims;
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Mode, Part, Place, Reason, Refused, RelayError, ReplyEvent,
    Request, RequestEvent, Retry, SMALL_BODY_BYTES, UnitId,
};
use crate::routing::metrics::LookUps;
use crate::routing::{self, Standing};
use crate::telemetry::calls::{CallMetrics, Direction};

/// What the story is made of.
pub struct Parts {
    /// This unit and relay.
    pub place: Place,
    /// The route table.
    pub routing: routing::Handle,
    /// Links to other units.
    pub peers: Rc<dyn Ways>,
    /// Takes the calls whose owner is this unit.
    pub local: Rc<dyn Callee>,
    /// Time limits and missing-key policy of a service.
    pub policies: Rc<ShardPolicies>,
    /// How many calls may wait for their route.
    pub parking: ParkingLimits,
    /// Knows who has keys that nothing else was decided about, if there is a route store.
    pub claims: Option<Claims>,
    /// What clients know of keys, if there are route tokens.
    pub tokens: Option<TokenParts>,
    /// What calls are kept with whose unit is away, if there is a queue.
    pub kept: Option<KeptParts>,
    /// Counts what decides where calls go.
    pub lookups: LookUps,
    /// How many calls may be sent again.
    pub budgets: ShardBudgets,
    /// Series of calls.
    pub metrics: CallMetrics,
    /// First request id; ids count up from here, so relays and shards start far apart.
    pub first_request_id: u64,
}

/// Calls that local services make, on one shard.
pub struct Rpc {
    pub(super) parts: Parts,
    pub(super) calls: Calls<Open>,
    pub(super) retries: Retries,
    pub(super) parking: Parking,
    pub(super) tokens: Option<Tokens>,
    pub(super) kept: Option<Rc<KeptCalls>>,
    next_request_id: Cell<u64>,
    me: Weak<Self>,
}

/// What is known of a call's way.
pub(super) enum Routed {
    /// This one.
    To(Rc<dyn Callee>),
    /// None yet.
    Wait(Wait),
}

impl Rpc {
    /// The story of one shard.
    pub fn new(mut parts: Parts) -> Rc<Self> {
        let next_request_id = Cell::new(parts.first_request_id);
        let parking = Parking::new(parts.parking);
        let tokens = parts.tokens.take().map(Tokens::new);
        let kept = parts.kept.take();
        Rc::new_cyclic(|me| Self {
            kept: kept.map(|kept| KeptCalls::new(kept, me.clone())),
            parts,
            calls: Calls::default(),
            retries: Retries::default(),
            parking,
            tokens,
            next_request_id,
            me: me.clone(),
        })
    }

    /// Ends calls whose time is over and sends those again that are due; runs as long as the shard.
    pub async fn watch(&self) {
        tokio::join!(
            self.calls.watch(|id| self.on_overdue(id)),
            self.watch_retries(),
            self.watch_routes(),
            self.watch_kept(),
            self.watch_users()
        );
    }

    /// Hands what was counted to the shared series.
    pub fn flush(&self) {
        self.parts.lookups.flush();
        if let Some(tokens) = &self.tokens {
            tokens.parts.counts.flush();
        }
    }

    /// Calls under way.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// The story: route, admit, send.
    fn forward(
        &self,
        mut request: Box<Request>,
        caller: CallerRef,
        record: CallRecord,
    ) -> Result<CallId, Box<(CallRecord, Refused)>> {
        let mut record = record;
        let mut offer = Offer::default();
        let routed = match self.route(&mut request, &mut record, (&caller, &mut offer)) {
            Ok(routed) => Ok(routed),
            Err(error) if self.may_keep(&request, &error) => Err(error),
            Err(error) => return Err(Box::new((record, refused(error, request)))),
        };
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service());
        let limits = TimeLimits::new(policy, request.received, request.deadline);
        let now = Instant::now().into_std();
        if matches!(routed, Ok(Routed::To(_))) {
            record.on_sent(now, &self.parts.metrics);
        }
        if limits.is_over(now) {
            let error = RelayError::new(Reason::DeadlineExceeded, Retry::Never, limits.describe(now));
            return Err(Box::new((record, refused(error, request))));
        }
        let mut open = Open::new(caller, limits, record, offer);
        let routed = match routed {
            Ok(routed) => routed,
            Err(error) => {
                open.again = Some(request);
                return self.keep_at_once(open, error);
            }
        };
        let id = self.calls.insert(open);
        let sent = match routed {
            // The own gate may have a newer copy than the one this was routed by.
            Routed::To(way) => self
                .send_first(way, request, id)
                .or_else(|refused| self.park_at_once(id, refused)),
            Routed::Wait(wait) => self.park(id, request, wait),
        };
        match sent {
            Ok(()) => Ok(id),
            Err(refused) => {
                self.calls.with(id, |open| open.again = Some(refused.request));
                let kept = self.keep(id, *refused.error);
                kept.map(|()| id).or_else(|error| self.give_back(id, error))
            }
        }
    }

    /// Sends a call that was not sent before.
    pub(super) fn send_first(&self, way: Rc<dyn Callee>, request: Box<Request>, id: CallId) -> Result<(), Refused> {
        let again = (request.body.chunk.len() <= SMALL_BODY_BYTES).then(|| request.clone());
        self.calls.with(id, |open| {
            open.again = again;
            open.active = self.parts.budgets.of(open.record.unit()).map(ShardBudget::count);
        });
        self.send(way, request, id)
    }

    /// Where the call goes, or what it waits for.
    pub(super) fn route(
        &self,
        request: &mut Request,
        record: &mut CallRecord,
        caller: (&CallerRef, &mut Offer),
    ) -> Result<Routed, RelayError> {
        if request.service().is_none() {
            let detail = "the path of a call must be /package.Service/Method".to_owned();
            return Err(RelayError::new(Reason::BadInput, Retry::Never, detail));
        }
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service()).route_of(request);
        let table = self.parts.routing.table();
        let decision = match self.resolve(&table, request, policy, caller) {
            Ok(decision) => decision,
            Err(error) => {
                let waits = self.without_route(request, (policy, record), error);
                return waits.map(Routed::Wait);
            }
        };
        self.parts.lookups.on_found(decision.source);
        request.facts.epoch = decision.epoch;
        request.facts.routed_by = policy.routed_by(decision.dimension);
        // What only reads may be executed twice (C-T1).
        request.hints.idempotent |= policy.reads;
        record.on_routed(decision.unit, decision.epoch);
        let reads = policy.reads && table.lets_read(&decision);
        // What was kept for this unit comes before the move of its key, which waits for it.
        let is_waited_for = request.facts.mode == Mode::Replay && *decision.unit == self.parts.place.unit;
        if matches!(decision.standing, Standing::Frozen { .. }) && !reads && !is_waited_for {
            if let Some(error) = self.fenced(&table, decision.unit, (policy, &*request)) {
                return Err(error);
            }
            return Ok(Routed::Wait(Wait::frozen(&decision)));
        }
        if let Some(error) = self.counts_as_away(decision.unit, (policy, &*request)) {
            return Err(error);
        }
        self.way_to(decision.unit, request).map(Routed::To)
    }

    pub(super) fn way_to(&self, unit: &UnitId, request: &mut Request) -> Result<Rc<dyn Callee>, RelayError> {
        if *unit != self.parts.place.unit {
            request.facts.visited.push(self.parts.place.unit.clone());
            request.facts.destination = Some(unit.clone());
        }
        self.way(unit)
    }

    pub(super) fn way(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        if *unit == self.parts.place.unit {
            return Ok(self.parts.local.clone());
        }
        self.parts.peers.to(unit)
    }

    pub(super) fn send(&self, callee: Rc<dyn Callee>, request: Box<Request>, id: CallId) -> Result<(), Refused> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let callee_id = callee.open(request, CallerRef { port: me, id })?;
        self.calls.with(id, |open| open.callee = Some((callee, callee_id)));
        Ok(())
    }

    fn on_overdue(&self, id: CallId) {
        let Some(mut open) = self.calls.take(id) else { return };
        open.on_overdue(&self.parts.metrics);
        open.tell(RequestEvent::Cancel(CancelReason::Deadline));
        let mut detail = open.limits.describe(Instant::now().into_std());
        let mut retry = Retry::Ambiguous;
        if let Some(parked) = &open.parked {
            detail.push_str("; it waited for its route: ");
            detail.push_str(parked.why());
            retry = Retry::Safe;
        }
        self.fail(open, RelayError::new(Reason::DeadlineExceeded, retry, detail));
    }

    fn on_part(&self, id: CallId, mut part: Part) {
        let now = Instant::now().into_std();
        let bytes = part.body.0.len();
        if part.end.is_none() {
            let caller = self.calls.with(id, |open| {
                if open.keeps_head(&mut part) {
                    return None;
                }
                add_answer_fields(&mut part, open.record.unit());
                open.on_answered();
                open.record.on_reply_bytes(bytes);
                open.limits.on_stream_activity(now);
                Some((open.caller.clone(), open.limits.limit()))
            });
            if let Some((caller, limit)) = caller.flatten() {
                self.expect(limit);
                caller.send(ReplyEvent::Part(part));
            }
            return;
        }
        let status = part.end.as_ref().map(|end| end.status).unwrap_or_default();
        if verdict::is_in_retry_set(status)
            && bytes == 0
            && self.calls.with(id, |open| open.is_repeatable()) == Some(true)
        {
            return self.on_failed(id, Failure::Service(Box::new(part)));
        }
        if let Some(open) = self.calls.take(id) {
            self.answer(open, part, now);
        }
    }

    /// The caller gets the end of the reply.
    pub(super) fn answer(&self, mut open: Open, mut part: Part, now: std::time::Instant) {
        part.head = part.head.or(open.head.take());
        add_answer_fields(&mut part, open.record.unit());
        open.offer.put_into(&mut part);
        open.record.on_reply_bytes(part.body.0.len());
        open.on_ended(&part);
        let (status, timing) = part
            .end
            .as_ref()
            .map(|end| (end.status, end.timing))
            .unwrap_or_default();
        open.caller.send(ReplyEvent::Part(part));
        open.record.answered(status, timing, now, &self.parts.metrics);
    }

    pub(super) fn fail(&self, mut open: Open, error: RelayError) {
        let mut error = error.at(&self.parts.place.unit, &self.parts.place.relay);
        // Not what another relay may have said: the caller's Geo may be another one.
        error.token = open.offer.take().map(Box::new);
        open.record
            .failed(&error, Instant::now().into_std(), &self.parts.metrics);
        open.caller.send(ReplyEvent::Failed(Box::new(error)));
    }

    fn expect(&self, limit: Option<std::time::Instant>) {
        if let Some(limit) = limit {
            self.calls.expect(limit);
        }
    }
}

impl Callee for Rpc {
    fn open(&self, mut request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        request.facts.request_id = self.next_request_id.get();
        self.next_request_id.set(request.facts.request_id.wrapping_add(1));
        let record = CallRecord::new(Direction::Outbound, self.parts.place.unit.clone(), &mut request);
        self.forward(request, caller, record).map_err(|ended| {
            let (record, mut refused) = *ended;
            refused.error = Box::new(refused.error.at(&self.parts.place.unit, &self.parts.place.relay));
            record.failed(&refused.error, Instant::now().into_std(), &self.parts.metrics);
            refused
        })
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        if let RequestEvent::Cancel(_) = event {
            let Some(open) = self.calls.take(id) else { return };
            open.tell(event);
            return open.record.cancelled(Instant::now().into_std(), &self.parts.metrics);
        }
        let mut limit = None;
        let callee = self.calls.with(id, |open| {
            if let RequestEvent::Body(body) = &event {
                open.record.on_request_bytes(body.chunk.len());
                open.remember(body);
                if open.waits_to_be_kept() && (body.end || open.again.is_none()) {
                    open.look_to_keep(self.retries.look_at(Instant::now().into_std(), id));
                }
                if !body.end {
                    open.limits.on_stream_activity(Instant::now().into_std());
                    limit = open.limits.limit();
                }
            }
            open.callee.clone()
        });
        self.expect(limit);
        if let Some((callee, callee_id)) = callee.flatten() {
            callee.on_request(callee_id, event);
        }
    }
}

impl Caller for Rpc {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        match event {
            ReplyEvent::Part(part) => self.on_part(id, part),
            ReplyEvent::Failed(error) => self.on_failed(id, Failure::Relay(error)),
            ReplyEvent::Credit(bytes) => {
                if let Some(caller) = self.calls.with(id, |open| open.caller.clone()) {
                    caller.send(ReplyEvent::Credit(bytes));
                }
            }
        }
    }
}

fn refused(error: RelayError, request: Box<Request>) -> Refused {
    Refused {
        error: Box::new(error),
        request,
    }
}
