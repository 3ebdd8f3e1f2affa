//! What operators ask of the routes: look, give keys to units, move, watch moves, drain and evacuate units, publish, forget relays.
//!
//! # Invariants
//! - O1. What changes is a commit or claim of the store: two operators at once never undo each other unseen.
//! - O2. A dry run changes nothing and says what would be done, by the same code.
//! - O3. Only a move takes a key from its owner. All else gives keys that nobody has.
//! - O4. Owners are judged by a copy that is as new as what was read in the store.
//! - O5. Who has keys by force is asked for by a person, who signs for what may be lost; nothing evacuates a unit by itself.
//!
//! # Not here
//! How a move is done (`mover`), which moves a drain takes (`mover::units`).

mod answers;
mod ask;
mod give;
mod looked;
mod moves;
mod provisional;
mod publish;
#[cfg(test)]
mod tests;
mod undo;
mod unit_answers;
mod units;

use std::sync::Arc;
use std::time::Duration;

pub use answers::{
    Answer, BookRow, ClaimRow, Conflict, Given, History, How, Imported, KeyRow, LeaseRow, MoveRow, NodeRow, Plan,
    PlannedNode, ProvisionalRow, ProvisionalRows, Published, Refusal, RelayRow, Status, Undone,
};
pub use ask::{Command, DrainAsk, EvacuateAsk, GiveAsk, IMPORT_MAX, ImportRow, MoveAsk, ReturnAsk, Undo, Which};
pub use unit_answers::{Fence, Fenced, ShareRow, UnitAct, UnitPlan, UnitRow};

use super::claims::Claims;
use super::store::{Store, StoreError};
use crate::model::{ANY_KEY, Name, Place, RoutePolicy};
use crate::routing;
use crate::routing::lease::{LeaseState, is_expired};
use crate::routing::record::{Book, Change, KeyBytes, Lease, NodeId, OpId, Record, RecordId, RelayId, State};

/// Answers operators. A clone asks the same store.
#[derive(Clone)]
pub struct Operator(Arc<Parts>);

/// How calls of a service and method, by name, are routed.
pub type RoutePolicies = Arc<dyn Fn(Option<&str>, Option<&str>) -> RoutePolicy + Send + Sync>;

/// What an [`Operator`] works with.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// This relay's copy.
    pub routing: routing::Handle,
    /// This relay.
    pub place: Place,
    /// What the configuration of this relay would publish, as it is now.
    pub configured: Arc<dyn Fn() -> Book + Send + Sync>,
    /// How the relay stands with the store now.
    pub view: Arc<dyn Fn() -> View + Send + Sync>,
    /// Longest time an admitted write may still run after its relay lost the store.
    pub in_flight_max: Duration,
    /// Longest wait for this relay's copy to be as new as the store, such as [`COPY_WAIT`].
    pub copy_wait: Duration,
    /// What this relay has put somewhere without the store.
    pub claims: Claims,
    /// How calls of a service and method, by name, are routed.
    pub route_policy: RoutePolicies,
}

/// How a relay stands with its route store.
#[derive(Clone, Debug)]
pub struct View {
    /// Where the routes are kept, such as `embedded at a/a-1`.
    pub store: String,
    /// Nothing was heard of the store for seconds.
    pub is_stale: bool,
    /// Why the configuration that is in its file now is not the one that this relay goes by; `None` if it is.
    pub unread: Option<String>,
    /// What the session allows.
    pub lease: LeaseState,
    /// The time of the clock of leases.
    pub now: Duration,
}

/// Why an operator is told no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The store cannot be reached.
    #[error(
        "the route store is away: {0}. Calls go on by the copies that relays have. See whether the relay that \
         `routes.authority` names, or etcd, runs and can be reached, then ask again; a change may have been done all the same, \
         so look first"
    )]
    Away(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(StoreError),
    /// What was asked for cannot be done; says what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<StoreError> for OperatorError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(why) => Self::Away(why),
            StoreError::Broken(why) => Self::Refused(why),
            error => Self::Store(error),
        }
    }
}

impl From<OperatorError> for Answer {
    fn from(error: OperatorError) -> Self {
        let detail = error.to_string();
        match error {
            OperatorError::Refused(_) => Self::Refused { detail },
            OperatorError::Away(_) | OperatorError::Store(_) => Self::Failed { detail },
        }
    }
}

impl Operator {
    /// With these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    /// Answers. `now` is the time in seconds since 1970, `dice` random bits for new numbers.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn answer(&self, command: Command, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        match command {
            Command::Status => Ok(Answer::Status(self.status())),
            Command::Provisional { limit } => Ok(self.provisional(limit).await),
            Command::Dismiss { dimension, key, .. } => self.dismiss((dimension, key)).await,
            Command::Get {
                dimension,
                key,
                service,
                method,
            } => {
                let policy = match service {
                    Some(service) => (self.0.route_policy)(Some(&service), method.as_deref()),
                    None => ANY_KEY.clone(),
                };
                self.get(dimension, key, &policy).await
            }
            Command::History { dimension, key, limit } => self.history(dimension, key, limit).await,
            Command::Export => self.export().await,
            Command::Book => self.book().await,
            Command::Moves { id } => self.moves(id, now).await,
            Command::Relays => self.relays().await,
            Command::Move(ask) => self.start(ask, now, dice).await,
            Command::Abort { id, .. } => self.abort(id, OpId(dice)).await,
            Command::Undo(ask) => self.undo(ask, now, dice).await,
            Command::Units { unit } => self.units(unit, now).await,
            Command::Drain(ask) => self.drain(ask, now, dice).await,
            Command::Evacuate(ask) => self.evacuate(ask, now, dice).await,
            Command::Return(ask) => self.give_back(ask, now, dice).await,
            Command::Claim(ask) => self.give(ask, false, dice).await,
            Command::Set(ask) => self.give(ask, true, dice).await,
            Command::Import { rows, dry_run, who } => self.import(rows, dry_run, &who, dice).await,
            Command::Forget { relay, is_stopped, .. } => self.forget(relay, is_stopped).await,
            Command::Publish { dry_run, previous, .. } => self.publish(previous, dry_run, OpId(dice)).await,
        }
    }

    /// By the relay's own copy: an answer even while the store is away.
    fn status(&self) -> Status {
        let view = (self.0.view)();
        let table = self.0.routing.table();
        let routes = table.routes();
        let dimensions = routes.map(|routes| {
            let row = |spec: &routing::record::DimensionSpec| LeaseRow {
                dimension: spec.name.clone(),
                lease: spec.owner_lease,
                admits: view.lease.admits(spec.owner_lease, routes.rev(), view.now),
            };
            routes.book().dimensions.iter().map(row).collect()
        });
        Status {
            store: view.store,
            epoch: routes.map(|routes| routes.epoch()),
            is_stale: view.is_stale,
            session: view.lease.session(),
            dimensions: dimensions.unwrap_or_default(),
            overrides: routes.map_or(0, |routes| routes.overrides_len()),
            moves: routes.map_or_else(Vec::new, |routes| routes.moves().map(|work| work.id).collect()),
            under_way: routes.map_or(0, |routes| routes.moving().count()),
        }
    }

    /// Who owns a key, with what the store has about it.
    async fn get(&self, dimension: Name, key: KeyBytes, policy: &RoutePolicy) -> Result<Answer, OperatorError> {
        let looked = self.look(&[(dimension.clone(), key.clone())]).await?;
        let explanation = looked.explain((&dimension, &key), policy, &self.0.place.unit);
        Ok(Answer::Key(Box::new(KeyRow {
            node: looked.node(&dimension, &key).map(|(node, rev)| NodeRow::new(node, rev)),
            claim: looked.claim(&dimension, &key).map(ClaimRow::from),
            dimension,
            key,
            explanation,
        })))
    }

    async fn history(&self, dimension: Name, key: KeyBytes, limit: usize) -> Result<Answer, OperatorError> {
        let (_, claims) = self.store().claims(vec![(dimension.clone(), key.clone())]).await?;
        let id = RecordId::Node(NodeId::Key { dimension, key });
        let changes = self.store().history(id, limit.clamp(1, HISTORY_MAX)).await?;
        Ok(Answer::History(History {
            nodes: changes.into_iter().filter_map(node_of).collect(),
            claim: claims.into_iter().flatten().next().map(ClaimRow::from),
        }))
    }

    async fn export(&self) -> Result<Answer, OperatorError> {
        let snapshot = self.store().snapshot().await?;
        let mut nodes: Vec<_> = snapshot.changes.into_iter().filter_map(node_of).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Answer::Nodes(nodes))
    }

    async fn book(&self) -> Result<Answer, OperatorError> {
        let Some((book, rev)) = self.read_book().await? else {
            let text = "nothing is published yet; `strait route publish` does it";
            return Err(OperatorError::Refused(text.to_owned()));
        };
        let rules = book.rules.iter().map(|(id, rule)| NodeId::Rule {
            dimension: rule.dimension.clone(),
            rule: *id,
        });
        let ids: Vec<_> = rules.map(RecordId::Node).collect();
        let mut moved = Vec::new();
        for some in ids.chunks(READ_AT_ONCE) {
            let reading = self.store().read(some.to_vec()).await?;
            moved.extend(reading.found.into_iter().flatten().filter_map(node_of));
        }
        moved.retain(|row: &NodeRow| row.state != State::Tombstone);
        Ok(Answer::Book(Box::new(BookRow { rev, book, moved })))
    }

    async fn relays(&self) -> Result<Answer, OperatorError> {
        let standing = self.store().standing(None).await?;
        let mut rows: Vec<_> = standing.into_iter().map(RelayRow::from).collect();
        rows.sort_by(|a, b| a.relay.cmp(&b.relay));
        Ok(Answer::Relays(rows))
    }

    /// Whoever forgets a relay stops waiting for it, so it must not admit writes any more.
    async fn forget(&self, relay: RelayId, is_stopped: bool) -> Result<Answer, OperatorError> {
        let standing = self.store().standing(Some(relay.unit.clone())).await?;
        let row = standing.into_iter().find(|row| row.relay == relay);
        let row = row.ok_or_else(|| {
            OperatorError::Refused(format!("relay {relay} is not known; `strait route relays` lists them"))
        })?;
        if row.silent_for.is_some_and(|silent| silent < ALIVE) {
            let text = format!("relay {relay} is alive; stop it first, it says good-bye by itself");
            return Err(OperatorError::Refused(text));
        }
        if !is_stopped {
            self.check_leases(&relay, row.silent_for).await?;
        }
        self.store().forget(relay).await?;
        Ok(Answer::Done)
    }

    /// Whether a relay that says nothing has surely stopped admitting writes (R-D7).
    async fn check_leases(&self, relay: &RelayId, silent_for: Option<Duration>) -> Result<(), OperatorError> {
        let book = self.read_book().await?.map(|(book, _)| book).unwrap_or_default();
        let longest = book.dimensions.iter().max_by_key(|spec| spec.owner_lease);
        let Some(longest) = longest else { return Ok(()) };
        let advice = "make sure that its process has ended, then forget it with --stopped";
        let text = match longest.owner_lease {
            Lease::Infinite => format!(
                "relay {relay} may admit writes of dimension {} for as long as it runs (owner_lease = \"infinite\"); {advice}",
                longest.name
            ),
            Lease::Seconds(seconds) => {
                let needed = Duration::from_secs(seconds.into()) + self.0.in_flight_max;
                if is_expired(silent_for, longest.owner_lease, self.0.in_flight_max) {
                    return Ok(());
                }
                format!(
                    "relay {relay} may still admit writes until it was silent for {}; wait for that, or {advice}",
                    humantime::format_duration(needed)
                )
            }
        };
        Err(OperatorError::Refused(text))
    }

    /// What is published, and since when.
    async fn read_book(&self) -> Result<Option<(Book, routing::record::Rev)>, OperatorError> {
        let reading = self.store().read(vec![RecordId::Book]).await?;
        Ok(reading
            .found
            .into_iter()
            .flatten()
            .find_map(|change| match change.record {
                Some(Record::Book(book)) => Some((book, change.rev)),
                _ => None,
            }))
    }
}

fn node_of(change: Change) -> Option<NodeRow> {
    match change.record {
        Some(Record::Node(node)) => Some(NodeRow::new(node, change.rev)),
        _ => None,
    }
}

/// How long the copy of a relay that reads the feed may be behind, and more.
pub const COPY_WAIT: Duration = Duration::from_secs(3);
/// Most rows of a history.
const HISTORY_MAX: usize = 1000;
/// A relay that was heard of in this time is alive.
const ALIVE: Duration = Duration::from_secs(3);
/// Records that are read, claims that are looked up, at once.
const READ_AT_ONCE: usize = 100;
/// Keys that are pinned in one commit.
const PIN_AT_ONCE: usize = 50;
