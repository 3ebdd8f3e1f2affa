//! Lives of relays are leases; their records stay until somebody says good-bye for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{self, all, delete, is_at, one, put};
use super::reads::Found;
use super::{Etcd, TOGETHER_MAX, broken};
use crate::control::store::{Opened, RelayStanding, StoreError};
use crate::model::UnitId;
use crate::routing::lease::REMEMBERED;
use crate::routing::record::{
    Change, Commit, Committed, Epoch, FreezeAck, MoveId, NodeId, OpId, Record, RecordId, RelayId, RelayRecord, Rev,
    SessionId,
};
use crate::wire::etcd::{KeyValue, Txn};

/// A life as it is in the store.
struct Life {
    rev: Rev,
    relay: RelayRecord,
}

impl Etcd {
    pub(super) async fn begin_life(&self, relay: RelayId) -> Result<Opened, StoreError> {
        let id = RecordId::Relay(relay.clone());
        let lease = self.api.grant(SESSION).await?;
        let session = SessionId(u64::try_from(lease).unwrap_or_default());
        loop {
            let found = self.read_ranges(vec![self.range_of(&id)]).await?;
            let before = keys::change_of(found.ranges.first().map_or(&[], Vec::as_slice))?;
            let before = before.and_then(life_of);
            let compared = before.as_ref().map_or(Rev::ZERO, |life| life.rev);
            let succeeds = before.is_some();
            if let Some(before) = before {
                self.api.revoke(lease_of(before.relay.session)).await?;
            }
            let relay = relay.clone();
            let commit = Commit {
                op: OpId(fastrand::u128(..)),
                compares: vec![(id.clone(), compared)],
                puts: vec![Record::Relay(RelayRecord {
                    relay,
                    session,
                    succeeds,
                })],
                removes: Vec::new(),
            };
            if let Committed::Done(rev) = self.do_commit(commit).await? {
                let epoch = Epoch::new(found.meta.incarnation, rev);
                return Ok(Opened {
                    session,
                    epoch,
                    succeeds,
                });
            }
        }
    }

    pub(super) async fn renew_life(&self, session: SessionId) -> Result<(), StoreError> {
        if self.api.keep_alive(lease_of(session)).await? {
            Ok(())
        } else {
            Err(StoreError::SessionOver)
        }
    }

    pub(super) async fn end_life(&self, session: SessionId) -> Result<(), StoreError> {
        let found = self.read_ranges(vec![all(self.keys.relays())]).await?;
        let lives = lives_in(&found)?;
        let life = lives.into_iter().find(|life| life.relay.session == session);
        self.remove(life.ok_or(StoreError::SessionOver)?).await
    }

    pub(super) async fn forget_relay(&self, relay: RelayId) -> Result<(), StoreError> {
        let id = RecordId::Relay(relay);
        let found = self.read_ranges(vec![self.range_of(&id)]).await?;
        match lives_in(&found)?.pop() {
            Some(life) => self.remove(life).await,
            None => Ok(()),
        }
    }

    /// Ends the lease, then removes the record (T4), unless another life has begun.
    async fn remove(&self, life: Life) -> Result<(), StoreError> {
        self.api.revoke(lease_of(life.relay.session)).await?;
        let id = RecordId::Relay(life.relay.relay);
        let commit = Commit {
            op: OpId(fastrand::u128(..)),
            compares: vec![(id.clone(), life.rev)],
            puts: Vec::new(),
            removes: vec![id],
        };
        self.do_commit(commit).await.map(drop)
    }

    pub(super) async fn report_all(&self, acks: Vec<FreezeAck>) -> Result<(), StoreError> {
        // A transaction writes a key once.
        let mut newest: BTreeMap<_, FreezeAck> = BTreeMap::new();
        for ack in acks {
            let known = newest
                .entry((ack.session, ack.by, ack.node.clone()))
                .or_insert_with(|| ack.clone());
            if ack.is_newer_than(known) {
                *known = ack;
            }
        }
        let mut sessions: BTreeMap<SessionId, Vec<FreezeAck>> = BTreeMap::new();
        for ack in newest.into_values() {
            sessions.entry(ack.session).or_default().push(ack);
        }
        for (session, acks) in sessions {
            for acks in acks.chunks(TOGETHER_MAX) {
                self.report_of(session, acks).await?;
            }
        }
        Ok(())
    }

    /// Writes what is newer, and removes what is of no use any more.
    async fn report_of(&self, session: SessionId, acks: &[FreezeAck]) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let (known, held) = self.acks_held(self.keys.acks_of(session), acks).await?;
            let mut txn = Txn::default();
            for ack in acks
                .iter()
                .filter(|ack| held.contains(&(ack.by, ack.node.clone(), ack.rev)))
            {
                let key = self.keys.ack(ack);
                let before = known.iter().find(|(kv, _)| kv.key == key);
                if before.is_none_or(|(_, before)| ack.is_newer_than(before)) {
                    let rev = before.map_or(Rev::ZERO, |(kv, _)| keys::rev(kv));
                    txn.compare.push(is_at(key.clone(), rev));
                    txn.success.push(put(key, keys::write(ack), lease_of(session)));
                }
            }
            let over = known.iter().filter(|(_, ack)| {
                let is_new = acks.iter().any(|new| (new.by, &new.node) == (ack.by, &ack.node));
                !is_new && !held.contains(&(ack.by, ack.node.clone(), ack.rev))
            });
            txn.success
                .extend(over.take(TOGETHER_MAX).map(|(kv, _)| delete(kv.key.clone())));
            if txn.success.is_empty() {
                return Ok(());
            }
            match self.api.txn(txn).await {
                Ok(txned) if txned.succeeded => return Ok(()),
                Ok(_) => {}
                // The life is over: its reports count no more (G5).
                Err(failure) if failure.is_no_lease() => return Ok(()),
                Err(failure) => return Err(failure.into()),
            }
        }
        broken("a relay reports the same from two places")
    }

    /// The reports below a key, and which of them, and of others, are about freezes that are not over.
    async fn acks_held(
        &self,
        start: bytes::Bytes,
        others: &[FreezeAck],
    ) -> Result<(Vec<Known>, Vec<Held>), StoreError> {
        let found = self.read_ranges(vec![all(start)]).await?;
        let kvs = found.ranges.into_iter().flatten();
        let known: Result<Vec<Known>, _> = kvs.map(|kv| Ok((kv.clone(), keys::read(&kv.value)?))).collect();
        let known = known.map_err(|error: StoreError| error)?;
        let mut nodes: Vec<_> = known
            .iter()
            .map(|(_, ack)| ack)
            .chain(others)
            .map(|ack| ack.node.clone())
            .collect();
        nodes.sort();
        nodes.dedup();
        let ranges = nodes
            .into_iter()
            .map(|node| one(self.keys.record(&RecordId::Node(node))));
        let found = self.read_ranges(ranges.collect()).await?;
        let mut held = Vec::new();
        for kv in found.ranges.iter().flatten() {
            if let Some(Record::Node(node)) = keys::change(kv)?.record {
                held.extend(node.state.work().map(|by| (by, node.id, node.rev)));
            }
        }
        Ok((known, held))
    }

    pub(super) async fn read_standing(&self, unit: Option<UnitId>) -> Result<Vec<RelayStanding>, StoreError> {
        let found = self.read_ranges(vec![all(self.keys.relays())]).await?;
        let lives = lives_in(&found)?;
        let wanted = lives.into_iter().map(|life| life.relay);
        let wanted: Vec<_> = wanted
            .filter(|life| unit.as_ref().is_none_or(|unit| life.relay.unit == *unit))
            .collect();
        let (acks, held) = self.acks_held(self.keys.acks(), &[]).await?;
        let mut rows = Vec::with_capacity(wanted.len());
        for life in wanted {
            let own = acks
                .iter()
                .map(|(_, ack)| ack)
                .filter(|ack| ack.session == life.session);
            let acks = own
                .filter(|ack| held.contains(&(ack.by, ack.node.clone(), ack.rev)))
                .cloned();
            rows.push(RelayStanding {
                acks: acks.collect(),
                silent_for: self.silence(life.session).await?,
                relay: life.relay,
                session: life.session,
                succeeds: life.succeeds,
            });
        }
        Ok(rows)
    }

    /// Since when a life was not renewed (T5).
    async fn silence(&self, session: SessionId) -> Result<Option<Duration>, StoreError> {
        let lease = self.api.lease(lease_of(session)).await?;
        if lease.granted == 0 {
            return Ok(None);
        }
        let [granted, left] =
            [lease.granted, lease.ttl].map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
        Ok(Some(granted.saturating_sub(left).saturating_sub(SLACK)))
    }
}

/// A report and the key it has.
type Known = (KeyValue, FreezeAck);
/// A freeze that is not over: by which work, of which node, at which revision.
type Held = (MoveId, NodeId, Rev);

fn lives_in(found: &Found) -> Result<Vec<Life>, StoreError> {
    let changes: Result<Vec<_>, _> = found.ranges.iter().flatten().map(keys::change).collect();
    Ok(changes?.into_iter().filter_map(life_of).collect())
}

fn life_of(change: Change) -> Option<Life> {
    match change.record {
        Some(Record::Relay(relay)) => Some(Life { rev: change.rev, relay }),
        _ => None,
    }
}

fn lease_of(session: SessionId) -> i64 {
    i64::try_from(session.0).unwrap_or_default()
}

/// How long etcd keeps a lease that is not renewed. A lease that is gone was not renewed for at least as long, counted anew
/// from each election; so it is what a store has to remember, and what is taken off that.
const SESSION: Duration = REMEMBERED.saturating_add(SLACK);
/// By how much less is said: a second because etcd counts in whole ones, and two because a leader that was cut off can answer
/// until it notices, and so could confirm a renewal that the next one knows nothing of.
pub(super) const SLACK: Duration = Duration::from_secs(3);
const ATTEMPTS_MAX: u32 = 16;
