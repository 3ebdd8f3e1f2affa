//! Records, at one revision.

use bytes::{BufMut, Bytes, BytesMut};

use super::api::Failure;
use super::keys::{self, Head, Meta, get, one, rev, revision};
use super::{Etcd, TOGETHER_MAX, broken};
use crate::control::store::{Reading, StoreError};
use crate::routing::record::{Change, Epoch, OpId, RecordId, Rev, Snapshot};
use crate::wire::etcd::{KeyValue, Range, Ranged, Txn, Txned};

/// What was read together.
pub(super) struct Found {
    pub(super) meta: Meta,
    /// The last commit.
    pub(super) head: Rev,
    /// The revision of etcd that this was read at.
    pub(super) at: i64,
    /// One for each range.
    pub(super) ranges: Vec<Vec<KeyValue>>,
}

impl Found {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.meta.incarnation, self.head)
    }
}

impl Etcd {
    /// Reads ranges and where the store is, all at one revision, not older than the question.
    pub(super) async fn read_ranges(&self, asked: Vec<Range>) -> Result<Found, StoreError> {
        let mut rest = asked.into_iter();
        let mut first = vec![one(self.keys.meta()), one(self.keys.head())];
        first.extend(rest.by_ref().take(TOGETHER_MAX));
        let (at, mut ranges) = self.read_together(first.clone()).await?;
        if ranges.first().is_none_or(Vec::is_empty) {
            self.make_meta().await?;
            let (at, ranges) = self.read_together(first).await?;
            return found(at, ranges);
        }
        loop {
            let next: Vec<_> = rest.by_ref().take(TOGETHER_MAX).collect();
            if next.is_empty() {
                return found(at, ranges);
            }
            let next = next.into_iter().map(|range| Range { revision: at, ..range });
            ranges.extend(self.read_together(next.collect()).await?.1);
        }
    }

    async fn read_together(&self, ranges: Vec<Range>) -> Result<(i64, Vec<Vec<KeyValue>>), Failure> {
        let txn = Txn {
            success: ranges.into_iter().map(get).collect(),
            ..Txn::default()
        };
        let Txned { header, responses, .. } = self.api.txn(txn).await?;
        let found = keys::ranged(responses).map(|ranged| ranged.kvs).collect();
        Ok((header.unwrap_or_default().revision, found))
    }

    /// Makes what a new store lacks; whoever is first decides.
    async fn make_meta(&self) -> Result<(), StoreError> {
        let meta = Meta {
            version: VERSION,
            seed: OpId(self.seed),
            incarnation: 0,
        };
        let txn = Txn {
            compare: vec![keys::is_at(self.keys.meta(), Rev::ZERO)],
            success: vec![keys::put(self.keys.meta(), keys::write(&meta), 0)],
            failure: Vec::new(),
        };
        self.api.txn(txn).await?;
        Ok(())
    }

    pub(super) async fn read_all(&self) -> Result<Snapshot, StoreError> {
        let mut from = self.keys.records();
        let end = keys::end_of(&from);
        let page = |key: Bytes, at: i64| Range {
            key,
            range_end: end.clone(),
            limit: PAGE,
            revision: at,
        };
        let found = self.read_ranges(vec![page(from.clone(), 0)]).await?;
        let (epoch, seed, at) = (found.epoch(), found.meta.seed.0, found.at);
        let mut kvs: Vec<_> = found.ranges.into_iter().flatten().collect();
        let mut changes = Vec::new();
        loop {
            let more = kvs.len() >= usize::try_from(PAGE).unwrap_or(usize::MAX);
            if let Some(last) = kvs.last() {
                from = after(&last.key);
            }
            for kv in &kvs {
                changes.push(keys::change(kv)?);
            }
            if !more {
                return Ok(Snapshot { epoch, seed, changes });
            }
            let Ranged { kvs: next, .. } = self.api.range(page(from.clone(), at)).await?;
            kvs = next;
        }
    }

    pub(super) async fn read_some(&self, ids: Vec<RecordId>) -> Result<Reading, StoreError> {
        let ranges = ids.iter().map(|id| one(self.keys.record(id))).collect();
        let found = self.read_ranges(ranges).await?;
        let epoch = found.epoch();
        let found: Result<_, _> = found.ranges.iter().map(|kvs| keys::change_of(kvs)).collect();
        Ok(Reading { epoch, found: found? })
    }

    /// As far back as etcd was not compacted, and until a time when the record was not there.
    pub(super) async fn read_back(&self, id: RecordId, limit: usize) -> Result<Vec<Change>, StoreError> {
        let mut range = one(self.keys.record(&id));
        let mut changes: Vec<Change> = Vec::new();
        while changes.len() < limit {
            let ranged = match self.api.range(range.clone()).await {
                Ok(ranged) => ranged,
                Err(failure) if failure.is_revision_gone() => break,
                Err(failure) => return Err(failure.into()),
            };
            let Some(change) = keys::change_of(&ranged.kvs)? else {
                break;
            };
            range.revision = revision(change.rev) - 1;
            changes.push(change);
        }
        Ok(changes)
    }

    /// The last commit, not older than the question.
    pub(super) async fn read_head(&self) -> Result<Rev, StoreError> {
        let ranged = self.api.range(one(self.keys.head())).await?;
        Ok(ranged.kvs.first().map_or(Rev::ZERO, rev))
    }
}

fn found(at: i64, ranges: Vec<Vec<KeyValue>>) -> Result<Found, StoreError> {
    let mut ranges = ranges.into_iter();
    let meta = ranges.next().into_iter().flatten().next();
    let Some(meta) = meta else {
        return broken("the meta key of the store is gone");
    };
    let meta: Meta = keys::read(&meta.value)?;
    if meta.version != VERSION {
        return broken(&format!(
            "a later version of strait wrote it ({}); this one knows version {VERSION}",
            meta.version
        ));
    }
    let head = ranges.next().into_iter().flatten().next();
    Ok(Found {
        meta,
        head: head.as_ref().map_or(Rev::ZERO, rev),
        at,
        ranges: ranges.collect(),
    })
}

/// What a head says about the commit before.
pub(super) fn prev_of(kv: &KeyValue) -> Result<Rev, StoreError> {
    keys::read::<Head>(&kv.value).map(|head| head.prev)
}

/// The next key there can be.
pub(super) fn after(key: &Bytes) -> Bytes {
    let mut next = BytesMut::from(&key[..]);
    next.put_u8(0);
    next.freeze()
}

const VERSION: u32 = 1;
/// Records that are read at once.
const PAGE: i64 = 1000;
