//! An inbox with a disk, a clock and consumers that are plain values.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{GapReason, Geo, GroupName, Key, Message, MessageId, Metadata, Name, Place, Seq, Topic, UnixMillis};
use crate::queue::api::{ConsumerId, Deliver, Output, Settlement, Subscribe, Ticket};
use crate::queue::effects::{DeadWish, Effects, Now, ReadBack, Reader, Told, Write};
use crate::queue::inbox::{Inbox, InboxSnapshot};
use crate::queue::log::Scan;
use crate::queue::record::{DeadSource, Record, Stored};
use crate::queue::{Settings, Setup, TopicSettings};

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn topic() -> Topic {
    name("t")
}

pub(super) fn setup(settings: TopicSettings, parked_max: usize) -> Setup {
    Setup {
        place: Place {
            unit: name("u"),
            relay: name("r"),
        },
        geo: Geo::new("geo").unwrap(),
        queue: Settings {
            parked_max,
            ..Settings::default()
        },
        replay: crate::queue::ReplaySettings::default(),
        topics: Arc::new([("t*".to_owned(), settings)].into()),
        neighbours: crate::queue::Neighbours::default(),
    }
}

pub(super) fn message(key: Option<u64>, deadline: Option<u64>, body: usize) -> Message {
    Message {
        id: MessageId {
            unit: name("u"),
            relay: name("r"),
            epoch: 1,
            number: 1,
        },
        topic: topic(),
        key: key.map(|key| Key {
            dimension: Bytes::from_static(b"k"),
            key: Bytes::from(key.to_string()),
        }),
        accepted_at: UnixMillis(0),
        deadline: deadline.map(UnixMillis),
        visited: Vec::new(),
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from(vec![0; body]),
    }
}

/// What is on disk, in its order.
#[derive(Clone, Debug)]
pub(super) enum Logged {
    Record(Record),
    Dead(Box<DeadWish>),
}

pub(super) struct World {
    pub inbox: Inbox,
    pub setup: Setup,
    pub now: Now,
    pub dice: fastrand::Rng,
    /// Messages of the topic that can be read.
    pub disk: BTreeMap<Seq, Message>,
    pub log: Vec<Logged>,
    /// Not on disk yet.
    pub writing: VecDeque<Write>,
    /// Writes that are on disk or lost.
    pub left: usize,
    /// What is to be read, and the last number on disk when it was asked for.
    pub reads: VecDeque<(Reader, Scan, Seq)>,
    pub deliveries: VecDeque<Deliver>,
    pub overdue: Vec<Output>,
    pub subscribed: usize,
    pub told: Vec<Told>,
    pub wake: Option<Duration>,
    pub snapshot: (InboxSnapshot, usize),
    /// Reads asked for, in all.
    pub reads_count: usize,
}

impl World {
    pub(super) fn new(settings: TopicSettings) -> Self {
        Self::with(setup(settings, 1000))
    }

    pub(super) fn with(setup: Setup) -> Self {
        let mut inbox = Inbox::new();
        inbox.configure(&setup);
        Self {
            inbox,
            setup,
            now: Now {
                mono: Duration::from_secs(1),
                wall: UnixMillis(1_000_000),
            },
            dice: fastrand::Rng::with_seed(7),
            disk: BTreeMap::new(),
            log: Vec::new(),
            writing: VecDeque::new(),
            left: 0,
            reads: VecDeque::new(),
            deliveries: VecDeque::new(),
            overdue: Vec::new(),
            subscribed: 0,
            told: Vec::new(),
            wake: None,
            snapshot: (InboxSnapshot::default(), 0),
            reads_count: 0,
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall.0 += u64::try_from(time.as_millis()).unwrap();
    }

    pub(super) fn pass_ms(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    /// Stores a message, on the way to the disk.
    pub(super) fn write(&mut self, message: Message, only: Option<&GroupName>) -> Seq {
        let seq = self.inbox.assign(&topic());
        let stored = Stored {
            message,
            from: None,
            outs: Vec::new(),
            inbox: Some(seq),
            only: only.cloned(),
            redriven: None,
            rerouted: None,
            mirror: None,
        };
        self.writing.push_back(Write::Record(Record::Stored(Box::new(stored))));
        seq
    }

    /// Stores a message.
    pub(super) fn store(&mut self, key: Option<u64>) -> Seq {
        let seq = self.write(message(key, None, 10), None);
        self.commit(usize::MAX);
        seq
    }

    pub(super) fn absorb(&mut self, fx: Effects) {
        self.writing.extend(fx.writes);
        self.reads_count += fx.reads.len();
        let stored = self.inbox.last_stored(&topic());
        self.reads
            .extend(fx.reads.into_iter().map(|(reader, scan)| (reader, scan, stored)));
        for output in fx.outputs {
            self.output(output);
        }
        self.told.extend(fx.told);
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Deliver(deliver) => self.deliveries.push_back(*deliver),
            Output::Overdue { .. } => self.overdue.push(output),
            Output::Subscribed { result, .. } => self.subscribed += usize::from(result.is_ok()),
            other => panic!("not for an inbox: {other:?}"),
        }
    }

    /// So many writes reach the disk. Returns what did.
    pub(super) fn commit(&mut self, count: usize) -> Vec<Logged> {
        let mut done = Vec::new();
        while done.len() < count {
            let Some(write) = self.writing.pop_front() else { break };
            self.left += 1;
            let logged = match write {
                Write::Then(output) => {
                    self.output(output);
                    continue;
                }
                Write::Reroute(wish) => panic!("{wish:?}"),
                Write::Dead(wish) => Logged::Dead(wish),
                Write::Record(record) => Logged::Record(record),
            };
            if let Logged::Record(Record::Stored(stored)) = &logged {
                self.disk.insert(stored.inbox.unwrap(), stored.message.clone());
            }
            self.log.push(logged.clone());
            let mut fx = Effects::default();
            self.apply(&logged, false, &mut fx);
            self.absorb(fx);
            done.push(logged);
        }
        done
    }

    fn apply(&mut self, logged: &Logged, recovery: bool, fx: &mut Effects) {
        let (inbox, now) = (&mut self.inbox, self.now);
        match logged {
            Logged::Dead(wish) => {
                let DeadSource::Group(group, seq) = &wish.at else {
                    panic!()
                };
                inbox.on_dead(now, &topic(), group, *seq, fx);
            }
            Logged::Record(Record::Stored(stored)) => {
                let seq = stored.inbox.unwrap();
                if recovery && !self.disk.contains_key(&seq) && !inbox.is_done(&topic(), seq) {
                    // Damaged: it is not found.
                    return;
                }
                inbox.on_stored(now, seq, &stored.message, stored.only.as_ref(), fx);
            }
            Logged::Record(record) if recovery => match record {
                Record::Settled {
                    topic,
                    group,
                    seqs,
                    reason,
                } => inbox.on_settled(topic, group, seqs, *reason),
                Record::Attempt {
                    topic,
                    group,
                    seq,
                    failed,
                    not_before,
                    key,
                } => {
                    inbox.on_attempt((topic, group), (*seq, *key), *failed, *not_before);
                }
                Record::Kept(kept) => inbox.on_kept(now, kept),
                other => panic!("not of an inbox: {other:?}"),
            },
            Logged::Record(Record::Settled {
                topic,
                group,
                seqs,
                reason: Some(GapReason::Dropped | GapReason::Purged),
            }) => inbox.on_left(now, topic, group, seqs),
            Logged::Record(_) => {}
        }
    }

    pub(super) fn poll(&mut self) {
        let mut fx = Effects::default();
        self.wake = self.inbox.poll(self.now, &mut self.dice, &mut fx);
        assert!(
            self.wake.is_none_or(|wake| wake > self.now.mono),
            "it would be polled for ever"
        );
        self.absorb(fx);
    }

    pub(super) fn save(&mut self) {
        let mut fx = Effects::default();
        self.inbox.save(&mut fx);
        self.absorb(fx);
    }

    pub(super) fn subscribe(&mut self, id: u64, group: &str, in_flight_max: usize) {
        let subscribe = Subscribe {
            consumer: ConsumerId(id),
            shard: 0,
            ticket: Ticket { shard: 0, number: id },
            topic: topic(),
            group: name(group),
            in_flight_max,
        };
        let mut fx = Effects::default();
        self.inbox.subscribe(self.now, subscribe, &mut fx);
        self.absorb(fx);
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        self.inbox.unsubscribe(self.now, ConsumerId(id));
    }

    pub(super) fn settle(&mut self, deliver: &Deliver, outcome: Settlement) {
        let mut fx = Effects::default();
        let which = (deliver.consumer, deliver.delivery);
        self.inbox.settle(self.now, which, outcome, &mut self.dice, &mut fx);
        self.absorb(fx);
    }

    /// Answers a read by what was on disk when it was asked for, and some of what came since.
    pub(super) fn answer(&mut self, which: usize, fails: bool) {
        let Some((reader, scan, stored)) = self.reads.remove(which) else {
            return;
        };
        let mut back = ReadBack {
            from: scan.from,
            failed: fails,
            ..ReadBack::default()
        };
        let mut bytes = 0;
        if !fails {
            let missed = |seq: Seq| seq > stored && (seq - stored) % 3 == 1;
            for (seq, message) in self.disk.range(scan.from..).filter(|(seq, _)| !missed(**seq)) {
                if back.found.len() >= scan.messages_max || !back.found.is_empty() && bytes >= scan.bytes_max {
                    back.next = Some(*seq);
                    break;
                }
                bytes += message.bytes();
                back.found.push((*seq, message.clone()));
            }
        }
        let mut fx = Effects::default();
        self.inbox.on_read(self.now, &reader, back, &mut fx);
        self.absorb(fx);
    }

    /// Until nothing more happens at this moment.
    pub(super) fn settle_down(&mut self) {
        loop {
            self.poll();
            self.commit(usize::MAX);
            if self.reads.is_empty() {
                self.poll();
                if self.reads.is_empty() && self.writing.is_empty() {
                    return;
                }
            }
            while !self.reads.is_empty() {
                self.answer(0, false);
            }
        }
    }

    /// The messages that are handed out now.
    pub(super) fn handed_out(&mut self) -> Vec<Deliver> {
        self.settle_down();
        self.deliveries.drain(..).collect()
    }

    pub(super) fn seqs(&mut self) -> Vec<Seq> {
        self.handed_out().iter().map(|deliver| deliver.delivery.seq).collect()
    }

    pub(super) fn take_snapshot(&mut self) {
        // Through text, as it would be on disk.
        let text = serde_json::to_string(&self.inbox.snapshot()).unwrap();
        self.snapshot = (serde_json::from_str(&text).unwrap(), self.log.len());
    }

    /// The process dies and comes back; records from before the snapshot are read again, some of them at least (R2).
    pub(super) fn restart(&mut self, again: usize) {
        self.left += self.writing.len();
        self.writing.clear();
        self.reads.clear();
        self.deliveries.clear();
        self.inbox = Inbox::new();
        self.inbox.configure(&self.setup);
        assert!(self.inbox.restore(self.snapshot.0.clone()));
        let from = self.snapshot.1.saturating_sub(again);
        let mut fx = Effects::default();
        for logged in self.log.clone().iter().skip(from) {
            self.apply(logged, true, &mut fx);
        }
        assert!(fx.outputs.is_empty());
        self.now.mono = Duration::from_secs(1);
    }

    /// A disk error: what was on its way is lost. That messages had left is in the next snapshot, in place of its records.
    pub(super) fn disk_fails(&mut self) {
        self.left += self.writing.len();
        let lost = std::mem::take(&mut self.writing);
        self.inbox.rollback();
        for write in lost {
            if let Write::Record(record @ Record::Settled { .. }) = write {
                self.apply(&Logged::Record(record), false, &mut Effects::default());
            }
        }
    }

    pub(super) fn dead(&self) -> Vec<&DeadWish> {
        let dead = self.log.iter().filter_map(|logged| match logged {
            Logged::Dead(wish) => Some(&**wish),
            Logged::Record(_) => None,
        });
        dead.collect()
    }

    pub(super) fn row(&self, group: &str) -> crate::queue::operator::AuditRow {
        let to = format!("group {group}");
        self.inbox.books().into_iter().find(|row| row.to == to).unwrap()
    }
}
