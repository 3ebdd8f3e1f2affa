//! One engine beside a disk that does what it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Engine;
use crate::model::{
    AckLevel, ByteSize, Key, MessageId, Metadata, MetadataBuilder, Name, Place, Reason, RelayError, UnixMillis,
};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Input, Output, Publish, Settlement, Subscribe, Ticket};
use crate::queue::effects::Now;
use crate::queue::lanes::{FULL, LaneId, LaneKind, Sent, ToReceiver, ToSender};
use crate::queue::log::disk::{Event, Request};
use crate::queue::log::{Faults, Log, MemoryStorage, Options, Space};
use crate::queue::operator::{Answer, Command, Filter, Line, RedriveRequest};
use crate::queue::record::{Pausable, Pause};
use crate::queue::{
    GroupSettings, Metrics, Neighbours, OnExpiry, Overflow, Owners, Priority, ReplaySettings, Settings, Setup,
    TopicRule, TopicSettings,
};

#[derive(Debug)]
struct OwnedBy(&'static str);

impl Owners for OwnedBy {
    fn owner(&self, key: &Key) -> Option<Name> {
        (&key.key[..] != b"none").then(|| name(self.0))
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

    fn ask(&mut self, command: Command) -> Answer {
        self.tickets += 1;
        let ticket = Ticket {
            shard: Ticket::ADMIN,
            number: self.tickets,
        };
        self.input(Input::Operate(ticket, Box::new(command)));
        let of = |output: &Output| matches!(output, Output::Answer(of, answer) if *of == ticket && !matches!(**answer, Answer::Progress { .. }));
        let at = self.outputs.iter().position(of).expect("an answer");
        match self.outputs.remove(at) {
            Output::Answer(_, answer) => *answer,
            _ => unreachable!(),
        }
    }

    fn peek(&mut self, line: Line) -> Vec<(u64, String, String)> {
        let command = Command::Peek {
            line,
            filter: Filter::default(),
            limit: 100,
            bodies: true,
        };
        match self.ask(command) {
            Answer::Messages { messages, .. } => messages
                .into_iter()
                .map(|message| (message.seq, message.topic, message.state))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn dead(&mut self) -> usize {
        self.peek(Line::Dead).len()
    }

    fn redrive(&mut self, request: RedriveRequest) -> (String, u64, String) {
        let Answer::Redrives { tasks } = self.ask(Command::Redrive {
            request,
            who: String::new(),
        }) else {
            panic!("refused");
        };
        let number = tasks[0].task;
        self.pass(Duration::from_secs(1));
        let Answer::Redrives { tasks } = self.ask(Command::Redrives) else {
            panic!("refused");
        };
        let task = tasks.into_iter().find(|task| task.task == number).unwrap();
        (task.state, task.moved, task.reason)
    }

    fn lane_up(&mut self, number: u64, unit: &str, kind: LaneKind) -> LaneId {
        let lane = LaneId::new(0, number);
        self.input(Input::LaneUp {
            lane,
            unit: name(unit),
            relay: name("r"),
            kind,
        });
        let frame = ToSender::Opened {
            frontier: 0,
            above: Vec::new(),
            highest: 0,
        };
        self.input(Input::FromReceiver { lane, frame });
        lane
    }

    fn sent(&self) -> usize {
        let messages = |output: &Output| match output {
            Output::ToReceiver {
                frame: ToReceiver::Messages { messages, .. },
                ..
            } => messages.len(),
            _ => 0,
        };
        self.outputs.iter().map(messages).sum()
    }

    /// A message of unit `b`; what it is answered with.
    fn receive(&mut self, change: impl FnOnce(&mut crate::model::Message)) -> Vec<ToSender> {
        self.tickets += 1;
        let lane = LaneId::new(1, self.tickets);
        self.input(Input::LaneAccepted {
            lane,
            geo: name("there"),
            unit: name("b"),
            relay: name("b-1"),
        });
        let seq = self.tickets;
        let frame = ToReceiver::Open {
            epoch: 7,
            kind: LaneKind::Live,
            base: seq,
        };
        self.input(Input::FromSender { lane, frame, bytes: 10 });
        let mut message = crate::model::Message {
            id: MessageId {
                unit: name("b"),
                relay: name("b-1"),
                epoch: 7,
                number: seq,
            },
            topic: name("orders"),
            key: Some(Key {
                dimension: Bytes::from_static(b"user"),
                key: Bytes::from_static(b"7"),
            }),
            accepted_at: self.now.wall,
            deadline: None,
            visited: vec![name("b")],
            redrives: 0,
            attributes: Metadata::default(),
            body: Bytes::from_static(b"from b"),
        };
        change(&mut message);
        let sent = Sent {
            seq,
            tell_delivered: false,
            message,
        };
        let frame = ToReceiver::Messages {
            batch: 1,
            messages: vec![sent],
        };
        self.outputs.clear();
        self.input(Input::FromSender {
            lane,
            frame,
            bytes: 100,
        });
        let frame = |output: Output| match output {
            Output::ToSender { lane: to, frame } if to == lane => Some(frame),
            _ => None,
        };
        self.outputs.drain(..).filter_map(frame).collect()
    }

    /// Messages of unit `b` for these topics, all on one lane; what it is answered with.
    fn receive_all(&mut self, topics: &[&str]) -> Vec<ToSender> {
        let lane = LaneId::new(1, 7777);
        let (geo, unit, relay) = (name("there"), name("b"), name("b-1"));
        self.input(Input::LaneAccepted { lane, geo, unit, relay });
        let (epoch, kind, base) = (7, LaneKind::Live, 1);
        let frame = ToReceiver::Open { epoch, kind, base };
        self.input(Input::FromSender { lane, frame, bytes: 10 });
        for (seq, topic) in (1..).zip(topics) {
            let message = crate::model::Message {
                id: MessageId {
                    unit: name("b"),
                    relay: name("b-1"),
                    epoch: 7,
                    number: seq,
                },
                topic: name(topic),
                key: None,
                accepted_at: self.now.wall,
                deadline: None,
                visited: vec![name("b")],
                redrives: 0,
                attributes: Metadata::default(),
                body: Bytes::from_static(b"from b"),
            };
            let sent = Sent {
                seq,
                tell_delivered: false,
                message,
            };
            let (batch, messages) = (seq, vec![sent]);
            let frame = ToReceiver::Messages { batch, messages };
            self.input(Input::FromSender { lane, frame, bytes: 10 });
        }
        self.outputs
            .iter()
            .filter_map(|output| match output {
                Output::ToSender { lane: to, frame } if *to == lane => Some(frame.clone()),
                _ => None,
            })
            .collect()
    }

    fn refusal(&mut self, change: impl FnOnce(&mut crate::model::Message)) -> String {
        match &self.receive(change)[..] {
            [ToSender::Ack { refused, .. }] => refused
                .first()
                .map(|refused| refused.reason.clone())
                .unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }
}

fn named(id: &str) -> Metadata {
    let mut attributes = MetadataBuilder::new();
    attributes.push(b"source", b"/orders").unwrap();
    attributes.push(b"id", id.as_bytes()).unwrap();
    attributes.build()
}

#[test]
fn nobody_is_told_and_nothing_is_sent_before_the_disk_has_it() {
    // M-A2, M-A3
    let mut world = World::new();
    world.lane_up(1, "b", LaneKind::Live);
    world.waits = true;
    let other = world.publish("orders", &["b"]);
    let here = world.publish("orders", &["a"]);
    assert!(world.told(other).is_empty() && world.told(here).is_empty());
    assert_eq!(world.sent(), 0);
    world.waits = false;
    world.turn();
    assert!(matches!(world.told(other)[..], [Ok((AckLevel::Accepted, false, _))]));
    assert!(world.told(here)[0].is_ok());
    assert_eq!(world.sent(), 1);
}

#[test]
fn a_duplicate_gets_the_first_id_even_while_that_is_on_its_way_to_the_disk_and_after_a_restart() {
    // M-B3, P2
    let mut world = World::new();
    world.waits = true;
    let first = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    let second = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    assert!(world.told(second).is_empty());
    world.waits = false;
    world.turn();
    let Ok((_, false, id)) = world.told(first)[0].clone() else {
        panic!();
    };
    assert_eq!(world.told(second)[..], [Ok((AckLevel::Accepted, true, id.clone()))]);
    world.restart();
    let third = world.publish_as("orders", &["b"], |publish| publish.attributes = named("x"));
    assert_eq!(world.told(third)[..], [Ok((AckLevel::Accepted, true, id))]);
}

#[test]
fn what_cannot_be_taken_is_refused_with_a_reason() {
    // M-E2, M-E3, P1
    let mut world = World::new();
    world.publish("full", &["b"]);
    let now = world.now.wall.0;
    let cases = [
        (world.publish("unknown", &["b"]), Reason::UnknownTopic),
        (world.publish("orders", &[]), Reason::NoRoute),
        (
            world.publish_as("tiny", &["b"], |publish| {
                publish.body = Bytes::from_static(b"12345678901");
            }),
            Reason::TooLarge,
        ),
        (
            world.publish_as("orders", &["b"], |publish| publish.deadline = Some(UnixMillis(now))),
            Reason::DeadlineExceeded,
        ),
        (world.publish("full", &["b"]), Reason::Limited),
    ];
    for (ticket, reason) in cases {
        assert_eq!(world.refused(ticket), reason);
    }
}

#[test]
fn a_disk_that_fails_refuses_publishers_and_is_used_again_when_it_works() {
    // M-G6
    let mut world = World::new();
    let before = world.publish("orders", &["b"]);
    world.storage.set_faults(Faults {
        fail_after: Some(0),
        keep_failing: true,
        ..Faults::default()
    });
    let failed = world.publish("orders", &["b"]);
    assert_eq!(world.refused(failed), Reason::Limited);
    assert_eq!(world.engine.status(world.now).disk, "failing");
    let at_once = world.publish("orders", &["b"]);
    assert_eq!(world.refused(at_once), Reason::Limited);
    world.storage.set_faults(Faults::default());
    world.pass(Duration::from_secs(3));
    let after = world.publish("orders", &["b"]);
    let number = |ticket| world.told(ticket)[0].clone().unwrap().2.number;
    assert_eq!((number(before), number(after)), (1, 2), "numbers have no holes");
    assert_eq!(world.engine.status(world.now).disk, "ok");
}

#[test]
fn a_disk_that_gets_full_refuses_low_topics_first_and_then_all() {
    // M-G6
    let mut world = World::new();
    for (used, low, normal) in [
        (84, true, true),
        (86, false, true),
        (91, false, false),
        (50, true, true),
    ] {
        world.space = Some(Space {
            used,
            used_max: 100,
            free: 50,
            total: 100,
            segments: 1,
        });
        world.pass(Duration::from_secs(2));
        for (topic, taken) in [("low", low), ("orders", normal)] {
            let ticket = world.publish(topic, &["b"]);
            assert_eq!(world.told(ticket)[0].is_ok(), taken, "{topic} at {used} %");
        }
    }
}

#[test]
fn what_a_peer_sends_is_judged_by_the_settings_of_the_topic() {
    // M-G3, M-G4, M-E5
    let mut world = World::new();
    let now = world.now.wall;
    assert_eq!(world.refusal(|_| {}), "");
    assert_eq!(
        world.refusal(|message| message.topic = name("unknown")),
        "unknown_topic"
    );
    assert_eq!(world.refusal(|message| message.topic = name("closed")), "not_allowed");
    assert_eq!(world.refusal(|message| message.topic = name("own")), "not_allowed");
    assert_eq!(
        world.refusal(|message| {
            message.topic = name("tiny");
            message.body = Bytes::from_static(b"12345678901");
        }),
        "too_large"
    );
    assert_eq!(world.refusal(|message| message.deadline = Some(now)), "expired");
    assert_eq!(
        world.refusal(|message| message.visited = vec![name("a"), name("b")]),
        "loop"
    );
}

#[test]
fn a_message_goes_on_to_the_owner_of_its_key_but_not_in_circles() {
    // M-G3, M-G4
    let mut world = World::with(|setup| setup.neighbours.owners = Some(Arc::new(OwnedBy("c"))));
    assert_eq!(world.refusal(|_| {}), "");
    assert_eq!(world.peek(Line::Outbox { unit: name("c") }).len(), 1);
    assert_eq!(
        world.refusal(|message| message.visited = vec![name("c"), name("b")]),
        "loop"
    );
    let far = |message: &mut crate::model::Message| message.visited = vec![name("x"), name("y"), name("b")];
    assert_eq!(world.refusal(far), "loop");
}

#[test]
fn what_crosses_the_border_of_a_geo_is_copied_both_ways() {
    // M-G5
    let mut world = World::new();
    world.publish("copied", &["c"]);
    let copies = |world: &mut World| world.peek(Line::Mirror { topic: name("copied") }).len();
    assert_eq!(copies(&mut world), 0);
    world.publish("copied", &["b"]);
    assert_eq!(world.refusal(|message| message.topic = name("copied")), "");
    assert_eq!(copies(&mut world), 2);
    world.restart();
    assert_eq!(copies(&mut world), 2);
    world.pass(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(copies(&mut world), 0);
}

#[test]
fn looking_changes_nothing() {
    // M-H1, O2
    let mut world = World::new();
    for _ in 0..3 {
        world.publish("orders", &["a", "b"]);
    }
    let before = world.engine.snapshot();
    let inbox = |group| Line::Inbox {
        topic: name("orders"),
        group,
    };
    assert_eq!(world.peek(inbox(Some(name("g")))).len(), 3);
    assert_eq!(world.peek(inbox(None))[0].2, "waiting");
    assert_eq!(
        world.peek(Line::Outbox { unit: name("b") })[0],
        (1, "orders".to_owned(), "backlog".to_owned())
    );
    assert_eq!(world.engine.snapshot(), before);
    world.consume("orders");
    let bodies: Vec<_> = world.delivered().into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies, ["body 1"], "one of its key");
}

#[test]
fn a_purge_needs_a_filter_and_says_first_what_it_would_remove() {
    // M-H2, M-G8
    let mut world = World::new();
    for _ in 0..4 {
        world.publish("orders", &["b"]);
    }
    let line = Line::Outbox { unit: name("b") };
    let purge = |filter, all, dry_run| Command::Purge {
        line: line.clone(),
        filter,
        all,
        dry_run,
        who: String::new(),
    };
    let some = || Filter {
        to_seq: Some(2),
        ..Filter::default()
    };
    assert!(matches!(
        world.ask(purge(Filter::default(), false, false)),
        Answer::Refused { .. }
    ));
    assert_eq!(world.ask(purge(some(), false, true)), Answer::Done { messages: 2 });
    assert_eq!(world.peek(line.clone()).len(), 4);
    assert_eq!(world.ask(purge(some(), false, false)), Answer::Done { messages: 2 });
    assert_eq!(world.ask(purge(some(), false, false)), Answer::Done { messages: 0 });
    assert_eq!(world.peek(line.clone()).len(), 2);
    let Answer::Audit { rows } = world.ask(Command::Audit) else {
        panic!();
    };
    let row = rows.iter().find(|row| row.to == "b").unwrap();
    assert_eq!((row.accepted, row.purged, row.pending, row.difference), (4, 2, 2, 0));
    world.restart();
    assert_eq!(world.peek(line).len(), 2);
}

#[test]
fn a_pause_ends_by_itself_and_survives_a_restart_until_then() {
    // M-H3
    let mut world = World::new();
    let what = Pausable::Topic { topic: name("orders") };
    let pause = Pause::for_time("maintenance", Some(Duration::from_secs(60)), world.now.wall);
    let who = String::new();
    assert!(matches!(
        world.ask(Command::Pause { what, pause, who }),
        Answer::Done { .. }
    ));
    world.restart();
    world.publish("orders", &["a"]);
    world.consume("orders");
    assert!(world.delivered().is_empty());
    world.pass(Duration::from_secs(62));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn dead_letters_without_room_stay_where_they_are_until_there_is() {
    // M-E4
    let mut world = World::with(|setup| setup.queue.dead_letters.bytes_max = ByteSize::bytes(600));
    for _ in 0..20 {
        world.publish("orders", &["a"]);
    }
    world.consume("orders");
    world.terminate_all();
    let dead = world.dead();
    assert!((1..5).contains(&dead), "{dead}");
    let pending = |world: &World| {
        world
            .engine
            .status(world.now)
            .groups
            .iter()
            .map(|group| group.pending)
            .sum::<u64>()
    };
    assert_eq!(usize::try_from(pending(&world)).unwrap() + dead, 20);
    let mut all = dead;
    for _ in 0..40 {
        world.ask(Command::Purge {
            line: Line::Dead,
            filter: Filter::default(),
            all: true,
            dry_run: false,
            who: String::new(),
        });
        world.pass(Duration::from_secs(1));
        world.terminate_all();
        all += world.dead();
    }
    assert_eq!((all, pending(&world)), (20, 0), "each became a dead letter once");
}

#[test]
fn a_redrive_counts_first_and_needs_leave_to_reorder() {
    // M-F1, M-F3, M-C4
    let mut world = World::new();
    for topic in ["orders", "loose", "loose"] {
        world.publish(topic, &["a"]);
    }
    for topic in ["orders", "loose"] {
        world.consume(topic);
    }
    world.terminate_all();
    assert_eq!(world.dead(), 3);
    let dry = RedriveRequest {
        dry_run: true,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(dry), ("done".to_owned(), 0, String::new()));
    let (state, moved, reason) = world.redrive(RedriveRequest::default());
    assert_eq!((state.as_str(), moved), ("failed", 0));
    assert!(reason.contains("allow_reorder"), "{reason}");
    assert_eq!(world.dead(), 3);
    let loose = || RedriveRequest {
        filter: Filter {
            topic: Some(name("loose")),
            ..Filter::default()
        },
        limit: 1,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(loose()).1, 1);
    assert_eq!(world.dead(), 2);
    assert_eq!(world.delivered().len(), 1);
    let all = RedriveRequest {
        allow_reorder: true,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(all).1, 2);
    let again = world.delivered();
    assert_eq!(again.len(), 2);
    assert_eq!(world.dead(), 0);
}

#[test]
fn a_message_is_redriven_so_often_and_no_more() {
    // M-F3
    let mut world = World::with(|setup| setup.queue.dead_letters.redrives_max = 2);
    world.publish("loose", &["a"]);
    world.consume("loose");
    for moved in [1, 1, 0] {
        world.terminate_all();
        assert_eq!(world.dead(), 1);
        assert_eq!(world.redrive(RedriveRequest::default()).1, moved);
    }
}

#[test]
fn a_redrive_goes_on_after_a_restart_and_at_its_rate() {
    // M-F1, M-F2
    let mut world = World::new();
    for _ in 0..40 {
        world.publish("loose", &["a"]);
    }
    world.consume("loose");
    world.terminate_all();
    assert_eq!(world.dead(), 40);
    let request = RedriveRequest {
        rate: 10.0,
        ..RedriveRequest::default()
    };
    let (state, moved, _) = world.redrive(request);
    assert_eq!(state, "running");
    assert!((1..=12).contains(&moved), "{moved}");
    world.restart();
    world.pass(Duration::from_secs(1));
    assert!(world.dead() > 10, "it keeps its rate");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.dead(), 0);
    let Answer::Redrives { tasks } = world.ask(Command::Redrives) else {
        panic!();
    };
    assert_eq!(tasks[0].state, "done");
}

#[test]
fn dead_letters_go_when_their_retention_is_over() {
    // M-E4
    let mut world = World::new();
    world.publish("short", &["b"]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.dead(), 1);
    world.pass(Duration::from_secs(14 * 24 * 3600));
    assert_eq!(world.dead(), 0);
}

#[test]
fn what_is_done_with_leaves_the_disk() {
    // M-E3
    let mut world = World::with(|setup| setup.queue.checkpoint_interval = Duration::from_secs(1));
    for _ in 0..60 {
        for _ in 0..20 {
            world.publish_as("drops", &["b"], |publish| publish.body = Bytes::from(vec![7; 1000]));
        }
        world.pass(Duration::from_secs(1));
    }
    let segments = world.engine.status(world.now).segments;
    assert!(segments <= 8, "{segments} segments of 64 KiB for three messages");
    assert_eq!(world.peek(Line::Outbox { unit: name("b") }).len(), 3);
}

#[test]
fn a_full_topic_holds_up_no_other_of_its_pair() {
    // M-C3.
    let mut world = World::new();
    let answers = world.receive_all(&["full", "full", "orders", "orders"]);
    let refused: Vec<(u64, String)> = answers
        .iter()
        .flat_map(|frame| match frame {
            ToSender::Ack { refused, .. } => refused.clone(),
            _ => Vec::new(),
        })
        .map(|refused| (refused.seq, refused.reason))
        .collect();
    assert_eq!(refused, [(2, FULL.to_owned())]);
    let acked = |frame: &ToSender| matches!(frame, ToSender::Ack { batch: 4, .. });
    assert!(answers.iter().any(acked), "{answers:?}");
    world.consume("orders");
    assert_eq!(world.delivered().len(), 2);
}

#[test]
fn a_peer_that_is_wrong_about_our_numbers_makes_one_new_life_and_is_denied_then() {
    // M-A1: the lanes of all units end with a life.
    let mut world = World::new();
    let before = world.engine.status(world.now).epoch;
    let mut epochs = BTreeSet::from([before]);
    for round in 0..20 {
        world.lane_up(100 + round, "c", LaneKind::Live);
        let (lane, unit, relay, kind) = (LaneId::new(0, 200 + round), name("b"), name("r"), LaneKind::Live);
        world.input(Input::LaneUp {
            lane,
            unit,
            relay,
            kind,
        });
        let (frontier, above, highest) = (0, Vec::new(), 1 << 40);
        let frame = ToSender::Opened {
            frontier,
            above,
            highest,
        };
        world.input(Input::FromReceiver { lane, frame });
        world.pass(Duration::from_millis(1100));
        epochs.insert(world.engine.status(world.now).epoch);
    }
    assert_eq!(epochs.len(), 2);
    let status = world.engine.status(world.now);
    let unit = |unit: &str| status.units.iter().find(|status| status.unit == unit).unwrap();
    assert_eq!((&unit("b").state[..], &unit("c").state[..]), ("denied", "live"));
    assert!(unit("b").detail.contains("its state is wrong"), "{}", unit("b").detail);
    // It has come to its senses, and can be wrong once more.
    world.lane_up(300, "b", LaneKind::Live);
    assert_eq!(world.engine.status(world.now).units[0].state, "live");
}

#[test]
fn a_relay_knows_so_many_topics_and_no_more() {
    // M-G7: topics of a pattern come from publishers, peers and consumers; the limit holds after a restart too.
    let mut world = World::with(|setup| {
        let mut topics = (*setup.topics).clone();
        let all = TopicSettings {
            rule: TopicRule::All,
            ..TopicSettings::default()
        };
        topics.insert("x*".to_owned(), all);
        setup.topics = Arc::new(topics);
        setup.queue.topics_max = 3;
    });
    let ok = |world: &World, number| matches!(world.told(number)[..], [Ok(_)]);
    let (first, second) = (world.publish("x1", &["b"]), world.publish("x2", &["a"]));
    assert!(ok(&world, first) && ok(&world, second));
    let answer = world.receive(|message| message.topic = name("x3"));
    assert!(matches!(&answer[..], [ToSender::Ack { refused, .. }] if refused.is_empty()));
    for _ in 0..2 {
        let refused = world.publish("x4", &["b"]);
        assert_eq!(world.refused(refused), Reason::Limited);
        assert_eq!(world.refusal(|message| message.topic = name("x5")), "limited");
        let known = world.publish("x1", &["b"]);
        assert!(ok(&world, known));
        world.restart();
    }
    world.consume("x6");
    let refused = |output: &Output| match output {
        Output::Subscribed { result, .. } => result
            .as_ref()
            .is_err_and(|error| error.detail.contains("queue.topics_max")),
        _ => false,
    };
    assert!(world.outputs.iter().any(refused), "{:?}", world.outputs);
}
