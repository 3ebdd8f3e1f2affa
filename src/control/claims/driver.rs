//! Lets the desk work: takes what shards want, asks the store, and tells the shards that there is news.
//!
//! # Invariants
//! - V1. Where a new key goes is decided by the copy that is in force when it is asked for; the claim names that copy's epoch.
//! - V2. What shards want and no room is for is dropped: whoever waits asks again.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Answer, Ask, Batch, BatchId, ClaimKey, Desk, Known, Limits, Outcome, Output, Waiter};
use crate::control::clock::boot_time;
use crate::control::store::{Store, StoreError};
use crate::model::{MissingKey, Name, RouteHints, RoutePolicy, UnitId};
use crate::routing::placement::{self, NewKey, Surroundings};
use crate::routing::record::{Claim, KeyBytes, OpId, Placement, State, Target};
use crate::routing::{self, Evidence, Found, KeyHash, RouteError, RouteTable, Routes};

/// What a shard knows of claims, and its way to ask for more. Clones share both.
#[derive(Clone, Debug)]
pub struct Claims {
    known: Arc<OnceLock<Known>>,
    wanted: mpsc::Sender<Wanted>,
}

/// What shards want to know.
#[derive(Debug)]
pub struct Wanted(Want);

#[derive(Debug)]
enum Want {
    /// An owner for the key of a call or message that has none yet; for one that only reads, whether there is one.
    Owner(RouteHints, RoutePolicy),
    /// Who has this key, if anybody has it.
    Holder(ClaimKey, oneshot::Sender<Outcome>),
}

impl Claims {
    /// With the end at which [`Driver`] takes what is wanted.
    pub fn new() -> (Self, mpsc::Receiver<Wanted>) {
        let (wanted, asked) = mpsc::channel(WANTED_MAX);
        let known = Arc::default();
        (Self { known, wanted }, asked)
    }

    /// Wants an owner for the key of these hints that routes the call; if it only reads, wants to know whether there is one. When
    /// that is known, the routes are said to have changed; if it takes too long, ask again (V2).
    pub fn ask(&self, hints: &RouteHints, policy: &RoutePolicy) {
        let hints = RouteHints {
            keys: hints.keys.clone(),
            class: hints.class.clone(),
            ..RouteHints::default()
        };
        let policy = RoutePolicy {
            missing_key: MissingKey::Reject,
            ..policy.clone()
        };
        let _ = self.wanted.try_send(Wanted(Want::Owner(hints, policy)));
    }

    /// Asks who has a key and claims nothing. An end without an answer is as [`Outcome::Full`] (V2).
    pub fn look_up(&self, key: ClaimKey) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        let _ = self.wanted.try_send(Wanted(Want::Holder(key, reply)));
        answer
    }
}

impl Evidence for Claims {
    fn claim(&self, _: &Name, _: &[u8], hash: KeyHash) -> Found {
        let Some(known) = self.known.get() else {
            return Found::Unasked;
        };
        match known.get(hash) {
            Some(holder) => Found::Known(holder.into()),
            None if known.free.contains(hash, boot_time()) => Found::Nothing,
            None => Found::Unasked,
        }
    }
}

/// Asks the store for the owners of keys.
pub struct Driver {
    store: Arc<dyn Store>,
    routing: routing::Handle,
    unit: UnitId,
    claims: Claims,
    wanted: mpsc::Receiver<Wanted>,
    known_max: usize,
    desk: Option<Desk>,
    asked: JoinSet<(BatchId, Answer)>,
    waiters: u64,
    /// Those who look keys up and have no answer yet; the desk bounds them.
    readers: HashMap<Waiter, oneshot::Sender<Outcome>>,
}

impl Driver {
    /// For a relay of this unit. Remembers at most `known_max` keys.
    pub fn new(
        store: Arc<dyn Store>,
        routing: routing::Handle,
        unit: UnitId,
        (claims, wanted): (Claims, mpsc::Receiver<Wanted>),
        known_max: usize,
    ) -> Self {
        Self {
            store,
            routing,
            unit,
            claims,
            wanted,
            known_max,
            desk: None,
            asked: JoinSet::new(),
            waiters: 0,
            readers: HashMap::new(),
        }
    }

    /// Works until `stop`. Needs a tokio runtime.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wake = self.desk.as_ref().and_then(Desk::wake_at);
            let pause = wake.map_or(IDLE, |at| at.saturating_sub(boot_time()));
            tokio::select! {
                () = stop.cancelled() => return,
                wanted = self.wanted.recv() => match wanted {
                    Some(Wanted(Want::Owner(hints, policy))) => self.want(&hints, &policy),
                    Some(Wanted(Want::Holder(key, reply))) => self.look_up(key, reply),
                    None => return,
                },
                Some(answered) = self.asked.join_next() => {
                    if let Ok((id, answer)) = answered {
                        self.on_answered(id, answer);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            self.tick();
        }
    }

    /// Claims the key that the call waits for, or asks who has it (V1).
    fn want(&mut self, hints: &RouteHints, policy: &RoutePolicy) {
        let table = self.routing.table();
        let Some(routes) = table.routes() else { return };
        let Some(ask) = self.ask_for(&table, routes, (hints, policy)) else {
            return;
        };
        if let (_, Some(outcome)) = self.ask(routes, ask) {
            self.tell(&outcome);
        }
    }

    /// Tells who has a key, now or when the store has said so.
    fn look_up(&mut self, (dimension, key): ClaimKey, reply: oneshot::Sender<Outcome>) {
        let table = self.routing.table();
        let Some(routes) = table.routes() else { return };
        match self.ask(routes, Ask::Read(dimension, key)) {
            // Whoever asked may have left.
            (_, Some(outcome)) => drop(reply.send(outcome)),
            (waiter, None) => drop(self.readers.insert(waiter, reply)),
        }
    }

    fn ask(&mut self, routes: &Routes, ask: Ask) -> (Waiter, Option<Outcome>) {
        let now = boot_time();
        let desk = self.desk.get_or_insert_with(|| {
            let known = self
                .claims
                .known
                .get_or_init(|| Known::new(self.known_max, routes.seed()));
            Desk::new(Limits::default(), known.clone())
        });
        desk.applied(routes.epoch());
        self.waiters += 1;
        let waiter = Waiter(self.waiters);
        (waiter, desk.ask(ask, waiter, now + PATIENCE, now))
    }

    fn ask_for(
        &self,
        table: &RouteTable,
        routes: &Routes,
        (hints, policy): (&RouteHints, &RoutePolicy),
    ) -> Option<Ask> {
        let unclaimed = table.resolve(hints, policy, &self.unit, &self.claims).err()?;
        let RouteError::Unclaimed { dimension, .. } = unclaimed else {
            return None;
        };
        let key = hints.keys.iter().find(|key| key.dimension == dimension.as_str())?;
        if policy.reads {
            return Some(Ask::Read(dimension, KeyBytes(key.key.clone())));
        }
        let Placement::Claim(rules) = &routes.dimension(&dimension)?.placement else {
            return None;
        };
        let new = NewKey {
            dimension: &dimension,
            key: &key.key,
            class: hints.class.as_ref(),
        };
        let call = Call { routes, hints };
        let placed = placement::place(rules, new, &self.unit, &call).map(|placed| placed.target);
        // The unit is drained or evacuated, its services still work: their new keys go to the others.
        let active = routes.units().filter(|(_, state)| **state == State::Active);
        let others = || placement::fallback(&dimension, &key.key, active.map(|(unit, _)| unit));
        let Some(target) = placed.or_else(|| others().cloned().map(Target::Unit)) else {
            tracing::warn!(%dimension, "a new key has no unit to go to: none takes keys");
            return None;
        };
        Some(Ask::Write(Claim {
            key: KeyBytes(key.key.clone()),
            dimension,
            target,
            base: routes.epoch(),
            op: OpId(fastrand::u128(..)),
            by: self.unit.clone(),
        }))
    }

    fn on_answered(&mut self, id: BatchId, answer: Answer) {
        let mut outputs = Vec::new();
        if let Some(desk) = &mut self.desk {
            desk.answered(id, answer, boot_time(), fastrand::u64(..), &mut outputs);
        }
        self.act(outputs);
    }

    fn tick(&mut self) {
        let mut outputs = Vec::new();
        if let Some(desk) = &mut self.desk {
            if let Some(routes) = self.routing.table().routes() {
                desk.applied(routes.epoch());
            }
            desk.tick(boot_time(), &mut outputs);
        }
        self.act(outputs);
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
                    match self.readers.remove(&waiter) {
                        Some(reply) => drop(reply.send(outcome)),
                        None => told |= is_news(&outcome),
                    }
                }
            }
        }
        if told {
            self.routing.wake();
        }
    }

    fn tell(&self, outcome: &Outcome) {
        if is_news(outcome) {
            self.routing.wake();
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

/// Calls that want an owner for their key and have not been looked at yet.
const WANTED_MAX: usize = 10_000;
/// How long a key is asked for; calls that still wait ask again.
const PATIENCE: Duration = Duration::from_secs(2);
/// While there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);
