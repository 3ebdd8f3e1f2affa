//! Which unit has a key while its owner is evacuated: weighted rendezvous. Each key goes to the same unit as long as that is
//! in the list; a unit that comes or goes moves no keys but its own (R-I18).

use super::KeyHash;
use super::placement::{KeyDice, heaviest};
use crate::model::UnitId;

/// The winner; `None` if all weights are zero.
pub fn rendezvous<'a>(hash: KeyHash, candidates: impl IntoIterator<Item = (&'a UnitId, u16)>) -> Option<&'a UnitId> {
    heaviest(KeyDice::from(hash), candidates)
}

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
}
