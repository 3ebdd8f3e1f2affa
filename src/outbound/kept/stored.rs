//! Kept calls on the way to the disk, and their answers then (J1 of the module above).
//!
//! # Not here
//! What services of this unit are told of them (`news`), what the disk does with them (`outbound::message`, `queue`).

use std::rc::Rc;

use super::news::News;
use super::{Kept, KeptCalls, Stage, clock, plan, reply};
use crate::model::{CallId, Code, MessageId, ParkedAs, Part, Reason, RelayError, ReplyEvent, Retry, Timing};
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
        let entry = self.calls.with(id, |open| self.entry(open, is_executed));
        let (entry, news) = match entry {
            None => return Ok(()),
            Some(Ok((entry, news))) => (Ok(entry), news),
            Some(Err(error)) => (Err(error), None),
        };
        self.set_stage(id, Stage::Storing(reply, news.map(Box::new)));
        let port: Rc<dyn Publisher> = calls.clone();
        let back = PublisherRef {
            port,
            id: id.0,
            index: if is_executed { EXECUTED } else { PARKED },
        };
        let stored = entry.and_then(|entry| calls.parts.publishers.keep(entry, back).map_err(|error| *error));
        stored.map(drop).map_err(|error| {
            calls.count(KeptOutcome::NotStored);
            self.not_stored(id, error, is_executed)
        })
    }

    /// What is stored of a call, and what services of this unit are told of it then.
    fn entry(&self, open: &Open, executed: bool) -> Result<(Keep, Option<News>), RelayError> {
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
        let topic = policy.kept_to.as_ref();
        // The record of one that was executed here names this unit.
        let owner = open.kept.as_ref().map_or(open.record.unit(), |kept| &kept.unit);
        let news = topic.map(|topic| News::of(&call, owner, (key, id), topic));
        let keep = Keep {
            key: key.clone(),
            attributes,
            body: call.to_bytes(),
        };
        Ok((keep, news))
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
        let Stage::Storing(reply, news) = stage else { return };
        // Before the answer: the caller's next call comes behind this one (N2).
        if let Some(news) = news {
            self.tell_news(calls, *news, &ticket);
        }
        if let Some(part) = reply {
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

    /// Tells services of this unit of a call that is on disk (N1). How that ends is counted, and nothing else (N3).
    fn tell_news(&self, calls: &Rc<KeptCalls>, news: News, ticket: &MessageId) {
        let Ok(tell) = news.tell(&self.parts.place.unit, ticket) else {
            return calls.parts.series.on_told(false);
        };
        let port: Rc<dyn Publisher> = calls.clone();
        let back = PublisherRef {
            port,
            id: 0,
            index: NEWS,
        };
        if let Err(error) = calls.parts.publishers.tell(tell, back) {
            on_told(calls, Some(&error));
        }
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
        if index == NEWS {
            on_told(self, end.error.as_deref());
        } else if let Some(rpc) = self.rpc.upgrade() {
            rpc.on_stored(CallId(id), index == EXECUTED, end);
        }
    }
}

fn on_told(calls: &KeptCalls, error: Option<&RelayError>) {
    if let Some(error) = error {
        tracing::debug!(%error, "services of this unit were not told of a kept call");
    }
    calls.parts.series.on_told(error.is_none());
}

/// What a publication is: a call that is parked.
const PARKED: u64 = 0;
/// One that was executed here.
const EXECUTED: u64 = 1;
/// What services of this unit are told of either.
const NEWS: u64 = 2;
