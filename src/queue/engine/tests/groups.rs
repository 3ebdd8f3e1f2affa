//! Groups that operators remove.

use super::*;

fn remove(world: &mut World, group: &str, dry_run: bool) -> Answer {
    world.ask(Command::RemoveGroup {
        topic: name("orders"),
        group: name(group),
        reason: "a typing error".to_owned(),
        dry_run,
        who: "ann".to_owned(),
    })
}

fn groups(world: &World) -> Vec<(String, u64)> {
    let groups = world.engine.status(world.now).groups;
    groups.into_iter().map(|group| (group.group, group.pending)).collect()
}

#[track_caller]
fn refused(answer: Answer, expected: &str) {
    let Answer::Refused { detail } = answer else {
        panic!("{answer:?}");
    };
    assert!(detail.contains(expected), "{detail}");
}

#[test]
fn a_group_that_was_made_by_mistake_can_be_removed_and_keeps_no_messages() {
    // M-H2, M-E3
    let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_secs(1));
    let wrong = ConsumerId(4711);
    world.input(Input::Subscribe(Box::new(Subscribe {
        consumer: wrong,
        shard: 0,
        ticket: Ticket { shard: 0, number: 4711 },
        topic: name("orders"),
        group: name("wrong"),
        in_flight_max: 10,
    })));
    let body = || Bytes::from(vec![7; 1000]);
    for _ in 0..300 {
        world.publish_as("orders", &["a"], |publish| publish.body = body());
    }
    refused(remove(&mut world, "g", false), "the settings declare group g");
    refused(remove(&mut world, "other", false), "no group other");
    refused(remove(&mut world, "-", false), "no group -");
    refused(remove(&mut world, "wrong", false), "1 consumers take messages");
    world.input(Input::Unsubscribe(wrong));
    let what = Pausable::Group {
        topic: name("orders"),
        group: name("wrong"),
    };
    let pause = Pause::for_time("full", None, world.now.wall);
    let who = String::new();
    world.ask(Command::Pause { what, pause, who });
    assert_eq!(remove(&mut world, "wrong", true), Answer::Done { messages: 300 });
    assert_eq!(groups(&world), [("g".to_owned(), 300), ("wrong".to_owned(), 300)]);
    assert_eq!(remove(&mut world, "wrong", false), Answer::Done { messages: 300 });
    assert_eq!(groups(&world), [("g".to_owned(), 300)]);
    world.restart();
    assert_eq!(groups(&world), [("g".to_owned(), 300)]);
    // What the other group is done with leaves the disk.
    let all = Command::Purge {
        line: Line::Inbox {
            topic: name("orders"),
            group: None,
        },
        filter: Filter::default(),
        all: true,
        dry_run: false,
        who: String::new(),
    };
    assert_eq!(world.ask(all), Answer::Done { messages: 300 });
    for _ in 0..10 {
        world.publish_as("orders", &["b"], |publish| publish.body = body());
        world.pass(Duration::from_secs(2));
    }
    let segments = world.engine.status(world.now).segments;
    assert!(segments <= 3, "{segments} segments of 64 KiB for ten messages");
    world.restart();
    assert_eq!(groups(&world), [("g".to_owned(), 0)]);
}
