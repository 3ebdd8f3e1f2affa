//! A small world around one outbox: disk, wire and receiver, all of them at the test's command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Outbox, OutboxSnapshot, Stay, key_hash};
use super::receiver::{Receiver, UNORDERED};
use super::wire::Wire;
use crate::model::{GapReason, Geo, Key, Message, MessageId, Metadata, Name, Place, Seq, Topic, UnixMillis};
use crate::queue::api::Output;
use crate::queue::effects::{DeadWish, Effects, Now, ReadBack, Reader, Told, Write};
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
    Stored(Seq, Box<Message>, bool),
    Gap((Seq, Seq), GapReason, Vec<(Topic, u64)>),
    Dead(Seq, Box<DeadWish>),
    Relayed(Vec<(Seq, Seq)>, Vec<(Topic, u64)>),
    /// Into the line of the next owner: from this one, or straight from its publisher.
    Elsewhere(Option<Seq>, Box<Message>),
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
    /// Each message that is stored is checked against M-C2; that is slow.
    pub(super) checks_live: bool,
    /// Messages with a key name the epoch of its owner.
    pub(super) routes: bool,
    /// The number that came last of each key, to the receiver or into the line of the next owner (M-C1).
    came: BTreeMap<(Topic, Bytes), u64>,
    made: u64,
    pub(super) reads_made: u64,
    pub(super) next_lane: u64,
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
            checks_live: false,
            routes: false,
            came: BTreeMap::new(),
            made: 0,
            reads_made: 0,
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
            routed: 0,
            attributes: Metadata::default(),
            body: Bytes::from(vec![0; size]),
        }
    }

    /// Which line a message belongs to, as `engine::reroute` has it; `false`: that of the next owner.
    fn belongs_here(&mut self, message: &mut Message) -> bool {
        let Some(key) = message.key.as_ref().filter(|_| self.routes) else {
            return true;
        };
        let (epoch, ours) = self.receiver.owner(&key.key);
        message.routed = epoch;
        let ordered = !UNORDERED.contains(&message.topic.as_str());
        let home = key_hash(message)
            .filter(|_| ordered)
            .and_then(|hash| self.outbox.home(hash));
        match home {
            Some((home, Stay::Leaves)) => message.routed = home.min(epoch),
            Some((home, _)) if !ours && epoch > 1 => message.routed = home.min(epoch - 1),
            _ => return ours,
        }
        true
    }

    /// A message has reached a unit or its line.
    pub(super) fn came(&mut self, message: &Message) {
        if let Some(key) = &message.key
            && message.routed > 0
            && !UNORDERED.contains(&message.topic.as_str())
        {
            let last = self.came.entry((message.topic.clone(), key.key.clone())).or_default();
            assert!(*last < message.id.number, "{message:?} came behind {last} (M-C1)");
            *last = message.id.number;
        }
    }

    /// Publishes; it is on disk after the next `commit`.
    pub(super) fn publish(&mut self, mut message: Message) -> Option<Seq> {
        if !self.belongs_here(&mut message) {
            self.pending.push_back(Pending::Elsewhere(None, Box::new(message)));
            return None;
        }
        let settings = TopicSettings::of(&self.setup.topics, &message.topic)
            .cloned()
            .unwrap_or_default();
        self.outbox.admit(&message.topic, &settings, message.bytes()).ok()?;
        let seq = self.outbox.assign();
        if message.routed > 0 && !UNORDERED.contains(&message.topic.as_str()) {
            self.outbox.at_home(seq, key_hash(&message).unwrap(), message.routed);
        }
        self.pending.push_back(Pending::Stored(seq, Box::new(message), false));
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
                self.disk.insert(*seq, (**message).clone());
                self.accepted.insert(*seq, (**message).clone());
            }
            if let Pending::Elsewhere(_, message) = &write {
                self.came(message);
            }
            let expected = match &write {
                Pending::Stored(_, message, _) if self.checks_live => Some(self.expects_live(message)),
                _ => None,
            };
            let mut fx = Effects::default();
            apply(&mut self.outbox, self.now, &write, false, &mut fx);
            self.take(fx);
            if let (Pending::Stored(seq, ..), Some(Some(live))) = (&write, expected) {
                assert_eq!(self.outbox.live.find(*seq).is_some(), live, "M-C2: {seq} is live");
            }
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
                Write::Reroute(wish) => {
                    let mut message = wish.message;
                    message.routed = wish.epoch;
                    Pending::Elsewhere(Some(wish.from.1), Box::new(message))
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
        let mut begun = self.outbox.moves().collect();
        let again = self.outbox.move_out(self.now, &mut begun, &mut fx);
        self.wake = self.wake.into_iter().chain(again).min();
        self.take(fx);
        self.wake
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall.0 += u64::try_from(time.as_millis()).unwrap();
    }

    pub(super) fn read(&mut self, count: usize, failed: bool) {
        for _ in 0..count.min(self.reads.len()) {
            let (cursor, scan) = self.reads.pop_front().unwrap();
            self.reads_made += 1;
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
        outbox.recovered();
        outbox
    }

    /// What is not on disk yet will never be, but for records of what was relayed: these are written again, before all that comes
    /// later (J3 of `engine::journal`).
    pub(super) fn fail_disk(&mut self) {
        self.pending.retain(|write| matches!(write, Pending::Relayed(..)));
        self.outbox.rollback();
    }

    pub(super) fn checkpoint(&mut self) {
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
}

fn apply(outbox: &mut Outbox, now: Now, record: &Pending, recovery: bool, fx: &mut Effects) {
    match record {
        Pending::Stored(seq, message, tell) => outbox.on_stored(now, *seq, message, *tell, fx),
        Pending::Gap(seqs, reason, counts) => outbox.on_gap(now, *seqs, *reason, counts, fx),
        Pending::Dead(seq, wish) => outbox.on_dead(now, *seq, &wish.message.topic, fx),
        Pending::Relayed(seqs, counts) if recovery => outbox.on_relayed(seqs, counts),
        Pending::Elsewhere(Some(seq), message) => outbox.on_rerouted(now, *seq, message, &name("elsewhere"), fx),
        Pending::Elsewhere(None, _) | Pending::Relayed(..) => {}
    }
}

/// State of the link.
pub(super) fn state(world: &World) -> String {
    world.outbox.status(world.now).state
}

/// First arrivals in their order.
pub(super) fn arrived(world: &World) -> Vec<Seq> {
    world.receiver.arrivals.iter().map(|(seq, _)| *seq).collect()
}

/// A pair that is up.
pub(super) fn connected() -> World {
    let mut world = World::new(setup(loose()));
    world.connect();
    world
}
