//! What records must be like to be taken.

use super::Ledger;
use crate::control::store::StoreError;
use crate::model::UnitId;
use crate::routing::record::{Book, Commit, Move, Node, NodeId, Record, RecordId, State, Target};

impl Ledger {
    pub(super) fn check(&self, commit: &Commit) -> Result<(), StoreError> {
        let book = commit.puts.iter().find_map(|record| match record {
            Record::Book(book) => Some(book),
            _ => None,
        });
        if let (Some(old), Some(new)) = (self.book(), book) {
            check_books(old, new)?;
        }
        let empty = Book::default();
        let book = book.or(self.book()).unwrap_or(&empty);
        for record in &commit.puts {
            match record {
                Record::Node(node) => check_node(book, node)?,
                Record::Move(work) => check_move(book, work)?,
                Record::Book(_) | Record::Relay(_) => {}
            }
        }
        for id in &commit.removes {
            if matches!(id, RecordId::Node(_) | RecordId::Book) {
                return broken("nodes and the book are never removed; write a tombstone");
            }
        }
        Ok(())
    }
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

fn check_node(book: &Book, node: &Node) -> Result<(), StoreError> {
    if let NodeId::Key { dimension, key } = &node.id {
        let spec = book.dimensions.iter().find(|spec| spec.name == *dimension);
        let Some(spec) = spec else {
            return broken(&format!("dimension {dimension} is not published"));
        };
        if key.0.len() > usize::from(spec.key_bytes_max) {
            return broken(&format!(
                "a key of dimension {dimension} has {} bytes; {} are allowed (key_bytes_max)",
                key.0.len(),
                spec.key_bytes_max
            ));
        }
    }
    if let Target::Unit(unit) = &node.target {
        check_unit(book, unit)?;
    }
    match &node.state {
        State::Migrating { to, .. } | State::Frozen { to, .. } => check_unit(book, to),
        State::Evacuated { takeover } => {
            if takeover.iter().all(|(_, weight)| *weight == 0) {
                return broken("an evacuated unit needs another one that takes over");
            }
            takeover.iter().try_for_each(|(unit, _)| check_unit(book, unit))
        }
        State::Active | State::Fencing { .. } | State::Tombstone => Ok(()),
    }
}

fn check_move(book: &Book, work: &Move) -> Result<(), StoreError> {
    if work.nodes.len() > Move::NODES_MAX {
        return broken(&format!(
            "a move has {} nodes; {} are allowed, make several moves",
            work.nodes.len(),
            Move::NODES_MAX
        ));
    }
    check_unit(book, &work.to)
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
