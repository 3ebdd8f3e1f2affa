//! Work on whole units, as it is begun: evacuate, drain, give back. Pure.
//!
//! What is begun is a commit that writes the record of a move; movers do the rest.

mod draining;
mod evacuating;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::draining::{Draining, drain, holdings, of_unit, take_back};
pub use self::evacuating::{evacuate, fence_lease, give_back};
use crate::model::UnitId;
use crate::routing::Routes;
use crate::routing::record::{
    Commit, Move, MoveId, MoveKind, MoveOptions, MoveState, Node, NodeId, OpId, Record, RecordId, RelayId, Rev, State,
    Target, Term,
};

/// Who asks for work on a unit, and what its records are to say.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The operation, random bits; the numbers of moves come from it.
    pub op: OpId,
    /// The relay that drives the work.
    pub driver: RelayId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who, and why.
    pub reason: String,
}

/// Why work on a unit is not begun; says what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// What is to be written, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Begun {
    /// In this order.
    pub commits: Vec<Commit>,
    /// The moves that they begin.
    pub moves: Vec<MoveId>,
    /// What each unit gets.
    pub shares: BTreeMap<UnitId, Counts>,
}

/// What a unit has, or gets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Buckets of rules with shares.
    pub buckets: usize,
    /// Other rules, each with all its keys.
    pub rules: usize,
    /// Keys that something was decided about.
    pub keys: usize,
    /// Keys that were claimed, and nothing else.
    pub claims: usize,
}

impl Counts {
    /// All of it.
    pub fn sum(self) -> usize {
        self.buckets + self.rules + self.keys + self.claims
    }

    /// Together with other ones.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            buckets: self.buckets + other.buckets,
            rules: self.rules + other.rules,
            keys: self.keys + other.keys,
            claims: self.claims + other.claims,
        }
    }

    /// One more.
    pub fn add(&mut self, id: &NodeId, is_claim: bool) {
        match id {
            NodeId::Bucket { .. } => self.buckets += 1,
            NodeId::Rule { .. } => self.rules += 1,
            NodeId::Key { .. } if is_claim => self.claims += 1,
            NodeId::Key { .. } => self.keys += 1,
            NodeId::Unit(_) => {}
        }
    }
}

impl Begun {
    /// Marks a unit, if its record is still as it is here.
    fn mark(&mut self, unit: &UnitId, state: State, routes: &Routes, asked: &Asked) {
        let id = NodeId::Unit(unit.clone());
        let rev = routes.rev_of(&RecordId::Node(id.clone()));
        let node = Node {
            id: id.clone(),
            target: Target::Unit(unit.clone()),
            state,
            rev: Rev::ZERO,
            term: same_term(routes, unit),
            previous: None,
            home: None,
            op: asked.op,
            reason: asked.reason.clone(),
        };
        self.commits.push(Commit {
            compares: vec![(RecordId::Node(id), rev)],
            ..begun(asked.op, vec![Record::Node(node)])
        });
    }

    /// Moves nodes to a unit, in as many moves as it takes.
    fn moves(&mut self, since: Rev, nodes: Vec<NodeId>, (of, to): (&UnitId, &UnitId), how: (&MoveOptions, &Asked)) {
        let (options, asked) = how;
        for nodes in portions(nodes) {
            let number = self.commits.len();
            let work = Move {
                options: options.clone(),
                of: Some(of.clone()),
                ..work(since, MoveKind::Nodes, nodes, to.clone(), (asked, number))
            };
            self.moves.push(work.id);
            let op = OpId(asked.op.0.wrapping_add(u128::try_from(number).unwrap_or_default()));
            self.commits.push(begun(op, vec![Record::Move(work)]));
        }
    }
}

/// As many as one record takes, in number and in bytes: etcd takes requests of a megabyte and a half.
fn portions(nodes: Vec<NodeId>) -> Vec<Vec<NodeId>> {
    let mut portions = Vec::new();
    let mut portion = Vec::new();
    let mut bytes = 0;
    for node in nodes {
        let size = match &node {
            NodeId::Key { dimension, key } => NODE_BYTES + dimension.as_str().len() + key.0.len() * 2,
            _ => 2 * NODE_BYTES,
        };
        if portion.len() >= Move::NODES_MAX || bytes + size > PORTION_BYTES_MAX {
            portions.push(std::mem::take(&mut portion));
            bytes = 0;
        }
        bytes += size;
        portion.push(node);
    }
    if !portion.is_empty() {
        portions.push(portion);
    }
    portions
}

/// Since when a unit has what it has, for a record that changes nothing of that. What was never decided about has ever been so.
pub(super) fn same_term(routes: &Routes, unit: &UnitId) -> Term {
    let view = routes.view(&NodeId::Unit(unit.clone()));
    view.map_or(Term::since(Rev::ZERO), |view| view.same_term())
}

fn state_of<'a>(routes: &'a Routes, unit: &UnitId) -> Result<&'a State, Refused> {
    let found = routes.units().find(|(known, _)| *known == unit);
    let text = "is not published in this Geo; correct its name: `strait unit status` lists those there are";
    found
        .map(|(_, state)| state)
        .ok_or_else(|| Refused(format!("unit {unit} {text}")))
}

/// Whether other units can be given what a unit has.
fn check_heirs(routes: &Routes, unit: &UnitId, shares: &[(UnitId, u16)]) -> Result<(), Refused> {
    for (at, (heir, _)) in shares.iter().enumerate() {
        if heir == unit {
            return refused(format!("unit {unit} cannot get its own keys; name others with --to"));
        }
        if shares.iter().take(at).any(|(other, _)| other == heir) {
            return refused(format!(
                "unit {heir} is named twice; name each unit once, with its weight"
            ));
        }
        if !routes.book().units.contains(heir) {
            return refused(format!(
                "unit {heir} is not published in this Geo, and keys do not leave it; `strait unit status` lists the units"
            ));
        }
        if !routes.is_active(heir) {
            return refused(format!(
                "unit {heir} takes no keys now: it is drained, evacuated or under way to that; name others, or give it its keys \
                 back first with `strait unit return`"
            ));
        }
    }
    if shares.iter().any(|(_, weight)| *weight > 0) {
        return Ok(());
    }
    refused("name at least one unit that gets keys, with a weight above 0, such as --to b=2,c=1")
}

fn work(since: Rev, kind: MoveKind, nodes: Vec<NodeId>, to: UnitId, (asked, number): (&Asked, usize)) -> Move {
    Move {
        id: numbered(asked.op, number),
        kind,
        of: None,
        nodes,
        to,
        since,
        options: MoveOptions::default(),
        state: MoveState::Running,
        driver: asked.driver.clone(),
        next: 0,
        moved: 0,
        aborted: 0,
        asked_at: asked.at,
        reason: asked.reason.clone(),
        note: None,
        waits_for: None,
        undelivered_at: None,
        shadow_incomplete: false,
    }
}

/// A number of its own for each move of an operation, the same each time it is asked for.
fn numbered(op: OpId, number: usize) -> MoveId {
    let low = u64::try_from(op.0 & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(op.0 >> 64).unwrap_or_default();
    let number = u64::try_from(number).unwrap_or_default();
    MoveId((low ^ high.rotate_left(32)).wrapping_add(number))
}

/// Writes records, none of which is there yet.
fn begun(op: OpId, puts: Vec<Record>) -> Commit {
    Commit {
        op,
        compares: puts.iter().map(|record| (record.id(), Rev::ZERO)).collect(),
        puts,
        removes: Vec::new(),
    }
}

fn refused<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(text.into()))
}

/// What a node takes in a record beside its key, as JSON.
const NODE_BYTES: usize = 48;
const PORTION_BYTES_MAX: usize = 768 << 10;
