use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Key, Message, MessageId, Metadata, Name, UnixMillis};
use crate::queue::effects::Why;
use crate::queue::lanes::{FULL, GAP_SPAN_MAX, LaneKind, Refused, Sent, ToSender};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn stream() -> StreamId {
    StreamId {
        unit: name("a"),
        relay: name("r"),
        epoch: 7,
    }
}

fn message(number: Seq) -> Message {
    Message {
        id: MessageId {
            unit: name("a"),
            relay: name("r"),
            epoch: 7,
            number,
        },
        topic: name("t"),
        key: None,
        accepted_at: UnixMillis(0),
        deadline: None,
        visited: vec![name("a")],
        redrives: 0,
        attributes: Metadata::default(),
        body: Bytes::new(),
    }
}

/// Takes all, but for what it is told.
#[derive(Default)]
struct Gate {
    given: Seq,
    busy: bool,
    refused: BTreeSet<Seq>,
    full: bool,
}

impl Judge for Gate {
    fn judge(&mut self, _: Now, from: &UnitId, _: &Geo, message: &Message) -> Verdict {
        assert_eq!(from.as_str(), "a");
        if self.busy {
            let pushback = Duration::from_millis(100);
            return Verdict::Busy { pushback };
        }
        if self.refused.contains(&message.id.number) {
            let (reason, detail) = ("too_large".to_owned(), String::new());
            return Verdict::Refuse { reason, detail };
        }
        if self.full {
            let detail = String::new();
            return Verdict::Later { detail, ordered: true };
        }
        self.given += 1;
        Verdict::Store {
            outs: Vec::new(),
            inbox: Some(self.given),
            mirror: None,
        }
    }
}

/// Arrivals with a disk, and what they said on lanes.
struct World {
    arrivals: Arrivals,
    gate: Gate,
    now: Now,
    writing: VecDeque<Write>,
    log: Vec<Record>,
    said: BTreeMap<LaneId, Vec<ToSender>>,
    closed: BTreeMap<LaneId, String>,
    snapshot: (ArrivalsSnapshot, usize),
    lanes: u64,
    /// Messages have a key.
    keyed: bool,
}

use super::super::effects::Write;

impl World {
    fn new() -> Self {
        Self {
            arrivals: Arrivals::new(),
            gate: Gate::default(),
            now: Now::default(),
            writing: VecDeque::new(),
            log: Vec::new(),
            said: BTreeMap::new(),
            closed: BTreeMap::new(),
            snapshot: (ArrivalsSnapshot::default(), 0),
            lanes: 0,
            keyed: false,
        }
    }

    fn absorb(&mut self, fx: Effects) {
        self.writing.extend(fx.writes);
        for output in fx.outputs {
            self.say(output);
        }
    }

    fn say(&mut self, output: Output) {
        match output {
            Output::ToSender { lane, frame } => self.said.entry(lane).or_default().push(frame),
            Output::CloseLane { lane, why } => _ = self.closed.insert(lane, why),
            other => panic!("{other:?}"),
        }
    }

    fn frame(&mut self, lane: LaneId, frame: ToReceiver, bytes: usize) {
        let mut fx = Effects::default();
        let (now, gate) = (self.now, &mut self.gate);
        self.arrivals.on_frame(now, lane, (frame, bytes), gate, &mut fx);
        self.absorb(fx);
    }

    fn open(&mut self, base: Seq) -> LaneId {
        self.lanes += 1;
        let lane = LaneId(self.lanes);
        self.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
        let (epoch, kind) = (7, LaneKind::Live);
        self.frame(lane, ToReceiver::Open { epoch, kind, base }, 0);
        lane
    }

    fn send(&mut self, lane: LaneId, batch: u64, seqs: &[Seq]) {
        let key = self.keyed.then(|| Key {
            dimension: Bytes::from_static(b"k"),
            key: Bytes::from_static(b"1"),
        });
        let sent = |seq: &Seq| Sent {
            seq: *seq,
            tell_delivered: true,
            message: Message {
                key: key.clone(),
                ..message(*seq)
            },
        };
        let messages = seqs.iter().map(sent).collect();
        self.frame(lane, ToReceiver::Messages { batch, messages }, 100 * seqs.len());
    }

    fn gap(&mut self, lane: LaneId, batch: u64, seqs: (Seq, Seq)) {
        let reason = GapReason::Purged;
        self.frame(lane, ToReceiver::Gap { batch, seqs, reason }, 10);
    }

    fn commit(&mut self, count: usize) {
        for _ in 0..count {
            match self.writing.pop_front() {
                Some(Write::Then(output)) => self.say(output),
                Some(Write::Record(record)) => {
                    self.apply(&record);
                    self.log.push(record);
                }
                Some(Write::Dead(_)) => panic!("arrivals give nothing up"),
                None => return,
            }
        }
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Stored(stored) => {
                let (stream, seq) = stored.from.clone().unwrap();
                self.arrivals.on_stored(&stream, seq);
            }
            Record::Skipped { stream, seqs, .. } => _ = self.arrivals.on_skipped(stream, *seqs),
            other => panic!("{other:?}"),
        }
    }

    fn poll(&mut self) -> Option<Duration> {
        let mut fx = Effects::default();
        let wake = self.arrivals.poll(self.now, &mut self.gate, &mut fx);
        self.absorb(fx);
        wake
    }

    fn disk_fails(&mut self) {
        self.writing.clear();
        let mut fx = Effects::default();
        self.arrivals.rollback(&mut fx);
        self.absorb(fx);
    }

    fn take_snapshot(&mut self) {
        let text = serde_json::to_string(&self.arrivals.snapshot()).unwrap();
        self.snapshot = (serde_json::from_str(&text).unwrap(), self.log.len());
    }

    fn restart(&mut self, again: usize) {
        self.writing.clear();
        self.arrivals = Arrivals::new();
        assert!(self.arrivals.restore(self.snapshot.0.clone()));
        let from = self.snapshot.1.saturating_sub(again);
        for record in self.log.clone().iter().skip(from) {
            self.apply(record);
        }
    }

    /// Numbers of messages in records, in their order.
    fn stored(&self) -> Vec<Seq> {
        let seq = |record: &Record| match record {
            Record::Stored(stored) => Some(stored.from.as_ref()?.1),
            _ => None,
        };
        self.log.iter().filter_map(seq).collect()
    }

    fn acked(&self, lane: LaneId) -> u64 {
        let ack = |frame: &ToSender| match frame {
            ToSender::Ack { batch, .. } => Some(*batch),
            _ => None,
        };
        self.said[&lane].iter().filter_map(ack).max().unwrap_or(0)
    }
}

fn opened(frontier: Seq, above: &[(Seq, Seq)], highest: Seq) -> ToSender {
    ToSender::Opened {
        frontier,
        above: above.to_vec(),
        highest,
    }
}

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

#[test]
fn a_sender_that_breaks_the_rules_loses_its_lane() {
    type Breaks = fn(&mut World, LaneId);
    let cases: [Breaks; 9] = [
        |world, lane| world.send(lane, 2, &[1]),
        |world, lane| {
            world.send(lane, 1, &[1]);
            world.send(lane, 1, &[2]);
        },
        |world, lane| {
            let frame = ToReceiver::Open {
                epoch: 7,
                kind: LaneKind::Live,
                base: 1,
            };
            world.frame(lane, frame, 0);
        },
        |world, lane| world.send(lane, 1, &[0]),
        |world, lane| world.gap(lane, 1, (2, Seq::MAX)),
        |world, lane| world.gap(lane, 1, (3, 2)),
        // D5, M-G7.
        |world, lane| world.gap(lane, 1, (2, 3 + GAP_SPAN_MAX)),
        |world, lane| world.send(lane, 1, &[1 << 41]),
        |world, lane| {
            let mut message = message(1);
            message.visited.push(name("b"));
            let sent = Sent {
                seq: 1,
                tell_delivered: false,
                message,
            };
            let frame = ToReceiver::Messages {
                batch: 1,
                messages: vec![sent],
            };
            world.frame(lane, frame, 10);
        },
    ];
    for breaks in cases {
        let mut world = World::new();
        let lane = world.open(1);
        breaks(&mut world, lane);
        assert!(world.closed.contains_key(&lane), "{:?}", world.said);
        // What it still says is not heard.
        world.send(lane, 1, &[9]);
        world.commit(usize::MAX);
        assert!(!world.stored().contains(&9));
        let skips = |record: &Record| matches!(record, Record::Skipped { .. });
        assert!(!world.log.iter().any(skips), "{:?}", world.log);
    }
    let mut world = World::new();
    let lane = LaneId(9);
    world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
    world.send(lane, 1, &[1]);
    assert!(world.closed.contains_key(&lane), "messages before Open");
}

#[test]
fn a_sender_may_have_so_much_without_acknowledgement_and_no_more() {
    let mut world = World::new();
    let limit = Settings::default().lane_bytes_max.as_usize() * LIMIT_FACTOR;
    let lane = world.open(1);
    let send = |world: &mut World, batch: u64, bytes: usize| {
        let sent = Sent {
            seq: batch,
            tell_delivered: false,
            message: message(batch),
        };
        let messages = vec![sent];
        world.frame(lane, ToReceiver::Messages { batch, messages }, bytes);
        world.closed.contains_key(&lane)
    };
    assert!(!send(&mut world, 1, limit / 2) && !send(&mut world, 2, limit / 2));
    world.commit(2);
    assert!(!send(&mut world, 3, limit / 2), "the first is on disk");
    world.commit(usize::MAX);
    assert!(!send(&mut world, 4, 10), "and then a long one");
    assert!(
        !send(&mut world, 5, 2 * limit),
        "how long one is, is for the sender to say"
    );
    assert!(send(&mut world, 6, 1));
}

#[test]
fn what_a_sender_is_done_with_is_not_waited_for() {
    let mut world = World::new();
    // The first contact begins where the sender says.
    let lane = world.open(100);
    assert_eq!(world.said[&lane], [opened(99, &[], 99)]);
    world.send(lane, 1, &[100, 102]);
    world.commit(usize::MAX);
    assert!(world.log.iter().all(|record| matches!(record, Record::Stored(_))));
    // State that was lost here is counted.
    let _ = world.open(105);
    world.commit(usize::MAX);
    let skipped = |world: &World| {
        let skipped = world.log.iter().filter_map(|record| match record {
            Record::Skipped { seqs, reason, .. } => Some((*seqs, *reason)),
            _ => None,
        });
        skipped.collect::<Vec<_>>()
    };
    assert_eq!(skipped(&world), [((101, 104), GapReason::Corrupted)]);
    assert_eq!(world.arrivals.streams[&stream()].seen.frontier(), 104);
    // Records alone do not say where a stream begins: nothing was lost.
    world.restart(0);
    let lane = world.open(106);
    assert_eq!(world.said[&lane], [opened(105, &[], 105)]);
    assert_eq!(skipped(&world).len(), 1);
}

#[test]
fn a_sender_hears_of_deliveries_it_waits_for() {
    // M-A2, on any lane of the pair.
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[11, 12, 13]);
    world.commit(usize::MAX);
    world.arrivals.on_lane_down(lane);
    let other = world.open(1);
    let mut fx = Effects::default();
    for inbox in [1, 3, 3, 99] {
        world.arrivals.on_done(&name("t"), inbox, &mut fx);
    }
    world.absorb(fx);
    assert_eq!(
        world.said[&other].last(),
        Some(&ToSender::Delivered { seqs: vec![11, 13] })
    );
}

#[test]
fn a_sender_hears_of_a_message_that_a_group_gave_up_and_its_place_is_free() {
    // M-A2
    let mut world = World::new();
    let lane = world.open(1);
    world.send(lane, 1, &[11, 12]);
    world.commit(usize::MAX);
    assert_eq!(world.arrivals.awaited.len(), 2);
    let why = Why {
        reason: "attempts".to_owned(),
        detail: "it is a dead letter: no".to_owned(),
    };
    let mut fx = Effects::default();
    for _ in 0..2 {
        world.arrivals.on_given_up(&name("t"), 1, &why, &mut fx);
    }
    world.arrivals.on_done(&name("t"), 1, &mut fx);
    world.absorb(fx);
    let ended = vec![Refused {
        seq: 11,
        reason: why.reason,
        detail: why.detail,
    }];
    assert_eq!(world.said[&lane].last(), Some(&ToSender::Ended { ended }));
    assert_eq!(world.arrivals.awaited.len(), 1);
    // Whoever waited in a life of the log that is forgotten waits no more.
    for epoch in 8..20 {
        let lane = LaneId(100 + epoch);
        world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
        let (kind, base) = (LaneKind::Live, 1);
        world.frame(lane, ToReceiver::Open { epoch, kind, base }, 0);
    }
    assert!(world.arrivals.awaited.is_empty());
}

#[test]
fn the_unit_is_added_to_those_a_message_has_visited() {
    // M-G3.
    let mut world = World::new();
    world.arrivals.unit = Some(name("b"));
    let lane = world.open(1);
    world.send(lane, 1, &[1]);
    world.commit(1);
    let Record::Stored(stored) = &world.log[0] else {
        panic!()
    };
    assert_eq!(stored.message.visited, [name("a"), name("b")]);
}

#[test]
fn few_lives_of_a_log_are_remembered() {
    let mut world = World::new();
    for epoch in 1..20 {
        let lane = LaneId(epoch);
        world.arrivals.on_accepted(lane, name("geo"), name("a"), name("r"));
        let (kind, base) = (LaneKind::Live, 1);
        world.frame(lane, ToReceiver::Open { epoch, kind, base }, 0);
    }
    let lives: Vec<_> = world.arrivals.streams.keys().map(|id| id.epoch).collect();
    assert_eq!(lives, (12..20).collect::<Vec<_>>());
}

/// A sender with numbers 1 to 40, two lanes, and what it believes.
#[derive(Default)]
struct Sender {
    /// Acknowledged, or told as a gap and acknowledged.
    done: BTreeSet<Seq>,
    gaps: BTreeSet<Seq>,
    /// By lane: the next batch, and what each batch held.
    lanes: BTreeMap<LaneId, (u64, BTreeMap<u64, Vec<Seq>>)>,
}

proptest! {
    /// M-B2, A2: each number is stored exactly once per life of the disk, whatever is lost, repeated, late, or busy; what is
    /// acknowledged is on disk.
    #[test]
    fn each_number_is_stored_once(steps in proptest::collection::vec((0_u8..16, any::<u16>()), 0..200)) {
        let (mut world, mut sender) = (World::new(), Sender::default());
        for (what, any) in steps {
            act(&mut world, &mut sender, what, any);
            hear(&world, &mut sender);
        }
        // In the end all goes well.
        world.gate.busy = false;
        world.gate.refused.clear();
        let mut fx = Effects::default();
        world.arrivals.set_busy(None, &mut fx);
        world.absorb(fx);
        world.now.mono += Duration::from_secs(1);
        let lane = open(&mut world, &mut sender);
        for seq in 1..=40 {
            send(&mut world, &mut sender, lane, &[seq]);
        }
        world.poll();
        world.commit(usize::MAX);
        hear(&world, &mut sender);
        prop_assert_eq!(sender.done.len(), 40);
        let mut stored = world.stored();
        stored.sort_unstable();
        let missing: BTreeSet<Seq> = (1..=40).filter(|seq| !stored.contains(seq)).collect();
        prop_assert!(missing.is_subset(&sender.gaps), "lost: {:?}", missing);
        let count = stored.len();
        stored.dedup();
        prop_assert_eq!(count, stored.len(), "stored twice");
    }
}

fn open(world: &mut World, sender: &mut Sender) -> LaneId {
    let base = (1..100).find(|seq| !sender.done.contains(seq)).unwrap();
    let lane = world.open(base);
    sender.lanes.insert(lane, (1, BTreeMap::new()));
    lane
}

fn send(world: &mut World, sender: &mut Sender, lane: LaneId, seqs: &[Seq]) {
    let (next, batches) = sender.lanes.get_mut(&lane).unwrap();
    batches.insert(*next, seqs.to_vec());
    *next += 1;
    let batch = *next - 1;
    match seqs {
        [seq] if sender.gaps.contains(seq) => world.gap(lane, batch, (*seq, *seq)),
        _ => world.send(lane, batch, seqs),
    }
}

fn act(world: &mut World, sender: &mut Sender, what: u8, any: u16) {
    let number = u64::from(any) % 40 + 1;
    let lane = sender
        .lanes
        .keys()
        .nth(usize::from(any) % sender.lanes.len().max(1))
        .copied();
    match (what, lane) {
        (0, _) if sender.lanes.len() < 3 => _ = open(world, sender),
        (1..=4, Some(lane)) => {
            let next = (number..41).take(usize::from(any % 4 + 1));
            let seqs: Vec<_> = next.filter(|seq| !sender.gaps.contains(seq)).collect();
            send(world, sender, lane, &seqs);
        }
        (5, Some(lane)) if any.is_multiple_of(5) => {
            sender.gaps.insert(number);
            send(world, sender, lane, &[number]);
        }
        (6, Some(lane)) => {
            world.arrivals.on_lane_down(lane);
            sender.lanes.remove(&lane);
        }
        (7..=9, _) => world.commit(usize::from(any % 6)),
        (10, _) => world.gate.busy = any.is_multiple_of(2),
        (11, _) => {
            world.now.mono += Duration::from_millis(u64::from(any % 200));
            world.poll();
        }
        (12, _) => {
            let pushback = (any.is_multiple_of(2)).then_some(Duration::from_secs(1));
            let mut fx = Effects::default();
            world.arrivals.set_busy(pushback, &mut fx);
            world.absorb(fx);
            world.poll();
        }
        (13, _) => {
            world.disk_fails();
            sender.lanes.clear();
        }
        (14, _) => world.take_snapshot(),
        (15, _) => {
            world.restart(usize::from(any % 10));
            sender.lanes.clear();
        }
        _ => {}
    }
}

/// The sender believes what it is told; it must be true.
fn hear(world: &World, sender: &mut Sender) {
    let on_disk = &world.arrivals.streams.get(&stream());
    let mut done = Vec::new();
    for (lane, (_, batches)) in &mut sender.lanes {
        let acked = world.acked(*lane);
        let rest = batches.split_off(&(acked + 1));
        done.extend(std::mem::replace(batches, rest).into_values().flatten());
        for frame in &world.said[lane] {
            let ToSender::Opened { frontier, above, .. } = frame else {
                continue;
            };
            done.extend(above.iter().flat_map(|(from, to)| *from..=*to).chain(1..=*frontier));
        }
    }
    for seq in done {
        assert!(
            on_disk.is_some_and(|stream| stream.seen.contains(seq)),
            "{seq} is not on disk"
        );
        sender.done.insert(seq);
    }
}
