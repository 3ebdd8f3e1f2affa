//! Messages that end without being relayed.

use std::time::Duration;

use super::world::{Pending, World, arrived, connected, loose, name, setup};
use crate::model::{GapReason, Seq};
use crate::queue::effects::Effects;
use crate::queue::lanes::{Refused, ToSender};
use crate::queue::operator::LimitValues;
use crate::queue::{OnExpiry, Overflow, TopicSettings};

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
fn refusals_that_do_not_fit_into_one_frame_count_all_the_same() {
    // M-E5: all parts but the last speak for no batch.
    let mut world = connected();
    for _ in 0..2 {
        world.put("t0", Some("a"));
    }
    world.poll();
    let refusals = [1, 2].map(|seq| Refused {
        seq,
        reason: "too_large".to_owned(),
        detail: String::new(),
    });
    for (batch, refused) in refusals.into_iter().enumerate() {
        let (lane, batch) = (world.wires[0].id, u64::try_from(batch).unwrap());
        let refused = vec![refused];
        world.frame(lane, ToSender::Ack { batch, refused });
    }
    world.poll();
    world.commit(usize::MAX);
    let dead = |record: &Pending| matches!(record, Pending::Dead(1 | 2, _));
    assert_eq!(world.log.iter().filter(|record| dead(record)).count(), 2);
    assert!(!world.relayed.contains(&1) && !world.relayed.contains(&2));
}

#[test]
fn a_message_that_is_too_old_when_it_comes_ends_as_its_topic_says() {
    // M-E2, M-G8: live and from the backlog; the peer's clock decides.
    for (on_expiry, live) in [
        (OnExpiry::Drop, true),
        (OnExpiry::Drop, false),
        (OnExpiry::DeadLetter, true),
        (OnExpiry::DeadLetter, false),
    ] {
        let settings = TopicSettings {
            on_expiry,
            ..TopicSettings::default()
        };
        let mut world = World::new(setup([("t0".to_owned(), settings)].into()));
        if live {
            world.connect();
        }
        world.put("t0", Some("a"));
        if !live {
            world.connect_without_exchange();
            world.poll();
            world.read(1, false);
        }
        world.poll();
        let (wire, refused) = (
            usize::from(!live),
            Refused {
                seq: 1,
                reason: "expired".to_owned(),
                detail: String::new(),
            },
        );
        let (lane, batch, refused) = (world.wires[wire].id, 1, vec![refused]);
        world.frame(lane, ToSender::Ack { batch, refused });
        world.poll();
        world.commit(usize::MAX);
        let row = world.row("t0");
        let expected = if on_expiry == OnExpiry::Drop { (1, 0) } else { (0, 1) };
        assert_eq!((row.expired, row.dead_lettered), expected, "{on_expiry:?}, live {live}");
    }
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
    // M-G8. Symptom: an audit soon after a restart found a difference. Cause: such numbers were counted as damaged only when the
    // backlog had been read up to them. Fix: from the restart on.
    assert_eq!((world.row("unknown").accepted, world.row("unknown").corrupted), (1, 1));
    world.connect();
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!(arrived(&world), [1, 3]);
    assert_eq!((world.row("unknown").accepted, world.row("unknown").corrupted), (1, 1));
    assert_eq!((world.row("t0").accepted, world.row("t0").relayed), (2, 2));
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
    let limits = LimitValues {
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
    let newest = arrived(&world).into_iter().filter(|seq| seq % 2 == 1);
    assert_eq!(newest.collect::<Vec<_>>(), [15, 17, 19]);
    world.check_books();
    world.check_empty();
}

#[test]
fn nothing_of_its_key_passes_a_message_whose_purge_is_not_on_disk() {
    // M-C1: a crash now would bring the first one back.
    for live in [false, true] {
        let mut world = World::new(setup(loose()));
        if live {
            world.connect();
        }
        world.put("t0", Some("a"));
        world.put("t0", Some("a"));
        if !live {
            world.connect_without_exchange();
            world.poll();
            world.read(1, false);
        }
        purge(&mut world, &[1]);
        world.poll();
        assert!(world.wires.iter().all(|wire| wire.out.is_empty()), "live: {live}");
        world.exchange();
        assert_eq!(arrived(&world), [2]);
    }
}

#[test]
fn what_is_purged_on_its_way_is_counted_once() {
    // M-G8: the purge came first.
    for live in [false, true] {
        let mut world = World::new(setup(loose()));
        if live {
            world.connect();
        }
        for _ in 0..3 {
            world.put("t0", Some("a"));
        }
        if !live {
            world.connect_without_exchange();
            world.poll();
            world.read(1, false);
        }
        world.poll();
        purge(&mut world, &[2]);
        for index in 0..2 {
            world.receive(index, 1);
            world.answer(index, 1);
        }
        world.exchange();
        world.pass(Duration::from_secs(1));
        world.exchange();
        assert_eq!(
            (world.row("t0").relayed, world.row("t0").purged),
            (2, 1),
            "live: {live}"
        );
        world.check_empty();
        assert_eq!(world.recovered(2).books(), world.outbox.books());
    }
}

#[test]
fn messages_that_expire_while_they_wait_for_the_limit_use_no_rate() {
    // M-D6: they are read ahead of time.
    let mut world = World::new(setup(loose()));
    limit(&mut world, None, 1.0);
    world.put("t0", Some("a"));
    for _ in 0..50 {
        let message = world.message("t0", Some("a"), 100, Some(500));
        world.publish(message);
    }
    world.commit(usize::MAX);
    world.put("t0", Some("a"));
    world.connect();
    assert_eq!(arrived(&world), [1]);
    world.pass(Duration::from_millis(600));
    world.exchange();
    world.pass(Duration::from_millis(500));
    world.exchange();
    assert_eq!(arrived(&world), [1, 52]);
}
