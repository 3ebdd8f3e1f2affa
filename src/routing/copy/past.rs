//! Of a key at rest: since when its owner has it, the unit that a drain took it from, and whether its record decided anything. Most
//! keys have no past: their record gave them to their owner.

use super::packed::{self, Code, Packed, SWEPT};
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
    /// Its record only forgets who had it before.
    pub(super) is_swept: bool,
}

impl Routes {
    /// The past of a key at rest with a record of this revision.
    pub(super) fn past(&self, hash: KeyHash, rev: Rev) -> Past<'_> {
        let Some(packed) = self.pasts.get(hash).copied() else {
            return Past {
                since: rev,
                home: None,
                is_swept: false,
            };
        };
        let (home, is_swept) = split(packed::code(packed));
        Past {
            since: packed::rev(packed),
            home: home.and_then(|number| self.book.unit(number)),
            is_swept,
        }
    }

    /// Keeps the past of a key at rest that is written at this revision.
    pub(super) fn put_past(&mut self, hash: KeyHash, node: &Node, rev: Rev) {
        let since = node.term.since.unwrap_or(rev);
        let home = node
            .home
            .as_ref()
            .and_then(|home| self.book.number(home))
            .filter(|number| *number < SWEPT);
        if since == rev && home.is_none() {
            return self.forget_past(hash);
        }
        let code = joined(home, node.term.is_swept);
        self.pasts.insert(hash, packed::pack(since, code));
    }

    /// It has none, or is not at rest.
    pub(super) fn forget_past(&mut self, hash: KeyHash) {
        self.pasts.remove(hash);
    }
}

/// The number of the home and whether the record only forgets, as a code: of one that decided something the home, or none; of one
/// that only forgets the same with a bit more.
fn joined(home: Option<u16>, is_swept: bool) -> Code {
    match (home, is_swept) {
        (Some(number), false) => Code::Unit(number),
        (Some(number), true) => Code::Unit(number | SWEPT),
        (None, false) => Code::Tombstone,
        (None, true) => Code::Details,
    }
}

/// What [`joined`] put together.
fn split(code: Code) -> (Option<u16>, bool) {
    match code {
        Code::Unit(number) => (Some(number & !SWEPT), number & SWEPT != 0),
        Code::Tombstone => (None, false),
        Code::Details => (None, true),
    }
}

/// Whether a past can have been kept; of bytes in a file.
pub(super) fn makes_sense(routes: &Routes, packed: Packed) -> bool {
    let (home, _) = split(packed::code(packed));
    home.is_none_or(|number| routes.book.unit(number).is_some()) && packed::rev(packed) <= routes.rev()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::copy::packed::UNITS_MAX;

    #[test]
    fn what_is_joined_comes_apart_as_it_was() {
        for home in [None, Some(0), Some(1), Some(UNITS_MAX)] {
            for is_swept in [false, true] {
                let packed = packed::pack(Rev(77), joined(home, is_swept));
                assert_eq!(split(packed::code(packed)), (home, is_swept));
            }
        }
    }
}
