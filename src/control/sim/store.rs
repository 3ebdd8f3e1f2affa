//! The store: the real ledger, claims beside it, readers of its feed, and a leader that can be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::faults::Trouble;
use super::keys::book;
use super::net::Spot;
use super::planted::Planted;
use super::relay::{Input, Life};
use super::{Event, World};
use crate::control::claims::ClaimKey;
use crate::control::ledger::{Ledger, check_asked, check_claims};
use crate::control::store::{Opened, RelayStanding, StoreError};
use crate::model::UnitId;
use crate::routing::record::{
    Claim, Commit, Committed, Epoch, FreezeAck, Lease, NodeId, OpId, Record, RecordId, RelayId, Rev, SessionId,
    Snapshot,
};

pub(super) struct Store {
    pub ledger: Ledger,
    claims: BTreeMap<ClaimKey, Claim>,
    /// What the disk has of commits that were done.
    done: Vec<(OpId, Rev)>,
    readers: BTreeMap<usize, Reader>,
    /// Nobody leads.
    pub is_away: bool,
    /// Relays that hear nothing of the feed for a while.
    pub stalled: BTreeSet<usize>,
    /// How fast its clock goes.
    rate: f64,
    /// Nodes that a session ever reported as drained, for a planted mistake.
    drained: BTreeSet<(SessionId, NodeId)>,
}

struct Reader {
    life: Life,
    question: u64,
    at: Rev,
}

/// What is asked, by whom.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub life: Life,
    pub number: u64,
    pub ask: Ask,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Claim(Vec<Claim>),
    Claims(Vec<ClaimKey>),
    Commit(Box<Commit>),
    Open(RelayId),
    Renew(SessionId),
    Report(Vec<FreezeAck>),
    Snapshot,
    Standing(Option<UnitId>),
    Watch(Rev),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Claimed(Vec<Claim>),
    Committed(Committed),
    Failed(StoreError),
    Fine,
    Found(Vec<Option<Claim>>),
    Opened(Opened),
    Snapshot(Box<Snapshot>),
    Standing(Vec<RelayStanding>),
}

impl Store {
    pub(super) fn new(dice: &mut fastrand::Rng, slow: bool) -> Self {
        let empty = Snapshot {
            epoch: Epoch::new(1, Rev::ZERO),
            seed: 77,
            changes: Vec::new(),
        };
        let mut ledger = Ledger::new(empty, [], Duration::ZERO);
        let mut lease = || match dice.u8(..4) {
            _ if slow => Lease::Seconds(7),
            0 => Lease::Infinite,
            1 => Lease::Seconds(20),
            _ => Lease::Seconds(7),
        };
        let published = Commit {
            op: OpId(1),
            compares: Vec::new(),
            puts: vec![Record::Book(book([lease(), lease(), lease()]))],
            removes: Vec::new(),
        };
        ledger.commit(published).unwrap();
        Self {
            ledger,
            claims: BTreeMap::new(),
            done: Vec::new(),
            readers: BTreeMap::new(),
            is_away: false,
            stalled: BTreeSet::new(),
            rate: 0.99 + 0.02 * dice.f64(),
            drained: BTreeSet::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.ledger.snapshot()
    }

    pub(super) fn rev(&self) -> Rev {
        self.ledger.epoch().rev()
    }

    /// Planted: what a session reported, as if it were about the freezes of now.
    fn said(&self, session: SessionId) -> Vec<FreezeAck> {
        let said = self.drained.iter().filter(|(of, _)| *of == session);
        let nodes = said.filter_map(|(_, id)| self.ledger.node(&RecordId::Node(id.clone())));
        let acks = nodes.filter_map(|node| {
            Some(FreezeAck {
                session,
                by: node.state.work()?,
                node: node.id.clone(),
                rev: node.rev,
                drained: true,
                held_by: None,
            })
        });
        acks.collect()
    }
}

impl World {
    fn store_time(&self) -> Duration {
        self.time().mul_f64(self.store.rate)
    }

    /// Something is asked of the store. While nobody leads there is no answer, but it may be done all the same.
    pub(super) fn on_question(&mut self, question: Question) {
        if self.store.is_away && self.dice.u8(..4) > 0 {
            return;
        }
        if self.is_lost(&question.ask) {
            return;
        }
        let (life, number) = (question.life, question.number);
        self.note(&(life, "asks", &question.ask));
        let Some(answer) = self.ask(question) else { return };
        if self.store.is_away {
            return;
        }
        let answered = Event::To(life, Input::Answer(number, Box::new(answer)));
        self.send(Spot::Store, Spot::Relay(life.relay), answered);
    }

    fn ask(&mut self, Question { life, number, ask }: Question) -> Option<Answer> {
        let now = self.store_time();
        Some(match ask {
            Ask::Snapshot => Answer::Snapshot(Box::new(self.store.snapshot())),
            Ask::Watch(from) => return self.watch(life, number, from),
            Ask::Commit(commit) => match check_asked(&commit).and_then(|()| self.commit(*commit)) {
                Ok(committed) => Answer::Committed(committed),
                Err(error) => Answer::Failed(error),
            },
            Ask::Open(relay) => {
                let opening = self.store.ledger.opening(relay, OpId(self.dice.u128(..)));
                let Record::Relay(record) = opening.puts[0].clone() else {
                    panic!("{opening:?}")
                };
                self.commit(opening).unwrap();
                Answer::Opened(self.store.ledger.opened(record, now))
            }
            Ask::Renew(session) => fine(self.store.ledger.renew(session, now)),
            Ask::Report(acks) => {
                let acks: Vec<_> = acks.into_iter().map(|ack| self.as_reported(ack)).collect();
                let drained = acks.iter().filter(|ack| ack.drained);
                self.store
                    .drained
                    .extend(drained.map(|ack| (ack.session, ack.node.clone())));
                self.store.ledger.report(acks);
                Answer::Fine
            }
            Ask::Standing(unit) => Answer::Standing(self.standing(unit.as_ref(), now)),
            Ask::Claim(claims) => self.claim(claims),
            Ask::Claims(keys) => {
                let found = keys.iter().map(|key| self.store.claims.get(key).cloned());
                Answer::Found(found.collect())
            }
        })
    }

    fn claim(&mut self, claims: Vec<Claim>) -> Answer {
        if let Err(error) = check_claims(self.store.ledger.book(), &claims) {
            return Answer::Failed(error);
        }
        let is_blind = self.has(Planted::BlindClaim);
        let mut holders = Vec::new();
        for claim in claims {
            let key = (claim.dimension.clone(), claim.key.clone());
            let is_free = !self.store.claims.contains_key(&key);
            if is_free || is_blind {
                self.store.claims.insert(key.clone(), claim.clone());
            }
            if is_free {
                self.witness.on_claimed(&claim);
            }
            holders.push(self.store.claims[&key].clone());
        }
        Answer::Claimed(holders)
    }

    /// Writes, keeps what was done, and tells everybody.
    fn commit(&mut self, commit: Commit) -> Result<Committed, StoreError> {
        let commit = self.as_compared(commit);
        let (committed, written) = self.store.ledger.commit(commit)?;
        if let Some(written) = written {
            self.note(&written);
            self.store.done.push((written.op, written.batch.rev));
            let given = self.witness.on_commit(self.now, &written.batch);
            if self.is_troubled() {
                self.pauses.on_trouble(self.now);
            }
            if let Some(wrong) = self.pauses.on_commit(self.now, &written.batch) {
                self.witness.blame(wrong);
            }
            self.on_nodes_written(&written.batch, &given);
            self.tell_readers(false);
        }
        Ok(committed)
    }

    fn watch(&mut self, life: Life, question: u64, from: Rev) -> Option<Answer> {
        let Some(batch) = self.store.ledger.since(from) else {
            return Some(Answer::Failed(StoreError::Compacted));
        };
        let at = batch.rev;
        self.store.readers.insert(life.relay, Reader { life, question, at });
        let told = Event::To(life, Input::Batch(question, Box::new(batch)));
        self.send(Spot::Store, Spot::Relay(life.relay), told);
        None
    }

    /// Readers hear what has changed; `progress`: also those for whom nothing has.
    pub(super) fn tell_readers(&mut self, progress: bool) {
        if self.store.is_away {
            return;
        }
        let now = self.store.rev();
        let mut told = Vec::new();
        for (relay, reader) in &mut self.store.readers {
            let waits = self.store.stalled.contains(relay) || (reader.at == now && !progress);
            if let (false, Some(batch)) = (waits, self.store.ledger.since(reader.at)) {
                reader.at = now;
                told.push((reader.life, Input::Batch(reader.question, Box::new(batch))));
            }
        }
        for (life, input) in told {
            self.send(Spot::Store, Spot::Relay(life.relay), Event::To(life, input));
        }
    }

    /// The leader is lost: another one has what is on disk, and knows nobody yet.
    pub(super) fn lose_leader(&mut self) {
        self.note(&"the leader is lost");
        self.store.is_away = true;
        self.store.readers.clear();
        let time = self.dice.u64(200_000..3_000_000);
        self.plan_in(time, Event::Heal(Trouble::Leader));
    }

    pub(super) fn elect_leader(&mut self) {
        if self.store.is_away {
            self.note(&"another leads");
            self.store.is_away = false;
            let done = self.store.done.clone();
            self.store.ledger = Ledger::new(self.store.snapshot(), done, self.store_time());
        }
    }

    fn standing(&self, unit: Option<&UnitId>, now: Duration) -> Vec<RelayStanding> {
        let mut standing = self.store.ledger.standing(unit, now);
        if self.has(Planted::SessionsNotWaitedFor) {
            standing.retain(|relay| relay.silent_for.is_some_and(|silent| silent < Duration::from_secs(1)));
        }
        if self.has(Planted::ReportWithoutRevision) {
            for relay in &mut standing {
                relay.acks.extend(self.store.said(relay.session));
            }
        }
        standing
    }

    /// Planted: a commit that gives up a freeze.
    fn is_lost(&self, ask: &Ask) -> bool {
        let (true, Ask::Commit(commit)) = (self.has(Planted::AbortsLate), ask) else {
            return false;
        };
        commit.puts.iter().any(|put| {
            let Record::Node(node) = put else { return false };
            let is = self.store.ledger.node(&put.id());
            let stays = is.is_some_and(|is| is.state.is_frozen() && is.target == node.target);
            stays
                && self
                    .pauses
                    .since(&node.id)
                    .is_some_and(|since| self.now < since + 8_000_000)
        })
    }

    fn as_reported(&self, mut ack: FreezeAck) -> FreezeAck {
        if self.has(Planted::NotDrained) {
            ack.drained = true;
        }
        ack
    }

    fn as_compared(&self, mut commit: Commit) -> Commit {
        if self.has(Planted::RevisionNotCompared) {
            let ends_freeze = |id: &RecordId| {
                let node = self.store.ledger.node(id);
                node.is_some_and(|node| node.state.is_frozen() || node.state.work().is_none())
            };
            let nodes = |record: &Record| matches!(record, Record::Node(node) if node.state.work().is_none());
            if commit.puts.iter().any(nodes) {
                commit.compares.retain(|(id, _)| !ends_freeze(id));
            }
        }
        commit
    }
}

fn fine(result: Result<(), StoreError>) -> Answer {
    result.map_or_else(Answer::Failed, |()| Answer::Fine)
}
