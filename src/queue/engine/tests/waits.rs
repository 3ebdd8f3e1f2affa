//! Publishers that wait for more than `ACCEPTED`, and sources that wait for room among the dead letters.

use super::*;

fn purge_dead(world: &mut World) {
    world.ask(Command::Purge {
        line: Line::Dead,
        filter: Filter::default(),
        all: true,
        dry_run: false,
        who: String::new(),
    });
}

/// Consumers give up all that waits and dead letters are removed, until nothing is pending.
fn drain(world: &mut World) {
    for _ in 0..40 {
        purge_dead(world);
        world.pass(Duration::from_secs(1));
        world.terminate_all();
    }
    for group in world.engine.status(world.now).groups {
        assert_eq!(
            (group.pending, group.pause),
            (0, None),
            "{} {}",
            group.topic,
            group.group
        );
    }
}

#[test]
fn a_group_without_room_for_its_dead_letters_goes_on_after_a_restart() {
    // M-E4
    let mut world = World::with(|setup| {
        setup.queue.dead_letters.bytes_max = ByteSize::bytes(600);
        setup.queue.checkpoint_interval = Duration::from_secs(1);
    });
    for _ in 0..20 {
        world.publish("orders", &["a"]);
    }
    world.consume("orders");
    world.terminate_all();
    let held = world.engine.status(world.now).groups.remove(0).pause.unwrap();
    assert!(held.reason.contains("dead letters are full"), "{}", held.reason);
    world.pass(Duration::from_secs(5));
    world.restart();
    purge_dead(&mut world);
    world.consume("orders");
    drain(&mut world);
}

/// The disk reads, and writes nothing.
fn read_only(world: &mut World) {
    let mut writes = Vec::new();
    loop {
        let is_write = |request: &mut Request| matches!(request, Request::Append(_));
        writes.extend(world.requests.extract_if(.., is_write));
        if world.requests.is_empty() {
            break;
        }
        world.answer_disk();
        world.turn();
    }
    world.requests = writes;
}

#[test]
fn a_source_without_room_for_its_dead_letter_goes_on_after_the_disk_has_failed() {
    // M-E4, M-G6
    let mut world = World::with(|setup| setup.queue.dead_letters.bytes_max = ByteSize::bytes(900));
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish("orders", &["b"]);
    for _ in 0..20 {
        world.publish_as("orders", &["a"], |publish| publish.key = None);
    }
    world.consume("orders");
    let pause = |world: &World| world.engine.status(world.now).units.remove(0).pause;
    // All of that is on its way to the disk, which fails.
    world.waits = true;
    world.terminate_all();
    read_only(&mut world);
    let reason = "unknown_topic".to_owned();
    let detail = String::new();
    let refused = vec![crate::queue::lanes::Refused { seq: 1, reason, detail }];
    world.input(Input::FromReceiver {
        lane,
        frame: ToSender::Ack { batch: 1, refused },
    });
    assert!(pause(&world).is_some());
    world.storage.set_faults(Faults {
        fail_after: Some(0),
        keep_failing: true,
        ..Faults::default()
    });
    world.waits = false;
    world.turn();
    world.storage.set_faults(Faults::default());
    world.pass(Duration::from_secs(5));
    drain(&mut world);
    assert_eq!(pause(&world), None);
}

/// What a publisher was told: levels, and whether each was the last word.
fn levels(world: &World, number: u64) -> Vec<(AckLevel, bool)> {
    let told = world.outputs.iter().filter_map(|output| match output {
        Output::Published { ticket, result } if ticket.number == number => result.as_ref().ok(),
        _ => None,
    });
    told.map(|progress| (progress.level, progress.last)).collect()
}

#[test]
fn a_duplicate_waits_with_the_first_one_and_is_answered_at_once_if_nobody_waits() {
    // M-A2, M-B3, P2
    let mut world = World::new();
    let lane = world.lane_up(1, "b", LaneKind::Live);
    let publish = |world: &mut World, wait| {
        world.publish_as("orders", &["b"], |publish| {
            publish.attributes = named("x");
            publish.wait = wait;
        })
    };
    let first = publish(&mut world, AckLevel::Delivered);
    let second = publish(&mut world, AckLevel::Relayed);
    assert_eq!(levels(&world, second), [(AckLevel::Accepted, false)]);
    let refused = Vec::new();
    world.input(Input::FromReceiver {
        lane,
        frame: ToSender::Ack { batch: 1, refused },
    });
    assert_eq!(
        levels(&world, second),
        [(AckLevel::Accepted, false), (AckLevel::Relayed, true)]
    );
    let third = publish(&mut world, AckLevel::Relayed);
    assert_eq!(levels(&world, third), [(AckLevel::Relayed, true)], "that far it is");
    let fourth = publish(&mut world, AckLevel::Delivered);
    assert_eq!(levels(&world, fourth), [(AckLevel::Relayed, false)]);
    world.input(Input::FromReceiver {
        lane,
        frame: ToSender::Delivered { seqs: vec![1] },
    });
    for ticket in [first, fourth] {
        assert_eq!(levels(&world, ticket).last(), Some(&(AckLevel::Delivered, true)));
    }
    let fifth = publish(&mut world, AckLevel::Delivered);
    assert_eq!(levels(&world, fifth), [(AckLevel::Accepted, true)], "nobody knows more");
}

#[test]
fn a_message_that_has_passed_too_many_units_to_be_read_back_is_refused() {
    // M-G3, M-A4
    let mut world = World::new();
    let passed = |count: usize| {
        move |message: &mut crate::model::Message| {
            let before = (1..count).map(|n| name(&format!("u{n}")));
            message.visited = before.chain([name("b")]).collect();
            message.key = None;
        }
    };
    assert_eq!(world.refusal(passed(64)), "loop");
    assert_eq!(world.refusal(passed(63)), "");
    world.restart();
    world.consume("orders");
    assert_eq!(world.delivered().len(), 1);
}
