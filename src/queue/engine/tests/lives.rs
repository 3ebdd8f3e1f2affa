//! When the log begins a new life, and what becomes of those who are under way then.

use super::*;
use crate::queue::Sync;
use crate::queue::log::Entry;

/// A lane whose peer has all numbers up to one.
fn lane_up(world: &mut World, number: u64, unit: &str, frontier: u64) {
    let (lane, unit, relay) = (LaneId::new(0, number), name(unit), name("r"));
    let kind = LaneKind::Backlog;
    world.input(Input::LaneUp {
        lane,
        unit,
        relay,
        kind,
    });
    let frame = ToSender::Opened {
        frontier,
        above: Vec::new(),
        highest: frontier,
    };
    world.input(Input::FromReceiver { lane, frame });
}

fn epoch(world: &World) -> String {
    world.engine.status(world.now).epoch
}

#[test]
fn an_old_copy_of_the_log_begins_a_new_life_however_many_messages_come_before_its_peer_is_heard() {
    // M-A1, M-A2
    let mut world = World::new();
    world.publish("orders", &["b"]);
    let old = world.storage.fork();
    for _ in 0..3 {
        world.publish("orders", &["b"]);
    }
    lane_up(&mut world, 1, "b", 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.sent(), 4);
    let first = epoch(&world);
    world.storage = old;
    world.restart();
    assert_eq!(epoch(&world), first, "nobody can know yet");
    let published: Vec<u64> = (0..5)
        .map(|_| world.publish_as("orders", &["b"], |publish| publish.wait = AckLevel::Relayed))
        .collect();
    lane_up(&mut world, 2, "b", 4);
    world.pass(Duration::from_secs(2));
    assert_ne!(epoch(&world), first);
    for ticket in &published {
        assert_eq!(world.told(*ticket).len(), 1, "accepted, and not relayed");
    }
    // The edge opens another lane, of the new life; the peer has nothing of that one.
    lane_up(&mut world, 3, "b", 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.sent_bodies().len(), 6, "{:?}", world.sent_bodies());
}

#[test]
fn what_this_process_has_sent_a_relay_may_have() {
    // M-A1
    let mut world = World::new();
    for _ in 0..4 {
        world.publish("orders", &["b"]);
    }
    lane_up(&mut world, 1, "b", 0);
    world.pass(Duration::from_secs(1));
    let first = epoch(&world);
    lane_up(&mut world, 2, "b", 4);
    world.pass(Duration::from_secs(2));
    world.restart();
    lane_up(&mut world, 3, "b", 4);
    world.pass(Duration::from_secs(2));
    assert_eq!(epoch(&world), first);
}

#[test]
fn a_log_with_buffered_syncs_begins_a_new_life_unless_it_was_closed() {
    // M-A1, M-A5
    let mut world = World::with(|setup| setup.queue.sync = Sync::Buffered);
    world.publish("orders", &["b"]);
    let first = epoch(&world);
    world.engine.close(world.now);
    world.turn();
    world.restart();
    assert_eq!(epoch(&world), first);
    world.publish("orders", &["b"]);
    world.pass(Duration::from_secs(1));
    world.restart();
    assert_ne!(epoch(&world), first);
}

#[test]
fn damage_that_only_the_replay_finds_begins_a_new_life() {
    // M-A1, M-A4
    let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_secs(2));
    world.publish("orders", &["b"]);
    world.pass(Duration::from_secs(5));
    world.publish("orders", &["b"]);
    // A checkpoint is asked for; before it is made, the segment is filled.
    world.waits = true;
    let log = &world.log;
    world.engine.checkpoint(world.now, &mut |wanted| log.sparse(wanted));
    let checkpoint = world.engine.take_requests();
    world.waits = false;
    world.publish_as("orders", &["c"], |publish| {
        publish.body = Bytes::from_static(b"LOSTLOST");
    });
    for _ in 0..100 {
        world.publish_as("orders", &["b"], |publish| publish.body = Bytes::from(vec![7; 1000]));
    }
    world.requests.extend(checkpoint);
    world.answer_disk();
    let first = epoch(&world);
    assert_eq!(damage::damage(&mut world, b"LOSTLOST"), 1);
    world.restart();
    assert_ne!(epoch(&world), first);
    assert_eq!(world.engine.status(world.now).damaged.len(), 1);
}

#[test]
fn a_record_that_cannot_be_understood_begins_a_new_life() {
    // M-A1
    let mut world = World::new();
    world.publish("orders", &["b"]);
    let first = epoch(&world);
    let strange = Entry {
        kind: 250,
        lines: Vec::new(),
        head: Bytes::from_static(b"?"),
        message: None,
    };
    world.log.append(&[strange], true).unwrap();
    world.pass(Duration::from_secs(1));
    world.restart();
    assert_ne!(epoch(&world), first);
}

#[test]
fn publishers_under_way_while_a_new_life_begins_are_told_of_their_own_messages() {
    // M-A2, P1
    let mut world = World::new();
    world.waits = true;
    let publish =
        |world: &mut World, id: &str| world.publish_as("orders", &["b"], |publish| publish.attributes = named(id));
    let before = world.engine.take_answered();
    let first = publish(&mut world, "one");
    // A peer has messages that are not known here: the log begins a new life.
    lane_up(&mut world, 1, "b", 9);
    world.pass(Duration::from_secs(2));
    let second = publish(&mut world, "two");
    // The disk does the batch of the first one only.
    let is_append = |request: &Request| matches!(request, Request::Append(_));
    let append = world.requests.iter().position(is_append).unwrap();
    let append = world.requests.remove(append);
    let rest = std::mem::replace(&mut world.requests, vec![append]);
    world.answer_disk();
    world.outputs.extend(world.engine.take_outputs());
    assert_eq!((world.told(first).len(), world.told(second).len()), (1, 0));
    world.requests = rest;
    world.waits = false;
    world.answer_disk();
    world.turn();
    let id = |ticket| world.told(ticket)[0].clone().unwrap().2;
    assert_eq!((world.told(first).len(), world.told(second).len()), (1, 1));
    assert_eq!((id(first).number, id(second).number), (1, 1));
    assert_ne!(id(first).epoch, id(second).epoch);
    assert_eq!(before, 0);
    assert!(world.engine.take_answered() > 0);
}
