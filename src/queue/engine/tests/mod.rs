//! One engine beside a disk that does what it is told.

mod damage;
mod endings;
mod evacuated;
mod groups;
mod lives;
mod moves;
mod operate;
mod parking;
mod peers;
mod publish;
mod redrive;
mod undelivered;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Engine;
use crate::model::{
    AckLevel, ByteSize, Key, MessageId, Metadata, MetadataBuilder, Name, Place, Reason, RelayError, UnitId, UnixMillis,
};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Input, Output, Publish, Settlement, Subscribe, Ticket};
use crate::queue::effects::Now;
use crate::queue::lanes::{LaneId, LaneKind, Sent, ToReceiver, ToSender};
use crate::queue::log::disk::{Event, Request};
use crate::queue::log::{Faults, Log, MemoryStorage, Options, Space};
use crate::queue::operator::{Answer, Command, Filter, Line, RedriveRequest};
use crate::queue::record::{Pausable, Pause};
use crate::queue::{
    AwayUnits, CALLS_TOPIC, GroupSettings, Metrics, Neighbours, OnExpiry, Overflow, Owner, Ownership, ParkingLimits,
    Priority, ReplaySettings, Route, Settings, Setup, Sync, TopicRule, TopicSettings,
};

/// How long publications wait until it is known where they go.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct OwnedBy(&'static str);

impl Ownership for OwnedBy {
    fn of(&self, key: &Key) -> Owner {
        match (&key.key[..], self.0) {
            (b"none", _) => Owner::Unknown,
            (_, "a") => Owner::Ours,
            (_, other) => Owner::Settings(name(other)),
        }
    }

    fn route(&self, _: &Key) -> Route {
        Route::To(name(self.0), 0)
    }

    fn is_evacuated(&self, _: &UnitId) -> bool {
        false
    }
}

struct World {
    setup: Setup,
    storage: MemoryStorage,
    engine: Engine,
    log: Log<MemoryStorage>,
    now: Now,
    outputs: Vec<Output>,
    /// The disk answers only when it is told to.
    waits: bool,
    requests: Vec<Request>,
    space: Option<Space>,
    tickets: u64,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn setup(change: impl FnOnce(&mut Setup)) -> Setup {
    let group = [(name("g"), GroupSettings::default())];
    let topic = |change: &dyn Fn(&mut TopicSettings)| {
        let mut settings = TopicSettings {
            groups: group.clone().into(),
            ..TopicSettings::default()
        };
        settings.retry.attempts = 1;
        change(&mut settings);
        settings
    };
    let topics = [
        ("orders".to_owned(), topic(&|_| {})),
        ("loose".to_owned(), topic(&|topic| topic.ordered = false)),
        ("low".to_owned(), topic(&|topic| topic.priority = Priority::Low)),
        ("own".to_owned(), topic(&|topic| topic.rule = TopicRule::Local)),
        ("closed".to_owned(), topic(&|topic| topic.from = Some(vec![name("c")]))),
        (
            "tiny".to_owned(),
            topic(&|topic| topic.message_bytes_max = ByteSize::bytes(10)),
        ),
        ("full".to_owned(), topic(&|topic| topic.messages_max = 1)),
        ("copied".to_owned(), topic(&|topic| topic.mirror = true)),
        (
            "short".to_owned(),
            topic(&|topic| {
                topic.ttl = Duration::from_secs(5);
                topic.on_expiry = OnExpiry::DeadLetter;
            }),
        ),
        (
            "drops".to_owned(),
            topic(&|topic| {
                topic.messages_max = 3;
                topic.overflow = Overflow::DropOldest;
            }),
        ),
    ];
    let mut setup = Setup {
        place: Place {
            unit: name("a"),
            relay: name("a-1"),
        },
        geo: name("here"),
        queue: Settings::default(),
        replay: ReplaySettings::default(),
        topics: Arc::new(topics.into()),
        neighbours: Neighbours {
            geos: [(name("b"), name("there")), (name("c"), name("here"))].into(),
            hops_max: 3,
            owners: Some(Arc::new(OwnedBy("a"))),
            parking: ParkingLimits::default(),
            away: AwayUnits::default(),
        },
    };
    change(&mut setup);
    setup
}

fn open(setup: &Setup, storage: &MemoryStorage, now: Now) -> (Engine, Log<MemoryStorage>) {
    let options = Options {
        segment_bytes: 64 * 1024,
        bytes_max: setup.queue.bytes_max.as_u64(),
        sync: setup.queue.sync,
        seed: now.wall.0,
    };
    let (mut log, recovery) = Log::open(storage.clone(), options).unwrap();
    let metrics = Metrics::register(&prometheus::Registry::new(), &setup.place.unit).unwrap();
    let (engine, _) = Engine::recover((setup.clone(), metrics), 1, now, &mut log, &recovery).unwrap();
    (engine, log)
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let (setup, storage) = (setup(change), MemoryStorage::default());
        let now = Now {
            mono: Duration::ZERO,
            wall: UnixMillis(1_000_000),
        };
        let (engine, log) = open(&setup, &storage, now);
        let mut world = Self {
            setup,
            storage,
            engine,
            log,
            now,
            outputs: Vec::new(),
            waits: false,
            requests: Vec::new(),
            space: None,
            tickets: 0,
        };
        world.turn();
        world
    }

    fn input(&mut self, input: Input) {
        self.engine.on_input(self.now, input);
        self.turn();
    }

    /// Until nothing more happens.
    fn turn(&mut self) {
        loop {
            self.engine.poll(self.now);
            if self.engine.wants_checkpoint(self.now) && !self.waits {
                let log = &self.log;
                self.engine.checkpoint(self.now, &mut |wanted| log.sparse(wanted));
            }
            self.outputs.extend(self.engine.take_outputs());
            self.requests.extend(self.engine.take_requests());
            if self.waits || self.requests.is_empty() {
                return;
            }
            self.answer_disk();
        }
    }

    fn answer_disk(&mut self) {
        for request in std::mem::take(&mut self.requests) {
            let text = |error: std::io::Error| error.to_string();
            let event = match request {
                Request::Append(batch) => Event::Appended {
                    number: batch.number,
                    result: self.log.append(&batch.entries, batch.essential),
                    sync: None,
                },
                Request::Checkpoint { state, covers } => {
                    Event::Checkpointed(self.log.checkpoint(&state, covers).map_err(text))
                }
                Request::Fetch { .. } => unreachable!(),
                Request::Merge { segments, keep } => Event::Merged(self.log.merge(&segments, keep).map_err(text)),
                Request::Read { reader, scan } => Event::Read {
                    reader,
                    scan,
                    result: self.log.scan(scan).map_err(text),
                },
                Request::Release(done) => Event::Released(self.log.release(done)),
                Request::Space => Event::Space(self.space.unwrap_or_else(|| self.log.space().unwrap())),
            };
            self.engine.on_disk(self.now, event);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        let step = (time / 100).max(Duration::from_millis(50));
        while self.now.mono < end {
            let step = end.saturating_sub(self.now.mono).min(step);
            self.now.mono += step;
            self.now.wall.0 += u64::try_from(step.as_millis()).unwrap();
            self.turn();
        }
    }

    fn restart(&mut self) {
        let (engine, log) = open(&self.setup, &self.storage, self.now);
        (self.engine, self.log) = (engine, log);
        self.outputs.clear();
        self.requests.clear();
        self.turn();
    }

    fn publish(&mut self, topic: &str, units: &[&str]) -> u64 {
        self.publish_as(topic, units, |_| {})
    }

    fn publish_as(&mut self, topic: &str, units: &[&str], change: impl FnOnce(&mut Publish)) -> u64 {
        self.tickets += 1;
        let mut publish = Publish {
            ticket: Ticket {
                shard: 0,
                number: self.tickets,
            },
            topic: name(topic),
            key: Some(Key {
                dimension: Bytes::from_static(b"user"),
                key: Bytes::from_static(b"7"),
            }),
            attributes: Metadata::default(),
            body: Bytes::from(format!("body {}", self.tickets)),
            units: units.iter().map(|unit| name(unit)).collect(),
            routed: 0,
            unrouted: None,
            patience: PATIENCE,
            deadline: None,
            wait: AckLevel::Accepted,
        };
        change(&mut publish);
        self.input(Input::Publish(Box::new(publish)));
        self.tickets
    }

    /// What a publisher was told.
    fn told(&self, number: u64) -> Vec<Result<(AckLevel, bool, MessageId), RelayError>> {
        let told = self.outputs.iter().filter_map(|output| match output {
            Output::Published { ticket, result } if ticket.number == number => Some(match result {
                Ok(progress) => Ok((progress.level, progress.duplicate, progress.id.clone())),
                Err(error) => Err((**error).clone()),
            }),
            _ => None,
        });
        told.collect()
    }

    fn refused(&self, number: u64) -> Reason {
        match &self.told(number)[..] {
            [Err(error)] => error.reason,
            other => panic!("{other:?}"),
        }
    }

    fn consume(&mut self, topic: &str) -> ConsumerId {
        self.tickets += 1;
        let consumer = ConsumerId(self.tickets);
        self.input(Input::Subscribe(Box::new(Subscribe {
            consumer,
            shard: 0,
            ticket: Ticket {
                shard: 0,
                number: self.tickets,
            },
            topic: name(topic),
            group: name("g"),
            in_flight_max: 10,
        })));
        consumer
    }

    fn delivered(&mut self) -> Vec<(ConsumerId, DeliveryId, String)> {
        let mut delivered = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Deliver(deliver) => {
                let Deliver {
                    consumer,
                    delivery,
                    message,
                    ..
                } = &**deliver;
                delivered.push((*consumer, *delivery, String::from_utf8(message.body.to_vec()).unwrap()));
                false
            }
            _ => true,
        });
        delivered
    }

    /// A consumer takes all that comes and refuses it for good.
    fn terminate_all(&mut self) {
        loop {
            let delivered = self.delivered();
            if delivered.is_empty() {
                return;
            }
            for (consumer, delivery, _) in delivered {
                let outcome = Settlement::Terminate {
                    reason: "no".to_owned(),
                };
                self.input(Input::Settle {
                    consumer,
                    delivery,
                    outcome,
                });
            }
        }
    }
}

fn named(id: &str) -> Metadata {
    let mut attributes = MetadataBuilder::new();
    attributes.push(b"source", b"/orders").unwrap();
    attributes.push(b"id", id.as_bytes()).unwrap();
    attributes.build()
}
