//! Calls that are tried again: each waits for a permit and for its time, then goes out once more.
//!
//! ```text
//! first attempt --failed--> [waits for a permit] --> pause --> next attempt --failed--> pause --> ... --> the end
//!    active                  place in line          |------ holds its permit ------------------------|
//! ```
//! A call is *active* while its first attempt waits for an answer; a fifth of the active calls may hold permits. So what
//! retries add is bounded by what is new, whatever piles up behind.
//!
//! # Invariants
//! - A1. A call holds at most one permit or place in line, and gives it up when it ends, however it ends.
//! - A2. A permit whose retries were not answered is out for at least three times as long as they were on the wire. A
//!   fifth of the active calls is then a fifteenth of all attempts, if attempts take about the same time: below 1.10
//!   (C-T3) however slowly calls fail. Those that fail fast are held back by their pauses.
//! - A3. A call that waits keeps the failure it waits with; it is the answer if there will be no further attempt.
//!
//! # Not here
//! Whether and when (`verdict`), how many (`admission`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::alarms::{Alarm, Alarms};
use super::parked::has_waited;
use super::rpc::{Open, Rpc};
use super::verdict::{self, ATTEMPTS_MAX, Case, Failure};
use crate::admission::{Granted, Permit, ShardBudget, Ticket};
use crate::model::{CallId, Part, Request, UnitId};
use crate::telemetry::calls::CallMetrics;
use crate::telemetry::retries::RetryOutcome;

/// What all calls of a shard that are tried again share.
pub(super) struct Retries {
    alarms: Rc<Alarms<Due>>,
    ended: Cell<bool>,
}

/// What an alarm is for.
enum Due {
    /// The pause of a call is over.
    Go(CallId),
    /// A call that waits for its route looks again.
    Look(CallId),
    /// A permit has been out for long enough (A2).
    Return(Permit),
}

/// Set while a call waits for its route; dropping it takes it back.
pub(super) struct LookAlarm(#[expect(dead_code, reason = "held for its drop")] Alarm<Due>);

/// A call that is tried again.
pub(super) struct Turn {
    seat: Option<Seat>,
    alarms: Rc<Alarms<Due>>,
    /// The end of its pause.
    due: Instant,
    alarm: Option<Alarm<Due>>,
    /// What the caller gets if there is no further attempt; `None` while one is under way (A3).
    failure: Option<Failure>,
    /// Since when the attempt is under way.
    sent: Option<Instant>,
    /// How long attempts were under way with this permit.
    on_wire: Duration,
    answered: bool,
}

enum Seat {
    /// Since when.
    Permit(Permit, Instant),
    Ticket(Ticket),
}

/// What becomes of a call whose attempt failed.
enum Then {
    End(Failure),
    Go,
    Resend(UnitId, Box<Request>),
    Wait,
}

#[cfg(test)]
impl Retries {
    /// Alarms that are set.
    pub(super) fn alarms(&self) -> usize {
        self.alarms.len()
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            alarms: Alarms::new(),
            ended: Cell::new(false),
        }
    }
}

impl Retries {
    /// Lets a call that waits for its route look again then.
    pub(super) fn look_at(&self, time: Instant, id: CallId) -> LookAlarm {
        LookAlarm(self.alarms.set(time, Due::Look(id)))
    }
}

impl Rpc {
    /// An attempt failed: once more if that is right, else the caller is told.
    pub(super) fn on_failed(&self, id: CallId, failure: Failure) {
        let now = clock();
        match self.calls.with(id, |open| self.plan(id, open, failure, now)) {
            None | Some(Then::Wait) => {}
            Some(Then::End(failure)) => self.end(id, failure),
            Some(Then::Go) => self.go(id),
            Some(Then::Resend(unit, request)) => self.send_again(id, &unit, request),
        }
    }

    fn plan(&self, id: CallId, open: &mut Open, failure: Failure, now: Instant) -> Then {
        open.active = None;
        open.callee = None;
        open.was_seen |= failure.was_perhaps_seen();
        if let Some(turn) = &mut open.turn {
            turn.on_failed(now);
        }
        let redirects_max = if self.parts.routing.table().has_store() {
            REDIRECTS_MAX
        } else {
            1
        };
        self.on_redirect(open, &failure);
        if let Some((unit, request)) = adopt(open, &failure, redirects_max) {
            open.active = self.parts.budgets.of(&unit).map(ShardBudget::count);
            return Then::Resend(unit, request);
        }
        if let Failure::Relay(error) = &failure
            && has_waited(open, error)
        {
            return Then::End(failure);
        }
        if let Failure::Relay(error) = &failure
            && self.park_refused(id, open, error).is_some()
        {
            return Then::Wait;
        }
        let case = Case {
            request: open.again.as_deref().ok_or(open.lost),
            allowed: self.allows(open, open.again.as_deref()),
            now,
            limit: open.limits.limit(),
        };
        let next = match verdict::decide(&failure, &case, fastrand::f64()) {
            Ok(_) if self.retries.ended.get() => Err(Some(RetryOutcome::Draining)),
            next => next,
        };
        match next {
            Ok(next) => self.wait(id, open, failure, next),
            Err(outcome) => {
                if let Some(outcome) = outcome {
                    open.record.on_retry(outcome, &self.parts.metrics);
                }
                Then::End(failure)
            }
        }
    }

    /// Puts a call aside until it may be tried again.
    fn wait(&self, id: CallId, open: &mut Open, failure: Failure, next: verdict::Next) -> Then {
        let now = clock();
        // There is nothing to wait for if the unit is away, and that is what the caller should hear.
        if let Err(error) = self.way(open.record.unit()) {
            open.record.on_retry(RetryOutcome::Away, &self.parts.metrics);
            return Then::End(Failure::Relay(Box::new(error)));
        }
        if open.turn.is_none() {
            let Some(seat) = self.seat(id, open.record.unit(), next.may_wait, now) else {
                open.record.on_retry(RetryOutcome::NoBudget, &self.parts.metrics);
                return Then::End(failure);
            };
            if matches!(seat, Seat::Ticket(_)) {
                open.record.on_retry(RetryOutcome::Waited, &self.parts.metrics);
            }
            open.turn = Some(Box::new(Turn::new(seat, self.retries.alarms.clone(), now)));
        }
        let Some(turn) = &mut open.turn else {
            return Then::End(failure);
        };
        turn.failure = Some(failure);
        turn.due = next.due;
        turn.when_due(id, now)
    }

    /// Permit or place in line for a call that has none yet; `None` if there is neither.
    fn seat(&self, id: CallId, unit: &UnitId, may_wait: bool, now: Instant) -> Option<Seat> {
        let budget = self.parts.budgets.of(unit)?;
        if may_wait {
            return Some(match budget.take_or_wait(id) {
                Ok(permit) => Seat::Permit(permit, now),
                Err(ticket) => Seat::Ticket(ticket),
            });
        }
        budget.take().map(|permit| Seat::Permit(permit, now))
    }

    fn allows(&self, open: &Open, request: Option<&Request>) -> bool {
        let service = request.and_then(Request::service);
        self.parts.budgets.allows(service, open.record.unit())
    }

    /// A call that waited for a permit has one. Dropped, it goes to the next.
    fn on_granted(&self, granted: Granted) {
        let (id, now) = (granted.call, clock());
        let then = self.calls.with(id, |open| {
            let turn = open.turn.as_mut()?;
            match &turn.seat {
                Some(Seat::Ticket(ticket)) if granted.is_for(ticket) => {
                    turn.seat = Some(Seat::Permit(granted.permit, now));
                    Some(turn.when_due(id, now))
                }
                _ => None,
            }
        });
        if let Some(Some(Then::Go)) = then {
            self.go(id);
        }
    }

    /// The call has its permit and its pause is over.
    fn go(&self, id: CallId) {
        match self.calls.with(id, |open| self.next_attempt(open)).flatten() {
            None => {}
            Some(Ok((unit, request))) => self.send_again(id, &unit, request),
            Some(Err(failure)) => self.end(id, failure),
        }
    }

    fn next_attempt(&self, open: &mut Open) -> Option<Result<(UnitId, Box<Request>), Failure>> {
        let failure = open.turn.as_mut()?.failure.take()?;
        let Some(request) = open.again.take() else {
            // While it waited, more of its request came than is kept.
            open.record.on_retry(open.lost, &self.parts.metrics);
            return Some(Err(failure));
        };
        if !self.allows(open, Some(&request)) {
            open.record.on_retry(RetryOutcome::SwitchedOff, &self.parts.metrics);
            return Some(Err(failure));
        }
        if let Err(error) = self.way(open.record.unit()) {
            open.record.on_retry(RetryOutcome::Away, &self.parts.metrics);
            // It may be kept.
            open.again = Some(request);
            return Some(Err(Failure::Relay(Box::new(error))));
        }
        let turn = open.turn.as_mut()?;
        turn.alarm = None;
        turn.sent = Some(clock());
        open.record.on_retry(RetryOutcome::Sent, &self.parts.metrics);
        Some(Ok((open.record.unit().clone(), prepare(open, request))))
    }

    fn send_again(&self, id: CallId, unit: &UnitId, mut request: Box<Request>) {
        let sent = self
            .way_to(unit, &mut request)
            .and_then(|callee| self.send(callee, request, id).map_err(|refused| *refused.error));
        if let Err(error) = sent {
            self.on_failed(id, Failure::Relay(Box::new(error)));
        }
    }

    /// Tells the caller how the last attempt ended.
    fn end(&self, id: CallId, failure: Failure) {
        match failure {
            Failure::Relay(error) => self.keep_or_fail(id, *error),
            Failure::Service(part) => {
                if let Some(open) = self.calls.take(id) {
                    self.answer(open, *part, clock());
                }
            }
        }
    }

    /// Sends what is due, for as long as the shard runs.
    pub(super) async fn watch_retries(&self) {
        let mut granted = VecDeque::new();
        loop {
            tokio::select! {
                () = self.retries.alarms.wait() => {}
                () = self.parts.budgets.granted(&mut granted) => {}
            }
            for granted in granted.drain(..) {
                self.on_granted(granted);
            }
            let now = clock();
            while let Some(due) = self.retries.alarms.due(now) {
                match due {
                    Due::Go(id) => self.go(id),
                    Due::Look(id) => self.look_again(id),
                    Due::Return(permit) => drop(permit),
                }
            }
        }
    }

    /// From now on nothing is tried again. Calls that wait end with the failure they wait with (A3).
    pub fn end_retries(&self) {
        self.retries.ended.set(true);
        for id in self.calls.ids() {
            let failure = self.calls.with(id, |open| {
                let failure = open.turn.as_mut()?.failure.take()?;
                open.record.on_retry(RetryOutcome::Draining, &self.parts.metrics);
                Some(failure)
            });
            if let Some(failure) = failure.flatten() {
                self.end(id, failure);
                continue;
            }
            let parked = self.calls.with(id, |open| open.parked.take()).flatten();
            if let Some(parked) = parked
                && let Some(open) = self.calls.take(id)
            {
                self.fail(open, parked.into_error());
            }
        }
    }
}

impl Open {
    /// Some of the reply goes to the caller: this attempt is the last, and it is no longer active.
    pub(super) fn on_answered(&mut self) {
        self.active = None;
        self.again = None;
        self.lost = RetryOutcome::ReplyStarted;
        if let Some(mut turn) = self.turn.take() {
            turn.answered = true;
        }
    }

    /// The reply ends with this part. A status of the retry set is no answer that would free a permit at once (A2).
    pub(super) fn on_ended(&mut self, part: &Part) {
        if !part
            .end
            .as_ref()
            .is_some_and(|end| verdict::is_in_retry_set(end.status))
        {
            self.on_answered();
        }
    }

    /// Its time is over. Whether it was waiting to be tried again belongs to the record (C-T5).
    pub(super) fn on_overdue(&mut self, metrics: &CallMetrics) {
        if self.turn.as_ref().is_some_and(|turn| turn.failure.is_some()) {
            self.record.on_retry(RetryOutcome::Deadline, metrics);
        }
    }
}

impl Turn {
    fn new(seat: Seat, alarms: Rc<Alarms<Due>>, now: Instant) -> Self {
        Self {
            seat: Some(seat),
            alarms,
            due: now,
            alarm: None,
            failure: None,
            sent: None,
            on_wire: Duration::ZERO,
            answered: false,
        }
    }

    /// What is to be done now, with an alarm set if it is to be done later.
    fn when_due(&mut self, id: CallId, now: Instant) -> Then {
        match self.seat {
            Some(Seat::Permit(..)) if self.due <= now => return Then::Go,
            Some(Seat::Permit(..)) => self.alarm = Some(self.alarms.set(self.due, Due::Go(id))),
            // The grant brings it back here.
            _ => {}
        }
        Then::Wait
    }

    fn on_failed(&mut self, now: Instant) {
        if let Some(sent) = self.sent.take() {
            self.on_wire += now.saturating_duration_since(sent);
        }
    }
}

impl Drop for Turn {
    /// Gives the seat up, a permit perhaps later (A1, A2).
    fn drop(&mut self) {
        let now = clock();
        self.on_failed(now);
        let Some(Seat::Permit(permit, since)) = self.seat.take() else {
            return;
        };
        match held_until(since, self.on_wire) {
            Some(until) if until > now && !self.answered => {
                self.alarms.keep(until, Due::Return(permit));
            }
            _ => drop(permit),
        }
    }
}

/// How long a permit is out that was taken at `since` and had attempts on the wire for so long, in vain (A2).
fn held_until(since: Instant, on_wire: Duration) -> Option<Instant> {
    since.checked_add(on_wire.saturating_mul(3))
}

/// Where to send a call whose owner is another unit than was thought (C-R1).
fn adopt(open: &mut Open, failure: &Failure, redirects_max: u8) -> Option<(UnitId, Box<Request>)> {
    let Failure::Relay(error) = failure else { return None };
    let (owner, epoch) = error.owner.as_ref()?;
    // Only if the other relay knows more than we do, and with static tables only once: two that disagree would send a call
    // to and fro for ever. Epochs of a route store only rise, and every redirect is to a newer one (R-I8).
    if open.redirects >= redirects_max {
        return None;
    }
    let mut request = open.again.take_if(|request| *epoch > request.facts.epoch)?;
    open.redirects += 1;
    request.facts.epoch = *epoch;
    open.record.on_routed(owner, *epoch);
    Some((owner.clone(), prepare(open, request)))
}

/// One more attempt with this request, of which a copy is kept unless it is the last.
fn prepare(open: &mut Open, mut request: Box<Request>) -> Box<Request> {
    request.facts.attempt = request.facts.attempt.saturating_add(1);
    request.facts.visited.clear();
    open.record.on_attempt();
    open.head = None;
    if request.facts.attempt.saturating_add(1) < ATTEMPTS_MAX {
        open.again = Some(request.clone());
    } else {
        open.lost = RetryOutcome::AttemptsSpent;
    }
    request
}

/// Redirects of a call whose key moves, before it waits until this relay has heard of the move itself.
const REDIRECTS_MAX: u8 = 3;

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
