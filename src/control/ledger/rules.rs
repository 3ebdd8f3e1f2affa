//! What records must be like to be taken.

use std::collections::BTreeSet;

use super::Ledger;
use crate::control::store::StoreError;
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Book, Claim, Commit, DimensionSpec, KeyBytes, Move, MoveId, MoveKind, MoveState, Node, NodeId, Record, RecordId,
    State, Target,
};

impl Ledger {
    pub(super) fn check(&self, commit: &Commit) -> Result<(), StoreError> {
        check_commit(commit, self.book(), |id| {
            self.records.get(&RecordId::Move(*id))?.record.clone()
        })
    }
}

/// Whether the records of a commit make sense, with the book that is published and the moves that are known.
pub(in crate::control) fn check_commit(
    commit: &Commit,
    published: Option<&Book>,
    work: impl Fn(&MoveId) -> Option<Record>,
) -> Result<(), StoreError> {
    let book = commit.puts.iter().find_map(|record| match record {
        Record::Book(book) => Some(book),
        _ => None,
    });
    if let (Some(old), Some(new)) = (published, book) {
        check_books(old, new)?;
    }
    let empty = Book::default();
    let book = book.or(published).unwrap_or(&empty);
    let mut named = BTreeSet::new();
    let ids = commit.puts.iter().map(Record::id).chain(commit.removes.iter().cloned());
    for id in ids {
        if !named.insert(id) {
            return broken("a commit may write each record once");
        }
    }
    for record in &commit.puts {
        match record {
            Record::Node(node) => check_node(book, node)?,
            Record::Move(work) => check_move(book, work)?,
            Record::Book(book) => check_units(book)?,
            Record::Relay(_) => {}
        }
    }
    commit.removes.iter().try_for_each(|id| match id {
        RecordId::Node(_) | RecordId::Book => broken("nodes and the book are never removed; write a tombstone"),
        RecordId::Move(id) => match work(id) {
            Some(Record::Move(work)) if work.state != MoveState::Finished => {
                broken(&format!("move {id} is not finished; abort it first"))
            }
            _ => Ok(()),
        },
        RecordId::Relay(_) => Ok(()),
    })
}

/// Sessions are opened, closed and forgotten; a commit that somebody asks for does not touch them.
pub(in crate::control) fn check_asked(commit: &Commit) -> Result<(), StoreError> {
    let puts = commit.puts.iter().any(|record| matches!(record, Record::Relay(_)));
    let removes = commit.removes.iter().any(|id| matches!(id, RecordId::Relay(_)));
    if puts || removes {
        return broken("records of relays are written by opening, closing and forgetting them, not by commits");
    }
    if commit.puts.is_empty() && commit.removes.is_empty() {
        return broken("a commit that writes nothing");
    }
    Ok(())
}

/// Whether claims can be stored, by the book that is published.
pub(in crate::control) fn check_claims(book: Option<&Book>, claims: &[Claim]) -> Result<(), StoreError> {
    let empty = Book::default();
    let book = book.unwrap_or(&empty);
    claims.iter().try_for_each(|claim| {
        check_key(book, &claim.dimension, &claim.key)?;
        check_target(book, &claim.target)
    })
}

/// Numbers of units and ids of rules keep their meaning for ever.
fn check_books(old: &Book, new: &Book) -> Result<(), StoreError> {
    if !new.units.starts_with(&old.units) {
        return broken("units are only ever added, at the end of the list: tokens carry their numbers");
    }
    for dimension in &old.dimensions {
        if !new.dimensions.iter().any(|other| other.name == dimension.name) {
            return broken(&format!(
                "dimension {} must stay; keys of it have owners",
                dimension.name
            ));
        }
    }
    for (id, rule) in &old.rules {
        let other = new.rules.iter().find(|(other, _)| other == id);
        if other.is_some_and(|(_, other)| other != rule) {
            return broken(&format!(
                "rule {id} has another meaning already; give the new rule another id"
            ));
        }
    }
    Ok(())
}

fn check_units(book: &Book) -> Result<(), StoreError> {
    let names: BTreeSet<_> = book.units.iter().collect();
    if names.len() != book.units.len() {
        return broken("a unit stands twice in the list of units");
    }
    let names: BTreeSet<_> = book.dimensions.iter().map(|dimension| &dimension.name).collect();
    if names.len() != book.dimensions.len() {
        return broken("a dimension stands twice in the list of dimensions");
    }
    let ids: BTreeSet<_> = book.rules.iter().map(|(id, _)| id).collect();
    if ids.len() != book.rules.len() {
        return broken("two rules have the same id");
    }
    Ok(())
}

fn check_key(book: &Book, dimension: &Name, key: &KeyBytes) -> Result<(), StoreError> {
    let spec = dimension_of(book, dimension)?;
    if key.0.len() > usize::from(spec.key_bytes_max) {
        return broken(&format!(
            "a key of dimension {dimension} has {} bytes; {} are allowed (key_bytes_max)",
            key.0.len(),
            spec.key_bytes_max
        ));
    }
    Ok(())
}

fn dimension_of<'a>(book: &'a Book, dimension: &Name) -> Result<&'a DimensionSpec, StoreError> {
    let spec = book.dimensions.iter().find(|spec| spec.name == *dimension);
    spec.ok_or_else(|| StoreError::Broken(format!("dimension {dimension} is not published")))
}

fn check_target(book: &Book, target: &Target) -> Result<(), StoreError> {
    match target {
        Target::Unit(unit) => check_unit(book, unit),
        Target::Follow(dimension) => dimension_of(book, dimension).map(drop),
        Target::Group { dimension, key } => check_key(book, dimension, key),
    }
}

fn check_id(book: &Book, id: &NodeId) -> Result<(), StoreError> {
    match id {
        NodeId::Key { dimension, key } => check_key(book, dimension, key),
        NodeId::Bucket { dimension, bucket } => {
            if *bucket >= BUCKETS {
                return broken(&format!(
                    "there is no bucket {bucket}; they are numbered from 0 to 4095"
                ));
            }
            dimension_of(book, dimension).map(drop)
        }
        NodeId::Rule { dimension, .. } => dimension_of(book, dimension).map(drop),
        NodeId::Unit(unit) => check_unit(book, unit),
    }
}

fn check_node(book: &Book, node: &Node) -> Result<(), StoreError> {
    check_id(book, &node.id)?;
    check_target(book, &node.target)?;
    if let NodeId::Unit(unit) = &node.id {
        if node.target != Target::Unit(unit.clone()) {
            return broken(&format!(
                "the target of unit {unit} is itself; its state says who takes over"
            ));
        }
        if matches!(
            node.state,
            State::Migrating { .. } | State::Frozen { .. } | State::Tombstone
        ) {
            return broken("a unit is not moved; it is drained, fenced, evacuated and given back");
        }
    } else if matches!(
        node.state,
        State::Draining | State::Fencing { .. } | State::Evacuated { .. } | State::Returning { .. }
    ) {
        return broken("only units are fenced and evacuated");
    }
    match &node.state {
        State::Migrating { to, .. } | State::Frozen { to, .. } => check_unit(book, to),
        State::Evacuated { takeover } | State::Returning { takeover, .. } => check_takeover(book, &node.id, takeover),
        State::Active | State::Draining | State::Fencing { .. } | State::Tombstone => Ok(()),
    }
}

fn check_takeover(book: &Book, id: &NodeId, takeover: &[(UnitId, u16)]) -> Result<(), StoreError> {
    if takeover.iter().all(|(_, weight)| *weight == 0) {
        return broken("an evacuated unit needs another one that takes over");
    }
    if takeover.iter().any(|(unit, _)| *id == NodeId::Unit(unit.clone())) {
        return broken("an evacuated unit cannot take over from itself");
    }
    takeover.iter().try_for_each(|(unit, _)| check_unit(book, unit))
}

fn check_move(book: &Book, work: &Move) -> Result<(), StoreError> {
    if work.nodes.len() > Move::NODES_MAX {
        return broken(&format!(
            "a move has {} nodes; {} are allowed, make several moves",
            work.nodes.len(),
            Move::NODES_MAX
        ));
    }
    check_unit(book, &work.to)?;
    match &work.kind {
        MoveKind::Nodes if work.nodes.iter().any(|id| matches!(id, NodeId::Unit(_))) => {
            return broken("a unit is not moved; drain or evacuate it");
        }
        MoveKind::Nodes => {}
        MoveKind::Evacuate { .. } | MoveKind::GiveBack => {
            let [id @ NodeId::Unit(_)] = work.nodes.as_slice() else {
                return broken("a unit is evacuated, or given its keys back, by work on that unit alone");
            };
            if let MoveKind::Evacuate { takeover, .. } = &work.kind {
                check_takeover(book, id, takeover)?;
            }
        }
    }
    work.nodes.iter().try_for_each(|node| check_id(book, node))
}

fn check_unit(book: &Book, unit: &UnitId) -> Result<(), StoreError> {
    if book.units.contains(unit) {
        Ok(())
    } else {
        broken(&format!("unit {unit} is not published; `strait route publish` adds it"))
    }
}

fn broken<T>(text: &str) -> Result<T, StoreError> {
    Err(StoreError::Broken(text.to_owned()))
}

const BUCKETS: u16 = 4096;
