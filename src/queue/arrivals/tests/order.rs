//! What is taken, and when that is said.

use super::*;

#[test]
fn a_lower_number_that_did_not_arrive_is_no_duplicate() {
    // M-B2: send 3, 4, 5; fail only 3; send 3 again: stored. On two lanes, and across a lost lane and a restart.
    for restarts in [false, true] {
        let mut world = World::new();
        let live = world.open(3);
        assert_eq!(world.said[&live], [opened(2, &[], 2)]);
        world.send(live, 1, &[4, 5]);
        world.commit(usize::MAX);
        world.take_snapshot();
        world.arrivals.on_lane_down(live);
        if restarts {
            world.restart(10);
        }
        let backlog = world.open(3);
        assert_eq!(world.said[&backlog], [opened(2, &[(4, 5)], 5)]);
        let live = world.open(3);
        world.send(live, 1, &[4]);
        world.send(backlog, 1, &[3]);
        world.commit(usize::MAX);
        assert_eq!(world.stored(), [4, 5, 3]);
        assert_eq!((world.acked(live), world.acked(backlog)), (1, 1));
        let last = world.open(3);
        assert_eq!(world.said[&last], [opened(5, &[], 5)]);
    }
}

#[test]
fn a_batch_is_acknowledged_when_it_is_on_disk() {
    // M-A2, A2: duplicates wait for the first copy.
    let mut world = World::new();
    let (live, backlog) = (world.open(1), world.open(1));
    world.send(live, 1, &[1, 2]);
    world.send(backlog, 1, &[1, 2]);
    world.commit(1);
    assert_eq!((world.acked(live), world.acked(backlog)), (0, 0));
    world.commit(1);
    assert_eq!((world.acked(live), world.acked(backlog)), (0, 0));
    world.commit(2);
    assert_eq!((world.acked(live), world.acked(backlog)), (1, 1));
    assert_eq!(world.stored(), [1, 2]);
    world.send(live, 2, &[2]);
    world.commit(1);
    assert_eq!(world.acked(live), 2);
}

#[test]
fn what_did_not_reach_the_disk_is_taken_when_it_is_sent_again() {
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[1, 2, 3]);
    world.commit(1);
    world.disk_fails();
    assert_eq!(world.acked(lane), 0);
    assert!(world.closed.contains_key(&lane));
    let lane = world.open(1);
    assert_eq!(world.said[&lane], [opened(1, &[], 1)]);
    world.send(lane, 1, &[1, 2, 3]);
    world.commit(usize::MAX);
    assert_eq!((world.stored(), world.acked(lane)), (vec![1, 2, 3], 1));
}

#[test]
fn a_number_is_skipped_by_a_record_only() {
    // M-G2.
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[1, 4]);
    world.gap(lane, 2, (2, 3));
    world.commit(3);
    assert_eq!(world.arrivals.streams[&stream()].seen.frontier(), 1);
    world.commit(2);
    assert_eq!(world.acked(lane), 2);
    assert_eq!(world.arrivals.streams[&stream()].seen.frontier(), 4);
    assert!(world.log.contains(&Record::Skipped {
        stream: stream(),
        seqs: (2, 3),
        reason: GapReason::Purged
    }));
    // Said again, it needs no record.
    world.gap(lane, 3, (2, 3));
    world.commit(1);
    assert_eq!((world.acked(lane), world.log.len()), (3, 3));
}

#[test]
fn a_refused_message_does_not_stop_the_lane() {
    // M-E5.
    let mut world = World::new();
    world.gate.refused.insert(2);
    let lane = world.open(1);
    world.send(lane, 1, &[1, 2, 3]);
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [1, 3]);
    let refused = Refused {
        seq: 2,
        reason: "too_large".to_owned(),
        detail: String::new(),
    };
    let ack = ToSender::Ack {
        batch: 1,
        refused: vec![refused],
    };
    assert_eq!(world.said[&lane].last(), Some(&ack));
    // Its sender makes it a dead letter and says so.
    world.gap(lane, 2, (2, 2));
    world.commit(usize::MAX);
    assert_eq!(world.arrivals.streams[&stream()].seen.frontier(), 3);
}

#[test]
fn what_a_full_topic_did_not_take_comes_again_before_what_is_behind_it() {
    // M-C1, M-C3: 2 is refused as full, there is room again, and 3 of the same topic is under way.
    let mut world = World::new();
    world.keyed = true;
    let (live, backlog) = (world.open(1), world.open(1));
    world.send(live, 1, &[1]);
    world.gate.full = true;
    world.send(live, 2, &[2]);
    world.gate.full = false;
    world.send(live, 3, &[3]);
    world.send(backlog, 1, &[2]);
    world.send(live, 4, &[4]);
    world.send(backlog, 2, &[3, 4, 5]);
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [1, 2, 3, 4, 5]);
    let refused = |lane: LaneId| -> Vec<Seq> {
        let frames = world.said[&lane].iter();
        let refused = frames.flat_map(|frame| match frame {
            ToSender::Ack { refused, .. } => refused.clone(),
            _ => Vec::new(),
        });
        let seq = |refused: Refused| {
            assert_eq!(refused.reason, FULL);
            refused.seq
        };
        refused.map(seq).collect()
    };
    assert_eq!((refused(live), refused(backlog)), (vec![2, 3, 4], vec![]));
    assert_eq!((world.acked(live), world.acked(backlog)), (4, 2));
}

#[test]
fn nobody_waits_for_what_will_not_come_again() {
    // M-C3: it became a gap, or the lanes it came on are gone, and so perhaps its sender with them.
    type Ends = fn(&mut World, LaneId);
    let cases: [Ends; 2] = [
        |world, lane| world.gap(lane, 2, (1, 1)),
        |world, lane| {
            world.arrivals.on_lane_down(lane);
        },
    ];
    for ends in cases {
        let mut world = World::new();
        world.keyed = true;
        let (live, backlog) = (world.open(1), world.open(1));
        world.gate.full = true;
        world.send(live, 1, &[1]);
        world.gate.full = false;
        world.send(backlog, 1, &[2]);
        world.commit(usize::MAX);
        assert_eq!(world.stored(), [0; 0]);
        ends(&mut world, live);
        // What was refused behind it goes with its own lane.
        world.arrivals.on_lane_down(backlog);
        let backlog = world.open(1);
        world.send(backlog, 1, &[3]);
        world.commit(usize::MAX);
        assert_eq!(world.stored(), [3]);
    }
}

#[test]
fn while_busy_nothing_is_taken_and_the_order_stays() {
    // A3, M-D5.
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[1]);
    world.gate.busy = true;
    world.send(lane, 2, &[2, 3]);
    world.gate.busy = false;
    world.send(lane, 3, &[4]);
    world.gap(lane, 4, (5, 5));
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [1]);
    let pushback = Some(Duration::from_millis(100));
    assert_eq!(
        world.said[&lane][1..],
        [
            ToSender::Busy { pushback },
            ToSender::Ack {
                batch: 1,
                refused: Vec::new()
            }
        ]
    );
    assert_eq!(world.poll(), pushback);
    world.now.mono += Duration::from_millis(100);
    assert_eq!(world.poll(), None);
    world.commit(usize::MAX);
    assert_eq!((world.stored(), world.acked(lane)), (vec![1, 2, 3, 4], 4));
    assert!(world.said[&lane].contains(&ToSender::Busy { pushback: None }));

    // The same for all lanes, by the disk.
    let mut fx = Effects::default();
    world.arrivals.set_busy(pushback, &mut fx);
    world.absorb(fx);
    world.send(lane, 5, &[6]);
    let other = world.open(1);
    assert_eq!(world.said[&other][1..], [ToSender::Busy { pushback }]);
    world.poll();
    world.commit(usize::MAX);
    assert_eq!(world.acked(lane), 4);
    let mut fx = Effects::default();
    world.arrivals.set_busy(None, &mut fx);
    world.absorb(fx);
    world.poll();
    world.commit(usize::MAX);
    assert_eq!((world.acked(lane), world.stored()), (5, vec![1, 2, 3, 4, 6]));
    assert_eq!(world.said[&other].last(), Some(&ToSender::Busy { pushback: None }));
}
