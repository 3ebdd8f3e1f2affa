//! Single moves, step by step.

use std::time::Duration;

use super::super::Phase;
use super::super::units::{self, Asked};
use super::world::{World, key, name, owner, relay, rule};
use crate::routing::lease::LeaseState;
use crate::routing::record::{
    Commit, MoveKind, MoveOptions, MoveState, Node, NodeId, OpId, Record, RecordId, Rev, State, Target, Term,
};

fn owner_now(world: &World, number: u64) -> String {
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

fn asked(world: &mut World) -> Asked {
    Asked {
        op: world.op(),
        driver: world.relays[0].id.clone(),
        at: 0,
        reason: "test".to_owned(),
    }
}

fn takeover(units: &[(&str, u16)]) -> Vec<(crate::model::UnitId, u16)> {
    units.iter().map(|(unit, weight)| (name(unit), *weight)).collect()
}

fn evacuate(world: &mut World, unit: &str, to: &[(&str, u16)], accept_dual: bool) -> u64 {
    let asked = asked(world);
    let routes = crate::routing::Routes::from_snapshot(&world.ledger.snapshot());
    let mut begun = units::evacuate(&routes, &name(unit), &takeover(to), accept_dual, &asked).unwrap();
    let commit = begun.commits.remove(0);
    let Record::Move(work) = commit.puts[0].clone() else {
        panic!()
    };
    world.store(commit).unwrap();
    work.id.0
}

// R-I15, V6: the unit answers; then one that took over is evacuated too; then both get their keys back.
#[test]
fn a_unit_is_evacuated_and_gets_its_keys_back() {
    let mut world = World::new(&["c-1", "a-1", "b-1"], &[0]);
    let id = evacuate(&mut world, "a", &[("b", 1), ("c", 1)], false);
    world.rounds(5);
    assert_eq!(world.found(id).state, MoveState::Finished);
    let before: Vec<_> = (1..40).map(|number| owner_now(&world, number)).collect();
    assert!(
        before.contains(&"b".to_owned()) && before.contains(&"c".to_owned()),
        "{before:?}"
    );
    let id = evacuate(&mut world, "b", &[("c", 1)], false);
    world.rounds(5);
    assert_eq!((world.found(id).state, world.found(id).moved), (MoveState::Finished, 1));
    assert_eq!(world.unit("a").takeover(), Some(&takeover(&[("c", 1)])[..]));
    assert!((1..40).all(|number| owner_now(&world, number) == "c"));

    for unit in ["a", "b"] {
        let asked = asked(&mut world);
        let routes = crate::routing::Routes::from_snapshot(&world.ledger.snapshot());
        let mut begun = units::give_back(&routes, &name(unit), MoveOptions::default(), &asked).unwrap();
        world.store(begun.commits.remove(0)).unwrap();
        world.rounds(12);
        assert_eq!(world.unit(unit), State::Active);
    }
    assert!((1..40).all(|number| owner_now(&world, number) == "a"));
}

// S0: the rule by which a key has its owner is moved before the key's own move is written.
#[test]
fn a_key_is_not_begun_by_what_has_changed_since() {
    let mut world = World::new(&["a-1", "a-2", "b-1", "c-1"], &[0, 1]);
    let work = world.work(5, "b", vec![key(1)]);
    world.put(Record::Move(work));
    world.feed(0);
    world.look(0);
    let late = std::mem::take(&mut world.pilots[0].acts);
    world.pilots[0].at = 1;
    world.kill(0);
    let mut work = world.work(6, "c", vec![rule("cid")]);
    work.driver = relay("a-2");
    world.put(Record::Move(work));
    world.rounds(10);
    assert_eq!(owner_now(&world, 1), "c");
    world.pilots[0].acts = late;
    world.act(0, 0, true);
    assert_eq!((owner_now(&world, 1), world.node(&key(1))), ("c".into(), None));
}

// V6, R-I18: a unit that took over is evacuated to one that did not: what others took over stays with them.
#[test]
fn no_key_moves_between_units_that_were_not_fenced() {
    let mut world = World::new(&["c-1", "a-1", "b-1", "d-1"], &[0]);
    let shares = |world: &World| (1..60).map(|number| owner_now(world, number)).collect::<Vec<_>>();
    evacuate(&mut world, "a", &[("b", 1), ("c", 1)], false);
    world.rounds(5);
    let before = shares(&world);
    evacuate(&mut world, "b", &[("d", 1)], false);
    world.rounds(5);
    for (was, is) in before.iter().zip(shares(&world)) {
        assert!(is == "c" || was == "b" && is == "d", "{was} {is}");
    }
}

// R-D7, R-3.10: the unit is dead, and some of its keys have a lease that never ends.
#[test]
fn a_dead_unit_with_endless_leases_is_taken_over_only_if_somebody_signs() {
    for accept_dual in [false, true] {
        let mut world = World::new(&["c-1", "a-1", "b-1"], &[0]);
        world.relays[1].is_cut = true;
        let id = evacuate(&mut world, "a", &[("b", 1)], accept_dual);
        world.rounds(595);
        assert!(matches!(world.unit("a"), State::Fencing { .. }));
        world.rounds(20);
        assert_eq!(world.unit("a").takeover().is_some(), accept_dual);
        if !accept_dual {
            let mut work = world.found(id);
            work.state = MoveState::Aborting;
            world.put(Record::Move(work));
            world.rounds(5);
            assert_eq!(
                (world.unit("a"), world.found(id).state),
                (State::Active, MoveState::Finished)
            );
        }
    }
}

#[test]
fn a_unit_is_drained_by_moves_and_gets_nothing_new() {
    let mut world = World::new(&["c-1", "a-1", "b-1"], &[0]);
    let asked = asked(&mut world);
    let snapshot = world.ledger.snapshot();
    let shares = takeover(&[("b", 1), ("c", 1)]);
    let draining = units::Draining {
        unit: &name("a"),
        shares: &shares,
        options: &MoveOptions::default(),
        claims: &[],
        only_claims: false,
    };
    for commit in units::drain(&snapshot, draining, &asked).unwrap().commits {
        world.store(commit).unwrap();
    }
    world.rounds(30);
    assert_eq!(world.unit("a"), State::Draining);
    assert_ne!(owner_now(&world, 1), "a");
    assert!(
        world
            .node(&rule("cid"))
            .is_some_and(|node| node.home == Some(name("a")))
    );
    let mut back = world.work(9, "a", vec![key(1)]);
    back.kind = MoveKind::Nodes;
    world.put(Record::Move(back));
    world.rounds(10);
    assert_eq!(world.found(9).aborted, 1);
    let id = RecordId::Node(NodeId::Unit(name("a")));
    assert_eq!(world.ledger.node(&id).map(|node| &node.state), Some(&State::Draining));
}

// what a drain took comes back by moves, except what was moved again since.
#[test]
fn what_a_drain_took_comes_back() {
    let mut world = World::new(&["c-1", "a-1", "b-1"], &[0]);
    let decided = [1, 2, 3].map(key);
    for (id, to) in [(5, "b"), (6, "a")] {
        let work = world.work(id, to, decided.to_vec());
        world.put(Record::Move(work));
        world.rounds(20);
    }
    let drain = |world: &mut World| {
        let asked = asked(world);
        let draining = units::Draining {
            unit: &name("a"),
            shares: &takeover(&[("b", 1)]),
            options: &MoveOptions::default(),
            claims: &[],
            only_claims: false,
        };
        units::drain(&world.ledger.snapshot(), draining, &asked).unwrap()
    };
    let take_back = |world: &mut World| {
        let asked = asked(world);
        units::take_back(&world.ledger.snapshot(), &name("a"), &MoveOptions::default(), &asked)
    };
    let begun = drain(&mut world);
    for commit in begun.commits {
        world.store(commit).unwrap();
    }
    let text = take_back(&mut world).unwrap_err().to_string();
    assert!(text.contains("is under way"), "{text}");
    assert_eq!(drain(&mut world).moves, [], "moves that are under way take it already");
    world.rounds(40);
    assert!((1..40).all(|number| owner_now(&world, number) != "a"));
    let again = world.work(7, "c", vec![key(2)]);
    world.put(Record::Move(again));
    world.rounds(20);
    for commit in take_back(&mut world).unwrap().commits {
        world.store(commit).unwrap();
    }
    world.rounds(40);
    assert_eq!(world.unit("a"), State::Active);
    let owners = [1, 2, 3].map(|number| owner_now(&world, number));
    assert_eq!(owners, ["a", "c", "a"].map(str::to_owned));
    assert!(world.node(&rule("cid")).is_some_and(|node| node.home.is_none()));
    assert!(take_back(&mut world).is_err());
}

// S2: all messages of a key must be delivered while it is frozen. Many of them are waited for before, while the key is served.
#[test]
fn a_key_is_frozen_only_when_few_of_its_messages_wait() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[1].has_many = true;
    let work = world.work(5, "b", vec![key(1)]);
    world.put(Record::Move(work));
    world.rounds(200);
    assert!(matches!(world.node(&key(1)).unwrap().state, State::Migrating { .. }));
    assert_eq!(owner_now(&world, 1), "a", "it is served");
    assert_eq!(world.pilots[0].mover.phases().collect::<Vec<_>>(), [Phase::Deliver]);
    assert_eq!(world.found(5).undelivered_at, Some(relay("a-2")), "operators see where");
    world.relays[1].has_many = false;
    world.rounds(20);
    let work = world.found(5);
    assert_eq!(
        (owner_now(&world, 1), work.moved, work.undelivered_at),
        ("b".into(), 1, None)
    );
}

#[test]
fn a_key_whose_messages_are_not_delivered_stays_and_says_so() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[0].has_many = true;
    let mut work = world.work(5, "b", vec![key(1)]);
    work.options.copy_limit = Duration::from_secs(3);
    world.put(Record::Move(work));
    world.rounds(80);
    let (work, node) = (world.found(5), world.node(&key(1)).unwrap());
    assert_eq!((work.state, work.aborted), (MoveState::Finished, 1));
    let reason = &node.reason;
    assert!(
        reason.contains("messages of it waited") && reason.ends_with(": at relay a/a-1"),
        "{reason}"
    );
}

// Symptom: with a limit of a second or less the record of a key that stayed said that the application had copied for too long, which nobody
// had asked. Cause: what held it up was known by a record that is written after a second. Fix: the mover remembers what it waited for.
#[test]
fn a_key_that_stays_says_what_it_waited_for_however_short_the_limit_is() {
    for millis in [0, 300, 1000, 3000] {
        let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
        world.relays[1].has_many = true;
        let mut work = world.work(5, "b", vec![key(1)]);
        work.options.copy_limit = Duration::from_millis(millis);
        world.put(Record::Move(work));
        world.rounds(80);
        let reason = &world.node(&key(1)).unwrap().reason;
        assert!(
            reason.contains("few messages of it waited") && reason.ends_with(": at relay a/a-2"),
            "{millis} ms: {reason}"
        );
    }
    // A relay that was killed.
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.round();
    world.relays[1].lease = LeaseState::default();
    world.round();
    let mut work = world.work(5, "b", vec![key(1)]);
    work.options.copy_limit = Duration::from_secs(1);
    world.put(Record::Move(work));
    world.rounds(60);
    let reason = &world.node(&key(1)).unwrap().reason;
    assert!(
        reason.contains("could not report") && reason.ends_with("relay a/a-2 was killed and has started again"),
        "{reason}"
    );
}

// S2: as long as many wait relays are asked how they stand, often at first: mostly none waits. After a second that costs more than it
// is worth.
#[test]
fn a_mover_asks_again_whether_few_messages_wait() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[1].has_many = true;
    let work = world.work(5, "b", vec![key(1)]);
    world.put(Record::Move(work));
    world.rounds(2);
    for (rounds, again) in [(1, 5), (30, 100)] {
        world.rounds(rounds);
        world.feed(0);
        let plan = world.look(0);
        assert_eq!(
            (plan.wants_standing, plan.again),
            (true, Some(Duration::from_millis(again))),
            "{:?}",
            world.node(&key(1)).unwrap().state
        );
    }
}

// A relay that is gone says nothing of its messages. Whether it may hold up a move is the question of the freeze (R-D7).
#[test]
fn messages_of_a_relay_that_is_silent_are_not_waited_for() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    world.relays[1].has_many = true;
    world.relays[1].is_cut = true;
    let mut work = world.work(5, "b", vec![key(1)]);
    work.options.freeze_budget = Duration::from_secs(60);
    world.put(Record::Move(work));
    world.rounds(90);
    assert!(matches!(world.node(&key(1)).unwrap().state, State::Frozen { .. }));
}
