//! Looking a route up allocates nothing, whatever decides about the key and also if nothing does (R2 of `routing`).
//!
//! What is asked is what shards ask: a table with a copy of the route store, the keys of tokens, and the claims that a real driver
//! has fetched from a real store. The allocator of this binary counts what its own thread asks for; that of the product is another
//! one, which would be asked as often.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it finds something unexpected"
)]

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait::control::claims::{Claims, Driver, DriverParts, FallbackParts, Limits};
use strait::control::clock::boot_time;
use strait::control::embedded::Embedded;
use strait::control::heard::Heard;
use strait::control::provisional::{Metrics, ProvisionalFile};
use strait::control::store::Store;
use strait::model::{ANY_KEY, Key, Name, RouteHints, RoutePolicy};
use strait::routing::record::{
    Book, Change, Commit, DimensionSpec, MoveId, Node, NodeId, OpId, Record, RecordId, Rev, Snapshot, State, Target,
    Term,
};
use strait::routing::token::{Brought, Flags, Lifetime, Ring, Secrets, Token, TokenTarget, With, field};
use strait::routing::{
    Evidence, Handle, RouteError, RouteTable, Routes, Rule, RuleKind, RuleRef, Settings, Source, bucket,
};
use tokio_util::sync::CancellationToken;

#[test]
fn looking_up_a_key_by_rules_allocates_nothing() {
    let settings = Settings {
        dimensions: ["org", "user", "few"].map(name).to_vec(),
        rules: rules(),
        ..Settings::default()
    };
    let table = RouteTable::build(&settings, &name("a"), &["b", "c"].map(name)).unwrap();
    let check = |key, unit, kind| by(&table, &(), &[key], unit, (Source::Rule, Some(kind)));
    check(("org", "first"), "a", RuleKind::Keys);
    check(("org", "p:7"), "b", RuleKind::Prefix);
    check(("org", "1234"), "c", RuleKind::Range);
    check(("org", "other"), "a", RuleKind::Default);
    check(("user", LOW), "a", RuleKind::Hash);
    check(("user", HIGH), "b", RuleKind::Hash);
    let no_rule = |error: &RouteError| matches!(error, RouteError::NoRule { .. });
    nobody(&table, &(), ("few", "2"), no_rule);
    // Nothing that is a key, and a unit that is named.
    let (bare, local) = (RouteHints::default(), name("a"));
    let result = counted("no key", &|| table.resolve(&bare, &ANY_KEY, &local, &()).err());
    assert_eq!(result, Some(RouteError::MissingKey));
    let named = RouteHints {
        unit: Some(name("c")),
        ..RouteHints::default()
    };
    let found = || table.resolve(&named, &ANY_KEY, &local, &()).unwrap().source;
    assert_eq!(counted("a named unit", &found), Source::Explicit);
}

#[test]
fn looking_up_a_key_by_what_was_decided_allocates_nothing() {
    let routes = Routes::from_snapshot(&Snapshot {
        epoch: strait::routing::record::Epoch::new(1, Rev(9)),
        seed: 7,
        changes: changes(Rev(9)),
    });
    let table = table(routes);
    let check = |keys: &[(&str, &str)], unit, decided| by(&table, &(), keys, unit, decided);
    let override_ = (Source::Override, None);
    check(&[("org", "moved")], "b", override_);
    check(&[("org", "frozen")], "a", override_);
    check(&[("org", "follows"), ("user", HIGH)], "b", override_);
    check(&[("org", "grouped")], "a", override_);
    check(&[("org", "away")], "b", override_);
    // What was decided about it was taken back, about others of its dimension, about its bucket, and about its rule.
    let rule = |kind| (Source::Rule, Some(kind));
    check(&[("org", "back")], "a", rule(RuleKind::Default));
    check(&[("org", "other")], "a", rule(RuleKind::Default));
    check(&[("org", "1234")], "b", rule(RuleKind::Range));
    check(&[("org", "p:7")], "a", rule(RuleKind::Prefix));
    check(&[("user", LOW)], "b", rule(RuleKind::Hash));
    check(&[("user", HIGH)], "b", rule(RuleKind::Hash));
    let no_rule = |error: &RouteError| matches!(error, RouteError::NoRule { .. });
    nobody(&table, &(), ("few", "2"), no_rule);
    let no_parent = |error: &RouteError| matches!(error, RouteError::NoParent { .. });
    nobody(&table, &(), ("org", "follows"), no_parent);
}

#[test]
fn looking_up_a_key_by_its_claim_or_token_allocates_nothing() {
    let folder = std::env::temp_dir().join(format!("strait-look-ups-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Embedded::open(&folder.join("routes"), Arc::new(boot_time), 7).unwrap();
        let commit = Commit {
            op: OpId(1),
            compares: Vec::new(),
            puts: vec![Record::Book(book())],
            removes: Vec::new(),
        };
        store.commit(commit).await.unwrap();
        let mut snapshot = store.snapshot().await.unwrap();
        snapshot.changes.extend(changes(snapshot.epoch.rev()));
        let table = table(Routes::from_snapshot(&snapshot));
        let routing = Handle::new(table.clone());
        let (claims, wanted) = Claims::new();
        let driver = Driver::new(DriverParts {
            store: Arc::new(store),
            routing: routing.clone(),
            unit: name("a"),
            claims: (claims.clone(), wanted),
            known_max: 100,
            limits: Limits {
                free_for: Duration::from_secs(3600),
                ..Limits::default()
            },
            fallback: FallbackParts {
                file: ProvisionalFile::open(&folder.join("provisional")).unwrap(),
                provisional_max: 10,
                heard: Heard::new(boot_time()),
                metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            },
        });
        tokio::select! {
            () = driver.run(CancellationToken::new()) => panic!("the driver has ended"),
            () = claimed(&table, &routing, &claims) => {}
        }
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

/// One key with a claim, one that is known to have none, one that nobody has asked about; and with tokens.
async fn claimed(table: &RouteTable, routing: &Handle, claims: &Claims) {
    let unclaimed = |looked: bool| move |error: &RouteError| matches!(error, RouteError::Unclaimed { looked_up, .. } if *looked_up == looked);
    let writes = hints(&[("cid", "claimed")]);
    claims.ask(&writes, &ANY_KEY);
    until(routing, || table.resolve(&writes, &ANY_KEY, &name("a"), claims).is_ok()).await;
    let reads = RoutePolicy {
        reads: true,
        ..ANY_KEY.clone()
    };
    let free = hints(&[("cid", "free")]);
    claims.ask(&free, &reads);
    let is_free = |error: RouteError| unclaimed(true)(&error);
    until(routing, || {
        table.resolve(&free, &reads, &name("a"), claims).is_err_and(is_free)
    })
    .await;

    by(table, claims, &[("cid", "claimed")], "a", (Source::Claim, None));
    nobody(table, claims, ("cid", "free"), unclaimed(true));
    nobody(table, claims, ("cid", "new"), unclaimed(false));
    by(table, claims, &[("cid", "moved")], "b", (Source::Override, None));

    let now = 1_795_651_200;
    let ring = Ring::new(Secrets::parse("5a".repeat(32).into()).unwrap(), 1, now);
    let routes = table.routes().unwrap();
    let token = Token {
        target: TokenTarget::Unit(NonZeroU16::MIN),
        epoch: routes.epoch(),
        as_of: routes.rev(),
        issued_at: now,
        lifetime: Lifetime::Usual,
        flags: Flags::default(),
    };
    let given = field(&name("cid"), &ring.issue(&name("cid"), b"new", &token).unwrap());
    let with = With {
        ring: &ring,
        routes,
        field: given.as_bytes(),
        now,
        lost: strait::routing::record::Epoch::default(),
    };
    let brought = Brought::new(claims, Some(with));
    by(table, &brought, &[("cid", "new")], "a", (Source::Token, None));
    // A token of another key is none.
    by(table, &brought, &[("cid", "claimed")], "a", (Source::Claim, None));
    nobody(table, &brought, ("cid", "free"), unclaimed(true));
}

/// Waits for what the driver learns.
async fn until(routing: &Handle, holds: impl Fn() -> bool) {
    let mut changes = routing.changes();
    let waits = async {
        while !holds() {
            // Not every answer is news to all.
            let _ = tokio::time::timeout(Duration::from_millis(5), changes.changed()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits)
        .await
        .expect("the driver has not answered");
}

/// Looks keys up and counts.
fn by(
    table: &RouteTable,
    evidence: &impl Evidence,
    keys: &[(&str, &str)],
    unit: &str,
    (source, kind): (Source, Option<RuleKind>),
) {
    let (hints, local) = (hints(keys), name("a"));
    let found = || {
        let decision = table.resolve(&hints, &ANY_KEY, &local, evidence).unwrap();
        let rule = match decision.rule {
            RuleRef::Rule { kind, .. } => Some(kind),
            _ => None,
        };
        (decision.unit, decision.source, rule)
    };
    let (owner, by, rule) = counted(&format!("{keys:?}"), &found);
    assert_eq!((owner.as_str(), by, rule), (unit, source, kind), "{keys:?}");
    let trailed = || table.resolve_with_trail(&hints, &ANY_KEY, &local, evidence).is_ok();
    assert!(counted(&format!("{keys:?}, with what it goes through"), &trailed));
}

/// Looks a key up that has no owner, and counts.
fn nobody(table: &RouteTable, evidence: &impl Evidence, key: (&str, &str), is_expected: impl Fn(&RouteError) -> bool) {
    let (hints, local) = (hints(&[key]), name("a"));
    let error = counted(&format!("{key:?}"), &|| {
        table.resolve(&hints, &ANY_KEY, &local, evidence).unwrap_err()
    });
    assert!(is_expected(&error), "{key:?}: {error}");
}

/// What a look-up says, once it has been made without an allocation. The first one is not counted: a thread makes what belongs to
/// it when it is used first.
fn counted<T>(what: &str, look_up: &dyn Fn() -> T) -> T {
    look_up();
    let mut said = None;
    let counts = allocation_counter::measure(|| said = Some(look_up()));
    assert_eq!((counts.count_total, counts.bytes_total), (0, 0), "{what}");
    said.unwrap()
}

#[test]
fn what_allocates_is_counted() {
    let counts = allocation_counter::measure(|| drop(std::hint::black_box(vec![7_u8])));
    assert_eq!((counts.count_total, counts.bytes_total), (1, 1));
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn hints(keys: &[(&str, &str)]) -> RouteHints {
    let keys = keys.iter().map(|(dimension, key)| Key {
        dimension: Bytes::copy_from_slice(dimension.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
    });
    RouteHints {
        keys: keys.collect(),
        ..RouteHints::default()
    }
}

fn rules() -> Vec<Rule> {
    let rule = |dimension: &str, unit: &str| Rule {
        dimension: name(dimension),
        unit: name(unit),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: false,
    };
    vec![
        Rule {
            keys: vec!["first".to_owned()],
            ..rule("org", "a")
        },
        Rule {
            prefix: Some("p:".to_owned()),
            ..rule("org", "b")
        },
        Rule {
            range: Some(["1000".to_owned(), "1999".to_owned()]),
            ..rule("org", "c")
        },
        Rule {
            default: true,
            ..rule("org", "a")
        },
        Rule {
            hash: Some([0.0, 50.0]),
            ..rule("user", "a")
        },
        Rule {
            hash: Some([50.0, 100.0]),
            ..rule("user", "b")
        },
        Rule {
            keys: vec!["1".to_owned()],
            ..rule("few", "a")
        },
    ]
}

fn book() -> Book {
    let claimed = serde_json::json!({ "name": "cid", "placement": { "claim": [] } });
    let claimed: DimensionSpec = serde_json::from_value(claimed).unwrap();
    let dimensions = ["org", "user", "few"].map(|dimension| DimensionSpec::new(name(dimension)));
    Book {
        units: ["a", "b", "c"].map(name).to_vec(),
        dimensions: dimensions.into_iter().chain([claimed]).collect(),
        rules: (1..).zip(rules()).collect(),
        ..Book::default()
    }
}

/// The book, and one of each that can be decided.
fn changes(rev: Rev) -> Vec<Change> {
    let key = |dimension: &str, key: &str| NodeId::Key {
        dimension: name(dimension),
        key: key.into(),
    };
    let unit = |unit| Target::Unit(name(unit));
    let group = Target::Group {
        dimension: name("user"),
        key: HIGHEST.into(),
    };
    let frozen = State::Frozen {
        to: name("b"),
        by: MoveId(3),
    };
    let evacuated = State::Evacuated {
        takeover: vec![(name("b"), 3)],
    };
    let low = NodeId::Bucket {
        dimension: name("user"),
        bucket: bucket(LOW.as_bytes()),
    };
    let highest = NodeId::Bucket {
        dimension: name("user"),
        bucket: bucket(HIGHEST.as_bytes()),
    };
    let prefix = NodeId::Rule {
        dimension: name("org"),
        rule: 2,
    };
    let nodes = [
        (key("org", "moved"), unit("b"), State::Active),
        (key("cid", "moved"), unit("b"), State::Active),
        (key("org", "frozen"), unit("a"), frozen),
        (key("org", "follows"), Target::Follow(name("user")), State::Active),
        (key("org", "grouped"), group, State::Active),
        (key("org", "away"), unit("c"), State::Active),
        (key("org", "back"), unit("b"), State::Tombstone),
        (low, unit("b"), State::Active),
        (highest, unit("a"), State::Active),
        (prefix, unit("a"), State::Active),
        (NodeId::Unit(name("c")), unit("c"), evacuated),
    ];
    let nodes = nodes.into_iter().map(|(id, target, state)| Change {
        rev,
        id: RecordId::Node(id.clone()),
        record: Some(Record::Node(Node {
            id,
            target,
            state,
            rev,
            term: Term::default(),
            previous: None,
            home: None,
            op: OpId(0),
            reason: String::new(),
        })),
    });
    let book = Change {
        rev,
        id: RecordId::Book,
        record: Some(Record::Book(book())),
    };
    std::iter::once(book).chain(nodes).collect()
}

fn table(routes: Routes) -> RouteTable {
    let table = RouteTable::build(&Settings::default(), &name("a"), &["b", "c"].map(name)).unwrap();
    table.with_routes(Arc::new(routes))
}

/// Users of the lower and of the upper half of the buckets.
const LOW: &str = "u1";
const HIGH: &str = "u2";
const HIGHEST: &str = "u3";
