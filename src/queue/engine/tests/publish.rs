//! Publishers, and the disk that answers them.

use super::*;

#[test]
fn nobody_is_told_and_nothing_is_sent_before_the_disk_has_it() {
    // M-A2, M-A3
    let mut world = World::new();
    world.lane_up(1, "b", LaneKind::Live);
    world.waits = true;
    let other = world.publish("orders", &["b"]);
    let here = world.publish("orders", &["a"]);
    assert!(world.told(other).is_empty() && world.told(here).is_empty());
    assert_eq!(world.sent(), 0);
    world.waits = false;
    world.turn();
    assert!(matches!(world.told(other)[..], [Ok((AckLevel::Accepted, false, _))]));
    assert!(world.told(here)[0].is_ok());
    assert_eq!(world.sent(), 1);
}

#[test]
fn a_duplicate_gets_the_first_id_even_while_that_is_on_its_way_to_the_disk_and_after_a_restart() {
    // M-B3, P2
    let mut world = World::new();
    world.waits = true;
    let first = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    let second = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    assert!(world.told(second).is_empty());
    world.waits = false;
    world.turn();
    let Ok((_, false, id)) = world.told(first)[0].clone() else {
        panic!();
    };
    assert_eq!(world.told(second)[..], [Ok((AckLevel::Accepted, true, id.clone()))]);
    world.restart();
    let third = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    assert_eq!(world.told(third)[..], [Ok((AckLevel::Accepted, true, id))]);
}

#[test]
fn what_cannot_be_taken_is_refused_with_a_reason() {
    // M-E2, M-E3, P1
    let mut world = World::new();
    world.publish("full", &["b"]);
    let now = world.now.wall.0;
    let cases = [
        (world.publish("unknown", &["b"]), Reason::UnknownTopic),
        (world.publish("orders", &[]), Reason::NoRoute),
        (
            world.publish_as("tiny", &["b"], |publish| {
                publish.body = Bytes::from_static(b"12345678901");
            }),
            Reason::TooLarge,
        ),
        (
            world.publish_as("orders", &["b"], |publish| publish.deadline = Some(UnixMillis(now))),
            Reason::DeadlineExceeded,
        ),
        (world.publish("full", &["b"]), Reason::Limited),
    ];
    for (ticket, reason) in cases {
        assert_eq!(world.refused(ticket), reason);
    }
}

#[test]
fn a_disk_that_fails_refuses_publishers_and_is_used_again_when_it_works() {
    // M-G6
    let mut world = World::new();
    let before = world.publish("orders", &["b"]);
    world.storage.set_faults(Faults {
        fail_after: Some(0),
        keep_failing: true,
        ..Faults::default()
    });
    let failed = world.publish("orders", &["b"]);
    assert_eq!(world.refused(failed), Reason::Limited);
    assert_eq!(world.engine.status(world.now).disk, "failing");
    let at_once = world.publish("orders", &["b"]);
    assert_eq!(world.refused(at_once), Reason::Limited);
    world.storage.set_faults(Faults::default());
    world.pass(Duration::from_secs(3));
    let after = world.publish("orders", &["b"]);
    let number = |ticket| world.told(ticket)[0].clone().unwrap().2.number;
    assert_eq!((number(before), number(after)), (1, 2), "numbers have no holes");
    assert_eq!(world.engine.status(world.now).disk, "ok");
}

#[test]
fn a_disk_that_gets_full_refuses_low_topics_first_and_then_all() {
    // M-G6
    let mut world = World::new();
    for (used, low, normal) in [
        (84, true, true),
        (86, false, true),
        (91, false, false),
        (50, true, true),
    ] {
        world.space = Some(Space {
            used,
            used_max: 100,
            free: 50,
            total: 100,
            segments: 1,
        });
        world.pass(Duration::from_secs(2));
        for (topic, taken) in [("low", low), ("orders", normal)] {
            let ticket = world.publish(topic, &["b"]);
            assert_eq!(world.told(ticket)[0].is_ok(), taken, "{topic} at {used} %");
        }
    }
}

#[test]
fn what_is_done_with_leaves_the_disk() {
    // M-E3
    let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_secs(1));
    for _ in 0..60 {
        for _ in 0..20 {
            world.publish_as("drops", &["b"], |publish| publish.body = Bytes::from(vec![7; 1000]));
        }
        world.pass(Duration::from_secs(1));
    }
    let segments = world.engine.status(world.now).segments;
    assert!(segments <= 8, "{segments} segments of 64 KiB for three messages");
    assert_eq!(world.peek(Line::Outbox { unit: name("b") }).len(), 3);
}

#[test]
fn every_acknowledgement_says_whether_syncs_are_buffered() {
    // M-A5
    for (sync, buffered) in [(Sync::Group, false), (Sync::Buffered, true)] {
        let mut world = World::with(|setup| setup.queue.sync = sync);
        let lane = world.lane_up(1, "b", LaneKind::Live);
        world.publish_as("orders", &["b"], |publish| {
            publish.attributes = named("x");
            publish.wait = AckLevel::Relayed;
        });
        world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
        let frame = ToSender::Ack {
            batch: 1,
            refused: Vec::new(),
        };
        world.input(Input::FromReceiver { lane, frame });
        let said = world.outputs.iter().filter_map(|output| match output {
            Output::Published {
                result: Ok(progress), ..
            } => Some((progress.level, progress.duplicate, progress.buffered)),
            _ => None,
        });
        let expected = [
            (AckLevel::Accepted, false, buffered),
            (AckLevel::Accepted, true, buffered),
            (AckLevel::Relayed, false, buffered),
        ];
        assert_eq!(said.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn what_ends_messages_may_use_what_is_kept_free_on_a_full_disk_and_new_ones_may_not() {
    // M-G6
    let mut world = World::new();
    world.consume("orders");
    world.waits = true;
    let essential = |world: &mut World| -> Vec<bool> {
        let appends = world.requests.iter().filter_map(|request| match request {
            Request::Append(batch) => Some(batch.essential),
            _ => None,
        });
        let appends = appends.collect();
        world.answer_disk();
        world.turn();
        appends
    };
    essential(&mut world);
    world.publish("orders", &["a"]);
    assert_eq!(essential(&mut world), [false]);
    for (consumer, delivery, _) in world.delivered() {
        let outcome = Settlement::Ack;
        world.input(Input::Settle {
            consumer,
            delivery,
            outcome,
        });
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(essential(&mut world), [true]);
}
