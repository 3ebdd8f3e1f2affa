//! Lives of relays are leases; their records stay until somebody says good-bye for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;

use super::keys::{self, all, delete, is_at, put};
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

    /// Writes what is newer; then removes what is of no use any more.
    async fn report_of(&self, session: SessionId, acks: &[FreezeAck]) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            // A freeze waits for this: one question tells what is there and what it is about.
            let mut ranges = vec![all(self.keys.acks_of(session))];
            ranges.extend(acks.iter().map(|ack| self.range_of(&RecordId::Node(ack.node.clone()))));
            let found = self.read_ranges(ranges).await?;
            let (known, nodes) = found
                .ranges
                .split_first()
                .map_or((&[][..], &[][..]), |(first, rest)| (first, rest));
            let (known, held) = (acks_in(known)?, held_in(nodes)?);
            let mut txn = Txn::default();
            for ack in acks.iter().filter(|ack| is_held(&held, ack)) {
                let key = self.keys.ack(ack);
                let before = known.iter().find(|(kv, _)| kv.key == key);
                if before.is_none_or(|(_, before)| ack.is_newer_than(before)) {
                    let rev = before.map_or(Rev::ZERO, |(kv, _)| keys::rev(kv));
                    txn.compare.push(is_at(key.clone(), rev));
                    txn.success.push(put(key, keys::write(ack), lease_of(session)));
                }
            }
            let is_new = |ack: &FreezeAck| acks.iter().any(|new| (new.by, &new.node) == (ack.by, &ack.node));
            let others: Vec<_> = known.into_iter().filter(|(_, ack)| !is_new(ack)).collect();
            if txn.success.is_empty() {
                return self.tidy(others).await;
            }
            match self.api.txn(txn).await {
                Ok(txned) if txned.succeeded => return self.tidy(others).await,
                Ok(_) => {}
                // The life is over: its reports count no more (G5).
                Err(failure) if failure.is_no_lease() => return Ok(()),
                Err(failure) => return Err(failure.into()),
            }
        }
        broken("a relay reports the same from two places")
    }

    /// Removes reports of freezes that are over. One that was written anew meanwhile stays: then nothing is removed now.
    async fn tidy(&self, known: Vec<Known>) -> Result<(), StoreError> {
        if known.is_empty() {
            return Ok(());
        }
        let held = self.held(known.iter().map(|(_, ack)| ack)).await?;
        let mut txn = Txn::default();
        let over = known.into_iter().filter(|(_, ack)| !is_held(&held, ack));
        for (kv, _) in over.take(TOGETHER_MAX) {
            txn.compare.push(is_at(kv.key.clone(), keys::rev(&kv)));
            txn.success.push(delete(kv.key));
        }
        if !txn.success.is_empty() {
            self.api.txn(txn).await?;
        }
        Ok(())
    }

    /// What the nodes of these reports are held by, if by anything.
    async fn held(&self, acks: impl Iterator<Item = &FreezeAck>) -> Result<Vec<Held>, StoreError> {
        let nodes: BTreeSet<_> = acks.map(|ack| &ack.node).collect();
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let ranges = nodes
            .into_iter()
            .map(|node| self.range_of(&RecordId::Node(node.clone())));
        held_in(&self.read_ranges(ranges.collect()).await?.ranges)
    }

    pub(super) async fn read_standing(&self, unit: Option<UnitId>) -> Result<Vec<RelayStanding>, StoreError> {
        let mut found = self
            .read_ranges(vec![all(self.keys.relays()), all(self.keys.acks())])
            .await?;
        let acks = acks_in(&found.ranges.pop().unwrap_or_default())?;
        let lives = lives_in(&found)?;
        let wanted = lives.into_iter().map(|life| life.relay);
        let wanted: Vec<_> = wanted
            .filter(|life| unit.as_ref().is_none_or(|unit| life.relay.unit == *unit))
            .collect();
        // A frozen key waits for this: what does not depend on each other is asked at once.
        let mut asked = JoinSet::new();
        for session in wanted.iter().map(|life| life.session) {
            let store = self.clone();
            asked.spawn(async move { store.silence(session).await.map(|silent_for| (session, silent_for)) });
        }
        let held = self.held(acks.iter().map(|(_, ack)| ack)).await?;
        let mut silences = BTreeMap::new();
        while let Some(answered) = asked.join_next().await {
            let broke = |_| StoreError::Away("a question broke off".to_owned());
            let (session, silent_for) = answered.map_err(broke)??;
            silences.insert(session, silent_for);
        }
        let rows = wanted.into_iter().map(|life| {
            let own = acks.iter().map(|(_, ack)| ack);
            let own = own.filter(|ack| ack.session == life.session && is_held(&held, ack));
            RelayStanding {
                acks: own.cloned().collect(),
                silent_for: silences.get(&life.session).copied().flatten(),
                relay: life.relay,
                session: life.session,
                succeeds: life.succeeds,
            }
        });
        Ok(rows.collect())
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

fn acks_in(kvs: &[KeyValue]) -> Result<Vec<Known>, StoreError> {
    kvs.iter().map(|kv| Ok((kv.clone(), keys::read(&kv.value)?))).collect()
}

/// Which freezes, and what comes before them, records of nodes tell of.
fn held_in(nodes: &[Vec<KeyValue>]) -> Result<Vec<Held>, StoreError> {
    let mut held = Vec::new();
    for kv in nodes.iter().flatten() {
        if let Some(Record::Node(node)) = keys::change(kv)?.record {
            held.extend(node.state.work().map(|by| (by, node.id, node.rev)));
        }
    }
    Ok(held)
}

/// Whether a report is about a freeze that is not over.
fn is_held(held: &[Held], ack: &FreezeAck) -> bool {
    held.iter()
        .any(|(by, node, rev)| (*by, node, *rev) == (ack.by, &ack.node, ack.rev))
}

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
