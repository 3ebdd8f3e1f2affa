//! What waits for a unit that was evacuated (`outbox::stranded`).

use super::moves::{other, world};
use super::*;
use crate::model::AckLevel::{Accepted, Delivered};

#[test]
fn what_waits_for_a_unit_that_was_evacuated_goes_to_those_who_have_its_keys() {
    // E1, R-3.10, M-C1, M-G8: nobody of that unit is there to say so.
    let (mut world, says) = world(Owner::Unknown);
    let tickets = [Accepted, Delivered].map(|wait| world.publish_routed("b", 5, wait));
    says.now(other("c", 9));
    world.input(Input::Routes);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.row("b"), (2, 0, 0, 0), "a move that is under way is no reason");
    says.1.lock().unwrap().push(name("b"));
    world.input(Input::Routes);
    world.pass(Duration::from_secs(3));
    assert_eq!((world.row("b"), world.row("c")), ((2, 0, 2, 0), (2, 0, 0, 0)));
    world.publish_routed("c", 9, Accepted);
    world.restart();
    world.lane_up(1, "c", LaneKind::Live);
    let backlog = world.lane_up(2, "c", LaneKind::Backlog);
    assert_eq!(world.numbers(backlog), [1, 2, 3]);
    assert!(
        tickets
            .into_iter()
            .all(|ticket| world.told(ticket).iter().all(Result::is_ok))
    );
}

#[test]
fn a_unit_that_was_evacuated_and_is_there_says_itself_where_its_keys_have_gone() {
    // E1
    let (mut world, says) = world(other("c", 9));
    says.1.lock().unwrap().push(name("b"));
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish_routed("b", 5, Accepted);
    world.input(Input::Routes);
    world.pass(Duration::from_secs(3));
    assert_eq!((world.row("b"), world.numbers(lane)), ((1, 0, 0, 0), vec![1]));
    // It goes away without an answer: perhaps it has the message.
    world.input(Input::LaneDown(lane));
    world.pass(Duration::from_secs(3));
    assert_eq!((world.row("b"), world.row("c")), ((1, 0, 1, 0), (1, 0, 0, 0)));
}

// E2, M-C1. Symptom: of a key that was about to move when its unit was evacuated, later messages went to the new owner before earlier ones,
// and what was published then went past these. Cause: the search had passed by the earlier ones, met a later one when the move was over,
// and took the key out from that one on. Fix: from its first message on.
#[test]
fn what_waits_for_a_unit_that_was_evacuated_leaves_in_its_order_though_its_key_was_about_to_move() {
    let (mut world, says) = world(Owner::Unknown);
    for _ in 0..2 {
        world.publish_routed("b", 5, Accepted);
    }
    says.now(Owner::Frozen);
    says.1.lock().unwrap().push(name("b"));
    world.input(Input::Routes);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.row("b"), (2, 0, 0, 0));
    // Other routes are in force before the queue is told.
    says.now(other("c", 9));
    world.publish_routed("b", 5, Accepted);
    world.pass(Duration::from_secs(3));
    world.input(Input::Routes);
    world.pass(Duration::from_secs(3));
    world.publish_routed("c", 9, Accepted);
    world.lane_up(1, "c", LaneKind::Live);
    let backlog = world.lane_up(2, "c", LaneKind::Backlog);
    assert_eq!(
        (world.row("b"), world.numbers(backlog)),
        ((3, 0, 3, 0), vec![1, 2, 3, 4])
    );
}
