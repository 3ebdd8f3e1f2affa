//! Kept calls on the way to the disk, and their answers then (J1 of the module above).
//!
//! # Not here
//! What the disk does with them (`outbound::message`, `queue`).

use std::rc::Rc;

use super::{Kept, KeptCalls, Stage, clock, plan, reply};
use crate::model::{CallId, Code, ParkedAs, Part, Reason, RelayError, ReplyEvent, Retry, Timing};
use crate::outbound::message::{Keep, Published, Publisher, PublisherRef};
use crate::outbound::rpc::{Open, Rpc};
use crate::routing::RouteError;
use crate::telemetry::kept::KeptOutcome;
use crate::wire::kept::KeptCall;

impl Rpc {
    /// Hands the call to the disk, with what the local service answered.
    pub(super) fn store(&self, id: CallId, reply: Option<Box<Part>>) -> Result<(), RelayError> {
        let Some(calls) = &self.kept else { return Ok(()) };
        let is_executed = reply.is_some();
        self.set_stage(id, Stage::Storing(reply));
        let entry = self.calls.with(id, |open| self.entry(open, is_executed));
        let Some(entry) = entry else { return Ok(()) };
        let port: Rc<dyn Publisher> = calls.clone();
        let back = PublisherRef {
            port,
            id: id.0,
            index: u64::from(is_executed),
        };
        let stored = entry.and_then(|entry| calls.parts.publishers.keep(entry, back).map_err(|error| *error));
        stored.map(drop).map_err(|error| {
            calls.count(KeptOutcome::NotStored);
            self.not_stored(id, error, is_executed)
        })
    }

    /// What is stored of a call.
    fn entry(&self, open: &Open, executed: bool) -> Result<Keep, RelayError> {
        let gone = || RelayError::new(Reason::Internal, Retry::Safe, "the call cannot be stored");
        let request = open.again.as_deref().ok_or_else(gone)?;
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service()).route_of(request);
        let table = self.parts.routing.table();
        let dimension = match table.resolve(&request.hints, policy, &self.parts.place.unit, &self.parts.claims) {
            Ok(decision) => decision.dimension.cloned(),
            Err(RouteError::NobodyTookOver { .. }) => table.dimension_of(&request.hints, policy),
            Err(error) => return Err(error.into()),
        };
        let dimension = dimension.ok_or_else(gone)?;
        let key = plan::key_of(request, dimension.as_str()).ok_or_else(gone)?;
        let call = KeptCall {
            rejected_to: policy.rejected_to.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..KeptCall::of(request, &dimension, executed)
        };
        let id = plan::id_of(request).unwrap_or_default();
        let attributes = call.attributes(key, id).map_err(|_| gone())?;
        Ok(Keep {
            key: key.clone(),
            attributes,
            body: call.to_bytes(),
        })
    }

    /// The call is on disk, or will not be: now it is answered (J1).
    fn on_stored(&self, id: CallId, is_executed: bool, end: Published) {
        let Some(calls) = &self.kept else { return };
        let ticket = match (end.progress, end.error) {
            (Some(progress), None) => progress.id,
            (_, error) => {
                calls.count(KeptOutcome::NotStored);
                let gone = || RelayError::new(Reason::Internal, Retry::Safe, "it is not known whether it is on disk");
                let error = error.map_or_else(gone, |error| *error);
                let error = self.not_stored(id, error, is_executed);
                if let Some(open) = self.calls.take(id) {
                    self.fail(open, error);
                }
                return;
            }
        };
        calls.count(if is_executed {
            KeptOutcome::Executed
        } else {
            KeptOutcome::Parked
        });
        let Some(mut open) = self.calls.take(id) else { return };
        let Some(Kept { unit, stage }) = open.kept.take().map(|kept| *kept) else {
            return;
        };
        if let Stage::Storing(Some(part)) = stage {
            return self.answer(open, reply::provisional(*part, &ticket), clock());
        }
        let parked_as = open.again.as_deref().map(|request| {
            let policies = self.parts.policies.current();
            let policy = policies.of(request.service()).route_of(request);
            (policy.away.parked_as, request.envelope)
        });
        if let Some((ParkedAs::Ok, envelope)) = parked_as {
            open.caller.send(ReplyEvent::Part(reply::parked(envelope, &ticket)));
            return open
                .record
                .answered(Code::Ok, Timing::default(), clock(), &self.parts.metrics);
        }
        let detail = format!("unit {unit} is away; the call is stored for it as {ticket}, do not make it again");
        let mut error = RelayError::new(Reason::Parked, Retry::Never, detail);
        error.ticket = Some(Box::new(ticket));
        self.fail(open, error);
    }

    fn not_stored(&self, id: CallId, mut error: RelayError, is_executed: bool) -> RelayError {
        let unit = self.kept_for(id);
        if is_executed {
            error.detail = format!(
                "unit {unit} is away; this unit has executed the call in its place, but could not store it for that unit, so make \
                 the call again with the same idempotency-key: {}",
                error.detail
            );
            error.retry = Retry::Ambiguous;
        } else {
            error.detail = format!(
                "unit {unit} is away, and the call could not be stored for it: {}",
                error.detail
            );
        }
        error
    }
}

impl Publisher for KeptCalls {
    fn on_published(&self, id: u64, index: u64, end: Published) {
        if let Some(rpc) = self.rpc.upgrade() {
            rpc.on_stored(CallId(id), index > 0, end);
        }
    }
}
