//! Which nodes a call was resolved through, for whoever must know later whether a node is done with (R-3.9 S4).
//!
//! # Invariants
//! - P1. A call that would not be admitted by the record that froze a node, but was admitted before, passes. It may pass
//!   needlessly if what decides about its key changed meanwhile: then a barrier takes longer.
//! - P2. A call that was resolved by a copy that had the freeze never passes: it was admitted for another reason, and a
//!   barrier that waited for such calls would never end.

use super::packed::{self, Code};
use super::{KeyHash, Routes};
use crate::routing::key_hash::node_hash;
use crate::routing::record::{NodeId, Rev, Target};

/// What a look-up went through. About 100 bytes that point nowhere.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Trail {
    /// The copy that was asked.
    at: Rev,
    hops: [Option<Hop>; DEPTH_MAX],
}

/// One key on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hop {
    pub(super) hash: KeyHash,
    /// Position in the book.
    pub(super) dimension: u16,
    pub(super) rules: Asked,
}

/// What the rules of a dimension said about a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// They were not asked: the key has a record of its own.
    No,
    /// None matches.
    Unmatched,
    /// Its bucket.
    Bucket(u16),
    /// The rule with this id.
    Rule(u32),
}

impl Trail {
    pub(super) fn new(at: Rev) -> Self {
        Self {
            at,
            hops: [None; DEPTH_MAX],
        }
    }

    /// The hash of the key that the look-up began with; `None` if no key decided.
    pub fn key(&self) -> Option<KeyHash> {
        self.hops.first().copied().flatten().map(|hop| hop.hash)
    }

    /// The revision of the copy that was asked.
    pub fn at(&self) -> Rev {
        self.at
    }

    /// Notes a key; `false` if there is no room for it.
    pub(super) fn push(&mut self, hop: Hop) -> bool {
        let free = self.hops.iter_mut().find(|hop| hop.is_none());
        free.is_some_and(|free| {
            *free = Some(hop);
            true
        })
    }

    pub(super) fn has(&self, hash: KeyHash) -> bool {
        self.hops().any(|hop| hop.hash == hash)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Hop> {
        self.hops.iter_mut().rev().find_map(Option::as_mut)
    }

    /// What the rules said about the key, if no other key was gone through.
    pub(super) fn only(&self) -> Option<Asked> {
        let mut hops = self.hops();
        let first = hops.next()?;
        hops.next().is_none().then_some(first.rules)
    }

    pub(super) fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.hops.iter().flatten()
    }
}

/// Says which calls were resolved through a node. Cheap to ask: comparisons, and a look-up if something changed.
#[derive(Clone, Copy, Debug)]
pub struct Through<'a> {
    routes: &'a Routes,
    node: Wanted,
    frozen_at: Rev,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Key(KeyHash),
    /// A bucket or a rule of a dimension.
    Part(u16, Asked),
    Unit,
    Nothing,
}

impl Routes {
    /// Asks about a node that the record of revision `frozen_at` has frozen. This copy must have that record.
    pub fn through(&self, node: &NodeId, frozen_at: Rev) -> Through<'_> {
        let position = |dimension: &crate::model::Name| {
            let kind = self.book.kind(dimension.as_str().as_bytes());
            kind.map(|kind| kind.position)
        };
        let wanted = match node {
            NodeId::Key { .. } => Some(Wanted::Key(node_hash(self.seed, node))),
            NodeId::Bucket { dimension, bucket } => {
                position(dimension).map(|dimension| Wanted::Part(dimension, Asked::Bucket(*bucket)))
            }
            NodeId::Rule { dimension, rule } => {
                position(dimension).map(|dimension| Wanted::Part(dimension, Asked::Rule(*rule)))
            }
            NodeId::Unit(_) => Some(Wanted::Unit),
        };
        Through {
            routes: self,
            node: wanted.unwrap_or(Wanted::Nothing),
            frozen_at,
        }
    }
}

impl Through<'_> {
    /// Whether a call that was resolved like this, and is in flight at the unit the node is taken from, goes through it.
    pub fn passes(&self, trail: &Trail) -> bool {
        if trail.at >= self.frozen_at {
            return false;
        }
        let is_meant = |hop: &Hop| match self.node {
            Wanted::Key(hash) => hop.hash == hash,
            // Other rules may match since.
            Wanted::Part(..) if self.routes.book.rev > trail.at => true,
            Wanted::Part(dimension, part) => {
                let is_same = hop.rules == part || hop.rules == Asked::No;
                hop.dimension == dimension && is_same && !self.has_own_record(hop.hash)
            }
            // A unit is fenced as a whole, whatever its keys.
            Wanted::Unit => true,
            Wanted::Nothing => false,
        };
        trail
            .hops()
            .any(|hop| is_meant(hop) || self.leads_elsewhere_by_now(hop, trail.at))
    }

    /// Whether rules do not matter to a key.
    fn has_own_record(&self, hash: KeyHash) -> bool {
        let packed = self.routes.overrides.get(hash);
        packed.is_some_and(|packed| packed::code(*packed) != Code::Tombstone)
    }

    /// Whether the key was made to follow another one since.
    fn leads_elsewhere_by_now(&self, hop: &Hop, at: Rev) -> bool {
        let node = self.routes.details.get(hop.hash);
        node.is_some_and(|node| node.rev > at && !matches!(node.target, Target::Unit(_)))
    }
}

/// Keys that lead from one to the next, and units that stand in for each other.
pub(super) const DEPTH_MAX: usize = 3;
