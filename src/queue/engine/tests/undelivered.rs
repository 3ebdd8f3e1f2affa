//! What the owner of a key says of messages that wait here while the key is about to move.

use super::moves::world;
use super::*;
use crate::model::AckLevel::Accepted;
use crate::queue::Keys;
use crate::queue::api::Question;

#[derive(Debug)]
struct All;

impl Keys for All {
    fn contains(&self, _: &Key) -> bool {
        true
    }
}

impl World {
    /// Answers to questions.
    fn left(&mut self) -> Vec<(u64, u64)> {
        let mut left = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Undelivered { ticket, messages } => {
                left.push((ticket.number, *messages));
                false
            }
            _ => true,
        });
        left
    }

    fn question(&mut self, number: u64, at_most: u64) {
        self.input(Input::Ask(Question {
            ticket: Ticket { shard: 0, number },
            keys: Arc::new(All),
            at_most,
        }));
    }
}

#[test]
fn the_owner_says_when_nothing_of_a_key_is_left() {
    // S2, S4; U1, U2
    let (mut world, _) = world(Owner::Ours);
    world.consume("orders");
    world.question(1, 0);
    assert_eq!(world.left(), [(1, 0)]);
    // On its way to the disk: it counts.
    world.waits = true;
    world.publish_routed("a", 5, Accepted);
    world.question(2, 0);
    world.question(3, 1);
    world.waits = false;
    assert_eq!(world.left(), []);
    world.turn();
    assert_eq!(world.left(), [(3, 1)]);
    world.publish("loose", &["a"]);
    world.question(4, 0);
    world.input(Input::Withdraw(Ticket { shard: 0, number: 2 }));
    let delivered = world.delivered();
    for (consumer, delivery, _) in delivered {
        let outcome = Settlement::Ack;
        world.input(Input::Settle {
            consumer,
            delivery,
            outcome,
        });
    }
    assert_eq!(world.left(), [], "another topic has one that nobody takes");
    world.consume("loose");
    for (consumer, delivery, _) in world.delivered() {
        let outcome = Settlement::Ack;
        world.waits = true;
        world.input(Input::Settle {
            consumer,
            delivery,
            outcome,
        });
    }
    assert_eq!(world.left(), [], "not before a restart knows it, too");
    world.waits = false;
    world.turn();
    assert_eq!(world.left(), [(4, 0)]);
}

#[test]
fn the_owner_does_not_say_that_nothing_is_left_while_a_crash_may_bring_back_what_failed() {
    // U2, J4, M-G4
    let failed = || {
        let (mut world, _) = world(Owner::Ours);
        world.consume("orders");
        // The write comes to the disk; the sync fails, and so does all that would undo it.
        world.storage.set_faults(Faults {
            fail_after: Some(1),
            keep_failing: true,
            ..Faults::default()
        });
        let ticket = world.publish_routed("a", 5, Accepted);
        assert_eq!(world.refused(ticket), Reason::Limited);
        world.question(1, 0);
        world.pass(Duration::from_secs(10));
        assert_eq!(world.left(), []);
        world.storage.set_faults(Faults::default());
        world
    };
    let mut world = failed();
    world.restart();
    world.consume("orders");
    assert_eq!(world.delivered().len(), 1, "it is back");
    world.question(2, 0);
    assert_eq!(world.left(), []);

    let mut world = failed();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.left(), [(1, 0)], "the disk takes records again");
    world.restart();
    world.consume("orders");
    assert_eq!(world.delivered().len(), 0);
}
