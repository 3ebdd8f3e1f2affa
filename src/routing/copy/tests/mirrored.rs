//! S1, S7: which writes have shadows, as a copy says it.

use super::*;
use crate::routing::copy::Mirrored;

const BY: MoveId = MoveId(7);

/// A node of unit a in this state; `previous` had it before.
fn node(id: &NodeId, target: &str, state: State, previous: Option<&str>) -> Record {
    Record::Node(Node {
        id: id.clone(),
        target: Target::Unit(name(target)),
        state,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: previous.map(name),
        home: None,
        op: OpId(0),
        reason: String::new(),
    })
}

fn mirrored_move(id: MoveId, node: &NodeId, to: &str, state: MoveState) -> Record {
    Record::Move(Move {
        nodes: vec![node.clone()],
        to: name(to),
        options: MoveOptions {
            mirror: true,
            ..MoveOptions::default()
        },
        ..work(id, state)
    })
}

/// The copy after these records, one a revision.
fn after(records: &[Record]) -> Routes {
    let first = batches(&[]);
    let mut routes = replayed(&first);
    for record in records {
        let (prev, rev) = (routes.rev(), routes.rev().next());
        let id = match record {
            Record::Node(node) => RecordId::Node(node.id.clone()),
            Record::Move(work) => RecordId::Move(work.id),
            _ => unreachable!("nodes and moves only"),
        };
        let changes = vec![Change {
            rev,
            id,
            record: Some(record.clone()),
        }];
        routes = routes.apply(&Batch { prev, rev, changes }).unwrap();
    }
    routes
}

/// Where the shadow of a call with these keys goes; the same in the copy that a restart finds.
fn shadow(routes: &Routes, keys: &[Key]) -> Option<(MoveId, UnitId)> {
    let asked = |routes: &Routes| {
        let mut trail = Trail::default();
        let _ = routes.resolve(&hints(keys), &[], &(), &mut trail).unwrap();
        let found = routes.mirrored(&trail);
        found.map(|Mirrored { by, to }| (by, to.clone()))
    };
    let found = asked(routes);
    assert_eq!(asked(&Routes::load(&routes.save()).unwrap()), found, "after a restart");
    found
}

#[test]
fn calls_of_a_node_that_moves_have_shadows_until_its_trail_ends() {
    let migrating = || State::Migrating { to: name("c"), by: BY };
    let frozen = || State::Frozen { to: name("c"), by: BY };
    for (id, keys) in [
        (key_id("cid", 1), vec![key("cid", 1)]),
        (bucket_id(1), vec![key("cid", 1)]),
        (
            NodeId::Rule {
                dimension: name("org"),
                rule: 1,
            },
            vec![key("org", 1)],
        ),
    ] {
        let begun = mirrored_move(BY, &id, "c", MoveState::Running);
        let mut records = vec![begun];
        assert_eq!(shadow(&after(&records), &keys), None, "{id:?} has not begun");
        for state in [migrating(), frozen()] {
            records.push(node(&id, "a", state, None));
            assert_eq!(shadow(&after(&records), &keys), Some((BY, name("c"))), "{id:?}");
        }
        records.push(node(&id, "c", State::Active, Some("a")));
        records.push(mirrored_move(BY, &id, "c", MoveState::Trailing));
        assert_eq!(shadow(&after(&records), &keys), Some((BY, name("a"))), "{id:?}: back");
        records.push(mirrored_move(BY, &id, "c", MoveState::Finished));
        assert_eq!(shadow(&after(&records), &keys), None, "{id:?} is forgotten");
    }
}

// Without a mirror, of other keys, of a move that was given up, and of a later move without one: none.
#[test]
fn calls_of_anything_else_have_none() {
    let id = key_id("cid", 1);
    let state = State::Migrating { to: name("c"), by: BY };
    let begun = mirrored_move(BY, &id, "c", MoveState::Running);
    let moving = node(&id, "a", state.clone(), None);
    let routes = after(&[begun.clone(), moving.clone()]);
    assert_eq!(shadow(&routes, &[key("cid", 2)]), None, "another key");
    let plain = Record::Move(Move {
        nodes: vec![id.clone()],
        to: name("c"),
        ..work(BY, MoveState::Running)
    });
    assert_eq!(shadow(&after(&[plain, moving.clone()]), &[key("cid", 1)]), None);
    let given_up = node(&id, "a", State::Active, Some("b"));
    let routes = after(&[begun.clone(), moving, given_up]);
    assert_eq!(shadow(&routes, &[key("cid", 1)]), None, "it stayed");
    let other = State::Migrating {
        to: name("b"),
        by: MoveId(8),
    };
    let routes = after(&[begun, node(&id, "a", other, None)]);
    assert_eq!(shadow(&routes, &[key("cid", 1)]), None, "another move");
}
