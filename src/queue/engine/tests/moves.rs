//! Keys whose owner changes: what comes for them, what waits for them, and what is asked about them.

use std::sync::Mutex;

use super::*;
use crate::model::AckLevel::{Accepted, Delivered, Relayed};
use crate::model::{Retry, UnitId};
use crate::queue::Keys;
use crate::queue::api::Question;
use crate::queue::lanes::{FROZEN, FULL, MOVED, Refused};

/// Says of all keys what it was told.
#[derive(Debug)]
struct Says(Mutex<Owner>, Mutex<Vec<UnitId>>);

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
    fn now(&self, owner: Owner) {
        *self.0.lock().unwrap() = owner;
    }
}

#[derive(Debug)]
struct All;

impl Keys for All {
    fn contains(&self, _: &Key) -> bool {
        true
    }
}

fn other(unit: &str, epoch: u64) -> Owner {
    let unit = name(unit);
    Owner::Other { unit, epoch }
}

fn world(owner: Owner) -> (World, Arc<Says>) {
    let says = Arc::new(Says(Mutex::new(owner), Mutex::default()));
    let owners = Arc::clone(&says);
    let world = World::with(|setup| setup.neighbours.owners = Some(owners));
    (world, says)
}

impl World {
    fn publish_routed(&mut self, unit: &str, routed: u64, wait: AckLevel) -> u64 {
        self.publish_as("orders", &[unit], |publish| {
            publish.routed = routed;
            publish.wait = wait;
        })
    }

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

    fn row(&mut self, to: &str) -> (u64, u64, u64, i64) {
        let Answer::Audit { rows } = self.ask(Command::Audit) else {
            panic!();
        };
        let row = rows.iter().find(|row| row.topic == "orders" && row.to == to).unwrap();
        (row.accepted, row.relayed, row.rerouted, row.difference)
    }

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
