//! What senders may do, and what they hear.

use super::*;

#[test]
fn a_sender_that_breaks_the_rules_loses_its_lane() {
    type Breaks = fn(&mut World, LaneId);
    let cases: [Breaks; 9] = [
        |world, lane| world.send(lane, 2, &[1]),
        |world, lane| {
            world.send(lane, 1, &[1]);
            world.send(lane, 1, &[2]);
        },
        |world, lane| {
            let frame = ToReceiver::Open {
                epoch: 7,
                kind: LaneKind::Live,
                base: 1,
            };
            world.frame(lane, frame, 0);
        },
        |world, lane| world.send(lane, 1, &[0]),
        |world, lane| world.gap(lane, 1, (2, Seq::MAX)),
        |world, lane| world.gap(lane, 1, (3, 2)),
        // D5, M-G7.
        |world, lane| world.gap(lane, 1, (2, 3 + GAP_SPAN_MAX)),
        |world, lane| world.send(lane, 1, &[1 << 41]),
        |world, lane| {
            let mut message = message(1);
            message.visited.push(name("b"));
            let sent = Sent {
                seq: 1,
                tell_delivered: false,
                message,
            };
            let frame = ToReceiver::Messages {
                batch: 1,
                messages: vec![sent],
            };
            world.frame(lane, frame, 10);
        },
    ];
    for breaks in cases {
        let mut world = World::new();
        let lane = world.open(1);
        breaks(&mut world, lane);
        assert!(world.closed.contains_key(&lane), "{:?}", world.said);
        // What it still says is not heard.
        world.send(lane, 1, &[9]);
        world.commit(usize::MAX);
        assert!(!world.stored().contains(&9));
        let skips = |record: &Record| matches!(record, Record::Skipped { .. });
        assert!(!world.log.iter().any(skips), "{:?}", world.log);
    }
    let mut world = World::new();
    let lane = LaneId(9);
    world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
    world.send(lane, 1, &[1]);
    assert!(world.closed.contains_key(&lane), "messages before Open");
}

#[test]
fn a_sender_may_have_so_much_without_acknowledgement_and_no_more() {
    let mut world = World::new();
    let limit = Settings::default().lane_bytes_max.as_usize() * LIMIT_FACTOR;
    let lane = world.open(1);
    let send = |world: &mut World, batch: u64, bytes: usize| {
        let sent = Sent {
            seq: batch,
            tell_delivered: false,
            message: message(batch),
        };
        let messages = vec![sent];
        world.frame(lane, ToReceiver::Messages { batch, messages }, bytes);
        world.closed.contains_key(&lane)
    };
    assert!(!send(&mut world, 1, limit / 2) && !send(&mut world, 2, limit / 2));
    world.commit(2);
    assert!(!send(&mut world, 3, limit / 2), "the first is on disk");
    world.commit(usize::MAX);
    assert!(!send(&mut world, 4, 10), "and then a long one");
    assert!(
        !send(&mut world, 5, 2 * limit),
        "how long one is, is for the sender to say"
    );
    assert!(send(&mut world, 6, 1));
}

#[test]
fn what_a_sender_is_done_with_is_not_waited_for() {
    let mut world = World::new();
    // The first contact begins where the sender says.
    let lane = world.open(100);
    assert_eq!(world.said[&lane], [opened(99, &[], 99)]);
    world.send(lane, 1, &[100, 102]);
    world.commit(usize::MAX);
    assert!(world.log.iter().all(|record| matches!(record, Record::Stored(_))));
    // State that was lost here is counted.
    let _ = world.open(105);
    world.commit(usize::MAX);
    let skipped = |world: &World| {
        let skipped = world.log.iter().filter_map(|record| match record {
            Record::Skipped { seqs, reason, .. } => Some((*seqs, *reason)),
            _ => None,
        });
        skipped.collect::<Vec<_>>()
    };
    assert_eq!(skipped(&world), [((101, 104), GapReason::Corrupted)]);
    assert_eq!(world.arrivals.streams[&stream()].seen.frontier(), 104);
    // Records alone do not say where a stream begins: nothing was lost.
    world.restart(0);
    let lane = world.open(106);
    assert_eq!(world.said[&lane], [opened(105, &[], 105)]);
    assert_eq!(skipped(&world).len(), 1);
    // A snapshot does: what is missing then is counted (M-G2).
    world.take_snapshot();
    world.restart(0);
    let _ = world.open(110);
    world.commit(usize::MAX);
    assert_eq!(skipped(&world)[1..], [((106, 109), GapReason::Corrupted)]);
}

#[test]
fn a_sender_hears_of_deliveries_it_waits_for() {
    // M-A2, on any lane of the pair.
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[11, 12, 13]);
    world.commit(usize::MAX);
    world.arrivals.on_lane_down(lane);
    let other = world.open(1);
    let mut fx = Effects::default();
    for inbox in [1, 3, 3, 99] {
        world.arrivals.on_done(&name("t"), inbox, &mut fx);
    }
    world.absorb(fx);
    assert_eq!(
        world.said[&other].last(),
        Some(&ToSender::Delivered { seqs: vec![11, 13] })
    );
}

#[test]
fn a_sender_hears_of_a_message_that_a_group_gave_up_and_its_place_is_free() {
    // M-A2
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[11, 12]);
    world.commit(usize::MAX);
    assert_eq!(world.arrivals.awaited.len(), 2);
    let why = Why {
        reason: "attempts".to_owned(),
        detail: "it is a dead letter: no".to_owned(),
    };
    let mut fx = Effects::default();
    for _ in 0..2 {
        world.arrivals.on_given_up(&name("t"), 1, &why, &mut fx);
    }
    world.arrivals.on_done(&name("t"), 1, &mut fx);
    world.absorb(fx);
    let ended = vec![Refused {
        seq: 11,
        reason: why.reason,
        detail: why.detail,
    }];
    assert_eq!(world.said[&lane].last(), Some(&ToSender::Ended { ended }));
    assert_eq!(world.arrivals.awaited.len(), 1);
    // Whoever waited in a life of the log that is forgotten waits no more.
    for epoch in 8..20 {
        let lane = LaneId(100 + epoch);
        world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
        let (kind, base) = (LaneKind::Live, 1);
        world.frame(lane, ToReceiver::Open { epoch, kind, base }, 0);
    }
    assert!(world.arrivals.awaited.is_empty());
}

#[test]
fn the_unit_is_added_to_those_a_message_has_visited() {
    // M-G3.
    let mut world = World::new();
    world.arrivals.unit = Some(name("b"));
    let lane = world.open(1);
    world.send(lane, 1, &[1]);
    world.commit(1);
    let Record::Stored(stored) = &world.log[0] else {
        panic!()
    };
    assert_eq!(stored.message.visited, [name("a"), name("b")]);
}

#[test]
fn few_lives_of_a_log_are_remembered() {
    let mut world = World::new();
    for epoch in 1..20 {
        let lane = LaneId(epoch);
        world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
        let (kind, base) = (LaneKind::Live, 1);
        world.frame(lane, ToReceiver::Open { epoch, kind, base }, 0);
    }
    let lives: Vec<_> = world.arrivals.streams.keys().map(|id| id.epoch).collect();
    assert_eq!(lives, (12..20).collect::<Vec<_>>());
}
