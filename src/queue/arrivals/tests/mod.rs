mod moves;
mod order;
mod random;
mod senders;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

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
        routed: 0,
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
    /// What is said of messages of key 1, if it is not this unit's to take.
    elsewhere: Option<Verdict>,
}

impl Judge for Gate {
    fn elsewhere(&self, message: &Message) -> Option<Verdict> {
        let is_first = message.key.as_ref().is_some_and(|key| &key.key[..] == b"1");
        self.elsewhere.clone().filter(|_| is_first)
    }

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
        if let Some(verdict) = self.elsewhere(message) {
            return verdict;
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
        self.send_of(lane, batch, seqs, b"1");
    }

    fn send_of(&mut self, lane: LaneId, batch: u64, seqs: &[Seq], key: &'static [u8]) {
        let key = self.keyed.then(|| Key {
            dimension: Bytes::from_static(b"k"),
            key: Bytes::from_static(key),
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
                Some(Write::Dead(_) | Write::Reroute(_)) => panic!("arrivals give nothing up"),
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

    /// What was refused on a lane: number and word.
    fn refused(&self, lane: LaneId) -> Vec<(Seq, String)> {
        let refused = |frame: &ToSender| match frame {
            ToSender::Ack { refused, .. } => refused.clone(),
            _ => Vec::new(),
        };
        let all = self.said[&lane].iter().flat_map(refused);
        all.map(|refused| (refused.seq, refused.reason)).collect()
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
