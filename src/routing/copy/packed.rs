//! What is kept of a key at rest, in 64 bits: 48 of revision, 16 of what was decided.

use crate::routing::record::Rev;

/// What was decided, as a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    /// This unit has it: its position in the book.
    Unit(u16),
    /// More than that; see the side table.
    Details,
    /// Nothing any more.
    Tombstone,
}

/// A code and the revision that decided.
pub(super) type Packed = u64;

/// Units that can be told apart: half of the numbers that are left, because the past of a key has a bit more to say.
pub(super) const UNITS_MAX: u16 = SWEPT - 3;
/// Not in the number of a unit: see `past`.
pub(super) const SWEPT: u16 = 1 << 15;
const DETAILS: u16 = u16::MAX - 1;
const TOMBSTONE: u16 = u16::MAX;

pub(super) fn pack(rev: Rev, code: Code) -> Packed {
    let code = match code {
        Code::Unit(unit) => unit,
        Code::Details => DETAILS,
        Code::Tombstone => TOMBSTONE,
    };
    (rev.0 << 16) | u64::from(code)
}

pub(super) fn rev(packed: Packed) -> Rev {
    Rev(packed >> 16)
}

pub(super) fn code(packed: Packed) -> Code {
    match u16::try_from(packed & 0xffff).unwrap_or(TOMBSTONE) {
        TOMBSTONE => Code::Tombstone,
        DETAILS => Code::Details,
        unit => Code::Unit(unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        for revision in [Rev(1), Rev(77), Rev::MAX] {
            for kind in [Code::Unit(0), Code::Unit(UNITS_MAX), Code::Details, Code::Tombstone] {
                let packed = pack(revision, kind);
                assert_eq!((rev(packed), code(packed)), (revision, kind));
            }
        }
    }
}
