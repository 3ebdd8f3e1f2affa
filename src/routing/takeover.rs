//! Which of several units has a key: weighted rendezvous. Each key goes to the same unit as long as that is in the list.
//!
//! Each unit draws a waiting time for the key, shorter on average the more weight it has, and the shortest wins. A unit that
//! comes or goes changes no other unit's draw, so no keys move but its own. In whole numbers, because two machines may
//! disagree about the last digit of a logarithm.

use xxhash_rust::xxh3::xxh3_64;

use super::KeyHash;
use crate::model::UnitId;

/// The winner; `None` if all weights are zero.
pub fn rendezvous<'a>(hash: KeyHash, candidates: impl IntoIterator<Item = (&'a UnitId, u16)>) -> Option<&'a UnitId> {
    let key = u64::try_from((hash.0 >> 64) ^ (hash.0 & u128::from(u64::MAX))).unwrap_or_default();
    let drawn = candidates.into_iter().filter(|(_, weight)| *weight > 0);
    let drawn = drawn.map(|(unit, weight)| {
        let draw = mix(key ^ mix(xxh3_64(unit.as_str().as_bytes())));
        (u128::from(waiting(draw)), u128::from(weight), unit)
    });
    // One waiting time by its weight against the other one by its own, without fractions. Names break ties.
    let winner = drawn.min_by(|(a, weight_of_a, name_of_a), (b, weight_of_b, name_of_b)| {
        let order = (a * weight_of_b).cmp(&(b * weight_of_a));
        order.then_with(|| name_of_a.cmp(name_of_b))
    });
    winner.map(|(.., unit)| unit)
}

/// How far a draw is below 2^64, as the difference of logarithms to base 2, times 2^[`FRACTION`].
fn waiting(draw: u64) -> u64 {
    // Zero has no logarithm; as 1 it waits longest.
    let draw = draw.max(1);
    let zeros = draw.leading_zeros();
    // From 1 up to 2, with 63 bits behind the point. Squaring doubles the logarithm: its next bit comes before the point.
    let mut mantissa = draw << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let is_two_or_more = square >> 64 != 0;
        let halved = if is_two_or_more { square >> 1 } else { square };
        mantissa = u64::try_from(halved).unwrap_or(u64::MAX);
        fraction = (fraction << 1) | u64::from(is_two_or_more);
    }
    let logarithm = (u64::from(63 - zeros) << FRACTION) | fraction;
    (64 << FRACTION) - logarithm
}

/// The finalizer of `MurmurHash3`.
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// Bits of a logarithm behind the point.
const FRACTION: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::routing::key_hash;

    fn keys() -> impl Iterator<Item = KeyHash> {
        (0..100_000_u32).map(|key| key_hash(1, b"uid", &key.to_le_bytes()))
    }

    // R-I18
    #[test]
    fn shares_follow_the_weights_and_only_the_keys_of_who_left_move() {
        let names = ["a", "b", "c", "d"].map(|name| Name::new(name).unwrap());
        let units: Vec<_> = names.iter().zip([1_u16, 2, 5, 0]).collect();
        let without = |left: usize| {
            let rest = units.iter().enumerate();
            rest.filter_map(move |(index, unit)| (index != left).then_some(*unit))
        };
        let mut counts = [0_u32; 4];
        for key in keys() {
            let winner = rendezvous(key, units.iter().copied()).unwrap();
            let position = names.iter().position(|name| name == winner).unwrap();
            counts[position] += 1;
            let mut later: Vec<_> = units.clone();
            later.reverse();
            assert_eq!(
                rendezvous(key, later),
                Some(winner),
                "the order of the list does not matter"
            );
            for left in 0..4 {
                assert!(left == position || rendezvous(key, without(left)) == Some(winner));
            }
        }
        for (count, share) in counts.into_iter().zip([12_500_u32, 25_000, 62_500, 0]) {
            assert!(count.abs_diff(share) * 20 <= share.max(1), "{counts:?}");
        }
        assert_eq!(rendezvous(KeyHash(1), [(&names[0], 0)]), None);
    }

    #[test]
    fn waiting_times_are_logarithms() {
        for draw in [1, 2, 3, 1000, u64::MAX / 3, 1 << 63, u64::MAX - 1, u64::MAX] {
            #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "compared roughly")]
            let (exact, found) = (
                64.0 - (draw as f64).log2(),
                waiting(draw) as f64 / f64::from(2.0_f32).powi(32),
            );
            assert!((exact - found).abs() < 1e-9, "{draw}: {exact} {found}");
        }
        assert!(waiting(u64::MAX) > 0);
    }
}
