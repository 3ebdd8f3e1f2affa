//! What a route store can do. Each implementation is linearizable: an answer is never older than the question.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::model::{Name, UnitId};
use crate::routing::record::{
    Batch, Change, Claim, Commit, Committed, Epoch, FreezeAck, KeyBytes, RecordId, RelayId, Rev, SessionId, Snapshot,
};

/// Where routes are kept.
///
/// All methods may be called again after an error: commits and claims carry operation numbers, the rest changes nothing that a
/// repetition would change again. Dropping a future leaves open whether it was done.
pub trait Store: Send + Sync + 'static {
    /// All records.
    fn snapshot(&self) -> Answer<'_, Snapshot>;
    /// What changes after `from`, without a gap: each batch begins where the one before ended. There is progress at least every
    /// [`PROGRESS`]. The feed ends with an error, [`StoreError::Compacted`] if it cannot begin at `from` any more; or without
    /// one, if the store itself has ended or the reader was too slow.
    fn watch(&self, from: Rev) -> Answer<'_, Feed>;
    /// Writes as a whole or not at all.
    fn commit(&self, commit: Commit) -> Answer<'_, Committed>;
    /// These records as they are now; `None` for those that are not there.
    fn read(&self, ids: Vec<RecordId>) -> Answer<'_, Reading>;
    /// What was written about a record, newest first, as far back as the store remembers, at most `limit`.
    fn history(&self, id: RecordId, limit: usize) -> Answer<'_, Vec<Change>>;
    /// Claims keys; a key that somebody has already stays with them. Answers who has each.
    fn claim(&self, claims: Vec<Claim>) -> Answer<'_, Vec<Claim>>;
    /// Who has these keys, and the revision this was read at.
    fn claims(&self, keys: Vec<(Name, KeyBytes)>) -> Answer<'_, (Rev, Vec<Option<Claim>>)>;
    /// Claims for a unit, some at a time, in an order that stays; those after a key. Looks at a bounded number of claims of
    /// whomever, so a page may hold none and yet not be the last.
    fn claims_of(&self, unit: UnitId, after: Option<ClaimKey>) -> Answer<'_, ClaimsPage>;
    /// Begins a life of a relay; the one before is over at once.
    fn open(&self, relay: RelayId) -> Answer<'_, Opened>;
    /// Says that a life goes on. [`StoreError::SessionOver`] if the store has given it up.
    fn renew(&self, session: SessionId) -> Answer<'_, ()>;
    /// Ends a life and forgets the relay: it admits nothing any more.
    fn close(&self, session: SessionId) -> Answer<'_, ()>;
    /// Forgets a relay that will not come back, whatever its state; for operators.
    fn forget(&self, relay: RelayId) -> Answer<'_, ()>;
    /// Reports freezes that were applied. What comes from a life that is over is ignored.
    fn report(&self, acks: Vec<FreezeAck>) -> Answer<'_, ()>;
    /// Says that something was reported, to whoever waits for that: once for all that came since it was heard last. It may end at
    /// any time, and is no substitute for looking: what was said before somebody listened is not said again.
    fn reports(&self) -> Answer<'_, Reports>;
    /// How the relays of a unit stand, or of all units.
    fn standing(&self, unit: Option<UnitId>) -> Answer<'_, Vec<RelayStanding>>;
}

/// What a store answers in the end.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Batches as they come. After an error nothing more comes. Bounded: a reader that is too slow loses it.
pub type Feed = mpsc::Receiver<Result<Batch, StoreError>>;

/// A word for each time that something was reported.
pub type Reports = mpsc::Receiver<()>;

/// The longest time in which a feed says nothing.
pub const PROGRESS: Duration = Duration::from_millis(200);

/// What was read.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reading {
    /// The revision it was read at.
    pub epoch: Epoch,
    /// As asked for, in that order.
    pub found: Vec<Option<Change>>,
}

/// Dimension and key of a claim.
pub type ClaimKey = (Name, KeyBytes);

/// Some of the claims for a unit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ClaimsPage {
    /// They.
    pub claims: Vec<Claim>,
    /// The last one that was looked at; `None` if there are no more.
    pub next: Option<ClaimKey>,
}

/// Claims that a page looks at.
pub const CLAIMS_PAGE: usize = 1000;

impl ClaimsPage {
    /// Those for a unit, of claims that were looked at; `limit` of them are not all there are.
    pub(super) fn of(unit: &UnitId, seen: Vec<Claim>, limit: usize) -> Self {
        let last = seen.last().filter(|_| seen.len() >= limit);
        let next = last.map(|claim| (claim.dimension.clone(), claim.key.clone()));
        let mut claims = seen;
        claims.retain(|claim| claim.target.unit() == Some(unit));
        Self { claims, next }
    }
}

/// A life of a relay that has begun.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Opened {
    /// Its number.
    pub session: SessionId,
    /// What the relay must have applied before it admits a write (R-I14).
    pub epoch: Epoch,
    /// The life before did not end with a good-bye: what it had let through may still run at services.
    #[serde(default)]
    pub succeeds: bool,
}

/// How a relay stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RelayStanding {
    /// Which.
    pub relay: RelayId,
    /// Its present life.
    pub session: SessionId,
    /// The life before did not end with a good-bye.
    #[serde(default)]
    pub succeeds: bool,
    /// Time since it was last heard of, by the store's own clock; `None` if that is longer than the store remembers.
    pub silent_for: Option<Duration>,
    /// What it reported in this life about freezes that are not over.
    pub acks: Vec<FreezeAck>,
}

/// Why a store did not do it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, or does not answer in time. It may have been done.
    #[error("the route store is away: {0}")]
    Away(String),
    /// The feed cannot begin there any more; take a snapshot.
    #[error("the route store has forgotten what changed at that revision")]
    Compacted,
    /// The life of the relay is over.
    #[error("the route store has given up this relay's session")]
    SessionOver,
    /// What is in the store cannot be read, or the request makes no sense.
    #[error("route store: {0}")]
    Broken(String),
    /// The caller may not.
    #[error("route store: not allowed: {0}")]
    Denied(String),
}
