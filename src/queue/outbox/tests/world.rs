//! A small world around one outbox: disk, wire and receiver, all of them at the test's command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Outbox, OutboxSnapshot};
use crate::model::{GapReason, Geo, Key, Message, MessageId, Metadata, Name, Place, Seq, Topic, UnixMillis};
use crate::queue::api::Output;
use crate::queue::effects::{DeadWish, Effects, Now, ReadBack, Reader, Told, Write};
use crate::queue::lanes::{LaneId, LaneKind, Refused, ToReceiver, ToSender};
use crate::queue::line::Settled;
use crate::queue::log::Scan;
use crate::queue::operator::AuditRow;
use crate::queue::record::Record;
use crate::queue::{ReplaySettings, Settings, Setup, TopicSettings, Topics};

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Something to be written.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Stored(Seq, Message, bool),
    Gap((Seq, Seq), GapReason, Vec<(Topic, u64)>),
    Dead(Seq, Box<DeadWish>),
    Relayed(Vec<(Seq, Seq)>, Vec<(Topic, u64)>),
}

/// A lane on the wire.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) id: LaneId,
    pub(super) kind: LaneKind,
    /// The sender still has it.
    pub(super) up: bool,
    pub(super) out: VecDeque<ToReceiver>,
    pub(super) back: VecDeque<ToSender>,
}

/// The relay that receives.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) seen: Settled,
    /// First arrivals in their order, with the lane's kind.
    pub(super) arrivals: Vec<(Seq, LaneKind)>,
    pub(super) skipped: BTreeMap<Seq, GapReason>,
    pub(super) duplicates: u64,
    /// It will never take these.
    pub(super) refuses: BTreeSet<Seq>,
    pub(super) deny: bool,
}

pub(super) struct World {
    pub(super) outbox: Outbox,
    pub(super) setup: Setup,
    pub(super) now: Now,
    pub(super) disk: BTreeMap<Seq, Message>,
    pub(super) log: Vec<Pending>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) reads: VecDeque<(u32, Scan)>,
    pub(super) wires: Vec<Wire>,
    pub(super) receiver: Receiver,
    pub(super) accepted: BTreeMap<Seq, Message>,
    pub(super) snapshot: (OutboxSnapshot, usize),
    pub(super) relayed: BTreeSet<Seq>,
    pub(super) wake: Option<Duration>,
    /// Records of what was relayed were lost with the disk: a restart would send again.
    pub(super) lost_records: bool,
    made: u64,
    next_lane: u64,
}

/// Settings with topics `t0` (ordered), `t1` (ordered), `loose` (unordered), and more.
pub(super) fn setup(topics: Topics) -> Setup {
    Setup {
        place: Place {
            unit: name("here"),
            relay: name("relay"),
        },
        geo: Geo::new("geo").unwrap(),
        queue: Settings::default(),
        replay: ReplaySettings::default(),
        topics: Arc::new(topics),
        neighbours: crate::queue::Neighbours::default(),
    }
}

pub(super) fn loose() -> Topics {
    let loose = TopicSettings {
        ordered: false,
        ..TopicSettings::default()
    };
    BTreeMap::from([("loose".to_owned(), loose)])
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let mut outbox = Outbox::new(name("there"), 7);
        outbox.configure(&setup);
        let snapshot = (outbox.snapshot(), 0);
        Self {
            outbox,
            setup,
            now: Now {
                mono: Duration::from_secs(1000),
                wall: UnixMillis(1_000_000),
            },
            disk: BTreeMap::new(),
            log: Vec::new(),
            pending: VecDeque::new(),
            reads: VecDeque::new(),
            wires: Vec::new(),
            receiver: Receiver::default(),
            accepted: BTreeMap::new(),
            snapshot,
            relayed: BTreeSet::new(),
            wake: None,
            lost_records: false,
            made: 0,
            next_lane: 1,
        }
    }

    pub(super) fn message(&mut self, topic: &str, key: Option<&str>, size: usize, ttl: Option<u64>) -> Message {
        self.made += 1;
        Message {
            id: MessageId {
                unit: name("here"),
                relay: name("relay"),
                epoch: 7,
                number: self.made,
            },
            topic: name(topic),
            key: key.map(|key| Key {
                dimension: Bytes::from_static(b"k"),
                key: Bytes::copy_from_slice(key.as_bytes()),
            }),
            accepted_at: self.now.wall,
            deadline: ttl.map(|ttl| UnixMillis(self.now.wall.0 + ttl)),
            visited: Vec::new(),
            redrives: 0,
            attributes: Metadata::default(),
            body: Bytes::from(vec![0; size]),
        }
    }

    /// Publishes; it is on disk after the next `commit`.
    pub(super) fn publish(&mut self, message: Message) -> Option<Seq> {
        let settings = TopicSettings::of(&self.setup.topics, &message.topic)
            .cloned()
            .unwrap_or_default();
        self.outbox.admit(&message.topic, &settings, message.bytes()).ok()?;
        let seq = self.outbox.assign();
        self.pending.push_back(Pending::Stored(seq, message, false));
        Some(seq)
    }

    pub(super) fn put(&mut self, topic: &str, key: Option<&str>) -> Seq {
        let message = self.message(topic, key, 100, None);
        let seq = self.publish(message).unwrap();
        self.commit(usize::MAX);
        seq
    }

    /// So many writes come to be on disk.
    pub(super) fn commit(&mut self, count: usize) {
        for _ in 0..count.min(self.pending.len()) {
            let write = self.pending.pop_front().unwrap();
            self.log.push(write.clone());
            if let Pending::Stored(seq, message, _) = &write {
                self.disk.insert(*seq, message.clone());
                self.accepted.insert(*seq, message.clone());
            }
            let mut fx = Effects::default();
            apply(&mut self.outbox, self.now, &write, false, &mut fx);
            self.take(fx);
        }
    }

    /// Does what the outbox wishes.
    pub(super) fn take(&mut self, fx: Effects) {
        for write in fx.writes {
            self.pending.push_back(match write {
                Write::Record(Record::Gap {
                    seqs, reason, counts, ..
                }) => Pending::Gap(seqs, reason, counts),
                Write::Record(Record::Relayed { seqs, counts, .. }) => Pending::Relayed(seqs, counts),
                Write::Dead(wish) => {
                    let crate::queue::record::DeadSource::Outbox(_, seq) = wish.at else {
                        panic!()
                    };
                    Pending::Dead(seq, wish)
                }
                other => panic!("{other:?}"),
            });
        }
        for (reader, scan) in fx.reads {
            let Reader::Outbox { cursor, .. } = reader else {
                panic!()
            };
            self.reads.push_back((cursor, scan));
        }
        for output in fx.outputs {
            match output {
                Output::ToReceiver { lane, frame } => {
                    let wire = self.wires.iter_mut().find(|wire| wire.id == lane).unwrap();
                    assert!(wire.up, "nothing is sent on a lane that was closed");
                    wire.out.push_back(frame);
                }
                Output::CloseLane { lane, .. } => {
                    // What is under way may still arrive.
                    let wire = self.wires.iter_mut().find(|wire| wire.id == lane).unwrap();
                    wire.up = false;
                }
                other => panic!("{other:?}"),
            }
        }
        for told in fx.told {
            if let Told::Relayed { seqs, .. } = told {
                for (from, to) in seqs {
                    for seq in from..=to {
                        assert!(self.relayed.insert(seq), "{seq} was told twice");
                        assert!(self.receiver.seen.contains(seq), "{seq} was told and is not there");
                    }
                }
            }
        }
    }

    pub(super) fn poll(&mut self) -> Option<Duration> {
        let mut fx = Effects::default();
        self.wake = self.outbox.poll(self.now, &mut fx);
        self.take(fx);
        self.wake
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall.0 += u64::try_from(time.as_millis()).unwrap();
    }

    pub(super) fn lane_up(&mut self, kind: LaneKind) -> LaneId {
        let id = LaneId(self.next_lane);
        self.next_lane += 1;
        self.wires.push(Wire {
            id,
            kind,
            up: true,
            out: VecDeque::new(),
            back: VecDeque::new(),
        });
        let mut fx = Effects::default();
        self.outbox.on_lane_up(self.now, id, name("peer"), kind, &mut fx);
        self.take(fx);
        id
    }

    /// Both lanes are up and opened.
    pub(super) fn connect(&mut self) {
        self.lane_up(LaneKind::Live);
        self.lane_up(LaneKind::Backlog);
        self.exchange();
    }

    /// The sender loses a lane. `lost`: what is under way is lost too; else it may arrive later.
    pub(super) fn lane_down(&mut self, index: usize, lost: bool) {
        let wire = &mut self.wires[index];
        let (id, was_up) = (wire.id, wire.up);
        wire.up = false;
        wire.back.clear();
        if lost {
            wire.out.clear();
        }
        if was_up {
            let mut fx = Effects::default();
            self.outbox.on_lane_down(self.now, id, &mut fx);
            self.take(fx);
        }
    }

    pub(super) fn all_down(&mut self) {
        for index in 0..self.wires.len() {
            self.lane_down(index, true);
        }
        self.wires.clear();
    }

    /// The receiver takes frames of a lane.
    pub(super) fn receive(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let wire = &mut self.wires[index];
            let Some(frame) = wire.out.pop_front() else { return };
            if let Some(answer) = self.receiver.take(frame, wire.kind, &self.accepted)
                && wire.up
            {
                wire.back.push_back(answer);
            }
        }
    }

    /// The sender takes answers of a lane.
    pub(super) fn answer(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let wire = &mut self.wires[index];
            let id = wire.id;
            let Some(frame) = wire.back.pop_front().filter(|_| wire.up) else {
                return;
            };
            self.frame(id, frame);
        }
    }

    pub(super) fn frame(&mut self, id: LaneId, frame: ToSender) {
        let mut fx = Effects::default();
        self.outbox.on_frame(self.now, id, frame, &mut fx);
        self.take(fx);
    }

    pub(super) fn read(&mut self, count: usize, failed: bool) {
        for _ in 0..count.min(self.reads.len()) {
            let (cursor, scan) = self.reads.pop_front().unwrap();
            let mut back = ReadBack {
                from: scan.from,
                failed,
                ..ReadBack::default()
            };
            let mut bytes = 0;
            if !failed {
                for (seq, message) in self.disk.range(scan.from..) {
                    if back.found.len() >= scan.messages_max || bytes >= scan.bytes_max {
                        back.next = Some(*seq);
                        break;
                    }
                    bytes += message.bytes();
                    back.found.push((*seq, message.clone()));
                }
            }
            let mut fx = Effects::default();
            self.outbox.on_read(self.now, cursor, back, &mut fx);
            self.take(fx);
        }
    }

    /// Everything moves until nothing does, without time passing.
    pub(super) fn exchange(&mut self) {
        let mut idle = 0;
        for _ in 0..100_000 {
            self.poll();
            self.commit(usize::MAX);
            self.read(usize::MAX, false);
            let mut moved = false;
            for index in 0..self.wires.len() {
                moved |= !self.wires[index].out.is_empty() || !self.wires[index].back.is_empty();
                self.receive(index, usize::MAX);
                self.answer(index, usize::MAX);
            }
            moved |= !self.pending.is_empty() || !self.reads.is_empty();
            idle = if moved { 0 } else { idle + 1 };
            if idle == 3 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// SIGKILL and a new start from the last snapshot and the records behind it.
    pub(super) fn crash(&mut self) {
        self.pending.clear();
        self.reads.clear();
        for wire in &mut self.wires {
            wire.up = false;
            wire.back.clear();
        }
        self.outbox = self.recovered(1);
        self.relayed.clear();
        self.lost_records = false;
    }

    /// What a restart makes of the log, each record applied so many times.
    pub(super) fn recovered(&self, times: usize) -> Outbox {
        let mut outbox = Outbox::new(name("there"), 7);
        outbox.configure(&self.setup);
        assert!(outbox.restore(self.snapshot.0.clone()));
        for _ in 0..times {
            for record in &self.log[self.snapshot.1..] {
                apply(&mut outbox, self.now, record, true, &mut Effects::default());
            }
        }
        outbox
    }

    /// What is not on disk yet will never be.
    pub(super) fn fail_disk(&mut self) {
        self.lost_records |= self.pending.iter().any(|write| matches!(write, Pending::Relayed(..)));
        self.pending.clear();
        self.outbox.rollback();
    }

    pub(super) fn checkpoint(&mut self) {
        self.lost_records = false;
        self.snapshot = (self.outbox.snapshot(), self.log.len());
    }

    /// Numbers on disk that the outbox says are not done.
    pub(super) fn undone(&self) -> u64 {
        let undone = self.disk.keys().filter(|seq| !self.outbox.is_done(**seq));
        u64::try_from(undone.count()).unwrap()
    }

    pub(super) fn row(&self, topic: &str) -> AuditRow {
        self.outbox
            .books()
            .into_iter()
            .find(|row| row.topic == topic)
            .unwrap_or_default()
    }

    /// First arrivals of each key are in the order of its numbers (M-C1).
    pub(super) fn check_order(&self) {
        let mut last: BTreeMap<(Topic, Vec<u8>), Seq> = BTreeMap::new();
        for (seq, lane) in &self.receiver.arrivals {
            let message = &self.accepted[seq];
            let rules = TopicSettings::of(&self.setup.topics, &message.topic);
            if let Some(key) = &message.key
                && rules.is_none_or(|rules| rules.ordered)
            {
                let before = last.insert((message.topic.clone(), key.key.to_vec()), *seq);
                assert!(
                    before < Some(*seq),
                    "{seq} came behind {before:?}, on the lane {lane:?}"
                );
            }
        }
    }

    /// Everything has an end, and is counted as that (M-G8).
    pub(super) fn check_books(&self) {
        let mut ends: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        let mut count = |topic: &Topic, what: &'static str, count: u64| {
            *ends
                .entry(topic.as_str().to_owned())
                .or_default()
                .entry(what)
                .or_default() += count;
        };
        let mut ended = BTreeSet::new();
        for record in &self.log {
            let (seqs, what) = match record {
                Pending::Gap(seqs, reason, _) => (*seqs, reason.as_str()),
                Pending::Dead(seq, _) => ((*seq, *seq), "dead_lettered"),
                Pending::Relayed(..) | Pending::Stored(..) => continue,
            };
            for seq in seqs.0..=seqs.1 {
                assert!(ended.insert(seq), "{seq} ended twice");
                count(&self.accepted[&seq].topic, what, 1);
            }
        }
        let arrived: BTreeSet<Seq> = self.receiver.arrivals.iter().map(|(seq, _)| *seq).collect();
        for (seq, message) in &self.accepted {
            count(&message.topic, "accepted", 1);
            if !ended.contains(seq) {
                assert!(arrived.contains(seq), "{seq} is lost");
                count(&message.topic, "relayed", 1);
            }
        }
        for (topic, counts) in ends {
            let row = self.row(&topic);
            let of = |what: &str| counts.get(what).copied().unwrap_or_default();
            assert_eq!(row.accepted, of("accepted"), "{topic} {row:?}");
            assert_eq!(row.relayed, of("relayed"), "{topic} {row:?} {counts:?}");
            assert_eq!(row.expired, of("expired"), "{topic} {row:?}");
            assert_eq!(row.dropped, of("dropped"), "{topic} {row:?}");
            assert_eq!(row.purged, of("purged"), "{topic} {row:?}");
            assert_eq!(row.dead_lettered, of("dead_lettered"), "{topic} {row:?}");
            assert_eq!(row.corrupted, of("corrupted"), "{topic} {row:?}");
        }
    }

    /// Nothing is left anywhere.
    pub(super) fn check_empty(&self) {
        let status = self.outbox.status(self.now);
        assert_eq!((status.live, status.backlog, status.bytes), (0, 0, 0), "{status:?}");
        assert_eq!((status.keys_behind, status.keys_coarse), (0, false));
        assert_eq!(self.undone(), 0);
        assert!(self.outbox.void.is_empty() && self.outbox.wished.is_empty() && self.outbox.flying.is_empty());
        for topic in self.outbox.topics.iter() {
            assert_eq!(
                (topic.live, topic.backlog, topic.flying, topic.ending),
                (0, 0, 0, 0),
                "{topic:?}"
            );
        }
        for cursor in self.outbox.cursors.values() {
            assert_eq!(
                (cursor.pending, cursor.flying, cursor.flying_bytes, cursor.ending),
                (0, 0, 0, 0)
            );
        }
        assert_eq!(
            self.receiver.seen.frontier(),
            self.outbox.last_stored(),
            "every number is told (M-G2)"
        );
    }
}

impl Receiver {
    fn take(&mut self, frame: ToReceiver, kind: LaneKind, accepted: &BTreeMap<Seq, Message>) -> Option<ToSender> {
        match frame {
            ToReceiver::Open { base, .. } => {
                if self.deny {
                    return Some(ToSender::Denied {
                        detail: "not wanted".to_owned(),
                    });
                }
                self.seen.insert_range(1, base.saturating_sub(1));
                Some(ToSender::Opened {
                    frontier: self.seen.frontier(),
                    above: self.seen.runs_above(1000),
                    highest: self.seen.highest(),
                })
            }
            ToReceiver::Messages { batch, messages } => {
                let mut refused = Vec::new();
                for sent in messages {
                    assert!(accepted.contains_key(&sent.seq), "M-A3: {} is not on disk", sent.seq);
                    assert_eq!(accepted[&sent.seq], sent.message);
                    if self.refuses.contains(&sent.seq) && !self.seen.contains(sent.seq) {
                        refused.push(Refused {
                            seq: sent.seq,
                            reason: "not_allowed".to_owned(),
                            detail: "test".to_owned(),
                        });
                    } else if self.seen.insert(sent.seq) {
                        self.arrivals.push((sent.seq, kind));
                    } else {
                        self.duplicates += 1;
                    }
                }
                Some(ToSender::Ack { batch, refused })
            }
            ToReceiver::Gap { batch, seqs, reason } => {
                for seq in seqs.0..=seqs.1 {
                    if self.seen.insert(seq) {
                        self.skipped.insert(seq, reason);
                    }
                }
                Some(ToSender::Ack {
                    batch,
                    refused: Vec::new(),
                })
            }
        }
    }
}

fn apply(outbox: &mut Outbox, now: Now, record: &Pending, recovery: bool, fx: &mut Effects) {
    match record {
        Pending::Stored(seq, message, tell) => outbox.on_stored(now, *seq, message, *tell, fx),
        Pending::Gap(seqs, reason, counts) => outbox.on_gap(now, *seqs, *reason, counts, fx),
        Pending::Dead(seq, wish) => outbox.on_dead(now, *seq, &wish.message.topic, fx),
        Pending::Relayed(seqs, counts) if recovery => outbox.on_relayed(seqs, counts),
        Pending::Relayed(..) => {}
    }
}
