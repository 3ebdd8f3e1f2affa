//! Random sequences of everything that can happen.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, loose, name, setup};
use crate::model::{ByteSize, GapReason, Seq, Topic};
use crate::queue::lanes::{LaneKind, ToSender};
use crate::queue::operator::LimitValues;
use crate::queue::record::Pause;
use crate::queue::{OnExpiry, Overflow, ReplayOrder, Setup, TopicSettings};

#[derive(Clone, Debug)]
enum Op {
    Publish {
        topic: usize,
        key: usize,
        ttl: bool,
        refused: bool,
    },
    Commit(usize),
    Poll(u64),
    Up(bool),
    Down(usize, bool),
    Receive(usize, usize),
    Answer(usize, usize),
    Read(usize, bool),
    Exchange,
    PauseUnit(bool),
    PauseTopic(usize, bool),
    Limit(usize, bool),
    Busy(usize, bool),
    Full(usize, bool),
    Freeze(usize, bool),
    Move(usize),
    Purge(usize),
    Rollback,
    Checkpoint,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..5_usize, 0..4_usize, prop::bool::weighted(0.1), prop::bool::weighted(0.05))
            .prop_map(|(topic, key, ttl, refused)| Op::Publish { topic, key, ttl, refused }),
        8 => (1..6_usize).prop_map(Op::Commit),
        8 => prop_oneof![3 => Just(0_u64), 3 => 1..200_u64, 1 => 1000..20_000_u64].prop_map(Op::Poll),
        3 => any::<bool>().prop_map(Op::Up),
        2 => (0..4_usize, any::<bool>()).prop_map(|(lane, lost)| Op::Down(lane, lost)),
        8 => (0..4_usize, 1..4_usize).prop_map(|(lane, count)| Op::Receive(lane, count)),
        8 => (0..4_usize, 1..4_usize).prop_map(|(lane, count)| Op::Answer(lane, count)),
        6 => (1..3_usize, prop::bool::weighted(0.1)).prop_map(|(count, failed)| Op::Read(count, failed)),
        1 => Just(Op::Exchange),
        1 => any::<bool>().prop_map(Op::PauseUnit),
        1 => (0..5_usize, any::<bool>()).prop_map(|(topic, paused)| Op::PauseTopic(topic, paused)),
        1 => (0..6_usize, any::<bool>()).prop_map(|(topic, some)| Op::Limit(topic, some)),
        1 => (0..4_usize, any::<bool>()).prop_map(|(lane, busy)| Op::Busy(lane, busy)),
        2 => (0..5_usize, any::<bool>()).prop_map(|(topic, full)| Op::Full(topic, full)),
        2 => (0..3_usize, any::<bool>()).prop_map(|(key, on)| Op::Freeze(key, on)),
        2 => (0..3_usize).prop_map(Op::Move),
        1 => (0..30_usize).prop_map(Op::Purge),
        1 => Just(Op::Rollback),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
    ]
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const TOPICS: [&str; 5] = ["t0", "t1", "loose", "last", "small"];

fn topics() -> BTreeMap<String, TopicSettings> {
    let mut topics = loose();
    let newest = TopicSettings {
        ordered: false,
        replay_order: ReplayOrder::NewestFirst,
        on_expiry: OnExpiry::DeadLetter,
        ..TopicSettings::default()
    };
    let small = TopicSettings {
        messages_max: 5,
        overflow: Overflow::DropOldest,
        ..TopicSettings::default()
    };
    topics.insert("last".to_owned(), newest);
    topics.insert("small".to_owned(), small);
    topics
}

/// Small windows, so that all borders are met.
fn narrow(keys_max: usize) -> Setup {
    let mut setup = setup(topics());
    setup.queue.live_bytes_max = ByteSize::bytes(3000);
    setup.queue.lane_bytes_max = ByteSize::bytes(1500);
    setup.queue.batch_bytes = ByteSize::bytes(700);
    setup.queue.backlog_keys_max = keys_max;
    setup
}

/// What operators do.
fn operate(world: &mut World, op: &Op) {
    match op {
        Op::PauseUnit(paused) => {
            let pause = paused.then(|| Pause::for_time("test", Some(Duration::from_secs(5)), world.now.wall));
            world.outbox.pause(pause);
        }
        Op::PauseTopic(topic, paused) => world.outbox.pause_topic(&name(TOPICS[*topic]), *paused),
        Op::Limit(topic, some) => {
            let limits = some.then_some(LimitValues {
                messages_per_second: 20.0,
                bytes_per_second: 10_000,
                burst: 2,
            });
            world
                .outbox
                .limit(TOPICS.get(*topic).map(|topic| name(topic)).as_ref(), limits);
        }
        Op::Purge(at) => {
            let some: Vec<(Seq, Topic)> = world
                .disk
                .iter()
                .skip(*at)
                .step_by(7)
                .map(|(seq, message)| (*seq, message.topic.clone()))
                .collect();
            let mut fx = crate::queue::effects::Effects::default();
            world.outbox.gone(world.now, &some, GapReason::Purged, &mut fx);
            world.take(fx);
        }
        _ => {}
    }
}

/// Does one thing.
fn step(world: &mut World, op: &Op) {
    match op {
        Op::Publish {
            topic,
            key,
            ttl,
            refused,
        } => {
            let key = KEYS.get(*key).copied();
            let message = world.message(TOPICS[*topic], key, 100, ttl.then_some(3000));
            if let Some(seq) = world.publish(message)
                && *refused
            {
                world.receiver.refuses.insert(seq);
            }
        }
        Op::Commit(count) => world.commit(*count),
        Op::Poll(millis) => {
            world.pass(Duration::from_millis(*millis));
            world.poll();
        }
        Op::Up(live) => {
            let kind = if *live { LaneKind::Live } else { LaneKind::Backlog };
            world.lane_up(kind);
        }
        Op::Down(lane, lost) if *lane < world.wires.len() => world.lane_down(*lane, *lost),
        Op::Receive(lane, count) if *lane < world.wires.len() => world.receive(*lane, *count),
        Op::Answer(lane, count) if *lane < world.wires.len() => world.answer(*lane, *count),
        Op::Read(count, failed) => world.read(*count, *failed),
        Op::Exchange => world.exchange(),
        Op::PauseUnit(_) | Op::PauseTopic(..) | Op::Limit(..) | Op::Purge(_) => operate(world, op),
        Op::Busy(lane, busy) if *lane < world.wires.len() && world.wires[*lane].up => {
            let id = world.wires[*lane].id;
            let pushback = busy.then_some(Duration::from_millis(100));
            world.frame(id, ToSender::Busy { pushback });
        }
        Op::Full(topic, true) => _ = world.receiver.full.insert(name(TOPICS[*topic])),
        Op::Full(topic, false) => _ = world.receiver.full.remove(&name(TOPICS[*topic])),
        Op::Freeze(key, true) => _ = world.receiver.frozen.insert(KEYS[*key].into()),
        Op::Freeze(key, false) => _ = world.receiver.frozen.remove(KEYS[*key].as_bytes()),
        Op::Move(key) => {
            let (epoch, ours) = world.receiver.owner(KEYS[*key].as_bytes());
            world.receiver.owners.insert(KEYS[*key].into(), (epoch + 2, !ours));
        }
        Op::Rollback => {
            world.fail_disk();
            world.poll();
        }
        Op::Checkpoint => world.checkpoint(),
        Op::Crash => world.crash(),
        Op::Down(..) | Op::Receive(..) | Op::Answer(..) | Op::Busy(..) => {}
    }
    // Old lanes whose rest was received are of no interest any more.
    if world.wires.len() > 4 {
        world.wires.retain(|wire| wire.up || !wire.out.is_empty());
    }
    if world.wires.len() > 6 {
        let index = world.wires.iter().position(|wire| !wire.up);
        index.map(|index| world.wires.remove(index));
    }
}

/// Everything is allowed and connected again, and comes to its end.
fn finish(world: &mut World) {
    world.outbox.pause(None);
    world.receiver.full.clear();
    world.receiver.frozen.clear();
    for topic in TOPICS {
        world.outbox.pause_topic(&name(topic), false);
        world.outbox.limit(Some(&name(topic)), None);
    }
    world.outbox.limit(None, None);
    for index in 0..world.wires.len() {
        world.receive(index, usize::MAX);
        world.lane_down(index, true);
    }
    world.wires.clear();
    world.connect();
    for _ in 0..100 {
        world.exchange();
        world.pass(Duration::from_millis(700));
    }
    world.exchange();
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_ends_once_and_keys_keep_their_order_whatever_happens(
        ops in prop::collection::vec(op(), 1..200), keys_max in prop::sample::select(vec![4, 1000]),
        routes in any::<bool>(),
    ) {
        // M-A3, M-B2, M-C1, M-E2, M-E3, M-E5, M-G2, M-G8.
        let mut world = World::new(narrow(keys_max));
        world.checks_live = true;
        world.routes = routes;
        for op in &ops {
            step(&mut world, op);
        }
        finish(&mut world);
        world.check_order();
        world.check_books();
        world.check_empty();
        // R2: records can be applied twice; and a restart comes to the same books.
        prop_assert_eq!(world.recovered(2).books(), world.recovered(1).books());
        prop_assert_eq!(world.recovered(1).books(), world.outbox.books());
    }
}
