//! Weighted rendezvous hashing in whole numbers.
//!
//! Each unit draws a number for the key, as a random variable whose rate is its weight; the lowest wins. A unit that comes or
//! goes changes no other unit's number, so only its own keys move.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::{Name, UnitId};
use crate::routing::KeyHash;

/// What all draws of a key come from. The same in all versions of Strait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyDice(u64);

impl KeyDice {
    /// Of a key.
    pub fn new(dimension: &Name, key: &[u8]) -> Self {
        Self(xxh3_64_with_seed(key, xxh3_64(dimension.as_str().as_bytes())))
    }

    /// From 0 to 99, each for one key in a hundred. Independent of which unit wins.
    ///
    /// All rules of a dimension share the line, so of two with 10 and 30 percent the second one gets the 20 that are left.
    pub fn percent(self) -> u8 {
        let share = (u128::from(mixed(self.0 ^ PERCENT)) * 100) >> 64;
        u8::try_from(share).unwrap_or_default()
    }

    fn draw(self, unit: &UnitId) -> u64 {
        mixed(self.0 ^ mixed(xxh3_64(unit.as_str().as_bytes())))
    }
}

/// Of a key that a copy of the routes knows by its hash only.
impl From<KeyHash> for KeyDice {
    fn from(hash: KeyHash) -> Self {
        Self(u64::try_from((hash.0 >> 64) ^ (hash.0 & u128::from(u64::MAX))).unwrap_or_default())
    }
}

/// The unit that wins a key. A weight of 0 never wins.
pub fn heaviest<'a>(dice: KeyDice, units: impl IntoIterator<Item = (&'a UnitId, u16)>) -> Option<&'a UnitId> {
    let drawn = units.into_iter().filter(|(_, weight)| *weight > 0);
    let drawn = drawn.map(|(unit, weight)| (waiting(dice.draw(unit)), u64::from(weight), unit));
    // a / weight of a < b / weight of b, without fractions; names break ties.
    let winner = drawn.min_by(|(a, weight_a, unit_a), (b, weight_b, unit_b)| {
        let (a, b) = (
            u128::from(*a) * u128::from(*weight_b),
            u128::from(*b) * u128::from(*weight_a),
        );
        a.cmp(&b).then_with(|| unit_a.cmp(unit_b))
    });
    winner.map(|(.., unit)| unit)
}

/// -log2 of a draw as a share of all draws, in units of 2^-[`FRACTION`]. Exact arithmetic, so that machines agree.
fn waiting(draw: u64) -> u64 {
    // Of 2^64 numbers 0 has no logarithm; as 1 it waits longest.
    let draw = draw.max(1);
    let zeros = draw.leading_zeros();
    // From 1.0 up to 2.0, with 63 bits behind the point.
    let mut mantissa = draw << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let is_two = square >> 64 != 0;
        fraction = fraction << 1 | u64::from(is_two);
        mantissa = u64::try_from(if is_two { square >> 1 } else { square }).unwrap_or(u64::MAX);
    }
    let whole = u64::from(63 - zeros);
    (64 << FRACTION) - (whole << FRACTION | fraction)
}

/// The finalizer of splitmix64: each bit of the result depends on all bits of the number.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Bits of a logarithm behind the point.
const FRACTION: u32 = 32;
const PERCENT: u64 = 0x7065_7263_656e_7421;
