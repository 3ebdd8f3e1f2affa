//! Who gets a message: groups, their members, keys.

use super::*;

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
