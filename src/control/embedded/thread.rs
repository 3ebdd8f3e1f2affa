//! The thread of the embedded store.

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Clock;
use super::feeds::{Feeds, Waiting};
use super::file::RoutesFile;
use crate::control::ledger::{Ledger, Written, check_asked, check_claims};
use crate::control::store::{
    CLAIMS_PAGE, ClaimKey, ClaimsPage, Feed, Opened, PROGRESS, Reading, RelayStanding, Reports, StoreError,
};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Change, Claim, Commit, Committed, FreezeAck, KeyBytes, OpId, Record, RecordId, RelayId, RelayRecord, Rev,
    SessionId, Snapshot,
};
use crate::telemetry::Chain;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is asked of the store.
pub(super) enum Ask {
    Snapshot(Reply<Snapshot>),
    Watch(Rev, Reply<Feed>),
    Commit(Box<Commit>, Reply<Committed>),
    Read(Vec<RecordId>, Reply<Reading>),
    History(RecordId, usize, Reply<Vec<Change>>),
    Claim(Vec<Claim>, Reply<Vec<Claim>>),
    Claims(Vec<(Name, KeyBytes)>, Reply<(Rev, Vec<Option<Claim>>)>),
    ClaimsOf(UnitId, Option<ClaimKey>, Reply<ClaimsPage>),
    Open(RelayId, Reply<Opened>),
    Renew(SessionId, Reply<()>),
    Close(SessionId, Reply<()>),
    Forget(RelayId, Reply<()>),
    Report(Vec<FreezeAck>, Reply<()>),
    Reports(Reply<Reports>),
    Standing(Option<UnitId>, Reply<Vec<RelayStanding>>),
}

/// What waits for the disk.
#[derive(Default)]
struct Pending {
    written: Vec<Written>,
    claims: Vec<Claim>,
    /// Called when all is on disk, with who has each claimed key.
    then: Vec<Then>,
}

enum Then {
    Committed(Reply<Committed>, Committed),
    Claimed(Reply<Vec<Claim>>, std::ops::Range<usize>),
    Opened(RelayRecord, Reply<Opened>),
    Forgotten(RelayId, Reply<()>),
}

pub(super) struct Worker {
    file: RoutesFile,
    ledger: Ledger,
    feeds: Feeds,
    waiting: Waiting,
    clock: Clock,
    told_at: Instant,
}

impl Worker {
    pub(super) fn new(file: RoutesFile, ledger: Ledger, clock: Clock) -> Self {
        Self {
            file,
            ledger,
            feeds: Feeds::default(),
            waiting: Waiting::default(),
            told_at: Instant::now(),
            clock,
        }
    }

    /// Serves until nobody can ask any more, or the disk fails (E2).
    pub(super) fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            return tracing::error!("the route store has no timer");
        };
        loop {
            let first = runtime.block_on(async { tokio::time::timeout(PROGRESS, asks.recv()).await });
            match first {
                Ok(None) => return,
                Ok(Some(first)) => {
                    if let Err(error) = self.serve(first, &mut asks) {
                        tracing::error!(
                            error = %Chain(&error),
                            "the route store cannot write its file and has ended; routes stay as they are until a restart"
                        );
                        return;
                    }
                }
                Err(_) => {}
            }
            let progress = self.told_at.elapsed() >= PROGRESS;
            if progress {
                self.told_at = Instant::now();
            }
            self.feeds.tell(&self.ledger, progress);
        }
    }

    /// Serves what waits; one transaction for all of it.
    fn serve(&mut self, first: Ask, asks: &mut mpsc::Receiver<Ask>) -> Result<(), redb::Error> {
        let mut pending = Pending::default();
        let mut next = Some(first);
        let mut served = 0;
        while let Some(ask) = next {
            served += 1;
            // What only reads must not see what is not on disk yet.
            if !pending.then.is_empty() && ask.reads() {
                self.flush(std::mem::take(&mut pending))?;
            }
            self.take(ask, &mut pending)?;
            next = match asks.try_recv() {
                Ok(ask) if served < TOGETHER_MAX => Some(ask),
                Ok(ask) => {
                    self.flush(std::mem::take(&mut pending))?;
                    served = 0;
                    Some(ask)
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        self.flush(pending)
    }

    fn take(&mut self, ask: Ask, pending: &mut Pending) -> Result<(), redb::Error> {
        let now = (self.clock)();
        match ask {
            Ask::Snapshot(reply) => answer(reply, Ok(self.ledger.snapshot())),
            Ask::Watch(from, reply) => answer(reply, self.feeds.add(from, &self.ledger)),
            Ask::Read(ids, reply) => answer(reply, Ok(self.ledger.read(&ids))),
            Ask::History(id, limit, reply) => answer(reply, Ok(self.ledger.history(&id, limit))),
            Ask::Claims(keys, reply) => {
                let found = self.file.claims(&keys)?;
                let found: Result<_, _> = found.into_iter().map(Option::transpose).collect();
                answer(reply, found.map(|found| (self.ledger.epoch().rev(), found)));
            }
            Ask::ClaimsOf(unit, after, reply) => {
                let seen: Result<Vec<_>, _> = self
                    .file
                    .claims_after(after.as_ref(), CLAIMS_PAGE)?
                    .into_iter()
                    .collect();
                answer(reply, seen.map(|seen| ClaimsPage::of(&unit, seen, CLAIMS_PAGE)));
            }
            Ask::Renew(session, reply) => answer(reply, self.ledger.renew(session, now)),
            Ask::Report(acks, reply) => {
                self.ledger.report(acks);
                self.waiting.tell();
                answer(reply, Ok(()));
            }
            Ask::Reports(reply) => answer(reply, Ok(self.waiting.add())),
            Ask::Standing(unit, reply) => answer(reply, Ok(self.ledger.standing(unit.as_ref(), now))),
            Ask::Commit(commit, reply) => {
                if let Some(committed) = self.commit(*commit, pending, reply) {
                    pending.then.push(committed);
                }
            }
            Ask::Claim(claims, reply) => match check_claims(self.ledger.book(), &claims) {
                Ok(()) => {
                    let from = pending.claims.len();
                    pending.claims.extend(claims);
                    pending.then.push(Then::Claimed(reply, from..pending.claims.len()));
                }
                Err(error) => answer(reply, Err(error)),
            },
            Ask::Open(relay, reply) => self.open(relay, pending, reply),
            Ask::Close(session, reply) => match self.ledger.closing(session, OpId(fastrand::u128(..))) {
                Some((relay, commit)) => self.forget(relay, commit, pending, reply),
                None => answer(reply, Err(StoreError::SessionOver)),
            },
            Ask::Forget(relay, reply) => {
                let commit = Ledger::forgetting(relay.clone(), OpId(fastrand::u128(..)));
                self.forget(relay, commit, pending, reply);
            }
        }
        Ok(())
    }

    fn commit(&mut self, commit: Commit, pending: &mut Pending, reply: Reply<Committed>) -> Option<Then> {
        match check_asked(&commit).and_then(|()| self.ledger.commit(commit)) {
            Ok((committed, written)) => {
                pending.written.extend(written);
                Some(Then::Committed(reply, committed))
            }
            Err(error) => {
                answer(reply, Err(error));
                None
            }
        }
    }

    fn open(&mut self, relay: RelayId, pending: &mut Pending, reply: Reply<Opened>) {
        let commit = self.ledger.opening(relay, OpId(fastrand::u128(..)));
        let record = commit.puts.iter().find_map(|record| match record {
            Record::Relay(relay) => Some(relay.clone()),
            _ => None,
        });
        match (self.ledger.commit(commit), record) {
            (Ok((_, written)), Some(record)) => {
                pending.written.extend(written);
                pending.then.push(Then::Opened(record, reply));
            }
            (Err(error), _) => answer(reply, Err(error)),
            (Ok(_), None) => {}
        }
    }

    fn forget(&mut self, relay: RelayId, commit: Commit, pending: &mut Pending, reply: Reply<()>) {
        match self.ledger.commit(commit) {
            Ok((_, written)) => {
                pending.written.extend(written);
                pending.then.push(Then::Forgotten(relay, reply));
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Writes, then answers (E1).
    fn flush(&mut self, pending: Pending) -> Result<(), redb::Error> {
        let Pending { written, claims, then } = pending;
        let mut owners = Vec::new();
        if !written.is_empty() || !claims.is_empty() {
            owners = self.file.write(self.ledger.epoch(), &written, &claims)?;
        }
        let now = (self.clock)();
        for then in then {
            match then {
                Then::Committed(reply, committed) => answer(reply, Ok(committed)),
                Then::Claimed(reply, range) => {
                    let owners = owners.get(range).unwrap_or_default();
                    answer(reply, owners.iter().cloned().collect());
                }
                Then::Opened(relay, reply) => answer(reply, Ok(self.ledger.opened(relay, now))),
                Then::Forgotten(relay, reply) => {
                    self.ledger.forgotten(&relay);
                    answer(reply, Ok(()));
                }
            }
        }
        Ok(())
    }
}

impl Ask {
    fn reads(&self) -> bool {
        !matches!(
            self,
            Self::Commit(..) | Self::Claim(..) | Self::Open(..) | Self::Close(..) | Self::Forget(..) | Self::Renew(..)
        )
    }
}

/// Whoever asked may have gone.
fn answer<T>(reply: Reply<T>, with: Result<T, StoreError>) {
    let _ = reply.send(with);
}

/// Questions that share a transaction at most.
const TOGETHER_MAX: usize = 256;
