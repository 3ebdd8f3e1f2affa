//! Messages for another unit that end before they are there: what is not sent any more, and what the unit is told.

use super::*;
use crate::queue::lanes::Refused;
use crate::queue::operator::{AuditRow, LimitValues};

impl World {
    /// Gaps that the unit was told of since the last look.
    fn gaps(&mut self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        self.outputs.retain(|output| match output {
            Output::ToReceiver {
                frame: ToReceiver::Gap { seqs, .. },
                ..
            } => {
                gaps.push(*seqs);
                false
            }
            _ => true,
        });
        gaps
    }

    fn publish_until(&mut self, topic: &str, seconds: u64) {
        let deadline = UnixMillis(self.now.wall.0 + seconds * 1000);
        self.publish_as(topic, &["b"], |publish| publish.deadline = Some(deadline));
    }

    fn books(&mut self, topic: &str) -> AuditRow {
        let Answer::Audit { rows } = self.ask(Command::Audit) else {
            panic!();
        };
        rows.into_iter()
            .find(|row| row.topic == topic && row.to == "b")
            .unwrap()
    }
}

// M-E2: the line is searched for what has expired, but not all the time: the second one expires between two searches.
#[test]
fn what_expires_while_it_waits_for_room_on_its_lane_is_not_sent() {
    let mut world = World::with(|setup| setup.queue.lane_bytes_max = ByteSize::bytes(1));
    let lane = world.lane_up(1, "b", LaneKind::Live);
    world.publish("loose", &["b"]);
    for seconds in [2, 6] {
        world.publish_until("loose", seconds);
    }
    world.pass(Duration::from_secs(7));
    assert_eq!(world.numbers(lane), [1]);
    world.ack(lane, 1, Vec::new());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.numbers(lane), [1]);
    let books = world.books("loose");
    assert_eq!((books.expired, books.relayed, books.difference), (2, 1, 0));
}

// M-E2, M-D6
#[test]
fn what_expires_while_it_waits_for_the_limit_is_not_sent() {
    let mut world = World::new();
    world.publish("loose", &["b"]);
    for seconds in [2, 6] {
        world.publish_until("loose", seconds);
    }
    world.publish("loose", &["b"]);
    world.ask(Command::Limits {
        unit: name("b"),
        topic: None,
        limits: Some(LimitValues {
            messages_per_second: 0.1,
            burst: 1,
            ..LimitValues::default()
        }),
        who: String::new(),
    });
    world.lane_up(1, "b", LaneKind::Live);
    let lane = world.lane_up(2, "b", LaneKind::Backlog);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.numbers(lane), [1]);
    world.ack(lane, 1, Vec::new());
    world.pass(Duration::from_secs(11));
    assert_eq!(world.numbers(lane), [1, 4]);
    let books = world.books("loose");
    assert_eq!((books.expired, books.difference), (2, 0));
}

// M-G2, L2 of `outbox::ledger`
#[test]
fn a_gap_is_told_again_until_the_unit_has_said_that_it_knows() {
    let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_millis(1));
    world.publish("loose", &["b"]);
    world.purge(Line::Outbox { unit: name("b") });
    let lane = world.lane_up(1, "b", LaneKind::Live);
    assert_eq!(world.gaps(), [(1, 1)]);
    // The lane ends before the answer.
    world.input(Input::LaneDown(lane));
    world.lane_up(2, "b", LaneKind::Live);
    assert_eq!(world.gaps(), [(1, 1)]);
    // So does the relay, which knows of it only by its checkpoint.
    world.now.mono += Duration::from_millis(10);
    world.publish("own", &["a"]);
    world.restart();
    let lane = world.lane_up(3, "b", LaneKind::Live);
    assert_eq!(world.gaps(), [(1, 1)]);
    world.ack(lane, 1, Vec::new());
    world.input(Input::LaneDown(lane));
    world.lane_up(4, "b", LaneKind::Live);
    assert!(world.gaps().is_empty());
}

// M-F3: all limits of the backlog hold for it.
#[test]
fn what_is_redriven_to_a_unit_goes_by_the_backlog_lane() {
    let mut world = World::new();
    let live = world.lane_up(1, "b", LaneKind::Live);
    let backlog = world.lane_up(2, "b", LaneKind::Backlog);
    world.publish("loose", &["b"]);
    world.ack(live, 1, vec![Refused::new(1, "too_large", String::new())]);
    assert_eq!(world.dead(), 1);
    assert_eq!(world.redrive(RedriveRequest::default()).1, 1);
    assert_eq!((world.numbers(live), world.numbers(backlog)), (vec![1], vec![1]));
}
