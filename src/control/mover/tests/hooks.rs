//! What an application is asked while a key moves, and what its answers do.

use std::time::Duration;

use super::super::{HookCall, Hooked, Mover, Phase};
use super::world::{World, key, name, relay};
use crate::routing::record::{Commit, Hook, Lag, Move, MoveState, Record, RecordId, State, Target};

/// A world in which unit a has a key that is to move to unit b, with the application asked.
pub(super) fn world(answers: impl Fn(&HookCall) -> Hooked + 'static) -> World {
    let mut world = World::new(&["a-1", "a-2", "b-1", "c-1"], &[0, 3]);
    world.answers = Box::new(answers);
    let mut work = world.work(5, "b", vec![key(1)]);
    work.options.hooks = true;
    work.options.copy_limit = Duration::from_secs(60);
    world.put(Record::Move(work));
    world
}

pub(super) fn owner(world: &World) -> String {
    let node = world.node(&key(1));
    match node.map(|node| &node.target) {
        Some(Target::Unit(unit)) => unit.to_string(),
        _ => "a".to_owned(),
    }
}

/// `hook at unit` of all that was asked, each once, in order.
pub(super) fn asked(world: &World) -> Vec<String> {
    let mut seen = Vec::new();
    for call in &world.asked {
        let text = format!("{} at {}", call.hook, call.unit);
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}

fn state(world: &World) -> Option<State> {
    world.node(&key(1)).map(|node| node.state.clone())
}

#[test]
fn each_question_waits_for_the_one_before_and_the_old_owner_is_told_at_the_end() {
    let mut world = world(|_| Hooked::Done);
    world.rounds(60);
    assert_eq!((owner(&world), world.found(5).state), ("b".into(), MoveState::Trailing));
    let expected = [
        "prepare at b",
        "copy at b",
        "lag at b",
        "quiesce at a",
        "final_sync at b",
        "activate at b",
    ];
    assert_eq!(asked(&world), expected);
    let quiesce = world.asked.iter().find(|call| call.hook == Hook::Quiesce).unwrap();
    assert_eq!((quiesce.from.as_ref(), &quiesce.to), (Some(&name("a")), &name("b")));
    let activate = world.asked.iter().find(|call| call.hook == Hook::Activate).unwrap();
    assert_eq!(activate.from.as_ref(), Some(&name("a")));
    assert_eq!(activate.rev, world.node(&key(1)).unwrap().rev);
    world.rounds(1300);
    assert_eq!(asked(&world).last().unwrap(), "cleanup at a");
    assert_eq!(world.found(5).state, MoveState::Finished);
}

// R-D11, L1: as long as some relay of the old owner may still hand calls over, "nothing runs" would not stay true.
#[test]
fn the_old_owner_is_asked_to_finish_when_nothing_can_come_to_it_any_more() {
    let mut world = world(|_| Hooked::Done);
    world.relays[1].is_cut = true;
    world.rounds(90);
    assert!(matches!(state(&world), Some(State::Frozen { .. })));
    assert_eq!(world.pilots[0].mover.phases().collect::<Vec<_>>(), [Phase::Drain]);
    assert_eq!(asked(&world).last().unwrap(), "lag at b");
    world.relays[1].is_cut = false;
    world.rounds(40);
    assert_eq!(owner(&world), "b");
}

// S2: as long as the copy is too far behind the old owner serves the key; after the time for copying it keeps it.
#[test]
fn a_key_is_frozen_only_when_its_copy_is_near_enough() {
    let far = Lag {
        changes: 5000,
        ..Lag::default()
    };
    let mut world = world(move |call| match call.hook {
        Hook::Lag => Hooked::Lag(far),
        _ => Hooked::Done,
    });
    world.rounds(100);
    assert!(matches!(state(&world), Some(State::Migrating { .. })));
    let note = world.found(5).note.unwrap();
    assert_eq!(
        (note.hook, note.lag),
        (Hook::Lag, Some(far)),
        "operators see how far it is"
    );
    assert_eq!(
        world.pilots[0].mover.phases().collect::<Vec<_>>(),
        [Phase::Hook(Hook::Lag)]
    );
    assert_eq!(world.pilots[0].mover.lag(), far);
    assert!(!asked(&world).contains(&"quiesce at a".to_owned()));
    world.answers = Box::new(|_| Hooked::Done);
    world.rounds(60);
    assert_eq!(owner(&world), "b");
}

#[test]
fn a_copy_that_never_comes_near_is_given_up() {
    let mut world = world(|call| match call.hook {
        Hook::Lag => Hooked::NotYet("still counting".to_owned()),
        _ => Hooked::Done,
    });
    world.rounds(1190);
    assert!(matches!(state(&world), Some(State::Migrating { .. })));
    world.rounds(60);
    assert_eq!((owner(&world), world.found(5).aborted), ("a".into(), 1));
    assert!(world.node(&key(1)).unwrap().reason.contains("copied for too long"));
    let told = &asked(&world)[3..];
    assert_eq!(
        told,
        ["activate at a", "cleanup at b"],
        "both are told that nothing moves"
    );
}

// whoever refuses, before the freeze or in it, keeps the key where it is, and says why.
#[test]
fn a_refusal_gives_the_move_of_the_key_up_with_its_reason() {
    for hook in [Hook::Prepare, Hook::Copy, Hook::Lag, Hook::Quiesce, Hook::FinalSync] {
        let mut world = world(move |call| {
            if call.hook == hook {
                Hooked::Refused("disk full".to_owned())
            } else {
                Hooked::Done
            }
        });
        world.rounds(60);
        let work = world.found(5);
        assert_eq!(
            (owner(&world), work.state, work.aborted),
            ("a".into(), MoveState::Finished, 1)
        );
        assert_eq!(state(&world), Some(State::Active));
        let reason = &world.node(&key(1)).unwrap().reason;
        assert!(
            reason.ends_with("refused: disk full") && reason.contains(hook.as_str()),
            "{reason}"
        );
        let note = work.note.unwrap();
        assert_eq!((note.hook, note.said.as_str()), (hook, "refused: disk full"));
        // Unit a is told since when it has the key, not when the move of it was given up: its calls say the same.
        let told = world
            .asked
            .iter()
            .find(|call| call.hook == Hook::Activate && call.unit == name("a"));
        let moved = world.node(&key(1)).unwrap();
        assert_eq!(told.unwrap().rev, moved.since());
        assert!(moved.since() < moved.rev);
        assert!(
            world
                .asked
                .iter()
                .any(|call| call.hook == Hook::Cleanup && call.unit == name("b"))
        );
    }
}

// What is decided is decided: Activate and Cleanup cannot be refused, and whoever cannot be told is not waited for for ever.
#[test]
fn what_comes_after_the_decision_neither_stops_it_nor_waits_for_ever() {
    let mut refusing = world(|call| match call.hook {
        Hook::Activate | Hook::Cleanup => Hooked::Refused("no".to_owned()),
        _ => Hooked::Done,
    });
    refusing.rounds(1300);
    assert_eq!(
        (owner(&refusing), refusing.found(5).state),
        ("b".into(), MoveState::Finished)
    );
    let mut silent = world(|call| match call.hook {
        Hook::Activate | Hook::Cleanup => Hooked::NotYet("unit away".to_owned()),
        _ => Hooked::Done,
    });
    silent.rounds(100);
    assert_eq!(
        (owner(&silent), silent.found(5).state),
        ("b".into(), MoveState::Running)
    );
    silent.rounds(12_000);
    assert_eq!(silent.found(5).state, MoveState::Trailing);
    silent.rounds(14_000);
    assert_eq!(silent.found(5).state, MoveState::Finished);
}

// In a freeze nothing is waited for longer than its budget (R-I12).
#[test]
fn an_application_that_does_not_come_to_an_end_costs_the_budget_only() {
    let mut world = world(|call| match call.hook {
        Hook::Quiesce => Hooked::NotYet("2 calls still run".to_owned()),
        _ => Hooked::Done,
    });
    world.rounds(10);
    assert_eq!(
        world.pilots[0].mover.phases().collect::<Vec<_>>(),
        [Phase::Hook(Hook::Quiesce)]
    );
    world.rounds(60);
    assert_eq!((owner(&world), world.found(5).aborted), ("a".into(), 1));
    assert!(!asked(&world).contains(&"final_sync at b".to_owned()));
}

// R-I11: who drives is gone between two questions; whoever goes on asks again, from the first one on.
#[test]
fn another_relay_asks_again_and_goes_on() {
    let mut world = world(|call| match call.hook {
        Hook::Lag => Hooked::NotYet("copying".to_owned()),
        _ => Hooked::Done,
    });
    world.rounds(20);
    assert!(asked(&world).contains(&"lag at b".to_owned()));
    world.relays[0].is_cut = true;
    world.pilots[0].mover = Mover::new(relay("a-1"), super::super::Limits::default());
    world.asked.clear();
    world.answers = Box::new(|_| Hooked::Done);
    world.rounds(900);
    let work = world.found(5);
    assert_eq!((work.driver, work.moved + work.aborted), (relay("c-1"), 1));
    assert_eq!(&asked(&world)[..3], ["prepare at b", "copy at b", "lag at b"]);
}

#[test]
fn a_dimension_without_an_application_or_a_move_without_hooks_asks_nobody() {
    let mut world = World::new(&["a-1", "b-1"], &[0]);
    let work = world.work(5, "b", vec![key(1)]);
    world.put(Record::Move(work));
    world.rounds(20);
    let mut book = world.ledger.book().unwrap().clone();
    book.dimensions[0].hooks = None;
    world.put(Record::Book(book));
    let mut work = world.work(6, "b", vec![key(2)]);
    work.options.hooks = true;
    world.put(Record::Move(work));
    world.rounds(20);
    assert_eq!((world.found(5).moved, world.found(6).moved), (1, 1));
    assert!(world.asked.is_empty(), "{:?}", asked(&world));
}

// S8: finished moves are kept for people, and no more of them than that.
#[test]
fn the_oldest_finished_moves_are_removed_by_those_that_finish() {
    let mut world = World::new(&["a-1", "b-1"], &[0]);
    for id in 1..=110 {
        let to = if id % 2 == 1 { "b" } else { "a" };
        let mut work = world.work(id, to, vec![key(1)]);
        work.options.trail = Duration::ZERO;
        world.put(Record::Move(work));
        world.rounds(12);
        assert_eq!(world.found(id).state, MoveState::Finished, "{id}");
    }
    let kept: Vec<_> = (1..=110).filter(|id| is_there(&world, *id)).collect();
    assert_eq!(kept, (11..=110).collect::<Vec<_>>());
    assert_eq!(kept.len(), Move::FINISHED_MAX);
}

// S8: ten moves of 10,000 keys each would be as much as a hundred thousand keys moved one by one, for people only.
#[test]
fn finished_moves_are_kept_by_the_nodes_that_they_name_too() {
    let mut world = World::new(&["a-1", "b-1"], &[0]);
    let many: Vec<_> = (0..Move::NODES_MAX).map(|_| key(2)).collect();
    for id in 1..=12 {
        let work = Move {
            state: MoveState::Finished,
            ..world.work(id, "b", many.clone())
        };
        let commit = Commit {
            op: world.op(),
            compares: Vec::new(),
            puts: vec![Record::Move(work)],
            removes: Vec::new(),
        };
        world.ledger.commit(commit).unwrap();
    }
    let mut work = world.work(20, "b", vec![key(1)]);
    work.options.trail = Duration::ZERO;
    world.put(Record::Move(work));
    while world.found(20).state != MoveState::Finished {
        world.round();
    }
    let kept: Vec<_> = (1..=12).filter(|id| is_there(&world, *id)).collect();
    assert_eq!(kept, (4..=12).collect::<Vec<_>>(), "nine of them, and the last one");
    assert_eq!(Move::FINISHED_NODES_MAX, 100_000);
}

fn is_there(world: &World, id: u64) -> bool {
    let id = RecordId::Move(crate::routing::record::MoveId(id));
    world.ledger.read(&[id]).found[0].is_some()
}
