//! A ledger, relays that admit writes, and movers at some of them. Everything that goes over the network may be lost, come late
//! or twice; whoever is told to dies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Act, HookCall, Hooked, Limits, Mover, Plan, Planned, Sight, Standing};
use crate::control::ledger::Ledger;
use crate::control::store::StoreError;
use crate::model::{Name, UnitId};
use crate::routing::lease::LeaseState;
use crate::routing::record::{
    Book, Commit, Committed, Epoch, FreezeAck, Hook, Lease, Move, MoveId, MoveKind, MoveOptions, MoveState, Node,
    NodeId, OpId, Record, RecordId, RelayId, Rev, Snapshot, State,
};
use crate::routing::{Found, Routes};

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Keys of dimension `cid`, and from 100 on of `long`, whose lease never ends. Unit a has them.
pub(super) fn key(number: u64) -> NodeId {
    NodeId::Key {
        dimension: name(if number < 100 { "cid" } else { "long" }),
        key: number.to_string().as_str().into(),
    }
}

/// All keys of a dimension that have no record of their own.
pub(super) fn rule(dimension: &str) -> NodeId {
    NodeId::Rule {
        dimension: name(dimension),
        rule: if dimension == "cid" { 1 } else { 2 },
    }
}

pub(super) fn relay(id: &str) -> RelayId {
    RelayId {
        unit: name(&id[..1]),
        relay: name(id),
    }
}

pub(super) struct World {
    pub(super) ledger: Ledger,
    pub(super) now: Duration,
    pub(super) relays: Vec<Relay>,
    pub(super) pilots: Vec<Pilot>,
    pub(super) ops: u128,
    /// Who admitted the last write of a key, and the newest epoch under which that unit did.
    terms: BTreeMap<NodeId, (UnitId, u64)>,
    /// Every revision of every node, in order.
    pub(super) history: Vec<Node>,
    /// What applications were asked, in order, and what they answer.
    pub(super) asked: Vec<HookCall>,
    pub(super) answers: Box<dyn Fn(&HookCall) -> Hooked>,
    /// A question that is asked, and not answered.
    pub(super) stuck: Option<Hook>,
}

pub(super) struct Relay {
    pub(super) id: RelayId,
    pub(super) routes: Routes,
    pub(super) lease: LeaseState,
    pub(super) writes: Vec<Write>,
    pub(super) is_cut: bool,
    /// Many messages wait there.
    pub(super) has_many: bool,
    /// A call there does not end.
    pub(super) never_drains: bool,
    /// What it says holds up freezes there.
    pub(super) held_by: Option<String>,
    pub(super) mail: Vec<FreezeAck>,
}

pub(super) struct Write {
    node: NodeId,
    at: Rev,
    since: Duration,
}

/// A mover and what it waits for.
pub(super) struct Pilot {
    pub(super) mover: Mover,
    pub(super) at: usize,
    pub(super) standing: Option<Standing>,
    /// Whether its last look wanted to know how relays stand.
    pub(super) wants: bool,
    pub(super) acts: Vec<Act>,
    /// Commits that may still arrive a second time.
    pub(super) echoes: Vec<Commit>,
}

impl World {
    pub(super) fn new(relays: &[&str], movers: &[usize]) -> Self {
        let empty = Snapshot {
            epoch: Epoch::new(1, Rev::ZERO),
            seed: 7,
            changes: Vec::new(),
        };
        let mut ledger = Ledger::new(empty, [], Duration::ZERO);
        let kind = |text: &str, lease: &str| {
            serde_json::from_value(
                serde_json::json!({ "name": text, "owner_lease": lease, "hooks": { "service": "im.OwnerControl" } }),
            )
            .unwrap()
        };
        let rule = |dimension: &str| {
            serde_json::from_value(serde_json::json!({ "dimension": dimension, "unit": "a", "default": true })).unwrap()
        };
        let book = Book {
            units: ["a", "b", "c", "d"].map(name).to_vec(),
            dimensions: vec![kind("cid", "20s"), kind("long", "infinite")],
            rules: vec![(1, rule("cid")), (2, rule("long"))],
            ..Book::default()
        };
        let commit = Commit {
            op: OpId(1),
            compares: Vec::new(),
            puts: vec![Record::Book(book)],
            removes: Vec::new(),
        };
        ledger.commit(commit).unwrap();
        let routes = Routes::from_snapshot(&ledger.snapshot());
        let mut world = Self {
            ledger,
            now: Duration::from_secs(1000),
            relays: Vec::new(),
            pilots: Vec::new(),
            ops: 1000,
            terms: BTreeMap::new(),
            history: Vec::new(),
            asked: Vec::new(),
            answers: Box::new(|_| Hooked::Done),
            stuck: None,
        };
        for id in relays {
            world.relays.push(Relay {
                id: relay(id),
                routes: routes.clone(),
                lease: LeaseState::default(),
                writes: Vec::new(),
                is_cut: false,
                has_many: false,
                never_drains: false,
                held_by: None,
                mail: Vec::new(),
            });
        }
        for at in 0..world.relays.len() {
            world.renew(at);
            world.feed(at);
        }
        for at in movers {
            let mover = Mover::new(world.relays[*at].id.clone(), Limits::default());
            world.pilots.push(Pilot {
                mover,
                at: *at,
                standing: None,
                wants: false,
                acts: Vec::new(),
                echoes: Vec::new(),
            });
        }
        world
    }

    pub(super) fn op(&mut self) -> OpId {
        // What is done in parts numbers them from here.
        self.ops += 100;
        OpId(self.ops)
    }

    pub(super) fn work(&self, id: u64, to: &str, nodes: Vec<NodeId>) -> Move {
        Move {
            id: MoveId(id),
            kind: MoveKind::Nodes,
            of: None,
            nodes,
            to: name(to),
            since: self.ledger.epoch().rev(),
            options: MoveOptions {
                hooks: false,
                trail: Duration::from_secs(60),
                ..MoveOptions::default()
            },
            state: MoveState::Running,
            driver: self.relays[0].id.clone(),
            next: 0,
            moved: 0,
            aborted: 0,
            asked_at: 0,
            reason: String::new(),
            note: None,
            waits_for: None,
            undelivered_at: None,
            shadow_incomplete: false,
        }
    }

    pub(super) fn put(&mut self, record: Record) -> Rev {
        let commit = Commit {
            op: self.op(),
            compares: Vec::new(),
            puts: vec![record],
            removes: Vec::new(),
        };
        match self.store(commit).unwrap() {
            Committed::Done(rev) => rev,
            other @ Committed::Conflict { .. } => panic!("{other:?}"),
        }
    }

    /// Has the ledger do a commit, and checks the steps of nodes in it.
    pub(super) fn store(&mut self, commit: Commit) -> Result<Committed, StoreError> {
        let before = Routes::from_snapshot(&self.ledger.snapshot());
        let (committed, written) = self.ledger.commit(commit)?;
        for change in written.into_iter().flat_map(|written| written.batch.changes) {
            if let Some(Record::Node(node)) = change.record {
                self.check_step(&before, &node);
                self.history.push(node);
            }
        }
        Ok(committed)
    }

    /// R-D3, R-I10: each state only follows the one before it, and the owner changes only out of a freeze.
    fn check_step(&self, before: &Routes, node: &Node) {
        if matches!(node.id, NodeId::Unit(_)) {
            return;
        }
        let view = before.view(&node.id);
        let was = view.map_or(&State::Active, |view| view.state());
        let owner = view.and_then(|view| view.unit().cloned());
        let is_fine = match &node.state {
            State::Migrating { .. } => *was == State::Active,
            State::Frozen { by, .. } => matches!(was, State::Migrating { by: before, .. } if before == by),
            State::Active if owner.as_ref() != node.target.unit() => {
                let stopped = self
                    .relays
                    .iter()
                    .filter(|relay| Some(&relay.id.unit) == owner.as_ref());
                for relay in stopped {
                    assert!(
                        !relay.writes.iter().any(|write| write.node == node.id),
                        "R-I2: {:?}",
                        relay.id
                    );
                }
                matches!(was, State::Frozen { to, .. } if Some(to) == node.target.unit())
            }
            _ => true,
        };
        assert!(is_fine, "{was:?} -> {node:?}");
    }

    /// A relay reads what there is of the feed.
    pub(super) fn feed(&mut self, at: usize) {
        let relay = &mut self.relays[at];
        if relay.is_cut {
            return;
        }
        let batch = self.ledger.since(relay.routes.rev()).unwrap();
        relay.routes = relay.routes.apply(&batch).unwrap();
    }

    pub(super) fn renew(&mut self, at: usize) {
        if self.relays[at].is_cut {
            return;
        }
        let (now, id) = (self.now, self.relays[at].id.clone());
        if let Some(session) = self.relays[at].lease.session() {
            match self.ledger.renew(session, now) {
                Ok(()) => self.relays[at].lease.renewed(session, now, now),
                Err(_) => self.relays[at].lease.over(session),
            }
        }
        if self.relays[at].lease.session().is_none() {
            let op = self.op();
            let commit = self.ledger.opening(id, op);
            let Record::Relay(record) = commit.puts[0].clone() else {
                panic!()
            };
            self.ledger.commit(commit).unwrap();
            let opened = self.ledger.opened(record, now);
            self.relays[at].lease.opened(opened.session, opened.epoch.rev(), now);
        }
    }

    /// A write comes to a relay; checks R-I1, R-I2 and R-I3 if it is admitted.
    pub(super) fn write(&mut self, at: usize, node: &NodeId) {
        let relay = &self.relays[at];
        let Some((owner, epoch)) = owner(&relay.routes, node) else {
            return;
        };
        let lease = if node.dimension() == Some(&name("long")) {
            Lease::Infinite
        } else {
            Lease::Seconds(20)
        };
        if owner != relay.id.unit || !relay.lease.admits(lease, relay.routes.rev(), self.now) {
            return;
        }
        for other in &self.relays {
            let runs = other.writes.iter().any(|write| write.node == *node);
            assert!(
                !runs || other.id.unit == owner,
                "R-I2, R-I3: {:?} and {:?} write {node:?}",
                other.id,
                relay.id
            );
        }
        let term = self.terms.entry(node.clone()).or_insert((owner.clone(), epoch));
        // Relays of one unit may be behind each other; a unit that got the key has it under a later epoch.
        let is_later = term.0 == owner || term.1 < epoch;
        assert!(is_later, "R-I1: {term:?} then {epoch} at {:?}", relay.id);
        *term = (owner.clone(), if term.0 == owner { epoch.max(term.1) } else { epoch });
        let write = Write {
            node: node.clone(),
            at: relay.routes.rev(),
            since: self.now,
        };
        self.relays[at].writes.push(write);
    }

    /// A relay reports its freezes as they stand; the reports are underway.
    pub(super) fn report(&mut self, at: usize) {
        let relay = &mut self.relays[at];
        let Some(session) = relay.lease.session() else { return };
        for node in relay.routes.moving().filter(|node| node.is_served_by(&relay.id.unit)) {
            let is_frozen = node.state.is_frozen();
            let is_meant = |write: &Write| {
                let is_through = match &node.id {
                    NodeId::Rule { dimension, .. } => write.node.dimension() == Some(dimension),
                    NodeId::Unit(_) => true,
                    id => write.node == *id,
                };
                is_through && write.at < node.rev
            };
            relay.mail.push(FreezeAck {
                session,
                by: node.state.work().unwrap(),
                node: node.id.clone(),
                rev: node.rev,
                drained: if is_frozen {
                    !relay.never_drains && !relay.writes.iter().any(is_meant)
                } else {
                    !relay.has_many
                },
                held_by: relay.held_by.clone(),
            });
        }
    }

    pub(super) fn deliver(&mut self, at: usize, which: usize) {
        let relay = &mut self.relays[at];
        if !relay.is_cut && !relay.mail.is_empty() {
            let index = which % relay.mail.len();
            self.ledger.report(vec![relay.mail.swap_remove(index)]);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let over = self.now.saturating_sub(Limits::default().in_flight_max);
        for relay in &mut self.relays {
            relay.writes.retain(|write| write.since > over);
        }
    }

    pub(super) fn ask_standing(&mut self, pilot: usize) {
        let at = self.relays[self.pilots[pilot].at].routes.rev();
        let relays = self.ledger.standing(None, self.now);
        self.pilots[pilot].standing = Some(Standing { at, relays });
    }

    pub(super) fn look(&mut self, pilot: usize) -> Plan {
        let pilot = &mut self.pilots[pilot];
        let sight = Sight {
            routes: &self.relays[pilot.at].routes,
            standing: pilot.standing.as_ref(),
            now: self.now,
        };
        let plan = pilot.mover.look(&sight);
        pilot.acts.extend(plan.acts.iter().cloned());
        pilot.wants = plan.wants_standing;
        plan
    }

    /// Does one act; its answer is lost unless `answered`.
    pub(super) fn act(&mut self, pilot: usize, which: usize, answered: bool) {
        if self.pilots[pilot].acts.is_empty() {
            return;
        }
        let index = which % self.pilots[pilot].acts.len();
        let act = self.pilots[pilot].acts.swap_remove(index);
        let now = self.now;
        match act {
            Act::Commit(planned) => {
                let Planned { commit, .. } = *planned;
                let op = commit.op;
                self.pilots[pilot].echoes.push(commit.clone());
                let done = self.store(commit).unwrap();
                let lost = Err(StoreError::Away("lost".to_owned()));
                let answer = if answered { Ok(done) } else { lost };
                self.pilots[pilot].mover.on_committed(op, &answer, now);
            }
            Act::Hook(call) => {
                if self.stuck != Some(call.hook) {
                    let hooked = (self.answers)(&call);
                    self.pilots[pilot].mover.on_hook(&call, hooked, now);
                }
                self.asked.push(call);
            }
            Act::Claims(by, keys) => {
                let nothing = Ok((Rev::ZERO, vec![None; keys.len()]));
                let epoch = self.relays[self.pilots[pilot].at].routes.epoch();
                self.pilots[pilot].mover.on_claims(by, &keys, epoch, &nothing);
            }
        }
    }

    /// A commit arrives once more.
    pub(super) fn echo(&mut self, pilot: usize, which: usize) {
        let echoes = &self.pilots[pilot].echoes;
        if !echoes.is_empty() {
            let commit = echoes[which % echoes.len()].clone();
            let _ = self.store(commit);
        }
    }

    pub(super) fn kill(&mut self, pilot: usize) {
        let pilot = &mut self.pilots[pilot];
        pilot.mover = Mover::new(self.relays[pilot.at].id.clone(), Limits::default());
        pilot.acts.clear();
    }

    /// The relay of a pilot starts again.
    pub(super) fn restart(&mut self, pilot: usize) {
        self.kill(pilot);
        self.relays[self.pilots[pilot].at].lease = LeaseState::default();
    }

    /// Everybody who is there does all there is to do.
    pub(super) fn round(&mut self) {
        self.pass(Duration::from_millis(50));
        for at in 0..self.relays.len() {
            self.renew(at);
            self.feed(at);
            self.relays[at].writes.clear();
            self.report(at);
            while !self.relays[at].is_cut && !self.relays[at].mail.is_empty() {
                self.deliver(at, 0);
            }
        }
        for pilot in 0..self.pilots.len() {
            if self.relays[self.pilots[pilot].at].is_cut {
                continue;
            }
            if self.pilots[pilot].wants {
                self.ask_standing(pilot);
            } else {
                self.pilots[pilot].standing = None;
            }
            self.look(pilot);
            while !self.pilots[pilot].acts.is_empty() {
                self.act(pilot, 0, true);
            }
        }
    }

    pub(super) fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    pub(super) fn found(&self, id: u64) -> Move {
        let reading = self.ledger.read(&[RecordId::Move(MoveId(id))]);
        match reading
            .found
            .into_iter()
            .flatten()
            .next()
            .and_then(|change| change.record)
        {
            Some(Record::Move(work)) => work,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn node(&self, id: &NodeId) -> Option<&Node> {
        self.ledger.node(&RecordId::Node(id.clone()))
    }

    pub(super) fn unit(&self, unit: &str) -> State {
        let node = self.node(&NodeId::Unit(name(unit)));
        node.map_or(State::Active, |node| node.state.clone())
    }
}

/// Who admits writes of a node, and under which epoch.
pub(super) fn owner(routes: &Routes, id: &NodeId) -> Option<(UnitId, u64)> {
    let mut view = routes.view(id);
    if view.is_none() {
        let rule = id
            .dimension()
            .and_then(|dimension| routes.view(&rule(dimension.as_str())));
        view = rule.filter(|view| matches!(view.state(), State::Migrating { .. }));
    }
    if let Some(State::Migrating { .. }) = view.map(|view| view.state()) {
        let unit = view?.unit()?.clone();
        let state = routes.view(&NodeId::Unit(unit.clone()));
        let is_fine = state.is_none_or(|view| matches!(view.state(), State::Active | State::Draining));
        return is_fine.then(|| (unit, view.map_or(0, |view| view.rev().0)));
    }
    let origin = routes.origin(id, &Found::Unasked).ok()?;
    let epoch = origin.path.iter().map(|(_, rev)| rev.0).max()?;
    Some((origin.unit, epoch))
}
