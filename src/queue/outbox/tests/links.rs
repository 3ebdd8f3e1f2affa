//! States of the link, what the peer has, pauses.

use std::time::Duration;

use super::super::ledger::Ledger;
use super::world::{World, arrived, connected, loose, name, setup, state};
use crate::model::GapReason;
use crate::queue::effects::{Effects, Told};
use crate::queue::lanes::{GAP_SPAN_MAX, LaneKind, ToReceiver, ToSender};
use crate::queue::line::Settled;
use crate::queue::record::Pause;

#[test]
fn the_state_of_the_link_is_the_truth() {
    // M-G1.
    let mut world = World::new(setup(loose()));
    assert_eq!(state(&world), "connecting");
    world.lane_up(LaneKind::Live);
    let backlog = world.lane_up(LaneKind::Backlog);
    assert_eq!(state(&world), "connecting");
    world.put("t0", Some("a"));
    world.exchange();
    assert_eq!(state(&world), "live");
    world.all_down();
    assert_eq!(state(&world), "down");
    world.put("t0", Some("a"));
    world.lane_up(LaneKind::Live);
    world.lane_up(LaneKind::Backlog);
    for index in [0, 1] {
        assert_eq!(state(&world), "connecting", "what waits has no lane yet");
        world.receive(index, 1);
        world.answer(index, 1);
    }
    assert_eq!(state(&world), "draining");
    world.exchange();
    assert_eq!(state(&world), "live");
    world.outbox.pause(Some(Pause::for_time("works", None, world.now.wall)));
    assert_eq!(state(&world), "paused");
    world.outbox.pause(None);
    world.all_down();
    world.receiver.deny = true;
    world.connect();
    assert_eq!(state(&world), "denied");
    assert_ne!(backlog.0, 0);
    world.receiver.deny = false;
    world.wires.clear();
    world.connect();
    assert_eq!(state(&world), "live");
}

#[test]
fn a_link_where_nothing_moves_is_stalled_after_10_s_and_made_anew_after_15() {
    // M-G1: a black-holed path is seen within 15 s; never `live` while nothing moves.
    let mut world = connected();
    world.pass(Duration::from_secs(60));
    world.poll();
    assert_eq!(state(&world), "live", "without work, nothing has to move");
    world.put("t0", Some("a"));
    world.poll();
    let began = world.now.mono;
    loop {
        let next = world.poll().unwrap();
        let age = world.now.mono.saturating_sub(began);
        if !world.wires[0].up {
            assert_eq!(age, Duration::from_secs(15));
            assert_eq!(state(&world), "connecting");
            break;
        }
        assert_eq!(
            state(&world) == "stalled",
            age >= Duration::from_secs(10),
            "after {age:?}"
        );
        world.now.mono = next.min(world.now.mono + Duration::from_millis(500));
    }
    assert!(world.wires[1].up, "the other lane owes nothing");
    world.wires[0].out.clear();
    world.lane_up(LaneKind::Live);
    world.exchange();
    assert_eq!(arrived(&world), [1]);
}

#[test]
fn a_relay_that_is_busy_is_stalled_but_its_lane_stays() {
    let mut world = connected();
    let id = world.wires[0].id;
    world.put("t0", None);
    world.poll();
    world.frame(
        id,
        ToSender::Busy {
            pushback: Some(Duration::from_secs(1)),
        },
    );
    world.pass(Duration::from_secs(20));
    world.poll();
    assert_eq!(state(&world), "stalled");
    assert!(world.wires[0].up);
    world.frame(id, ToSender::Busy { pushback: None });
    world.exchange();
    assert_eq!(state(&world), "live");
}

#[test]
fn what_the_peer_has_is_not_sent_again() {
    // M-B2.
    let mut world = connected();
    for _ in 0..4 {
        world.put("t0", Some("a"));
    }
    world.poll();
    world.receive(0, 1);
    world.wires[0].back.clear();
    world.all_down();
    world.put("t1", Some("b"));
    world.connect();
    world.exchange();
    assert_eq!(arrived(&world), [1, 2, 3, 4, 5]);
    assert_eq!(world.receiver.duplicates, 0);
    world.pass(Duration::from_secs(1));
    world.exchange();
    assert_eq!((world.row("t0").relayed, world.row("t1").relayed), (4, 1));
    world.check_empty();
}

#[test]
fn what_the_peer_has_of_the_backlog_is_not_sent_again_either() {
    // M-B2.
    let mut world = World::new(setup(loose()));
    for _ in 0..4 {
        world.put("t0", Some("a"));
    }
    world.connect_without_exchange();
    world.poll();
    world.read(1, false);
    world.poll();
    world.receive(1, 1);
    assert_eq!(arrived(&world).len(), 4);
    world.wires[1].back.clear();
    world.all_down();
    world.crash();
    world.connect();
    assert_eq!(world.receiver.duplicates, 0);
    assert_eq!(world.relayed.len(), 4);
}

#[test]
fn a_peer_that_knows_more_means_another_epoch() {
    // M-A1: the log was restored.
    let mut world = World::new(setup(loose()));
    world.receiver.seen.insert_range(1, 10);
    world.put("t0", Some("a"));
    world.connect();
    assert!(world.outbox.wants_new_epoch());
    assert!(world.wires.iter().all(|wire| !wire.up && wire.out.is_empty()));
    world.outbox.set_epoch(8);
    // Another stream, as far as the peer is concerned.
    world.receiver.seen = Settled::default();
    world.wires.clear();
    world.lane_up(LaneKind::Backlog);
    assert!(matches!(
        world.wires[0].out[0],
        ToReceiver::Open { epoch: 8, base: 1, .. }
    ));
    world.exchange();
    assert!(!world.outbox.wants_new_epoch());
    assert_eq!(arrived(&world), [1]);
}

#[test]
fn a_peer_that_tells_of_numbers_that_were_never_given_is_not_believed() {
    // M-G7: to remember these runs would take all memory.
    let mut world = World::new(setup(loose()));
    world.put("t0", Some("a"));
    let lane = world.lane_up(LaneKind::Live);
    let opened = ToSender::Opened {
        frontier: 0,
        above: vec![(3, 1 << 62)],
        highest: 0,
    };
    world.outbox.on_frame(world.now, lane, opened, &mut Effects::default());
    assert!(world.outbox.wants_new_epoch());
}

#[test]
fn a_gap_is_told_in_parts_that_the_peer_takes() {
    // M-G2, M-G7.
    let mut ledger = Ledger::default();
    ledger.gap(1, 5 + 2 * GAP_SPAN_MAX, GapReason::Purged);
    let mut told = 0;
    while let Some(((from, to), _)) = ledger.tell() {
        assert!(from == told + 1 && to - from <= GAP_SPAN_MAX, "{from} to {to}");
        told = to;
    }
    assert_eq!(told, 5 + 2 * GAP_SPAN_MAX);
}

#[test]
fn a_new_epoch_means_new_lanes() {
    // M-A1: the peer of another unit had noticed that the log was restored.
    let mut world = connected();
    world.put("t0", Some("a"));
    world.poll();
    world.outbox.set_epoch(8);
    world.poll();
    assert!(world.wires.iter().all(|wire| !wire.up));
    world.wires.clear();
    world.connect();
    world.exchange();
    assert_eq!(arrived(&world), [1]);
}

#[test]
fn a_pause_ends_by_itself_and_publishing_goes_on_meanwhile() {
    // M-H3.
    let mut world = connected();
    world.outbox.pause(Some(Pause::for_time(
        "works",
        Some(Duration::from_secs(60)),
        world.now.wall,
    )));
    world.put("t0", Some("a"));
    world.exchange();
    assert_eq!(arrived(&world), [0; 0]);
    let status = world.outbox.status(world.now);
    assert_eq!((status.state.as_str(), status.detail.as_str()), ("paused", "works"));
    let wake = world.poll().unwrap();
    assert_eq!(wake, world.now.mono + Duration::from_secs(60));
    world.pass(Duration::from_secs(60));
    world.exchange();
    assert_eq!(
        world.receiver.arrivals,
        [(1, LaneKind::Backlog)],
        "accepted while paused: backlog (M-D1)"
    );
}

#[test]
fn a_paused_topic_holds_up_no_other() {
    // M-H3.
    let mut world = World::new(setup(loose()));
    world.put("t0", Some("a"));
    world.put("t1", Some("a"));
    world.outbox.pause_topic(&name("t0"), true);
    world.put("t0", Some("a"));
    world.connect();
    world.put("t0", Some("b"));
    world.put("t1", Some("a"));
    world.exchange();
    assert_eq!(arrived(&world), [2, 5]);
    world.outbox.pause_topic(&name("t0"), false);
    world.exchange();
    assert_eq!(arrived(&world), [2, 5, 1, 3, 4]);
    world.put("t0", Some("a"));
    assert_eq!(world.outbox.status(world.now).live, 1);
}

#[test]
fn publishers_that_wait_for_delivery_are_told() {
    let mut world = World::new(setup(loose()));
    let message = world.message("t0", Some("a"), 1, None);
    let mut fx = Effects::default();
    world.outbox.assign();
    world.accepted.insert(1, message.clone());
    world.disk.insert(1, message.clone());
    world.outbox.on_stored(world.now, 1, &message, true, &mut fx);
    let lane = world.lane_up(LaneKind::Backlog);
    world.receive(0, 1);
    world.answer(0, 1);
    world.poll();
    world.read(1, false);
    world.poll();
    let Some(ToReceiver::Messages { messages, .. }) = world.wires[0].out.front() else {
        panic!()
    };
    assert!(messages[0].tell_delivered);
    let delivered = ToSender::Delivered { seqs: vec![1] };
    world.outbox.on_frame(world.now, lane, delivered, &mut fx);
    assert_eq!(
        fx.told,
        [Told::Delivered {
            unit: name("there"),
            seqs: vec![1]
        }]
    );
}
