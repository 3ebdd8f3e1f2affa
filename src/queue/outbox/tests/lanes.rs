//! What is live, what is backlog, and in which order it goes.

use std::time::Duration;

use super::super::backlog::AHEAD_BYTES;
use super::receiver::Receiver;
use super::world::{Pending, World, arrived, connected, loose, name, setup};
use crate::model::{ByteSize, Seq};
use crate::queue::lanes::{LaneKind, ToSender};
use crate::queue::{ReplayOrder, TopicSettings};

#[test]
fn a_key_in_the_backlog_puts_its_new_messages_behind_and_the_others_go_live() {
    // M-C2.
    let mut world = World::new(setup(loose()));
    world.put("t0", Some("a"));
    world.connect_without_exchange();
    let (behind, live, other) = (
        world.put("t0", Some("a")),
        world.put("t0", Some("b")),
        world.put("t1", Some("a")),
    );
    let lane = |world: &World, seq| {
        world
            .receiver
            .arrivals
            .iter()
            .find(|(other, _)| *other == seq)
            .unwrap()
            .1
    };
    for _ in 0..2 {
        world.poll();
        world.read(1, false);
    }
    world.poll();
    world.put("t0", Some("a"));
    assert_eq!(
        world.outbox.status(world.now).live,
        2,
        "what is under way is still ahead of it"
    );
    world.exchange();
    assert_eq!(lane(&world, behind), LaneKind::Backlog);
    assert_eq!(
        (lane(&world, live), lane(&world, other)),
        (LaneKind::Live, LaneKind::Live)
    );
    let next = world.put("t0", Some("a"));
    world.exchange();
    assert_eq!(
        lane(&world, next),
        LaneKind::Live,
        "its last message of the backlog was acknowledged"
    );
    world.check_order();
}

#[test]
fn after_a_restart_keys_wait_until_the_backlog_was_read_through() {
    // M-C1, M-C2.
    let mut world = World::new(setup(loose()));
    for key in ["a", "b", "c"] {
        world.put("t0", Some(key));
    }
    world.checkpoint();
    world.crash();
    assert!(world.outbox.status(world.now).keys_coarse);
    world.connect_without_exchange();
    let other = world.put("t0", Some("d"));
    let none = world.put("t0", None);
    assert_eq!(
        world.outbox.status(world.now).live,
        1,
        "only the one without a key is live"
    );
    world.poll();
    world.read(1, false);
    world.poll();
    let status = world.outbox.status(world.now);
    assert_eq!(
        (status.keys_coarse, status.keys_behind),
        (false, 4),
        "read through, nothing acknowledged yet"
    );
    let fresh = world.put("t0", Some("e"));
    assert_eq!(world.outbox.status(world.now).live, 2);
    world.exchange();
    world.check_order();
    assert_eq!(arrived(&world).len(), 6, "{other} {none} {fresh}");
}

#[test]
fn with_too_many_keys_all_wait() {
    let mut settings = setup(loose());
    settings.queue.backlog_keys_max = 2;
    let mut world = World::new(settings);
    for key in ["a", "b", "c"] {
        world.put("t0", Some(key));
    }
    assert!(world.outbox.status(world.now).keys_coarse);
    world.connect_without_exchange();
    world.put("t0", Some("z"));
    assert_eq!(world.outbox.status(world.now).live, 0);
    world.exchange();
    world.put("t0", Some("z"));
    assert_eq!(world.outbox.status(world.now).live, 1, "the backlog is empty again");
}

#[test]
fn a_live_message_that_waits_too_long_takes_its_key_to_the_backlog() {
    // M-D1.
    let mut world = connected();
    world.put("t0", Some("a"));
    world.all_down();
    world.pass(Duration::from_secs(29));
    world.poll();
    assert_eq!(
        world.outbox.status(world.now).live,
        1,
        "a short loss of the link costs no reading"
    );
    world.pass(Duration::from_secs(1));
    world.poll();
    let status = world.outbox.status(world.now);
    assert_eq!((status.live, status.backlog, status.keys_behind), (0, 1, 1));
    world.connect();
    world.check_order();
    assert_eq!(world.receiver.arrivals, [(1, LaneKind::Backlog)]);
}

#[test]
fn the_newest_go_first_where_order_does_not_matter() {
    // M-D6.
    let mut topics = loose();
    topics.insert(
        "t0".to_owned(),
        TopicSettings {
            ordered: false,
            replay_order: ReplayOrder::NewestFirst,
            ..TopicSettings::default()
        },
    );
    let mut world = World::new(setup(topics));
    for _ in 0..1200 {
        let message = world.message("t0", Some("a"), 10, None);
        world.publish(message);
    }
    world.commit(usize::MAX);
    world.lane_up(LaneKind::Backlog);
    world.exchange();
    let falling: Vec<Seq> = (1..=1200).rev().collect();
    assert_eq!(arrived(&world), falling);
}

#[test]
fn memory_does_not_grow_with_the_backlog() {
    // M-G7: what is held ahead, and on its way, is bounded.
    let mut world = World::new(setup(loose()));
    for _ in 0..20_000 {
        let message = world.message("t0", None, 1000, None);
        world.publish(message);
    }
    world.commit(usize::MAX);
    world.connect_without_exchange();
    for _ in 0..50 {
        world.poll();
        world.read(usize::MAX, false);
    }
    let held: usize = world.outbox.cursors[&0]
        .buffer()
        .iter()
        .map(|waiting| waiting.bytes)
        .sum();
    assert!(held <= AHEAD_BYTES + 2000, "{held}");
    let lane = world.setup.queue.lane_bytes_max.as_usize() + world.setup.queue.batch_bytes.as_usize();
    let on_their_way: usize = world.outbox.lanes().map(super::super::Lane::bytes).sum();
    assert!(on_their_way > lane / 2 && on_their_way <= lane, "{on_their_way}");
    assert_eq!(world.outbox.status(world.now).backlog, 20_000);
}

#[test]
fn live_messages_beyond_the_window_are_read_back() {
    // M-G7.
    let mut settings = setup(loose());
    settings.queue.live_bytes_max = ByteSize::kib(10);
    let mut world = World::new(settings);
    world.connect();
    for _ in 0..100 {
        world.put("t0", Some("a"));
    }
    assert!(world.outbox.live.bytes() <= 10 << 10);
    world.exchange();
    world.check_order();
    assert_eq!(arrived(&world).len(), 100);
}

#[test]
fn a_read_that_fails_is_made_again() {
    let mut world = World::new(setup(loose()));
    world.put("t0", Some("a"));
    world.connect_without_exchange();
    world.poll();
    world.read(1, true);
    world.exchange();
    assert_eq!(arrived(&world), [0; 0]);
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!(arrived(&world), [1]);
}

#[test]
fn a_message_that_leaves_the_window_takes_the_later_ones_of_its_key_along() {
    // M-C1, M-D1: the first fills the lane of a busy peer, the second grows old, the third does not.
    let mut settings = setup(loose());
    settings.queue.lane_bytes_max = ByteSize::bytes(1);
    let mut world = World::new(settings);
    world.connect();
    let id = world.wires[0].id;
    let pushback = Some(Duration::from_secs(60));
    world.put("t0", Some("a"));
    world.poll();
    world.frame(id, ToSender::Busy { pushback });
    world.put("t0", Some("a"));
    world.pass(Duration::from_secs(20));
    world.put("t0", Some("a"));
    world.put("t0", Some("b"));
    world.pass(Duration::from_secs(10));
    world.poll();
    let status = world.outbox.status(world.now);
    assert_eq!((status.live, status.backlog), (2, 2));
    world.receive(0, 1);
    world.answer(0, 1);
    world.poll();
    world.receive(0, 1);
    world.exchange();
    assert_eq!(arrived(&world), [1, 4, 2, 3]);
    world.check_order();
}

#[test]
fn a_topic_that_is_full_there_holds_up_no_other_and_keeps_its_order() {
    // M-C3, M-C1: on the live lane, and on that of the backlog.
    for live in [true, false] {
        let mut world = World::new(setup(loose()));
        world.receiver.full.insert(name("t0"));
        if live {
            world.connect();
        }
        for (topic, key) in [("t0", "a"), ("t1", "a"), ("t0", "b"), ("t1", "b"), ("t0", "a")] {
            world.put(topic, Some(key));
        }
        if !live {
            world.connect();
        }
        world.exchange();
        world.put("t0", Some("a"));
        world.put("t1", Some("a"));
        let mut reads = 0;
        for round in 0..20 {
            world.exchange();
            world.pass(Duration::from_millis(400));
            if round == 4 {
                reads = world.reads_made;
            }
        }
        assert_eq!(
            world.reads_made, reads,
            "what was not taken is not read again and again"
        );
        assert_eq!(arrived(&world), [2, 4, 7], "live {live}");
        let status = world.outbox.status(world.now);
        assert_eq!(
            (status.state.as_str(), status.detail.as_str()),
            ("draining", "full there: t0")
        );
        world.receiver.full.clear();
        for _ in 0..3 {
            world.exchange();
            world.pass(Duration::from_millis(400));
        }
        assert_eq!(arrived(&world), [2, 4, 7, 1, 3, 5, 6]);
        assert!(!world.log.iter().any(|record| matches!(record, Pending::Dead(..))));
        world.put("t0", Some("a"));
        assert_eq!(world.outbox.status(world.now).live, 1, "it is as before");
        world.exchange();
        world.pass(Duration::from_secs(1));
        world.exchange();
        world.check_books();
        world.check_empty();
    }
}

#[test]
fn what_was_live_when_its_topic_was_full_is_not_sent_before_the_rest_of_its_key() {
    // M-C1: the lane ends while the second one is under way.
    let mut world = connected();
    world.receiver.full.insert(name("t0"));
    world.put("t0", Some("a"));
    world.poll();
    world.put("t0", Some("a"));
    world.poll();
    world.receive(0, 1);
    world.answer(0, 1);
    world.all_down();
    world.receiver = Receiver::default();
    world.connect_without_exchange();
    world.exchange();
    assert_eq!(arrived(&world), [0; 0], "the topic still rests");
    world.pass(Duration::from_millis(500));
    world.exchange();
    assert_eq!(arrived(&world), [1, 2]);
}
