//! Keys whose owner changes: what comes for them, and what waits for them in a line.

use std::sync::Mutex;

use super::*;
use crate::model::AckLevel::{Accepted, Delivered, Relayed};
use crate::queue::lanes::{FROZEN, FULL, MOVED, Refused};

/// Says of all keys what it was told, and of units whether they were evacuated.
#[derive(Debug)]
pub(super) struct Says(pub(super) Mutex<Owner>, pub(super) Mutex<Vec<UnitId>>);

impl Ownership for Says {
    fn of(&self, _: &Key) -> Owner {
        self.0.lock().unwrap().clone()
    }

    fn route(&self, _: &Key) -> Route {
        match self.0.lock().unwrap().clone() {
            Owner::Frozen => Route::Later,
            Owner::Other { unit, epoch } => Route::To(unit, epoch),
            Owner::Ours => Route::To(name("a"), 3),
            Owner::Settings(unit) => Route::To(unit, 0),
            Owner::Unknown => Route::Nowhere,
        }
    }

    fn is_evacuated(&self, unit: &UnitId) -> bool {
        self.1.lock().unwrap().contains(unit)
    }
}

impl Says {
    pub(super) fn now(&self, owner: Owner) {
        *self.0.lock().unwrap() = owner;
    }
}

pub(super) fn other(unit: &str, epoch: u64) -> Owner {
    let unit = name(unit);
    Owner::Other { unit, epoch }
}

pub(super) fn world(owner: Owner) -> (World, Arc<Says>) {
    let says = Arc::new(Says(Mutex::new(owner), Mutex::default()));
    let owners = Arc::clone(&says);
    let world = World::with(|setup| setup.neighbours.owners = Some(owners));
    (world, says)
}

impl World {
    pub(super) fn publish_routed(&mut self, unit: &str, routed: u64, wait: AckLevel) -> u64 {
        self.publish_as("orders", &[unit], |publish| {
            publish.routed = routed;
            publish.wait = wait;
        })
    }

    /// The unit at the other end of a lane answers a batch.
    pub(super) fn ack(&mut self, lane: LaneId, batch: u64, refused: Vec<Refused>) {
        let frame = ToSender::Ack { batch, refused };
        self.input(Input::FromReceiver { lane, frame });
    }

    /// Numbers that a lane was sent, in their order.
    pub(super) fn numbers(&self, lane: LaneId) -> Vec<u64> {
        let sent = self.outputs.iter().filter_map(|output| match output {
            Output::ToReceiver {
                lane: to,
                frame: ToReceiver::Messages { messages, .. },
            } if *to == lane => Some(messages),
            _ => None,
        });
        sent.flatten().map(|sent| sent.message.id.number).collect()
    }

    pub(super) fn row(&mut self, to: &str) -> (u64, u64, u64, i64) {
        let Answer::Audit { rows } = self.ask(Command::Audit) else {
            panic!();
        };
        let row = rows.iter().find(|row| row.topic == "orders" && row.to == to).unwrap();
        (row.accepted, row.relayed, row.rerouted, row.difference)
    }
}

#[test]
fn what_has_moved_follows_its_key_in_order_and_new_messages_come_behind_it() {
    // M-C1, M-B1, M-A2, M-G2, M-G8
    let (mut world, _) = world(Owner::Unknown);
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.lane_up(2, "b", LaneKind::Backlog);
    let waits = [Delivered, Relayed, Accepted];
    let tickets = waits.map(|wait| world.publish_routed("b", 5, wait));
    assert_eq!(world.numbers(lane), [1, 2, 3]);
    // The second batch is under way when the first one is answered, and another message has gone its way already.
    world.ack(lane, 1, vec![Refused::moved(1, &name("c"), 9)]);
    world.publish_routed("c", 9, Accepted);
    let moved = |seq| vec![Refused::moved(seq, &name("c"), 9)];
    world.ack(lane, 2, moved(2));
    assert_eq!(
        world.row("b"),
        (4, 0, 0, 0),
        "nothing leaves while some of it is on its way (M1)"
    );
    world.ack(lane, 3, moved(3));
    assert_eq!((world.row("b"), world.row("c")), ((4, 0, 4, 0), (4, 0, 0, 0)));
    world.publish_routed("c", 9, Accepted);
    assert_eq!(
        world.row("c"),
        (5, 0, 0, 0),
        "nothing is left there: straight to the new unit"
    );
    let (live, backlog) = (
        world.lane_up(3, "c", LaneKind::Live),
        world.lane_up(4, "c", LaneKind::Backlog),
    );
    assert_eq!(
        (world.numbers(live), world.numbers(backlog)),
        (vec![], vec![1, 2, 3, 4, 5])
    );
    world.ack(backlog, 1, Vec::new());
    world.input(Input::FromReceiver {
        lane: backlog,
        frame: ToSender::Delivered { seqs: vec![1] },
    });
    let levels = |number| -> Vec<AckLevel> { world.told(number).into_iter().map(|told| told.unwrap().0).collect() };
    assert_eq!(
        tickets.map(levels),
        [
            vec![Accepted, Relayed, Delivered],
            vec![Accepted, Relayed],
            vec![Accepted]
        ]
    );
    let gaps = world.outputs.iter().any(|output| {
        matches!(output, Output::ToReceiver { frame: ToReceiver::Gap { seqs, reason, .. }, .. }
            if seqs.0 == 1 && *reason == crate::model::GapReason::Rerouted)
    });
    assert!(gaps, "the unit before is told that they will not come");
    world.pass(Duration::from_secs(1));
    world.restart();
    assert_eq!((world.row("b"), world.row("c")), ((4, 0, 4, 0), (5, 5, 0, 0)));
}

#[test]
fn what_the_unit_before_has_taken_never_leaves_its_line_whenever_the_relay_ends() {
    // M4, M-B2
    let (mut world, _) = world(Owner::Unknown);
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish_routed("b", 5, Accepted);
    world.publish_routed("b", 5, Accepted);
    world.ack(lane, 1, Vec::new());
    world.ack(lane, 2, vec![Refused::moved(2, &name("c"), 9)]);
    assert_eq!((world.row("b"), world.row("c")), ((2, 1, 1, 0), (1, 0, 0, 0)));
    // Sooner than the record of what was acknowledged is due otherwise.
    world.restart();
    world.lane_up(2, "b", LaneKind::Live);
    world.lane_up(3, "b", LaneKind::Backlog);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.row("b"), world.row("c")), ((2, 1, 1, 0), (1, 0, 0, 0)));
}

#[test]
fn a_key_that_is_about_to_move_waits_without_attempts_and_goes_on() {
    // M-C3, M-E1
    let (mut world, _) = world(Owner::Unknown);
    let lane = world.lane_up(1, "b", LaneKind::Live);
    let backlog = world.lane_up(2, "b", LaneKind::Backlog);
    world.publish_routed("b", 5, Accepted);
    world.ack(lane, 1, vec![Refused::new(1, FROZEN, String::new())]);
    world.publish_as("orders", &["b"], |publish| {
        publish.routed = 5;
        publish.key = Some(Key {
            dimension: Bytes::from_static(b"user"),
            key: Bytes::from_static(b"8"),
        });
    });
    assert_eq!(world.numbers(lane), [1, 2], "other keys go on");
    world.ack(lane, 2, Vec::new());
    for batch in 1..=30 {
        world.pass(Duration::from_secs(3));
        assert_eq!(world.numbers(backlog).len(), usize::try_from(batch).unwrap());
        world.ack(backlog, batch, vec![Refused::new(1, FROZEN, String::new())]);
    }
    world.pass(Duration::from_secs(3));
    world.ack(backlog, 31, Vec::new());
    world.pass(Duration::from_secs(3));
    assert_eq!(world.row("b"), (2, 2, 0, 0));
    assert_eq!(world.engine.status(world.now).dead_letters, 0);
}

#[test]
fn what_has_moved_to_this_unit_is_delivered_here_when_the_routes_here_say_so() {
    // N3, M-A2
    let (mut world, says) = world(other("b", 5));
    world.consume("orders");
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.lane_up(2, "b", LaneKind::Backlog);
    let ticket = world.publish_routed("b", 5, Delivered);
    world.publish_routed("b", 5, Accepted);
    for (batch, seq) in [(1, 1), (2, 2)] {
        world.ack(lane, batch, vec![Refused::moved(seq, &name("a"), 9)]);
    }
    // Not known here yet; then known, and about to move on; then that was given up.
    for owner in [other("b", 5), Owner::Frozen] {
        *says.0.lock().unwrap() = owner;
        world.pass(Duration::from_secs(1));
        assert_eq!(world.delivered().len(), 0);
    }
    *says.0.lock().unwrap() = Owner::Ours;
    world.pass(Duration::from_secs(1));
    let first = world.delivered();
    assert_eq!(first.len(), 1);
    for (consumer, delivery, _) in first {
        let outcome = Settlement::Ack;
        world.input(Input::Settle {
            consumer,
            delivery,
            outcome,
        });
    }
    assert_eq!(world.delivered().len(), 1, "the second one, behind it");
    let last = world.told(ticket).pop().unwrap().unwrap();
    assert_eq!(last.0, Delivered);
    assert_eq!(world.row("b"), (2, 0, 2, 0));
}

#[test]
fn what_moves_back_before_it_has_left_stays() {
    // N3
    let (mut world, says) = world(other("b", 11));
    let lane = world.lane_up(1, "b", LaneKind::Live);
    let backlog = world.lane_up(2, "b", LaneKind::Backlog);
    world.publish_routed("b", 5, Accepted);
    world.ack(lane, 1, vec![Refused::moved(1, &name("a"), 9)]);
    world.pass(Duration::from_millis(50));
    assert_eq!(world.numbers(backlog), [1]);
    world.ack(backlog, 1, Vec::new());
    *says.0.lock().unwrap() = Owner::Unknown;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.row("b"), (1, 1, 0, 0));
}

// N3, M-C1. Symptom: a message was delivered before an earlier one of its key. Cause: the key was to come to this unit, then went to a
// third one, and came back to the unit of its line; the first message had left for the third one by then, and a later one, which came to
// the disk meanwhile, was found to be back where it belongs. Fix: it goes behind the one that has left.
#[test]
fn what_moves_back_goes_behind_an_earlier_message_that_has_left() {
    goes_behind("b", other("b", 12));
    // Or on to this unit (3815).
    goes_behind("a", Owner::Ours);
}

fn goes_behind(unit: &str, owner: Owner) {
    let (mut world, says) = world(other("c", 11));
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish_routed("b", 5, Accepted);
    world.waits = true;
    world.ack(lane, 1, vec![Refused::moved(1, &name("a"), 9)]);
    // It is read, and leaves for the owner of now; that is not on disk yet.
    world.answer_disk();
    world.turn();
    let later = world.publish_routed("b", 5, Accepted);
    says.now(owner);
    world.waits = false;
    world.answer_disk();
    world.turn();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.told(later).len(), 1);
    assert_eq!((world.row("b"), world.row("c")), ((2, 0, 2, 0), (2, 0, 0, 0)));
    // So does what comes now.
    world.publish_routed(unit, 12, Accepted);
    world.lane_up(2, "c", LaneKind::Live);
    let backlog = world.lane_up(3, "c", LaneKind::Backlog);
    assert_eq!(world.numbers(backlog), [1, 2, 3]);
}

#[test]
fn what_has_stayed_does_not_leave_after_a_restart_that_knew_it_as_leaving() {
    // N4, M-B2
    let (mut world, says) = world(Owner::Frozen);
    let lane = world.lane_up(1, "b", LaneKind::Live);
    let backlog = world.lane_up(2, "b", LaneKind::Backlog);
    world.publish_routed("b", 5, Accepted);
    world.ack(lane, 1, vec![Refused::moved(1, &name("a"), 9)]);
    let log = &world.log;
    world.engine.checkpoint(world.now, &mut |wanted| log.sparse(wanted));
    world.turn();
    says.now(other("b", 11));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.numbers(backlog), [1], "the unit has it now, as nobody here knows");
    says.now(Owner::Unknown);
    world.restart();
    world.lane_up(3, "b", LaneKind::Live);
    let backlog = world.lane_up(4, "b", LaneKind::Backlog);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.numbers(backlog), [1], "it is asked whether it has it");
    assert_eq!(world.row("b"), (1, 0, 0, 0));
}

#[test]
fn a_message_is_said_to_have_moved_only_if_that_is_news_for_its_sender() {
    // V4, W1, M-G3
    let check = |owner: Owner, routed: u64, reason: &str| {
        let (mut world, _) = world(owner.clone());
        let refused = world.refusal(|message| message.routed = routed);
        assert_eq!(refused, reason, "{owner:?} {routed}");
    };
    check(Owner::Ours, 5, "");
    check(Owner::Unknown, 5, "");
    check(Owner::Frozen, 5, FROZEN);
    check(other("c", 9), 8, MOVED);
    check(other("c", 9), 9, FROZEN);
    check(other("c", 9), 10, FROZEN);
    // A sender that knows nothing of moves: it waits as for a full topic, or its message is sent on.
    check(Owner::Frozen, 0, FULL);
    check(other("c", 9), 0, "");
    // By settings, messages are sent on as ever.
    check(Owner::Settings(name("c")), 0, "");
    check(Owner::Settings(name("c")), 5, "");
}

#[test]
fn a_checkpoint_before_the_record_of_what_was_taken_makes_no_later_message_forgotten() {
    // H1, H2, M-C1
    let says = Arc::new(Says(Mutex::new(Owner::Unknown), Mutex::default()));
    let mut world = World::with(|setup| {
        setup.neighbours.owners = Some(says);
        setup.queue.checkpoint_interval = Duration::from_millis(1);
    });
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish_routed("b", 5, Accepted);
    world.ack(lane, 1, Vec::new());
    world.now.mono += Duration::from_millis(10);
    world.publish("own", &["a"]);
    // Sooner than the record of what was acknowledged is due otherwise.
    world.restart();
    world.lane_up(2, "b", LaneKind::Live);
    let backlog = world.lane_up(3, "b", LaneKind::Backlog);
    world.publish_routed("b", 5, Accepted);
    if !world.numbers(backlog).is_empty() {
        world.ack(backlog, 1, Vec::new());
    }
    world.publish_routed("c", 9, Accepted);
    assert_eq!(
        world.row("b"),
        (3, 1, 0, 0),
        "behind the second one, which the unit has not taken"
    );
}
