//! What the engine of the queue costs: publish to accepted, with a disk that answers at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use strait::model::{AckLevel, Key, MetadataBuilder, Name, Place, UnitId, UnixMillis};
use strait::queue::api::{Input, Output, Publish, Ticket};
use strait::queue::effects::Now;
use strait::queue::engine::Engine;
use strait::queue::log::disk::{Event, Request};
use strait::queue::log::{Log, MemoryStorage, Options, Position};
use strait::queue::{Metrics, Neighbours, ReplaySettings, Settings, Setup, TopicSettings};

const BATCH: u64 = 64;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH));
    for (name, unit, dedup) in [
        ("publish 64 of 256 B for another unit", "unit-b", false),
        ("publish 64 of 256 B for this unit", "unit-a", false),
        ("publish 64 of 256 B with source and id", "unit-b", true),
    ] {
        let mut world = World::new();
        let mut number = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    number += BATCH;
                    (number..number + BATCH)
                        .map(|number| publish(number, unit, dedup))
                        .collect()
                },
                |publishes| world.publish(publishes),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

struct World {
    engine: Engine,
    now: Now,
    offset: u32,
}

impl World {
    fn new() -> Self {
        let name = |text| Name::new(text).unwrap();
        let setup = Setup {
            place: Place {
                unit: name("unit-a"),
                relay: name("relay-1"),
            },
            geo: name("geo"),
            queue: Settings::default(),
            replay: ReplaySettings::default(),
            topics: Arc::new([("orders".to_owned(), TopicSettings::default())].into()),
            neighbours: Neighbours::default(),
        };
        let options = Options {
            segment_bytes: 1 << 20,
            bytes_max: 1 << 30,
            sync: setup.queue.sync,
            seed: 1,
        };
        let (mut log, recovery) = Log::open(MemoryStorage::default(), options).unwrap();
        let metrics = Metrics::register(&prometheus::Registry::new(), &setup.place.unit).unwrap();
        let now = Now::default();
        let (engine, _) = Engine::recover((setup, metrics), 1, now, &mut log, &recovery).unwrap();
        Self { engine, now, offset: 0 }
    }

    fn publish(&mut self, publishes: Vec<Input>) {
        self.now.mono += Duration::from_micros(100);
        for publish in publishes {
            self.engine.on_input(self.now, publish);
        }
        self.engine.poll(self.now);
        for request in self.engine.take_requests() {
            if let Request::Append(batch) = request {
                let position = |_| Position {
                    segment: 1,
                    offset: self.offset,
                };
                let event = Event::Appended {
                    number: batch.number,
                    result: Ok(batch.entries.iter().map(position).collect()),
                    sync: None,
                };
                self.offset = self.offset.wrapping_add(1);
                self.engine.on_disk(self.now, event);
            }
        }
        let accepted = self.engine.take_outputs().filter(|output| {
            let Output::Published { result, .. } = output else {
                return false;
            };
            result.is_ok()
        });
        assert!(u64::try_from(accepted.count()).unwrap() == BATCH);
    }
}

fn publish(number: u64, unit: &str, dedup: bool) -> Input {
    let mut attributes = MetadataBuilder::new();
    attributes.push(b"type", b"order.paid").unwrap();
    if dedup {
        attributes.push(b"source", b"/orders").unwrap();
        attributes.push(b"id", number.to_string().as_bytes()).unwrap();
    }
    Input::Publish(Box::new(Publish {
        ticket: Ticket { shard: 0, number },
        topic: Name::new("orders").unwrap(),
        key: Some(Key {
            dimension: Bytes::from_static(b"user"),
            key: Bytes::from((number % 10_000).to_string()),
        }),
        attributes: attributes.build(),
        body: Bytes::from(vec![7; 256]),
        units: vec![UnitId::new(unit).unwrap()],
        routed: 0,
        unrouted: None,
        patience: Duration::ZERO,
        deadline: None::<UnixMillis>,
        wait: AckLevel::Accepted,
    }))
}
