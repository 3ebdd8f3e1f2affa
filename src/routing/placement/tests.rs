use proptest::prelude::*;

use super::*;
use crate::routing::record::Share;

/// Units that are away, and dimensions that the call has keys of.
struct Around {
    away: Vec<&'static str>,
    keys: Vec<&'static str>,
}

impl Surroundings for Around {
    fn is_active(&self, unit: &UnitId) -> bool {
        !self.away.contains(&unit.as_str())
    }

    fn can_follow(&self, dimension: &Name) -> bool {
        self.keys.contains(&dimension.as_str())
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn shares(list: &[(&str, u16)]) -> Vec<Share> {
    let share = |(unit, weight): &(&str, u16)| Share {
        unit: name(unit),
        weight: *weight,
    };
    list.iter().map(share).collect()
}

fn to(list: &[(&str, u16)]) -> PlacementRule {
    PlacementRule {
        to: shares(list),
        ..PlacementRule::default()
    }
}

/// Where a key goes that unit `own` claims: `unit:`, `follow:` or nothing, and the rule.
fn placed(rules: &[PlacementRule], key: &[u8], class: Option<&str>, around: &Around) -> (String, Option<usize>) {
    let class = class.map(name);
    let dimension = name("im.conversation");
    let new = NewKey {
        dimension: &dimension,
        key,
        class: class.as_ref(),
    };
    match place(rules, new, &name("own"), around) {
        Some(Placed { target, rule }) => match target {
            Target::Unit(unit) => (unit.to_string(), rule),
            Target::Follow(dimension) => (format!("follow {dimension}"), rule),
            Target::Group { .. } => panic!("no rule says so"),
        },
        None => ("nowhere".to_owned(), None),
    }
}

fn around() -> Around {
    Around {
        away: Vec::new(),
        keys: Vec::new(),
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = [
        PlacementRule {
            class: Some(name("vip")),
            ..to(&[("v", 1)])
        },
        PlacementRule {
            prefix: Some("edu:".to_owned()),
            ..to(&[("e", 1)])
        },
        PlacementRule {
            follow: Some(name("im.org")),
            ..to(&[])
        },
        PlacementRule {
            prefix: Some("x".to_owned()),
            ..to(&[])
        },
        to(&[("z", 1)]),
    ];
    let with_org = Around {
        keys: vec!["im.org"],
        ..around()
    };
    let check = |key: &str, class, around: &Around, expected: &str, rule| {
        let found = placed(&rules, key.as_bytes(), class, around);
        assert_eq!(found, (expected.to_owned(), rule), "{key}");
    };
    check("edu:1", Some("vip"), &around(), "v", Some(0));
    check("edu:1", Some("bulk"), &around(), "e", Some(1));
    check("1", None, &with_org, "follow im.org", Some(2));
    check("x1", None, &around(), "own", Some(3));
    check("1", None, &around(), "z", Some(4));
}

// N1
#[test]
fn units_that_are_away_get_no_new_keys() {
    let rules = [to(&[("a", 1), ("b", 1)]), to(&[("c", 1)])];
    let away = |away: &[&'static str]| Around {
        away: away.to_vec(),
        keys: Vec::new(),
    };
    for number in 0..64_u8 {
        let find = |around: Around| placed(&rules, &[number], None, &around);
        assert_eq!(find(away(&["a"])), ("b".to_owned(), Some(0)));
        assert_eq!(find(away(&["a", "b"])), ("c".to_owned(), Some(1)));
        assert_eq!(find(away(&["a", "b", "c"])), ("own".to_owned(), None));
        assert_eq!(find(away(&["a", "b", "c", "own"])), ("nowhere".to_owned(), None));
    }
    assert_eq!(
        placed(&[to(&[("a", 0)])], b"k", None, &around()),
        ("own".to_owned(), None)
    );
    let own = [to(&[])];
    assert_eq!(placed(&own, b"k", None, &away(&["own"])), ("nowhere".to_owned(), None));
}

proptest! {
    // N2: sticky.
    #[test]
    fn raising_a_percentage_only_adds_keys(key in proptest::collection::vec(any::<u8>(), 0..20), percent in 0..100_u8) {
        let at = |percent| {
            let gray = PlacementRule { percent: Some(percent), ..to(&[("new", 1)]) };
            placed(&[gray], &key, None, &around()).0 == "new"
        };
        prop_assert!(!at(percent) || at(percent + 1));
        prop_assert!(at(100) && !at(0));
    }

    // N2
    #[test]
    fn only_keys_of_the_unit_that_changed_move(
        key in proptest::collection::vec(any::<u8>(), 0..20),
        weights in proptest::collection::vec(1..u16::MAX, 5),
        more in 0..u16::MAX,
    ) {
        let names = ["a", "b", "c", "d", "e"].map(name);
        let dice = KeyDice::new(&name("d"), &key);
        let units: Vec<_> = names.iter().zip(weights.iter().copied()).collect();
        let winner = heaviest(dice, units.clone()).unwrap();
        let without = heaviest(dice, units[1..].iter().copied()).unwrap();
        prop_assert!(winner == &names[0] || without == winner);
        let mut raised = units.clone();
        raised[0].1 = raised[0].1.saturating_add(more);
        let raised = heaviest(dice, raised).unwrap();
        prop_assert!(raised == winner || raised == &names[0]);
        // N3: the order in which they are listed says nothing.
        prop_assert_eq!(heaviest(dice, units.into_iter().rev()), Some(winner));
    }

    // N3
    #[test]
    fn the_fallback_is_the_same_in_whatever_order_units_are_known(key in any::<Vec<u8>>(), turn in 0..5_usize) {
        let mut units = ["a", "b", "c", "d", "e"].map(name);
        let first = fallback(&name("d"), &key, &units).cloned();
        units.rotate_left(turn);
        prop_assert_eq!(fallback(&name("d"), &key, &units), first.as_ref());
    }
}

/// Where a key goes without the store, asked by the relay of any unit.
fn provisional(rules: &[PlacementRule], key: &[u8], active: &[UnitId], around: &Around) -> Option<Target> {
    let dimension = name("im.conversation");
    let new = NewKey {
        dimension: &dimension,
        key,
        class: None,
    };
    without_store(rules, new, active, around)
}

// a rule that names units or a key to follow decides as ever; one that means whoever claims does not mean anybody.
#[test]
fn without_the_store_rules_that_name_units_decide_as_ever() {
    let own = PlacementRule {
        prefix: Some("own:".to_owned()),
        ..to(&[])
    };
    let follow = PlacementRule {
        follow: Some(name("im.org")),
        prefix: Some("org:".to_owned()),
        ..to(&[])
    };
    let named = PlacementRule {
        prefix: Some("n:".to_owned()),
        ..to(&[("a", 1), ("z", 1)])
    };
    let rules = [own, follow, named];
    let around = Around {
        away: vec!["z"],
        keys: vec!["im.org"],
    };
    let units = ["a", "b", "c"].map(name);
    let everywhere = |key: &[u8]| {
        fallback(&name("im.conversation"), key, &units)
            .cloned()
            .map(Target::Unit)
    };
    for number in 0..50_u8 {
        let of = |prefix: &str| format!("{prefix}{number}").into_bytes();
        let found = |key: &[u8]| provisional(&rules, key, &units, &around);
        assert_eq!(found(&of("own:")), everywhere(&of("own:")));
        assert_eq!(found(&of("x")), everywhere(&of("x")));
        assert_eq!(found(&of("n:")), Some(Target::Unit(name("a"))), "z is away");
        assert_eq!(found(&of("org:")), Some(Target::Follow(name("im.org"))));
    }
    assert_eq!(provisional(&rules, b"n:1", &[], &around), None);
}

proptest! {
    // R-I18: the same at all relays that know the same units, whatever the order; a unit that goes away, or is there again,
    // moves its own keys only.
    #[test]
    fn without_the_store_all_relays_choose_alike_and_units_that_go_move_their_own_keys_only(
        key in prop::collection::vec(any::<u8>(), 0..20), gone in 0..5_usize, turn in 0..5_usize,
    ) {
        let mut units = ["a", "b", "c", "d", "e"].map(name).to_vec();
        let first = provisional(&[], &key, &units, &around()).unwrap();
        let left = units[gone].clone();
        units.rotate_left(turn);
        prop_assert_eq!(provisional(&[], &key, &units, &around()).unwrap(), first.clone());
        units.retain(|unit| *unit != left);
        let without = provisional(&[], &key, &units, &around()).unwrap();
        prop_assert!(without == first || first == Target::Unit(left));
    }
}

// each unit has its share, within 5 percent.
#[test]
fn without_the_store_each_unit_has_its_share() {
    let units = ["a", "b", "c", "d"].map(name);
    let mut counts = std::collections::BTreeMap::new();
    for number in 0..40_000_u32 {
        let Some(Target::Unit(unit)) = provisional(&[], number.to_string().as_bytes(), &units, &around()) else {
            panic!("a unit")
        };
        *counts.entry(unit).or_insert(0_u32) += 1;
    }
    assert!(
        counts.len() == 4 && counts.values().all(|count| count.abs_diff(10_000) < 500),
        "{counts:?}"
    );
}

// R-I18 with the same arithmetic: within 5 percent of the weights at 100000 keys.
#[test]
fn keys_spread_by_weight() {
    let names = ["a", "b", "c", "d"].map(name);
    let weights = [1_u16, 2, 5, 2];
    let mut counts = [0_u32; 4];
    let mut percents = [0_u32; 100];
    for key in 0..100_000_u32 {
        let dice = KeyDice::new(&name("d"), key.to_string().as_bytes());
        let winner = heaviest(dice, names.iter().zip(weights)).unwrap();
        counts[names.iter().position(|name| name == winner).unwrap()] += 1;
        percents[usize::from(dice.percent())] += 1;
    }
    for (count, weight) in counts.into_iter().zip(weights) {
        let expected = u32::from(weight) * 10_000;
        assert!(count.abs_diff(expected) < expected / 20, "{counts:?}");
    }
    assert!(percents.iter().all(|count| (850..1150).contains(count)), "{percents:?}");
}

// N3. Written down once: a change would move keys that follow the fallback.
#[test]
fn where_a_key_falls_never_changes() {
    let names = ["a", "b", "c", "d", "e"].map(name);
    let winners: String = (0..40_u32)
        .map(|key| {
            fallback(&name("im.conversation"), key.to_string().as_bytes(), &names)
                .unwrap()
                .as_str()
        })
        .collect();
    assert_eq!(winners, "ddcecdbcbbbaaccdaecadccedcecadbeeccdcbda");
    let percents: Vec<u8> = (0..6_u8)
        .map(|key| KeyDice::new(&name("d"), &[key]).percent())
        .collect();
    assert_eq!(percents, [71, 8, 82, 89, 15, 44]);
}
