//! What a unit has goes to others by ordinary moves, and comes back the same way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, Begun, Counts, Refused, check_heirs, refused, state_of};
use crate::model::UnitId;
use crate::routing::record::{
    Claim, Move, MoveId, MoveKind, MoveOptions, MoveState, NodeId, Record, RecordId, Snapshot, State,
};
use crate::routing::{Found, Known, Routes, rendezvous};

/// What is to be drained, and how.
#[derive(Clone, Copy, Debug)]
pub struct Draining<'a> {
    /// The unit.
    pub unit: &'a UnitId,
    /// Who gets what it has, by weight.
    pub shares: &'a [(UnitId, u16)],
    /// How it is moved.
    pub options: &'a MoveOptions,
    /// Claims for the unit, some of them or all.
    pub claims: &'a [Claim],
    /// Only these claims; all else was asked for before.
    pub only_claims: bool,
}

/// Drains a unit: it gets no new keys, and moves take what it has to others by weight. The first commit marks the unit, if it is not
/// marked yet; each of the others begins a move. What moves that are under way will take is left to them.
///
/// # Errors
/// [`Refused`].
pub fn drain(snapshot: &Snapshot, drain: Draining<'_>, asked: &Asked) -> Result<Begun, Refused> {
    let routes = Routes::from_snapshot(snapshot);
    let unit = drain.unit;
    let state = state_of(&routes, unit)?;
    if !matches!(state, State::Active | State::Draining) {
        return refused(format!(
            "unit {unit} is evacuated, or under way to or from that: its keys are with others; give them back first with \
             `strait unit return {unit}`"
        ));
    }
    check_heirs(&routes, unit, drain.shares)?;
    let mut begun = Begun::default();
    if *state == State::Active {
        begun.mark(unit, State::Draining, &routes, asked);
    }
    let heirs = |(other, state): (&UnitId, &State)| {
        let has = state
            .takeover()?
            .iter()
            .any(|(heir, weight)| heir == unit && *weight > 0);
        has.then(|| other.clone())
    };
    if let Some(other) = routes.units().find_map(heirs) {
        return refused(format!(
            "unit {unit} has keys of unit {other}, which is evacuated, and no move takes those from it; give them back first with \
             `strait unit return {other}`, or evacuate unit {unit} too"
        ));
    }
    let is_own = |(id, owner): (NodeId, UnitId)| (owner == *unit).then_some(id);
    let mut nodes = BTreeSet::new();
    if !drain.only_claims {
        nodes.extend(owned(snapshot, &routes).into_iter().filter_map(is_own));
    }
    let claims = claimed(drain.claims, &routes).into_iter().filter_map(is_own);
    let claims: BTreeSet<_> = claims.filter(|id| !nodes.contains(id)).collect();
    let under_way = under_way(snapshot);
    nodes.extend(claims.iter().cloned());
    let mut by_unit: BTreeMap<&UnitId, Vec<NodeId>> = BTreeMap::new();
    for node in nodes.into_iter().filter(|node| !under_way.contains(node)) {
        let hash = routes.hash(DRAIN, &serde_json::to_vec(&node).unwrap_or_default());
        let to = rendezvous(hash, drain.shares.iter().map(|(unit, weight)| (unit, *weight)));
        // Somebody has a weight, see above.
        let Some(to) = to else { continue };
        let counts = begun.shares.entry(to.clone()).or_default();
        counts.add(&node, claims.contains(&node));
        by_unit.entry(to).or_default().push(node);
    }
    for (to, nodes) in by_unit {
        begun.moves(routes.rev(), nodes, (unit, to), (drain.options, asked));
    }
    Ok(begun)
}

/// A unit that was drained takes keys again, and moves bring back what its drain took, except what was moved again since.
///
/// # Errors
/// [`Refused`].
pub fn take_back(snapshot: &Snapshot, unit: &UnitId, options: &MoveOptions, asked: &Asked) -> Result<Begun, Refused> {
    let routes = Routes::from_snapshot(snapshot);
    let state = state_of(&routes, unit)?;
    if !matches!(state, State::Active | State::Draining) {
        return refused(format!("unit {unit} was not drained"));
    }
    if let Some(by) = works(snapshot, unit).next() {
        return refused(format!(
            "move {by} of the drain of unit {unit} is under way; wait for it, or stop it with `strait route abort {by}`"
        ));
    }
    let mut begun = Begun::default();
    if *state == State::Draining {
        begun.mark(unit, State::Active, &routes, asked);
    }
    let mut nodes = BTreeSet::new();
    for change in &snapshot.changes {
        if let Some(Record::Node(node)) = &change.record
            && node.home.as_ref() == Some(unit)
            && node.state == State::Active
        {
            begun.shares.entry(unit.clone()).or_default().add(&node.id, false);
            nodes.insert(node.id.clone());
        }
    }
    // It may have been evacuated after a drain, and given back.
    if *state == State::Active && nodes.is_empty() {
        return refused(format!(
            "unit {unit} takes keys, and others have none that a drain took from it: nothing is to be returned"
        ));
    }
    begun.moves(
        routes.rev(),
        nodes.into_iter().collect(),
        (unit, unit),
        (options, asked),
    );
    Ok(begun)
}

/// What each unit has, by records, rules and these claims. One that is evacuated has nothing; what is being moved is left out.
pub fn holdings(snapshot: &Snapshot, claims: &[Claim]) -> BTreeMap<UnitId, Counts> {
    let routes = Routes::from_snapshot(snapshot);
    let nodes = owned(snapshot, &routes);
    let mut counts: BTreeMap<UnitId, Counts> = BTreeMap::new();
    for (node, unit) in &nodes {
        counts.entry(unit.clone()).or_default().add(node, false);
    }
    for (node, unit) in claimed(claims, &routes) {
        if !nodes.contains_key(&node) {
            counts.entry(unit).or_default().add(&node, true);
        }
    }
    counts
}

/// What a unit has, and whether it is a claim.
pub fn of_unit(snapshot: &Snapshot, claims: &[Claim], unit: &UnitId) -> BTreeMap<NodeId, bool> {
    let routes = Routes::from_snapshot(snapshot);
    let of_unit = |(id, owner): (NodeId, UnitId)| (owner == *unit).then_some(id);
    let mut nodes = BTreeMap::new();
    nodes.extend(
        claimed(claims, &routes)
            .into_iter()
            .filter_map(of_unit)
            .map(|id| (id, true)),
    );
    nodes.extend(
        owned(snapshot, &routes)
            .into_iter()
            .filter_map(of_unit)
            .map(|id| (id, false)),
    );
    nodes
}

/// Who has what, by records and rules.
fn owned(snapshot: &Snapshot, routes: &Routes) -> BTreeMap<NodeId, UnitId> {
    let mut nodes = BTreeSet::new();
    for change in &snapshot.changes {
        if let RecordId::Node(id) = &change.id {
            nodes.insert(id.clone());
        }
    }
    for (rule, spec) in &routes.book().rules {
        let dimension = || spec.dimension.clone();
        match spec.buckets() {
            // Keys of a rule with shares go by what was decided about their buckets.
            Some(buckets) => nodes.extend(buckets.map(|bucket| NodeId::Bucket {
                dimension: dimension(),
                bucket,
            })),
            None => drop(nodes.insert(NodeId::Rule {
                dimension: dimension(),
                rule: *rule,
            })),
        }
    }
    let owned = nodes.into_iter().filter_map(|id| {
        let origin = routes.origin(&id, &Found::Nothing).ok()?;
        Some((id, origin.unit))
    });
    owned.collect()
}

/// Keys that these claims give to units.
fn claimed(claims: &[Claim], routes: &Routes) -> BTreeMap<NodeId, UnitId> {
    let found = claims.iter().filter_map(|claim| {
        let id = NodeId::Key {
            dimension: claim.dimension.clone(),
            key: claim.key.clone(),
        };
        let known = Known {
            target: claim.target.clone(),
            base: claim.base,
            as_of: routes.epoch(),
        };
        let origin = routes.origin(&id, &Found::Known(known)).ok()?;
        // Where a rule matches, the claim says nothing.
        let by_rule =
            |(id, _): &(RecordId, _)| matches!(id, RecordId::Node(NodeId::Rule { .. } | NodeId::Bucket { .. }));
        let is_claimed = !origin.path.iter().any(by_rule);
        is_claimed.then_some((id, origin.unit))
    });
    found.collect()
}

/// Nodes that moves will take or are at.
fn under_way(snapshot: &Snapshot) -> BTreeSet<NodeId> {
    let works = snapshot.changes.iter().filter_map(|change| match &change.record {
        Some(Record::Move(work)) if is_under_way(work) => Some(work),
        _ => None,
    });
    let nodes = works.flat_map(|work| work.nodes.iter().skip(usize::try_from(work.next).unwrap_or(usize::MAX)));
    nodes.cloned().collect()
}

/// Moves of a unit's drain that are under way.
fn works<'a>(snapshot: &'a Snapshot, unit: &'a UnitId) -> impl Iterator<Item = MoveId> + 'a {
    snapshot.changes.iter().filter_map(move |change| match &change.record {
        Some(Record::Move(work)) if is_under_way(work) && work.of.as_ref() == Some(unit) => Some(work.id),
        _ => None,
    })
}

fn is_under_way(work: &Move) -> bool {
    work.kind == MoveKind::Nodes && matches!(work.state, MoveState::Running | MoveState::Aborting)
}

const DRAIN: &[u8] = b"strait/drain";
