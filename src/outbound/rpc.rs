//! The story of a call that a local service makes: route it, admit it, send it, count how it ended.
//!
//! # Invariants
//! - O1. Every call that comes in here ends with exactly one outcome (I1), whoever ends it.
//! - O2. A call is sent again only if no byte of it reached a service, or to the owner that a relay named
//!   with a newer epoch (C-R1, C-T1). Only this story does so (C-T2).
//! - O3. Without a deadline of its own a call gets the route's default, a stream its idle and longest
//!   time (C-D3); they are enforced here and not sent along as if the caller had asked for them.
//!
//! # Not here
//! What happens at the destination (`inbound`).

use std::cell::Cell;
use std::rc::{Rc, Weak};

use tokio::time::Instant;

use crate::admission::RetryBudget;
use crate::calls::{CallRecord, Calls, Limited, ShardPolicies, TimeLimits};
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Ending, Metadata, MetadataBuilder, Part, Place, Reason, Refused,
    RelayError, ReplyEvent, Request, RequestBody, RequestEvent, Retry, SMALL_BODY_BYTES, UnitId,
};
use crate::peer::Peers;
use crate::routing;
use crate::telemetry::calls::{CallMetrics, Direction};

/// What the story is made of.
pub struct Parts {
    /// This unit and relay.
    pub place: Place,
    /// The route table.
    pub routing: routing::Handle,
    /// Links to other units.
    pub peers: Rc<Peers>,
    /// Takes the calls whose owner is this unit.
    pub local: Rc<dyn Callee>,
    /// Time limits and missing-key policy of a service.
    pub policies: Rc<ShardPolicies>,
    /// Series of calls.
    pub metrics: CallMetrics,
    /// First request id; ids count up from here, so relays and shards start far apart.
    pub first_request_id: u64,
}

/// Calls that local services make, on one shard.
pub struct Rpc {
    parts: Parts,
    budget: RetryBudget,
    calls: Calls<Open>,
    next_request_id: Cell<u64>,
    me: Weak<Self>,
}

/// One call under way.
struct Open {
    caller: CallerRef,
    callee: Option<(Rc<dyn Callee>, CallId)>,
    limits: TimeLimits,
    record: CallRecord,
    /// The request as it was sent, while it may be sent again.
    again: Option<Box<Request>>,
    /// Status and initial metadata of a repeatable call, kept back while nothing else of the reply is there.
    head: Option<(u16, Metadata)>,
}

impl Rpc {
    /// The story of one shard.
    pub fn new(parts: Parts) -> Rc<Self> {
        let next_request_id = Cell::new(parts.first_request_id);
        Rc::new_cyclic(|me| Self {
            parts,
            budget: RetryBudget::default(),
            calls: Calls::default(),
            next_request_id,
            me: me.clone(),
        })
    }

    /// Ends calls whose time is over; runs as long as the shard.
    pub async fn watch(&self) {
        self.calls.watch(|id| self.on_overdue(id)).await;
    }

    /// Calls under way.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// The story: route, admit, send.
    fn forward(
        &self,
        mut request: Request,
        caller: CallerRef,
        record: CallRecord,
    ) -> Result<CallId, Box<(CallRecord, Refused)>> {
        let mut record = record;
        let way = match self.route(&mut request, &mut record) {
            Ok(way) => way,
            Err(error) => return Err(Box::new((record, refused(error, request)))),
        };
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service());
        let limits = TimeLimits::new(policy, request.received, request.deadline);
        let now = Instant::now().into_std();
        record.on_sent(now, &self.parts.metrics);
        if limits.is_over(now) {
            let error = RelayError::new(Reason::DeadlineExceeded, Retry::Never, limits.describe(now));
            return Err(Box::new((record, refused(error, request))));
        }
        let again = (request.body.chunk.len() <= SMALL_BODY_BYTES).then(|| Box::new(request.clone()));
        let id = self.calls.insert(Open {
            caller,
            callee: None,
            limits,
            record,
            again,
            head: None,
        });
        self.budget.on_sent();
        match self.send(way, request, id) {
            Ok(()) => Ok(id),
            Err(refused) => match self.calls.take(id) {
                Some(open) => Err(Box::new((open.record, refused))),
                None => Ok(id),
            },
        }
    }

    fn route(&self, request: &mut Request, record: &mut CallRecord) -> Result<Rc<dyn Callee>, RelayError> {
        if request.service().is_none() {
            let detail = "the path of a call must be /package.Service/Method".to_owned();
            return Err(RelayError::new(Reason::BadInput, Retry::Never, detail));
        }
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service());
        let table = self.parts.routing.table();
        let decision = table.resolve(&request.hints, &policy.missing_key, &self.parts.place.unit)?;
        request.facts.epoch = decision.epoch;
        record.on_routed(decision.unit, decision.epoch);
        self.way_to(decision.unit, request)
    }

    fn way_to(&self, unit: &UnitId, request: &mut Request) -> Result<Rc<dyn Callee>, RelayError> {
        if *unit == self.parts.place.unit {
            return Ok(self.parts.local.clone());
        }
        request.facts.visited.push(self.parts.place.unit.clone());
        request.facts.destination = Some(unit.clone());
        self.parts.peers.to(unit)
    }

    fn send(&self, callee: Rc<dyn Callee>, request: Request, id: CallId) -> Result<(), Refused> {
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let callee_id = callee.open(request, CallerRef { port: me, id })?;
        self.calls.with(id, |open| open.callee = Some((callee, callee_id)));
        Ok(())
    }

    fn on_overdue(&self, id: CallId) {
        let Some(open) = self.calls.take(id) else { return };
        open.tell(RequestEvent::Cancel(CancelReason::Deadline));
        let now = Instant::now().into_std();
        let detail = open.limits.describe(now);
        self.fail(
            open,
            RelayError::new(Reason::DeadlineExceeded, Retry::Ambiguous, detail),
        );
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
                open.again = None;
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
        let Some(mut open) = self.calls.take(id) else { return };
        part.head = part.head.or(open.head.take());
        add_answer_fields(&mut part, open.record.unit());
        open.record.on_reply_bytes(bytes);
        let (status, timing) = part
            .end
            .as_ref()
            .map(|end| (end.status, end.timing))
            .unwrap_or_default();
        open.caller.send(ReplyEvent::Part(part));
        open.record.answered(status, timing, now, &self.parts.metrics);
    }

    /// A relay or link ended the attempt: once more if that is safe, else tell the caller.
    fn on_failed(&self, id: CallId, error: RelayError) {
        let plan = self.calls.with(id, |open| self.plan_again(open, &error)).flatten();
        let sent = plan.map(|(unit, request)| self.send_again(id, &unit, request));
        let error = match sent {
            Some(Ok(())) => return,
            Some(Err(later)) => later,
            None => error,
        };
        if let Some(open) = self.calls.take(id) {
            self.fail(open, error);
        }
    }

    /// Where to send a call again, and what (O2).
    fn plan_again(&self, open: &mut Open, error: &RelayError) -> Option<(UnitId, Box<Request>)> {
        let mut request = open.again.take_if(|request| request.body.end)?;
        let unit = match (&error.owner, error.retry) {
            // Adopt the owner only if the other relay knows more than we do, and only once: two
            // static tables that disagree would send a call to and fro for ever.
            (Some((owner, epoch)), _) if *epoch > request.facts.epoch && request.facts.attempt == 0 => {
                request.facts.epoch = *epoch;
                owner.clone()
            }
            (None, _)
                if is_repeatable(&request, error) && request.facts.attempt < ATTEMPTS_MAX && self.budget.take() =>
            {
                open.record.unit().clone()
            }
            _ => return None,
        };
        request.facts.attempt += 1;
        request.facts.visited.clear();
        open.record.on_retry();
        open.record.on_routed(&unit, request.facts.epoch);
        open.again = Some(request.clone());
        open.head = None;
        Some((unit, request))
    }

    fn send_again(&self, id: CallId, unit: &UnitId, mut request: Box<Request>) -> Result<(), RelayError> {
        let callee = self.way_to(unit, &mut request)?;
        self.send(callee, *request, id).map_err(|refused| *refused.error)
    }

    fn fail(&self, open: Open, error: RelayError) {
        let error = error.at(&self.parts.place.unit, &self.parts.place.relay);
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
    fn open(&self, mut request: Request, caller: CallerRef) -> Result<CallId, Refused> {
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
            ReplyEvent::Failed(error) => self.on_failed(id, *error),
            ReplyEvent::Credit(bytes) => {
                if let Some(caller) = self.calls.with(id, |open| open.caller.clone()) {
                    caller.send(ReplyEvent::Credit(bytes));
                }
            }
        }
    }
}

impl Open {
    /// Adds to the request that may be sent again, as long as it is small (C-T5).
    fn remember(&mut self, more: &RequestBody) {
        let Some(request) = &mut self.again else { return };
        let body = &mut request.body;
        if body.chunk.len() + more.chunk.len() > SMALL_BODY_BYTES {
            self.again = None;
            return;
        }
        body.chunk = match (body.chunk.is_empty(), more.chunk.is_empty()) {
            (true, _) => more.chunk.clone(),
            (false, true) => std::mem::take(&mut body.chunk),
            (false, false) => [&*body.chunk, &*more.chunk].concat().into(),
        };
        body.end |= more.end;
    }

    /// A call that may be executed twice stays repeatable until the first byte of its reply's body: its head
    /// waits for that byte. Many services send the head long before. Returns whether `part` was only a head;
    /// otherwise the head that was kept is put into it.
    fn keeps_head(&mut self, part: &mut Part) -> bool {
        let repeatable = self.again.as_ref().is_some_and(|request| request.hints.idempotent);
        if repeatable && part.body.0.is_empty() && part.head.is_some() {
            self.head = part.head.take();
            return true;
        }
        part.head = part.head.take().or(self.head.take());
        false
    }

    fn tell(&self, event: RequestEvent) {
        if let Some((callee, id)) = &self.callee {
            callee.on_request(*id, event);
        }
    }
}

impl Limited for Open {
    fn limit(&self) -> Option<std::time::Instant> {
        self.limits.limit()
    }
}

/// Whether sending the request again is right: no byte of it reached a service, or the caller says that
/// the method may be executed twice and the way to the service broke (C-T1).
fn is_repeatable(request: &Request, error: &RelayError) -> bool {
    match error.retry {
        Retry::Safe => true,
        Retry::Ambiguous => request.hints.idempotent && matches!(error.reason, Reason::LinkLost | Reason::ServiceLost),
        Retry::Never => false,
    }
}

fn refused(error: RelayError, request: Request) -> Refused {
    Refused {
        error: Box::new(error),
        request: Box::new(request),
    }
}

/// `strait-unit` and `strait-service-time-ms`: who served, and how long that took.
fn add_answer_fields(part: &mut Part, unit: &UnitId) {
    let service = part.end.as_ref().map(|end| end.timing.service);
    if let Some((_, head)) = &mut part.head {
        *head = answer_fields(head, Some(unit), service);
    } else if let Some(Ending { trailers, .. }) = &mut part.end {
        *trailers = answer_fields(trailers, None, service);
    }
}

fn answer_fields(block: &Metadata, unit: Option<&UnitId>, service: Option<std::time::Duration>) -> Metadata {
    let mut fields = MetadataBuilder::from_block(block);
    // Both are ours and well-formed: a name, and digits.
    if let Some(unit) = unit {
        let _ = fields.push(b"strait-unit", unit.as_str().as_bytes());
    }
    if let Some(service) = service {
        let _ = fields.push(b"strait-service-time-ms", service.as_millis().to_string().as_bytes());
    }
    fields.build()
}

/// Times a call that reached no service is sent again.
const ATTEMPTS_MAX: u8 = 4;
