//! Whatever is published, and whatever is configured next: keys keep their owners.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::control::ledger::check_commit;
use crate::model::{ANY_KEY, Key, Name, RouteHints};
use crate::routing::record::{
    Change, Commit, Epoch, Lease, Node, OpId, Record, RecordId, Rev, Snapshot, State, Target, Term,
};
use crate::routing::{Routes, Rule, bucket};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn book(value: serde_json::Value) -> Book {
    serde_json::from_value(value).unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "callers make it where they call")]
fn rule(id: u32, unit: &str, selector: serde_json::Value) -> serde_json::Value {
    let mut rule = serde_json::json!({ "dimension": "uid", "unit": unit });
    let fields = rule.as_object_mut().unwrap();
    fields.extend(selector.as_object().unwrap().clone());
    serde_json::json!([id, rule])
}

fn uid(rules: &[serde_json::Value]) -> Book {
    book(serde_json::json!({ "units": ["a", "b"], "dimensions": [{ "name": "uid" }], "rules": rules }))
}

fn prefix(text: &str) -> serde_json::Value {
    serde_json::json!({ "prefix": text })
}

fn default() -> serde_json::Value {
    serde_json::json!({ "default": true })
}

// An empty store gets what is configured; the same once more is nothing new (U3).
#[test]
fn a_first_book_is_what_is_configured() {
    let configured = uid(&[rule(1, "b", prefix("15")), rule(2, "a", default())]);
    assert_eq!(merge_book(None, &configured), Ok(Some(configured.clone())));
    assert_eq!(merge_book(Some(&configured), &configured), Ok(None));
    let twice = uid(&[rule(1, "b", default()), rule(2, "a", default())]);
    assert!(merge_book(None, &twice).unwrap_err().contains("already given"));
}

// U2: relays list units in other orders, and some do not know all of them.
#[test]
fn units_are_added_at_the_end_and_never_taken_out() {
    let published = uid(&[]);
    let configured = Book {
        units: ["0", "b", "c"].map(name).to_vec(),
        ..published.clone()
    };
    let merged = merge_book(Some(&published), &configured).unwrap().unwrap();
    assert_eq!(merged.units, ["a", "b", "0", "c"].map(name));
    let lines = changes(Some(&published), &merged);
    assert_eq!(lines, ["unit 0 is added as number 3", "unit c is added as number 4"]);
}

// whoever publishes sees what changes about keys that have owners.
#[test]
fn what_changes_about_a_dimension_is_named_with_both_values() {
    let published = uid(&[]);
    let mut configured = published.clone();
    let spec = &mut configured.dimensions[0];
    spec.owner_lease = Lease::Infinite;
    spec.freeze_reads = true;
    spec.hooks = serde_json::from_value(serde_json::json!({ "service": "im.Owners" })).unwrap();
    let lines = changes(Some(&published), &configured);
    let [lease, reads, hooks] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(lease, "dimension uid: owner_lease 20s -> infinite");
    assert_eq!(reads, "dimension uid: freeze_reads false -> true");
    assert!(
        hooks.starts_with("dimension uid: hooks none -> {") && hooks.contains("im.Owners"),
        "{hooks}"
    );
}

#[test]
fn ids_of_rules_are_never_used_again() {
    let published = uid(&[rule(7, "b", prefix("15")), rule(3, "a", prefix("x"))]);
    let configured = uid(&[
        rule(1, "a", prefix("y")),
        rule(2, "a", prefix("x")),
        rule(3, "b", prefix("15")),
    ]);
    let merged = merge_book(Some(&published), &configured).unwrap().unwrap();
    let ids: Vec<_> = merged.rules.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [7, 3, 8]);
    let lines = changes(Some(&published), &merged);
    assert_eq!(lines, ["rule 8 of uid (prefix \"y\", unit a) is added"]);
}

fn refused(published: &Book, configured: &Book, part: &str) {
    let text = merge_book(Some(published), configured).unwrap_err();
    assert!(text.contains(part), "{text}");
}

// U1: each of these would give keys to somebody else; the text says which rule, and what to do.
#[test]
fn rules_that_would_move_keys_are_refused() {
    let published = uid(&[rule(4, "b", prefix("15")), rule(5, "a", default())]);
    let another_unit = uid(&[rule(1, "a", prefix("15")), rule(2, "a", default())]);
    refused(&published, &another_unit, "strait route move --rule uid=4 --to a");
    let gone = uid(&[rule(2, "a", default())]);
    refused(
        &published,
        &gone,
        "rule 4 of uid (prefix \"15\", unit b) is published and not configured",
    );
    let carved = |unit| {
        uid(&[
            rule(4, "b", prefix("15")),
            rule(5, "a", default()),
            rule(6, unit, prefix("151")),
        ])
    };
    refused(
        &published,
        &carved("a"),
        "Configure it with unit = \"b\", publish, then: strait route move --rule uid=6 --to a",
    );
    let merged = merge_book(Some(&published), &carved("b")).unwrap().unwrap();
    assert_eq!(merged.rules.len(), 3);
}

// U1: the best of the rules that a new one stands above has the keys, not just any of them.
#[test]
fn a_new_rule_is_held_against_the_rule_that_its_keys_go_by() {
    let published = uid(&[
        rule(1, "a", prefix("1")),
        rule(2, "b", prefix("15")),
        rule(3, "a", default()),
    ]);
    let with = |unit, selector| {
        let mut book = published.clone();
        book.rules
            .push(serde_json::from_value(rule(4, unit, selector)).unwrap());
        book
    };
    refused(&published, &with("a", prefix("155")), "from unit b");
    assert!(merge_book(Some(&published), &with("b", prefix("155"))).is_ok());
    refused(
        &published,
        &with("a", serde_json::json!({ "keys": ["19", "159"] })),
        "from unit b",
    );
    assert!(merge_book(Some(&published), &with("a", serde_json::json!({ "keys": ["19", "9"] }))).is_ok());
    // Each bucket may have an owner of its own.
    let buckets = uid(&[rule(1, "a", serde_json::json!({ "hash": [0, 100] }))]);
    let mut narrower = buckets.clone();
    narrower
        .rules
        .push(serde_json::from_value(rule(2, "a", prefix("1"))).unwrap());
    refused(&buckets, &narrower, "lie in buckets that have owners of their own");
}

// A configuration may say what was decided by a move meanwhile; nothing is to be published for that.
#[test]
fn what_was_moved_may_be_configured() {
    let published = uid(&[
        rule(4, "b", prefix("15")),
        rule(5, "a", serde_json::json!({ "hash": [0, 100] })),
    ]);
    let configured = uid(&[
        rule(4, "a", prefix("15")),
        rule(5, "b", serde_json::json!({ "hash": [0, 100] })),
    ]);
    let mut moved = |node: &NodeId| match node {
        NodeId::Rule { rule: 4, .. } => Decided::Unit(name("a"), Rev(7)),
        NodeId::Bucket { .. } => Decided::Unit(name("b"), Rev(7)),
        _ => Decided::Nothing(Rev::ZERO),
    };
    assert_eq!(merge_book_with(Some(&published), &configured, &mut moved), Ok(None));
    let mut half = |node: &NodeId| match node {
        NodeId::Bucket { bucket: 4095, .. } => Decided::Unclear,
        other => moved(other),
    };
    let text = merge_book_with(Some(&published), &configured, &mut half).unwrap_err();
    assert!(text.starts_with("rule 5 of uid (hash 0 to 100 %, unit a)"), "{text}");
}

#[test]
fn dimensions_keep_their_precedence_and_what_their_keys_rely_on() {
    let with = |dimensions: serde_json::Value| {
        book(serde_json::json!({ "units": ["a"], "dimensions": dimensions, "rules": [] }))
    };
    let claimed = |lease: &str, bytes: u16| serde_json::json!({ "name": "cid", "placement": { "claim": [] }, "owner_lease": lease, "key_bytes_max": bytes });
    let uid = serde_json::json!({ "name": "uid" });
    let published = with(serde_json::json!([claimed("20s", 100), uid]));
    let check = |dimensions, part: &str| refused(&published, &with(dimensions), part);
    check(
        serde_json::json!([uid, claimed("20s", 100)]),
        "must begin with cid, uid",
    );
    check(
        serde_json::json!([claimed("20s", 100)]),
        "dimension uid is published and not in routing.dimensions",
    );
    check(
        serde_json::json!([claimed("10s", 100), uid]),
        "owner_lease is published as 20s and cannot become 10s",
    );
    check(
        serde_json::json!([claimed("20s", 99), uid]),
        "longer keys may have owners",
    );
    check(serde_json::json!([{ "name": "cid" }, uid]), "would lose their owners");
    let more = with(serde_json::json!([claimed("infinite", 200), uid, { "name": "org" }]));
    assert_eq!(merge_book(Some(&published), &more), Ok(Some(more)));
    // Claims of keys that it names would not count any more.
    let mut ruled = published.clone();
    ruled.rules = vec![(1, toml_rule("cid", "a", "x"))];
    refused(&published, &ruled, "may be claimed");
}

fn toml_rule(dimension: &str, unit: &str, prefix: &str) -> Rule {
    serde_json::from_value(serde_json::json!({ "dimension": dimension, "unit": unit, "prefix": prefix })).unwrap()
}

/// Rules over few keys, so that they meet often.
fn any_rule() -> impl Strategy<Value = Rule> {
    let key = "[12x]{1,3}";
    let selector = prop_oneof![
        4 => key.prop_map(|prefix| serde_json::json!({ "prefix": prefix })),
        3 => prop::collection::vec(key, 1..3).prop_map(|keys| serde_json::json!({ "keys": keys })),
        3 => (1..250_u32, 0..120_u32).prop_map(|(first, more)| {
            serde_json::json!({ "range": [first.to_string(), (first + more).to_string()] })
        }),
        2 => (0..4_u32, 1..4_u32).prop_map(|(first, more)| {
            serde_json::json!({ "hash": [first * 25, ((first + more) * 25).min(100)] })
        }),
        2 => Just(serde_json::json!({ "default": true })),
    ];
    (selector, "[abc]").prop_map(|(selector, unit)| {
        let mut rule = serde_json::json!({ "dimension": "uid", "unit": unit });
        rule.as_object_mut()
            .unwrap()
            .extend(selector.as_object().unwrap().clone());
        serde_json::from_value(rule).unwrap()
    })
}

fn any_book() -> impl Strategy<Value = Book> {
    prop::collection::vec((1..20_u32, any_rule()), 0..5).prop_map(|rules| Book {
        units: ["a", "b", "c"].map(name).to_vec(),
        dimensions: uid(&[]).dimensions,
        rules: rules.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect(),
        ..Book::default()
    })
}

/// What is configured next: mostly what is published, with a rule more, or less, or of another unit.
fn any_next(published: &Book) -> impl Strategy<Value = Book> + use<> {
    let published = published.clone();
    let more = prop::collection::vec(any_rule(), 0..3);
    (more, any::<prop::sample::Index>(), 0..8_u8, "[abc]").prop_map(move |(more, at, what, unit)| {
        let mut book = published.clone();
        if !book.rules.is_empty() {
            let at = at.index(book.rules.len());
            match what {
                0 => drop(book.rules.remove(at)),
                1 => book.rules[at].1.unit = name(&unit),
                2 => book.rules.reverse(),
                _ => {}
            }
        }
        book.rules.extend(more.into_iter().map(|rule| (0, rule)));
        book
    })
}

/// What was decided about rules and buckets.
fn any_decisions() -> impl Strategy<Value = Vec<Node>> {
    let rule = (1..20_u32).prop_map(|rule| NodeId::Rule {
        dimension: name("uid"),
        rule,
    });
    // Buckets that keys of these tests fall into.
    let bucket = prop::sample::select(all_keys()).prop_map(|key| NodeId::Bucket {
        dimension: name("uid"),
        bucket: bucket(key.as_bytes()),
    });
    let id = prop_oneof![rule, bucket];
    let node = (id, "[abc]", 0..4_u8).prop_map(|(id, unit, state)| Node {
        id,
        target: Target::Unit(name(&unit)),
        state: match state {
            0 => State::Tombstone,
            _ => State::Active,
        },
        rev: Rev(2 + u64::from(state % 2)),
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(1),
        reason: String::new(),
    });
    prop::collection::vec(node, 0..6)
}

fn table(book: &Book, nodes: &[Node]) -> RouteTable {
    let mut changes = vec![Change {
        rev: Rev(1),
        id: RecordId::Book,
        record: Some(Record::Book(book.clone())),
    }];
    changes.extend(nodes.iter().map(|node| Change {
        rev: node.rev,
        id: RecordId::Node(node.id.clone()),
        record: Some(Record::Node(node.clone())),
    }));
    let snapshot = Snapshot {
        epoch: Epoch(3),
        seed: 5,
        changes,
    };
    let rules = RouteTable::build(&Settings::default(), &name("a"), &[name("b"), name("c")]).unwrap();
    rules.with_routes(Arc::new(Routes::from_snapshot(&snapshot)))
}

/// Who has a key, and since when.
fn owner(table: &RouteTable, key: &str) -> Option<(UnitId, u64)> {
    let hints = RouteHints {
        keys: vec![Key {
            dimension: "uid".into(),
            key: key.to_owned().into(),
        }],
        ..RouteHints::default()
    };
    let local = name("a");
    let found = table.resolve(&hints, &ANY_KEY, &local, &());
    found.ok().map(|decision| (decision.unit.clone(), decision.since))
}

fn all_keys() -> Vec<String> {
    let mut keys = vec![String::new()];
    for _ in 0..3 {
        let longer = keys
            .iter()
            .flat_map(|key| ["1", "2", "x", "0"].map(|more| format!("{key}{more}")));
        let longer: Vec<_> = longer.collect();
        keys.extend(longer);
    }
    keys.sort();
    keys.dedup();
    keys.retain(|key| !key.is_empty());
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 600 } else { 20_000 }))]

    // U1 to U3, and what every store demands of a book.
    #[test]
    fn publishing_never_gives_a_key_to_another_unit(
        (published, configured) in any_book().prop_flat_map(|book| (Just(book.clone()), any_next(&book))),
        nodes in any_decisions(),
    ) {
        prop_assume!(check(&published).is_ok());
        // Only what is published can be moved.
        let is_published = |id: &NodeId| match id {
            NodeId::Rule { rule, .. } => published.rules.iter().any(|(id, _)| id == rule),
            _ => true,
        };
        let nodes: Vec<_> = nodes.into_iter().filter(|node| is_published(&node.id)).collect();
        let decided = |id: &NodeId| {
            // As in a store, the last one counts.
            match nodes.iter().rev().find(|node| node.id == *id) {
                Some(Node { state: State::Active, target: Target::Unit(unit), rev, .. }) => Decided::Unit(unit.clone(), *rev),
                Some(node) => Decided::Nothing(node.rev),
                None => Decided::Nothing(Rev::ZERO),
            }
        };
        let merged = merge_book_with(Some(&published), &configured, &mut { decided });
        if let Ok(Some(merged)) = merged {
            let commit = Commit {
                op: OpId(1),
                compares: Vec::new(),
                puts: vec![Record::Book(merged.clone())],
                removes: Vec::new(),
            };
            prop_assert_eq!(check_commit(&commit, Some(&published), |_| None), Ok(()));
            let (before, after) = (table(&published, &nodes), table(&merged, &nodes));
            for key in all_keys() {
                if let Some((unit, since)) = owner(&before, &key) {
                    let (unit_after, since_after) = owner(&after, &key).unwrap();
                    prop_assert_eq!(unit_after, unit, "{}", key);
                    // U4
                    prop_assert!(since_after >= since, "{} {} {}", key, since, since_after);
                }
            }
            let again = merge_book_with(Some(&merged), &configured, &mut { decided });
            prop_assert_eq!(again, Ok(None));
        }
    }
}

// The property above is worth something only if much is let through and much is not.
#[test]
fn the_property_sees_books_that_are_merged_and_books_that_are_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut merged, mut refused, mut same) = (0, 0, 0);
    let pairs = any_book().prop_flat_map(|book| (Just(book.clone()), any_next(&book)));
    for _ in 0..300 {
        let (published, configured) = pairs.new_tree(&mut runner).unwrap().current();
        match merge_book(Some(&published), &configured) {
            _ if check(&published).is_err() => {}
            Ok(Some(_)) => merged += 1,
            Ok(None) => same += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(merged > 30 && refused > 30 && same > 10, "{merged} {refused} {same}");
}
