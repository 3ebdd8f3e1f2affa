//! The owner's gate of the queue: whose the keys of messages are, and when nothing of a key that is about to move waits here any
//! more.
//!
//! # Path
//! The thread of the queue asks [`KeyOwners`] about each message of a topic that goes to the owner of its key. The keeper of the
//! routes asks [`QueueGate`] to wait for a freeze, and before it until there is little left to wait for then (S2); it asks the queue, and
//! reports what the queue answers.
//!
//! # Invariants
//! - G6. The queue is asked about a freeze only when the copy that has it is in force: what comes later finds the key frozen, so
//!   an answer stays true.
//! - G7. A question whose freeze is over is taken back: whoever asks again asks anew.
//! - G8. A relay that may not admit calls of a key takes no messages of it either: they come again.
//!
//! # Not here
//! What waits (`queue`), calls (`gate`), without a route store there is no gate.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::control::claims::Claims;
use crate::control::clock::boot_time;
use crate::control::keeper::GateId;
use crate::crossing;
use crate::model::{ANY_KEY, Key, RouteHints, UnitId};
use crate::queue::api::{Input, Output, Question, Ticket};
use crate::queue::{self, Keys, Owner, Ownership, Route};
use crate::routing::gate::Drain;
use crate::routing::record::{Lease, NodeId, Rev, State};
use crate::routing::{self, Decision, RouteError, RouteTable, Routes, Source, Standing};

/// What the gate of the queue is made of.
pub struct QueueGateParts {
    /// This unit.
    pub unit: UnitId,
    /// The table.
    pub routing: routing::Handle,
    /// Knows who has keys that nothing else was decided about.
    pub claims: Option<Claims>,
    /// The queue.
    pub queue: queue::Handle,
    /// What the queue answers: `queue::Outlets::routes`.
    pub answers: crossing::Receiver<Output>,
    /// Freezes to be waited for.
    pub drains: mpsc::Receiver<Drain>,
    /// Where those are reported that nothing waits for any more.
    pub drained: mpsc::Sender<(GateId, Drain)>,
}

/// The gate of the queue.
pub struct QueueGate {
    parts: QueueGateParts,
    asked: BTreeMap<u64, Drain>,
    last: u64,
    /// The table that the queue was told of last.
    version: u64,
}

/// Says whose a key is by the routes in force.
#[derive(Clone)]
pub struct KeyOwners {
    routing: routing::Handle,
    unit: UnitId,
    claims: Option<Claims>,
}

/// The keys that go through a node, as the copy says that has it under way or frozen.
struct Held {
    table: Arc<RouteTable>,
    unit: UnitId,
    claims: Option<Claims>,
    drain: Drain,
    is_frozen: bool,
}

impl QueueGate {
    /// The gate of a queue.
    pub fn new(parts: QueueGateParts) -> Self {
        let version = parts.routing.table().version();
        Self {
            parts,
            asked: BTreeMap::new(),
            last: 0,
            version,
        }
    }

    /// Works until `stop`, or the queue or the keeper has ended.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.parts.routing.changes();
        let mut answers = VecDeque::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                drain = self.parts.drains.recv() => match drain {
                    Some(drain) => self.ask(drain),
                    None => return,
                },
                goes_on = self.parts.answers.take(&mut answers) => {
                    for answer in answers.drain(..) {
                        self.report(&answer).await;
                    }
                    if !goes_on {
                        return;
                    }
                }
                news = changes.changed() => match news {
                    Ok(()) => self.on_routes(),
                    Err(_) => return,
                },
            }
        }
    }

    /// A freeze is to be waited for; one of the same node and work before is forgotten.
    fn ask(&mut self, drain: Drain) {
        self.withdraw(|other| (other.by, &other.node) == (drain.by, &drain.node));
        let table = self.parts.routing.table();
        if !is_in_force(&table, &drain) {
            return;
        }
        self.last += 1;
        let is_frozen = state_of(&table, &drain).is_some_and(State::is_frozen);
        let keys = Held {
            table,
            unit: self.parts.unit.clone(),
            claims: self.parts.claims.clone(),
            drain: drain.clone(),
            is_frozen,
        };
        self.parts.queue.send(Input::Ask(Question {
            ticket: ticket(self.last),
            keys: Arc::new(keys),
            at_most: if is_frozen { 0 } else { FEW },
        }));
        self.asked.insert(self.last, drain);
    }

    async fn report(&mut self, answer: &Output) {
        if let Output::Undelivered { ticket, .. } = answer
            && let Some(drain) = self.asked.remove(&ticket.number)
        {
            // Without a keeper nobody wants to know.
            let _ = self.parts.drained.send((GateId::Queue, drain)).await;
        }
    }

    /// Other routes may be in force, or something else has changed that calls and publications wait for.
    fn on_routes(&mut self) {
        let table = self.parts.routing.table();
        // Publications wait for claims and the lease too.
        self.parts.queue.send(Input::Routes);
        if table.version() != self.version {
            self.version = table.version();
            self.withdraw(|drain| !is_in_force(&table, drain));
        }
    }

    fn withdraw(&mut self, which: impl Fn(&Drain) -> bool) {
        let queue = &self.parts.queue;
        self.asked.retain(|number, drain| {
            let goes = which(drain);
            if goes {
                queue.send(Input::Withdraw(ticket(*number)));
            }
            !goes
        });
    }
}

impl KeyOwners {
    /// By these routes and claims, for a relay of this unit.
    pub fn new(routing: routing::Handle, unit: UnitId, claims: Option<Claims>) -> Self {
        Self { routing, unit, claims }
    }

    /// Asks for an owner of a key that has none.
    fn want(&self, error: &RouteError, hints: &RouteHints) {
        if let (RouteError::Unclaimed { .. }, Some(claims)) = (error, &self.claims) {
            claims.ask(hints, &ANY_KEY);
        }
    }

    /// Whether this relay may still act for the owner of a key (G8).
    fn admits(&self, routes: &Routes, decision: &Decision<'_>) -> bool {
        let dimension = decision.dimension.and_then(|name| routes.dimension(name));
        let lease = dimension.map_or(Lease::default(), |dimension| dimension.owner_lease);
        self.routing.lease().admits(lease, routes.rev(), boot_time())
    }
}

impl Ownership for KeyOwners {
    fn of(&self, key: &Key) -> Owner {
        let table = self.routing.table();
        let hints = hints(key);
        let resolved = table.resolve(&hints, &ANY_KEY, &self.unit, &self.claims);
        if !table.has_store() {
            return match resolved {
                Ok(decision) if *decision.unit == self.unit => Owner::Ours,
                Ok(decision) => Owner::Settings(decision.unit.clone()),
                Err(_) => Owner::Unknown,
            };
        }
        match (resolved, table.routes()) {
            // A guess takes no message away from here.
            (Ok(decision), _) if *decision.unit != self.unit && decision.source == Source::Provisional => Owner::Frozen,
            (Ok(decision), _) if *decision.unit != self.unit => Owner::Other {
                unit: decision.unit.clone(),
                epoch: decision.epoch,
            },
            (Ok(decision), Some(routes)) if decision.standing == Standing::Open && self.admits(routes, &decision) => {
                Owner::Ours
            }
            (Ok(_), _) => Owner::Frozen,
            (Err(error), _) if is_for_now(&error) => {
                self.want(&error, &hints);
                Owner::Frozen
            }
            (Err(_), _) => Owner::Unknown,
        }
    }

    fn route(&self, key: &Key) -> Route {
        let table = self.routing.table();
        let hints = hints(key);
        match table.resolve(&hints, &ANY_KEY, &self.unit, &self.claims) {
            Ok(decision) => {
                // The rules of the settings know no epochs.
                let epoch = table.routes().map_or(0, |_| decision.epoch);
                Route::To(decision.unit.clone(), epoch)
            }
            // It waits for the owner, or for whoever takes over later.
            Err(RouteError::NobodyTookOver { unit, epoch }) => Route::To(unit, epoch.0),
            Err(error) if is_for_now(&error) => {
                self.want(&error, &hints);
                Route::Later
            }
            Err(_) => Route::Nowhere,
        }
    }

    fn is_evacuated(&self, unit: &UnitId) -> bool {
        let table = self.routing.table();
        let view = table
            .routes()
            .and_then(|routes| routes.view(&NodeId::Unit(unit.clone())));
        view.is_some_and(|view| matches!(view.state(), State::Evacuated { .. }))
    }
}

impl fmt::Debug for KeyOwners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyOwners").finish_non_exhaustive()
    }
}

impl Keys for Held {
    /// A key of which it cannot be told counts if the node is frozen: then the move takes longer, or is given up. Before, it does not:
    /// nothing is decided by that. What the same move, or another one, does with other nodes is none of its business: their messages may
    /// stick.
    fn contains(&self, key: &Key) -> bool {
        let hints = hints(key);
        let resolved = self
            .table
            .resolve_with_trail(&hints, &ANY_KEY, &self.unit, &self.claims);
        match (resolved, &self.drain.node) {
            // A unit is fenced as a whole, but only what it owns: not what is here of other units' keys.
            (Ok((decision, _)), NodeId::Unit(_)) => match decision.standing {
                Standing::Open => false,
                // Of several freezes on the way of a key the latest one is named.
                Standing::Frozen { by, rev } => by == self.drain.by || rev > self.drain.rev,
            },
            (Ok((_, trail)), _) => {
                let routes = self.table.routes();
                routes.is_some_and(|routes| routes.through(&self.drain.node, ANY_REV).passes(&trail))
            }
            (Err(error), _) => self.is_frozen && is_for_now(&error),
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.drain).finish()
    }
}

/// Whether a copy still has what is waited for.
fn is_in_force(table: &RouteTable, drain: &Drain) -> bool {
    state_of(table, drain).is_some()
}

/// The state of a node, if it is still the one that is waited in.
fn state_of<'a>(table: &'a RouteTable, drain: &Drain) -> Option<&'a State> {
    let node = table.routes().and_then(|routes| routes.node(&drain.node));
    let node = node.filter(|node| node.rev == drain.rev && node.state.work() == Some(drain.by));
    node.map(|node| &node.state)
}

/// Whether it may be known later who owns the key.
fn is_for_now(error: &RouteError) -> bool {
    matches!(
        error,
        RouteError::Behind { .. }
            | RouteError::NoCopy
            | RouteError::NobodyTookOver { .. }
            | RouteError::Unclaimed { .. }
    )
}

fn hints(key: &Key) -> RouteHints {
    RouteHints {
        keys: vec![key.clone()],
        ..RouteHints::default()
    }
}

fn ticket(number: u64) -> Ticket {
    Ticket {
        shard: Ticket::ROUTES,
        number,
    }
}

/// So many messages of a node may wait when it is frozen: they are delivered within its budget, unless each takes long.
const FEW: u64 = 16;
/// Later than any copy: whatever a key was resolved by, it counts.
const ANY_REV: Rev = Rev(u64::MAX);
