//! What a backlog costs, and what parked messages may.

use super::*;

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
    let mut keys = crate::queue::inbox::keys::Keys::default();
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
