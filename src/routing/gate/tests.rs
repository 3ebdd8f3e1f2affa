//! The gate while keys move.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::model::{ANY_KEY, Key, Name, RouteHints};
use crate::routing::record::{Batch, Book, Change, Node, OpId, Record, RecordId, SessionId, State, Target, Term};
use crate::routing::{Routes, Rule, Settings};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Unit `a` owns everything of dimension `cid`.
fn table() -> RouteTable {
    table_of(serde_json::json!({ "name": "cid" }))
}

fn table_of(dimension: serde_json::Value) -> RouteTable {
    let rule = Rule {
        dimension: name("cid"),
        unit: name("a"),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: true,
    };
    let book = Book {
        units: ["a", "b"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(dimension).unwrap()],
        rules: vec![(1, rule)],
        ..Book::default()
    };
    let routes = Routes::of_book(book);
    let table = RouteTable::build(&Settings::default(), &name("a"), [&name("b")]).unwrap();
    table.with_routes(Arc::new(routes))
}

fn id(key: &str) -> NodeId {
    NodeId::Key {
        dimension: name("cid"),
        key: key.into(),
    }
}

/// The table after something was decided about a key.
fn decide(table: &RouteTable, key: &str, unit: &str, state: State) -> RouteTable {
    let routes = table.routes().unwrap();
    let (prev, rev) = (routes.rev(), routes.rev().next());
    let node = Node {
        id: id(key),
        target: Target::Unit(name(unit)),
        state,
        rev,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    };
    let change = Change {
        rev,
        id: RecordId::Node(id(key)),
        record: Some(Record::Node(node)),
    };
    let changes = vec![change];
    table.with_routes(Arc::new(routes.apply(&Batch { prev, rev, changes }).unwrap()))
}

fn frozen(by: u64) -> State {
    State::Frozen {
        to: name("b"),
        by: MoveId(by),
    }
}

fn hints(key: &str) -> RouteHints {
    RouteHints {
        keys: vec![Key {
            dimension: Bytes::from_static(b"cid"),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }],
        ..RouteHints::default()
    }
}

fn trail(table: &RouteTable, key: &str) -> Trail {
    let unit = name("a");
    let found = table.resolve_with_trail(&hints(key), &ANY_KEY, &unit, &());
    found.unwrap().1
}

fn knock(table: &RouteTable, gate: &Gate, key: &str, (reads, min_epoch, now): (bool, u64, u64)) -> Result<(), Closed> {
    knock_with(table, gate, key, (reads, false, min_epoch, now))
}

fn knock_with(
    table: &RouteTable,
    gate: &Gate,
    key: &str,
    (reads, is_waited_for, min_epoch, now): (bool, bool, u64, u64),
) -> Result<(), Closed> {
    let mut lease = LeaseState::default();
    lease.opened(SessionId(1), Rev(1), Duration::ZERO);
    let unit = name("a");
    let decision = table.resolve(&hints(key), &ANY_KEY, &unit, &()).unwrap();
    let knock = Knock {
        unit: &unit,
        reads,
        is_waited_for,
        min_epoch,
        lease: &lease,
        now: Duration::from_secs(now),
    };
    gate.admit(table, &decision, &knock)
}

// R-I8, R-I14
#[test]
fn the_gate_is_open_for_owned_keys_at_rest_while_the_lease_lasts() {
    let gate = Gate::default();
    let table = table();
    assert_eq!(knock(&table, &gate, "k", (false, 1, 15)), Ok(()));
    assert_eq!(knock(&table, &gate, "k", (false, 1, 16)), Err(Closed::NoLease));
    assert_eq!(knock(&table, &gate, "k", (true, 1, 16)), Ok(()), "reads need no lease");
    assert_eq!(knock(&table, &gate, "k", (false, 2, 0)), Err(Closed::Behind));
    let moving = decide(&table, "k", "a", frozen(7));
    assert_eq!(knock(&moving, &gate, "k", (false, 2, 0)), Err(Closed::Frozen));
    assert_eq!(knock(&moving, &gate, "k", (true, 2, 0)), Ok(()), "reads go on");
    let waited_for = |table, now| knock_with(table, &gate, "k", (false, true, 0, now));
    assert_eq!(
        waited_for(&moving, 0),
        Ok(()),
        "the move waits for what was taken before it"
    );
    assert_eq!(waited_for(&moving, 16), Err(Closed::NoLease));
    assert_eq!(knock(&moving, &gate, "other", (false, 1, 0)), Ok(()));
    let moved = decide(&moving, "k", "b", State::Active);
    assert_eq!(knock(&moved, &gate, "k", (false, 3, 0)), Err(Closed::NotOwner));
    assert_eq!(
        knock_with(&moved, &gate, "k", (false, true, 0, 0)),
        Err(Closed::NotOwner)
    );
}

// R-I2, R-R6: the report waits for calls that were let through, and names the freeze it is about.
#[test]
fn a_freeze_is_drained_when_its_calls_have_ended() {
    let mut gate = Gate::default();
    let table = table();
    let mine = gate.register(trail(&table, "k"), false).unwrap();
    let other = gate.register(trail(&table, "other"), false).unwrap();
    let first = decide(&table, "k", "a", frozen(7));
    let drain = Drain {
        by: MoveId(7),
        node: id("k"),
        rev: Rev(2),
    };
    assert_eq!(gate.drain(drain.clone(), &first), []);
    assert_eq!(gate.release(other, || &first), []);
    assert_eq!(gate.release(mine, || &first), std::slice::from_ref(&drain));
    assert_eq!(
        gate.drain(drain.clone(), &first),
        std::slice::from_ref(&drain),
        "nothing runs"
    );

    // Given up, and frozen again: what was asked for the first time is never answered.
    let mine = gate.register(trail(&table, "k"), false).unwrap();
    assert_eq!(gate.drain(drain.clone(), &first), []);
    let back = decide(&first, "k", "a", State::Active);
    let again = decide(&back, "k", "a", frozen(8));
    let second = Drain {
        by: MoveId(8),
        rev: Rev(4),
        ..drain
    };
    assert_eq!(gate.drain(second.clone(), &again), []);
    assert_eq!(gate.release(mine, || &again), [second]);

    // By the same work, and this shard has not been asked anew: what runs ends, and that says nothing of the later freeze.
    let back = decide(&again, "k", "a", State::Active);
    let third = decide(&back, "k", "a", frozen(9));
    let mine = gate.register(trail(&back, "k"), false).unwrap();
    let drain = Drain {
        by: MoveId(9),
        node: id("k"),
        rev: third.routes().unwrap().rev(),
    };
    assert_eq!(gate.drain(drain, &third), []);
    let back = decide(&third, "k", "a", State::Active);
    let later = decide(&back, "k", "a", frozen(9));
    assert_eq!(gate.release(mine, || &later), []);
    assert_eq!(gate.running(), 0);
}

// a move waits for no read, but a stream that only reads makes way all the same.
#[test]
fn a_read_is_not_waited_for_and_is_met_by_the_freeze() {
    let mut gate = Gate::default();
    let table = table();
    let reading = gate.register(trail(&table, "k"), true).unwrap();
    let writing = gate.register(trail(&table, "k"), false).unwrap();
    let elsewhere = gate.register(trail(&table, "other"), true).unwrap();
    let frozen = decide(&table, "k", "a", frozen(7));
    let drain = Drain {
        by: MoveId(7),
        node: id("k"),
        rev: Rev(2),
    };
    assert_eq!(gate.drain(drain.clone(), &frozen), []);
    assert!(gate.is_met_by(&drain, reading, &frozen) && gate.is_met_by(&drain, writing, &frozen));
    assert!(!gate.is_met_by(&drain, elsewhere, &frozen));
    assert_eq!(gate.release(writing, || &frozen), [drain], "only the read still runs");
}

// reads go on at the source unless their dimension says otherwise.
#[test]
fn a_dimension_may_have_its_reads_wait_too() {
    for (freeze_reads, expected) in [(false, true), (true, false)] {
        let table = table_of(serde_json::json!({ "name": "cid", "freeze_reads": freeze_reads }));
        let unit = name("a");
        let decision = table.resolve(&hints("k"), &ANY_KEY, &unit, &()).unwrap();
        assert_eq!(table.lets_read(&decision), expected);
    }
}
