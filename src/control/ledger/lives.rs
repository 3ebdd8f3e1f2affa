//! Relays, whether they are alive, and what they reported.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Ledger;
use crate::control::store::{Opened, RelayStanding, StoreError};
use crate::model::UnitId;
use crate::routing::record::{
    Commit, FreezeAck, MoveId, NodeId, OpId, Record, RecordId, RelayId, RelayRecord, SessionId,
};

/// The lives of relays. When they were heard of is not on disk.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Lives(BTreeMap<RelayId, Life>);

#[derive(Clone, Debug)]
struct Life {
    session: SessionId,
    succeeds: bool,
    heard_at: Duration,
    acks: BTreeMap<(MoveId, NodeId), FreezeAck>,
}

impl Lives {
    pub(super) fn begin(&mut self, relay: RelayRecord, now: Duration) {
        let life = Life {
            session: relay.session,
            succeeds: relay.succeeds,
            heard_at: now,
            acks: BTreeMap::new(),
        };
        self.0.insert(relay.relay, life);
    }

    fn find(&mut self, session: SessionId) -> Option<(&RelayId, &mut Life)> {
        self.0.iter_mut().find(|(_, life)| life.session == session)
    }
}

impl Ledger {
    /// The commit that begins a life of a relay; tell [`opened`](Self::opened) when it is done.
    pub fn opening(&self, relay: RelayId, op: OpId) -> Commit {
        // The revision it gets is no other life's.
        let session = SessionId(self.epoch().rev().next().0);
        Commit {
            op,
            compares: Vec::new(),
            puts: vec![Record::Relay(RelayRecord {
                succeeds: self.lives.0.contains_key(&relay),
                relay,
                session,
            })],
            removes: Vec::new(),
        }
    }

    /// A life has begun: the one before is over.
    pub fn opened(&mut self, relay: RelayRecord, now: Duration) -> Opened {
        let (session, succeeds) = (relay.session, relay.succeeds);
        self.lives.begin(relay, now);
        Opened {
            session,
            epoch: self.epoch(),
            succeeds,
        }
    }

    /// A relay was heard of.
    ///
    /// # Errors
    /// [`StoreError::SessionOver`].
    pub fn renew(&mut self, session: SessionId, now: Duration) -> Result<(), StoreError> {
        let (_, life) = self.lives.find(session).ok_or(StoreError::SessionOver)?;
        life.heard_at = now;
        Ok(())
    }

    /// The commit that ends this life, if it is still its relay's present one; tell [`forgotten`](Self::forgotten) when it is
    /// done.
    pub fn closing(&self, session: SessionId, op: OpId) -> Option<(RelayId, Commit)> {
        let mut lives = self.records.values().filter_map(|change| match &change.record {
            Some(Record::Relay(life)) if life.session == session => Some((life.relay.clone(), change.rev)),
            _ => None,
        });
        let (relay, rev) = lives.next()?;
        let mut commit = Self::forgetting(relay.clone(), op);
        commit.compares.push((RecordId::Relay(relay.clone()), rev));
        Some((relay, commit))
    }

    /// The commit that forgets a relay; tell [`forgotten`](Self::forgotten) when it is done.
    pub fn forgetting(relay: RelayId, op: OpId) -> Commit {
        Commit {
            op,
            compares: Vec::new(),
            puts: Vec::new(),
            removes: vec![RecordId::Relay(relay)],
        }
    }

    /// A relay is forgotten, if no other life of it has begun since.
    pub fn forgotten(&mut self, relay: &RelayId) {
        if !self.records.contains_key(&RecordId::Relay(relay.clone())) {
            self.lives.0.remove(relay);
        }
    }

    /// Takes reports of freezes that were applied; what comes from a life that is over is ignored (G5).
    pub fn report(&mut self, acks: Vec<FreezeAck>) {
        for ack in acks {
            if let Some((_, life)) = self.lives.find(ack.session) {
                let key = (ack.by, ack.node.clone());
                if life.acks.get(&key).is_none_or(|known| ack.is_newer_than(known)) {
                    life.acks.insert(key, ack);
                }
            }
        }
        self.forget_old_acks();
    }

    /// How relays stand.
    pub fn standing(&self, unit: Option<&UnitId>, now: Duration) -> Vec<RelayStanding> {
        let lives = self.lives.0.iter();
        let wanted = lives.filter(|(relay, _)| unit.is_none_or(|unit| relay.unit == *unit));
        wanted
            .map(|(relay, life)| RelayStanding {
                relay: relay.clone(),
                session: life.session,
                succeeds: life.succeeds,
                silent_for: Some(now.saturating_sub(life.heard_at)),
                acks: life.acks.values().filter(|ack| self.is_held(ack)).cloned().collect(),
            })
            .collect()
    }

    /// Reports about freezes that are over are of no use.
    fn forget_old_acks(&mut self) {
        let mut lives = std::mem::take(&mut self.lives);
        for life in lives.0.values_mut() {
            life.acks.retain(|_, ack| self.is_held(ack));
        }
        self.lives = lives;
    }

    /// Whether the freeze that it is about is not over.
    fn is_held(&self, ack: &FreezeAck) -> bool {
        let node = self.node(&RecordId::Node(ack.node.clone()));
        node.is_some_and(|node| node.rev == ack.rev && node.state.work() == Some(ack.by))
    }
}
