//! Of a key at rest: since when its owner has it, and the unit that a drain took it from. Most keys have no past: their record gave
//! them to their owner.

use super::packed::{self, Code, Packed};
use super::{KeyHash, Routes};
use crate::model::UnitId;
use crate::routing::record::{Node, Rev};
use crate::routing::takeover::rendezvous;

/// What is kept of a key at rest besides its owner and its revision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Past<'a> {
    /// Since when its owner has it.
    pub(super) since: Rev,
    /// The unit that a drain took it from.
    pub(super) home: Option<&'a UnitId>,
}

impl Routes {
    /// The past of a key at rest with a record of this revision.
    pub(super) fn past(&self, hash: KeyHash, rev: Rev) -> Past<'_> {
        let Some(packed) = self.pasts.get(hash).copied() else {
            return Past { since: rev, home: None };
        };
        let home = match packed::code(packed) {
            Code::Unit(number) => self.book.unit(number),
            Code::Details | Code::Tombstone => None,
        };
        Past {
            since: packed::rev(packed),
            home,
        }
    }

    /// Keeps the past of a key at rest that is written at this revision.
    pub(super) fn put_past(&mut self, hash: KeyHash, node: &Node, rev: Rev) {
        let since = node.term.since.unwrap_or(rev);
        let home = node.home.as_ref().and_then(|home| self.book.number(home));
        if since == rev && home.is_none() {
            return self.forget_past(hash);
        }
        let code = home.map_or(Code::Tombstone, Code::Unit);
        self.pasts.insert(hash, packed::pack(since, code));
    }

    /// It has none, or is not at rest.
    pub(super) fn forget_past(&mut self, hash: KeyHash) {
        self.pasts.remove(hash);
    }
}

/// Whether a past can have been kept; of bytes in a file.
pub(super) fn makes_sense(routes: &Routes, packed: Packed) -> bool {
    let is_known = match packed::code(packed) {
        Code::Unit(number) => routes.book.unit(number).is_some(),
        Code::Tombstone => true,
        Code::Details => false,
    };
    is_known && packed::rev(packed) <= routes.rev()
}

/// Since when a unit has a key in the place of another one, whose record this is.
pub(super) fn heir_since(node: &Node, hash: KeyHash, heir: &UnitId) -> Rev {
    // Lists only get shorter, and no key moves between those that stay: who was chosen from a longer one has been chosen since.
    let chosen = |takeover: &[(UnitId, u16)]| {
        let candidates = takeover.iter().map(|(unit, weight)| (unit, *weight));
        rendezvous(hash, candidates) == Some(heir)
    };
    let mut earlier = node.term.earlier.iter();
    let found = earlier.find(|(takeover, _)| chosen(takeover));
    found.map_or(node.since(), |(_, since)| *since)
}
