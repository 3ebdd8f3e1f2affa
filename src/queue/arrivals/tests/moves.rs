//! Messages whose key is about to move, or has moved.

use super::*;
use crate::queue::lanes::{FROZEN, MOVED};
use crate::queue::planted::plant;

fn moved() -> Verdict {
    Verdict::Moved {
        unit: name("c"),
        epoch: 9,
        ordered: true,
    }
}

fn frozen() -> Verdict {
    Verdict::Frozen {
        detail: String::new(),
        ordered: true,
    }
}

fn keyed() -> World {
    let mut world = World::new();
    world.keyed = true;
    world
}

/// Taken, not acknowledged, and sent again when its key has moved: what it is answered with.
fn sent_again() -> Vec<(Seq, String)> {
    let mut world = keyed();
    let lane = world.open(1);
    world.send(lane, 1, &[1]);
    world.arrivals.on_lane_down(lane);
    world.commit(usize::MAX);
    world.gate.elsewhere = Some(moved());
    let lane = world.open(1);
    world.send(lane, 1, &[1]);
    world.commit(usize::MAX);
    assert_eq!((world.acked(lane), world.stored()), (1, vec![1]));
    world.refused(lane)
}

#[test]
fn what_was_taken_before_its_key_moved_is_acknowledged_as_taken() {
    // M-B2, D1
    assert_eq!(sent_again(), []);
    plant(Some(Bug::MovedBeforeDedup));
    let wrong = sent_again();
    plant(None);
    assert_eq!(wrong, [(1, MOVED.to_owned())], "the bug that this would find");
}

#[test]
fn behind_what_moved_nothing_of_its_key_is_taken_until_the_sender_says_that_it_will_not_come() {
    // M-C1, M-C3, T3: the key comes back to this unit while later messages of it are under way.
    let mut world = keyed();
    let lane = world.open(1);
    world.gate.elsewhere = Some(moved());
    world.send(lane, 1, &[1]);
    world.gate.elsewhere = None;
    world.send(lane, 2, &[2]);
    world.send_of(lane, 3, &[3], b"2");
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [3]);
    let refused = [(1, MOVED.to_owned()), (2, FROZEN.to_owned())];
    assert_eq!(world.refused(lane), refused);
    world.gap(lane, 4, (1, 2));
    world.send(lane, 5, &[4]);
    world.commit(usize::MAX);
    assert_eq!((world.stored(), world.acked(lane)), (vec![3, 4], 5));
}

#[test]
fn a_key_that_is_about_to_move_comes_again_in_its_order_and_holds_up_no_other() {
    // M-C1, M-C3
    let mut world = keyed();
    let (live, backlog) = (world.open(1), world.open(1));
    world.gate.elsewhere = Some(frozen());
    world.send(live, 1, &[1, 2]);
    world.send_of(live, 2, &[3], b"2");
    world.gate.elsewhere = None;
    // The second one comes first, on the other lane.
    world.send(backlog, 1, &[2]);
    world.send(backlog, 2, &[1]);
    world.send(backlog, 3, &[2]);
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [3, 1, 2]);
    assert_eq!(world.refused(backlog), [(2, FROZEN.to_owned())]);
}

#[test]
fn what_has_to_come_again_goes_with_its_lanes() {
    // T2
    let mut world = keyed();
    let lane = world.open(1);
    world.gate.elsewhere = Some(moved());
    world.send(lane, 1, &[1]);
    world.gate.elsewhere = None;
    world.arrivals.on_lane_down(lane);
    let lane = world.open(1);
    world.send(lane, 1, &[2]);
    world.commit(usize::MAX);
    assert_eq!(world.stored(), [2]);
}
