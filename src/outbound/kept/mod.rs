//! Calls whose unit is away, of methods that keep them: the service of this unit executes them in its place, or not; they are stored
//! for their unit, and only then answered (C-P1, C-P2).
//!
//! ```text
//! error: unit away --> [rest of the request] --> [local service] --ok--> [stored] --> answered: provisional
//!                                 |                    +--- fails: answered with that, nothing is stored
//!                                 +------------- park ----------------> [stored] --> answered: parked
//! ```
//! What is stored is a message of the topic [`CALLS_TOPIC`](crate::queue::CALLS_TOPIC) with the key of the call. So it goes to whoever
//! owns the key, in order, at the rate of replays, and is a dead letter if it is refused or its time is over.
//!
//! # Invariants
//! - J1. A caller is told that its call is executed or parked when it is on disk, and not before (I16).
//! - J2. A call is executed here only if its unit cannot have seen it (P4).
//! - J3. Of a call that the local service did not execute, nothing is stored.
//!
//! # Not here
//! Whether a call is kept (`plan`), how the local service executes it (`local`), whom else this unit tells (`news`), whether its unit counts as away (`quorum`), units that others are about to take over from
//! (`fence`), how it comes to the disk (`stored`), how the unit gets it (`queue`, `inbound::push`).

mod fence;
mod local;
mod news;
mod plan;
mod quorum;
mod reply;
mod stored;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use self::fence::Fence;
use self::news::News;
use self::plan::{Not, Plan};
use self::reply::Reply;
use super::message::Publishers;
use super::retries::LookAlarm;
use super::rpc::{Open, Rpc};
use crate::calls::CallRecord;
use crate::mailbox::Mailbox;
use crate::model::{CallId, Part, Reason, Refused, RelayError, ReplyEvent, Request, Retry, RoutePolicy, UnitId};
use crate::peer::Observers;
use crate::queue::AwayUnits;
use crate::telemetry::kept::{KeptOutcome, KeptSeries};

/// What is needed to keep calls.
pub struct KeptParts {
    /// Stores them.
    pub publishers: Rc<Publishers>,
    /// Counts how they end.
    pub series: KeptSeries,
    /// Units that count as away because an operator says so.
    pub away: AwayUnits,
    /// Which units others reach.
    pub observers: Arc<Observers>,
}

/// Where replies of the local service and of the disk arrive, on one shard.
pub(super) struct KeptCalls {
    parts: KeptParts,
    replies: Mailbox<(CallId, ReplyEvent)>,
    fence: RefCell<Fence>,
    rpc: Weak<Rpc>,
}

/// A call that is being kept.
pub(super) struct Kept {
    /// The unit it is kept for.
    unit: UnitId,
    stage: Stage,
}

enum Stage {
    /// The rest of its request is to come.
    Request(RelayError, LookAlarm),
    /// The local service has it.
    Executing(Reply),
    /// It is on its way to the disk, with what the local service answered, and what services of this unit are told then.
    Storing(Option<Box<Part>>, Option<Box<News>>),
}

impl KeptCalls {
    pub(super) fn new(parts: KeptParts, rpc: Weak<Rpc>) -> Rc<Self> {
        Rc::new(Self {
            parts,
            replies: Mailbox::new(),
            fence: RefCell::default(),
            rpc,
        })
    }

    fn count(&self, outcome: KeptOutcome) {
        self.parts.series.on_kept(outcome);
    }
}

impl Rpc {
    /// Whether a call that ends with this error before it was sent may be kept.
    pub(super) fn may_keep(&self, request: &Request, error: &RelayError) -> bool {
        if self.kept.is_none() || !plan::is_away(error) {
            return false;
        }
        let policies = self.parts.policies.current();
        plan::wanted(policies.of(request.service()).route_of(request).away, request).is_some()
    }

    /// How a call ends if its unit counts as away because an operator says so: as if no link to it were up.
    pub(super) fn counts_as_away(
        &self,
        unit: &UnitId,
        (policy, request): (&RoutePolicy, &Request),
    ) -> Option<RelayError> {
        let calls = self.kept.as_ref()?;
        let was_perhaps_seen = request.facts.attempt > 0;
        if plan::decide(policy, request, was_perhaps_seen) == Err(Not::Meant) || !calls.parts.away.contains(unit) {
            return None;
        }
        let detail = format!("an operator says that unit {unit} counts as away (strait unit local-mode)");
        Some(RelayError::new(Reason::UnitAway, Retry::Safe, detail))
    }

    /// Keeps a call, or says how it ends.
    pub(super) fn keep_at_once(&self, open: Open, error: RelayError) -> Result<CallId, Box<(CallRecord, Refused)>> {
        let id = self.calls.insert(open);
        match self.keep(id, error) {
            Ok(()) => Ok(id),
            Err(error) => self.give_back(id, error),
        }
    }

    /// The call was not started.
    pub(super) fn give_back(&self, id: CallId, error: RelayError) -> Result<CallId, Box<(CallRecord, Refused)>> {
        let Some(Open {
            record,
            again: Some(request),
            ..
        }) = self.calls.take(id)
        else {
            return Ok(id);
        };
        let error = Box::new(error);
        Err(Box::new((record, Refused { error, request })))
    }

    /// A call would end with this error: it is kept, or its caller is told.
    pub(super) fn keep_or_fail(&self, id: CallId, error: RelayError) {
        if let Err(error) = self.keep(id, error)
            && let Some(open) = self.calls.take(id)
        {
            self.fail(open, error);
        }
    }

    /// Begins to keep a call that would end with this error.
    ///
    /// # Errors
    /// How it ends, if it is not kept.
    pub(super) fn keep(&self, id: CallId, error: RelayError) -> Result<(), RelayError> {
        let Some(calls) = &self.kept else { return Err(error) };
        if !plan::is_away(&error) && !self.has_waited_for_takeover(id, &error) {
            return Err(error);
        }
        let decided = self.calls.with(id, |open| self.decide(open));
        match decided.unwrap_or(Err(Not::Meant)) {
            Ok(Plan::Execute) => self.execute(id),
            Ok(Plan::Park) => self.store(id, None),
            Err(Not::Yet) => {
                let look = self.retries.look_at(clock() + REQUEST_WAIT, id);
                self.set_stage(id, Stage::Request(error, look));
                Ok(())
            }
            Err(Not::Possible(why)) => {
                calls.count(KeptOutcome::NotKept);
                Err(not_kept(error, why))
            }
            Err(Not::Reached(others)) => {
                calls.count(KeptOutcome::Reached);
                Err(not_kept(error, &quorum::why(others)))
            }
            Err(Not::Meant) => Err(error),
        }
    }

    fn decide(&self, open: &Open) -> Result<Plan, Not> {
        // What is done in place of others is not done in place of this unit, which others are to take over from.
        if *open.record.unit() == self.parts.place.unit {
            return Err(Not::Meant);
        }
        let request = open.again.as_deref().ok_or(Not::Meant)?;
        let policies = self.parts.policies.current();
        let policy = policies.of(request.service()).route_of(request);
        let decided = plan::decide(policy, request, open.was_seen);
        match decided {
            Ok(_) | Err(Not::Yet) => match self.outvoted(open.record.unit(), policy.away) {
                Some(others) => Err(Not::Reached(others)),
                None => decided,
            },
            Err(_) => decided,
        }
    }

    /// More of the request has come, or none for too long.
    pub(super) fn look_at_kept(&self, id: CallId) {
        let waited = self.calls.with(id, |open| match open.kept.take().map(|kept| *kept) {
            Some(Kept {
                stage: Stage::Request(error, _),
                ..
            }) => Some((error, self.decide(open))),
            other => {
                open.kept = other.map(Box::new);
                None
            }
        });
        match waited.flatten() {
            Some((error, Err(Not::Yet | Not::Meant))) => {
                if let Some(calls) = &self.kept {
                    calls.count(KeptOutcome::NotKept);
                }
                if let Some(open) = self.calls.take(id) {
                    self.fail(
                        open,
                        not_kept(error, "its request has not ended, or is larger than 16 KiB"),
                    );
                }
            }
            Some((error, _)) => self.keep_or_fail(id, error),
            None => {}
        }
    }

    fn set_stage(&self, id: CallId, stage: Stage) {
        self.calls.with(id, |open| {
            // What it had to go on by itself is of no use any more.
            open.turn = None;
            open.active = None;
            open.parked = None;
            if let Some(kept) = &mut open.kept {
                kept.stage = stage;
            } else {
                let unit = open.record.unit().clone();
                open.kept = Some(Box::new(Kept { unit, stage }));
            }
        });
    }

    /// The unit that a call is kept for.
    fn kept_for(&self, id: CallId) -> String {
        let unit = self
            .calls
            .with(id, |open| open.kept.as_ref().map(|kept| kept.unit.clone()));
        unit.flatten().map_or_else(|| "?".to_owned(), |unit| unit.to_string())
    }
}

impl Open {
    /// Whether the rest of its request is waited for.
    pub(super) fn waits_to_be_kept(&self) -> bool {
        let stage = self.kept.as_ref().map(|kept| &kept.stage);
        matches!(stage, Some(Stage::Request(..)))
    }

    /// The rest of its request is there: it is looked at at once, but not from inside the caller's event (V2).
    pub(super) fn look_to_keep(&mut self, look: LookAlarm) {
        if let Some(Kept {
            stage: Stage::Request(_, alarm),
            ..
        }) = self.kept.as_deref_mut()
        {
            *alarm = look;
        }
    }
}

fn not_kept(mut error: RelayError, why: &str) -> RelayError {
    error.detail = format!("{}; the call was not kept for its unit: {why}", error.detail);
    error
}

fn clock() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// How long the rest of a request is waited for, if its unit is away: what is no stream ends at once.
const REQUEST_WAIT: Duration = Duration::from_millis(500);
