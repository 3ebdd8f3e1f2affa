//! What an application forgets, and what is copied to it, do not cross (T3).

use std::time::Duration;

use super::super::{HookCall, Hooked};
use super::hooks::{asked, owner, world};
use super::world::{World, key, relay};
use crate::routing::record::{Hook, Lag, MoveId, MoveState, Record};

/// Whether the application of a unit is asked for the next move while it has not answered a Cleanup.
fn copies_while_cleaned(world: &World, from: usize) -> bool {
    world.asked[from..].iter().any(|call| call.hook == Hook::Copy)
}

// T3. Symptom: data that a move back had just copied could be deleted. Cause: the old owner was being asked to forget the key when the next
// move began to copy it there. Fix: the record says that it is, before it is asked, and a move to that unit waits.
#[test]
fn a_move_back_waits_until_the_old_owner_has_forgotten_the_key() {
    let mut world = world(|call| match call.hook {
        Hook::Cleanup => Hooked::NotYet("deleting".to_owned()),
        _ => Hooked::Done,
    });
    world.rounds(60);
    assert_eq!((owner(&world), world.found(5).state), ("b".into(), MoveState::Trailing));
    let is_asked = |call: &HookCall| call.hook == Hook::Cleanup;
    while !world.asked.iter().any(is_asked) {
        world.round();
    }
    let from = world.asked.len();
    let mut work = world.work(6, "a", vec![key(1)]);
    work.options.hooks = true;
    world.put(Record::Move(work));
    world.rounds(100);
    assert!(!copies_while_cleaned(&world, from), "{:?}", &asked(&world));
    assert_eq!(owner(&world), "b");
    // Another unit has nothing to forget.
    let mut work = world.work(7, "c", vec![key(2)]);
    work.options.hooks = true;
    world.put(Record::Move(work));
    world.rounds(60);
    assert_eq!(world.found(7).moved, 1);
    world.answers = Box::new(|_| Hooked::Done);
    world.rounds(100);
    assert_eq!((owner(&world), world.found(6).moved), ("a".into(), 1));
    assert_eq!(world.found(5).state, MoveState::Finished);
}

/// A world in which the application of the old owner is asked to forget the key, and does not answer; and a move that waits for that.
fn waiting_for_cleanup(to: &str) -> World {
    let mut world = world(|call| match call.hook {
        Hook::Cleanup => Hooked::NotYet("deleting".to_owned()),
        _ => Hooked::Done,
    });
    while !world.asked.iter().any(|call| call.hook == Hook::Cleanup) {
        world.round();
    }
    let mut work = world.work(6, to, vec![key(1)]);
    work.options.hooks = true;
    world.put(Record::Move(work));
    world.rounds(20);
    assert_eq!(world.found(6).moved, 0);
    world
}

// T3: a key does not go on to a third unit either, from where it could come back while the first one still forgets it.
#[test]
fn a_move_to_a_third_unit_waits_until_the_old_owner_has_forgotten_the_key() {
    let mut world = waiting_for_cleanup("c");
    world.rounds(100);
    assert_eq!(owner(&world), "b");
    world.answers = Box::new(|_| Hooked::Done);
    world.rounds(100);
    assert_eq!((owner(&world), world.found(6).moved), ("c".into(), 1));
}

// T3. Symptom: a key could not be moved back for as long as a trail lasts. Cause: who drove the trail had started again, and waited for its
// time anew, while the record said already that the old owner is to forget the key. Fix: the record tells that the time is over.
#[test]
fn a_driver_that_has_started_again_goes_on_with_what_is_to_be_forgotten() {
    let mut world = waiting_for_cleanup("a");
    let mut trailing = world.found(5);
    trailing.options.trail = Duration::from_secs(1_000_000);
    world.put(Record::Move(trailing));
    world.kill(0);
    world.rounds(20);
    assert_eq!((owner(&world), world.found(6).moved), ("b".into(), 0));
    // Nobody answers, nobody waits for ever.
    world.rounds(12_000 + 200);
    assert_eq!((owner(&world), world.found(6).moved), ("a".into(), 1));
}

// T3: a relay of an earlier version clears no trail of a key that is to be moved; the move does not wait for it for ever.
#[test]
fn a_move_waits_for_a_cleanup_that_nobody_ends_for_some_time_only() {
    let mut world = waiting_for_cleanup("a");
    let mut trailing = world.found(5);
    trailing.driver = relay("c-1");
    world.put(Record::Move(trailing));
    // It is alive, and does nothing.
    world.pilots.pop();
    world.rounds(12_000);
    assert_eq!((owner(&world), world.found(6).moved), ("b".into(), 0));
    world.rounds(20_000);
    assert_eq!((owner(&world), world.found(6).moved), ("a".into(), 1));
}

// T1 and T3: the move back comes first; then nothing is forgotten there.
#[test]
fn an_old_owner_forgets_nothing_that_is_to_come_back() {
    let mut world = world(|_| Hooked::Done);
    world.rounds(60);
    let until = world.now + Duration::from_secs(55);
    while world.now < until {
        world.round();
    }
    let mut work = world.work(6, "a", vec![key(1)]);
    work.options.hooks = true;
    world.put(Record::Move(work));
    world.rounds(60);
    assert_eq!((owner(&world), world.found(6).moved), ("a".into(), 1));
    world.rounds(100);
    assert_eq!(world.found(5).state, MoveState::Finished);
    assert!(!world.asked.iter().any(|call| call.hook == Hook::Cleanup));
}

// T3: the same after a move that was given up; whoever cannot be told is not waited for for ever.
#[test]
fn a_second_try_waits_until_the_new_owner_has_forgotten_what_the_first_had_copied() {
    for is_told in [true, false] {
        let mut world = world(|call| match call.hook {
            Hook::Lag => Hooked::Refused("disk full".to_owned()),
            Hook::Cleanup => Hooked::NotYet("deleting".to_owned()),
            _ => Hooked::Done,
        });
        world.rounds(60);
        assert_eq!((owner(&world), world.found(5).state), ("a".into(), MoveState::Running));
        let from = world.asked.len();
        let mut work = world.work(6, "b", vec![key(1)]);
        work.options.hooks = true;
        world.put(Record::Move(work));
        world.answers = Box::new(move |call| match call.hook {
            Hook::Cleanup if call.by == MoveId(5) => Hooked::NotYet("deleting".to_owned()),
            _ => Hooked::Done,
        });
        world.rounds(100);
        assert!(!copies_while_cleaned(&world, from), "{:?}", asked(&world));
        if is_told {
            world.answers = Box::new(|_| Hooked::Done);
            world.rounds(100);
        } else {
            world.rounds(12_000 + 2_400);
        }
        assert_eq!((owner(&world), world.found(6).moved), ("b".into(), 1), "{is_told}");
    }
}

/// Two keys move to unit b. The application refuses the second one, is asked to forget it and does not answer, and goes on copying the
/// first. Then another move, driven by another relay, is to bring the second one there.
fn partly_given_up() -> World {
    let mut world = world(|_| Hooked::Done);
    world.answers = Box::new(|call| match call.hook {
        Hook::Lag if call.node == key(1) && call.by == MoveId(5) => Hooked::Refused("disk full".to_owned()),
        Hook::Lag if call.node == key(2) => Hooked::Lag(Lag {
            changes: 5000,
            ..Lag::default()
        }),
        Hook::Cleanup if call.by == MoveId(5) => Hooked::NotYet("deleting".to_owned()),
        _ => Hooked::Done,
    });
    let mut work = world.found(5);
    work.nodes = vec![key(2), key(1)];
    work.options.copy_limit = Duration::from_secs(100_000);
    world.put(Record::Move(work));
    while !world.asked.iter().any(|call| call.hook == Hook::Cleanup) {
        world.round();
    }
    second_try(&mut world);
    world
}

/// A move of the key to unit b that another relay drives.
fn second_try(world: &mut World) {
    let mut work = world.work(6, "b", vec![key(1)]);
    work.options.hooks = true;
    work.driver = relay("c-1");
    world.put(Record::Move(work));
}

/// Time passes, and the driver of move 5 starts again so often, each time before it gives up, until move 6 copies: how long it had
/// driven by then.
fn until_copied(world: &mut World, mut restarts: usize) -> Duration {
    let from = world.asked.len();
    let mut begun = world.now;
    let copies = |call: &HookCall| call.by == MoveId(6) && call.hook == Hook::Copy;
    loop {
        world.pass(Duration::from_millis(450));
        world.round();
        let driven = world.now.saturating_sub(begun);
        if world.asked[from..].iter().any(copies) {
            return driven;
        }
        assert!(driven < Duration::from_secs(2000), "it is waited for for ever");
        if restarts > 0 && driven > Duration::from_secs(500) {
            (restarts, begun) = (restarts - 1, world.now);
            world.restart(0);
        }
    }
}

// T3: the other key of the first move may take as long as it likes; it is waited for until its driver asks no more, whoever that is.
#[test]
fn a_second_try_waits_for_a_move_that_goes_on_with_others_until_nobody_is_asked_to_forget_any_more() {
    for restarts in [0, 2] {
        let mut world = partly_given_up();
        let waited = until_copied(&mut world, restarts).as_secs();
        assert!((665..=725).contains(&waited), "{waited} s after {restarts} restarts");
        assert_eq!(world.found(5).state, MoveState::Running);
        world.rounds(100);
        assert_eq!((owner(&world), world.found(6).moved), ("b".into(), 1));
    }
}

// T3: a driver that starts again asks for as long as the first; who counts from when the mark was written would copy meanwhile.
#[test]
fn a_move_back_waits_for_a_driver_that_has_started_again_often() {
    for restarts in [0, 3] {
        let mut world = waiting_for_cleanup("a");
        let mut work = world.found(6);
        work.driver = relay("c-1");
        world.put(Record::Move(work));
        let waited = until_copied(&mut world, restarts).as_secs();
        assert!((595..=1445).contains(&waited), "{waited} s after {restarts} restarts");
    }
}

// T3: what an application is being asked it may be doing, also when the time for it is over.
#[test]
fn a_second_try_waits_for_a_cleanup_that_is_being_asked_for() {
    let mut world = world(|call| match call.hook {
        Hook::Lag if call.by == MoveId(5) => Hooked::Refused("disk full".to_owned()),
        _ => Hooked::Done,
    });
    world.stuck = Some(Hook::Cleanup);
    world.rounds(60);
    second_try(&mut world);
    world.rounds(12_000 + 1_200);
    assert_eq!((world.found(5).state, world.found(6).moved), (MoveState::Running, 0));
    // The driver gives no question longer than that.
    world.rounds(2_400);
    assert_eq!((owner(&world), world.found(6).moved), ("b".into(), 1));
}
