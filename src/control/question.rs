//! What relays ask the one that has the route store, as JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::store::{ClaimKey, Store, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{Claim, Commit, FreezeAck, KeyBytes, RecordId, RelayId, Rev, SessionId};

/// A method of [`Store`] and what it is asked with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    Snapshot,
    Watch(Rev),
    Commit(Box<Commit>),
    Read(Vec<RecordId>),
    History { id: RecordId, limit: usize },
    Claim(Vec<Claim>),
    Claims(Vec<(Name, KeyBytes)>),
    ClaimsOf { unit: UnitId, after: Option<ClaimKey> },
    Open(RelayId),
    Renew(SessionId),
    Close(SessionId),
    Forget(RelayId),
    Report(Vec<FreezeAck>),
    Reports,
    Standing(Option<UnitId>),
}

impl Question {
    /// Asks the store. The answer is `{"Ok": ...}` or `{"Err": ...}`. What is watched has no one answer.
    pub(super) async fn ask(self, store: &dyn Store) -> Bytes {
        match self {
            Self::Snapshot => document(&store.snapshot().await),
            Self::Watch(_) | Self::Reports => {
                document::<()>(&Err(StoreError::Broken("a watch is asked for as one".to_owned())))
            }
            Self::Commit(commit) => document(&store.commit(*commit).await),
            Self::Read(ids) => document(&store.read(ids).await),
            Self::History { id, limit } => document(&store.history(id, limit).await),
            Self::Claim(claims) => document(&store.claim(claims).await),
            Self::Claims(keys) => document(&store.claims(keys).await),
            Self::ClaimsOf { unit, after } => document(&store.claims_of(unit, after).await),
            Self::Open(relay) => document(&store.open(relay).await),
            Self::Renew(session) => document(&store.renew(session).await),
            Self::Close(session) => document(&store.close(session).await),
            Self::Forget(relay) => document(&store.forget(relay).await),
            Self::Report(acks) => document(&store.report(acks).await),
            Self::Standing(unit) => document(&store.standing(unit).await),
        }
    }
}

/// An answer as JSON.
pub(super) fn document<T: Serialize>(answer: &Result<T, StoreError>) -> Bytes {
    match serde_json::to_vec(answer) {
        Ok(bytes) => bytes.into(),
        Err(error) => {
            let error: Result<(), _> = Err(StoreError::Broken(format!("the answer cannot be written: {error}")));
            serde_json::to_vec(&error).unwrap_or_default().into()
        }
    }
}
