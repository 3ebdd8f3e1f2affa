//! Which endpoint takes the next call: the less loaded of two drawn at random. Pure.
//!
//! Two choices keep the fullest endpoint within a few calls of the mean without any look at all of them,
//! and without the stampede that "the least loaded" causes when many relays see the same load.
//!
//! # Invariants
//! - P1. If any candidate can take a call, one that can is chosen.

/// Chooses among `count` candidates. `load` gives the calls under way at one, or `None` if it takes
/// none; `dice` are 64 random bits. `None` if no candidate takes calls.
pub(super) fn choose(count: usize, dice: u64, load: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    let (first, second) = draw_two(count, dice)?;
    match (load(first), load(second)) {
        (Some(left), Some(right)) => Some(if right < left { second } else { first }),
        (Some(_), None) => Some(first),
        (None, Some(_)) => Some(second),
        // Both are out: look at all, from a random place so that their followers share the load.
        (None, None) => (0..count)
            .map(|offset| (first + offset) % count)
            .filter_map(|index| load(index).map(|load| (load, index)))
            .min_by_key(|(load, _)| *load)
            .map(|(_, index)| index),
    }
}

/// Two different indexes below `count`, each pair equally likely; the same twice if there is only one.
fn draw_two(count: usize, dice: u64) -> Option<(usize, usize)> {
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = scale(dice >> 32, count);
            let step = 1 + scale(dice & 0xffff_ffff, count - 1);
            Some((first, (first + step) % count))
        }
    }
}

/// Maps 32 random bits to `0..count` by multiplication, without the division of a remainder.
fn scale(bits: u64, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
    usize::try_from((bits * count) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // C-E1, P1
        #[test]
        fn one_that_can_take_the_call_is_found_whatever_the_dice(
            loads in proptest::collection::vec(proptest::option::of(0_usize..100), 0..20),
            dice in any::<u64>(),
        ) {
            let chosen = choose(loads.len(), dice, |index| loads[index]);
            match chosen {
                Some(index) => prop_assert!(loads[index].is_some()),
                None => prop_assert!(loads.iter().all(Option::is_none)),
            }
        }

        // C-E1
        #[test]
        fn the_fullest_of_all_is_never_chosen_unless_alone_or_equal(
            loads in proptest::collection::vec(0_usize..100, 2..20),
            dice in any::<u64>(),
        ) {
            let chosen = choose(loads.len(), dice, |index| Some(loads[index])).unwrap();
            let strictly_fullest = loads.iter().enumerate().all(|(i, load)| i == chosen || *load < loads[chosen]);
            prop_assert!(!strictly_fullest);
        }

        // C-E1
        #[test]
        fn calls_that_never_end_spread_within_bounds(count in 1_usize..12, seed in any::<u64>()) {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut loads = vec![0_usize; count];
            for _ in 0..count * 200 {
                let chosen = choose(count, dice.u64(..), |index| Some(loads[index])).unwrap();
                loads[chosen] += 1;
            }
            for load in loads {
                prop_assert!((190..=210).contains(&load), "{load}");
            }
        }
    }
}
