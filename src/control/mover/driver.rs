//! Does what a [`Mover`] says: commits, calls the application, asks how relays stand.
//!
//! # Invariants
//! - D1. Every act of a plan is answered in the end, if only with "the store is away": the mover waits for it.
//! - D2. What runs at once is bounded, calls of applications by themselves: slow ones do not hold up the end of a freeze.
//! - D3. Nothing is lost when it ends in the middle: what was asked may be done or not, and any driver goes on (V1).
//!
//! # Not here
//! What to do next (`mover`), the copy (`worker`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::asking::Asking;
use super::hearing::Hearing;
use super::metrics::HookOutcome;
use super::{Act, HookCall, Hooked, Limits, Metrics, Mover, Plan, Planned, Sight, Standing, Step};
use crate::control::store::{RelayStanding, Reports, Store, StoreError};
use crate::model::Name;
use crate::routing::record::{
    Claim, Committed, Epoch, KeyBytes, Move, MoveId, MoveState, NodeId, Record, RecordId, RelayId, Rev,
};
use crate::routing::{self, Routes};
use crate::telemetry::Chain;

/// Calls the applications of units.
pub trait Hooks: Send + Sync + 'static {
    /// Asks once. May be dropped and asked again.
    fn call(&self, call: HookCall) -> HookAnswer;
}

/// What an application answers in the end.
pub type HookAnswer = Pin<Box<dyn Future<Output = Hooked> + Send>>;

/// Drives moves for one relay.
pub struct Driver {
    store: Arc<dyn Store>,
    routing: routing::Handle,
    hooks: Arc<dyn Hooks>,
    relay: RelayId,
    limits: Limits,
    mover: Mover,
    started: Instant,
    waiting: VecDeque<Act>,
    /// Calls of applications that wait, and how many are under way.
    hooks_waiting: VecDeque<HookCall>,
    hooks_asked: usize,
    /// When the freezes of nodes were asked for that are under way.
    pauses: BTreeMap<NodeId, Instant>,
    metrics: Metrics,
    asked: JoinSet<Answered>,
    /// When to ask how relays stand.
    asking: Asking,
    standing: Option<Standing>,
    /// Says when to ask at once.
    hearing: Hearing,
    /// Moves that it is known to drive.
    driven: BTreeSet<MoveId>,
}

/// What was answered.
enum Answered {
    Commit(Box<Planned>, Result<Committed, StoreError>),
    Hook(HookCall, Hooked),
    Claims(MoveId, Vec<(Name, KeyBytes)>, Epoch, Result<ClaimsRead, StoreError>),
    Standing(Rev, Result<Vec<RelayStanding>, StoreError>),
    Reports(Result<Reports, StoreError>),
}

type ClaimsRead = (Rev, Vec<Option<Claim>>);

impl Driver {
    /// For this relay; `routing` has its copy.
    pub fn new(
        store: Arc<dyn Store>,
        relay: RelayId,
        routing: routing::Handle,
        hooks: Arc<dyn Hooks>,
        limits: Limits,
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            routing,
            hooks,
            mover: Mover::new(relay.clone(), limits),
            relay,
            limits,
            started: now,
            waiting: VecDeque::new(),
            hooks_waiting: VecDeque::new(),
            hooks_asked: 0,
            pauses: BTreeMap::new(),
            metrics,
            asked: JoinSet::new(),
            asking: Asking::default(),
            standing: None,
            hearing: Hearing::default(),
            driven: BTreeSet::new(),
        }
    }

    /// Drives until it is cancelled; then it leaves moves as they are.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.routing.changes();
        loop {
            changes.borrow_and_update();
            let routes = self.routing.table().routes().cloned();
            let plan = routes.as_deref().map(|routes| self.look(routes)).unwrap_or_default();
            for act in &plan.acts {
                match act {
                    Act::Hook(call) => self.hooks_waiting.push_back(call.clone()),
                    act => self.waiting.push_back(act.clone()),
                }
            }
            let again = self.ask(routes.as_deref(), &plan);
            let timer = sleep_until(again.unwrap_or_else(|| Instant::now() + NEVER));
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(answered) = self.asked.join_next() => match answered {
                    Ok(answered) => self.take(answered),
                    Err(error) => self.begin_anew(&error),
                },
                heard = changes.changed() => {
                    if heard.is_err() {
                        return;
                    }
                    self.asking.at_once();
                }
                () = self.hearing.next() => self.asking.at_once(),
                () = timer, if again.is_some() => {}
            }
        }
    }

    fn look(&mut self, routes: &Routes) -> Plan {
        let own: BTreeSet<_> = routes
            .moves()
            .filter(|work| work.driver == self.relay)
            .map(|work| work.id)
            .collect();
        self.driven.retain(|id| own.contains(id));
        for work in routes.moves().filter(|work| own.contains(&work.id)) {
            if self.driven.insert(work.id) {
                tracing::info!(
                    work = %work.id,
                    nodes = work.nodes.len(),
                    to = %work.to,
                    "this relay drives a move"
                );
            }
        }
        let standing = self.standing.take();
        let sight = Sight {
            routes,
            standing: standing.as_ref(),
            now: self.started.elapsed(),
        };
        let plan = self.mover.look(&sight);
        self.metrics.on_look(self.mover.phases(), self.mover.lag());
        self.end_pauses(routes);
        plan
    }

    /// Pauses are over when the copy says so; of nodes that stayed they do not count.
    fn end_pauses(&mut self, routes: &Routes) {
        let metrics = &self.metrics;
        self.pauses.retain(|node, asked| {
            let Some(view) = routes.view(node).filter(|view| view.state().work().is_none()) else {
                return true;
            };
            if view.previous().is_some() || view.state().takeover().is_some() {
                metrics.on_pause(asked.elapsed());
            }
            false
        });
    }

    /// Starts what waits; answers when to look again.
    fn ask(&mut self, routes: Option<&Routes>, plan: &Plan) -> Option<Instant> {
        let routes = routes?;
        let now = Instant::now();
        self.listen(routes, now);
        while self.asked.len() < ASKED_MAX + self.hooks_asked
            && let Some(act) = self.waiting.pop_front()
        {
            self.start(act, routes);
        }
        while self.hooks_asked < HOOKS_MAX
            && let Some(call) = self.hooks_waiting.pop_front()
        {
            self.hooks_asked += 1;
            self.start(Act::Hook(call), routes);
        }
        let again = now + plan.again?;
        if !plan.wants_standing {
            return Some(again);
        }
        let due = self.asking.due(plan.again?, now.into_std());
        if due.is_some_and(|due| due <= now.into_std()) {
            self.asking.on_asked(now.into_std());
            let (store, at) = (Arc::clone(&self.store), routes.rev());
            self.asked
                .spawn(async move { Answered::Standing(at, in_time(store.standing(None)).await) });
            return Some(again);
        }
        Some(due.map_or(again, |due| again.min(due.into())))
    }

    /// Has the store say when something is reported, while nodes may wait for that.
    fn listen(&mut self, routes: &Routes, now: Instant) {
        let mut own = routes.moves().filter(|work| work.driver == self.relay);
        let is_driving = own.any(|work| work.state != MoveState::Trailing);
        if self.hearing.is_due(is_driving, now.into_std()) {
            let store = Arc::clone(&self.store);
            self.asked
                .spawn(async move { Answered::Reports(in_time(store.reports()).await) });
        }
    }

    fn start(&mut self, act: Act, routes: &Routes) {
        let store = Arc::clone(&self.store);
        match act {
            Act::Commit(planned) => {
                if let (Step::Freeze, RecordId::Node(node)) = (planned.step, &planned.about) {
                    self.pauses.insert(node.clone(), Instant::now());
                }
                self.asked.spawn(async move {
                    let committed = in_time(store.commit(planned.commit.clone())).await;
                    Answered::Commit(planned, committed)
                });
            }
            Act::Hook(call) => {
                let answer = self.hooks.call(call.clone());
                self.asked.spawn(async move {
                    let late = || Hooked::NotYet("no answer in time".to_owned());
                    let hooked = timeout(HOOK_MAX, answer).await.unwrap_or_else(|_| late());
                    Answered::Hook(call, hooked)
                });
            }
            Act::Claims(by, keys) => {
                let epoch = routes.epoch();
                self.asked.spawn(async move {
                    let claims = in_time(store.claims(keys.clone())).await;
                    Answered::Claims(by, keys, epoch, claims)
                });
            }
        }
    }

    fn take(&mut self, answered: Answered) {
        let now = self.started.elapsed();
        match answered {
            Answered::Commit(planned, committed) => {
                tell(&planned, &committed);
                self.count(&planned, &committed);
                self.mover.on_committed(planned.commit.op, &committed, now);
            }
            Answered::Hook(call, hooked) => {
                self.hooks_asked = self.hooks_asked.saturating_sub(1);
                self.metrics.on_hook(call.hook, outcome_of(&hooked));
                if let Hooked::Refused(_) = hooked {
                    // What it said may name keys; it is in the record of the move.
                    tracing::warn!(work = %call.by, unit = %call.unit, hook = %call.hook, "an application refused a step of a move");
                }
                self.mover.on_hook(&call, hooked, now);
            }
            Answered::Claims(by, keys, epoch, claims) => self.mover.on_claims(by, &keys, epoch, &claims),
            Answered::Reports(reports) => self.hearing.on_opened(reports, Instant::now().into_std()),
            Answered::Standing(at, standing) => {
                self.asking.on_answered(standing.is_ok(), Instant::now().into_std());
                if let Ok(relays) = standing {
                    self.standing = Some(Standing { at, relays });
                }
            }
        }
    }

    /// A step that is done goes into the series.
    fn count(&self, planned: &Planned, committed: &Result<Committed, StoreError>) {
        let Ok(Committed::Done(_)) = committed else { return };
        match planned.step {
            Step::Commit => self.metrics.on_moved(),
            Step::Abort(why) => self.metrics.on_stayed(why),
            Step::End => {
                let ended = planned.commit.puts.iter().find_map(|record| match record {
                    Record::Move(work) => Some(work),
                    _ => None,
                });
                // What trails has ended before.
                if let Some(work) = ended.filter(|work| work.state == MoveState::Trailing || !planned.was_trailing) {
                    self.metrics.on_ended(work);
                }
            }
            _ => {}
        }
    }

    /// An answer will never come. A mover that forgets everything does no harm (V1).
    fn begin_anew(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(error = %Chain(error), "a step of a move broke off; moves are looked at anew");
        self.asked.abort_all();
        self.asked = JoinSet::new();
        self.waiting.clear();
        self.hooks_waiting.clear();
        self.hooks_asked = 0;
        self.pauses.clear();
        self.asking = Asking::default();
        self.hearing = Hearing::default();
        self.mover = Mover::new(self.relay.clone(), self.limits);
    }
}

/// Says what has become of a step; of keys nothing.
fn tell(planned: &Planned, committed: &Result<Committed, StoreError>) {
    let (work, step) = (planned.by, planned.step.as_str());
    match (committed, planned.step) {
        (Ok(Committed::Conflict { .. }), _) => {
            tracing::debug!(%work, step, "somebody else was quicker; a move looks again");
        }
        (Err(error @ (StoreError::Broken(_) | StoreError::Denied(_))), _) => {
            tracing::warn!(%work, step, error = %Chain(error), "the route store refused a step of a move");
        }
        (Err(error), _) => tracing::debug!(%work, step, error = %Chain(error), "a step of a move was not answered"),
        (Ok(Committed::Done(rev)), Step::Abort(_)) => {
            tracing::info!(%work, %rev, step, "a node of a move stays where it is");
        }
        (Ok(Committed::Done(rev)), Step::End | Step::Stop | Step::TakeOver) => {
            let ended = planned.commit.puts.iter().find_map(|record| match record {
                Record::Move(Move { moved, aborted, .. }) => Some((*moved, *aborted)),
                _ => None,
            });
            let (moved, stayed) = ended.unwrap_or_default();
            tracing::info!(%work, %rev, step, moved, stayed, "a move has come further");
        }
        (Ok(Committed::Done(rev)), _) => tracing::debug!(%work, %rev, step, "a step of a move is done"),
    }
}

fn outcome_of(hooked: &Hooked) -> HookOutcome {
    match hooked {
        Hooked::Done | Hooked::Lag(_) => HookOutcome::Done,
        Hooked::NotYet(_) => HookOutcome::NotYet,
        Hooked::Refused(_) => HookOutcome::Refused,
    }
}

/// A store that does not answer is away.
async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = || StoreError::Away("it did not answer in time".to_owned());
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| Err(late()))
}

/// What runs at once.
const ASKED_MAX: usize = 64;
/// Applications that are asked at once.
const HOOKS_MAX: usize = 32;
/// The longest that an application is waited for; it has a time of its own, which is shorter.
const HOOK_MAX: Duration = Duration::from_secs(65);
/// The longest that an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Until something happens.
const NEVER: Duration = Duration::from_secs(3600);
