//! A relay's copy of the control group: all that was decided, at one revision.
//!
//! # Invariants
//! - C1. A copy never changes; the next revision is another copy that shares what stayed the same. So a look-up sees one
//!   revision, without a lock.
//! - C2. It advances only by a batch that begins where it stands (R-I13).
//! - C3. Two copies at the same revision resolve alike, and have the same digest, however they got there (R-I6).
//! - C4. Of a key at rest only its hash is kept: 24 bytes each.
//!
//! # Not here
//! Where batches come from (`control`).

mod book;
mod packed;
mod resolve;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use resolve::Resolved;
pub use saved::SavedError;

use self::book::CompiledBook;
use self::packed::Code;
use super::record::{
    Batch, Book, Change, DimensionSpec, Epoch, Move, MoveId, MoveState, Node, NodeId, Record, RecordId, Rev, Snapshot,
    State,
};
use super::{KeyHash, Overrides, key_hash};
use crate::model::{Map, Name, UnitId};

/// A copy at one revision.
#[derive(Clone, Debug)]
pub struct Routes {
    epoch: Epoch,
    seed: u128,
    book: Arc<CompiledBook>,
    overrides: Overrides,
    /// Keys that are more than an owner at rest: moving, following, in groups.
    keys: Arc<Map<KeyHash, Node>>,
    /// Buckets, rules and units that something was decided about.
    parts: Arc<Map<NodeId, Node>>,
    moves: Arc<BTreeMap<MoveId, Move>>,
    digest: u64,
}

/// A batch that does not begin where the copy stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the copy is at revision {at} and the batch begins at {prev}")]
pub struct Gap {
    /// Where the copy stands.
    pub at: Rev,
    /// Where the batch begins.
    pub prev: Rev,
}

impl Routes {
    /// All records at a revision.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut routes = Self {
            epoch: snapshot.epoch,
            seed: snapshot.seed,
            book: Arc::default(),
            overrides: Overrides::default(),
            keys: Arc::default(),
            parts: Arc::default(),
            moves: Arc::default(),
            digest: 0,
        };
        // First, because it has the numbers of the units.
        let (book, rest): (Vec<_>, Vec<_>) = snapshot.changes.iter().partition(|change| change.id == RecordId::Book);
        for change in book.into_iter().chain(rest) {
            routes.put(change);
        }
        routes
    }

    /// The copy after a batch. Progress, a batch without changes, advances the revision.
    ///
    /// # Errors
    /// [`Gap`]: a snapshot is needed.
    pub fn apply(&self, batch: &Batch) -> Result<Self, Gap> {
        if batch.prev != self.rev() {
            return Err(Gap {
                at: self.rev(),
                prev: batch.prev,
            });
        }
        let mut next = self.clone();
        for change in &batch.changes {
            next.put(change);
        }
        next.epoch = Epoch::new(self.epoch.incarnation(), batch.rev);
        Ok(next)
    }

    /// Incarnation and revision.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The revision.
    pub fn rev(&self) -> Rev {
        self.epoch.rev()
    }

    /// The same for all copies at this revision (C3). Of relays and moves nothing is in it.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// What is published.
    pub fn book(&self) -> &Book {
        &self.book.book
    }

    /// A kind of key.
    pub fn dimension(&self, name: &Name) -> Option<&DimensionSpec> {
        self.book().dimensions.iter().find(|dimension| dimension.name == *name)
    }

    /// What was decided about a node, if it is more than an owner at rest of a key.
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        match id {
            NodeId::Key { dimension, key } => self.keys.get(&self.hash(dimension.as_str().as_bytes(), &key.0)),
            _ => self.parts.get(id),
        }
    }

    /// Nodes that are being moved, in no order.
    pub fn moving(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.keys.values().chain(self.parts.values());
        nodes.filter(|node| node.state.work().is_some())
    }

    /// Moves that have not finished, by number.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.values()
    }

    /// The hash of a key in this copy.
    pub fn hash(&self, dimension: &[u8], key: &[u8]) -> KeyHash {
        key_hash(self.seed, dimension, key)
    }

    /// Keys that something was decided about, tombstones included.
    pub fn overrides_len(&self) -> usize {
        self.overrides.len()
    }

    /// Bytes that keys take.
    pub fn overrides_bytes(&self) -> usize {
        self.overrides.bytes()
    }

    /// Who has a bucket or a rule by the rules alone.
    pub(super) fn rule_owner(&self, id: &NodeId) -> Option<&UnitId> {
        match id {
            NodeId::Bucket { dimension, bucket } => self.book.bucket_owner(dimension, *bucket),
            NodeId::Rule { rule, .. } => {
                let (_, found) = self.book().rules.iter().find(|(id, _)| id == rule)?;
                Some(&found.unit)
            }
            NodeId::Key { .. } | NodeId::Unit(_) => None,
        }
    }

    /// Whether a unit takes keys: it is there, and nothing else was decided.
    pub fn is_active(&self, unit: &UnitId) -> bool {
        self.book().units.contains(unit)
            && self
                .parts
                .get(&NodeId::Unit(unit.clone()))
                .is_none_or(|node| node.state == State::Active)
    }

    /// Takes in one record.
    fn put(&mut self, change: &Change) {
        match (&change.id, &change.record) {
            (RecordId::Book, Some(Record::Book(book))) => {
                self.digest ^= mark(0, self.book.rev) ^ mark(0, change.rev);
                self.book = Arc::new(CompiledBook::new(book.clone(), change.rev));
            }
            (RecordId::Node(_), Some(Record::Node(node))) => {
                let mut node = node.clone();
                node.rev = change.rev;
                self.put_node(node);
            }
            (RecordId::Move(id), Some(Record::Move(work))) if work.state != MoveState::Finished => {
                Arc::make_mut(&mut self.moves).insert(*id, work.clone());
            }
            (RecordId::Move(id), _) if self.moves.contains_key(id) => {
                Arc::make_mut(&mut self.moves).remove(id);
            }
            // Relays are the store's own concern. Nodes are never removed (K2).
            _ => {}
        }
    }

    fn put_node(&mut self, node: Node) {
        if let NodeId::Key { dimension, key } = &node.id {
            let hash = self.hash(dimension.as_str().as_bytes(), &key.0);
            let before = self.overrides.get(hash).map_or(Rev::ZERO, packed::rev);
            self.mark(hash.0, before, node.rev);
            let code = self.book.code(&node);
            self.overrides.insert(hash, packed::pack(node.rev, code));
            if code == Code::Details {
                Arc::make_mut(&mut self.keys).insert(hash, node);
            } else if self.keys.contains_key(&hash) {
                Arc::make_mut(&mut self.keys).remove(&hash);
            }
        } else {
            let hash = self.part_hash(&node.id);
            let before = self.parts.get(&node.id).map_or(Rev::ZERO, |node| node.rev);
            self.mark(hash.0, before, node.rev);
            Arc::make_mut(&mut self.parts).insert(node.id.clone(), node);
        }
    }

    fn mark(&mut self, hash: u128, before: Rev, after: Rev) {
        if before != Rev::ZERO {
            self.digest ^= mark(hash, before);
        }
        self.digest ^= mark(hash, after);
    }

    fn part_hash(&self, id: &NodeId) -> KeyHash {
        let (kind, name, number) = match id {
            NodeId::Key { .. } => ("", "", 0),
            NodeId::Bucket { dimension, bucket } => ("\0bucket", dimension.as_str(), u32::from(*bucket)),
            NodeId::Rule { dimension, rule } => ("\0rule", dimension.as_str(), *rule),
            NodeId::Unit(unit) => ("\0unit", unit.as_str(), 0),
        };
        let key = [name.as_bytes(), &number.to_le_bytes()].concat();
        self.hash(kind.as_bytes(), &key)
    }
}

/// What one record adds to the digest.
fn mark(hash: u128, rev: Rev) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&hash.to_le_bytes(), rev.0)
}
