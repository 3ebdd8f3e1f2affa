//! Commits: read, compare, write if nobody else did meanwhile.

use tokio::time::{Duration, Instant};

use super::api::Failure;
use super::keys::{self, Head, delete, is_at, one, put};
use super::{COMMIT_MAX, Etcd, broken};
use crate::control::ledger::{check_asked, check_commit};
use crate::control::store::StoreError;
use crate::routing::record::{Change, Commit, Committed, Record, RecordId, Rev};
use crate::wire::etcd::{KeyValue, Range, Txn};

/// The lease under which it is remembered what was done.
#[derive(Debug, Default)]
pub(super) struct Operations(Option<(i64, Instant)>);

/// A commit that was checked.
enum Checked {
    Ends(Committed),
    Fits(Rev),
}

impl Etcd {
    /// What somebody asks for.
    pub(super) async fn do_asked(&self, commit: Commit) -> Result<Committed, StoreError> {
        check_asked(&commit)?;
        self.do_commit(commit).await
    }

    pub(super) async fn do_commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        if commit.compares.len().max(commit.puts.len() + commit.removes.len()) > COMMIT_MAX {
            return broken(&format!("etcd takes {COMMIT_MAX} records in a commit; make several"));
        }
        for _ in 0..ATTEMPTS_MAX {
            let head = match self.check(&commit).await? {
                Checked::Ends(committed) => return Ok(committed),
                Checked::Fits(head) => head,
            };
            if let Some(rev) = self.write(&commit, head).await? {
                self.note_book(&commit.puts);
                return Ok(Committed::Done(rev));
            }
            // Another one was quicker; or it was this one, and its answer was lost.
        }
        Err(StoreError::Away("too many write to it at once; try again".to_owned()))
    }

    /// Reads what the commit depends on.
    async fn check(&self, commit: &Commit) -> Result<Checked, StoreError> {
        let mut ranges = vec![one(self.keys.done(commit.op)), one(self.keys.record(&RecordId::Book))];
        let compared = commit.compares.iter().map(|(id, _)| id);
        ranges.extend(compared.chain(&commit.removes).map(|id| one(self.keys.record(id))));
        let found = self.read_ranges(ranges).await?;
        let mut kvs = found.ranges.into_iter();
        if let Some(done) = kvs.next().unwrap_or_default().first() {
            return Ok(Checked::Ends(Committed::Done(keys::rev(done))));
        }
        let book = keys::book_of(&kvs.next().unwrap_or_default())?;
        for ((id, expected), kvs) in commit.compares.iter().zip(&mut kvs) {
            let found = kvs.first().map_or(Rev::ZERO, keys::rev);
            if found != *expected {
                return Ok(Checked::Ends(Committed::Conflict { id: id.clone(), found }));
            }
        }
        let removed: Result<Vec<Option<Change>>, _> = kvs.map(|kvs: Vec<KeyValue>| keys::change_of(&kvs)).collect();
        let removed: Vec<_> = removed?.into_iter().flatten().collect();
        check_commit(commit, book.as_ref(), |work| {
            let id = RecordId::Move(*work);
            removed.iter().find(|change| change.id == id)?.record.clone()
        })?;
        Ok(Checked::Fits(found.head))
    }

    /// Writes, if the last commit is still this one. Every commit writes the head, so what was read holds.
    async fn write(&self, commit: &Commit, head: Rev) -> Result<Option<Rev>, StoreError> {
        let lease = self.lease_of_operations().await?;
        let mut success = vec![
            put(self.keys.head(), keys::write(&Head { prev: head }), 0),
            put(self.keys.done(commit.op), "".into(), lease),
        ];
        let puts = commit.puts.iter();
        success.extend(puts.map(|record| put(self.keys.record(&record.id()), keys::write(record), 0)));
        success.extend(commit.removes.iter().map(|id| delete(self.keys.record(id))));
        let txn = Txn {
            compare: vec![
                is_at(self.keys.head(), head),
                is_at(self.keys.done(commit.op), Rev::ZERO),
            ],
            success,
            failure: Vec::new(),
        };
        match self.api.txn(txn).await {
            Ok(txned) if txned.succeeded => {
                let revision = txned.header.unwrap_or_default().revision;
                Ok(Some(Rev(u64::try_from(revision).unwrap_or_default())))
            }
            Ok(_) => Ok(None),
            Err(failure) if failure.is_no_lease() => {
                self.operations.lock().0 = None;
                Ok(None)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// A lease that lasts for a while yet.
    async fn lease_of_operations(&self) -> Result<i64, Failure> {
        if let Some((lease, at)) = self.operations.lock().0
            && at.elapsed() < REMEMBERED / 2
        {
            return Ok(lease);
        }
        let lease = self.api.grant(REMEMBERED).await?;
        self.operations.lock().0 = Some((lease, Instant::now()));
        Ok(lease)
    }

    pub(super) fn range_of(&self, id: &RecordId) -> Range {
        one(self.keys.record(id))
    }

    /// Claims are checked against what is published.
    fn note_book(&self, puts: &[Record]) {
        for record in puts {
            if let Record::Book(book) = record {
                *self.book.lock() = Some(std::sync::Arc::new(book.clone()));
            }
        }
    }
}

/// How often others may be quicker.
const ATTEMPTS_MAX: u32 = 64;
/// How long a commit is known to be done, at least half of it.
const REMEMBERED: Duration = Duration::from_secs(3600);
