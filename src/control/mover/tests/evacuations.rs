//! Units that are drained, evacuated, and come back.

use super::super::units::{self, Asked};
use super::scripted::owner_now;
use super::world::{World, key, name, relay, rule};
use crate::routing::record::{MoveKind, MoveOptions, MoveState, NodeId, Record, RecordId, State};

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
