//! Work on whole units, as it is begun: evacuate, drain, give back. Pure.
//!
//! What is begun is a commit that writes the record of a move; movers do the rest.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::UnitId;
use crate::routing::record::{
    Commit, Move, MoveId, MoveKind, MoveOptions, MoveState, Node, NodeId, OpId, Record, RecordId, RelayId, Rev,
    Snapshot, State, Target,
};
use crate::routing::{BUCKETS, Found, Routes, rendezvous};

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

/// Evacuates a unit: its keys go to others by weight, without its help. What the application has not copied is lost.
///
/// Relays of the unit that do not answer are waited for until the longest lease is over; for ever, if a dimension has one that
/// never ends, unless `accept_dual` is signed for: then such keys may be written at two units for a while (R-D7).
///
/// # Errors
/// [`Refused`].
pub fn evacuate(
    routes: &Routes,
    unit: &UnitId,
    takeover: &[(UnitId, u16)],
    accept_dual: bool,
    asked: &Asked,
) -> Result<Commit, Refused> {
    let state = state_of(routes, unit)?;
    if !matches!(state, State::Active | State::Draining) {
        return refused(format!("unit {unit} is fenced or evacuated already"));
    }
    let busy = routes.units().find(|(_, state)| state.work().is_some());
    if let Some((other, _)) = busy {
        return refused(format!("work on unit {other} is under way; one unit at a time"));
    }
    let heaviest = takeover.iter().max_by_key(|(_, weight)| *weight);
    let Some((to, _)) = heaviest.filter(|(_, weight)| *weight > 0) else {
        return refused("name at least one unit that takes over, with a weight above 0");
    };
    if let Some((heir, _)) = takeover
        .iter()
        .find(|(heir, _)| heir == unit || !routes.is_active(heir))
    {
        return refused(format!(
            "unit {heir} cannot take over: it must be another one that takes keys"
        ));
    }
    let kind = MoveKind::Evacuate {
        takeover: takeover.to_vec(),
        accept_dual,
    };
    let nodes = vec![NodeId::Unit(unit.clone())];
    let work = work(routes.rev(), kind, nodes, to.clone(), (asked, 0));
    Ok(begun(asked.op, vec![Record::Move(work)]))
}

/// Gives a unit that was evacuated its keys back. Those who have them stop first, all at once.
///
/// # Errors
/// [`Refused`].
pub fn give_back(routes: &Routes, unit: &UnitId, options: MoveOptions, asked: &Asked) -> Result<Commit, Refused> {
    let State::Evacuated { takeover } = state_of(routes, unit)? else {
        return refused(format!("unit {unit} is not evacuated; it has its keys"));
    };
    let is_passed_on = |heir: &UnitId| {
        routes
            .units()
            .any(|(unit, state)| unit == heir && state.takeover().is_some())
    };
    if let Some((heir, _)) = takeover.iter().find(|(heir, _)| is_passed_on(heir)) {
        return refused(format!(
            "unit {heir}, which has keys of unit {unit}, is evacuated itself; give it its keys back first"
        ));
    }
    let nodes = vec![NodeId::Unit(unit.clone())];
    let work = Move {
        options,
        ..work(routes.rev(), MoveKind::GiveBack, nodes, unit.clone(), (asked, 0))
    };
    Ok(begun(asked.op, vec![Record::Move(work)]))
}

/// Drains a unit: it gets no new keys, and moves take what it has, claims without a record left aside, to others by weight. The
/// first commit marks the unit; each of the others begins a move.
///
/// # Errors
/// [`Refused`].
pub fn drain(
    snapshot: &Snapshot,
    unit: &UnitId,
    shares: &[(UnitId, u16)],
    options: &MoveOptions,
    asked: &Asked,
) -> Result<Vec<Commit>, Refused> {
    let routes = Routes::from_snapshot(snapshot);
    if !matches!(state_of(&routes, unit)?, State::Active | State::Draining) {
        return refused(format!(
            "unit {unit} is fenced or evacuated; it has nothing that could be moved"
        ));
    }
    let is_able = |to: &UnitId| to != unit && routes.is_active(to);
    if let Some((to, _)) = shares.iter().find(|(to, _)| !is_able(to)) {
        return refused(format!(
            "unit {to} cannot take keys of unit {unit}: it must be another one that takes keys"
        ));
    }
    let mut by_unit: BTreeMap<&UnitId, Vec<NodeId>> = BTreeMap::new();
    for node in owned(snapshot, &routes, unit) {
        let hash = routes.hash(DRAIN, &serde_json::to_vec(&node).unwrap_or_default());
        let to = rendezvous(hash, shares.iter().map(|(unit, weight)| (unit, *weight)));
        let Some(to) = to else {
            return refused("name at least one unit that gets keys, with a weight above 0");
        };
        by_unit.entry(to).or_default().push(node);
    }
    let id = NodeId::Unit(unit.clone());
    let mark = Node {
        id: id.clone(),
        target: Target::Unit(unit.clone()),
        state: State::Draining,
        rev: Rev::ZERO,
        previous: None,
        op: asked.op,
        reason: asked.reason.clone(),
    };
    let mut first = begun(asked.op, vec![Record::Node(mark)]);
    let id = RecordId::Node(id);
    first.compares = vec![(id.clone(), routes.rev_of(&id))];
    let mut commits = vec![first];
    for (to, nodes) in by_unit {
        for nodes in nodes.chunks(Move::NODES_MAX) {
            let number = commits.len();
            let work = Move {
                options: options.clone(),
                ..work(
                    routes.rev(),
                    MoveKind::Nodes,
                    nodes.to_vec(),
                    to.clone(),
                    (asked, number),
                )
            };
            let op = OpId(numbered(asked.op, number));
            commits.push(begun(op, vec![Record::Move(work)]));
        }
    }
    Ok(commits)
}

/// What a unit has, by records and rules.
fn owned(snapshot: &Snapshot, routes: &Routes, unit: &UnitId) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for change in &snapshot.changes {
        if let RecordId::Node(id) = &change.id {
            nodes.insert(id.clone());
        }
    }
    let book = routes.book();
    for (rule, spec) in &book.rules {
        if spec.hash.is_none() {
            nodes.insert(NodeId::Rule {
                dimension: spec.dimension.clone(),
                rule: *rule,
            });
        } else {
            nodes.extend((0..BUCKETS).map(|bucket| NodeId::Bucket {
                dimension: spec.dimension.clone(),
                bucket,
            }));
        }
    }
    let is_owned = |id: &NodeId| {
        routes
            .origin(id, &Found::Nothing)
            .is_ok_and(|origin| origin.unit == *unit)
    };
    nodes.retain(is_owned);
    nodes
}

fn state_of<'a>(routes: &'a Routes, unit: &UnitId) -> Result<&'a State, Refused> {
    let found = routes.units().find(|(known, _)| *known == unit);
    found
        .map(|(_, state)| state)
        .ok_or_else(|| Refused(format!("unit {unit} is not published; correct its name")))
}

fn work(since: Rev, kind: MoveKind, nodes: Vec<NodeId>, to: UnitId, (asked, number): (&Asked, usize)) -> Move {
    let id = u64::try_from(numbered(asked.op, number) & u128::from(u64::MAX)).unwrap_or_default();
    Move {
        id: MoveId(id),
        kind,
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
    }
}

/// A number of its own for each part of an operation, the same each time it is asked for.
fn numbered(op: OpId, number: usize) -> u128 {
    op.0.wrapping_add(u128::try_from(number).unwrap_or_default())
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

const DRAIN: &[u8] = b"strait/drain";
