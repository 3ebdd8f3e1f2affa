//! Which writes have shadows at another unit: those of nodes that a move with a mirror is about (R-3.9 S1, S7).
//!
//! # Invariants
//! - E1. Two copies at the same revision say the same (C3), so the unit that gets a shadow can tell whether it should have one.
//! - E2. Without such moves it costs one comparison per call.

use std::sync::Arc;

use super::trail::{Asked, Hop, Trail};
use super::{KeyHash, Routes};
use crate::model::UnitId;
use crate::routing::key_hash::{Part, node_hash, part_hash};
use crate::routing::record::{Move, MoveId, State, Target};

/// Where the shadow of a write goes, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mirrored<'a> {
    /// The move.
    pub by: MoveId,
    /// The unit: the new owner until the node is there, then the old one.
    pub to: &'a UnitId,
}

impl Routes {
    /// Where the shadow of a write that was resolved like this goes; `None`: it has none.
    pub fn mirrored(&self, trail: &Trail) -> Option<Mirrored<'_>> {
        if self.mirrors.is_empty() {
            return None;
        }
        trail.hops().find_map(|hop| {
            let of_key = self.mirrored_node(hop.hash);
            of_key.or_else(|| self.mirrored_node(self.part_of(hop)?))
        })
    }

    fn mirrored_node(&self, hash: KeyHash) -> Option<Mirrored<'_>> {
        let mut moves = self.mirrors.range((hash, MoveId(0))..=(hash, MoveId(u64::MAX)));
        let node = self.details.get(hash)?;
        moves.find_map(|(_, by)| {
            let to = match (&node.state, &node.target, &node.previous) {
                (State::Migrating { to, by: of } | State::Frozen { to, by: of }, ..) if of == by => to,
                // An application that is about to forget the node gets no more of it.
                (State::Active, Target::Unit(unit), Some(previous))
                    if *unit == self.moves.get(by)?.to && node.cleaned_up().is_none() =>
                {
                    previous
                }
                _ => return None,
            };
            Some(Mirrored { by: *by, to })
        })
    }

    /// The bucket or rule that decided about a key.
    fn part_of(&self, hop: &Hop) -> Option<KeyHash> {
        let spec = self.book().dimensions.get(usize::from(hop.dimension))?;
        let name = spec.name.as_str();
        let part = match hop.rules {
            Asked::Bucket(bucket) => Part::Bucket(name, bucket),
            Asked::Rule(rule) => Part::Rule(name, rule),
            Asked::No | Asked::Unmatched => return None,
        };
        Some(part_hash(self.seed, part))
    }

    /// A move begins, or goes on. What it is about never changes.
    pub(super) fn note_mirror(&mut self, work: &Move) {
        if work.options.mirror && !self.moves.contains_key(&work.id) {
            let nodes = work.nodes.iter().map(|node| (node_hash(self.seed, node), work.id));
            Arc::make_mut(&mut self.mirrors).extend(nodes);
        }
    }

    /// A move has finished.
    pub(super) fn forget_mirror(&mut self, id: MoveId) {
        if self.mirrors.iter().any(|(_, by)| *by == id) {
            Arc::make_mut(&mut self.mirrors).retain(|(_, by)| *by != id);
        }
    }
}
