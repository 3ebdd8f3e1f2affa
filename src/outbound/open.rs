//! One call that a local service makes, while it is under way: what is kept of it, and what its answer gets.

use std::rc::Rc;

use super::kept::Kept;
use super::parked::Parked;
use super::retries::Turn;
use super::tokens::Offer;
use crate::admission::Active;
use crate::calls::{CallRecord, Limited, TimeLimits};
use crate::model::{
    CallId, Callee, CallerRef, Ending, Metadata, MetadataBuilder, Part, Request, RequestBody, RequestEvent,
    SMALL_BODY_BYTES, UnitId,
};
use crate::telemetry::retries::RetryOutcome;

/// One call under way.
pub(super) struct Open {
    pub(super) caller: CallerRef,
    /// Who has it; nobody while it waits to be sent again.
    pub(super) callee: Option<(Rc<dyn Callee>, CallId)>,
    pub(super) limits: TimeLimits,
    pub(super) record: CallRecord,
    /// The request as it was sent, while it may be sent again.
    pub(super) again: Option<Box<Request>>,
    /// Why it may not, without `again`.
    pub(super) lost: RetryOutcome,
    /// Status and initial metadata of a repeatable call, kept back while nothing else of the reply is there.
    pub(super) head: Option<(u16, Metadata)>,
    /// Counts it while its first attempt is under way.
    pub(super) active: Option<Active>,
    /// Set from its first failure on.
    pub(super) turn: Option<Box<Turn>>,
    /// Set while it waits for its route.
    pub(super) parked: Option<Box<Parked>>,
    /// Until when it waits for its route, over all the times that it does.
    pub(super) patience: Option<std::time::Instant>,
    /// How often another relay named another owner.
    pub(super) redirects: u8,
    /// Whether an owner has refused it that was ahead of this relay or behind it.
    pub(super) was_turned_away: bool,
    /// What its answer tells the caller of its key.
    pub(super) offer: Offer,
    /// A service may have seen an attempt of it.
    pub(super) was_seen: bool,
    /// Set while it is kept for its unit, which is away.
    pub(super) kept: Option<Box<Kept>>,
}

impl Open {
    /// A call that has just come.
    pub(super) fn new(caller: CallerRef, limits: TimeLimits, record: CallRecord, offer: Offer) -> Self {
        Self {
            caller,
            callee: None,
            limits,
            record,
            again: None,
            lost: RetryOutcome::TooLarge,
            head: None,
            active: None,
            turn: None,
            parked: None,
            patience: None,
            redirects: 0,
            was_turned_away: false,
            offer,
            was_seen: false,
            kept: None,
        }
    }

    /// Adds to the request that may be sent again, as long as it is small (C-T5).
    pub(super) fn remember(&mut self, more: &RequestBody) {
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
    pub(super) fn keeps_head(&mut self, part: &mut Part) -> bool {
        if self.is_repeatable() && part.body.0.is_empty() && part.head.is_some() {
            self.head = part.head.take();
            return true;
        }
        part.head = part.head.take().or(self.head.take());
        false
    }

    /// Whether it may be executed twice, as things stand.
    pub(super) fn is_repeatable(&self) -> bool {
        self.again.as_ref().is_some_and(|request| request.hints.idempotent)
    }

    pub(super) fn tell(&self, event: RequestEvent) {
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

/// `strait-unit` and `strait-service-time-ms`: who served, and how long that took.
pub(super) fn add_answer_fields(part: &mut Part, unit: &UnitId) {
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
