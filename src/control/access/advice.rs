//! What a gateway is told of a user's home. Pure.
//!
//! # Invariants
//! - D1. Advice to connect anew is given when the unit has changed that the gateway was last told of, and then once.
//! - D2. While a user is frozen on its way nothing is said of it: the move may be taken back.
//! - D3. A home that is not known now, because the store is away say, is no change.

use crate::model::UnitId;

/// Where a user is at home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Home {
    /// There.
    At {
        unit: UnitId,
        epoch: u64,
        /// It is frozen on its way to another unit.
        is_moving: bool,
    },
    /// Nowhere, or nobody knows; why, for people.
    Nowhere(String),
}

/// What a gateway was told of a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Told {
    /// Where its client belongs.
    pub(super) place: UnitId,
    /// That is its home; else it was said to have none.
    pub(super) has_home: bool,
    /// It was said to be on its way.
    pub(super) is_moving: bool,
}

/// What to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Say {
    /// Nothing is new.
    Nothing,
    /// How it stands; its client is where it belongs.
    State,
    /// Its client belongs elsewhere.
    ReAttach,
}

/// What to tell about a user of whom this was told.
pub(super) fn say(told: &Told, now: &Home) -> Say {
    match now {
        Home::Nowhere(_) | Home::At { is_moving: true, .. } => Say::Nothing,
        Home::At { unit, .. } if *unit != told.place => Say::ReAttach,
        Home::At { .. } if told.is_moving || !told.has_home => Say::State,
        Home::At { .. } => Say::Nothing,
    }
}

impl Told {
    /// After the first that is said of a user. `before` is the home that the gateway had heard of, from another relay perhaps;
    /// without it, clients of users without home are at `here`, and all others are where they belong.
    pub(super) fn first(now: &Home, before: Option<UnitId>, here: &UnitId) -> Self {
        let (home, is_moving) = match now {
            Home::At { unit, is_moving, .. } => (Some(unit), *is_moving),
            Home::Nowhere(_) => (None, false),
        };
        Self {
            has_home: home.is_some(),
            place: before.unwrap_or_else(|| home.unwrap_or(here).clone()),
            is_moving,
        }
    }

    /// After something was said of it.
    pub(super) fn at(unit: UnitId) -> Self {
        Self {
            place: unit,
            has_home: true,
            is_moving: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Name;

    fn unit(number: u8) -> UnitId {
        Name::new(&format!("u{number}")).unwrap()
    }

    fn home() -> impl Strategy<Value = Home> {
        let at = (0_u8..3, any::<u64>(), any::<bool>()).prop_map(|(number, epoch, is_moving)| Home::At {
            unit: unit(number),
            epoch,
            is_moving,
        });
        prop_oneof![4 => at, 1 => Just(Home::Nowhere(String::new()))]
    }

    proptest! {
        // D1, D2, D3, over any history: advice names each change of the unit at rest, once, and nothing else.
        #[test]
        fn advice_follows_the_unit_at_rest(
            history in proptest::collection::vec(home(), 1..20), before in proptest::option::of(0_u8..3),
        ) {
            let here = unit(0);
            let mut told = Told::first(&history[0], before.map(unit), &here);
            // Where the client believes it belongs, kept apart from what is tested.
            let mut client = match (&history[0], before) {
                (_, Some(before)) => unit(before),
                (Home::At { unit, .. }, None) => unit.clone(),
                (Home::Nowhere(_), None) => here,
            };
            let mut said_home = matches!(history[0], Home::At { is_moving: false, .. });
            for now in &history {
                let said = say(&told, now);
                if let Home::At { unit, is_moving: false, .. } = now {
                    prop_assert_eq!(said == Say::ReAttach, client != *unit);
                    if client == *unit {
                        prop_assert_eq!(said == Say::State, !said_home);
                    }
                    client = unit.clone();
                    said_home = true;
                    if said != Say::Nothing {
                        told = Told::at(unit.clone());
                    }
                } else {
                    prop_assert_eq!(said, Say::Nothing);
                }
                prop_assert_eq!(say(&told, now), Say::Nothing, "not twice");
            }
        }
    }
}
