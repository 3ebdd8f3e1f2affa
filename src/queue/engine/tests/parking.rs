//! Publications that wait until it is known where they go.

use std::sync::Mutex;

use super::moves::{Says, other, world};
use super::*;
use crate::model::AckLevel::Accepted;
use crate::model::Retry;

impl World {
    /// A publication of which the shard does not know where it goes.
    fn publish_unrouted(&mut self, change: impl FnOnce(&mut Publish)) -> u64 {
        self.publish_as("orders", &[], |publish| {
            let error = RelayError::new(Reason::RoutesAway, Retry::Safe, "no owner yet");
            publish.unrouted = Some(Box::new(error));
            change(publish);
        })
    }

    /// Publications that wait, how many began to by reason, and how many ended by end.
    fn parked(&self) -> (usize, [u64; 2], [u64; 3]) {
        self.engine.parked()
    }
}

#[test]
fn what_is_published_while_its_key_moves_waits_and_goes_to_the_new_owner_in_order() {
    // M-C1; G2 of `parking`
    let (mut world, says) = world(Owner::Frozen);
    let tickets = [5, 5].map(|routed| world.publish_routed("a", routed, Accepted));
    world.pass(Duration::from_secs(4));
    assert!(tickets.iter().all(|ticket| world.told(*ticket).is_empty()));
    // What comes meanwhile goes behind, though it could go on by itself; not that of another topic.
    says.now(other("c", 9));
    let behind = world.publish_routed("c", 9, Accepted);
    assert_eq!(world.told(behind), []);
    let elsewhere = world.publish_as("copied", &["c"], |publish| publish.routed = 9);
    assert_eq!(world.told(elsewhere).len(), 1);
    world.input(Input::Routes);
    world.pass(Duration::from_millis(10));
    let number = |world: &World, ticket: u64| match &world.told(ticket)[..] {
        [Ok((Accepted, false, id))] => id.number,
        other => panic!("{other:?}"),
    };
    let all = [elsewhere, tickets[0], tickets[1], behind];
    assert_eq!(all.map(|ticket| number(&world, ticket)), [1, 2, 3, 4]);
    assert_eq!(world.row("c"), (3, 0, 0, 0));
    assert_eq!(world.parked(), (0, [3, 0], [3, 0, 0]));
    // Nothing is left: what comes next goes straight on.
    let last = world.publish_routed("c", 9, Accepted);
    assert_eq!(number(&world, last), 5);
}

#[test]
fn what_is_published_before_its_key_has_an_owner_waits_for_it() {
    //
    let (mut world, says) = world(Owner::Frozen);
    world.consume("orders");
    let ticket = world.publish_unrouted(|_| {});
    let known = world.publish_unrouted(|publish| publish.key = None);
    assert_eq!(world.refused(known), Reason::RoutesAway, "nothing to look up by");
    assert_eq!(world.told(ticket), []);
    says.now(Owner::Ours);
    // Nobody says that there is news: it looks by itself.
    world.pass(Duration::from_millis(300));
    assert_eq!(world.told(ticket).len(), 1);
    assert_eq!(world.delivered().len(), 1);
    // By other routes it belongs nowhere.
    says.now(Owner::Unknown);
    let ticket = world.publish_unrouted(|_| {});
    assert_eq!(world.refused(ticket), Reason::RoutesAway);
    // It does not become known in time.
    says.now(Owner::Frozen);
    let ticket = world.publish_unrouted(|_| {});
    world.pass(PATIENCE + Duration::from_millis(100));
    assert_eq!(world.refused(ticket), Reason::RoutesAway);
}

#[test]
fn what_waits_for_its_way_ends_with_the_reason_when_its_patience_is_over() {
    // R-I17: G1, G3 of `parking`
    let (mut world, says) = world(Owner::Frozen);
    world.consume("orders");
    let moving = world.publish_routed("a", 5, Accepted);
    let unrouted = world.publish_unrouted(|publish| publish.patience = Duration::from_secs(1));
    let left = world.publish_routed("a", 5, Accepted);
    world.pass(Duration::from_millis(900));
    assert_eq!(world.told(unrouted), []);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.refused(unrouted), Reason::Moving, "as those before it");
    world.input(Input::Forget(Ticket { shard: 0, number: left }));
    assert_eq!(world.told(moving), []);
    world.pass(PATIENCE);
    assert_eq!(world.refused(moving), Reason::Moving);
    assert_eq!(world.parked(), (0, [3, 0], [0, 2, 1]));
    says.now(Owner::Ours);
    world.pass(PATIENCE);
    assert_eq!(world.told(left), [], "nothing of it is left");
    assert_eq!(world.delivered(), []);
}

#[test]
fn so_many_publications_wait_for_their_way_and_no_more() {
    // R-I17: G1 of `parking`
    let says = Arc::new(Says(Mutex::new(Owner::Frozen), Mutex::default()));
    let owners = Arc::clone(&says);
    let mut world = World::with(|setup| {
        setup.neighbours.owners = Some(owners);
        setup.neighbours.parking = ParkingLimits {
            publications: 4,
            bytes: 10_000,
            of_key: 2,
        };
    });
    let publish = |world: &mut World, key: &'static str, bytes: usize| {
        world.publish_as("orders", &["a"], |publish| {
            publish.routed = 5;
            publish.key.as_mut().unwrap().key = Bytes::from_static(key.as_bytes());
            publish.body = Bytes::from(vec![7; bytes]);
        })
    };
    let of_key = ["x", "x", "x"].map(|key| publish(&mut world, key, 1));
    assert_eq!(world.refused(of_key[2]), Reason::Moving);
    let bytes = publish(&mut world, "y", 10_000);
    assert_eq!(world.refused(bytes), Reason::Moving);
    let all = ["y", "z", "u"].map(|key| publish(&mut world, key, 1));
    assert_eq!(world.refused(all[2]), Reason::Moving);
    assert_eq!(world.parked(), (4, [4, 0], [0, 0, 0]));
    // What waits does not take the room of what is on its way to the disk.
    assert!(world.engine.take_answered() > 10_000);
    says.now(Owner::Ours);
    world.pass(Duration::from_millis(300));
    assert_eq!(world.parked(), (0, [4, 0], [4, 0, 0]));
    assert_eq!(world.engine.take_answered(), 0, "they were given back before");
}
