//! Messages through the inbox: stored, handed out, acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use strait::model::{Key, Message, MessageId, Metadata, Name, Place, Seq, Topic, UnixMillis};
use strait::queue::api::{ConsumerId, DeliveryId, Output, Settlement, Subscribe, Ticket};
use strait::queue::effects::{Effects, Now};
use strait::queue::inbox::Inbox;
use strait::queue::{ReplaySettings, Settings, Setup};

/// Messages of one round.
const BATCH: usize = 64;
/// Bytes of a key.
const KEY_BYTES: usize = 12;
/// Messages that one consumer has at most: those in flight to it are bounded by their bytes.
const CONSUMER_IN_FLIGHT: usize = 10_000;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox");
    group.throughput(Throughput::Elements(u64::try_from(BATCH).unwrap()));
    for in_flight in [64, 1024] {
        let mut tail = Tail::new(1, None, in_flight);
        group.bench_function(format!("64 messages without key, {in_flight} in flight"), |bencher| {
            bencher.iter(|| tail.round());
        });
    }
    for keys in [1, 1_000, 100_000] {
        let mut tail = Tail::new(1, Some(keys), keys);
        group.bench_function(format!("64 messages, {keys} keys in flight"), |bencher| {
            bencher.iter(|| tail.round());
        });
    }
    for topics in [1_000, 100_000] {
        let mut tail = Tail::new(topics, None, topics);
        group.bench_function(format!("64 messages, {topics} topics in flight"), |bencher| {
            bencher.iter(|| tail.round());
        });
    }
    group.finish();
}

/// Topics whose consumers keep up, with so many messages in flight.
struct Tail {
    inbox: Inbox,
    /// One for each topic.
    messages: Vec<Message>,
    /// All keys, one after the other. A message that comes is new in memory, so it is made when it is stored.
    keys: Bytes,
    next: usize,
    in_flight: usize,
    flying: VecDeque<(ConsumerId, DeliveryId)>,
    now: Now,
    dice: fastrand::Rng,
    fx: Effects,
}

impl Tail {
    fn new(topics: usize, keys: Option<usize>, in_flight: usize) -> Self {
        let mut inbox = Inbox::new();
        inbox.configure(&setup());
        let now = Now {
            mono: Duration::from_secs(1),
            wall: UnixMillis(1),
        };
        let mut fx = Effects::default();
        for number in 0..topics.max(in_flight.div_ceil(CONSUMER_IN_FLIGHT)) {
            inbox.subscribe(now, subscribe(number, number % topics, in_flight), &mut fx);
        }
        let keys: Vec<u8> = (0..keys.unwrap_or(0))
            .flat_map(|number| format!("cid:{number:08}").into_bytes())
            .collect();
        let mut tail = Self {
            inbox,
            messages: (0..topics).map(|number| message(topic(number))).collect(),
            keys: Bytes::from(keys),
            next: 0,
            in_flight,
            flying: VecDeque::new(),
            now,
            dice: fastrand::Rng::with_seed(1),
            fx,
        };
        while tail.flying.len() + BATCH < in_flight {
            tail.store();
            tail.poll();
        }
        tail
    }

    /// A batch of messages comes; as many of the oldest are acknowledged.
    fn round(&mut self) {
        self.now.mono += Duration::from_micros(50);
        self.store();
        self.poll();
        let mut left = BATCH;
        while left > 0 {
            let settled = self.flying.len().min(left);
            assert!(settled > 0, "messages come out");
            for (consumer, delivery) in self.flying.drain(..settled) {
                let which = (consumer, delivery);
                self.inbox
                    .settle(self.now, which, Settlement::Ack, &mut self.dice, &mut self.fx);
            }
            left -= settled;
            self.poll();
        }
        assert!(self.flying.len() < self.in_flight.max(BATCH));
    }

    fn store(&mut self) {
        for _ in 0..BATCH {
            let Some(message) = self.messages.get(self.next % self.messages.len()) else {
                return;
            };
            let mut message = message.clone();
            if !self.keys.is_empty() {
                let at = self.next * KEY_BYTES % self.keys.len();
                message.key = Some(Key {
                    dimension: Bytes::from_static(b"im.conversation"),
                    key: self.keys.slice(at..at + KEY_BYTES),
                });
            }
            self.next += 1;
            let seq: Seq = self.inbox.assign(&message.topic);
            self.inbox.on_stored(self.now, seq, &message, None, &mut self.fx);
        }
    }

    fn poll(&mut self) {
        self.inbox.poll(self.now, &mut self.dice, &mut self.fx);
        for output in self.fx.outputs.drain(..) {
            if let Output::Deliver(deliver) = output {
                self.flying.push_back((deliver.consumer, deliver.delivery));
            }
        }
        assert!(self.fx.reads.is_empty(), "the consumers keep up");
        self.fx.writes.clear();
        self.fx.told.clear();
    }
}

fn topic(number: usize) -> Topic {
    Name::new(&format!("orders-{number}")).unwrap()
}

fn subscribe(number: usize, of_topic: usize, in_flight: usize) -> Subscribe {
    let consumer = u64::try_from(number).unwrap();
    Subscribe {
        consumer: ConsumerId(consumer),
        shard: 0,
        ticket: Ticket {
            shard: 0,
            number: consumer,
        },
        topic: topic(of_topic),
        group: Name::new("g").unwrap(),
        in_flight_max: in_flight.max(BATCH),
    }
}

fn message(topic: Topic) -> Message {
    Message {
        id: MessageId {
            unit: Name::new("a").unwrap(),
            relay: Name::new("r1").unwrap(),
            epoch: 1,
            number: 1,
        },
        topic,
        key: None,
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: vec![Name::new("a").unwrap(), Name::new("b").unwrap()],
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from(vec![0; 1024]),
    }
}

fn setup() -> Setup {
    Setup {
        place: Place {
            unit: Name::new("b").unwrap(),
            relay: Name::new("r1").unwrap(),
        },
        geo: Name::new("geo").unwrap(),
        queue: Settings::default(),
        replay: ReplaySettings::default(),
        topics: Arc::default(),
        neighbours: strait::queue::Neighbours::default(),
    }
}
