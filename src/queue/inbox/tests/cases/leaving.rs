//! Messages that leave without a consumer: dropped to make room, or purged.

use super::*;

fn small() -> World {
    World::new(TopicSettings {
        messages_max: 2,
        overflow: Overflow::DropOldest,
        ..TopicSettings::default()
    })
}

fn purge(world: &mut World, seqs: &[u64]) {
    let (now, mut fx) = (world.now, Effects::default());
    world
        .inbox
        .gone(now, (&topic(), None), seqs, GapReason::Purged, &mut fx);
    world.absorb(fx);
}

// Symptom: after a crash a message came behind later ones of its key. Cause: it had been dropped to make room, because older ones were
// with consumers; its key went on at once, and the crash came before the record of the drop was on disk. The message was there again,
// and now an older one was dropped. Fix: what is behind a dropped or purged message waits for that record.
#[test]
fn what_is_behind_a_message_that_left_waits_until_that_is_on_disk() {
    // M-C1, M-E3, M-H2
    for is_purge in [false, true] {
        let mut world = small();
        for _ in 0..if is_purge { 2 } else { 3 } {
            world.store(Some(1));
        }
        world.subscribe(1, "g", 1);
        world.commit(usize::MAX);
        world.inbox.pause(
            &Pausable::Topic { topic: topic() },
            Some(Pause::for_time("", None, world.now.wall)),
        );
        if is_purge {
            purge(&mut world, &[1]);
        }
        world.poll();
        assert_eq!(world.writing.len(), 1, "the end of the first one");
        world.inbox.pause(&Pausable::Topic { topic: topic() }, None);
        for _ in 0..3 {
            world.poll();
            while !world.reads.is_empty() {
                world.answer(0, false);
            }
        }
        assert!(world.deliveries.is_empty());
        world.commit(1);
        assert_eq!(world.seqs(), [2]);
    }
}

#[test]
fn a_crash_brings_a_purged_message_back_before_those_behind_it() {
    // M-C1: nobody was told that it is gone.
    let mut world = small();
    world.store(Some(1));
    world.store(Some(1));
    world.poll();
    purge(&mut world, &[1]);
    world.subscribe(1, "g", 10);
    world.poll();
    world.restart(0);
    world.subscribe(1, "g", 1);
    assert_eq!(world.seqs(), [1]);
}

#[test]
fn a_topic_that_is_always_too_full_still_gives_its_consumers_something() {
    // M-E3: whatever the disk has under way, and however much comes.
    let mut world = small();
    world.subscribe(1, "g", 1);
    world.commit(usize::MAX);
    let mut delivered = 0;
    for number in 0..300 {
        for key in 0..3 {
            world.write(message(Some(number % 7 + key), None, 1), None);
        }
        // About two turns pass until what was written is on disk.
        let lag = world.writing.len().saturating_sub(6);
        world.commit(lag);
        world.poll();
        while !world.reads.is_empty() {
            world.answer(0, false);
        }
        world.poll();
        for deliver in std::mem::take(&mut world.deliveries) {
            delivered += 1;
            world.settle(&deliver, Settlement::Ack);
        }
    }
    assert!(delivered >= 60, "{delivered}");
    assert!(world.row("g").dropped > 300);
}
