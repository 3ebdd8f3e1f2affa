//! Messages that wait at the relays of the owners, and what the queue of each answers about nodes that are about to move or are frozen
//! (`inbound::queue_gate`), in small. S2 and S4.
//!
//! # Invariants
//! - B1. A node is frozen only when few messages of it wait at each relay of its unit that is there, or did since it began to move.
//! - B2. A node whose messages wait for too long stays, and says that this is why; one of which few wait does not stay for that, and no
//!   application is blamed that was not asked.
//! - B3. A key gets another owner when no message of it waits at a relay of the one before.
//!
//! B1 to B3 are looked at while nothing is wrong: who is silent is not waited for.

use std::collections::BTreeMap;

use super::planted::Planted;
use super::relay::Life;
use super::{Event, World};
use crate::control::keeper::GateId;
use crate::model::{ANY_KEY, UnitId};
use crate::routing::Standing;
use crate::routing::gate::Drain;
use crate::routing::record::{Batch, MoveId, Node, NodeId, Record, RecordId, Rev, State};

#[derive(Default)]
pub(super) struct Backlogs {
    /// By relay and key; on disk.
    waiting: BTreeMap<(usize, usize), u64>,
    /// Nobody takes these, until then.
    stuck: BTreeMap<(usize, usize), u64>,
    asked: BTreeMap<Life, Vec<Drain>>,
    /// Nodes that are about to move: since when, and what the move allows.
    begun: BTreeMap<NodeId, Begun>,
    /// Nodes that are frozen, and since when.
    frozen: BTreeMap<NodeId, u64>,
    most: u64,
}

#[derive(Clone, Debug)]
struct Begun {
    by: MoveId,
    rev: Rev,
    from: UnitId,
    at: u64,
    /// Whether an application is asked.
    hooks: bool,
    /// When few messages waited at a relay, and when many did, last.
    few: BTreeMap<usize, u64>,
    many: BTreeMap<usize, u64>,
}

impl Backlogs {
    /// The most that ever waited.
    pub(super) fn most(&self) -> u64 {
        self.most
    }
}

impl World {
    /// Time goes by for all messages.
    pub(super) fn look_at_messages(&mut self) {
        self.plan_in(EVERY, Event::Messages);
        self.take_messages();
        if !self.calm {
            self.publish_some();
        }
        self.watch_begun();
        for relay in 0..self.relays.len() {
            if let Some(number) = self.relays[relay].life().filter(|_| !self.relays[relay].is_paused) {
                self.answer_drains(Life { relay, number });
            }
        }
    }

    fn take_messages(&mut self) {
        let (now, calm) = (self.now, self.calm);
        self.backlogs.stuck.retain(|_, until| !calm && *until > now);
        let lines: Vec<(usize, usize)> = self.backlogs.waiting.keys().copied().collect();
        for line in lines {
            let is_there = self.relays[line.0].life().is_some() && !self.relays[line.0].is_paused;
            if is_there && !self.backlogs.stuck.contains_key(&line) {
                let taken = self.dice.u64(..6);
                let left = self.backlogs.waiting.get_mut(&line).unwrap();
                *left = left.saturating_sub(taken);
            }
        }
        self.backlogs.waiting.retain(|_, left| *left > 0);
    }

    /// Some services publish for a key; its owner takes that while it may.
    fn publish_some(&mut self) {
        if self.dice.bool() {
            return;
        }
        let (relay, subject) = (
            self.dice.usize(..self.relays.len()),
            self.dice.usize(..self.subjects.len()),
        );
        let count = match self.dice.u8(..3) {
            0 => self.dice.u64(20..300),
            _ => self.dice.u64(1..4),
        };
        let sticks = self.dice.u8(..12) == 0;
        let time = self.dice.u64(2_000_000..25_000_000);
        let Some(number) = self.relays[relay].life().filter(|_| !self.relays[relay].is_paused) else {
            return;
        };
        if !self.would_admit(Life { relay, number }, subject) {
            return;
        }
        let left = self.backlogs.waiting.entry((relay, subject)).or_default();
        *left += count;
        self.backlogs.most = self.backlogs.most.max(*left);
        if sticks {
            self.backlogs.stuck.insert((relay, subject), self.now + time);
        }
    }

    /// The queue is asked about a node.
    pub(super) fn ask_queue(&mut self, life: Life, drain: Drain) {
        let asked = self.backlogs.asked.entry(life).or_default();
        asked.retain(|other| (other.by, &other.node) != (drain.by, &drain.node));
        asked.push(drain);
    }

    fn answer_drains(&mut self, life: Life) {
        let asked = self.backlogs.asked.remove(&life).unwrap_or_default();
        let mut left = Vec::new();
        for drain in asked {
            let Some(is_frozen) = self.is_frozen(life, &drain) else {
                // It is over.
                continue;
            };
            let waits = self.waits(life, &drain, is_frozen);
            let answers = match is_frozen {
                true => waits == 0,
                false if self.has(Planted::FewAlways) => true,
                false => waits <= FEW && !self.has(Planted::FewNever),
            };
            if answers {
                self.at(life).keeper.on_drained(GateId::Queue, &drain);
                self.do_wishes(life);
            } else {
                left.push(drain);
            }
        }
        if self.relays[life.relay].life() == Some(life.number) && !left.is_empty() {
            self.backlogs.asked.entry(life).or_default().extend(left);
        }
    }

    /// Whether a node is frozen, as a relay has it; `None`: it is not any more what was asked about.
    fn is_frozen(&mut self, life: Life, drain: &Drain) -> Option<bool> {
        let routes = self.at(life).table.routes()?;
        let node = routes.node(&drain.node).filter(|node| node.rev == drain.rev)?;
        (node.state.work() == Some(drain.by)).then(|| node.state.is_frozen())
    }

    /// How many messages of a node wait at a relay.
    fn waits(&mut self, life: Life, drain: &Drain, is_frozen: bool) -> u64 {
        let lines = self.backlogs.waiting.range((life.relay, 0)..(life.relay + 1, 0));
        let lines: Vec<(usize, u64)> = lines.map(|((_, subject), left)| (*subject, *left)).collect();
        let unit = self.relays[life.relay].unit().clone();
        let mut all = 0;
        for (subject, left) in lines {
            let (hints, evidence) = (self.subjects[subject].hints(), self.evidence(life, subject, None));
            let table = self.at(life).table.clone();
            let Some(routes) = table.routes() else { continue };
            let concerned = match (
                table.resolve_with_trail(&hints, &ANY_KEY, &unit, &evidence),
                &drain.node,
            ) {
                (Ok((decision, _)), NodeId::Unit(_)) => match decision.standing {
                    Standing::Open => false,
                    Standing::Frozen { by, rev } => by == drain.by || rev > drain.rev,
                },
                (Ok((_, trail)), _) => routes.through(&drain.node, Rev(u64::MAX)).passes(&trail),
                (Err(_), _) => is_frozen,
            };
            all += if concerned { left } else { 0 };
        }
        all
    }

    /// What waits of nodes that are about to move.
    fn watch_begun(&mut self) {
        for (node, begun) in self.backlogs.begun.clone() {
            let (by, rev) = (begun.by, begun.rev);
            let drain = Drain { by, node, rev };
            for relay in self.relays_of(&begun.from) {
                let number = self.relays[relay].life().unwrap();
                let life = Life { relay, number };
                if self.is_frozen(life, &drain) != Some(false) {
                    continue;
                }
                let waits = self.waits(life, &drain, false);
                let (now, is_few) = (self.now, waits <= FEW);
                if let Some(begun) = self.backlogs.begun.get_mut(&drain.node) {
                    let seen = if is_few { &mut begun.few } else { &mut begun.many };
                    seen.insert(relay, now);
                }
            }
        }
    }

    /// Those that are there.
    fn relays_of(&self, unit: &UnitId) -> Vec<usize> {
        let is_there = |relay: &usize| {
            let relay = &self.relays[*relay];
            relay.unit() == unit && relay.life().is_some() && !relay.is_paused
        };
        (0..self.relays.len()).filter(is_there).collect()
    }

    /// Something was decided about nodes. `given`: keys that have another owner since, and whose they were.
    pub(super) fn on_nodes_written(&mut self, batch: &Batch, given: &[(usize, UnitId)]) {
        let nodes = batch.changes.iter().filter_map(|change| match &change.record {
            Some(Record::Node(node)) => Some(node),
            _ => None,
        });
        self.check_given(nodes.clone(), given);
        for node in nodes {
            let before = self.backlogs.begun.remove(&node.id);
            match (&node.state, node.target.unit()) {
                (State::Migrating { by, .. }, Some(from)) => {
                    let begun = Begun {
                        by: *by,
                        rev: node.rev,
                        from: from.clone(),
                        at: self.now,
                        hooks: self.asks_application(*by),
                        few: BTreeMap::new(),
                        many: BTreeMap::new(),
                    };
                    self.backlogs.begun.insert(node.id.clone(), begun);
                }
                (state, _) => {
                    let Some(before) = before.filter(|before| self.pauses.is_quiet_since(before.at)) else {
                        continue;
                    };
                    let wrong = match state {
                        State::Frozen { .. } => self.frozen_early(&node.id, &before),
                        State::Active => self.stayed_wrongly(&before, &node.reason),
                        _ => None,
                    };
                    if let Some(wrong) = wrong {
                        self.witness
                            .blame(format!("R-3.9 S2: {:?} {wrong}: {before:?}", node.id));
                    }
                }
            }
        }
    }

    fn asks_application(&self, by: MoveId) -> bool {
        let reading = self.store.ledger.read(&[RecordId::Move(by)]);
        let found = reading.found.into_iter().flatten().find_map(|change| change.record);
        matches!(found, Some(Record::Move(work)) if work.options.hooks)
    }

    /// B3. What has another owner is what the history says of each key. A look at what else waits of the node, or of what the same move has
    /// frozen since, would blame a move for messages of keys that stay where they are.
    fn check_given<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>, given: &[(usize, UnitId)]) {
        let mut since = None;
        for node in nodes {
            since = self.backlogs.frozen.remove(&node.id).or(since);
            if node.state.is_frozen() {
                self.backlogs.frozen.insert(node.id.clone(), self.now);
            }
        }
        if !since.is_some_and(|since| self.pauses.is_quiet_since(since)) {
            return;
        }
        for (subject, from) in given {
            for relay in self.relays_of(from) {
                if let Some(waits) = self.backlogs.waiting.get(&(relay, *subject)) {
                    let text = format!(
                        "R-3.9 S4: key {subject} is given away, and {waits} messages of it wait at relay {relay} of {from}"
                    );
                    self.witness.blame(text);
                }
            }
        }
    }

    fn frozen_early(&mut self, node: &NodeId, begun: &Begun) -> Option<String> {
        let drain = Drain {
            by: begun.by,
            node: node.clone(),
            rev: begun.rev,
        };
        for relay in self.relays_of(&begun.from) {
            let number = self.relays[relay].life().unwrap();
            let waits = self.waits(Life { relay, number }, &drain, false);
            if waits > FEW && !begun.few.contains_key(&relay) {
                return Some(format!(
                    "is frozen, and {waits} messages of it wait at relay {relay}, never fewer"
                ));
            }
        }
        None
    }

    fn stayed_wrongly(&self, begun: &Begun, reason: &str) -> Option<String> {
        let lately = |seen: &BTreeMap<usize, u64>| seen.values().any(|at| at + LATELY >= self.now);
        let says_so = reason.contains("messages of it waited");
        if says_so && !lately(&begun.many) {
            return Some("stays for its messages, of which few have waited lately".to_owned());
        }
        let blames_application = reason.contains("copied for too long");
        (blames_application && !begun.hooks).then(|| "stays because of an application that nobody asks".to_owned())
    }
}

/// Messages that may wait when a node is frozen (`queue_gate`).
const FEW: u64 = 16;
/// Between two looks.
const EVERY: u64 = 100_000;
/// It takes so long at most until a mover has heard of what waits.
const LATELY: u64 = 4_000_000;
