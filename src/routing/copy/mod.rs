//! A relay's copy of the control group: all that was decided, at one revision.
//!
//! # Invariants
//! - C1. A copy never changes; the next revision is another copy that shares what stayed the same. So a look-up sees one
//!   revision, without a lock.
//! - C2. It advances only by a batch that begins where it stands (R-I13).
//! - C3. Two copies at the same revision resolve alike, and have the same digest, however they got there (R-I6).
//! - C4. Of a key at rest only its hash is kept: 24 bytes each, and as many again of one that was moved.
//! - C5. A batch costs what it changes, not what there is: nothing is copied or prepared anew that it does not touch.
//!
//! # Not here
//! Where batches come from (`control`).

mod book;
mod described;
mod mirrored;
mod origin;
mod packed;
mod past;
mod resolve;
mod saved;
mod take_in;
#[cfg(test)]
mod tests;
mod trail;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use mirrored::Mirrored;
pub use origin::{Origin, Unmovable};
pub(super) use resolve::Resolved;
pub use saved::SavedError;
pub use trail::{Through, Trail};
pub use view::NodeView;

use self::book::CompiledBook;
use self::packed::Packed;
use super::key_hash::{Part, node_hash, part_hash};
use super::overrides::Overrides;
use super::record::{
    Batch, Book, DimensionSpec, Epoch, Move, MoveId, Node, NodeId, RecordId, RelayId, Rev, Snapshot, State,
};
use super::{KeyHash, key_hash};
use crate::model::{Name, UnitId};

/// A copy at one revision. Clones share everything.
#[derive(Clone, Debug)]
pub struct Routes {
    epoch: Epoch,
    seed: u128,
    book: Arc<CompiledBook>,
    /// All keys that something was decided about.
    overrides: Overrides<Packed>,
    /// Of keys at rest: what became of them before ([`past`]), if that is more than their record.
    pasts: Overrides<Packed>,
    /// Nodes that are more than a key with an owner at rest: keys that are moving, following, in groups or have a previous
    /// owner; buckets, rules and units.
    details: Overrides<Arc<Node>>,
    counts: Counts,
    /// Those of `details` that are being moved.
    moving: Arc<BTreeSet<KeyHash>>,
    /// Those that have not finished.
    moves: Arc<BTreeMap<MoveId, Arc<Move>>>,
    /// Those that have, with how many nodes they name.
    finished: Arc<BTreeMap<MoveId, u32>>,
    /// Nodes of those that have a mirror, by what they are kept under.
    mirrors: Arc<BTreeSet<(KeyHash, MoveId)>>,
    /// Moves and relays, for the digest.
    others: Arc<BTreeMap<RecordId, Rev>>,
    digest: u64,
}

/// How many details there are of a kind. A look-up leaves out what nothing was decided about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    buckets: usize,
    rules: usize,
    units: usize,
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
    fn empty(epoch: Epoch, seed: u128) -> Self {
        Self {
            epoch,
            seed,
            book: Arc::default(),
            overrides: Overrides::default(),
            pasts: Overrides::default(),
            details: Overrides::default(),
            counts: Counts::default(),
            moving: Arc::default(),
            moves: Arc::default(),
            finished: Arc::default(),
            mirrors: Arc::default(),
            others: Arc::default(),
            digest: 0,
        }
    }

    /// Routes of a store in which nothing but a book was published.
    #[cfg(test)]
    pub(crate) fn of_book(book: Book) -> Self {
        Self::from_snapshot(&Snapshot {
            epoch: Epoch::new(0, Rev(1)),
            seed: 1,
            changes: vec![super::record::Change {
                rev: Rev(1),
                id: RecordId::Book,
                record: Some(super::record::Record::Book(book)),
            }],
        })
    }

    /// All records at a revision.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut routes = Self::empty(snapshot.epoch, snapshot.seed);
        routes.take_in(&snapshot.changes);
        routes
    }

    /// The copy after a batch. Progress, a batch without changes, advances the revision.
    ///
    /// # Errors
    /// [`Gap`]: a snapshot is needed.
    pub fn apply(&self, batch: &Batch) -> Result<Self, Gap> {
        if batch.prev != self.rev() || batch.rev < batch.prev {
            return Err(Gap {
                at: self.rev(),
                prev: batch.prev,
            });
        }
        let mut next = self.clone();
        next.take_in(&batch.changes);
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

    /// Of the hash under which keys are kept; the store's.
    pub fn seed(&self) -> u128 {
        self.seed
    }

    /// Of all records and their revisions: the same for all copies at this revision (C3).
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

    /// The record of a node, if it is more than a key with an owner at rest.
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.details.get(node_hash(self.seed, id)).map(Arc::as_ref)
    }

    /// What was decided about a node, tombstones included.
    pub fn view(&self, id: &NodeId) -> Option<NodeView<'_>> {
        NodeView::of(self, node_hash(self.seed, id))
    }

    /// What was decided about the key with this hash, tombstones included.
    pub(in crate::routing) fn view_of(&self, hash: KeyHash) -> Option<NodeView<'_>> {
        NodeView::of(self, hash)
    }

    /// The newest record of the key with this hash, a tombstone perhaps.
    pub(in crate::routing) fn newest_of(&self, hash: KeyHash) -> Option<Rev> {
        self.overrides.get(hash).copied().map(packed::rev)
    }

    /// Units in the order of their numbers in the book, with what was decided about them; [`State::Active`] if nothing was.
    pub fn units(&self) -> impl Iterator<Item = (&UnitId, &State)> {
        let units = self.book().units.iter();
        units.map(|unit| (unit, self.unit_node(unit).map_or(&State::Active, |node| &node.state)))
    }

    /// Nodes that are being moved, in no order.
    pub fn moving(&self) -> impl Iterator<Item = &Node> {
        self.moving
            .iter()
            .filter_map(|hash| self.details.get(*hash).map(Arc::as_ref))
    }

    /// Moves that have not finished, by number.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.values().map(Arc::as_ref)
    }

    /// Relays that have the routes, each with the revision at which its present life began.
    pub fn relays(&self) -> impl Iterator<Item = (&RelayId, Rev)> {
        self.others.iter().filter_map(|(id, rev)| match id {
            RecordId::Relay(relay) => Some((relay, *rev)),
            _ => None,
        })
    }

    /// Whether this service is the application of a dimension that takes part in moves.
    pub fn is_hook_service(&self, service: &str) -> bool {
        let mut hooks = self.book().dimensions.iter().filter_map(|spec| spec.hooks.as_ref());
        hooks.any(|hooks| hooks.service.as_str() == service)
    }

    /// Moves that have finished, in no order, each with the revision at which it did and how many nodes it names.
    pub fn finished_moves(&self) -> impl Iterator<Item = (MoveId, Rev, usize)> {
        self.finished.iter().map(|(id, nodes)| {
            let nodes = usize::try_from(*nodes).unwrap_or(usize::MAX);
            (*id, self.rev_of(&RecordId::Move(*id)), nodes)
        })
    }

    /// The hash of a key in this copy.
    pub fn hash(&self, dimension: &[u8], key: &[u8]) -> KeyHash {
        key_hash(self.seed, dimension, key)
    }

    /// Keys that something was decided about, tombstones included.
    pub fn overrides_len(&self) -> usize {
        self.overrides.len()
    }

    /// Bytes that all keys and the table of the other nodes take, without what their records point at.
    pub fn bytes(&self) -> usize {
        self.overrides.bytes() + self.pasts.bytes() + self.details.bytes() + self.details.len() * size_of::<Node>()
    }

    /// The revision that a record has; [`Rev::ZERO`] if it is not there.
    pub fn rev_of(&self, id: &RecordId) -> Rev {
        match id {
            RecordId::Book => self.book.rev,
            RecordId::Node(id) => self.view(id).map_or(Rev::ZERO, |view| view.rev()),
            RecordId::Move(_) | RecordId::Relay(_) => self.others.get(id).copied().unwrap_or_default(),
        }
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
        self.book().units.contains(unit) && self.unit_node(unit).is_none_or(|node| node.state == State::Active)
    }

    /// What was decided about a unit.
    fn unit_node(&self, unit: &UnitId) -> Option<&Node> {
        if self.counts.units == 0 {
            return None;
        }
        let hash = part_hash(self.seed, Part::Unit(unit.as_str()));
        self.details.get(hash).map(Arc::as_ref)
    }
}
