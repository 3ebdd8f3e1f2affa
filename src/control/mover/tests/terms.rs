//! Since when an owner has a key (R-3.8 step 6), where a key is at home that was drained, and whom a freeze waits for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::units::{self, Asked, Begun, Draining};
use super::world::{World, key, name, relay, rule};
use crate::model::{ANY_KEY, Key, RouteHints, UnitId};
use crate::routing::lease::LeaseState;
use crate::routing::record::{Commit, MoveOptions, NodeId, OpId, Record, Rev, State, Target, Term};
use crate::routing::{RouteTable, Routes, Settings};

/// Who has a key, and what its services are told.
fn told(routes: &Routes, id: &NodeId) -> (String, u64) {
    let NodeId::Key { dimension, key } = id else { panic!() };
    let hints = RouteHints {
        keys: vec![Key {
            dimension: bytes::Bytes::copy_from_slice(dimension.as_str().as_bytes()),
            key: key.0.clone(),
        }],
        ..RouteHints::default()
    };
    let units = ["a", "b", "c", "d"].map(name);
    let table = RouteTable::build(&Settings::default(), &units[0], &units[1..]).unwrap();
    let table = table.with_routes(Arc::new(routes.clone()));
    let found = table.resolve(&hints, &ANY_KEY, &units[0], &()).unwrap();
    (found.unit.to_string(), found.since)
}

fn now(world: &World, id: &NodeId) -> (String, u64) {
    told(&Routes::from_snapshot(&world.ledger.snapshot()), id)
}

/// All that is told of a key during so many rounds, by every relay's copy.
fn told_during(world: &mut World, id: &NodeId, rounds: usize) -> BTreeSet<(String, u64)> {
    let mut all = BTreeSet::from([now(world, id)]);
    for _ in 0..rounds {
        world.round();
        all.insert(now(world, id));
        all.extend(world.relays.iter().map(|relay| told(&relay.routes, id)));
    }
    all
}

/// Decides about a key that nobody has.
fn decide(world: &mut World, id: NodeId, unit: &str) {
    let node = Record::Node(crate::routing::record::Node {
        id,
        target: Target::Unit(name(unit)),
        state: State::Active,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(5),
        reason: String::new(),
    });
    let commit = Commit {
        op: world.op(),
        compares: Vec::new(),
        puts: vec![node],
        removes: Vec::new(),
    };
    world.ledger.commit(commit).unwrap();
}

// step 6: begun, frozen, given, and the old owner forgotten: two owners, and two epochs. So it is with the key of a rule.
#[test]
fn a_move_has_the_old_epoch_until_it_gives_the_key_away_and_one_new_one_from_then_on() {
    for (moved, asked) in [(key(1), key(1)), (rule("cid"), key(2))] {
        let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
        let mut work = world.work(5, "b", vec![moved.clone()]);
        work.options.trail = Duration::from_secs(1);
        world.put(Record::Move(work));
        let all: Vec<_> = told_during(&mut world, &asked, 80).into_iter().collect();
        let [(a, before), (b, after)] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
        assert!(before < after, "{all:?}");
        // Nothing is left to do: the copy keeps but a hash of the key, and yet knows.
        let node = world.node(&moved).unwrap();
        assert!(node.previous.is_none() && node.rev > node.since());
        let routes = Routes::from_snapshot(&world.ledger.snapshot());
        assert_eq!(told(&Routes::load(&routes.save()).unwrap(), &asked), all[1]);
    }
}

// step 6: a move that is given up leaves what is told as it was, of a key with a record of its own and of one without.
#[test]
fn a_move_that_is_given_up_changes_no_epoch() {
    let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
    decide(&mut world, key(2), "a");
    world.relays[1].is_cut = true;
    let nodes = vec![key(1), key(2), key(100)];
    let before: Vec<_> = nodes.iter().map(|id| now(&world, id)).collect();
    let work = world.work(5, "b", nodes.clone());
    world.put(Record::Move(work));
    for _ in 0..140 {
        world.round();
        let after: Vec<_> = nodes.iter().map(|id| now(&world, id)).collect();
        assert_eq!(after, before);
    }
    assert_eq!(world.found(5).aborted, 3);
}

// step 6, R-3.10: an evacuation, and another one of a unit that took over: a key that stays where it was keeps its epoch.
#[test]
fn a_key_that_stays_with_who_took_it_over_keeps_its_epoch_when_another_one_is_evacuated() {
    let mut world = World::new(&["a-1", "b-1", "c-1"], &[1]);
    world.pilots[0].at = 1;
    let keys: Vec<_> = (1..=40).map(key).collect();
    let before: Vec<_> = keys.iter().map(|id| now(&world, id)).collect();
    let evacuate = |world: &mut World, unit: &str, to: &[&str]| {
        let routes = Routes::from_snapshot(&world.ledger.snapshot());
        let to: Vec<_> = to.iter().map(|unit| (name(unit), 1)).collect();
        let asked = asked(world);
        store(
            world,
            units::evacuate(&routes, &name(unit), &to, false, &asked).unwrap(),
        );
        world.rounds(20);
    };
    evacuate(&mut world, "a", &["b", "c"]);
    let first: Vec<_> = keys.iter().map(|id| now(&world, id)).collect();
    evacuate(&mut world, "c", &["b"]);
    let second: Vec<_> = keys.iter().map(|id| now(&world, id)).collect();
    let (mut stayed, mut went) = (0, 0);
    for ((before, first), second) in before.iter().zip(&first).zip(&second) {
        assert!(before.1 < first.1 && first.0 != "a");
        assert_eq!(second.0, "b");
        if first.0 == "b" {
            assert_eq!(first, second);
            stayed += 1;
        } else {
            assert!(first.1 < second.1);
            went += 1;
        }
    }
    assert!(stayed > 5 && went > 5, "{stayed} {went}");
    let asked = asked(&mut world);
    let routes = Routes::from_snapshot(&world.ledger.snapshot());
    store(
        &mut world,
        units::give_back(&routes, &name("a"), MoveOptions::default(), &asked).unwrap(),
    );
    world.rounds(20);
    for (id, second) in keys.iter().zip(&second) {
        let third = now(&world, id);
        assert!(third.0 == "a" && third.1 > second.1, "{third:?}");
    }
}

fn asked(world: &mut World) -> Asked {
    Asked {
        op: world.op(),
        driver: relay("b-1"),
        at: 0,
        reason: String::new(),
    }
}

fn store(world: &mut World, begun: Begun) {
    for commit in begun.commits {
        world.store(commit).unwrap();
    }
}

fn drain(world: &mut World, unit: &str, to: &str) {
    let options = MoveOptions {
        hooks: false,
        trail: Duration::from_secs(1),
        ..MoveOptions::default()
    };
    let asked = asked(world);
    let shares: [(UnitId, u16); 1] = [(name(to), 1)];
    let draining = Draining {
        unit: &name(unit),
        shares: &shares,
        options: &options,
        claims: &[],
        only_claims: false,
    };
    let begun = units::drain(&world.ledger.snapshot(), draining, &asked).unwrap();
    store(world, begun);
    world.rounds(80);
}

fn take_back(world: &mut World, unit: &str) {
    let asked = asked(world);
    let options = MoveOptions {
        hooks: false,
        trail: Duration::from_secs(1),
        ..MoveOptions::default()
    };
    let begun = units::take_back(&world.ledger.snapshot(), &name(unit), &options, &asked).unwrap();
    store(world, begun);
    world.rounds(80);
}

// step 6: a unit that is marked as drained, and no longer, has what it has since the same revision.
#[test]
fn marks_of_a_unit_change_no_epoch() {
    let mut world = World::new(&["a-1", "b-1"], &[]);
    decide(&mut world, key(1), "a");
    let told = |world: &World| [1, 2].map(|number| now(world, &key(number)));
    let before = told(&world);
    let options = MoveOptions::default();
    let draining = |world: &mut World| {
        let asked = asked(world);
        let drain = Draining {
            unit: &name("a"),
            shares: &[(name("b"), 1)],
            options: &options,
            claims: &[],
            only_claims: false,
        };
        units::drain(&world.ledger.snapshot(), drain, &asked).unwrap()
    };
    let begun = draining(&mut world);
    world.store(begun.commits[0].clone()).unwrap();
    assert_eq!((world.unit("a"), told(&world)), (State::Draining, before.clone()));
    let asks = asked(&mut world);
    let begun = units::take_back(&world.ledger.snapshot(), &name("a"), &options, &asks).unwrap();
    world.store(begun.commits[0].clone()).unwrap();
    assert_eq!((world.unit("a"), told(&world)), (State::Active, before));
}

// what a drain took, and another drain took on, comes back to where it was first; what the second took besides does not go
// there.
#[test]
fn what_two_drains_took_one_after_the_other_comes_back_to_its_first_unit() {
    let mut world = World::new(&["a-1", "b-1", "c-1"], &[1]);
    world.pilots[0].at = 1;
    decide(&mut world, key(1), "a");
    decide(&mut world, key(2), "b");
    decide(&mut world, key(3), "a");
    drain(&mut world, "a", "b");
    let home = |world: &World, number| world.node(&key(number)).unwrap().home.clone();
    assert_eq!(
        (now(&world, &key(1)).0.as_str(), home(&world, 1)),
        ("b", Some(name("a")))
    );
    // An operator has decided about this one.
    let mut work = world.work(900, "c", vec![key(3)]);
    work.options.trail = Duration::from_secs(1);
    work.driver = relay("b-1");
    world.put(Record::Move(work));
    world.rounds(80);
    assert_eq!(home(&world, 3), None);
    drain(&mut world, "b", "c");
    let owners = |world: &World| [1, 2, 3, 4].map(|number| now(world, &key(number)).0);
    assert_eq!(owners(&world), ["c", "c", "c", "c"]);
    assert_eq!((home(&world, 1), home(&world, 2)), (Some(name("a")), Some(name("b"))));
    // Its own keys, and nothing of the other one.
    take_back(&mut world, "b");
    assert_eq!(owners(&world), ["c", "b", "c", "c"]);
    take_back(&mut world, "a");
    assert_eq!(owners(&world), ["a", "b", "c", "a"]);
    assert_eq!([1, 2, 3].map(|number| home(&world, number)), [None, None, None]);
}

// a drain that does not come through leaves a key at home where it was.
#[test]
fn a_move_of_a_drain_that_is_given_up_forgets_no_home() {
    let mut world = World::new(&["a-1", "b-1", "c-1", "b-2"], &[1]);
    world.pilots[0].at = 1;
    decide(&mut world, key(1), "a");
    drain(&mut world, "a", "b");
    world.relays[3].is_cut = true;
    drain(&mut world, "b", "c");
    let node = world.node(&key(1)).unwrap();
    assert_eq!((&node.target, &node.home), (&Target::Unit(name("b")), &Some(name("a"))));
}

// S3, P5 of the keeper: a relay that was killed and started again cannot report for a while; keys are served meanwhile, and
// move without a vain freeze.
#[test]
fn nothing_is_frozen_before_a_relay_that_was_killed_can_report() {
    for (moved, holder) in [(key(1), 1), (rule("cid"), 1), (key(100), 1)] {
        let mut world = World::new(&["a-1", "a-2", "b-1"], &[0]);
        world.round();
        world.relays[holder].lease = LeaseState::default();
        world.round();
        let work = world.work(5, "b", vec![moved.clone()]);
        world.put(Record::Move(work));
        world.rounds(190);
        assert_eq!(world.found(5).waits_for, Some(relay("a-2")));
        assert!(!world.history.iter().any(|node| node.state.is_frozen()));
        world.rounds(20);
        let work = world.found(5);
        assert_eq!((work.moved, work.aborted, work.waits_for), (1, 0, None));
    }
}

// The same of units that give back what they took over: all its keys would be frozen in vain.
#[test]
fn a_unit_gets_its_keys_back_only_when_those_who_have_them_can_report() {
    let mut world = World::new(&["a-1", "b-1", "b-2"], &[1]);
    world.pilots[0].at = 1;
    let routes = Routes::from_snapshot(&world.ledger.snapshot());
    let asks = asked(&mut world);
    store(
        &mut world,
        units::evacuate(&routes, &name("a"), &[(name("b"), 1)], false, &asks).unwrap(),
    );
    world.rounds(20);
    world.relays[2].lease = LeaseState::default();
    world.round();
    let asks = asked(&mut world);
    let routes = Routes::from_snapshot(&world.ledger.snapshot());
    let options = MoveOptions {
        hooks: false,
        ..MoveOptions::default()
    };
    store(
        &mut world,
        units::give_back(&routes, &name("a"), options, &asks).unwrap(),
    );
    world.rounds(190);
    let is_returning = |node: &crate::routing::record::Node| matches!(node.state, State::Returning { .. });
    assert!(!world.history.iter().any(is_returning));
    world.rounds(20);
    assert_eq!(world.unit("a"), State::Active);
}
