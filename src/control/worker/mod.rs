//! Does what the [`Keeper`] wishes: reads the feed of the store, keeps the session alive, hands copies to the shards and
//! reports freezes.
//!
//! # Path
//! One task per relay, on a thread of its own: taking in a large copy must not hold up calls.
//!
//! # Invariants
//! - W1. A copy is in force at all shards before any of them is asked to wait for what is frozen in it (P4).
//! - W2. What a gate cannot take now is offered again, and what the store did not hear is reported again: a freeze is waited for
//!   until it is over, whatever was lost.
//! - W3. At an orderly end the session is closed: nobody waits for this relay any more. If calls were cut off it is not: then
//!   they are waited for like those of a relay that is gone.
//!
//! # Not here
//! What to do when (`keeper`), moving keys (`mover`), claims (`claims`).

mod metrics;
mod saved;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::metrics::Metrics;
use self::saved::SavedCopy;
use super::clock::boot_time;
use super::heard::Heard;
use super::keeper::{self, GateId, Held, Keeper, Wish};
use super::store::{Feed, Opened, Store, StoreError};
use crate::routing::gate::Drain;
use crate::routing::record::{Batch, Book, Commit, OpId, Record, RecordId, RelayId, Rev, SessionId, Snapshot};
use crate::routing::{self, Routes};

/// What the worker is made of.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// This relay.
    pub relay: RelayId,
    /// Where copies and the lease are put in force.
    pub routing: routing::Handle,
    /// Where those who admit calls and messages are asked to wait for a freeze.
    pub gates: BTreeMap<GateId, mpsc::Sender<Drain>>,
    /// Where they say that nothing runs any more.
    pub drained: mpsc::Receiver<(GateId, Drain)>,
    /// Where they say what they wait for, if that takes long.
    pub held: mpsc::Receiver<Held>,
    /// Where the copy is kept over a restart.
    pub saved: PathBuf,
    /// Published if the store is new.
    pub book: Book,
    /// Where it is noted when the store was heard of.
    pub heard: Heard,
    /// Series.
    pub metrics: Metrics,
    /// Longest time a call may run.
    pub in_flight_max: Duration,
    /// Cancelled before the stop if calls were cut off: they may go on at services, so the session is not closed.
    pub cut_off: CancellationToken,
}

/// Keeps the copy of one relay.
pub struct Worker {
    store: Arc<dyn Store>,
    relay: RelayId,
    routing: routing::Handle,
    gates: BTreeMap<GateId, mpsc::Sender<Drain>>,
    drained: mpsc::Receiver<(GateId, Drain)>,
    held: mpsc::Receiver<Held>,
    /// What gates could not take (W2).
    untaken: VecDeque<(GateId, Drain)>,
    keeper: Keeper,
    feed: Option<Feed>,
    asked: JoinSet<Answered>,
    saved: SavedCopy,
    book: Book,
    heard: Heard,
    metrics: Metrics,
    cut_off: CancellationToken,
    away: bool,
}

/// What the store answered.
enum Answered {
    Snapshot(Result<Snapshot, StoreError>),
    Feed(Result<Feed, StoreError>),
    Opened(Result<Opened, StoreError>),
    Renewed(SessionId, Result<(), StoreError>),
    Reported(Result<(), StoreError>),
    Seeded(Result<(), StoreError>),
}

impl Worker {
    /// Begins with the copy that was kept, if there is one: good for routing, not for admitting writes.
    pub fn new(parts: Parts) -> Self {
        let saved = SavedCopy::new(parts.saved);
        let copy = saved.load();
        if copy.is_some() {
            tracing::info!("calls go by the copy of the routes that was kept, until the route store answers");
        }
        let gates = parts.gates.keys().copied().collect();
        Self {
            keeper: Keeper::new(parts.relay.unit.clone(), gates, copy, parts.in_flight_max, boot_time()),
            store: parts.store,
            relay: parts.relay,
            routing: parts.routing,
            gates: parts.gates,
            drained: parts.drained,
            held: parts.held,
            untaken: VecDeque::new(),
            feed: None,
            asked: JoinSet::new(),
            saved,
            book: parts.book,
            heard: parts.heard,
            metrics: parts.metrics,
            cut_off: parts.cut_off,
            away: false,
        }
    }

    /// Works until `stop`, then closes the session. Needs a tokio runtime.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(keeper::TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for wish in self.keeper.take_wishes() {
                self.grant(wish);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(answered) = self.asked.join_next() => {
                    if let Ok(answered) = answered {
                        self.on_answered(answered);
                    }
                }
                batch = next(&mut self.feed) => self.on_batch(batch),
                Some((gate, drain)) = self.drained.recv() => self.keeper.on_drained(gate, &drain),
                Some(held) = self.held.recv() => self.keeper.on_held(held),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.end().await;
    }

    fn on_tick(&mut self) {
        let now = boot_time();
        self.keeper.tick(now);
        for _ in 0..self.untaken.len() {
            if let Some((gate, drain)) = self.untaken.pop_front() {
                self.offer(gate, drain);
            }
        }
        self.saved.tick(self.keeper.routes(), boot_time);
        let admits = self.keeper.lease().session().is_some();
        self.metrics.on_tick(admits, self.keeper.frozen());
    }

    fn grant(&mut self, wish: Wish) {
        let store = Arc::clone(&self.store);
        match wish {
            Wish::Snapshot => {
                self.feed = None;
                self.asked
                    .spawn(async move { Answered::Snapshot(store.snapshot().await) });
            }
            Wish::Watch(from) => {
                self.feed = None;
                self.asked.spawn(async move { Answered::Feed(store.watch(from).await) });
            }
            Wish::Open => {
                let relay = self.relay.clone();
                self.asked
                    .spawn(async move { Answered::Opened(store.open(relay).await) });
            }
            Wish::Renew(session) => {
                self.asked
                    .spawn(async move { Answered::Renewed(session, store.renew(session).await) });
            }
            Wish::Report(acks) => {
                self.asked
                    .spawn(async move { Answered::Reported(store.report(acks).await) });
            }
            Wish::Publish(routes) => self.publish(&routes.0),
            Wish::Lease(lease) => self.routing.set_lease(lease),
            Wish::Drain(gate, drain) => self.offer(gate, drain),
            Wish::Stale(stale) => {
                self.metrics.on_stale(stale);
                if stale && self.keeper.routes().is_some() {
                    tracing::warn!("nothing is heard from the route store; calls go by the last copy of the routes");
                } else if !stale {
                    tracing::info!("the copy of the routes is up to date");
                }
            }
        }
    }

    /// Puts a copy in force; one without a book says nothing about any key.
    fn publish(&self, routes: &Arc<Routes>) {
        self.metrics.on_copy(routes);
        if !routes.book().dimensions.is_empty() {
            self.routing.replace_routes(routes);
        }
    }

    /// Asks a gate to wait for a freeze.
    fn offer(&mut self, gate: GateId, drain: Drain) {
        let Some(sender) = self.gates.get(&gate) else { return };
        if let Err(mpsc::error::TrySendError::Full(drain)) = sender.try_send(drain) {
            self.untaken.push_back((gate, drain));
        }
    }

    fn on_answered(&mut self, answered: Answered) {
        let now = boot_time();
        match answered {
            Answered::Snapshot(Ok(snapshot)) => {
                self.heard();
                self.metrics.on_snapshot();
                if !snapshot.changes.iter().any(|change| change.id == RecordId::Book) {
                    self.seed();
                }
                self.keeper.on_snapshot(&snapshot, now);
            }
            Answered::Snapshot(Err(error)) | Answered::Feed(Err(error)) => self.on_feed_ended(&error),
            Answered::Feed(Ok(feed)) => self.feed = Some(feed),
            Answered::Opened(opened) => {
                if let Err(error) = &opened {
                    self.lost(error);
                }
                self.keeper.on_opened(&opened, now, fastrand::f64());
            }
            Answered::Renewed(session, renewed) => {
                if let Err(error) = &renewed {
                    self.lost(error);
                }
                self.keeper.on_renewed(session, &renewed, now);
            }
            Answered::Reported(reported) => self.keeper.on_reported(&reported, now),
            Answered::Seeded(Ok(())) => {}
            Answered::Seeded(Err(error)) => tracing::warn!(%error, "the rules of [routing] were not published"),
        }
    }

    fn on_batch(&mut self, batch: Option<Result<Batch, StoreError>>) {
        match batch {
            Some(Ok(batch)) => {
                self.heard();
                self.metrics.on_batch(&batch);
                self.keeper.on_batch(&batch, boot_time());
            }
            Some(Err(error)) => self.on_feed_ended(&error),
            None => self.on_feed_ended(&StoreError::Away("the feed has ended".to_owned())),
        }
    }

    fn on_feed_ended(&mut self, error: &StoreError) {
        self.feed = None;
        self.lost(error);
        self.keeper.on_feed_ended(error, boot_time(), fastrand::f64());
    }

    /// Publishes the rules of the settings in a new store; whoever comes second finds that it is done.
    fn seed(&mut self) {
        let commit = Commit {
            op: OpId(fastrand::u128(..)),
            compares: vec![(RecordId::Book, Rev::ZERO)],
            puts: vec![Record::Book(self.book.clone())],
            removes: Vec::new(),
        };
        let store = Arc::clone(&self.store);
        self.asked
            .spawn(async move { Answered::Seeded(store.commit(commit).await.map(drop)) });
    }

    /// Says once that the store is away.
    fn lost(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%error, "no answer from the route store; asking again");
        }
    }

    fn heard(&mut self) {
        self.heard.note(boot_time());
        if std::mem::replace(&mut self.away, false) {
            tracing::info!("the route store answers");
        }
    }

    async fn end(mut self) {
        self.asked.abort_all();
        self.saved.end(self.keeper.routes());
        if let Some(session) = self.keeper.lease().session() {
            self.routing.set_lease(routing::lease::LeaseState::default());
            if self.cut_off.is_cancelled() {
                return tracing::warn!(
                    "calls were cut off that services may still run; moves wait until the lease of this relay is over"
                );
            }
            let closed = tokio::time::timeout(END_LIMIT, self.store.close(session)).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::warn!("the route store did not hear that this relay ends; moves wait until its lease is over");
            }
        }
    }
}

/// The next batch, if there is a feed; else never.
async fn next(feed: &mut Option<Feed>) -> Option<Result<Batch, StoreError>> {
    match feed {
        Some(feed) => feed.recv().await,
        None => std::future::pending().await,
    }
}

const END_LIMIT: Duration = Duration::from_secs(2);
