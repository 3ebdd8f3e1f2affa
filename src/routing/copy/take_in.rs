//! How a record gets into a copy.

use std::sync::Arc;

use super::book::CompiledBook;
use super::packed::{self, Code};
use super::{Counts, KeyHash, Routes};
use crate::routing::key_hash::{node_hash, record_hash};
use crate::routing::record::{Change, MoveId, MoveState, Node, NodeId, Record, RecordId, Rev};

impl Routes {
    /// Takes in records.
    pub(super) fn take_in(&mut self, changes: &[Change]) {
        // The book first, because it has the numbers of the units.
        for change in changes {
            if let (RecordId::Book, Some(Record::Book(book))) = (&change.id, &change.record) {
                let hash = record_hash(self.seed, &change.id);
                self.mark(hash, self.book.rev, change.rev);
                self.book = Arc::new(CompiledBook::new(book.clone(), change.rev, &self.book));
            }
        }
        for change in changes {
            match (&change.id, &change.record) {
                (RecordId::Node(_), Some(Record::Node(node))) => self.put_node(node, change.rev),
                (RecordId::Move(_) | RecordId::Relay(_), _) => self.put_other(change),
                // Nodes and the book are never removed (K2).
                _ => {}
            }
        }
    }

    pub(super) fn put_node(&mut self, node: &Node, rev: Rev) {
        let hash = node_hash(self.seed, &node.id);
        let is_detail = if let NodeId::Key { .. } = node.id {
            let code = self.book.code(node);
            let before = self
                .overrides
                .get(hash)
                .map_or(Rev::ZERO, |packed| packed::rev(*packed));
            self.mark(hash, before, rev);
            self.overrides.insert(hash, packed::pack(rev, code));
            if code == Code::Details {
                self.forget_past(hash);
            } else {
                self.put_past(hash, node, rev);
            }
            code == Code::Details
        } else {
            let before = self.details.get(hash).map(|node| node.rev);
            self.mark(hash, before.unwrap_or_default(), rev);
            if before.is_none() {
                self.counts.add(&node.id);
            }
            true
        };
        if is_detail {
            let node = Node { rev, ..node.clone() };
            self.note_moving(hash, node.state.work().is_some());
            self.details.insert(hash, Arc::new(node));
        } else {
            self.note_moving(hash, false);
            self.details.remove(hash);
        }
    }

    fn note_moving(&mut self, hash: KeyHash, is_moving: bool) {
        if self.moving.contains(&hash) != is_moving {
            let moving = Arc::make_mut(&mut self.moving);
            if is_moving {
                moving.insert(hash);
            } else {
                moving.remove(&hash);
            }
        }
    }

    /// A move or a relay, or that it was removed.
    fn put_other(&mut self, change: &Change) {
        let hash = record_hash(self.seed, &change.id);
        let before = self.others.get(&change.id).copied().unwrap_or_default();
        let after = change.record.as_ref().map_or(Rev::ZERO, |_| change.rev);
        self.mark(hash, before, after);
        let others = Arc::make_mut(&mut self.others);
        if after == Rev::ZERO {
            others.remove(&change.id);
        } else {
            others.insert(change.id.clone(), after);
        }
        if let RecordId::Move(id) = &change.id {
            self.put_move(*id, change.record.as_ref());
        }
    }

    fn put_move(&mut self, id: MoveId, record: Option<&Record>) {
        let work = match record {
            Some(Record::Move(work)) => Some(work),
            _ => None,
        };
        let finished = work.filter(|work| work.state == MoveState::Finished);
        match work {
            Some(work) if finished.is_none() => {
                self.note_mirror(work);
                Arc::make_mut(&mut self.moves).insert(id, Arc::new(work.clone()));
            }
            _ if self.moves.contains_key(&id) => {
                self.forget_mirror(id);
                drop(Arc::make_mut(&mut self.moves).remove(&id));
            }
            _ => {}
        }
        if let Some(work) = finished {
            let nodes = u32::try_from(work.nodes.len()).unwrap_or(u32::MAX);
            Arc::make_mut(&mut self.finished).insert(id, nodes);
        } else if self.finished.contains_key(&id) {
            Arc::make_mut(&mut self.finished).remove(&id);
        }
    }

    /// Counts a record in the digest at its new revision; zero: it is not there.
    pub(super) fn mark(&mut self, hash: KeyHash, before: Rev, after: Rev) {
        for rev in [before, after] {
            if rev != Rev::ZERO {
                // Taken out and put in alike, so the order does not matter.
                self.digest ^= xxhash_rust::xxh3::xxh3_64_with_seed(&hash.0.to_le_bytes(), rev.0);
            }
        }
    }
}

impl Counts {
    fn add(&mut self, id: &NodeId) {
        match id {
            NodeId::Key { .. } => {}
            NodeId::Bucket { .. } => self.buckets += 1,
            NodeId::Rule { .. } => self.rules += 1,
            NodeId::Unit(_) => self.units += 1,
        }
    }
}
