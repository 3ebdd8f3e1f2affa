//! Moves, driven step by step from relays; any of them may go on with what another one began, and two at once do no harm.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{UNITS, name};
use super::owner::IN_FLIGHT_MAX;
use super::relay::{Asked, Life};
use super::store::{Answer, Ask};
use super::{Event, World};
use crate::control::store::RelayStanding;
use crate::model::UnitId;
use crate::routing::lease::is_expired;
use crate::routing::record::{
    Commit, Committed, Lease, MoveId, Node, NodeId, OpId, Record, RecordId, Rev, State, Target,
};

/// What a relay drives.
#[derive(Clone, Debug)]
pub(super) struct Job {
    id: NodeId,
    to: UnitId,
    step: Step,
    asks: bool,
    until: Duration,
}

#[derive(Clone, Debug)]
enum Step {
    /// Read what the store has of it.
    Read,
    /// It is frozen: wait until its relays are done.
    Wait(Box<Node>),
    /// The last commit is under way.
    Ending,
}

#[derive(Debug, Default)]
pub(super) struct Coordinators {
    begun: u64,
    moved: u64,
    aborted: u64,
    last: BTreeMap<NodeId, UnitId>,
}

impl Coordinators {
    pub(super) fn stats(&self) -> String {
        let Self { begun, moved, aborted, .. } = self;
        format!("{begun} moves begun, {moved} moved, {aborted} aborted")
    }
}

impl World {
    /// An operator moves something, or somebody goes on with what was left behind.
    pub(super) fn work(&mut self) {
        let time = if self.calm { 400_000 } else { self.dice.u64(50_000..900_000) };
        self.plan_in(time, Event::Work);
        let relay = self.dice.usize(..self.relays.len());
        let Some(number) = self.relays[relay].life() else { return };
        let life = Life { relay, number };
        let now = self.relays[relay].clock(self.now);
        if self.at(life).job.is_some() {
            return;
        }
        let left: Vec<_> = self.store.moving();
        let id = if !left.is_empty() && (self.calm || self.dice.bool()) {
            self.dice.choice(left).unwrap()
        } else if self.is_settling() {
            return;
        } else {
            let subject = self.dice.choice(&self.subjects).unwrap().clone();
            if self.dice.u8(..3) == 0 { subject.wider_node() } else { subject.node() }
        };
        let to = name(self.dice.choice(UNITS).unwrap());
        let to = self.coordinators.last.get(&id).filter(|_| self.calm).cloned().unwrap_or(to);
        let patience = Duration::from_millis(self.dice.u64(500..6_000));
        self.at(life).job = Some(Job {
            id,
            to,
            step: Step::Read,
            asks: false,
            until: now + patience,
        });
        self.coordinators.begun += 1;
        self.on_job_tick(life);
    }

    /// The next question of a job, if none is open.
    pub(super) fn on_job_tick(&mut self, life: Life) {
        let Some(job) = self.at(life).job.as_mut().filter(|job| !job.asks) else {
            return;
        };
        job.asks = true;
        let ask = match &job.step {
            Step::Read => Ask::Read(vec![RecordId::Node(job.id.clone())]),
            Step::Wait(_) => Ask::Standing(None),
            Step::Ending => return,
        };
        self.ask_store(life, Asked::Job, ask);
    }

    pub(super) fn on_job_answer(&mut self, life: Life, answer: Answer) {
        let Some(mut job) = self.at(life).job.take() else { return };
        job.asks = false;
        let kept = match (&job.step, answer) {
            (Step::Read, Answer::Read(reading)) => {
                let found = reading.found.into_iter().flatten().next();
                let node = found.and_then(|change| match change.record {
                    Some(Record::Node(node)) => Some(node),
                    _ => None,
                });
                self.begin(life, &mut job, node)
            }
            (Step::Read, Answer::Committed(Committed::Done(rev))) => {
                let node = self.store.ledger.node(&RecordId::Node(job.id.clone())).cloned();
                job.step = node.filter(|node| node.rev == rev).map_or(Step::Read, |node| Step::Wait(Box::new(node)));
                true
            }
            (Step::Wait(node), Answer::Standing(standing)) => {
                let node = node.clone();
                self.look_at_barrier(life, &mut job, *node, &standing)
            }
            _ => false,
        };
        if kept {
            self.at(life).job = Some(job);
        }
    }

    /// Freezes what is at rest, or goes on with what is frozen.
    fn begin(&mut self, life: Life, job: &mut Job, node: Option<Node>) -> bool {
        let rev = node.as_ref().map_or(Rev::ZERO, |node| node.rev);
        let by = MoveId(self.dice.u64(..));
        if let Some(node) = node.as_ref().filter(|node| node.state.is_frozen()) {
            if let State::Frozen { to, .. } = &node.state {
                job.to = to.clone();
            }
            job.step = Step::Wait(Box::new(node.clone()));
            return true;
        }
        let Some((from, mut compares)) = self.source(life, &job.id) else { return false };
        if from == job.to {
            return false;
        }
        compares.retain(|(id, _)| *id != RecordId::Node(job.id.clone()));
        compares.push((RecordId::Node(job.id.clone()), rev));
        let state = State::Frozen { to: job.to.clone(), by };
        let commit = self.commit_of(job, Target::Unit(from), state, compares);
        job.asks = true;
        self.coordinators.last.insert(job.id.clone(), job.to.clone());
        self.ask_store(life, Asked::Job, Ask::Commit(Box::new(commit)));
        true
    }

    /// Who has a node by this relay's copy, and the records that say so.
    fn source(&mut self, life: Life, id: &NodeId) -> Option<(UnitId, Vec<(RecordId, Rev)>)> {
        let subject = self.subjects.iter().position(|subject| subject.node() == *id);
        let table = self.at(life).table.clone();
        let routes = table.routes()?;
        let mut path = vec![id.clone()];
        let owner = match subject {
            Some(subject) => {
                let wider = self.subjects[subject].wider_node();
                let company = self.subjects.iter().find(|other| other.node() == wider);
                path.extend(company.map(super::keys::Subject::wider_node));
                path.push(wider);
                self.owner_by(life, subject)?
            }
            None => table.owner_of(id)?.clone(),
        };
        let rev = |id: NodeId| {
            let rev = routes.view(&id).map_or(Rev::ZERO, |view| view.rev());
            (RecordId::Node(id), rev)
        };
        Some((owner, path.into_iter().map(rev).collect()))
    }

    fn look_at_barrier(&mut self, life: Life, job: &mut Job, node: Node, standing: &[RelayStanding]) -> bool {
        let now = self.relays[life.relay].clock(self.now);
        let Target::Unit(from) = node.target.clone() else { return false };
        let leases = self.store.ledger.book().unwrap();
        let lease = leases.dimensions.iter().find(|spec| Some(&spec.name) == node.id.dimension());
        let lease = lease.map_or(Lease::Infinite, |spec| spec.owner_lease);
        let mut relays = standing.iter().filter(|relay| relay.relay.unit == from);
        let is_done = relays.all(|relay| {
            let drained = |ack: &crate::routing::record::FreezeAck| {
                ack.node == node.id && ack.rev == node.rev && Some(ack.by) == node.state.work() && ack.drained
            };
            relay.acks.iter().any(drained) || is_expired(relay.silent_for, lease, IN_FLIGHT_MAX)
        });
        let gives_up = now >= job.until || self.dice.u8(..60) == 0;
        let owner = match (is_done, gives_up) {
            (true, _) => job.to.clone(),
            (false, true) => from,
            (false, false) => return true,
        };
        let count = if is_done { &mut self.coordinators.moved } else { &mut self.coordinators.aborted };
        *count += 1;
        let compares = vec![(RecordId::Node(node.id.clone()), node.rev)];
        let commit = self.commit_of(job, Target::Unit(owner), State::Active, compares);
        job.step = Step::Ending;
        job.asks = true;
        self.ask_store(life, Asked::Job, Ask::Commit(Box::new(commit)));
        true
    }

    fn commit_of(&mut self, job: &Job, target: Target, state: State, compares: Vec<(RecordId, Rev)>) -> Commit {
        let op = OpId(self.dice.u128(..));
        let node = Node {
            id: job.id.clone(),
            target,
            state,
            rev: Rev::ZERO,
            previous: None,
            op,
            reason: String::new(),
        };
        Commit {
            op,
            compares,
            puts: vec![Record::Node(node)],
            removes: Vec::new(),
        }
    }
}
