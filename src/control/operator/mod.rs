//! What operators ask of the routes: look, move, watch moves, forget relays.
//!
//! # Invariants
//! - O1. What changes is a commit of the store: two operators at once never undo each other unseen.
//! - O2. A dry run changes nothing and says what would be done, by the same code.
//!
//! # Not here
//! How a move is done (`mover`), whole units (`units`).

mod answers;
mod ask;
mod moves;

use std::sync::Arc;

pub use answers::{Answer, ClaimRow, KeyRow, MoveRow, NodeRow, Plan, PlannedNode, RelayRow};
pub use ask::{Command, MoveAsk, Which};

use super::store::{Store, StoreError};
use crate::model::{Key, MissingKey, Name, Place, RouteHints};
use crate::routing;
use crate::routing::record::{Change, Claim, KeyBytes, NodeId, OpId, Record, RecordId, RelayId, Target};

/// Answers operators. A clone asks the same store.
#[derive(Clone)]
pub struct Operator {
    store: Arc<dyn Store>,
    routing: routing::Handle,
    place: Place,
}

/// Why an operator is told no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for cannot be done; says what to do.
    #[error("{0}")]
    Refused(String),
}

impl Operator {
    /// For this relay and its store.
    pub fn new(store: Arc<dyn Store>, routing: routing::Handle, place: Place) -> Self {
        Self { store, routing, place }
    }

    /// Answers. `now` is the time in seconds since 1970, `dice` random bits for new numbers.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn answer(&self, command: Command, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        match command {
            Command::Get { dimension, key } => self.get(dimension, key).await.map(|row| Answer::Key(Box::new(row))),
            Command::History { dimension, key, limit } => self.history(dimension, key, limit).await,
            Command::Export => self.export().await,
            Command::Moves { id } => self.moves(id).await,
            Command::Relays => self.relays().await,
            Command::Move(ask) => self.start(ask, now, dice).await,
            Command::Abort { id, .. } => self.abort(id, OpId(dice)).await,
            Command::Claim {
                dimension, key, unit, ..
            } => self.claim(dimension, key, Target::Unit(unit), OpId(dice)).await,
            Command::Forget { relay, .. } => self.forget(relay).await,
        }
    }

    /// Who owns a key, with what the store has about it.
    async fn get(&self, dimension: Name, key: KeyBytes) -> Result<KeyRow, OperatorError> {
        let id = NodeId::Key {
            dimension: dimension.clone(),
            key: key.clone(),
        };
        let reading = self.store.read(vec![RecordId::Node(id)]).await?;
        let (_, claims) = self.store.claims(vec![(dimension.clone(), key.clone())]).await?;
        let node = reading.found.into_iter().flatten().find_map(node_of);
        let hints = RouteHints {
            keys: vec![Key {
                dimension: dimension.as_str().to_owned().into(),
                key: key.0.clone(),
            }],
            ..RouteHints::default()
        };
        let explanation = self
            .routing
            .table()
            .explain(&hints, &MissingKey::Reject, &self.place.unit, &());
        Ok(KeyRow {
            dimension,
            key,
            node,
            claim: claims.into_iter().flatten().next().map(ClaimRow::from),
            explanation,
        })
    }

    async fn history(&self, dimension: Name, key: KeyBytes, limit: usize) -> Result<Answer, OperatorError> {
        let id = RecordId::Node(NodeId::Key { dimension, key });
        let changes = self.store.history(id, limit.clamp(1, HISTORY_MAX)).await?;
        Ok(Answer::Nodes(changes.into_iter().filter_map(node_of).collect()))
    }

    async fn export(&self) -> Result<Answer, OperatorError> {
        let snapshot = self.store.snapshot().await?;
        let mut nodes: Vec<_> = snapshot.changes.into_iter().filter_map(node_of).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Answer::Nodes(nodes))
    }

    async fn relays(&self) -> Result<Answer, OperatorError> {
        let standing = self.store.standing(None).await?;
        let mut rows: Vec<_> = standing.into_iter().map(RelayRow::from).collect();
        rows.sort_by(|a, b| a.relay.cmp(&b.relay));
        Ok(Answer::Relays(rows))
    }

    /// Claims a key for a unit; a key that has an owner already stays with it.
    async fn claim(&self, dimension: Name, key: KeyBytes, target: Target, op: OpId) -> Result<Answer, OperatorError> {
        let table = self.routing.table();
        let claim = Claim {
            dimension,
            key,
            target,
            base: routing::record::Epoch(table.version()),
            op,
            by: self.place.unit.clone(),
        };
        let won = self.store.claim(vec![claim]).await?;
        let claim = won.into_iter().next();
        let claim = claim.ok_or_else(|| OperatorError::Refused("the route store gave no answer".to_owned()))?;
        if claim.op != op {
            let text = format!(
                "the key has an owner already, since unit {} claimed it; use `strait route move` to move it",
                claim.by
            );
            return Err(OperatorError::Refused(text));
        }
        Ok(Answer::Claimed(claim.into()))
    }

    async fn forget(&self, relay: RelayId) -> Result<Answer, OperatorError> {
        let standing = self.store.standing(Some(relay.unit.clone())).await?;
        let row = standing.into_iter().find(|row| row.relay == relay);
        let row = row.ok_or_else(|| {
            OperatorError::Refused(format!("relay {relay} is not known; `strait route relays` lists them"))
        })?;
        if row.silent_for.is_some_and(|silent| silent < ALIVE) {
            let text = format!("relay {relay} is alive; stop it first, it says good-bye by itself");
            return Err(OperatorError::Refused(text));
        }
        self.store.forget(relay).await?;
        Ok(Answer::Done)
    }
}

fn node_of(change: Change) -> Option<NodeRow> {
    match change.record {
        Some(Record::Node(node)) => Some(NodeRow::new(node, change.rev)),
        _ => None,
    }
}

/// Most rows of a history.
const HISTORY_MAX: usize = 1000;
/// A relay that was heard of in this time is alive.
const ALIVE: std::time::Duration = std::time::Duration::from_secs(3);
