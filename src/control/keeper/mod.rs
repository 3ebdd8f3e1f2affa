//! Keeps a relay's copy of the routes: what to ask of the store, and what to tell it and the shards (R-3.7). Pure.
//!
//! ```text
//! store: snapshot, feed, session  -->  Keeper  -->  table for shards, freezes to wait for, reports, renewals
//! ```
//!
//! # Invariants
//! - P1. The copy advances only by batches that fit (R-I13); anything else begins again with a snapshot.
//! - P2. The feed and a session are asked for one at a time each: an answer belongs to the last question.
//! - P3. A freeze of a node that this unit owns is waited for by everyone who admits, and reported with the revision that
//!   froze it (R-R6); again in each new session, and now and then: a report can be lost, and a store that gets another leader
//!   forgets what was reported. A node that is to be frozen is reported in the same way, with its own revision, when few
//!   messages of it are left (S2).
//! - P4. A table is handed to the shards before they are asked to wait for what is frozen in it.
//! - P5. A relay whose process before this one ended without a good-bye reports nothing as drained before the time is over that
//!   a call which that one let through may still run at a service (R-I2).
//!
//! # Not here
//! Doing it (`worker`), what a report is good for (`mover`).

#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use self::wishes::{RoutesRef, Wish};
use super::store::{Opened, StoreError};
use crate::model::UnitId;
use crate::routing::Routes;
use crate::routing::gate::Drain;
use crate::routing::lease::LeaseState;
use crate::routing::record::{Batch, FreezeAck, MoveId, NodeId, Rev, SessionId, Snapshot, State};

/// Keeps the copy of one relay.
#[derive(Debug)]
pub struct Keeper {
    unit: UnitId,
    routes: Option<Arc<Routes>>,
    lease: LeaseState,
    feed: Asking,
    session: Asking,
    renewing: Option<Duration>,
    renew_at: Duration,
    /// When to report again.
    report_at: Duration,
    progress_at: Duration,
    stale: bool,
    /// Nodes that are waited for.
    freezes: BTreeMap<(MoveId, NodeId), Freeze>,
    /// Who admits writes: shards by number, and the queue.
    gates: BTreeSet<GateId>,
    /// When nothing runs any more that a process before this one let through.
    settles_at: Duration,
    /// Whether that time is over; `None` until the store has said whether there was one.
    settled: Option<bool>,
    wishes: Vec<Wish>,
}

/// Whoever admits writes of keys: a shard, or the queue.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum GateId {
    /// A shard.
    Shard(usize),
    /// The queue of messages.
    Queue,
}

/// Something that is asked of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asking {
    /// Not now; again then.
    Not(Duration),
    /// The answer is awaited.
    Under,
    /// It is there.
    Has,
}

#[derive(Clone, Debug)]
struct Freeze {
    rev: Rev,
    /// Else it is still served, and only the queue is to have little of it.
    is_frozen: bool,
    /// Who still has calls or messages of it.
    waiting: BTreeSet<GateId>,
    /// What one of those said last that it has.
    held_by: Option<String>,
}

/// A gate waits for calls of a frozen node for longer than they should take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// Which.
    pub gate: GateId,
    /// What it was asked to wait for.
    pub drain: Drain,
    /// Which calls, in words.
    pub by: String,
}

impl Keeper {
    /// For a relay of this unit with these gates; `saved` is what it had before a restart, good for routing only. Calls run no
    /// longer than `in_flight_max`.
    pub fn new(
        unit: UnitId,
        gates: BTreeSet<GateId>,
        saved: Option<Routes>,
        in_flight_max: Duration,
        now: Duration,
    ) -> Self {
        let routes = saved.map(Arc::new);
        let mut keeper = Self {
            unit,
            lease: LeaseState::default(),
            feed: Asking::Not(now),
            session: Asking::Not(now),
            renewing: None,
            renew_at: now,
            report_at: now,
            progress_at: now,
            stale: true,
            freezes: BTreeMap::new(),
            gates,
            settles_at: now.saturating_add(in_flight_max),
            settled: None,
            wishes: vec![Wish::Stale(true)],
            routes: None,
        };
        if let Some(routes) = routes {
            keeper.adopt(routes);
        }
        keeper
    }

    /// What is to be done, in this order.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// The copy.
    pub fn routes(&self) -> Option<&Arc<Routes>> {
        self.routes.as_ref()
    }

    /// What the session allows.
    pub fn lease(&self) -> LeaseState {
        self.lease
    }

    /// Time has passed. To be called every [`TICK`].
    pub fn tick(&mut self, now: Duration) {
        if self.feed.is_due(now) {
            self.feed = Asking::Under;
            let wish = self
                .routes
                .as_ref()
                .map_or(Wish::Snapshot, |routes| Wish::Watch(routes.rev()));
            self.wishes.push(wish);
        }
        if self.session.is_due(now) {
            self.session = Asking::Under;
            self.renewing = Some(now);
            self.wishes.push(Wish::Open);
        }
        let may_renew = self.session == Asking::Has && self.renewing.is_none() && now >= self.renew_at;
        if let Some(session) = self.lease.session().filter(|_| may_renew) {
            self.renewing = Some(now);
            self.wishes.push(Wish::Renew(session));
        }
        if self.settled == Some(false) && now >= self.settles_at {
            self.settled = Some(true);
            self.report_at = now;
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_EVERY;
            self.report(|_| true);
        }
        self.set_stale(now.saturating_sub(self.progress_at) >= STALE_AFTER);
    }

    /// A report was answered; what the store did not hear is reported again soon.
    pub fn on_reported(&mut self, reported: &Result<(), StoreError>, now: Duration) {
        if reported.is_err() {
            self.report_at = self.report_at.min(now + AGAIN_MIN);
        }
    }

    /// Freezes of keys of this unit.
    pub fn frozen(&self) -> usize {
        self.freezes.values().filter(|freeze| freeze.is_frozen).count()
    }

    /// A snapshot came; the feed is read from there.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot, now: Duration) {
        let routes = Routes::from_snapshot(snapshot);
        let rev = routes.rev();
        self.progress_at = now;
        self.adopt(Arc::new(routes));
        self.feed = Asking::Under;
        self.wishes.push(Wish::Watch(rev));
        self.set_stale(false);
    }

    /// A batch came.
    pub fn on_batch(&mut self, batch: &Batch, now: Duration) {
        let applied = self.routes.as_ref().map(|routes| routes.apply(batch));
        let Some(Ok(routes)) = applied else {
            // Something is missing in between (P1).
            self.feed = Asking::Under;
            return self.wishes.push(Wish::Snapshot);
        };
        self.feed = Asking::Has;
        self.progress_at = now;
        self.set_stale(false);
        if batch.rev != batch.prev {
            self.adopt(Arc::new(routes));
        }
    }

    /// The feed has ended, or a snapshot or feed was not given.
    pub fn on_feed_ended(&mut self, error: &StoreError, now: Duration, dice: f64) {
        if *error == StoreError::Compacted {
            self.feed = Asking::Under;
            return self.wishes.push(Wish::Snapshot);
        }
        self.feed = Asking::Not(now + pause(dice));
    }

    /// A session was opened, or not.
    pub fn on_opened(&mut self, opened: &Result<Opened, StoreError>, now: Duration, dice: f64) {
        let sent = self.renewing.take().unwrap_or(now);
        match opened {
            &Ok(Opened {
                session,
                epoch,
                succeeds,
            }) => {
                // Later lives are of this process, whose gates know what runs.
                self.settled.get_or_insert(!succeeds || now >= self.settles_at);
                self.session = Asking::Has;
                self.lease.opened(session, epoch.rev(), sent);
                self.renew_at = sent + RENEW_EVERY;
                self.wishes.push(Wish::Lease(self.lease));
                // What was reported in another life counts no more (P3).
                self.report(|_| true);
            }
            Err(_) => self.session = Asking::Not(now + pause(dice)),
        }
    }

    /// A renewal of this session was answered.
    pub fn on_renewed(&mut self, session: SessionId, renewed: &Result<(), StoreError>, now: Duration) {
        let Some(sent) = self.renewing.take() else { return };
        match renewed {
            Ok(()) => {
                self.lease.renewed(session, sent, now);
                self.renew_at = sent + RENEW_EVERY;
                if self.lease.session().is_none() {
                    // It was silent for so long that others may have its keys by now.
                    self.session = Asking::Not(now);
                }
            }
            Err(StoreError::SessionOver) => {
                self.lease.over(session);
                self.session = Asking::Not(now);
            }
            Err(_) => self.renew_at = now + RENEW_EVERY / 2,
        }
        self.wishes.push(Wish::Lease(self.lease));
    }

    /// Nothing runs any more at a gate that goes through a node that was frozen at this revision; or little waits there, if it is not.
    pub fn on_drained(&mut self, gate: GateId, drain: &Drain) {
        let key = (drain.by, drain.node.clone());
        let Some(freeze) = self.freezes.get_mut(&key).filter(|freeze| freeze.rev == drain.rev) else {
            return;
        };
        freeze.waiting.remove(&gate);
        if freeze.waiting.is_empty() {
            self.report(|other| *other == key);
        }
    }

    /// A gate says what it waits for. That is reported, so that whoever moves the node can say it to people.
    pub fn on_held(&mut self, held: Held) {
        let key = (held.drain.by, held.drain.node);
        let freeze = self.freezes.get_mut(&key);
        let Some(freeze) = freeze.filter(|freeze| freeze.rev == held.drain.rev && freeze.waiting.contains(&held.gate))
        else {
            return;
        };
        if freeze.held_by.as_ref() != Some(&held.by) {
            freeze.held_by = Some(held.by);
            self.report(|other| *other == key);
        }
    }

    /// Puts a copy in force, and everybody on to wait for what it has frozen or is about to (P4).
    fn adopt(&mut self, routes: Arc<Routes>) {
        self.wishes
            .push(Wish::Publish(Arc::new(RoutesRef(Arc::clone(&routes)))));
        let mut held = BTreeMap::new();
        for node in routes.moving() {
            let is_frozen = node.state.is_frozen();
            let is_held = is_frozen || matches!(node.state, State::Migrating { .. });
            if let Some(by) = node.state.work().filter(|_| is_held && node.is_served_by(&self.unit)) {
                held.insert((by, node.id.clone()), (node.rev, is_frozen));
            }
        }
        self.routes = Some(routes);
        self.freezes
            .retain(|key, freeze| held.get(key).is_some_and(|(rev, _)| *rev == freeze.rev));
        let mut done = BTreeSet::new();
        for (key, (rev, is_frozen)) in held {
            if self.freezes.contains_key(&key) {
                continue;
            }
            let mut waiting = self.gates.clone();
            waiting.retain(|gate| is_frozen || *gate == GateId::Queue);
            for gate in &waiting {
                let (by, node) = key.clone();
                self.wishes.push(Wish::Drain(*gate, Drain { by, node, rev }));
            }
            let freeze = Freeze {
                rev,
                is_frozen,
                waiting,
                held_by: None,
            };
            if freeze.waiting.is_empty() {
                done.insert(key.clone());
            }
            self.freezes.insert(key, freeze);
        }
        // That it is waited for is no news: mostly it is over in a moment, and that is what the move waits to hear.
        if !done.is_empty() {
            self.report(|key| done.contains(key));
        }
    }

    /// Reports freezes, as they stand, in the present session. Of what is not frozen yet only that little is left is of use.
    fn report(&mut self, which: impl Fn(&(MoveId, NodeId)) -> bool) {
        let Some(session) = self.lease.session() else { return };
        let is_settled = self.settled == Some(true);
        let is_worth_it = |freeze: &Freeze| freeze.is_frozen || freeze.waiting.is_empty();
        let chosen = self
            .freezes
            .iter()
            .filter(|(key, freeze)| which(key) && is_worth_it(freeze));
        let acks: Vec<_> = chosen
            .map(|((by, node), freeze)| FreezeAck {
                session,
                by: *by,
                node: node.clone(),
                rev: freeze.rev,
                drained: freeze.waiting.is_empty() && (is_settled || !freeze.is_frozen),
                held_by: freeze.held_by.clone().filter(|_| !freeze.waiting.is_empty()),
            })
            .collect();
        if !acks.is_empty() {
            self.wishes.push(Wish::Report(acks));
        }
    }

    fn set_stale(&mut self, stale: bool) {
        if self.stale != stale {
            self.stale = stale;
            self.wishes.push(Wish::Stale(stale));
        }
    }
}

impl Asking {
    fn is_due(self, now: Duration) -> bool {
        matches!(self, Self::Not(at) if at <= now)
    }
}

/// Until the store is asked again.
fn pause(dice: f64) -> Duration {
    AGAIN_MIN + AGAIN_SPREAD.mul_f64(dice.clamp(0.0, 1.0))
}

/// How often [`Keeper::tick`] is to be called.
pub const TICK: Duration = Duration::from_millis(100);
/// Between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two reports of freezes that are not over.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Without progress for so long a copy is behind.
const STALE_AFTER: Duration = Duration::from_secs(2);
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_SPREAD: Duration = Duration::from_millis(400);
