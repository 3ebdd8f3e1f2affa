//! What ends a message without a consumer, and who hears of it.

use super::*;

#[test]
fn expired_messages_are_dropped_and_counted_or_become_dead_letters() {
    // M-E2, parked ones and those that nobody reads included.
    for on_expiry in [OnExpiry::Drop, OnExpiry::DeadLetter] {
        let mut world = World::new(TopicSettings {
            on_expiry,
            ..TopicSettings::default()
        });
        let deadline = world.now.wall.0 + 5000;
        world.subscribe(1, "g", 1);
        for key in [1, 2, 3] {
            world.write(message(Some(key), Some(deadline), 10), None);
        }
        world.commit(usize::MAX);
        let first = world.handed_out().remove(0);
        world.settle(&first, nack_for(60));
        let second = world.handed_out().remove(0);
        world.pass_ms(5000);
        world.settle(&second, Settlement::Ack);
        assert!(world.seqs().is_empty());
        world.unsubscribe(1);
        world.write(message(None, Some(deadline + 1000), 10), None);
        world.commit(usize::MAX);
        world.settle_down();
        assert_eq!(world.row("g").relayed, 1);
        world.pass_ms(1000);
        world.settle_down();
        let row = world.row("g");
        let dead = on_expiry == OnExpiry::DeadLetter;
        assert_eq!((row.expired, row.dead_lettered), if dead { (0, 3) } else { (3, 0) });
        assert!(world.dead().iter().all(|wish| wish.reason == "expired"));
    }
}

#[test]
fn a_full_topic_refuses_new_messages() {
    // M-E3.
    let settings = TopicSettings {
        messages_max: 2,
        ..TopicSettings::default()
    };
    let mut world = World::new(settings.clone());
    world.subscribe(1, "g", 10);
    assert!(world.inbox.admit(&topic(), &settings, 10).is_ok());
    world.store(None);
    world.write(message(None, None, 1), None);
    assert!(
        world.inbox.admit(&topic(), &settings, 10).is_err(),
        "one more is on its way"
    );
    world.commit(1);
    assert!(world.inbox.admit(&topic(), &settings, 10).is_err());
    let first = world.handed_out().remove(0);
    world.settle(&first, Settlement::Ack);
    assert!(world.inbox.admit(&topic(), &settings, 10).is_ok());
    let bytes = TopicSettings {
        bytes_max: crate::model::ByteSize::bytes(400),
        ..TopicSettings::default()
    };
    assert!(world.inbox.admit(&topic(), &bytes, 100).is_ok());
    assert!(world.inbox.admit(&topic(), &bytes, 300).is_err());
}

#[test]
fn a_full_topic_drops_the_oldest_that_nobody_has() {
    // M-E3: with a record, counted.
    let mut world = World::new(TopicSettings {
        messages_max: 3,
        overflow: Overflow::DropOldest,
        ..TopicSettings::default()
    });
    world.subscribe(1, "g", 1);
    for _ in 0..5 {
        world.store(None);
        world.poll();
    }
    world.settle_down();
    let row = world.row("g");
    assert_eq!((row.accepted, row.dropped), (5, 2));
    let mut held = world.deliveries.pop_front().unwrap();
    assert_eq!(held.delivery.seq, 1, "a consumer has it");
    for seq in [4, 5] {
        world.settle(&held, Settlement::Ack);
        held = world.handed_out().remove(0);
        assert_eq!(held.delivery.seq, seq);
    }
}

#[test]
fn paused_groups_and_topics_get_nothing_until_their_time_is_over() {
    // M-H3.
    let group = Pausable::Group {
        topic: topic(),
        group: name("g"),
    };
    for what in [group, Pausable::Topic { topic: topic() }] {
        let mut world = World::new(TopicSettings::default());
        world.subscribe(1, "g", 10);
        let pause = Pause::for_time("why", Some(Duration::from_secs(5)), world.now.wall);
        world.inbox.pause(&what, Some(pause.clone()));
        world.store(None);
        assert!(world.seqs().is_empty());
        assert_eq!(world.inbox.status(world.now)[0].pause, Some(pause.clone()));
        assert_eq!(world.wake, Some(world.now.mono + Duration::from_secs(5)));
        world.take_snapshot();
        world.restart(0);
        world.subscribe(1, "g", 10);
        assert!(world.seqs().is_empty(), "the pause survives");
        world.pass_ms(5000);
        let first = world.handed_out().remove(0);
        world.inbox.pause(&what, Some(Pause { until: None, ..pause }));
        world.settle(&first, Settlement::Ack);
        world.store(None);
        world.pass_ms(1_000_000);
        assert!(world.seqs().is_empty());
        world.inbox.pause(&what, None);
        assert_eq!(world.seqs(), [2]);
    }
}

#[test]
fn a_message_for_one_group_is_done_for_the_others() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.subscribe(2, "h", 10);
    world.settle_down();
    world.write(message(None, None, 1), Some(&name("h")));
    world.commit(usize::MAX);
    world.store(None);
    let handed_out = world.handed_out();
    let mut pairs: Vec<_> = handed_out
        .iter()
        .map(|deliver| (deliver.consumer.0, deliver.delivery.seq))
        .collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [(1, 2), (2, 1), (2, 2)]);
    assert_eq!((world.row("g").accepted, world.row("h").accepted), (1, 2));
}

#[test]
fn publishers_hear_when_the_last_group_acknowledged() {
    // M-A2.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.subscribe(2, "h", 10);
    world.store(None);
    let both = world.handed_out();
    world.settle(&both[0], Settlement::Ack);
    assert!(world.told.is_empty());
    world.settle(&both[1], Settlement::Ack);
    assert_eq!(world.told, [Told::Done { topic: topic(), seq: 1 }]);
}

/// One of two groups has given a message up, which is not on disk yet; the other one has it.
fn given_up_by_one() -> (World, Deliver) {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.subscribe(2, "h", 10);
    world.store(None);
    let mut both = world.handed_out();
    let reason = "no".to_owned();
    let other = both.remove(1);
    world.settle(&both[0], Settlement::Terminate { reason });
    world.poll();
    world.answer(0, false);
    world.poll();
    (world, other)
}

#[test]
fn publishers_hear_of_each_group_that_gives_their_message_up() {
    // M-A2.
    let (mut world, _) = given_up_by_one();
    world.commit(usize::MAX);
    world.poll();
    let why = Why::of_dead("terminated", "no");
    let (topic, seq) = (topic(), 1);
    assert_eq!(world.told, [Told::GivenUp { topic, seq, why }]);
}

#[test]
fn publishers_do_not_hear_of_a_delivery_after_a_group_has_given_their_message_up() {
    // M-A2: the other group acknowledges before anybody was told.
    let (mut world, other) = given_up_by_one();
    world.commit(usize::MAX);
    world.settle(&other, Settlement::Ack);
    world.poll();
    let why = Why::of_dead("terminated", "no");
    let (topic, seq) = (topic(), 1);
    assert_eq!(world.told, [Told::GivenUp { topic, seq, why }]);
}

#[test]
fn a_slow_consumer_has_so_many_bytes_in_flight_and_no_more() {
    // M-B4, M-G7: whatever number of messages it asks for.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 100);
    for _ in 0..6 {
        world.write(message(None, None, FLIGHT_BYTES_MAX / 3), None);
        world.commit(usize::MAX);
    }
    let first = world.handed_out();
    let seqs: Vec<_> = first.iter().map(|deliver| deliver.delivery.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    world.settle(&first[0], Settlement::Ack);
    world.settle(&first[1], nack());
    assert_eq!(world.seqs(), [4, 5]);
    world.write(message(None, None, 2 * FLIGHT_BYTES_MAX), None);
    world.subscribe(2, "h", 100);
    world.commit(usize::MAX);
    world.unsubscribe(1);
    world.subscribe(3, "g", 100);
    assert!(world.seqs().len() >= 3, "what is larger than all of it passes too");
}

#[test]
fn purged_messages_are_gone_wherever_they_were() {
    // M-H2.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 2);
    for key in [1, 1, 2, 3, 1] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    world.settle(&first[1], nack_for(60));
    // 1 and 4 are in flight, 2 and 5 behind 1, 3 is parked.
    world.settle_down();
    world.deliveries.clear();
    let mut fx = Effects::default();
    let now = world.now;
    let gone = world
        .inbox
        .gone(now, (&topic(), None), &[1, 2, 3], GapReason::Purged, &mut fx);
    world.absorb(fx);
    assert_eq!(gone, 3);
    world.settle(&first[0], Settlement::Ack);
    assert_eq!(world.seqs(), [5]);
    world.pass_ms(100_000);
    let row = world.row("g");
    assert_eq!((row.purged, row.relayed), (3, 0));
}
