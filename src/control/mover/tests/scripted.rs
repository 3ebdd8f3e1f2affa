//! Single moves, step by step.

use std::time::Duration;

use super::world::{World, key, name, owner, relay, rule};
use crate::routing::record::{Commit, MoveState, Node, NodeId, OpId, Record, Rev, State, Target, Term};

pub(super) fn owner_now(world: &World, number: u64) -> String {
    let routes = crate::routing::Routes::from_snapshot(&world.ledger.snapshot());
    owner(&routes, &key(number)).map_or_else(|| "nobody".to_owned(), |(unit, _)| unit.to_string())
}

#[test]
fn keys_and_buckets_move_and_leave_a_trail_for_its_time() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0, 2]);
    let nodes: Vec<_> = (1..=30).map(key).collect();
    let work = world.work(5, "b", nodes);
    world.put(Record::Move(work));
    world.rounds(60);
    let work = world.found(5);
    assert_eq!((work.state, work.moved, work.aborted), (MoveState::Trailing, 30, 0));
    let node = world.node(&key(1)).unwrap();
    assert_eq!((&node.target, &node.state), (&Target::Unit(name("b")), &State::Active));
    assert_eq!(node.previous, Some(name("a")));
    world.rounds(1300);
    assert_eq!(world.found(5).state, MoveState::Finished);
    assert!((1..=30).all(|number| world.node(&key(number)).unwrap().previous.is_none()));
}

// S8: keys go on to another unit while the time of their trail ends. That nobody decided otherwise about them.
#[test]
fn keys_whose_trail_ends_while_they_wait_for_their_turn_move_all_the_same() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0, 2]);
    let nodes: Vec<_> = (1..=30).map(key).collect();
    let work = world.work(5, "b", nodes.clone());
    world.put(Record::Move(work));
    while world.found(5).state == MoveState::Running {
        world.round();
    }
    // A second is left of the trail.
    let until = world.now + Duration::from_secs(59);
    while world.now < until {
        world.round();
    }
    assert_eq!(world.found(5).state, MoveState::Trailing);
    let mut work = world.work(6, "a", nodes);
    work.options.parallel = 1;
    world.put(Record::Move(work));
    world.rounds(1500);
    let work = world.found(6);
    assert_eq!((work.moved, work.aborted), (30, 0), "{:?}", work.state);
    assert_eq!(world.found(5).state, MoveState::Finished);
}

// T1, R-3.9 S8: whoever ends a trail may hear too late of the next move of its nodes, whatever their number: it was planned before the
// trail ended, and is written only now. A key at rest, a key that a drain has moved, and a bucket.
#[test]
fn nodes_whose_trail_ends_between_plan_and_record_of_a_move_are_moved() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0, 2]);
    let bucket = NodeId::Bucket {
        dimension: name("cid"),
        bucket: 7,
    };
    let given = Commit {
        op: world.op(),
        compares: Vec::new(),
        puts: vec![Record::Node(node(bucket.clone(), "a"))],
        removes: Vec::new(),
    };
    world.ledger.commit(given).unwrap();
    let mut work = world.work(5, "b", (1..=130).map(key).chain([bucket.clone()]).collect());
    (work.options.parallel, work.options.trail) = (40, Duration::from_secs(3));
    let mut drained = world.work(6, "b", vec![key(99)]);
    drained.of = Some(name("a"));
    drained.options.trail = work.options.trail;
    work.nodes.retain(|id| *id != key(99));
    world.put(Record::Move(work));
    world.put(Record::Move(drained));
    while [5, 6].iter().any(|id| world.found(*id).state == MoveState::Running) {
        world.round();
    }
    assert_eq!(world.node(&key(99)).unwrap().home, Some(name("a")));
    let mut work = world.work(7, "a", (1..=130).map(key).chain([bucket.clone()]).collect());
    work.options.parallel = 40;
    while [5, 6].iter().any(|id| world.found(*id).state != MoveState::Finished) {
        world.round();
    }
    assert_eq!(
        (&world.node(&bucket).unwrap().previous, owner_now(&world, 1).as_str()),
        (&None, "b")
    );
    assert_eq!(world.found(5).aborted, 0);
    world.put(Record::Move(work));
    world.rounds(400);
    let work = world.found(7);
    assert_eq!((work.moved, work.aborted), (131, 0), "{:?}", work.state);
}

// What was decided otherwise between plan and record stays: another move has given it away, and its trail has ended too.
#[test]
fn what_others_have_moved_between_plan_and_record_stays() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0, 2]);
    let planned = world.work(6, "c", vec![key(1), key(2)]);
    let mut work = world.work(5, "b", vec![key(1)]);
    work.options.trail = Duration::from_secs(1);
    world.put(Record::Move(work));
    while world.found(5).state != MoveState::Finished {
        world.round();
    }
    world.put(Record::Move(planned));
    world.rounds(60);
    let work = world.found(6);
    assert_eq!((work.moved, work.aborted), (1, 1));
    assert_eq!((owner_now(&world, 1), owner_now(&world, 2)), ("b".into(), "c".into()));
}

fn node(id: NodeId, unit: &str) -> Node {
    Node {
        id,
        target: Target::Unit(name(unit)),
        state: State::Active,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(5),
        reason: String::new(),
    }
}

// T2, R-3.9 S7. Symptom: a move asked for while an older one to the same unit ended its trail left the key where it was. Cause: the
// older move took the trail of the last one for its own, and wrote the key. Fix: only what it gave to the unit is its own.
#[test]
fn the_end_of_an_older_trail_leaves_that_of_a_later_move_to_the_same_unit() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0, 2]);
    for (id, to) in [(5, "b"), (6, "a"), (7, "b")] {
        let work = world.work(id, to, vec![key(1)]);
        world.put(Record::Move(work));
        while world.found(id).state == MoveState::Running {
            world.round();
        }
        let later = world.now + Duration::from_secs(10);
        while world.now < later {
            world.round();
        }
    }
    while world.found(5).state != MoveState::Finished {
        world.round();
    }
    assert_eq!(world.found(7).state, MoveState::Trailing);
    assert_eq!(
        world.node(&key(1)).unwrap().previous,
        Some(name("a")),
        "cleared by move 5"
    );
    world.rounds(1300);
    assert_eq!(world.found(7).state, MoveState::Finished);
    assert_eq!(world.node(&key(1)).unwrap().previous, None);
}

// R-I2, R-I12: a call that answers nothing holds a freeze up until its budget is over; the record says which one it was, at which relay.
#[test]
fn a_node_that_stays_because_of_a_call_says_which() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[1].held_by = Some("im.Chat/Watch".to_owned());
    world.relays[1].never_drains = true;
    let work = world.work(5, "b", vec![key(1)]);
    world.put(Record::Move(work));
    world.rounds(140);
    assert_eq!(world.found(5).aborted, 1);
    let reason = &world.node(&key(1)).unwrap().reason;
    assert!(
        reason.ends_with(": it waited for im.Chat/Watch at relay a/a-2"),
        "{reason}"
    );
    // What was given up for another reason waited for nothing.
    world.relays[1].never_drains = false;
    let work = world.work(6, "b", vec![key(2)]);
    world.put(Record::Move(work));
    world.rounds(60);
    assert_eq!(world.node(&key(2)).unwrap().reason, "move 0000000000000006");
}

// R-I12, R-D7: one relay is cut off. Keys with a lease that ends stay too, since the budget is shorter; nothing is taken by force.
#[test]
fn a_freeze_ends_after_its_budget_and_the_node_stays() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[1].is_cut = true;
    let work = world.work(5, "b", vec![key(1), key(100)]);
    world.put(Record::Move(work));
    world.rounds(140);
    let work = world.found(5);
    assert_eq!((work.state, work.moved, work.aborted), (MoveState::Finished, 0, 2));
    assert_eq!((owner_now(&world, 1), owner_now(&world, 100)), ("a".into(), "a".into()));
}

// R-D7: with a budget as long as that, the lease of the relay that is cut off is waited for; one that never ends is never over.
#[test]
fn only_a_lease_that_ends_is_waited_for() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.write(1, &key(1));
    world.relays[1].is_cut = true;
    let mut work = world.work(5, "b", vec![key(1), key(100)]);
    work.options.freeze_budget = Duration::from_secs(60);
    world.put(Record::Move(work));
    world.rounds(590);
    assert_eq!(
        (owner_now(&world, 1), owner_now(&world, 100)),
        ("nobody".into(), "nobody".into())
    );
    world.rounds(20);
    assert_eq!(
        (owner_now(&world, 1), owner_now(&world, 100)),
        ("b".into(), "nobody".into())
    );
    world.rounds(700);
    assert_eq!(owner_now(&world, 100), "a");
}

// V4, R-3.9: more than one in twenty stays: the move is stopped, what was moved stays moved.
#[test]
fn a_move_of_many_stops_when_too_many_stay() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    let work = world.work(5, "b", (1..=40).map(key).collect());
    world.put(Record::Move(work));
    world.rounds(6);
    world.relays[1].is_cut = true;
    world.rounds(400);
    let work = world.found(5);
    assert_eq!(work.state, MoveState::Trailing);
    assert!(
        work.moved > 0 && work.aborted >= 3 && work.aborted < 40 - work.moved,
        "{work:?}"
    );
}

// R-I11: whoever drives is gone; another one goes on.
#[test]
fn another_relay_goes_on_when_the_driver_is_gone() {
    let mut world = World::new(&["a-1", "b-1", "c-1"], &[0, 2]);
    let work = world.work(5, "b", (1..=10).map(key).collect());
    world.put(Record::Move(work));
    let is_frozen = |world: &World| world.node(&key(1)).is_some_and(|node| node.state.is_frozen());
    while !is_frozen(&world) {
        world.round();
    }
    // Its mover dies, the relay itself goes on for long enough.
    world.pilots.remove(0);
    world.rounds(20);
    assert_eq!(world.found(5).driver, relay("a-1"), "it is alive");
    world.relays[0].is_cut = true;
    world.rounds(900);
    let work = world.found(5);
    assert_eq!((work.driver, work.state), (relay("c-1"), MoveState::Trailing));
    assert_eq!(work.moved + work.aborted, 10);
}

#[test]
fn a_bucket_of_a_unit_is_frozen_alone() {
    let mut world = World::new(&["a-1", "b-1"], &[0]);
    let work = world.work(5, "b", vec![rule("cid"), rule("long")]);
    world.put(Record::Move(work));
    for _ in 0..40 {
        world.round();
        let frozen = [rule("cid"), rule("long")].map(|id| world.node(&id).is_some_and(|node| node.state.is_frozen()));
        assert!(frozen != [true, true]);
    }
    assert_eq!((owner_now(&world, 1), owner_now(&world, 100)), ("b".into(), "b".into()));
}

// V3: the destination is fenced between freeze and commit.
#[test]
fn nothing_is_moved_to_or_from_a_unit_about_which_something_was_decided_since() {
    for unit in ["a", "b"] {
        let mut world = World::new(&["a-1", "b-1"], &[0]);
        let work = world.work(5, "b", vec![key(1)]);
        world.put(Record::Move(work));
        while !world.node(&key(1)).is_some_and(|node| node.state.is_frozen()) {
            world.feed(0);
            world.report(0);
            world.deliver(0, 0);
            world.ask_standing(0);
            world.look(0);
            world.act(0, 0, true);
        }
        world.feed(0);
        world.report(0);
        world.deliver(0, 0);
        world.ask_standing(0);
        world.look(0);
        let id = NodeId::Unit(name(unit));
        for state in [State::Draining, State::Active] {
            world.put(Record::Node(Node {
                id: id.clone(),
                target: Target::Unit(name(unit)),
                state,
                rev: Rev::ZERO,
                term: Term::default(),
                previous: None,
                home: None,
                op: OpId(3),
                reason: String::new(),
            }));
        }
        world.act(0, 0, true);
        world.rounds(10);
        assert_eq!(owner_now(&world, 1), "a", "{unit}");
        assert_eq!(world.found(5).aborted, 1);
    }
}
