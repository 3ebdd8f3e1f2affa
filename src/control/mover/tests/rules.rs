//! The rules of the barrier, one by one.

use std::time::Duration;

use super::super::barrier::{Barrier, lease_of, longest_lease};
use super::super::{Plan, Standing};
use super::world::{World, key, name, relay};
use crate::control::store::RelayStanding;
use crate::routing::Routes;
use crate::routing::record::{FreezeAck, Lease, MoveId, Record, Rev, SessionId};

/// Two relays of unit a that have reported the freeze of revision 9, and one of unit b that has not.
fn standing() -> Standing {
    let row = |id: &str, session| RelayStanding {
        relay: relay(id),
        session: SessionId(session),
        succeeds: false,
        silent_for: Some(Duration::ZERO),
        acks: vec![ack(session)],
    };
    let mut relays = vec![row("a-1", 1), row("a-2", 2), row("b-1", 3)];
    relays[2].acks.clear();
    Standing { at: Rev(9), relays }
}

fn ack(session: u64) -> FreezeAck {
    FreezeAck {
        session: SessionId(session),
        by: MoveId(5),
        node: key(1),
        rev: Rev(9),
        drained: true,
        held_by: None,
    }
}

/// What a barrier of revision 9 says of a standing that was changed.
fn asked<R>(change: impl FnOnce(&mut Standing), lease: Lease, ask: impl FnOnce(&Barrier<'_>, &Standing) -> R) -> R {
    let mut standing = standing();
    change(&mut standing);
    let (node, unit) = (key(1), name("a"));
    let barrier = Barrier {
        by: MoveId(5),
        node: &node,
        rev: Rev(9),
        units: vec![&unit],
        lease,
        in_flight_max: Duration::from_secs(10),
    };
    ask(&barrier, &standing)
}

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is one for a single lifetime"
)]
fn is_passed(change: impl FnOnce(&mut Standing), lease: Lease) -> bool {
    asked(change, lease, |barrier, standing| barrier.is_passed(standing))
}

// R-I10, R-R6, V2
#[test]
fn every_relay_of_the_unit_reports_this_freeze_drained_or_the_barrier_holds() {
    let lease = Lease::Seconds(20);
    let check = |change: fn(&mut Standing)| is_passed(change, lease);
    assert!(check(|_| {}));
    assert!(
        !check(|standing| standing.at = Rev(8)),
        "asked before the freeze was known"
    );
    assert!(
        !check(|standing| standing.relays[1].acks.clear()),
        "one has not reported"
    );
    assert!(
        !check(|standing| standing.relays[0].acks[0].rev = Rev(7)),
        "of an earlier freeze"
    );
    assert!(
        !check(|standing| standing.relays[0].acks[0].drained = false),
        "something runs"
    );
    assert!(
        !check(|standing| standing.relays[0].acks[0].by = MoveId(6)),
        "of another move"
    );
    assert!(
        !check(|standing| standing.relays[0].acks[0].node = key(2)),
        "of another node"
    );
    assert!(
        !check(|standing| standing.relays[0].session = SessionId(8)),
        "of another life"
    );
    assert!(check(|standing| drop(standing.relays.remove(0))), "it was forgotten");
}

// S2: the same before a freeze, but for who is silent. What was heard before the move of the node began may leave out a relay that
// has come since, and what a relay said in another life was about other messages.
#[test]
fn few_messages_wait_when_every_relay_that_is_heard_of_has_said_so_of_this_move() {
    let check = |change: fn(&mut Standing)| {
        asked(change, Lease::Infinite, |barrier, standing| {
            barrier.has_many(Some(standing), Duration::from_secs(3))
        })
    };
    let at = |id: &str| Ok(Some(relay(id)));
    assert_eq!(check(|_| {}), Ok(None));
    assert_eq!(
        check(|standing| standing.at = Rev(8)),
        Err(()),
        "asked before it had begun"
    );
    assert_eq!(check(|standing| standing.relays[1].acks.clear()), at("a-2"));
    assert_eq!(
        check(|standing| standing.relays[1].session = SessionId(8)),
        at("a-2"),
        "of another life"
    );
    assert_eq!(check(|standing| standing.relays[0].acks[0].rev = Rev(7)), at("a-1"));
    assert_eq!(check(|standing| standing.relays[0].acks[0].by = MoveId(6)), at("a-1"));
    assert_eq!(check(|standing| standing.relays[0].acks[0].drained = false), at("a-1"));
    let silent = |seconds| {
        let change = |standing: &mut Standing| {
            standing.relays[0].acks.clear();
            standing.relays[0].silent_for = Some(Duration::from_secs(seconds));
        };
        asked(change, Lease::Infinite, |barrier, standing| {
            barrier.has_many(Some(standing), Duration::from_secs(3))
        })
    };
    assert_eq!((silent(2), silent(3)), (at("a-1"), Ok(None)));
}

// R-D7
#[test]
fn a_silent_relay_has_stopped_when_its_lease_and_what_it_admitted_are_over() {
    let silent = |seconds: Option<u64>, lease| {
        let change = |standing: &mut Standing| {
            standing.relays[0].acks.clear();
            standing.relays[0].silent_for = seconds.map(Duration::from_secs);
        };
        is_passed(change, lease)
    };
    assert!(!silent(Some(29), Lease::Seconds(20)));
    assert!(silent(Some(30), Lease::Seconds(20)));
    assert!(silent(None, Lease::Seconds(20)));
    assert!(!silent(Some(3609), Lease::Seconds(3600)) && silent(Some(3610), Lease::Seconds(3600)));
    assert!(silent(None, Lease::Seconds(3600)), "the longest there may be");
    assert!(
        !silent(None, Lease::Seconds(7191)),
        "the store does not remember for so long"
    );
    assert!(!silent(Some(1_000_000), Lease::Infinite) && !silent(None, Lease::Infinite));
}

#[test]
fn keys_that_follow_others_are_admitted_by_their_own_lease() {
    let world = World::new(&["a-1"], &[]);
    let mut book = world.ledger.book().unwrap().clone();
    let claims = serde_json::json!({ "claim": [{ "follow": "cid" }] });
    book.dimensions[1].placement = serde_json::from_value(claims).unwrap();
    let mut world = world;
    let before = Routes::from_snapshot(&world.ledger.snapshot());
    assert_eq!(lease_of(&before, &name("cid")), Lease::Seconds(20));
    world.put(Record::Book(book));
    let routes = Routes::from_snapshot(&world.ledger.snapshot());
    assert_eq!(lease_of(&routes, &name("cid")), Lease::Infinite);
    assert_eq!(longest_lease(&routes, false), Lease::Infinite);
    assert_eq!(longest_lease(&routes, true), Lease::Seconds(20));
}

// V1: two movers that see the same say the same, except who drives.
#[test]
fn the_same_step_is_the_same_operation() {
    let mut world = World::new(&["a-1", "b-1"], &[0, 0]);
    let work = world.work(5, "b", vec![key(1), key(2)]);
    world.put(Record::Move(work));
    world.feed(0);
    let [one, other]: [Plan; 2] = [0, 1].map(|pilot| world.look(pilot));
    assert_eq!(one, other);
    assert_eq!(one.acts.len(), 2);
    assert_eq!(world.look(0).acts, [], "what was asked is waited for");
}
