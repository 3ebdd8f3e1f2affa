//! Lets the desk work: takes what shards want, asks the store, and tells the shards that there is news.
//!
//! # Invariants
//! - V1. Where a new key goes is decided by the copy that is in force when it is asked for; the claim names that copy's epoch.
//! - V2. What shards want and no room is for is dropped: whoever waits asks again.
//! - V3. Where a key goes without the store is chosen once, and claimed for that unit and no other ([`Fallback`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fallback::{Fallback, FallbackParts};
use super::handle::{Claims, Wanted};
use super::{Answer, Ask, Batch, BatchId, ClaimKey, Desk, Known, Limits, Outcome, Output, Waiter};
use crate::control::clock::boot_time;
use crate::control::provisional::Choice;
use crate::control::store::{Store, StoreError};
use crate::model::{Name, RouteHints, RoutePolicy, UnitId};
use crate::routing::placement::{self, NewKey, Surroundings};
use crate::routing::record::{Claim, DimensionSpec, Fallback as OnAway, KeyBytes, OpId, Placement, PlacementRule};
use crate::routing::record::{State, Target};
use crate::routing::{self, KeyHash, RouteError, RouteTable, Routes};

/// What the driver is made of.
pub struct DriverParts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The table.
    pub routing: routing::Handle,
    /// This unit.
    pub unit: UnitId,
    /// What [`Claims::new`] made.
    pub claims: (Claims, mpsc::Receiver<Wanted>),
    /// Keys whose claims are remembered.
    pub known_max: usize,
    /// Of the desk.
    pub limits: Limits,
    /// What happens to new keys while the store is away.
    pub fallback: FallbackParts,
}

/// Asks the store for the owners of keys.
pub struct Driver {
    store: Arc<dyn Store>,
    routing: routing::Handle,
    unit: UnitId,
    claims: Claims,
    wanted: mpsc::Receiver<Wanted>,
    known_max: usize,
    limits: Limits,
    desk: Option<Desk>,
    asked: JoinSet<(BatchId, Answer)>,
    waiters: u64,
    fallback: Fallback,
    /// Those who look keys up and have no answer yet; the desk bounds them.
    readers: HashMap<Waiter, oneshot::Sender<Outcome>>,
}

impl Driver {
    /// With these parts.
    pub fn new(parts: DriverParts) -> Self {
        let (claims, wanted) = parts.claims;
        Self {
            store: parts.store,
            routing: parts.routing,
            unit: parts.unit,
            wanted,
            known_max: parts.known_max,
            limits: parts.limits,
            desk: None,
            asked: JoinSet::new(),
            waiters: 0,
            fallback: Fallback::new(parts.fallback, claims.chosen.clone()),
            claims,
            readers: HashMap::new(),
        }
    }

    /// Works until `stop`. Needs a tokio runtime.
    pub async fn run(mut self, stop: CancellationToken) {
        self.tick();
        loop {
            let desk = self.desk.as_ref().and_then(Desk::wake_at);
            let wake = desk.into_iter().chain(self.fallback.wake_at(boot_time())).min();
            let pause = wake.map_or(IDLE, |at| at.saturating_sub(boot_time()));
            tokio::select! {
                () = stop.cancelled() => return,
                wanted = self.wanted.recv() => match wanted {
                    Some(wanted) => self.on_wanted(wanted),
                    None => return,
                },
                Some(answered) = self.asked.join_next() => {
                    if let Ok((id, answer)) = answered {
                        self.on_answered(id, answer);
                    }
                }
                written = self.fallback.written() => self.on_written(written),
                () = tokio::time::sleep(pause) => {}
            }
            self.tick();
        }
    }

    fn on_wanted(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Owner(hints, policy) => self.want(&hints, &policy),
            Wanted::Holder(key, reply) => self.look_up(key, reply),
            Wanted::List(limit, reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.fallback.list(limit));
            }
            Wanted::Dismiss(key, reply) => {
                let hash = self.routing.table().routes().map(|routes| hash(routes, &key));
                self.fallback.dismiss(key, hash, reply);
            }
        }
    }

    /// Claims the key that the call waits for (V1), or puts it somewhere if the store is away (V3). For a call that only reads it is
    /// looked up.
    fn want(&mut self, hints: &RouteHints, policy: &RoutePolicy) {
        let table = self.routing.table();
        let Some(routes) = table.routes() else { return };
        let Some(new) = self.unclaimed(&table, routes, (hints, policy)) else {
            return;
        };
        self.ensure_desk(routes);
        let key = (new.spec.name.clone(), new.key.clone());
        if policy.reads {
            if let (_, Some(outcome)) = self.ask(Ask::Read(key.0, key.1)) {
                self.wake_if_news(&outcome);
            }
            return;
        }
        if self.fallback.is_pending(&key) {
            let choice = self.fallback.ask(&key);
            return choice.into_iter().for_each(|choice| self.confirm(routes, choice));
        }
        if new.spec.claim_fallback == OnAway::Deterministic && self.is_away() && self.fallback.can_choose() {
            return self.choose(routes, &new, hints);
        }
        let Some(claim) = self.claim_for(routes, &new, hints) else {
            return;
        };
        if let (_, Some(outcome)) = self.ask(Ask::Write(claim)) {
            self.wake_if_news(&outcome);
        }
    }

    /// Tells who has a key, now or when the store has said so.
    fn look_up(&mut self, (dimension, key): ClaimKey, reply: oneshot::Sender<Outcome>) {
        let table = self.routing.table();
        let Some(routes) = table.routes() else { return };
        self.ensure_desk(routes);
        match self.ask(Ask::Read(dimension, key)) {
            // Whoever asked may have left.
            (_, Some(outcome)) => drop(reply.send(outcome)),
            (waiter, None) => drop(self.readers.insert(waiter, reply)),
        }
    }

    /// Asks the desk, which may know the answer.
    fn ask(&mut self, ask: Ask) -> (Waiter, Option<Outcome>) {
        let (waiter, now) = (self.next_waiter(), boot_time());
        let desk = self.desk.as_mut();
        (waiter, desk.and_then(|desk| desk.ask(ask, waiter, now + PATIENCE, now)))
    }

    fn wake_if_news(&self, outcome: &Outcome) {
        if is_news(outcome) {
            self.routing.wake();
        }
    }

    /// The desk; there is one from the first copy on that needs it.
    fn ensure_desk(&mut self, routes: &Routes) {
        if self.desk.is_none() {
            let known = self
                .claims
                .known
                .get_or_init(|| Known::new(self.known_max, routes.seed()));
            self.desk = Some(Desk::new(self.limits, known.clone()));
            self.fallback.install(|key| hash(routes, key));
        }
        if let Some(desk) = &mut self.desk {
            desk.applied(routes.epoch());
        }
    }

    /// The key that has no owner.
    fn unclaimed<'a>(
        &self,
        table: &RouteTable,
        routes: &'a Routes,
        (hints, policy): (&RouteHints, &RoutePolicy),
    ) -> Option<Unclaimed<'a>> {
        let unclaimed = table.resolve(hints, policy, &self.unit, &self.claims).err()?;
        let RouteError::Unclaimed { dimension, .. } = unclaimed else {
            return None;
        };
        let key = hints.keys.iter().find(|key| key.dimension == dimension.as_str())?;
        let spec = routes.dimension(&dimension)?;
        match &spec.placement {
            Placement::Claim(rules) => Some(Unclaimed {
                spec,
                rules,
                key: KeyBytes(key.key.clone()),
            }),
            Placement::Rules => None,
        }
    }

    fn claim_for(&self, routes: &Routes, wanted: &Unclaimed<'_>, hints: &RouteHints) -> Option<Claim> {
        let new = wanted.new_key(hints);
        let placed = placement::place(wanted.rules, new, &self.unit, &Call { routes, hints });
        // The unit is drained or evacuated, its services still work: their new keys go to the others.
        let others = || placement::fallback(new.dimension, new.key, active(routes));
        let target = placed.map(|placed| placed.target);
        let Some(target) = target.or_else(|| others().cloned().map(Target::Unit)) else {
            warn_of_no_unit(new.dimension);
            return None;
        };
        Some(Claim {
            dimension: new.dimension.clone(),
            key: wanted.key.clone(),
            target,
            base: routes.epoch(),
            op: OpId(fastrand::u128(..)),
            by: self.unit.clone(),
        })
    }

    fn is_away(&self) -> bool {
        let desk = self.desk.as_ref();
        desk.is_some_and(|desk| desk.is_away(self.fallback.heard(), boot_time()))
    }

    /// Puts a key where every relay at this revision puts it.
    fn choose(&mut self, routes: &Routes, wanted: &Unclaimed<'_>, hints: &RouteHints) {
        let new = wanted.new_key(hints);
        let target = placement::without_store(wanted.rules, new, active(routes), &Call { routes, hints });
        let Some(target) = target else {
            return warn_of_no_unit(new.dimension);
        };
        let mut outputs = Vec::new();
        if let Some(desk) = &mut self.desk {
            // Before it can be in use: the desk claims it for nobody else (B6).
            let key = (new.dimension.clone(), wanted.key.clone());
            desk.withdraw(&key, &mut outputs);
        }
        self.act(outputs);
        let (dimension, key) = (new.dimension.clone(), wanted.key.clone());
        self.fallback.choose((dimension, key), target, routes.epoch());
    }

    /// Claims a key for the unit it was put at without the store.
    fn confirm(&mut self, routes: &Routes, choice: Choice) {
        let key = choice.claim_key();
        if !is_claimable(routes, &choice) {
            return self.fallback.settle(&key, &Outcome::Away, hash(routes, &key));
        }
        let claim = Claim {
            dimension: choice.dimension,
            key: choice.key,
            target: choice.target,
            base: routes.epoch(),
            op: choice.op,
            by: self.unit.clone(),
        };
        match self.ask(Ask::Write(claim)) {
            (_, Some(outcome)) => {
                self.fallback.settle(&key, &outcome, hash(routes, &key));
                self.routing.wake();
            }
            (waiter, None) => self.fallback.asked(waiter, key),
        }
    }

    fn on_answered(&mut self, id: BatchId, answer: Answer) {
        let mut outputs = Vec::new();
        if let Some(desk) = &mut self.desk {
            desk.answered(id, answer, boot_time(), fastrand::u64(..), &mut outputs);
        }
        self.act(outputs);
    }

    fn on_written(&mut self, is_done: bool) {
        if let Some(routes) = self.routing.table().routes() {
            self.fallback.on_written(is_done, |key| hash(routes, key));
            self.routing.wake();
        }
    }

    fn tick(&mut self) {
        let table = self.routing.table();
        if let Some(routes) = table.routes() {
            if self.fallback.is_busy() {
                self.ensure_desk(routes);
            }
            if let Some(desk) = &mut self.desk {
                desk.applied(routes.epoch());
            }
        }
        let mut outputs = Vec::new();
        if let Some(desk) = &mut self.desk {
            desk.tick(boot_time(), &mut outputs);
        }
        self.act(outputs);
        if let (Some(routes), true) = (table.routes(), self.desk.is_some()) {
            for choice in self.fallback.due(boot_time()) {
                self.confirm(routes, choice);
            }
        }
        // Last: what became of choices is written and counted by it, and nothing may come for a minute.
        if self.fallback.tick(self.is_away()) {
            self.routing.wake();
        }
    }

    fn act(&mut self, outputs: Vec<Output>) {
        let mut told = false;
        for output in outputs {
            match output {
                Output::Send(id, batch) => {
                    let store = Arc::clone(&self.store);
                    self.asked.spawn(async move { (id, ask(&*store, batch).await) });
                }
                Output::Tell(waiter, outcome) => {
                    if let Outcome::Denied(why) = &outcome {
                        tracing::warn!(%why, "the route store refused a claim");
                    }
                    if let Some(reply) = self.readers.remove(&waiter) {
                        drop(reply.send(outcome));
                        continue;
                    }
                    told |= is_news(&outcome);
                    let key = self.fallback.told(waiter);
                    if let (Some(key), Some(routes)) = (key, self.routing.table().routes()) {
                        self.fallback.settle(&key, &outcome, hash(routes, &key));
                    }
                }
            }
        }
        if told {
            self.routing.wake();
        }
    }

    fn next_waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter(self.waiters)
    }
}

/// A key that has no owner, and what says where such keys go.
struct Unclaimed<'a> {
    spec: &'a DimensionSpec,
    rules: &'a [PlacementRule],
    key: KeyBytes,
}

impl Unclaimed<'_> {
    fn new_key<'a>(&'a self, hints: &'a RouteHints) -> NewKey<'a> {
        NewKey {
            dimension: &self.spec.name,
            key: &self.key.0,
            class: hints.class.as_ref(),
        }
    }
}

/// The copy, and the call that brought a new key.
struct Call<'a> {
    routes: &'a Routes,
    hints: &'a RouteHints,
}

impl Surroundings for Call<'_> {
    fn is_active(&self, unit: &UnitId) -> bool {
        self.routes.is_active(unit)
    }

    fn can_follow(&self, dimension: &Name) -> bool {
        let is_sent = self.hints.keys.iter().any(|key| key.dimension == dimension.as_str());
        is_sent && self.routes.dimension(dimension).is_some()
    }
}

/// Whether a call that waits can go on, or end.
fn is_news(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Won(_) | Outcome::Lost(_) | Outcome::Free)
}

async fn ask(store: &dyn Store, batch: Batch) -> Answer {
    let answer = match batch {
        Batch::Claim(claims) => store.claim(claims).await.map(Answer::Claimed),
        Batch::LookUp(keys) => store.claims(keys).await.map(|(_, found)| Answer::Found(found)),
    };
    answer.unwrap_or_else(|error: StoreError| Answer::Failed(error))
}

/// Units that take new keys.
fn active(routes: &Routes) -> impl Iterator<Item = &UnitId> {
    let active = routes.units().filter(|(_, state)| **state == State::Active);
    active.map(|(unit, _)| unit)
}

/// Whether the store would take the claim: one that was restored may not know dimension or unit, and refuses the whole batch.
fn is_claimable(routes: &Routes, choice: &Choice) -> bool {
    let is_known = |dimension| routes.dimension(dimension).is_some();
    let target = match &choice.target {
        Target::Unit(unit) => routes.book().units.contains(unit),
        Target::Follow(dimension) | Target::Group { dimension, .. } => is_known(dimension),
    };
    target && is_known(&choice.dimension)
}

fn warn_of_no_unit(dimension: &Name) {
    tracing::warn!(%dimension, "a new key has no unit to go to: none takes keys");
}

fn hash(routes: &Routes, (dimension, key): &ClaimKey) -> KeyHash {
    routes.hash(dimension.as_str().as_bytes(), &key.0)
}

/// How long a key is asked for; calls that still wait ask again.
const PATIENCE: Duration = Duration::from_secs(2);
/// While there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);
