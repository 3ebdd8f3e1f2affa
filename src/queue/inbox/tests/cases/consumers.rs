//! Consumers that go, are slow, or cannot be reached.

use super::*;

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
