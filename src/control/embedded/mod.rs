//! The embedded store: a file of the relay that has the routes of its Geo.
//!
//! # Path
//! [`Embedded`] puts questions into a bounded channel; a thread of its own takes all that wait, asks the
//! [`Ledger`](super::ledger::Ledger), writes what changed in one transaction, and answers.
//!
//! # Invariants
//! - E1. Nothing is answered, and nothing goes into a feed, before it is on disk.
//! - E2. After a write that failed the store does nothing any more (I12): its memory is ahead of the disk.
//! - E3. One process has the file.
//!
//! # Not here
//! What a commit does (`ledger`), other machines (`authority`, `remote`).

mod feeds;
mod file;
mod thread;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use self::file::FileError;
use self::file::RoutesFile;
use self::thread::{Ask, Worker};
use super::store::{Answer, ClaimKey, ClaimsPage, Feed, Opened, Reading, RelayStanding, Reports, Store, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Change, Claim, Commit, Committed, FreezeAck, KeyBytes, RecordId, RelayId, Rev, SessionId, Snapshot,
};

/// The store of a file. Clones share it; the file closes with the last.
#[derive(Clone)]
pub struct Embedded(mpsc::Sender<Ask>);

/// Reads the clock of leases, such as [`boot_time`](super::clock::boot_time).
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Embedded {
    /// Opens or makes the file, and starts its thread. `seed` is for a new file: random bits.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path, clock: Clock, seed: u128) -> Result<Self, FileError> {
        let (file, ledger) = RoutesFile::open(path, clock(), seed)?;
        let (asks, inlet) = mpsc::channel(ASKS_MAX);
        let worker = Worker::new(file, ledger, clock);
        std::thread::Builder::new()
            .name("strait-routes".to_owned())
            .spawn(move || worker.run(inlet))
            .map_err(FileError::Thread)?;
        Ok(Self(asks))
    }

    fn ask<T: Send + 'static>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Ask,
    ) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let ask = make(reply);
        Box::pin(async move {
            let gone = || StoreError::Away("its thread has ended; the log of this relay says why".to_owned());
            self.0.send(ask).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> Answer<'_, Snapshot> {
        self.ask(Ask::Snapshot)
    }

    fn watch(&self, from: Rev) -> Answer<'_, Feed> {
        self.ask(|reply| Ask::Watch(from, reply))
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        self.ask(|reply| Ask::Commit(Box::new(commit), reply))
    }

    fn read(&self, ids: Vec<RecordId>) -> Answer<'_, Reading> {
        self.ask(|reply| Ask::Read(ids, reply))
    }

    fn history(&self, id: RecordId, limit: usize) -> Answer<'_, Vec<Change>> {
        self.ask(|reply| Ask::History(id, limit, reply))
    }

    fn claim(&self, claims: Vec<Claim>) -> Answer<'_, Vec<Claim>> {
        self.ask(|reply| Ask::Claim(claims, reply))
    }

    fn claims(&self, keys: Vec<(Name, KeyBytes)>) -> Answer<'_, (Rev, Vec<Option<Claim>>)> {
        self.ask(|reply| Ask::Claims(keys, reply))
    }

    fn claims_of(&self, unit: UnitId, after: Option<ClaimKey>) -> Answer<'_, ClaimsPage> {
        self.ask(|reply| Ask::ClaimsOf(unit, after, reply))
    }

    fn open(&self, relay: RelayId) -> Answer<'_, Opened> {
        self.ask(|reply| Ask::Open(relay, reply))
    }

    fn renew(&self, session: SessionId) -> Answer<'_, ()> {
        self.ask(|reply| Ask::Renew(session, reply))
    }

    fn close(&self, session: SessionId) -> Answer<'_, ()> {
        self.ask(|reply| Ask::Close(session, reply))
    }

    fn forget(&self, relay: RelayId) -> Answer<'_, ()> {
        self.ask(|reply| Ask::Forget(relay, reply))
    }

    fn report(&self, acks: Vec<FreezeAck>) -> Answer<'_, ()> {
        self.ask(|reply| Ask::Report(acks, reply))
    }

    fn reports(&self) -> Answer<'_, Reports> {
        self.ask(Ask::Reports)
    }

    fn standing(&self, unit: Option<UnitId>) -> Answer<'_, Vec<RelayStanding>> {
        self.ask(|reply| Ask::Standing(unit, reply))
    }
}

/// Questions that may wait.
const ASKS_MAX: usize = 1024;
