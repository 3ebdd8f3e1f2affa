//! Keys of which messages wait (S2), and what a key that stays has waited for.

use std::time::Duration;

use super::super::Phase;
use super::scripted::owner_now;
use super::world::{World, key, relay};
use crate::routing::lease::LeaseState;
use crate::routing::record::{MoveState, Record, State};

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
