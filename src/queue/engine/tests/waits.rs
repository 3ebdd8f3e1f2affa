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
        assert_eq!((group.pending, group.pause), (0, None), "{} {}", group.topic, group.group);
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

#[test]
fn sources_without_room_for_their_dead_letters_go_on_after_the_disk_has_failed() {
    // M-E4, M-G6
    let mut world = World::with(|setup| setup.queue.dead_letters.bytes_max = ByteSize::bytes(900));
    for topic in ["orders", "loose"] {
        for _ in 0..6 {
            world.publish_as(topic, &["a"], |publish| publish.key = None);
        }
        world.consume(topic);
    }
    let all = world.delivered();
    assert_eq!(all.len(), 12);
    world.storage.set_faults(Faults {
        fail_after: Some(0),
        keep_failing: true,
        ..Faults::default()
    });
    for (consumer, delivery, _) in all {
        let reason = "no".to_owned();
        let outcome = Settlement::Terminate { reason };
        let settle = Input::Settle {
            consumer,
            delivery,
            outcome,
        };
        world.engine.on_input(world.now, settle);
    }
    world.turn();
    world.pass(Duration::from_secs(1));
    world.storage.set_faults(Faults::default());
    world.pass(Duration::from_secs(5));
    drain(&mut world);
}
