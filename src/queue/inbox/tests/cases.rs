//! One case each.

use std::time::Duration;

use super::super::consumers::FLIGHT_BYTES_MAX;
use super::world::{World, message, name, setup, topic};
use crate::model::{GapReason, UnixMillis};
use crate::queue::api::Settlement;
use crate::queue::effects::{Effects, Told, Why};
use crate::queue::record::{Pausable, Pause};
use crate::queue::{Exhausted, OnExpiry, Overflow, RetrySettings, TopicSettings};

fn nack() -> Settlement {
    let reason = "no".to_owned();
    Settlement::Nack { delay: None, reason }
}

fn nack_for(seconds: u64) -> Settlement {
    Settlement::Nack {
        delay: Some(Duration::from_secs(seconds)),
        reason: "no".to_owned(),
    }
}

fn exhausting(attempts: u32, exhausted: Exhausted) -> TopicSettings {
    TopicSettings {
        retry: RetrySettings {
            attempts,
            ..RetrySettings::default()
        },
        exhausted,
        ..TopicSettings::default()
    }
}

#[test]
fn a_message_goes_to_one_member_of_each_group() {
    // M-B4.
    let mut world = World::new(TopicSettings::default());
    for (id, group) in [(1, "g"), (2, "g"), (3, "h")] {
        world.subscribe(id, group, 10);
    }
    for _ in 0..6 {
        world.store(None);
    }
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for deliver in world.handed_out() {
        taken.push((deliver.consumer.0, deliver.delivery.seq));
    }
    taken.sort_unstable();
    let turns = [(1, 1), (1, 3), (1, 5), (2, 2), (2, 4), (2, 6)];
    let all = (1..=6).map(|seq| (3, seq));
    assert_eq!(taken, turns.into_iter().chain(all).collect::<Vec<_>>());
}

#[test]
fn a_topic_without_groups_keeps_its_messages_for_the_first_one() {
    let mut world = World::new(TopicSettings::default());
    for _ in 0..3 {
        world.store(None);
    }
    world.settle_down();
    assert!(!world.inbox.is_done(&topic(), 1));
    world.take_snapshot();
    world.restart(0);
    world.subscribe(1, "g", 10);
    assert_eq!(world.seqs(), [1, 2, 3]);
}

#[test]
fn a_further_group_gets_what_another_one_still_has() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    for _ in 0..5 {
        world.store(None);
    }
    for deliver in world.handed_out() {
        if deliver.delivery.seq != 2 && deliver.delivery.seq != 4 {
            world.settle(&deliver, Settlement::Ack);
        }
    }
    world.subscribe(2, "h", 10);
    world.store(None);
    assert_eq!(world.seqs(), [6, 2, 4, 6]);
    // The group and what it is to have survive a crash.
    world.restart(0);
    world.subscribe(3, "h", 10);
    assert_eq!(world.seqs(), [2, 4, 6]);
}

#[test]
fn declared_groups_are_there_from_the_start() {
    let settings = TopicSettings {
        groups: [(name("g"), crate::queue::GroupSettings::default())].into(),
        ..TopicSettings::default()
    };
    let mut world = World::new(settings);
    world.store(None);
    world.settle_down();
    world.restart(0);
    world.settle_down();
    assert!(world.inbox.has_group(&topic(), &name("g")));
    world.subscribe(1, "g", 1);
    assert_eq!(world.seqs(), [1]);
}

#[test]
fn nobody_joins_the_group_that_stands_for_none() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "-", 1);
    assert_eq!(world.subscribed, 0);
    world.subscribe(1, "g", 1);
    world.settle_down();
    assert_eq!(world.subscribed, 1);
}

#[test]
fn one_message_of_a_key_at_a_time() {
    // M-C1.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    for key in [1, 2, 1, 1, 2] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    assert_eq!(
        first.iter().map(|deliver| deliver.delivery.seq).collect::<Vec<_>>(),
        [1, 2]
    );
    world.settle(&first[0], Settlement::Ack);
    assert_eq!(world.seqs(), [3]);
}

#[test]
fn unordered_topics_and_messages_without_a_key_go_in_parallel() {
    let ordered = false;
    let mut world = World::new(TopicSettings {
        ordered,
        ..TopicSettings::default()
    });
    world.subscribe(1, "g", 10);
    for _ in 0..3 {
        world.store(Some(1));
    }
    assert_eq!(world.seqs(), [1, 2, 3]);
}

#[test]
fn parked_messages_take_no_room_of_consumers() {
    // M-B4.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 1);
    for key in [1, 1, 2, 3] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    world.settle(&first[0], nack_for(60));
    // Not 2: it is behind 1.
    let next = world.handed_out();
    assert_eq!(next[0].delivery.seq, 3);
    world.settle(&next[0], Settlement::Ack);
    assert_eq!(world.seqs(), [4]);
    let status = &world.inbox.status(world.now)[0];
    assert_eq!(
        (status.in_flight, status.retrying, status.behind, status.pending),
        (1, 1, 1, 3)
    );
}

#[test]
fn a_failed_message_comes_again_before_the_others_of_its_key() {
    // M-C1, M-E1: the wished pause counts.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    world.store(Some(1));
    let first = world.handed_out();
    world.settle(&first[0], nack_for(30));
    world.pass_ms(29_999);
    assert!(world.seqs().is_empty());
    world.pass_ms(1);
    let again = world.handed_out();
    assert_eq!((again[0].delivery.seq, again[0].attempts), (1, 1));
    world.settle(&again[0], Settlement::Ack);
    assert_eq!(world.seqs(), [2]);
}

#[test]
fn pauses_double_up_to_a_bound_with_full_jitter() {
    // M-E1.
    let settings = RetrySettings::default();
    let mut dice = fastrand::Rng::with_seed(1);
    for failed in 1..=40_u32 {
        let bound = Duration::from_secs(300).min(Duration::from_secs(1) * 2_u32.saturating_pow(failed - 1));
        let pauses: Vec<_> = (0..200)
            .map(|_| super::super::retries::back_off(&settings, failed, &mut dice))
            .collect();
        assert!(pauses.iter().all(|pause| *pause <= bound));
        assert!(pauses.iter().any(|pause| *pause < bound / 4));
        assert!(pauses.iter().any(|pause| *pause > bound * 3 / 4));
    }
}

#[test]
fn attempts_survive_a_restart() {
    // M-E1.
    let mut world = World::new(exhausting(3, Exhausted::DlqAndContinue));
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    for attempt in 0..3 {
        let deliver = world.handed_out().remove(0);
        assert_eq!(deliver.attempts, attempt);
        world.settle(&deliver, nack_for(1));
        world.settle_down();
        world.restart(0);
        world.subscribe(1, "g", 10);
        world.pass_ms(1000);
    }
    world.settle_down();
    let dead = world.dead();
    assert_eq!(
        (dead.len(), dead[0].attempts, dead[0].reason.as_str()),
        (1, 3, "attempts")
    );
    assert_eq!(dead[0].error, "no");
}

#[test]
fn a_terminal_failure_is_a_dead_letter_at_once_and_the_key_goes_on_when_that_is_on_disk() {
    // M-E1, M-E4.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    let reason = "x".repeat(5000);
    world.settle(&first, Settlement::Terminate { reason });
    world.poll();
    world.answer(0, false);
    world.poll();
    assert!(world.deliveries.is_empty(), "the move is not on disk");
    assert_eq!(world.seqs(), [2]);
    let dead = world.dead();
    assert_eq!(
        (dead[0].attempts, dead[0].reason.as_str(), dead[0].error.len()),
        (1, "terminated", 1024)
    );
    assert!(world.inbox.is_done(&topic(), 1));
}

#[test]
fn a_dead_letter_that_did_not_reach_the_disk_is_written_again() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    let reason = String::new();
    world.settle(&first, Settlement::Terminate { reason });
    world.poll();
    world.answer(0, false);
    world.disk_fails();
    assert!(world.seqs().is_empty());
    assert_eq!(world.dead().len(), 1);
    assert_eq!(world.row("g").dead_lettered, 1);
}

#[test]
fn exhausted_messages_go_and_their_key_goes_on() {
    // M-C3, `dlq-and-continue`.
    let mut world = World::new(exhausting(1, Exhausted::DlqAndContinue));
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    world.settle(&first, nack());
    assert_eq!(world.seqs(), [2]);
    assert_eq!(world.dead()[0].reason, "attempts");
}

#[test]
fn a_blocked_key_waits_for_an_operator_and_keeps_its_order() {
    // M-C3 `block-key`, M-C1.
    let mut world = World::new(exhausting(1, Exhausted::BlockKey));
    world.subscribe(1, "g", 10);
    for key in [1, 1, 2, 1] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    world.settle(&first[0], nack());
    world.settle(&first[1], Settlement::Ack);
    world.pass_ms(3_600_000);
    assert!(world.seqs().is_empty());
    world.restart(0);
    world.subscribe(1, "g", 10);
    assert!(world.seqs().is_empty(), "it stays blocked");
    assert_eq!(world.inbox.status(world.now)[0].blocked_keys, 1);
    let mut fx = Effects::default();
    let key = message(Some(1), None, 0).key;
    let other = message(Some(2), None, 0).key;
    let now = world.now;
    assert_eq!(
        world.inbox.unblock(now, &topic(), &name("g"), other.as_ref(), &mut fx),
        0
    );
    assert_eq!(world.inbox.unblock(now, &topic(), &name("g"), key.as_ref(), &mut fx), 1);
    world.absorb(fx);
    for seq in [1, 2, 4] {
        let next = world.handed_out();
        assert_eq!((next.len(), next[0].delivery.seq, next[0].attempts), (1, seq, 0));
        world.settle(&next[0], Settlement::Ack);
    }
    assert!(world.dead().is_empty());
}

#[test]
fn a_blocked_key_can_be_let_go_by_name_right_after_a_restart() {
    // M-C3: before anything was read again, and with nobody who would.
    let mut world = World::new(exhausting(1, Exhausted::BlockKey));
    world.subscribe(1, "g", 10);
    for key in [1, 1, 2] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    for deliver in &first {
        world.settle(deliver, nack());
    }
    world.commit(usize::MAX);
    world.restart(0);
    let mut fx = Effects::default();
    let key = message(Some(1), None, 0).key;
    let unblocked = world
        .inbox
        .unblock(world.now, &topic(), &name("g"), key.as_ref(), &mut fx);
    assert_eq!(unblocked, 1);
    world.absorb(fx);
    world.commit(usize::MAX);
    world.restart(0);
    world.pass_ms(10);
    world.subscribe(1, "g", 10);
    let next = world.handed_out();
    assert_eq!((next.len(), next[0].delivery.seq), (1, 1));
    world.settle(&next[0], Settlement::Ack);
    assert_eq!(world.seqs(), [2], "the other key stays blocked");
}

#[test]
fn the_rest_of_a_key_goes_to_the_dead_letters_until_an_operator_acts() {
    // M-C3 `dlq-rest-of-key`.
    let mut world = World::new(exhausting(1, Exhausted::DlqRestOfKey));
    world.subscribe(1, "g", 10);
    for key in [1, 1, 2] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    world.settle(&first[0], nack());
    world.settle_down();
    let reasons: Vec<_> = world.dead().iter().map(|wish| wish.reason.clone()).collect();
    assert_eq!(reasons, ["attempts", "rest_of_key"]);
    world.restart(0);
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    assert_eq!(world.seqs(), [3], "the other key goes on");
    assert_eq!(world.dead().len(), 3);
    let mut fx = Effects::default();
    assert_eq!(world.inbox.unblock(world.now, &topic(), &name("g"), None, &mut fx), 1);
    world.absorb(fx);
    world.store(Some(1));
    assert_eq!(world.seqs(), [5]);
}

#[test]
fn what_a_lost_consumer_had_is_redelivered_at_once_and_is_no_attempt() {
    // M-B4.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 2);
    world.subscribe(2, "g", 5);
    for _ in 0..4 {
        world.store(None);
    }
    let first = world.handed_out();
    let lost: Vec<_> = first.iter().filter(|deliver| deliver.consumer.0 == 1).collect();
    assert_eq!(lost.len(), 2);
    world.unsubscribe(1);
    let again = world.handed_out();
    let lost_seqs: Vec<_> = lost.iter().map(|deliver| deliver.delivery.seq).collect();
    let again_seqs: Vec<_> = again.iter().map(|deliver| deliver.delivery.seq).collect();
    assert_eq!(lost_seqs, again_seqs);
    assert!(
        again
            .iter()
            .all(|deliver| deliver.attempts == 0 && deliver.consumer.0 == 2)
    );
}

#[test]
fn a_group_that_lost_all_consumers_begins_again_where_it_was() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 3);
    for key in [1, 2, 3, 1, 4, 5] {
        world.store(Some(key));
    }
    let first = world.handed_out();
    world.settle(&first[1], Settlement::Ack);
    world.settle(&first[2], nack_for(60));
    world.settle_down();
    world.deliveries.clear();
    world.unsubscribe(1);
    world.settle_down();
    world.subscribe(2, "g", 10);
    assert_eq!(world.seqs(), [1, 5, 6]);
    world.pass_ms(60_000);
    assert_eq!(world.seqs(), [3]);
}

#[test]
fn a_message_kept_too_long_goes_elsewhere_and_its_late_settlement_is_ignored() {
    // M-B4.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 1);
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    world.pass_ms(29_999);
    world.settle_down();
    assert!(world.overdue.is_empty());
    world.settle(&first, Settlement::Extend);
    world.pass_ms(29_999);
    world.settle_down();
    assert!(world.overdue.is_empty(), "it was given more time");
    world.pass_ms(1);
    world.settle_down();
    assert_eq!(world.overdue.len(), 1);
    world.pass_ms(1000);
    let again = world.handed_out().remove(0);
    assert_eq!(again.attempts, 1);
    assert_ne!(again.delivery, first.delivery);
    world.settle(&first, Settlement::Ack);
    assert!(!world.inbox.is_done(&topic(), 1));
    world.settle(&again, Settlement::Ack);
    assert!(world.inbox.is_done(&topic(), 1));
}

#[test]
fn an_unreachable_consumer_rests_and_that_is_no_attempt() {
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    let pushback = Duration::from_secs(5);
    world.settle(&first, Settlement::Unavailable { pushback });
    world.store(Some(2));
    assert!(world.seqs().is_empty());
    assert_eq!(world.wake, Some(world.now.mono + pushback));
    world.pass(pushback);
    let mut again = world.handed_out();
    again.sort_by_key(|deliver| deliver.delivery.seq);
    assert_eq!(
        again
            .iter()
            .map(|deliver| (deliver.delivery.seq, deliver.attempts))
            .collect::<Vec<_>>(),
        [(1, 0), (2, 0)]
    );
}

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

#[test]
fn publishers_hear_of_each_group_that_gives_their_message_up() {
    // M-A2.
    let mut world = World::new(TopicSettings::default());
    world.subscribe(1, "g", 10);
    world.subscribe(2, "h", 10);
    world.store(None);
    let both = world.handed_out();
    let reason = "no".to_owned();
    world.settle(&both[0], Settlement::Terminate { reason });
    world.poll();
    world.answer(0, false);
    world.poll();
    world.commit(usize::MAX);
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

#[test]
fn numbers_that_are_not_on_disk_any_more_are_counted_as_damaged() {
    // M-G2, M-G8.
    let mut world = World::new(TopicSettings::default());
    for _ in 0..6 {
        world.store(None);
    }
    for seq in [2, 3, 6] {
        world.disk.remove(&seq);
    }
    world.subscribe(1, "g", 10);
    assert_eq!(world.seqs(), [1, 4, 5]);
    assert_eq!(world.row("g").corrupted, 3);
    world.store(None);
    assert_eq!(world.seqs(), [7]);
}

#[test]
fn what_was_purged_before_any_group_came_is_not_counted_as_damaged() {
    // M-A4, M-G8: the first record that is read of the topic is that of the purge.
    let mut world = World::new(TopicSettings::default());
    let purged = world.store(None);
    let (mut fx, now) = (Effects::default(), world.now);
    let which = (&topic(), None);
    world.inbox.gone(now, which, &[purged], GapReason::Purged, &mut fx);
    world.inbox.save(&mut fx);
    world.absorb(fx);
    let kept = world.store(None);
    world.disk.remove(&purged);
    world.restart(0);
    world.subscribe(1, "g", 10);
    assert_eq!(world.seqs(), [kept]);
    let row = world.row("g");
    assert_eq!((row.accepted, row.purged, row.corrupted), (2, 1, 0));
}

#[test]
fn a_number_whose_message_failed_is_not_given_again_though_its_record_is_damaged() {
    // M-A4, N1: as a dead letter and as an attempt.
    for attempts in [1, 2] {
        let mut world = World::new(exhausting(attempts, Exhausted::DlqAndContinue));
        world.subscribe(1, "g", 10);
        world.store(None);
        let first = world.handed_out().remove(0);
        world.settle(&first, nack());
        world.settle_down();
        assert_eq!(world.dead().len(), usize::from(attempts == 1));
        world.disk.clear();
        world.restart(0);
        world.subscribe(2, "g", 10);
        let next = world.store(None);
        let next = (next, world.handed_out().remove(0));
        assert_eq!((next.0, next.1.delivery.seq, next.1.attempts), (2, 2, 0));
        let row = world.row("g");
        let ended = row.dead_lettered + row.corrupted;
        assert_eq!((row.accepted, ended, row.corrupted), (2, 1, u64::from(attempts == 2)));
    }
}

#[test]
fn a_read_that_failed_is_tried_again() {
    let mut world = World::new(TopicSettings::default());
    world.store(None);
    world.subscribe(1, "g", 10);
    world.poll();
    world.answer(0, true);
    world.poll();
    assert!(world.reads.is_empty());
    let wake = world.wake.unwrap();
    world.pass(wake.checked_sub(world.now.mono).unwrap());
    assert_eq!(world.seqs(), [1]);
    // And one of a single message.
    let first = Settlement::Nack {
        delay: Some(Duration::ZERO),
        reason: String::new(),
    };
    world.deliveries.clear();
    world.unsubscribe(1);
    world.subscribe(1, "g", 10);
    let deliver = world.handed_out().remove(0);
    world.settle(&deliver, first);
    world.poll();
    world.pass_ms(1);
    world.poll();
    world.answer(0, true);
    world.pass_ms(1000);
    assert_eq!(world.seqs(), [1]);
}

#[test]
fn a_backlog_costs_no_memory_and_few_reads() {
    // M-G7: what is in memory is bounded by the feed.
    let mut world = World::new(TopicSettings::default());
    for number in 0..20_000 {
        world.write(message(Some(number), None, 100), None);
    }
    world.commit(usize::MAX);
    world.subscribe(1, "g", 64);
    let mut expected = 0;
    loop {
        let batch = world.handed_out();
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 64);
        for deliver in batch {
            expected += 1;
            assert_eq!(deliver.delivery.seq, expected);
            world.settle(&deliver, Settlement::Ack);
        }
        world.log.clear();
    }
    assert_eq!(expected, 20_000);
    assert!(world.reads_count < 200, "{}", world.reads_count);
}

#[test]
fn a_backlog_of_one_key_is_read_a_few_times_only() {
    let mut world = World::new(TopicSettings::default());
    for _ in 0..3000 {
        world.write(message(Some(1), None, 1000), None);
    }
    world.commit(usize::MAX);
    world.subscribe(1, "g", 64);
    for seq in 1..=3000 {
        let deliver = world.handed_out().remove(0);
        assert_eq!(deliver.delivery.seq, seq);
        world.settle(&deliver, Settlement::Ack);
    }
    assert!(world.reads_count < 200, "{}", world.reads_count);
}

#[test]
fn a_group_with_too_much_parked_takes_no_more() {
    // I5.
    let mut world = World::with(setup(TopicSettings::default(), 50));
    world.subscribe(1, "g", 10);
    for _ in 0..500 {
        world.store(Some(1));
    }
    world.store(Some(2));
    assert_eq!(world.seqs(), [1]);
    assert_eq!(world.inbox.status(world.now)[0].behind, 50);
}

/// How many messages of 400 keys get through in 600 rounds in which 20 consumers settle what they have.
fn delivered(poison: bool, exhausted: Exhausted) -> u64 {
    let mut world = World::new(exhausting(16, exhausted));
    for id in 0..20 {
        world.subscribe(id, "g", 1);
    }
    for number in 0..10_000_u64 {
        world.write(message(Some(number % 400), None, 100), None);
    }
    world.commit(usize::MAX);
    let mut good = 0;
    for _ in 0..600 {
        world.pass_ms(10);
        for deliver in world.handed_out() {
            let bad = deliver.delivery.seq % 400 == 7;
            good += u64::from(!bad);
            world.settle(&deliver, if bad && poison { nack() } else { Settlement::Ack });
        }
        world.log.clear();
    }
    good
}

#[test]
fn one_poison_key_leaves_the_others_their_speed() {
    // M-C3, counted in messages of the same number of rounds.
    for exhausted in [Exhausted::DlqAndContinue, Exhausted::BlockKey, Exhausted::DlqRestOfKey] {
        let (without, with) = (delivered(false, exhausted), delivered(true, exhausted));
        assert!(with * 100 >= without * 95, "{with} of {without}");
    }
}

#[test]
fn the_oldest_pending_message_has_an_age() {
    let mut world = World::new(TopicSettings::default());
    let mut first = message(None, None, 1);
    first.accepted_at = UnixMillis(world.now.wall.0);
    world.write(first, None);
    world.commit(1);
    world.pass_ms(5000);
    let mut second = message(None, None, 1);
    second.accepted_at = UnixMillis(world.now.wall.0);
    world.write(second, None);
    world.commit(1);
    assert_eq!(world.inbox.status(world.now)[0].oldest_ms, Some(5000));
    world.subscribe(1, "g", 1);
    let deliver = world.handed_out().remove(0);
    world.settle(&deliver, Settlement::Ack);
    world.take_snapshot();
    assert_eq!(world.inbox.status(world.now)[0].oldest_ms, Some(0));
}

#[test]
fn a_blocked_message_whose_time_is_over_lets_its_key_go_on() {
    // M-E2.
    let mut world = World::new(exhausting(1, Exhausted::BlockKey));
    world.subscribe(1, "g", 10);
    let deadline = world.now.wall.0 + 5000;
    world.write(message(Some(1), Some(deadline), 1), None);
    world.commit(1);
    world.store(Some(1));
    let first = world.handed_out().remove(0);
    world.settle(&first, nack());
    world.pass_ms(4999);
    assert!(world.seqs().is_empty());
    world.pass_ms(1);
    assert_eq!(world.seqs(), [2]);
    assert_eq!(world.row("g").expired, 1);
}

#[test]
fn a_read_from_before_the_group_began_again_is_of_no_use() {
    let mut world = World::new(TopicSettings::default());
    for _ in 0..300 {
        world.write(message(None, None, 1), None);
    }
    world.commit(usize::MAX);
    world.subscribe(1, "g", 300);
    world.poll();
    world.answer(0, false);
    world.poll();
    assert_eq!((world.deliveries.len(), world.reads.len()), (256, 1));
    world.unsubscribe(1);
    world.deliveries.clear();
    world.subscribe(2, "g", 300);
    assert_eq!(world.seqs(), (1..=300).collect::<Vec<_>>());
    assert_eq!(world.row("g").corrupted, 0);
}

#[test]
fn nothing_behind_a_parked_key_stays_in_memory() {
    // K2, M-G7.
    let mut keys = super::super::keys::Keys::default();
    let done = crate::queue::line::Settled::default();
    for seq in 1..=3 {
        keys.enter(1, seq, message(Some(1), None, 100));
    }
    assert!(keys.leave(1, &done).unwrap().message.is_some());
    keys.park(1);
    keys.enter(1, 4, message(Some(1), None, 100));
    for seq in 3..=4 {
        let next = keys.leave(1, &done).unwrap();
        assert_eq!((next.seq, next.message), (seq, None));
    }
}
