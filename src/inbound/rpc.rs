//! The story of a call that arrives for a local service: is it ours, may it pass, hand it over.
//!
//! Calls come from relays of other units and, when this unit owns the key, from the outbound story.
//!
//! # Invariants
//! - N1. A relay that does not own the key never executes the call: it names the owner (C-R1).
//! - N2. Nothing is forwarded onward from here; a call that has passed this unit before is refused (C-R2).
//! - N3. What the service has is no longer than what remained when the call arrived (C-D1).
//! - N4. Only relays ask an application about moves: whoever else does could have it give up a key.
//! - N5. A shadow passes by the gate, and is no call in the books: it has outcomes of its own (`shadow`).
//!
//! # Not here
//! Which endpoint serves the call (`delivery`).

use std::rc::{Rc, Weak};

use tokio::time::Instant;

use super::abandoned::Abandoned;
use super::freezes::Freezes;
use super::gate::{self, Admission, OwnerGate};
use super::shadow::{self, Arrived, ShadowParts};
use crate::calls::{CallRecord, Calls, Limited, ShardPolicies, TimeLimits};
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Mode, Part, Place, RELAY, Reason, Refused, RelayError, ReplyEvent,
    Request, RequestEvent, Retry, RoutedBy,
};
use crate::routing;
use crate::telemetry::calls::{CallMetrics, Direction};

/// What the story is made of.
pub struct Parts {
    /// This unit and relay.
    pub place: Place,
    /// The route table.
    pub routing: routing::Handle,
    /// Hands calls to local services.
    pub delivery: Rc<dyn Callee>,
    /// Time limits of a service.
    pub policies: Rc<ShardPolicies>,
    /// Series of calls.
    pub metrics: CallMetrics,
    /// Units a call may pass.
    pub hops_max: usize,
    /// Lets calls of owned keys in, if there is a route store.
    pub gate: Option<Rc<OwnerGate>>,
    /// Takes shadows of other units, if there is a route store.
    pub shadows: Option<ShadowParts>,
}

/// Calls that arrive for local services, on one shard.
pub struct Rpc {
    pub(super) parts: Parts,
    pub(super) calls: Calls<Open>,
    pub(super) abandoned: Abandoned,
    pub(super) freezes: Freezes,
    pub(super) me: Weak<Self>,
}

/// One call under way.
pub(super) struct Open {
    pub(super) caller: CallerRef,
    pub(super) callee_id: CallId,
    pub(super) limits: TimeLimits,
    /// How it ends stands there, unless it is a shadow.
    pub(super) record: CallRecord,
    /// Given back when the call ends, or its time is over if its caller has gone (R-3.8 step 6).
    pub(super) admission: Option<Admission>,
    /// It is a shadow (N5).
    pub(super) shadow: Option<Arrived>,
}

/// Where a part of a reply goes.
enum Told {
    Caller(CallerRef, Option<std::time::Instant>),
    /// Nowhere: it is of a shadow, at this callee.
    Nobody(CallId),
}

impl Rpc {
    /// The story of one shard.
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            parts,
            calls: Calls::default(),
            abandoned: Abandoned::new(Instant::now().into_std()),
            freezes: Freezes::default(),
            me: me.clone(),
        })
    }

    /// Ends calls whose time is over; runs as long as the shard.
    pub async fn watch(&self) {
        tokio::join!(self.calls.watch(|id| self.on_overdue(id)), self.abandoned.watch());
    }

    /// Calls under way; with those of owned keys whose caller has gone and that the service may still execute.
    pub fn open_calls(&self) -> usize {
        self.calls.len() + self.abandoned.len()
    }

    /// The story: check that it is ours, hand it over.
    fn accept(
        &self,
        mut request: Box<Request>,
        caller: CallerRef,
        mut record: CallRecord,
    ) -> Result<CallId, Box<(CallRecord, Refused)>> {
        let checked = self.check_hops(&request).and_then(|()| self.check_caller(&request));
        let admission = match checked.and_then(|()| self.check_owner(&mut request)) {
            Ok(admission) => admission,
            Err(error) => return Err(Box::new((record, refused(error, request)))),
        };
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service());
        let mut limits = TimeLimits::new(policy, request.received, request.deadline);
        if let Some(until) = admission.as_ref().and_then(|admission| admission.until) {
            limits.end_by(until);
            request.deadline = Some(request.deadline.map_or(until, |deadline| deadline.min(until)));
        }
        let now = Instant::now().into_std();
        if admission.as_ref().is_some_and(|admission| admission.is_passing) {
            limits.make_way(now);
        }
        record.on_sent(now, &self.parts.metrics);
        if limits.is_over(now) {
            let error = RelayError::new(Reason::DeadlineExceeded, Retry::Safe, limits.describe(now));
            return Err(Box::new((record, refused(error, request))));
        }
        let Some(me) = self.me.upgrade() else {
            return Err(Box::new((record, refused(draining(), request))));
        };
        let id = self.calls.insert(Open {
            caller,
            callee_id: CallId(0),
            limits,
            record,
            admission,
            shadow: None,
        });
        match self.parts.delivery.open(request, CallerRef { port: me, id }) {
            Ok(callee_id) => {
                self.calls.with(id, |open| open.callee_id = callee_id);
                Ok(id)
            }
            Err(refused) => match self.calls.take(id) {
                Some(open) => Err(Box::new((open.record, refused))),
                None => Ok(id),
            },
        }
    }

    fn check_hops(&self, request: &Request) -> Result<(), RelayError> {
        let visited = &request.facts.visited;
        let here = &self.parts.place.unit;
        if visited.contains(here) {
            let detail = format!("the call has been at unit {here} before; its path is {}", path(request));
            return Err(RelayError::new(Reason::Loop, Retry::Never, detail));
        }
        if visited.len() > self.parts.hops_max {
            let detail = format!(
                "the call has passed {} units, more than routing.hops_max",
                visited.len()
            );
            return Err(RelayError::new(Reason::Loop, Retry::Never, detail));
        }
        Ok(())
    }

    fn check_caller(&self, request: &Request) -> Result<(), RelayError> {
        let table = self.parts.routing.table();
        let service = request.service().unwrap_or_default();
        if !table.routes().is_some_and(|routes| routes.is_hook_service(service)) {
            return Ok(());
        }
        let source = request.facts.source.as_ref();
        if source
            .and_then(|source| source.service.as_ref())
            .is_some_and(|caller| caller.as_str() == RELAY)
        {
            return Ok(());
        }
        let detail = format!("{service} is asked by relays only, about keys that move");
        Err(RelayError::new(Reason::Policy, Retry::Never, detail))
    }

    fn check_owner(&self, request: &mut Request) -> Result<Option<Admission>, RelayError> {
        // Without a key or unit it was the origin's policy for the service that sent the call here.
        let no_key = request.hints.keys.is_empty() || request.facts.routed_by == RoutedBy::NoKey;
        if no_key && request.hints.unit.is_none() {
            return Ok(None);
        }
        // The owner is away, and this unit does not pretend to be it.
        if request.facts.mode == Mode::Local {
            return Ok(None);
        }
        let here = &self.parts.place.unit;
        let policies = self.parts.policies.current();
        let policy = policies
            .of(request.service())
            .route_of(request)
            .with(&request.facts.routed_by);
        let table = self.parts.routing.table();
        if let Some(gate) = &self.parts.gate {
            return gate.enter(&table, request, &policy);
        }
        let decision = table.resolve(&request.hints, &policy, here, &())?;
        if decision.unit == here {
            return Ok(None);
        }
        Err(gate::wrong_unit(&self.parts.place, &decision))
    }

    fn on_overdue(&self, id: CallId) {
        let Some(open) = self.calls.take(id) else { return };
        let cancel = RequestEvent::Cancel(CancelReason::Deadline);
        self.parts.delivery.on_request(open.callee_id, cancel);
        let now = Instant::now().into_std();
        let reason = if open.limits.makes_way(now) {
            Reason::Moving
        } else {
            Reason::DeadlineExceeded
        };
        let detail = open.limits.describe(now);
        self.fail(open, RelayError::new(reason, Retry::Ambiguous, detail));
    }

    fn on_part(&self, id: CallId, mut part: Part) {
        let now = Instant::now().into_std();
        let bytes = part.body.0.len();
        if part.end.is_none() {
            let told = self.calls.with(id, |open| {
                if open.shadow.is_some() {
                    return Told::Nobody(open.callee_id);
                }
                open.record.on_reply_bytes(bytes);
                open.limits.on_reply_activity(now);
                Told::Caller(open.caller.clone(), open.limits.limit())
            });
            match told {
                Some(Told::Caller(caller, limit)) => {
                    if let Some(limit) = limit {
                        self.calls.expect(limit);
                    }
                    caller.send(ReplyEvent::Part(part));
                }
                Some(Told::Nobody(callee_id)) => self.swallow(callee_id, bytes),
                None => {}
            }
            return;
        }
        let Some(mut open) = self.calls.take(id) else { return };
        if let Some(shadow) = open.shadow.take() {
            return shadow.answered(&open.caller, &part);
        }
        if let (Some(admission), Some(end)) = (&mut open.admission, &part.end) {
            admission.on_answered(end.status);
        }
        open.record.on_reply_bytes(bytes);
        if let Some(end) = &mut part.end {
            let total = now.saturating_duration_since(open.record.received());
            end.timing.relay = total.saturating_sub(end.timing.service);
            open.record.answered(end.status, end.timing, now, &self.parts.metrics);
        }
        open.caller.send(ReplyEvent::Part(part));
    }

    fn fail(&self, open: Open, error: RelayError) {
        let error = error.at(&self.parts.place.unit, &self.parts.place.relay);
        if open.shadow.is_none() {
            let now = Instant::now().into_std();
            open.record.failed(&error, now, &self.parts.metrics);
        }
        open.caller.send(ReplyEvent::Failed(Box::new(error)));
    }
}

impl Callee for Rpc {
    fn open(&self, mut request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        if shadow::is_one(&request) {
            return self.open_shadow(request, caller);
        }
        let source = request
            .facts
            .source
            .as_ref()
            .map_or(&self.parts.place.unit, |source| &source.unit)
            .clone();
        let mut record = CallRecord::new(Direction::Inbound, source, &mut request);
        record.on_routed(&self.parts.place.unit, request.facts.epoch);
        self.accept(request, caller, record).map_err(|ended| {
            let (record, mut refused) = *ended;
            refused.error = Box::new(refused.error.at(&self.parts.place.unit, &self.parts.place.relay));
            record.failed(&refused.error, Instant::now().into_std(), &self.parts.metrics);
            refused
        })
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        if let RequestEvent::Cancel(_) = event {
            let Some(open) = self.calls.take(id) else { return };
            self.parts.delivery.on_request(open.callee_id, event);
            let now = Instant::now().into_std();
            if let Some(admission) = open.admission.filter(|admission| !admission.reads) {
                self.abandoned.keep(admission, open.limits, now);
            }
            if open.shadow.is_none() {
                open.record.cancelled(now, &self.parts.metrics);
            }
            return;
        }
        let mut limit = None;
        let callee_id = self.calls.with(id, |open| {
            if let RequestEvent::Body(body) = &event {
                open.record.on_request_bytes(body.chunk.len());
                if let Some(admission) = &mut open.admission {
                    admission.on_body(body);
                }
                if body.end {
                    open.limits.on_request_end();
                } else {
                    open.limits.on_stream_activity(Instant::now().into_std());
                    limit = open.limits.limit();
                }
            }
            open.callee_id
        });
        if let Some(limit) = limit {
            self.calls.expect(limit);
        }
        if let Some(callee_id) = callee_id {
            self.parts.delivery.on_request(callee_id, event);
        }
    }
}

impl Caller for Rpc {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        match event {
            ReplyEvent::Part(part) => self.on_part(id, part),
            ReplyEvent::Failed(error) => {
                if let Some(open) = self.calls.take(id) {
                    self.fail(open, *error);
                }
            }
            ReplyEvent::Credit(bytes) => {
                if let Some(caller) = self.calls.with(id, |open| open.caller.clone()) {
                    caller.send(ReplyEvent::Credit(bytes));
                }
            }
        }
    }
}

impl Limited for Open {
    fn limit(&self) -> Option<std::time::Instant> {
        self.limits.limit()
    }
}

fn refused(error: RelayError, request: Box<Request>) -> Refused {
    Refused {
        error: Box::new(error),
        request,
    }
}

fn draining() -> RelayError {
    RelayError::new(Reason::Draining, Retry::Safe, "the relay is shutting down")
}

fn path(request: &Request) -> String {
    request
        .facts
        .visited
        .iter()
        .map(crate::model::Name::as_str)
        .collect::<Vec<_>>()
        .join(" -> ")
}
