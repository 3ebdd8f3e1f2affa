//! What becomes of calls whose route is not known yet, or whose key is being moved (R-3.8).
//!
//! ```text
//! route -- frozen, unclaimed, behind --> [parked] -- routes changed, or now and then --> route again --> sent
//!    ^                                       |
//!    +-- the owner says `moving` ------------+-- time over, or patience: ends with the reason it waits for
//! ```
//!
//! # Invariants
//! - W4. A call that waits is on no wire and holds no permit for retries.
//! - W5. No service saw a call that is parked, whatever happened to it before.
//! - W6. However often a call waits, it does so for [`PATIENCE`] in all, or until shortly before its deadline: then it ends with the
//!   reason it was refused for.
//!
//! # Not here
//! How many may wait (`parking`), calls that are tried again because they failed (`retries`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::parking::Seat;
use super::retries::LookAlarm;
use super::rpc::{Open, Routed, Rpc};
use crate::calls::CallRecord;
use crate::model::{CallId, Callee, Reason, Refused, RelayError, Request, Retry, RoutePolicy};
use crate::routing::{Decision, RouteError, metrics};

/// A call that waits for its route.
pub(super) struct Parked {
    /// Its place; held until it goes on.
    _seat: Seat,
    /// How it ends if what it waits for does not come.
    error: RelayError,
    until: Instant,
    /// When it looks again of its own accord.
    look: Option<LookAlarm>,
}

/// Why a call waits, and until when at most.
pub(super) struct Wait {
    /// How it ends if what it waits for does not come.
    error: RelayError,
    /// Time until it looks again of its own accord.
    look: Duration,
    why: metrics::Wait,
}

impl Wait {
    /// The key of this decision is frozen.
    pub(super) fn frozen(decision: &Decision<'_>) -> Self {
        let detail = format!(
            "the key is being moved away from unit {}; it is there in a moment",
            decision.unit
        );
        Self {
            error: RelayError::new(Reason::Moving, Retry::Safe, detail).pushed_back(PUSHBACK),
            look: LOOK_AGAIN,
            why: metrics::Wait::Moving,
        }
    }

    /// Another relay has heard of something that this one has not, or the other way round: the owner refused, for the first time or
    /// not, or named an owner too often.
    pub(super) fn until_known(error: &RelayError, is_first: bool) -> Self {
        let longest = if is_first { LOOK_SOON } else { LOOK_AGAIN };
        Self {
            look: error.pushback.unwrap_or(LOOK_AGAIN).min(longest),
            error: error.clone(),
            why: match error.reason {
                Reason::Moving => metrics::Wait::Moving,
                _ => metrics::Wait::Behind,
            },
        }
    }

    /// When to look again: when its time is over at the latest.
    fn look_at(&self, now: Instant, until: Instant) -> Instant {
        (now + self.look).min(until.max(now))
    }

    /// How the call ends.
    pub(super) fn into_error(self) -> RelayError {
        self.error
    }
}

impl Parked {
    /// What it waits for.
    pub(super) fn why(&self) -> &str {
        &self.error.detail
    }

    /// How it ends if that does not come.
    pub(super) fn into_error(self) -> RelayError {
        self.error
    }
}

impl Rpc {
    /// What to do about a call that has no route: some wait, others are refused.
    pub(super) fn without_route(
        &self,
        request: &Request,
        (policy, record): (&RoutePolicy, &mut CallRecord),
        error: RouteError,
    ) -> Result<Wait, RelayError> {
        if let RouteError::NobodyTookOver { unit, epoch } = &error {
            record.on_routed(unit, epoch.0);
        }
        let error = error.of_call(policy.reads);
        let look = match &error {
            RouteError::Unclaimed { .. } => {
                if let Some(claims) = &self.parts.claims {
                    claims.ask(&request.hints, policy);
                }
                LOOK_AGAIN
            }
            RouteError::Behind { .. } | RouteError::NoCopy => LOOK_AGAIN,
            _ => return Err(error.into()),
        };
        Ok(Wait {
            why: metrics::Wait::from(&error),
            error: error.into(),
            look,
        })
    }

    /// Puts a call aside until its route is known.
    pub(super) fn park(&self, id: CallId, request: Box<Request>, wait: Wait) -> Result<(), Refused> {
        let until = self.calls.with(id, Open::patience).unwrap_or_else(clock);
        let parked = match self.parked((id, &request), wait, until) {
            Ok(parked) => parked,
            Err(error) => return Err(Refused { error, request }),
        };
        self.calls.with(id, |open| {
            open.active = None;
            open.again = Some(request);
            open.parked = Some(Box::new(parked));
        });
        Ok(())
    }

    fn parked(&self, (id, request): (CallId, &Request), wait: Wait, until: Instant) -> Result<Parked, Box<RelayError>> {
        self.parts.lookups.on_wait(wait.why);
        let table = self.parts.routing.table();
        let policies = self.parts.policies.current();
        let key = table.hash_of(&request.hints, policies.of(request.service()).route_of(request));
        let Some(seat) = self.parking.seat(id, key, request.body.chunk.len()) else {
            let mut error = wait.into_error();
            error.detail.push_str("; too many calls wait for that already");
            return Err(Box::new(error.pushed_back(PUSHBACK)));
        };
        let now = clock();
        Ok(Parked {
            _seat: seat,
            look: Some(self.retries.look_at(wait.look_at(now, until), id)),
            error: wait.error,
            until,
        })
    }

    /// Parks a call that was refused before it was sent, if it only has to wait.
    pub(super) fn park_at_once(&self, id: CallId, refused: Refused) -> Result<(), Refused> {
        if !only_waits(&refused.error) || !self.parts.routing.table().has_store() {
            return Err(refused);
        }
        let is_first = self.calls.with(id, Open::is_turned_away_first).unwrap_or_default();
        let wait = Wait::until_known(&refused.error, is_first);
        self.park(id, refused.request, wait)
    }

    /// Parks a call that another relay refused because its key moves; `None` if it is none, or cannot be sent again.
    pub(super) fn park_refused(&self, id: CallId, open: &mut Open, error: &RelayError) -> Option<()> {
        let redirected = error.reason == Reason::WrongUnit && error.owner.is_some() && open.redirects > 0;
        if !(only_waits(error) || redirected && error.retry == Retry::Safe) || !self.parts.routing.table().has_store() {
            return None;
        }
        // It may have waited before: the time it has is not given anew (W6).
        let until = open.patience();
        if until <= clock() {
            return None;
        }
        let wait = Wait::until_known(error, open.is_turned_away_first());
        let request = open.again.as_ref()?;
        // Gives up its permit, if it has one (W4).
        open.turn = None;
        let parked = self.parked((id, request), wait, until).ok()?;
        open.parked = Some(Box::new(parked));
        Some(())
    }

    /// Lets calls go on whose route is known by now; runs as long as the shard.
    pub(super) async fn watch_routes(&self) {
        let mut changes = self.parts.routing.changes();
        while changes.changed().await.is_ok() {
            for group in self.parking.calls().chunks(RELEASED_AT_ONCE) {
                for id in group {
                    self.look_again(*id);
                }
                if group.len() == RELEASED_AT_ONCE {
                    tokio::time::sleep(STEP).await;
                }
            }
        }
        // The table is gone, and with it the relay.
        std::future::pending::<()>().await;
    }

    /// A call that waits looks whether its route is known.
    pub(super) fn look_again(&self, id: CallId) {
        if self.calls.with(id, |open| open.waits_to_be_kept()) == Some(true) {
            return self.look_at_kept(id);
        }
        let now = clock();
        let looked = self.calls.with(id, |open| self.route_again(id, open, now)).flatten();
        match looked {
            None | Some(Looked::Wait) => {}
            Some(Looked::Fail(error)) => self.keep_or_fail(id, error),
            Some(Looked::Go(way, request)) => {
                if let Err(refused) = self.send_first(way, request, id) {
                    self.on_failed(id, super::verdict::Failure::Relay(refused.error));
                }
            }
        }
    }

    fn route_again(&self, id: CallId, open: &mut Open, now: Instant) -> Option<Looked> {
        let parked = open.parked.as_mut()?;
        let Some(mut request) = open.again.take() else {
            // While it waited, more of its request came than is kept.
            open.record.on_retry(open.lost, &self.parts.metrics);
            return Some(Looked::Fail(parked.error.clone()));
        };
        request.facts.visited.clear();
        let (until, routed) = (
            parked.until,
            self.route(&mut request, &mut open.record, (&open.caller, &mut open.offer)),
        );
        Some(match routed {
            Ok(Routed::To(way)) => {
                open.parked = None;
                open.record.on_sent(now, &self.parts.metrics);
                Looked::Go(way, request)
            }
            Ok(Routed::Wait(wait)) if now < until => {
                parked.look = Some(self.retries.look_at(wait.look_at(now, until), id));
                parked.error = wait.error;
                open.again = Some(request);
                Looked::Wait
            }
            // Its unit may be away, or stay as it is: then it may be kept.
            Ok(Routed::Wait(wait)) => {
                open.again = Some(request);
                Looked::Fail(wait.into_error())
            }
            Err(error) => {
                open.again = Some(request);
                Looked::Fail(error)
            }
        })
    }
}

impl Open {
    /// It was refused by an owner that is ahead of this relay or behind it: whether for the first time.
    fn is_turned_away_first(&mut self) -> bool {
        !std::mem::replace(&mut self.was_turned_away, true)
    }

    /// Until when it waits for its route: so long before its own time is over that its caller hears why it waited (R-I17).
    fn patience(&mut self) -> Instant {
        let limit = self.limits.limit();
        *self.patience.get_or_insert_with(|| {
            let now = clock();
            let left = limit.map_or(PATIENCE, |limit| limit.saturating_duration_since(now));
            now + PATIENCE.min(left.saturating_sub(MARGIN_MAX.min(left / 4)))
        })
    }
}

/// What a call that waits has found.
enum Looked {
    Fail(RelayError),
    Go(Rc<dyn Callee>, Box<Request>),
    Wait,
}

/// Whether a call has waited for a route that is not its own: it publishes, and the queue has waited (R-I17).
pub(super) fn has_waited(open: &Open, error: &RelayError) -> bool {
    let has_no_key = open.again.as_ref().is_some_and(|request| request.hints.keys.is_empty());
    has_no_key && only_waits(error)
}

/// Whether the owner of the key takes the call in a moment, or another one does.
fn only_waits(error: &RelayError) -> bool {
    let waits = matches!(error.reason, Reason::Moving | Reason::NoLease | Reason::RoutesAway);
    waits && error.retry == Retry::Safe
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When a caller that was refused because its key moves should come back.
const PUSHBACK: Duration = Duration::from_millis(100);
/// Longest time a call waits for its route.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time for the reason to reach a caller before that one's own deadline.
const MARGIN_MAX: Duration = Duration::from_millis(250);
/// When a call that waits looks again although nothing has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The same for one that an owner refused for the first time: relays hear of a change within milliseconds of each other, and it may
/// be the one of the owner that is behind, which this relay does not hear of.
const LOOK_SOON: Duration = Duration::from_millis(3);
/// Calls that go on at once after a change; the others follow in groups of as many, so that their unit is not flooded.
const RELEASED_AT_ONCE: usize = 200;
/// Between two groups of calls that go on.
const STEP: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    // R-3.8: relays apply a change within moments of each other; one that stays behind is not asked as often.
    #[test]
    fn a_call_that_an_owner_refuses_looks_again_soon_but_once() {
        let pushback = Duration::from_millis(25);
        let error = RelayError::new(Reason::RoutesAway, Retry::Safe, "behind").pushed_back(pushback);
        assert_eq!(Wait::until_known(&error, true).look, LOOK_SOON);
        assert_eq!(Wait::until_known(&error, false).look, pushback);
        let error = RelayError::new(Reason::Moving, Retry::Safe, "it is there in a moment");
        assert_eq!(Wait::until_known(&error, false).look, LOOK_AGAIN);
    }
}
