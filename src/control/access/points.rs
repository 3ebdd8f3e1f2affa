//! In which order a client tries the access points of units, and when. Pure.
//!
//! # Invariants
//! - P1. The home of the user comes first, unless nobody is served there; then it comes last.
//! - P2. Then come the other units of the home's Geo that take users, in an order of the user's own: those whose home cannot be
//!   reached do not all go to the same unit. Behind them are those that are being drained. No other unit is in the list.
//! - P3. A unit that comes or goes leaves the order of the others as it is.
//! - P4. Every relay of the Geo says the same, as far as settings and copies are the same.

use std::sync::Arc;
use std::time::Duration;

use super::Point;
use crate::model::{Geo, UnitId};
use crate::routing::key_hash;
use crate::routing::record::State;

/// How a unit stands towards clients that look for one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Standing {
    /// It takes users.
    Takes,
    /// It is being drained: it serves those it has.
    Leaves,
    /// It is fenced or evacuated, or takes its keys back: nobody is served there, or only in a moment.
    Gone,
}

/// A unit and its access points.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) unit: &'a UnitId,
    pub(super) geo: &'a Geo,
    pub(super) points: &'a [Arc<str>],
    pub(super) standing: Standing,
}

impl From<&State> for Standing {
    fn from(state: &State) -> Self {
        match state {
            State::Draining => Self::Leaves,
            State::Fencing { .. } | State::Evacuated { .. } | State::Returning { .. } => Self::Gone,
            State::Active | State::Migrating { .. } | State::Frozen { .. } | State::Tombstone => Self::Takes,
        }
    }
}

/// The access points for a user, `limit` of them at most. `first` is the home, or this unit if the user has none; `geo` counts if
/// that unit is not among the places.
pub(super) fn points(places: &[Place<'_>], first: &UnitId, geo: &Geo, user: &[u8], limit: usize) -> Vec<Point> {
    let home = places.iter().find(|place| place.unit == first);
    let geo = home.map_or(geo, |home| home.geo);
    let mut others: Vec<_> = places
        .iter()
        .filter(|place| place.unit != first && place.geo == geo && place.standing != Standing::Gone)
        .map(|place| (place.standing, dice(ORDER, place.unit, user), place))
        .collect();
    others.sort_by_key(|(standing, dice, place)| (*standing, *dice, place.unit));
    let is_gone = home.is_some_and(|home| home.standing == Standing::Gone);
    let (before, behind) = if is_gone { (None, home) } else { (home, None) };
    let others = others.into_iter().map(|(_, _, place)| place);
    let ordered = before.into_iter().chain(others).chain(behind);
    let all = ordered.flat_map(|place| {
        place.points.iter().map(|address| Point {
            unit: place.unit.clone(),
            address: Arc::clone(address),
        })
    });
    all.take(limit).collect()
}

/// How long after the advice the client of a user connects to its new unit: the same wherever it is asked, and over all users evenly
/// spread from nothing to `spread`.
pub(super) fn after(unit: &UnitId, user: &[u8], spread: Duration) -> Duration {
    let share = dice(MOMENT, unit, user) >> 64;
    // Both are below 2^64, so the product is below 2^128.
    let nanos = u128::from(u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX)).saturating_mul(share) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn dice(seed: u128, unit: &UnitId, user: &[u8]) -> u128 {
    key_hash(seed, unit.as_str().as_bytes(), user).0
}

/// No secrets: what they decide may be known, and is the same at all relays. They differ, so that who comes first in one does not in
/// the other.
const ORDER: u128 = 0x6f72_6465_7220_6f66_2070_6f69_6e74_7300;
const MOMENT: u128 = 0x6d6f_6d65_6e74_206f_6620_7573_6572_7300;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Name;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// A unit by number: its Geo, how it stands, how many points it has.
    #[derive(Clone, Debug)]
    struct Made {
        unit: UnitId,
        geo: Geo,
        points: Vec<Arc<str>>,
        standing: Standing,
    }

    fn made() -> impl Strategy<Value = Vec<Made>> {
        let standing = prop_oneof![Just(Standing::Takes), Just(Standing::Leaves), Just(Standing::Gone)];
        proptest::collection::vec((0_u8..2, standing, 0_usize..4), 1..8).prop_map(|rows| {
            let unit = |(number, (geo, standing, points)): (usize, (u8, Standing, usize))| Made {
                unit: name(&format!("u{number}")),
                geo: name(&format!("g{geo}")),
                points: (0..points).map(|at| format!("wss://u{number}/{at}").into()).collect(),
                standing,
            };
            rows.into_iter().enumerate().map(unit).collect()
        })
    }

    impl Made {
        fn place(&self) -> Place<'_> {
            Place {
                unit: &self.unit,
                geo: &self.geo,
                points: &self.points,
                standing: self.standing,
            }
        }
    }

    fn places(made: &[Made]) -> Vec<Place<'_>> {
        made.iter().map(Made::place).collect()
    }

    fn listed(made: &[Made], first: usize, user: &[u8]) -> Vec<Point> {
        points(&places(made), &made[first].unit, &name("g0"), user, usize::MAX)
    }

    /// Units of a list, each once.
    fn units(points: &[Point]) -> Vec<&UnitId> {
        let mut units: Vec<_> = points.iter().map(|point| &point.unit).collect();
        units.dedup();
        units
    }

    proptest! {
        // P1, P2, P3, P4
        #[test]
        fn the_home_is_first_and_the_others_follow_in_an_order_of_their_own(
            made in made(), first in any::<proptest::sample::Index>(), user in any::<[u8; 8]>(), left in any::<proptest::sample::Index>(),
        ) {
            let first = first.index(made.len());
            let home = &made[first];
            let list = listed(&made, first, &user);
            let order = units(&list);
            // Each point of each unit that belongs there, once.
            let fits = |other: &&Made| {
                other.geo == home.geo && (other.unit == home.unit || other.standing != Standing::Gone)
            };
            let expected: usize = made.iter().filter(fits).map(|made| made.points.len()).sum();
            prop_assert_eq!(list.len(), expected);
            let mut sorted = order.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), order.len(), "a unit comes twice");
            if let Some(at) = order.iter().position(|unit| **unit == home.unit) {
                let right = if home.standing == Standing::Gone { order.len() - 1 } else { 0 };
                prop_assert_eq!(at, right);
            }
            let standing = |unit: &UnitId| made.iter().find(|made| made.unit == *unit).unwrap().standing;
            let others: Vec<_> = order.iter().copied().filter(|unit| **unit != home.unit).collect();
            prop_assert!(others.iter().map(|unit| standing(unit)).is_sorted(), "a unit that leaves is before one that takes");
            // In another order of the settings, and without one of the others.
            let mut turned = made.clone();
            turned.reverse();
            prop_assert_eq!(&listed(&turned, made.len() - 1 - first, &user), &list);
            let left = left.index(made.len());
            if left != first {
                let mut fewer = made.clone();
                let gone = fewer.remove(left).unit;
                let first = if left < first { first - 1 } else { first };
                let rest: Vec<_> = list.iter().filter(|point| point.unit != gone).cloned().collect();
                prop_assert_eq!(listed(&fewer, first, &user), rest);
            }
            for limit in 0..list.len() {
                let short = points(&places(&made), &home.unit, &name("g0"), &user, limit);
                prop_assert_eq!(&short[..], &list[..limit]);
            }
        }

        #[test]
        fn the_moment_of_a_user_is_within_the_spread_and_stays_the_same(user in any::<[u8; 8]>(), spread in 0_u64..600_000) {
            let spread = Duration::from_millis(spread);
            let moment = after(&name("b"), &user, spread);
            prop_assert!(moment < spread || spread.is_zero() && moment.is_zero());
            prop_assert_eq!(after(&name("b"), &user, spread), moment);
        }
    }

    // P2: users whose home cannot be reached spread over the others; so do the moments of users over the time there is.
    #[test]
    fn users_spread_over_units_and_over_time() {
        let unit = |number: usize| Made {
            unit: name(&format!("u{number}")),
            geo: name("g0"),
            points: vec!["wss://x".into()],
            standing: Standing::Takes,
        };
        let made: Vec<_> = (0..4).map(unit).collect();
        let (mut second, mut tenths) = ([0_u32; 4], [0_u32; 10]);
        for user in 0..10_000_u32 {
            let list = listed(&made, 0, &user.to_le_bytes());
            let at = made.iter().position(|made| made.unit == list[1].unit).unwrap();
            second[at] += 1;
            let moment = after(&name("b"), &user.to_le_bytes(), Duration::from_secs(10));
            tenths[usize::try_from(moment.as_secs()).unwrap()] += 1;
        }
        assert_eq!(second[0], 0, "the home is not its own second");
        assert!(second[1..].iter().all(|count| count.abs_diff(3333) < 300), "{second:?}");
        assert!(tenths.iter().all(|count| count.abs_diff(1000) < 150), "{tenths:?}");
    }
}
