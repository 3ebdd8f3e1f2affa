//! The table against a naive reference, and its checks.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{ANY_KEY, Key, MissingKey, Name, RouteHints, RoutePolicy, RoutedBy, UnitId};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn rule(dimension: &str, unit: &str) -> Rule {
    Rule {
        dimension: name(dimension),
        unit: name(unit),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: false,
    }
}

fn keys(unit: &str, keys: &[&str]) -> Rule {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Rule {
        keys,
        ..rule("uid", unit)
    }
}

fn prefix(unit: &str, prefix: &str) -> Rule {
    let prefix = Some(prefix.to_owned());
    Rule {
        prefix,
        ..rule("uid", unit)
    }
}

fn range(unit: &str, first: &str, last: &str) -> Rule {
    let range = Some([first.to_owned(), last.to_owned()]);
    Rule {
        range,
        ..rule("uid", unit)
    }
}

fn hash(unit: &str, from: f64, to: f64) -> Rule {
    let hash = Some([from, to]);
    Rule {
        hash,
        ..rule("uid", unit)
    }
}

fn default(unit: &str) -> Rule {
    Rule {
        default: true,
        ..rule("uid", unit)
    }
}

fn build(rules: Vec<Rule>) -> Result<RouteTable, Vec<RuleError>> {
    let settings = Settings {
        version: 7,
        dimensions: vec![name("org"), name("uid")],
        rules,
        ..Settings::default()
    };
    RouteTable::build(&settings, &name("a"), [&name("b"), &name("c"), &name("d")])
}

fn hints(keys: &[(&str, &str)]) -> RouteHints {
    let keys = keys
        .iter()
        .map(|(dimension, key)| Key {
            dimension: Bytes::copy_from_slice(dimension.as_bytes()),
            key: Bytes::copy_from_slice(key.as_bytes()),
        })
        .collect();
    RouteHints {
        keys,
        ..RouteHints::default()
    }
}

fn resolve(table: &RouteTable, hints: &RouteHints, missing_key: &MissingKey) -> Result<String, RouteError> {
    let local = name("a");
    let policy = RoutePolicy {
        missing_key: missing_key.clone(),
        ..RoutePolicy::default()
    };
    table.resolve(hints, &policy, &local, &()).map(|decision| {
        assert_eq!(decision.epoch, 7);
        decision.unit.to_string()
    })
}

// S1: of the dimensions that a method names the first one that there is a key of decides, and no other does.
#[test]
fn a_method_says_which_dimensions_route_it() {
    let table = build(vec![
        default("b"),
        Rule {
            dimension: name("org"),
            ..default("c")
        },
    ])
    .unwrap();
    let local = name("a");
    let decide = |dimensions: &[&str], keys: &[(&str, &str)], missing_key: MissingKey| {
        let policy = RoutePolicy {
            missing_key,
            dimensions: dimensions.iter().map(|text| name(text)).collect(),
            ..RoutePolicy::default()
        };
        let found = table.resolve(&hints(keys), &policy, &local, &());
        found.map(|decision| (decision.unit.to_string(), policy.routed_by(decision.dimension)))
    };
    let (org, uid) = (("org", "1"), ("uid", "1"));
    let by = |text: &str| RoutedBy::Dimension(name(text));
    let said = |unit: &str, by: RoutedBy| Ok((unit.to_owned(), by));
    assert_eq!(decide(&[], &[uid, org], MissingKey::Reject), said("c", RoutedBy::Order));
    assert_eq!(
        decide(&["uid", "org"], &[org, uid], MissingKey::Reject),
        said("b", by("uid"))
    );
    assert_eq!(
        decide(&["uid", "org"], &[org], MissingKey::Reject),
        said("c", by("org"))
    );
    assert_eq!(decide(&["uid"], &[org, uid], MissingKey::Reject), said("b", by("uid")));
    assert_eq!(decide(&["uid"], &[org], MissingKey::Local), said("a", RoutedBy::NoKey));
    let refused = decide(&["uid", "org"], &[("x", "1")], MissingKey::Reject).unwrap_err();
    assert!(refused.to_string().contains("of uid or org"), "{refused}");
    let unknown = decide(&["room"], &[("room", "1")], MissingKey::Local);
    assert_eq!(
        unknown,
        Err(RouteError::UnknownDimension {
            found: "room".to_owned()
        })
    );
}

#[test]
fn the_most_specific_kind_of_rule_wins_whatever_the_order() {
    let mut rules = vec![
        keys("b", &["1500"]),
        prefix("c", "15"),
        prefix("b", "151"),
        range("d", "1000", "1999"),
        default("a"),
    ];
    for _ in 0..2 {
        let table = build(rules.clone()).unwrap();
        let check = |key: &str, unit: &str| {
            assert_eq!(
                resolve(&table, &hints(&[("uid", key)]), &MissingKey::Reject).as_deref(),
                Ok(unit),
                "{key}"
            );
        };
        check("1500", "b");
        check("1501", "c");
        check("1510", "b");
        check("1600", "d");
        check("01600", "d");
        check("2000", "a");
        check("1600x", "a");
        check("", "a");
        rules.reverse();
    }
}

#[test]
fn the_unit_a_caller_names_wins_then_the_first_dimension_it_has_a_key_of() {
    let org = Rule {
        default: true,
        ..rule("org", "b")
    };
    let table = build(vec![org, default("c")]).unwrap();
    let unit = |unit: &str| RouteHints {
        unit: Some(name(unit)),
        ..hints(&[("uid", "1")])
    };
    let reject = MissingKey::Reject;
    assert_eq!(resolve(&table, &unit("d"), &reject).as_deref(), Ok("d"));
    assert_eq!(resolve(&table, &unit("a"), &reject).as_deref(), Ok("a"));
    assert_eq!(
        resolve(&table, &unit("x"), &reject),
        Err(RouteError::UnknownUnit { unit: name("x") })
    );
    assert_eq!(
        resolve(&table, &hints(&[("uid", "1"), ("org", "1")]), &reject).as_deref(),
        Ok("b")
    );
    assert_eq!(resolve(&table, &hints(&[("uid", "1")]), &reject).as_deref(), Ok("c"));
}

#[test]
fn a_call_without_key_goes_where_its_service_says() {
    // C-R3
    let table = build(vec![default("c")]).unwrap();
    let none = RouteHints::default();
    assert_eq!(resolve(&table, &none, &MissingKey::Reject), Err(RouteError::MissingKey));
    assert_eq!(resolve(&table, &none, &MissingKey::Local).as_deref(), Ok("a"));
    assert_eq!(resolve(&table, &none, &MissingKey::Unit(name("d"))).as_deref(), Ok("d"));
    let unknown = Err(RouteError::UnknownUnit { unit: name("x") });
    assert_eq!(resolve(&table, &none, &MissingKey::Unit(name("x"))), unknown);
}

#[test]
fn a_key_that_cannot_be_routed_is_never_sent_where_keyless_calls_go() {
    let table = build(vec![keys("b", &["1"])]).unwrap();
    let no_rule = Err(RouteError::NoRule { dimension: name("uid") });
    assert_eq!(resolve(&table, &hints(&[("uid", "2")]), &MissingKey::Local), no_rule);
    let unknown = Err(RouteError::UnknownDimension { found: "uidd".into() });
    assert_eq!(resolve(&table, &hints(&[("uidd", "1")]), &MissingKey::Local), unknown);
}

fn check_mistakes(rules: Vec<Rule>, expected: &[&str]) {
    let found: Vec<_> = build(rules).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "expected {expected:?}, found {found:?}");
    }
}

#[test]
fn mistakes_in_rules_are_all_reported_with_rule_and_key() {
    check_mistakes(
        vec![
            rule("uid", "b"),
            Rule {
                default: true,
                ..prefix("b", "x")
            },
        ],
        &[
            "routing.rules[0].dimension: exactly one of keys, prefix, range, hash and default = true must say which keys are meant; found none",
            "routing.rules[1].dimension: exactly one of keys, prefix, range, hash and default = true must say which keys are meant; found prefix, default",
        ],
    );
    check_mistakes(
        vec![
            default("x"),
            Rule {
                dimension: name("uidd"),
                ..default("b")
            },
        ],
        &[
            "routing.rules[0].unit: unit \"x\" is neither",
            "routing.rules[1].dimension: dimension \"uidd\" is not",
        ],
    );
    check_mistakes(
        vec![
            keys("b", &["1", "2"]),
            keys("c", &["2", ""]),
            prefix("b", ""),
            prefix("b", "x"),
            prefix("b", "x"),
        ],
        &[
            "routing.rules[1].keys: key \"2\" is already given to a unit by routing.rules[0]",
            "routing.rules[1].keys: an empty text",
            "routing.rules[2].prefix: an empty text",
            "routing.rules[4].prefix: prefix \"x\" is already given to a unit by routing.rules[3]",
        ],
    );
    check_mistakes(
        vec![default("b"), default("c")],
        &["routing.rules[1].default: the default of the dimension is"],
    );
}

#[test]
fn ranges_and_shares_must_not_overlap() {
    check_mistakes(
        vec![
            range("b", "10", "99"),
            range("c", "20", "30"),
            range("d", "99", "120"),
            range("b", "121", "130"),
        ],
        &[
            "routing.rules[1].range: overlaps with the range 10 to 99",
            "routing.rules[2].range: overlaps with the range 10 to 99",
        ],
    );
    check_mistakes(
        vec![hash("b", 0.0, 50.0), hash("c", 49.0, 60.0), hash("d", 60.0, 100.0)],
        &["routing.rules[1].hash: overlaps with the share of routing.rules[0]"],
    );
    for [first, last] in [["9", "1"], ["a", "b"], ["", "1"], ["-1", "1"], ["1.5", "2"]] {
        check_mistakes(
            vec![range("b", first, last)],
            &["routing.rules[0].range: expected two whole decimal numbers"],
        );
    }
    for (from, to) in [
        (50.0, 50.0),
        (50.0, 10.0),
        (-1.0, 1.0),
        (0.0, 101.0),
        (f64::NAN, 1.0),
        (10.0, 10.001),
    ] {
        check_mistakes(
            vec![hash("b", from, to)],
            &["routing.rules[0].hash: expected two percentages"],
        );
    }
    build(vec![
        hash("b", 0.0, 33.3),
        hash("c", 33.3, 66.6),
        hash("d", 66.6, 100.0),
    ])
    .unwrap();
}

#[test]
fn shares_get_their_part_of_the_keys() {
    let table = build(vec![hash("b", 0.0, 25.0), hash("c", 25.0, 100.0)]).unwrap();
    let to_b = (0..10_000)
        .filter(|key| resolve(&table, &hints(&[("uid", &key.to_string())]), &MissingKey::Reject).as_deref() == Ok("b"))
        .count();
    assert!((2_300..2_700).contains(&to_b), "{to_b} of 10000 keys, 2500 expected");
}

#[test]
fn an_explanation_names_the_version_the_rule_and_why_not_the_others() {
    // C-R4
    let table = build(vec![prefix("b", "15"), default("c")]).unwrap();
    let local = name("a");
    let explanation = table.explain(&hints(&[("uid", "99")]), &ANY_KEY, &local, &());
    assert_eq!(explanation.table_version, 7);
    assert_eq!(explanation.owner.as_deref(), Some("c"));
    assert_eq!(explanation.rule.as_deref(), Some("routing.rules[1].default"));
    let steps: Vec<_> = explanation
        .steps
        .iter()
        .map(|step| (step.looked_at.as_str(), step.matched))
        .collect();
    let expected = [
        ("strait-unit", false),
        ("org", false),
        ("keys", false),
        ("prefix", false),
        ("range", false),
        ("hash", false),
        ("default", true),
    ];
    assert_eq!(steps, expected);
    let refused = table.explain(&RouteHints::default(), &ANY_KEY, &local, &());
    assert_eq!(refused.owner, None);
    assert!(refused.error.unwrap().contains("names no key"));
}

/// What the rules mean, in the fewest words: try each kind over all rules.
fn reference<'a>(rules: &'a [Rule], key: &str) -> Option<&'a UnitId> {
    let number = (!key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()))
        .then(|| key.parse::<u128>().ok())
        .flatten();
    let share = f64::from(bucket(key.as_bytes())) / f64::from(BUCKETS) * 100.0;
    let listed = rules.iter().find(|rule| rule.keys.iter().any(|listed| listed == key));
    let longest = || {
        let starts = |rule: &&Rule| {
            rule.prefix
                .as_ref()
                .is_some_and(|prefix| key.starts_with(prefix.as_str()))
        };
        rules
            .iter()
            .filter(starts)
            .max_by_key(|rule| rule.prefix.as_ref().map(String::len))
    };
    let within = || {
        rules.iter().find(|rule| match (&rule.range, number) {
            (Some([first, last]), Some(n)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&n),
            _ => false,
        })
    };
    let shared = || {
        rules
            .iter()
            .find(|rule| rule.hash.is_some_and(|[from, to]| from <= share && share < to))
    };
    let other = || rules.iter().find(|rule| rule.default);
    let found = listed.or_else(longest).or_else(within).or_else(shared).or_else(other);
    found.map(|rule| &rule.unit)
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let unit = prop::sample::select(vec!["a", "b", "c", "d"]);
    let any_rule =
        (unit, 0..5_u8, "[01]{1,4}", 0..40_u32, 0..10_u32).prop_map(|(unit, kind, text, low, width)| match kind {
            0 => keys(unit, &[&text]),
            1 => prefix(unit, &text),
            2 => range(unit, &low.to_string(), &(low + width).to_string()),
            // Shares that fall on bucket edges, so that the reference needs no rounding.
            3 => hash(
                unit,
                f64::from(low) * 100.0 / 64.0,
                f64::from(low + width + 1) * 100.0 / 64.0,
            ),
            _ => default(unit),
        });
    prop::collection::vec(any_rule, 0..14).prop_map(|rules| {
        // Keep what does not contradict an earlier rule.
        let mut kept: Vec<Rule> = Vec::new();
        for rule in rules {
            kept.push(rule);
            if build(kept.clone()).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

proptest! {
    #[test]
    fn every_key_goes_where_the_rules_read_one_by_one_say(rules in any_rules(), texts in prop::collection::vec("[01]{0,5}|[0-9]{1,2}", 20)) {
        let table = build(rules.clone()).unwrap();
        for key in texts {
            let found = resolve(&table, &hints(&[("uid", &key)]), &MissingKey::Reject).ok();
            prop_assert_eq!(found.as_deref(), reference(&rules, &key).map(Name::as_str), "key {}", key);
        }
    }
}
