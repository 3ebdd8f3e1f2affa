//! What a restart makes of damaged and unreadable records.

use super::*;

/// Flips a bit in each place of the files where these bytes are.
pub(super) fn damage(world: &mut World, what: &[u8]) -> usize {
    let mut contents = world.storage.contents();
    let mut count = 0;
    for bytes in contents.values_mut() {
        let places = bytes.windows(what.len()).enumerate();
        let places: Vec<usize> = places.filter(|(_, at)| *at == what).map(|(at, _)| at).collect();
        count += places.len();
        for at in places {
            bytes[at] ^= 1;
        }
    }
    world.storage = MemoryStorage::with(contents);
    count
}

/// Publishes a message without a key.
fn publish(world: &mut World, unit: &str, body: &'static [u8]) -> u64 {
    world.publish_as("orders", &[unit], |publish| {
        publish.key = None;
        publish.body = Bytes::from_static(body);
    })
}

/// A segment that is full, so that what is before is not the last write.
fn fill(world: &mut World) {
    for _ in 0..100 {
        world.publish_as("orders", &["b"], |publish| publish.body = Bytes::from(vec![7; 1000]));
    }
}

#[test]
fn damage_at_the_end_of_a_line_takes_no_message_that_is_accepted_afterwards() {
    // M-A4, N1
    for checkpoint in [100_000, 1] {
        let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_secs(checkpoint));
        for unit in ["c", "a"] {
            publish(&mut world, unit, b"first");
            publish(&mut world, unit, b"LOSTLOST");
        }
        fill(&mut world);
        assert_eq!(damage(&mut world, b"LOSTLOST"), 2);
        world.restart();
        // The numbers are known to be given after another restart, too.
        world.pass(Duration::from_secs(3));
        world.restart();
        let relayed = publish(&mut world, "c", b"new for c");
        publish(&mut world, "a", b"new for a");
        assert!(world.told(relayed)[0].is_ok());
        world.lane_up(6, "c", LaneKind::Backlog);
        world.consume("orders");
        world.pass(Duration::from_secs(5));
        assert_eq!(world.sent_bodies(), ["first", "new for c"]);
        let delivered: Vec<_> = world
            .delivered()
            .into_iter()
            .map(|(_, id, body)| (id.seq, body))
            .collect();
        assert_eq!(delivered, [(1, "first".to_owned()), (3, "new for a".to_owned())]);
        let damaged = world.engine.status(world.now).damaged.join(", ");
        for lost in [
            "messages 2 to 2 for unit c",
            "messages 2 to 2 of topic orders for group g",
        ] {
            assert!(damaged.contains(lost), "{damaged}");
        }
    }
}

#[test]
fn damage_of_all_that_a_line_has_takes_no_message_that_is_accepted_afterwards() {
    // M-A4, N1
    let mut world = World::new();
    publish(&mut world, "c", b"LOSTLOST");
    fill(&mut world);
    assert_eq!(damage(&mut world, b"LOSTLOST"), 1);
    world.restart();
    world.restart();
    publish(&mut world, "c", b"new for c");
    world.lane_up(6, "c", LaneKind::Backlog);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.sent_bodies(), ["new for c"]);
    let damaged = world.engine.status(world.now).damaged.join(", ");
    assert!(damaged.contains("messages 1 to 1 for unit c"), "{damaged}");
}

#[test]
fn a_message_that_was_purged_before_any_group_came_is_not_damaged() {
    // M-A4, M-G8
    let mut world = World::with(|setup| {
        let topics = Arc::make_mut(&mut setup.topics);
        topics.get_mut("loose").unwrap().groups.clear();
    });
    world.publish_as("loose", &["a"], |publish| {
        publish.body = Bytes::from_static(b"LOSTLOST");
    });
    world.purge(Line::Inbox {
        topic: name("loose"),
        group: None,
    });
    world.pass(Duration::from_secs(1));
    fill(&mut world);
    assert_eq!(damage(&mut world, b"LOSTLOST"), 1);
    world.restart();
    world.publish("loose", &["a"]);
    world.consume("loose");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.delivered().len(), 1);
    let Answer::Audit { rows } = world.ask(Command::Audit) else {
        panic!();
    };
    let row = rows.iter().find(|row| row.topic == "loose").unwrap();
    assert_eq!((row.accepted, row.purged, row.corrupted, row.difference), (2, 1, 0, 0));
}

#[test]
fn bytes_that_the_disk_does_not_give_cost_only_the_messages_in_them() {
    // M-A4, L12
    let mut world = World::new();
    for _ in 0..200 {
        world.publish_as("loose", &["a"], |publish| publish.body = Bytes::from(vec![b'x'; 1000]));
    }
    let bad = Faults {
        unreadable: Some((20_480, 24_576)),
        ..Faults::default()
    };
    world.storage.set_faults(bad);
    let mut delivered = 0;
    for _ in 0..2 {
        // It starts in spite of that.
        world.restart();
        let consumer = world.consume("loose");
        for _ in 0..60 {
            world.pass(Duration::from_secs(1));
            for (_, delivery, _) in world.delivered() {
                delivered += 1;
                let outcome = Settlement::Ack;
                world.input(Input::Settle {
                    consumer,
                    delivery,
                    outcome,
                });
            }
        }
    }
    let group = world.engine.status(world.now).groups.remove(0);
    assert_eq!(group.pending, 0);
    assert!((172..195).contains(&delivered), "{delivered}");
    let damaged = world.engine.status(world.now).damaged.join(", ");
    assert!(damaged.contains("of topic loose for group g"), "{damaged}");
}

#[test]
fn a_disk_that_gives_nothing_for_a_while_costs_no_message() {
    // M-A4, L12
    let mut world = World::new();
    for _ in 0..200 {
        world.publish_as("loose", &["a"], |publish| publish.body = Bytes::from(vec![b'x'; 1000]));
    }
    world.storage.set_faults(Faults {
        fail_reads: true,
        ..Faults::default()
    });
    let consumer = world.consume("loose");
    world.pass(Duration::from_secs(60));
    assert!(world.delivered().is_empty());
    world.storage.set_faults(Faults::default());
    let mut delivered = 0;
    for _ in 0..30 {
        world.pass(Duration::from_secs(1));
        for (_, delivery, _) in world.delivered() {
            delivered += 1;
            let outcome = Settlement::Ack;
            world.input(Input::Settle {
                consumer,
                delivery,
                outcome,
            });
        }
    }
    assert_eq!(delivered, 200);
}
