//! Attempts that fail: again, blocked, given up.

use super::*;

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
            .map(|_| crate::queue::inbox::retries::back_off(&settings, failed, &mut dice))
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
    // What is given up is read for its letter; whatever is read then comes, too.
    for _ in 0..3 {
        world.answer(0, false);
        world.poll();
    }
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
fn a_dead_letter_says_when_its_message_failed_first_and_last() {
    // M-E4.
    let mut world = World::new(exhausting(2, Exhausted::DlqAndContinue));
    world.subscribe(1, "g", 10);
    world.store(Some(1));
    let mut times = Vec::new();
    for _ in 0..2 {
        let deliver = world.handed_out().remove(0);
        times.push(world.now.wall);
        world.settle(&deliver, nack_for(30));
        world.pass_ms(30_000);
    }
    world.settle_down();
    let dead = world.dead();
    assert_eq!((dead[0].first_failure, dead[0].last_failure), (times[0], times[1]));
    assert_ne!(times[0], times[1]);
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
