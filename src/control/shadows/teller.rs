//! Writes into the record of a move that its mirror is incomplete.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shadows;
use crate::control::store::{Store, StoreError};
use crate::routing;
use crate::routing::record::{Change, Commit, Committed, Move, MoveId, OpId, Record, RecordId};
use crate::telemetry::Chain;

/// Tells whoever looks at a move that writes are missing at the other unit; once for each move, as any relay of the owner finds out.
pub struct Teller {
    store: Arc<dyn Store>,
    routing: routing::Handle,
    shadows: Shadows,
}

impl Teller {
    /// With the store of the routes.
    pub fn new(store: Arc<dyn Store>, routing: routing::Handle, shadows: Shadows) -> Self {
        Self {
            store,
            routing,
            shadows,
        }
    }

    /// Tells until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shadows.0.missed.notified() => {}
            }
            while let Some(by) = self.first() {
                match self.tell(by).await {
                    Ok(true) => self.on_told(by),
                    // Its driver has written meanwhile.
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(error = %Chain(&error), "cannot say that a mirror is incomplete; trying again");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(PAUSE) => {}
                        }
                    }
                }
            }
        }
    }

    fn first(&self) -> Option<MoveId> {
        self.shadows.state().untold.first().copied()
    }

    fn on_told(&self, by: MoveId) {
        let table = self.routing.table();
        let mut state = self.shadows.state();
        state.untold.remove(&by);
        state.told.insert(by);
        // Moves that are over are missed no more.
        if let Some(routes) = table.routes() {
            state
                .told
                .retain(|told| *told == by || routes.moves().any(|work| work.id == *told));
        }
    }

    /// Whether the record says it, or there is none.
    async fn tell(&self, by: MoveId) -> Result<bool, StoreError> {
        let reading = self.store.read(vec![RecordId::Move(by)]).await?;
        let found = reading.found.into_iter().flatten().next();
        let Some(Change {
            rev,
            record: Some(Record::Move(work)),
            ..
        }) = found
        else {
            return Ok(true);
        };
        if work.shadow_incomplete {
            return Ok(true);
        }
        let work = Move {
            shadow_incomplete: true,
            ..work
        };
        tracing::warn!(r#move = %by, "the mirror of a move is incomplete: a write has no shadow at the other unit");
        let commit = Commit {
            op: OpId(fastrand::u128(..)),
            compares: vec![(RecordId::Move(by), rev)],
            puts: vec![Record::Move(work)],
            removes: Vec::new(),
        };
        Ok(matches!(self.store.commit(commit).await?, Committed::Done(_)))
    }
}

/// After the store was away.
const PAUSE: Duration = Duration::from_secs(1);
