//! Single cases.

use std::time::Duration;

use super::super::backlog::AHEAD_BYTES;
use super::world::{Pending, World, loose, name, setup};
use crate::model::{ByteSize, GapReason, Seq};
use crate::queue::effects::{Effects, Told};
use crate::queue::lanes::{LaneKind, ToReceiver, ToSender};
use crate::queue::record::Pause;
use crate::queue::{OnExpiry, Overflow, ReplayOrder, TopicSettings};

fn state(world: &World) -> String {
    world.outbox.status(world.now).state
}

fn arrived(world: &World) -> Vec<Seq> {
    world.receiver.arrivals.iter().map(|(seq, _)| *seq).collect()
}

/// A pair that is up.
fn connected() -> World {
    let mut world = World::new(setup(loose()));
    world.connect();
    world
}

#[test]
fn the_state_of_the_link_is_the_truth() {
    // M-G1.
    let mut world = World::new(setup(loose()));
    assert_eq!(state(&world), "connecting");
    world.lane_up(LaneKind::Live);
    let backlog = world.lane_up(LaneKind::Backlog);
    assert_eq!(state(&world), "connecting");
    world.put("t0", Some("a"));
    world.exchange();
    assert_eq!(state(&world), "live");
    world.all_down();
    assert_eq!(state(&world), "down");
    world.put("t0", Some("a"));
    world.lane_up(LaneKind::Live);
    world.lane_up(LaneKind::Backlog);
    for index in [0, 1] {
        assert_eq!(state(&world), "connecting", "what waits has no lane yet");
        world.receive(index, 1);
        world.answer(index, 1);
    }
    assert_eq!(state(&world), "draining");
    world.exchange();
    assert_eq!(state(&world), "live");
    world.outbox.pause(Some(Pause::for_time("works", None, world.now.wall)));
    assert_eq!(state(&world), "paused");
    world.outbox.pause(None);
    world.all_down();
    world.receiver.deny = true;
    world.connect();
    assert_eq!(state(&world), "denied");
    assert_ne!(backlog.0, 0);
    world.receiver.deny = false;
    world.wires.clear();
    world.connect();
    assert_eq!(state(&world), "live");
}

#[test]
fn a_link_where_nothing_moves_is_stalled_after_10_s_and_made_anew_after_15() {
    // M-G1: a black-holed path is seen within 15 s; never `live` while nothing moves.
    let mut world = connected();
    world.pass(Duration::from_secs(60));
    world.poll();
    assert_eq!(state(&world), "live", "without work, nothing has to move");
    world.put("t0", Some("a"));
    world.poll();
    let began = world.now.mono;
    loop {
        let next = world.poll().unwrap();
        let age = world.now.mono - began;
        if !world.wires[0].up {
            assert_eq!(age, Duration::from_secs(15));
            assert_eq!(state(&world), "connecting");
            break;
        }
        assert_eq!(
            state(&world) == "stalled",
            age >= Duration::from_secs(10),
            "after {age:?}"
        );
        world.now.mono = next.min(world.now.mono + Duration::from_millis(500));
    }
    assert!(world.wires[1].up, "the other lane owes nothing");
    world.wires[0].out.clear();
    world.lane_up(LaneKind::Live);
    world.exchange();
    assert_eq!(arrived(&world), [1]);
}

#[test]
fn a_relay_that_is_busy_is_stalled_but_its_lane_stays() {
    let mut world = connected();
    let id = world.wires[0].id;
    world.put("t0", None);
    world.poll();
    world.frame(
        id,
        ToSender::Busy {
            pushback: Some(Duration::from_secs(1)),
        },
    );
    world.pass(Duration::from_secs(20));
    world.poll();
    assert_eq!(state(&world), "stalled");
    assert!(world.wires[0].up);
    world.frame(id, ToSender::Busy { pushback: None });
    world.exchange();
    assert_eq!(state(&world), "live");
}

#[test]
fn what_the_peer_has_is_not_sent_again() {
    // M-B2.
    let mut world = connected();
    for _ in 0..4 {
        world.put("t0", Some("a"));
    }
    world.poll();
    world.receive(0, 1);
    world.wires[0].back.clear();
    world.all_down();
    world.put("t1", Some("b"));
    world.connect();
    world.exchange();
    assert_eq!(arrived(&world), [1, 2, 3, 4, 5]);
    assert_eq!(world.receiver.duplicates, 0);
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!((world.row("t0").relayed, world.row("t1").relayed), (4, 1));
    world.check_empty();
}

#[test]
fn a_peer_that_knows_more_means_another_epoch() {
    // M-A1: the log was restored.
    let mut world = World::new(setup(loose()));
    world.receiver.seen.insert_range(1, 10);
    world.put("t0", Some("a"));
    world.connect();
    assert!(world.outbox.wants_new_epoch());
    assert!(world.wires.iter().all(|wire| !wire.up && wire.out.is_empty()));
    world.outbox.set_epoch(8);
    // Another stream, as far as the peer is concerned.
    world.receiver.seen = Default::default();
    world.wires.clear();
    world.lane_up(LaneKind::Backlog);
    assert!(matches!(
        world.wires[0].out[0],
        ToReceiver::Open { epoch: 8, base: 1, .. }
    ));
    world.exchange();
    assert!(!world.outbox.wants_new_epoch());
    assert_eq!(arrived(&world), [1]);
}

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
fn a_message_that_is_refused_becomes_a_dead_letter_and_the_stream_goes_on() {
    // M-E5.
    let mut world = connected();
    world.receiver.refuses = [2, 5].into();
    for _ in 0..3 {
        world.put("t0", Some("a"));
    }
    world.exchange();
    world.all_down();
    for _ in 0..3 {
        world.put("t0", Some("a"));
    }
    world.connect();
    world.exchange();
    assert_eq!(arrived(&world), [1, 3, 4, 6]);
    let dead: Vec<(Seq, String)> = world
        .log
        .iter()
        .filter_map(|record| match record {
            Pending::Dead(seq, wish) => Some((*seq, wish.reason.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(dead, [(2, "not_allowed".to_owned()), (5, "not_allowed".to_owned())]);
    assert_eq!(world.receiver.skipped.len(), 2, "the peer is told (M-G2)");
    world.pass(Duration::from_secs(1));
    world.exchange();
    world.check_books();
    world.check_empty();
}

#[test]
fn gaps_are_told_after_a_restart_too() {
    // M-G2.
    let mut world = World::new(setup(loose()));
    for _ in 0..5 {
        world.put("t0", Some("a"));
    }
    purge(&mut world, &[2, 3]);
    world.commit(usize::MAX);
    assert!(
        world.outbox.is_done(2) && world.outbox.is_done(3),
        "its place on disk is free before the peer knows"
    );
    world.checkpoint();
    world.crash();
    world.connect();
    assert_eq!(arrived(&world), [1, 4, 5]);
    assert_eq!(
        world.receiver.skipped.into_iter().collect::<Vec<_>>(),
        [(2, GapReason::Purged), (3, GapReason::Purged)]
    );
}

fn purge(world: &mut World, seqs: &[Seq]) {
    let some: Vec<_> = seqs
        .iter()
        .map(|seq| (*seq, world.accepted[seq].topic.clone()))
        .collect();
    let mut fx = Effects::default();
    world.outbox.gone(world.now, &some, GapReason::Purged, &mut fx);
    world.take(fx);
}

#[test]
fn damaged_records_are_told_and_counted_and_all_others_arrive() {
    // M-A4, M-G2, M-G8.
    let mut world = World::new(setup(loose()));
    for topic in ["t0", "t1", "loose"] {
        for _ in 0..3 {
            world.put(topic, Some("a"));
        }
    }
    world.disk.remove(&2);
    world.disk.remove(&9);
    world.connect();
    assert_eq!(arrived(&world), [1, 3, 4, 5, 6, 7, 8]);
    world.pass(Duration::from_secs(1));
    world.exchange();
    for (topic, corrupted) in [("t0", 1), ("t1", 0), ("loose", 1), ("unknown", 0)] {
        let row = world.row(topic);
        assert_eq!(row.corrupted, corrupted, "{row:?}");
        assert_eq!(row.accepted, row.relayed + row.corrupted);
    }
    assert_eq!(world.receiver.skipped.len(), 2);
    world.check_empty();
}

#[test]
fn a_restart_counts_numbers_whose_records_are_lost() {
    // M-A4: the record of 2 cannot be read any more.
    let mut world = World::new(setup(loose()));
    for _ in 0..3 {
        world.put("t0", Some("a"));
    }
    world.log.remove(1);
    world.disk.remove(&2);
    world.crash();
    world.connect();
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!(arrived(&world), [1, 3]);
    assert_eq!((world.row("unknown").accepted, world.row("unknown").corrupted), (1, 1));
    assert_eq!((world.row("t0").accepted, world.row("t0").relayed), (2, 2));
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
fn expired_messages_use_no_rate() {
    // M-D6, M-E2.
    let mut world = World::new(setup(loose()));
    for _ in 0..500 {
        let message = world.message("t0", Some("a"), 100, Some(1000));
        world.publish(message);
    }
    world.commit(usize::MAX);
    world.put("t0", Some("a"));
    limit(&mut world, None, 1.0);
    world.pass(Duration::from_secs(2));
    world.connect();
    assert_eq!(arrived(&world), [501]);
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!((world.row("t0").expired, world.row("t0").relayed), (500, 1));
    world.check_empty();
}

fn limit(world: &mut World, topic: Option<&str>, rate: f64) {
    let limits = crate::queue::operator::LimitValues {
        messages_per_second: rate,
        ..Default::default()
    };
    world.outbox.limit(topic.map(name).as_ref(), Some(limits));
}

#[test]
fn messages_expire_while_the_unit_is_away() {
    // M-E2: as dead letters, if the topic wants that.
    let mut topics = loose();
    topics.insert(
        "kept".to_owned(),
        TopicSettings {
            on_expiry: OnExpiry::DeadLetter,
            ..TopicSettings::default()
        },
    );
    let mut world = World::new(setup(topics));
    for topic in ["t0", "kept"] {
        let message = world.message(topic, Some("a"), 100, Some(5000));
        world.publish(message);
        world.commit(usize::MAX);
        world.put(topic, Some("a"));
    }
    let wake = world.poll().unwrap();
    assert_eq!(wake, world.now.mono + Duration::from_secs(5), "it wakes by itself");
    world.pass(Duration::from_secs(5));
    world.exchange();
    assert_eq!((world.row("t0").expired, world.row("kept").dead_lettered), (1, 1));
    assert_eq!(world.undone(), 2);
}

#[test]
fn a_full_topic_refuses_new_messages_with_a_time_to_wait() {
    // M-E3.
    let mut topics = loose();
    topics.insert(
        "t0".to_owned(),
        TopicSettings {
            messages_max: 2,
            ..TopicSettings::default()
        },
    );
    let mut world = World::new(setup(topics));
    world.put("t0", Some("a"));
    let message = world.message("t0", Some("a"), 100, None);
    assert!(world.publish(message.clone()).is_some());
    let settings = world.setup.topics["t0"].clone();
    let full = world.outbox.admit(&message.topic, &settings, 1).unwrap_err();
    assert!(
        full.detail.contains("messages_max (2)") && !full.pushback.is_zero(),
        "{full:?}"
    );
    world.fail_disk();
    assert!(
        world.publish(message).is_some(),
        "what never came to be on disk counts no more"
    );
    world.commit(usize::MAX);
    world.connect();
    assert!(world.outbox.admit(&name("t0"), &settings, 1).is_ok());
}

#[test]
fn a_topic_that_drops_its_oldest_keeps_the_newest_and_says_so() {
    // M-E3, M-G2, M-G8.
    let mut topics = loose();
    topics.insert(
        "t0".to_owned(),
        TopicSettings {
            messages_max: 3,
            overflow: Overflow::DropOldest,
            ..TopicSettings::default()
        },
    );
    let mut world = World::new(setup(topics));
    for _ in 0..10 {
        world.put("t0", Some("a"));
        world.put("t1", Some("a"));
        world.exchange();
    }
    assert_eq!((world.row("t0").dropped, world.row("t1").dropped), (7, 0));
    assert_eq!(world.undone(), 13);
    world.connect();
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!(
        world
            .receiver
            .skipped
            .values()
            .filter(|reason| **reason == GapReason::Dropped)
            .count(),
        7
    );
    assert_eq!(world.row("t0").relayed, 3);
    world.check_books();
    world.check_empty();
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
fn a_pause_ends_by_itself_and_publishing_goes_on_meanwhile() {
    // M-H3.
    let mut world = connected();
    world.outbox.pause(Some(Pause::for_time(
        "works",
        Some(Duration::from_secs(60)),
        world.now.wall,
    )));
    world.put("t0", Some("a"));
    world.exchange();
    assert_eq!(arrived(&world), [0; 0]);
    let status = world.outbox.status(world.now);
    assert_eq!((status.state.as_str(), status.detail.as_str()), ("paused", "works"));
    let wake = world.poll().unwrap();
    assert_eq!(wake, world.now.mono + Duration::from_secs(60));
    world.pass(Duration::from_secs(60));
    world.exchange();
    assert_eq!(
        world.receiver.arrivals,
        [(1, LaneKind::Backlog)],
        "accepted while paused: backlog (M-D1)"
    );
}

#[test]
fn a_paused_topic_holds_up_no_other() {
    // M-H3.
    let mut world = World::new(setup(loose()));
    world.put("t0", Some("a"));
    world.put("t1", Some("a"));
    world.outbox.pause_topic(&name("t0"), true);
    world.put("t0", Some("a"));
    world.connect();
    world.put("t0", Some("b"));
    world.put("t1", Some("a"));
    world.exchange();
    assert_eq!(arrived(&world), [2, 5]);
    world.outbox.pause_topic(&name("t0"), false);
    world.exchange();
    assert_eq!(arrived(&world), [2, 5, 1, 3, 4]);
    world.put("t0", Some("a"));
    assert_eq!(world.outbox.status(world.now).live, 1);
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
fn publishers_that_wait_for_delivery_are_told() {
    let mut world = World::new(setup(loose()));
    let message = world.message("t0", Some("a"), 1, None);
    let mut fx = Effects::default();
    world.outbox.assign();
    world.accepted.insert(1, message.clone());
    world.disk.insert(1, message.clone());
    world.outbox.on_stored(world.now, 1, &message, true, &mut fx);
    let lane = world.lane_up(LaneKind::Backlog);
    world.receive(0, 1);
    world.answer(0, 1);
    world.poll();
    world.read(1, false);
    world.poll();
    let Some(ToReceiver::Messages { messages, .. }) = world.wires[0].out.front() else {
        panic!()
    };
    assert!(messages[0].tell_delivered);
    let delivered = ToSender::Delivered { seqs: vec![1] };
    world.outbox.on_frame(world.now, lane, delivered, &mut fx);
    assert_eq!(
        fx.told,
        [Told::Delivered {
            unit: name("there"),
            seqs: vec![1]
        }]
    );
}
