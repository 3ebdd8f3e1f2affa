//! Dead letters and redrives.

use super::*;

#[test]
fn dead_letters_without_room_stay_where_they_are_until_there_is() {
    // M-E4
    let mut world = World::with(|setup| setup.queue.dead_letters.bytes_max = ByteSize::bytes(600));
    for _ in 0..20 {
        world.publish("orders", &["a"]);
    }
    world.consume("orders");
    world.terminate_all();
    let dead = world.dead();
    assert!((1..5).contains(&dead), "{dead}");
    let pending = |world: &World| {
        world
            .engine
            .status(world.now)
            .groups
            .iter()
            .map(|group| group.pending)
            .sum::<u64>()
    };
    assert_eq!(usize::try_from(pending(&world)).unwrap() + dead, 20);
    let mut all = dead;
    for _ in 0..40 {
        world.ask(Command::Purge {
            line: Line::Dead,
            filter: Filter::default(),
            all: true,
            dry_run: false,
            who: String::new(),
        });
        world.pass(Duration::from_secs(1));
        world.terminate_all();
        all += world.dead();
    }
    assert_eq!((all, pending(&world)), (20, 0), "each became a dead letter once");
}

#[test]
fn a_redrive_counts_first_and_needs_leave_to_reorder() {
    // M-F1, M-F3, M-C4
    let mut world = World::new();
    for topic in ["orders", "loose", "loose"] {
        world.publish(topic, &["a"]);
    }
    for topic in ["orders", "loose"] {
        world.consume(topic);
    }
    world.terminate_all();
    assert_eq!(world.dead(), 3);
    let dry = RedriveRequest {
        dry_run: true,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(dry), ("done".to_owned(), 0, String::new()));
    let (state, moved, reason) = world.redrive(RedriveRequest::default());
    assert_eq!((state.as_str(), moved), ("failed", 0));
    assert!(reason.contains("allow_reorder"), "{reason}");
    assert_eq!(world.dead(), 3);
    let loose = || RedriveRequest {
        filter: Filter {
            topic: Some(name("loose")),
            ..Filter::default()
        },
        limit: 1,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(loose()).1, 1);
    assert_eq!(world.dead(), 2);
    assert_eq!(world.delivered().len(), 1);
    let all = RedriveRequest {
        allow_reorder: true,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(all).1, 2);
    let again = world.delivered();
    assert_eq!(again.len(), 2);
    assert_eq!(world.dead(), 0);
}

#[test]
fn a_message_is_redriven_so_often_and_no_more() {
    // M-F3
    let mut world = World::with(|setup| setup.queue.dead_letters.redrives_max = 2);
    world.publish("loose", &["a"]);
    world.consume("loose");
    for moved in [1, 1, 0] {
        world.terminate_all();
        assert_eq!(world.dead(), 1);
        assert_eq!(world.redrive(RedriveRequest::default()).1, moved);
    }
}

#[test]
fn a_redrive_goes_on_after_a_restart_and_at_its_rate() {
    // M-F1, M-F2
    let mut world = World::new();
    for _ in 0..40 {
        world.publish("loose", &["a"]);
    }
    world.consume("loose");
    world.terminate_all();
    assert_eq!(world.dead(), 40);
    let request = RedriveRequest {
        rate: 10.0,
        ..RedriveRequest::default()
    };
    let (state, moved, _) = world.redrive(request);
    assert_eq!(state, "running");
    assert!((1..=12).contains(&moved), "{moved}");
    world.restart();
    world.pass(Duration::from_secs(1));
    assert!(world.dead() > 10, "it keeps its rate");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.dead(), 0);
    let Answer::Redrives { tasks } = world.ask(Command::Redrives) else {
        panic!();
    };
    assert_eq!(tasks[0].state, "done");
}

#[test]
fn dead_letters_go_when_their_retention_is_over() {
    // M-E4
    let mut world = World::new();
    world.publish("short", &["b"]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.dead(), 1);
    world.pass(Duration::from_secs(14 * 24 * 3600));
    assert_eq!(world.dead(), 0);
}

#[test]
fn a_redriven_message_keeps_its_deadline_unless_it_is_given_another() {
    // M-F3
    let redriven = |until: u64, extend_ttl_seconds| {
        let mut world = World::new();
        let began = world.now.wall.0;
        world.publish_as("loose", &["a"], |publish| {
            publish.deadline = Some(UnixMillis(began + until * 1000));
        });
        world.consume("loose");
        world.terminate_all();
        world.pass(Duration::from_secs(10));
        world.redrive(RedriveRequest {
            extend_ttl_seconds,
            ..RedriveRequest::default()
        });
        let deadline = world.outputs.iter().find_map(|output| match output {
            Output::Deliver(deliver) => deliver.message.deadline,
            _ => None,
        });
        deadline.map(|deadline| (deadline.0 - began) / 1000)
    };
    assert_eq!(redriven(100, 0), Some(100));
    assert_eq!(redriven(100, 500), Some(510));
    assert_eq!(redriven(5, 0), None, "its time is over");
    assert_eq!(redriven(5, 500), Some(510));
}
