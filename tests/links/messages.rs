//! Lanes for messages over real QUIC: who opens them, where they go, and what a bad peer can do.

use std::collections::BTreeSet;
use std::time::Duration;

use strait::inbound;
use strait::model::lanes::{LaneKind, Sent, ToReceiver, ToSender};
use strait::model::{Message, MessageId, UnitId, UnixMillis};
use strait::outbound::{CarrierParts, Carriers, Claims};
use strait::peer::{Lane, LaneHandler, LaneLink, LinkPeer};
use strait::queue::api::Input;
use strait::queue::lanes::{LaneId, LaneIds};
use strait::queue::{Handle, Inlet};

use super::*;

/// `queue.lane_bytes_max` of the tests.
const LANE_BYTES: usize = 256 * 1024;

/// A queue that does what a test says, with the stories of one shard around it.
struct Queue {
    inlet: Arc<Inlet>,
    carriers: Rc<Carriers>,
    messages: Rc<inbound::Messages>,
    seen: RefCell<Seen>,
    /// Does not acknowledge what comes.
    holds: Cell<bool>,
}

#[derive(Default)]
struct Seen {
    /// Lanes of ours that are up.
    out: BTreeMap<LaneId, LaneKind>,
    /// All that ever were, with the relay they went to.
    ups: Vec<(LaneId, LaneKind)>,
    /// Lanes of peers, with who opened them.
    inn: BTreeMap<LaneId, (Option<LaneKind>, String)>,
    /// Messages that came.
    arrived: Vec<(LaneId, u64)>,
    /// Bytes of frames that came, by lane.
    bytes: BTreeMap<LaneId, usize>,
    /// Batches that are not acknowledged yet.
    held: Vec<(LaneId, u64)>,
    answers: Vec<(LaneId, ToSender)>,
    two_at_once: bool,
}

impl Queue {
    fn new(shard: u16, claims: &Arc<Claims>, units: &[&str]) -> Rc<Self> {
        let (queue, inlet) = Handle::new(1 << 20);
        let ids = Rc::new(LaneIds::new(shard));
        let carriers = Carriers::new(CarrierParts {
            ids: ids.clone(),
            queue: queue.clone(),
            claims: claims.clone(),
        });
        let messages = inbound::Messages::new(inbound::MessageParts {
            ids,
            queue,
            units: units.iter().map(|unit| name(unit)).collect(),
            lane_bytes_max: LANE_BYTES,
        });
        let queue = Rc::new(Self {
            inlet,
            carriers,
            messages,
            seen: RefCell::default(),
            holds: Cell::new(false),
        });
        tokio::task::spawn_local(queue.clone().run());
        queue
    }

    async fn run(self: Rc<Self>) {
        loop {
            let mut inputs = Vec::new();
            self.inlet.take(&mut inputs, Duration::ZERO);
            for input in inputs {
                self.on_input(input);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn on_input(&self, input: Input) {
        let seen = &mut *self.seen.borrow_mut();
        match input {
            Input::LaneUp { lane, kind, .. } => {
                seen.two_at_once |= seen.out.values().any(|other| *other == kind);
                seen.out.insert(lane, kind);
                seen.ups.push((lane, kind));
                let open = ToReceiver::Open {
                    epoch: 7,
                    kind,
                    base: 1,
                };
                self.carriers.on_frame(lane, open);
            }
            Input::LaneDown(lane) => {
                let known = seen.out.remove(&lane).is_some() || seen.inn.remove(&lane).is_some();
                assert!(known, "K2, J2: down once, after it was up");
            }
            Input::LaneAccepted { lane, geo, unit, relay } => {
                seen.inn.insert(lane, (None, format!("{geo}/{unit}/{relay}")));
            }
            Input::FromSender { lane, frame, bytes } => {
                let is = seen.inn.get_mut(&lane).expect("J2: frames come while the lane is up");
                *seen.bytes.entry(lane).or_default() += bytes;
                match frame {
                    ToReceiver::Open { kind, .. } => {
                        is.0 = Some(kind);
                        let opened = ToSender::Opened {
                            frontier: 0,
                            above: vec![],
                            highest: 0,
                        };
                        self.messages.on_frame(lane, opened);
                    }
                    ToReceiver::Messages { batch, messages } => {
                        assert!(is.0.is_some(), "J2: the opening comes first");
                        seen.arrived.extend(messages.iter().map(|sent| (lane, sent.seq)));
                        if self.holds.get() {
                            seen.held.push((lane, batch));
                        } else {
                            self.messages.on_frame(lane, ack(batch));
                        }
                    }
                    ToReceiver::Gap { .. } => unreachable!(),
                }
            }
            Input::FromReceiver { lane, frame } => {
                assert!(seen.out.contains_key(&lane), "K2: frames come while the lane is up");
                seen.answers.push((lane, frame));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Our lane of a kind.
    fn lane(&self, kind: LaneKind) -> Option<LaneId> {
        let seen = self.seen.borrow();
        seen.out.iter().find(|(_, of)| **of == kind).map(|(lane, _)| *lane)
    }

    fn has_lanes(&self) -> bool {
        self.lane(LaneKind::Live).is_some() && self.lane(LaneKind::Backlog).is_some()
    }

    /// The peer's lane of a kind.
    fn lane_in(&self, kind: LaneKind) -> Option<LaneId> {
        let seen = self.seen.borrow();
        seen.inn
            .iter()
            .find(|(_, of)| of.0 == Some(kind))
            .map(|(lane, _)| *lane)
    }

    /// Sends messages with bodies of so many bytes, one batch for each number.
    fn send(&self, lane: LaneId, batches: std::ops::RangeInclusive<u64>, body: usize) {
        for batch in batches {
            let messages = vec![Sent {
                seq: batch,
                tell_delivered: false,
                message: message(batch, body),
            }];
            self.carriers.on_frame(lane, ToReceiver::Messages { batch, messages });
        }
    }

    fn acked(&self, lane: LaneId) -> u64 {
        let seen = self.seen.borrow();
        let of = seen.answers.iter().filter(|(on, _)| *on == lane);
        let acks = of.filter_map(|(_, answer)| match answer {
            ToSender::Ack { batch, .. } => Some(*batch),
            _ => None,
        });
        acks.max().unwrap_or(0)
    }

    fn arrived(&self, lane: LaneId) -> usize {
        self.seen.borrow().arrived.iter().filter(|(on, _)| *on == lane).count()
    }

    fn bytes(&self, lane: LaneId) -> usize {
        self.seen.borrow().bytes.get(&lane).copied().unwrap_or(0)
    }

    /// Acknowledges all that was held.
    fn release(&self) {
        self.holds.set(false);
        for (lane, batch) in std::mem::take(&mut self.seen.borrow_mut().held) {
            self.messages.on_frame(lane, ack(batch));
        }
    }
}

impl LaneHandler for Queue {
    fn on_links(&self, unit: &UnitId, links: Vec<LaneLink>) {
        self.carriers.on_links(unit, links);
    }

    fn on_lane(&self, peer: &LinkPeer, lane: Lane) {
        self.messages.on_lane(peer, lane);
    }
}

fn ack(batch: u64) -> ToSender {
    ToSender::Ack { batch, refused: vec![] }
}

fn message(number: u64, body: usize) -> Message {
    Message {
        id: MessageId {
            unit: name("a"),
            relay: name("a-1"),
            epoch: 7,
            number,
        },
        topic: name("im.message"),
        key: None,
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: vec![name("a")],
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: pattern(body),
    }
}

fn with(lanes: &Rc<Queue>) -> Shard {
    Shard {
        lanes: Some(lanes.clone()),
        ..alone()
    }
}

/// Two relays with a link, each with a queue; `a` has dialled.
struct Pair {
    a: Relay,
    b: Relay,
    at_a: Rc<Queue>,
    at_b: Rc<Queue>,
    _dir: tempdir::Dir,
}

async fn pair(tune: impl Fn(&mut Settings)) -> Pair {
    let dir = tempdir::Dir::new();
    let cas = authorities();
    let at_a = Queue::new(0, &Arc::default(), &["b"]);
    let at_b = Queue::new(0, &Arc::default(), &["a"]);
    let b = relay(&dir.0, &cas, "b", ("a", None), &tune, with(&at_b));
    let to = Some(b.listener.local_addr().unwrap());
    let a = relay(&dir.0, &cas, "a", ("b", to), &tune, with(&at_a));
    wait_for(|| at_a.has_lanes() && at_b.has_lanes()).await;
    Pair {
        a,
        b,
        at_a,
        at_b,
        _dir: dir,
    }
}

/// A call goes over the link and comes back.
async fn call(from: &Relay, to: &str) {
    let client = Client::new();
    let link = from.peers.to(&name(to)).unwrap();
    client.call(&link, 1, pattern(100), true).unwrap();
    client.until(|replies| replies[&1].end == Some(Ok(Code::Ok))).await;
}

// M-D1: two lanes per pair, for each direction, whoever dialled; I6: who sends is who its certificate says.
#[test]
fn both_sides_open_a_live_and_a_backlog_lane_whoever_dialled() {
    run(async {
        let pair = pair(|_| {}).await;
        for (from, to, peer) in [
            (&pair.at_a, &pair.at_b, "geo-a/a/a-1"),
            (&pair.at_b, &pair.at_a, "geo-b/b/b-1"),
        ] {
            for kind in [LaneKind::Live, LaneKind::Backlog] {
                let lane = from.lane(kind).unwrap();
                from.send(lane, 1..=50, 1000);
                wait_for(|| from.acked(lane) == 50).await;
                let at = to.lane_in(kind).unwrap();
                let arrived: Vec<u64> = to
                    .seen
                    .borrow()
                    .arrived
                    .iter()
                    .filter(|(on, _)| *on == at)
                    .map(|(_, seq)| *seq)
                    .collect();
                assert_eq!(arrived, (1..=50).collect::<Vec<_>>(), "A1: in order, each once");
                assert_eq!(to.seen.borrow().inn[&at].1, peer);
            }
        }
        let lanes = |labels: &[(&str, &str)]| pair.a.counted("strait_peer_message_lanes", labels);
        assert_eq!(lanes(&[("direction", "out"), ("lane", "live"), ("dst_unit", "b")]), 1.0);
        assert_eq!(lanes(&[("direction", "in")]), 2.0);
    });
}

// M1: what ends one lane ends nothing else, and the lane comes back.
#[test]
fn a_lane_that_ends_leaves_its_link_and_the_other_lane() {
    run(async {
        let pair = pair(|_| {}).await;
        let (live, backlog) = (
            pair.at_a.lane(LaneKind::Live).unwrap(),
            pair.at_a.lane(LaneKind::Backlog).unwrap(),
        );
        wait_for(|| pair.at_b.lane_in(LaneKind::Live).is_some()).await;
        let at_b = pair.at_b.lane_in(LaneKind::Live).unwrap();
        assert!(pair.at_b.messages.close_lane(at_b, "the test says so"));
        wait_for(|| pair.at_a.lane(LaneKind::Live).is_some_and(|lane| lane != live)).await;
        assert_eq!(pair.at_a.lane(LaneKind::Backlog), Some(backlog));
        let again = pair.at_a.lane(LaneKind::Live).unwrap();
        pair.at_a.send(again, 1..=3, 10);
        wait_for(|| pair.at_a.acked(again) == 3).await;
        call(&pair.a, "b").await;
        assert_eq!(pair.a.counted("strait_peer_connects_total", &[]), 1.0);
        let refused = pair
            .b
            .counted("strait_peer_message_lanes_refused_total", &[("reason", "closed")]);
        assert_eq!(refused, 1.0);
    });
}

// A link that is replaced takes no message along: its lanes move to the one in its place.
#[test]
fn lanes_move_to_the_link_that_takes_the_place_of_theirs() {
    run(async {
        let pair = pair(|_| {}).await;
        let before = pair.at_a.lane(LaneKind::Live).unwrap();
        pair.at_a.send(before, 1..=20, 100);
        wait_for(|| pair.at_a.acked(before) == 20).await;
        // Other addresses: another link is made, and takes the place of the one before.
        let at = pair.b.listener.local_addr().unwrap().to_string();
        let relays = vec![RelaySettings {
            name: name("b-1"),
            addresses: vec![at.clone(), at],
        }];
        let unit = UnitSettings {
            geo: name("geo-b"),
            dial: true,
            relays,
            access: vec![],
        };
        pair.a.peers.reload(&[(name("b"), unit)].into());
        wait_for(|| pair.at_a.has_lanes() && pair.at_a.lane(LaneKind::Live) != Some(before)).await;
        wait_for(|| pair.at_b.has_lanes() && pair.at_b.seen.borrow().ups.len() == 4).await;
        let after = pair.at_a.lane(LaneKind::Live).unwrap();
        pair.at_a.send(after, 1..=20, 100);
        wait_for(|| pair.at_a.acked(after) == 20).await;
        assert!(!pair.at_a.seen.borrow().two_at_once, "K1");
        assert!(!pair.at_b.seen.borrow().two_at_once, "K1");
        let ended = |reason| pair.a.counted("strait_peer_links_ended_total", &[("reason", reason)]);
        wait_for(|| ended("replaced") == 1.0).await;
        assert_eq!(
            pair.at_a.seen.borrow().ups.len(),
            4,
            "lanes do not keep a link that retires"
        );
    });
}

#[test]
fn lanes_end_with_their_link_on_both_sides_and_with_the_story() {
    run(async {
        let pair = pair(|_| {}).await;
        // The order of a shutdown: the queue has heard of the end of each lane when `close` returns.
        pair.at_a.carriers.close().await;
        assert_eq!(pair.at_a.carriers.open_lanes(), 0);
        wait_for(|| pair.at_a.seen.borrow().out.is_empty() && pair.at_b.seen.borrow().inn.is_empty()).await;
        call(&pair.a, "b").await;
        pair.a.peers.close().await;
        wait_for(|| pair.at_b.seen.borrow().out.is_empty() && pair.at_a.seen.borrow().inn.is_empty()).await;
        assert_eq!(pair.b.counted("strait_peer_message_lanes", &[]), 0.0);
    });
}

// J1, C-F4: what is not acknowledged is bounded at the receiver; everything else goes on.
#[test]
fn a_lane_that_nobody_reads_holds_up_neither_calls_nor_the_other_lane() {
    run(async {
        let pair = pair(|_| {}).await;
        wait_for(|| pair.at_b.lane_in(LaneKind::Live).is_some()).await;
        pair.at_b.holds.set(true);
        let backlog = pair.at_a.lane(LaneKind::Backlog).unwrap();
        pair.at_a.send(backlog, 1..=400, 60_000);
        let at_b = pair.at_b.lane_in(LaneKind::Backlog).unwrap();
        wait_for(|| pair.at_b.bytes(at_b) >= LANE_BYTES).await;
        pair.at_b.holds.set(false);
        let live = pair.at_a.lane(LaneKind::Live).unwrap();
        pair.at_a.send(live, 1..=100, 1000);
        wait_for(|| pair.at_a.acked(live) == 100).await;
        call(&pair.a, "b").await;
        call(&pair.b, "a").await;
        let bytes = pair.at_b.bytes(at_b);
        assert!(bytes < LANE_BYTES + 61_000, "J1: {bytes} bytes were read");
        pair.at_b.release();
        wait_for(|| pair.at_a.acked(backlog) == 400).await;
        assert_eq!(pair.at_b.arrived(at_b), 400);
    });
}

// M-D5, A3: a receiver without resources stops reading until it says that it has some.
#[test]
fn a_busy_receiver_reads_no_further_and_goes_on_where_it_stopped() {
    run(async {
        let pair = pair(|_| {}).await;
        wait_for(|| pair.at_b.lane_in(LaneKind::Live).is_some()).await;
        let (live, at_b) = (
            pair.at_a.lane(LaneKind::Live).unwrap(),
            pair.at_b.lane_in(LaneKind::Live).unwrap(),
        );
        let busy = |pushback| pair.at_b.messages.on_frame(at_b, ToSender::Busy { pushback });
        busy(Some(Duration::from_millis(100)));
        pair.at_a.send(live, 1..=10, 10);
        let told = |pushback: Option<Duration>| {
            let seen = pair.at_a.seen.borrow();
            seen.answers
                .iter()
                .any(|(_, answer)| *answer == ToSender::Busy { pushback })
        };
        wait_for(|| told(Some(Duration::from_millis(100)))).await;
        // It was reading when it was told so: one frame may have come.
        call(&pair.a, "b").await;
        assert!(pair.at_b.arrived(at_b) <= 1, "{}", pair.at_b.arrived(at_b));
        busy(None);
        wait_for(|| pair.at_a.acked(live) == 10 && told(None)).await;
    });
}

// K1: each shard has links, one has the lanes; another takes over when it has none any more.
#[test]
fn two_shards_have_one_pair_of_lanes_to_a_unit() {
    run(async {
        let dir = tempdir::Dir::new();
        let cas = authorities();
        let at_b = Queue::new(0, &Arc::default(), &["a"]);
        let b = relay(&dir.0, &cas, "b", ("a", None), |_| {}, with(&at_b));
        let to = Some(b.listener.local_addr().unwrap());
        let (claims, elsewhere) = (Arc::default(), Elsewhere::new(2, 16));
        let queues = [Queue::new(0, &claims, &["b"]), Queue::new(1, &claims, &["b"])];
        let shards: Vec<Relay> = (0..2)
            .map(|index| {
                let lanes: Rc<dyn LaneHandler> = queues[index].clone();
                let shard = Shard {
                    lanes: Some(lanes),
                    ..shard(index, &elsewhere)
                };
                relay(&dir.0, &cas, "a", ("b", to), |_| {}, shard)
            })
            .collect();
        wait_for(|| shards.iter().all(|shard| shard.peers.ready_links() == [(name("b"), 1)])).await;
        wait_for(|| queues.iter().any(|queue| queue.has_lanes())).await;
        for shard in &shards {
            call(shard, "b").await;
        }
        let lanes = |queue: &Queue| queue.seen.borrow().out.len();
        assert_eq!(lanes(&queues[0]) + lanes(&queues[1]), 2);
        let has = usize::from(queues[1].has_lanes());
        assert_ne!(queues[has].lane(LaneKind::Live).unwrap().shard(), 7);
        shards[has].peers.close().await;
        wait_for(|| lanes(&queues[has]) == 0 && queues[1 - has].has_lanes()).await;
        assert_eq!(at_b.seen.borrow().out.len(), 2, "the other side has moved its own, too");
        drop(b);
    });
}

// M3: an older relay knows no lanes for messages; it gets none, and calls pass.
#[test]
fn a_peer_that_does_not_know_lanes_for_messages_gets_none() {
    run(async {
        let dir = tempdir::Dir::new();
        let cas = authorities();
        let at_a = Queue::new(0, &Arc::default(), &["b"]);
        let b = relay(&dir.0, &cas, "b", ("a", None), |_| {}, alone());
        let to = Some(b.listener.local_addr().unwrap());
        let a = relay(&dir.0, &cas, "a", ("b", to), |_| {}, with(&at_a));
        wait_for(|| a.peers.to(&name("b")).is_ok() && b.peers.to(&name("a")).is_ok()).await;
        call(&a, "b").await;
        call(&b, "a").await;
        assert_eq!(at_a.carriers.open_lanes(), 0);
        assert!(at_a.seen.borrow().ups.is_empty());
    });
}

// M-G4: a unit that is not in the settings is told so before anything of it is taken.
#[test]
fn a_unit_that_is_not_in_the_settings_is_denied_its_lanes() {
    run(async {
        let pair = pair(|_| {}).await;
        wait_for(|| pair.at_b.lane_in(LaneKind::Live).is_some()).await;
        pair.at_b.messages.reload(BTreeSet::new(), LANE_BYTES);
        let lane = pair.at_b.lane_in(LaneKind::Live).unwrap();
        pair.at_b.messages.close_lane(lane, "to see it opened again");
        let denied = || {
            let seen = pair.at_a.seen.borrow();
            let is =
                |answer: &ToSender| matches!(answer, ToSender::Denied { detail } if detail.contains("unit a is not"));
            seen.answers.iter().any(|(_, answer)| is(answer))
        };
        wait_for(denied).await;
        let refused = || {
            pair.b
                .counted("strait_peer_message_lanes_refused_total", &[("reason", "unknown_unit")])
        };
        wait_for(|| refused() >= 1.0).await;
        assert!(pair.at_b.lane_in(LaneKind::Live).is_none());
    });
}

/// A peer that writes what a test says on lanes of its own.
#[derive(Default)]
struct Hostile {
    links: RefCell<Vec<LaneLink>>,
}

impl LaneHandler for Hostile {
    fn on_links(&self, _unit: &UnitId, links: Vec<LaneLink>) {
        self.links.replace(links);
    }

    fn on_lane(&self, _peer: &LinkPeer, lane: Lane) {
        drop(lane);
    }
}

/// A relay `b` with a queue, and a hostile `a` with a link to it.
async fn hostile() -> (Rc<Hostile>, Relay, Relay, Rc<Queue>, tempdir::Dir) {
    let dir = tempdir::Dir::new();
    let cas = authorities();
    let at_b = Queue::new(0, &Arc::default(), &["a"]);
    let b = relay(&dir.0, &cas, "b", ("a", None), |_| {}, with(&at_b));
    let hostile = Rc::new(Hostile::default());
    let lanes: Rc<dyn LaneHandler> = hostile.clone();
    let shard = Shard {
        lanes: Some(lanes),
        ..alone()
    };
    let to = Some(b.listener.local_addr().unwrap());
    let a = relay(&dir.0, &cas, "a", ("b", to), |_| {}, shard);
    wait_for(|| !hostile.links.borrow().is_empty()).await;
    (hostile, a, b, at_b, dir)
}

fn frames(frames: &[ToReceiver]) -> Bytes {
    let mut out = BytesMut::new();
    for frame in frames {
        strait::wire::frame::lanes::put_to_receiver(&mut out, frame);
    }
    out.freeze()
}

// J3, M1: nonsense ends the lane it is on and is counted; the link goes on.
#[test]
fn a_peer_that_writes_nonsense_loses_the_lane_and_nothing_else() {
    run(async {
        let (hostile, a, b, at_b, _dir) = hostile().await;
        let open = ToReceiver::Open {
            epoch: 1,
            kind: LaneKind::Live,
            base: 1,
        };
        let batch = |batch| ToReceiver::Messages {
            batch,
            messages: vec![],
        };
        let bad = [
            Bytes::from_static(&[0xff; 64]),
            frames(&[batch(1)]),
            frames(&[open.clone(), open.clone()]),
            frames(&[open.clone(), batch(2)]),
            frames(&[open.clone(), batch(1), batch(1)]),
        ];
        let refused = || b.counted("strait_peer_message_lanes_refused_total", &[("reason", "bad_frame")]);
        let link = hostile.links.borrow()[0].clone();
        for (index, bytes) in (1_u32..).zip(bad) {
            let mut lane = link.open(LaneKind::Live).await.unwrap();
            lane.writer.write(bytes).await.unwrap();
            // The other side closes it: reading ends, whatever was said before.
            while lane.reader.to_sender().await.is_ok() {}
            wait_for(|| (refused() - f64::from(index)).abs() < 0.5).await;
        }
        wait_for(|| at_b.seen.borrow().inn.is_empty()).await;
        call(&a, "b").await;
        assert_eq!(b.counted("strait_peer_links_up", &[]), 1.0);
    });
}

// M2
#[test]
fn a_peer_that_opens_too_many_lanes_is_refused_those() {
    run(async {
        let (hostile, a, b, _at_b, _dir) = hostile().await;
        let link = hostile.links.borrow()[0].clone();
        let mut lanes = Vec::new();
        for _ in 0..20 {
            lanes.push(link.open(LaneKind::Live).await.unwrap());
        }
        let refused = || b.counted("strait_peer_message_lanes_refused_total", &[("reason", "too_many")]);
        wait_for(|| (refused() - 12.0).abs() < 0.5).await;
        call(&a, "b").await;
        drop(lanes);
        // Room again.
        let lane = || async {
            let mut lane = link.open(LaneKind::Live).await.unwrap();
            let open = ToReceiver::Open {
                epoch: 1,
                kind: LaneKind::Live,
                base: 1,
            };
            let _ = lane.writer.write(frames(&[open])).await;
            matches!(lane.reader.to_sender().await, Ok(ToSender::Opened { .. }))
        };
        while !lane().await {}
    });
}
