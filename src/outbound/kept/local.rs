//! Calls that the service of this unit executes in place of the one that is away (J2, J3 of the module above).
//!
//! # Not here
//! What becomes of those that it has executed (`stored`).

use std::rc::Rc;

use super::{KeptCalls, Stage, clock, reply};
use crate::model::{
    CallId, Caller, CallerRef, CancelReason, Code, Mode, Part, Reason, RelayError, ReplyEvent, RequestEvent, Retry,
};
use crate::outbound::rpc::Rpc;
use crate::telemetry::kept::KeptOutcome;
use crate::wire::kept;

impl Rpc {
    /// Lets the service of this unit execute the call.
    pub(super) fn execute(&self, id: CallId) -> Result<(), RelayError> {
        let Some(calls) = &self.kept else { return Ok(()) };
        let Some(Some(mut request)) = self.calls.with(id, |open| open.again.clone()) else {
            return Ok(());
        };
        let own = &self.parts.place.unit;
        request.metadata = kept::mark_local(&request.metadata);
        request.facts.mode = Mode::Local;
        request.facts.visited.clear();
        request.facts.destination = None;
        self.set_stage(id, Stage::Executing(reply::Reply::default()));
        self.calls.with(id, |open| {
            open.record.on_routed(own, request.facts.epoch);
            open.record.on_sent(clock(), &self.parts.metrics);
        });
        let port: Rc<dyn Caller> = calls.clone();
        match self.parts.local.open(request, CallerRef { port, id }) {
            Ok(callee_id) => {
                let callee = (self.parts.local.clone(), callee_id);
                self.calls.with(id, |open| open.callee = Some(callee));
                Ok(())
            }
            Err(refused) => {
                calls.count(KeptOutcome::LocalFailed);
                Err(self.in_place(id, *refused.error))
            }
        }
    }

    /// Hands on what the local service answers; runs as long as the shard.
    pub(in crate::outbound) async fn watch_kept(&self) {
        let Some(calls) = &self.kept else {
            return std::future::pending().await;
        };
        loop {
            calls.replies.some().await;
            while let Some((id, event)) = calls.replies.pop() {
                match event {
                    ReplyEvent::Part(part) => self.on_local_part(calls, id, part),
                    ReplyEvent::Failed(error) => {
                        calls.count(KeptOutcome::LocalFailed);
                        let error = self.in_place(id, *error);
                        if let Some(open) = self.calls.take(id) {
                            self.fail(open, error);
                        }
                    }
                    // The whole request went with it.
                    ReplyEvent::Credit(_) => {}
                }
            }
        }
    }

    fn on_local_part(&self, calls: &Rc<KeptCalls>, id: CallId, part: Part) {
        let added = self.calls.with(id, |open| {
            let Some(Stage::Executing(reply)) = open.kept.as_mut().map(|kept| &mut kept.stage) else {
                return None;
            };
            Some((reply.add(part), open.callee.clone()))
        });
        let Some((added, callee)) = added.flatten() else { return };
        let tell = |event| {
            if let Some((callee, callee_id)) = callee {
                callee.on_request(callee_id, event);
            }
        };
        match added {
            reply::Added::More(0) => {}
            reply::Added::More(credit) => tell(RequestEvent::Credit(credit)),
            reply::Added::TooLarge => {
                calls.count(KeptOutcome::LocalFailed);
                tell(RequestEvent::Cancel(CancelReason::Caller));
                let detail = format!("the answer is larger than {} bytes", reply::BYTES_MAX);
                let error = self.in_place(id, RelayError::new(Reason::TooLarge, Retry::Ambiguous, detail));
                if let Some(open) = self.calls.take(id) {
                    self.fail(open, error);
                }
            }
            reply::Added::Whole(part) if is_executed(&part) => {
                self.calls.with(id, |open| open.callee = None);
                if let Err(error) = self.store(id, Some(part))
                    && let Some(open) = self.calls.take(id)
                {
                    self.fail(open, error);
                }
            }
            reply::Added::Whole(part) => {
                calls.count(KeptOutcome::LocalFailed);
                if let Some(open) = self.calls.take(id) {
                    self.answer(open, *part, clock());
                }
            }
        }
    }

    /// This unit could not execute the call.
    fn in_place(&self, id: CallId, mut error: RelayError) -> RelayError {
        let unit = self.kept_for(id);
        error.detail = format!(
            "unit {unit} is away, and this unit did not execute the call in its place: {}",
            error.detail
        );
        error
    }
}

impl Caller for KeptCalls {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.replies.push((id, event));
    }
}

/// Whether the local service has executed the call, now or before: then this relay may have failed to store it.
fn is_executed(part: &Part) -> bool {
    let status = part.end.as_ref().map(|end| end.status);
    matches!(status, Some(Code::Ok | Code::AlreadyExists))
}
