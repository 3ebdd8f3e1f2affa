//! Messages of peers, and what peers say about ours.

use std::collections::BTreeSet;

use super::*;
use crate::queue::lanes::{FULL, Refused};
use crate::queue::{CALLS_TOPIC, calls_topic};

impl World {
    pub(super) fn lane_up(&mut self, number: u64, unit: &str, kind: LaneKind) -> LaneId {
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

    pub(super) fn sent(&self) -> usize {
        let messages = |output: &Output| match output {
            Output::ToReceiver {
                frame: ToReceiver::Messages { messages, .. },
                ..
            } => messages.len(),
            _ => 0,
        };
        self.outputs.iter().map(messages).sum()
    }

    /// Bodies of what was sent to other units.
    pub(super) fn sent_bodies(&self) -> Vec<String> {
        let sent = self.outputs.iter().filter_map(|output| match output {
            Output::ToReceiver {
                frame: ToReceiver::Messages { messages, .. },
                ..
            } => Some(messages),
            _ => None,
        });
        sent.flatten()
            .map(|sent| String::from_utf8(sent.message.body.to_vec()).unwrap())
            .collect()
    }

    /// A message of unit `b`; what it is answered with.
    pub(super) fn receive(&mut self, change: impl FnOnce(&mut crate::model::Message)) -> Vec<ToSender> {
        self.receive_waited(false, change)
    }

    pub(super) fn receive_waited(
        &mut self,
        tell_delivered: bool,
        change: impl FnOnce(&mut crate::model::Message),
    ) -> Vec<ToSender> {
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
            routed: 0,
            attributes: Metadata::default(),
            body: Bytes::from_static(b"from b"),
        };
        change(&mut message);
        let sent = Sent {
            seq,
            tell_delivered,
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
    pub(super) fn receive_all(&mut self, topics: &[&str]) -> Vec<ToSender> {
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
                routed: 0,
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

    pub(super) fn refusal(&mut self, change: impl FnOnce(&mut crate::model::Message)) -> String {
        match &self.receive(change)[..] {
            [ToSender::Ack { refused, .. }] => refused
                .first()
                .map(|refused| refused.reason.clone())
                .unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    /// What the peer hears that waits for a message of a topic, when it ends so.
    pub(super) fn ended(&mut self, topic: &str, end: impl FnOnce(&mut Self)) -> Vec<(String, String)> {
        let (topic, ends) = (name(topic), UnixMillis(self.now.wall.0 + 30_000));
        let _ = self.receive_waited(true, |message| {
            message.topic = topic;
            message.deadline = Some(ends);
        });
        end(self);
        let ended = self.outputs.drain(..).filter_map(|output| match output {
            Output::ToSender {
                frame: ToSender::Ended { ended },
                ..
            } => Some(ended),
            _ => None,
        });
        ended.flatten().map(|ended| (ended.reason, ended.detail)).collect()
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
fn a_peer_that_waits_for_a_delivery_hears_of_every_other_end() {
    // M-A2: dead letter, expiry, overflow, purge.
    let pair = |reason: &str, detail: &str| vec![(reason.to_owned(), detail.to_owned())];
    let mut world = World::new();
    let ended = world.ended("orders", |world| {
        world.consume("orders");
        for (consumer, delivery, _) in world.delivered() {
            let outcome = Settlement::Terminate {
                reason: "no".to_owned(),
            };
            world.input(Input::Settle {
                consumer,
                delivery,
                outcome,
            });
        }
    });
    assert_eq!(ended, pair("terminated", "it is a dead letter: no"));
    let group = |topic: &str| Line::Inbox {
        topic: name(topic),
        group: Some(name("g")),
    };
    assert_eq!(
        world.ended("loose", |world| world.purge(group("loose"))),
        pair("purged", "")
    );
    let ended = world.ended("drops", |world| {
        for _ in 0..3 {
            world.publish("drops", &["a"]);
        }
    });
    assert_eq!(ended, pair("dropped", ""));
    let ended = world.ended("short", |world| world.pass(Duration::from_secs(60)));
    assert_eq!(ended, pair("expired", "it is a dead letter"));
}

#[test]
fn a_publisher_that_waits_is_told_at_once_where_its_message_ended() {
    // M-A2, M-G4
    let mut world = World::new();
    let wait = |level| move |publish: &mut Publish| publish.wait = level;
    let error = |world: &World, number: u64| match world.told(number).pop() {
        Some(Err(error)) => (error.reason, error.detail),
        other => panic!("{other:?}"),
    };
    // Refused by the unit it goes to.
    let lane = world.lane_up(1, "b", LaneKind::Live);
    let number = world.publish_as("orders", &["b"], wait(AckLevel::Relayed));
    let refused = Refused {
        seq: 1,
        reason: "not_allowed".to_owned(),
        detail: "add \"a\" to its `from`".to_owned(),
    };
    let frame = ToSender::Ack {
        batch: 1,
        refused: vec![refused],
    };
    world.input(Input::FromReceiver { lane, frame });
    let (reason, detail) = error(&world, number);
    assert_eq!(reason, Reason::Policy);
    assert!(detail.ends_with("a dead letter: add \"a\" to its `from`"), "{detail}");
    // Given up there.
    let number = world.publish_as("orders", &["b"], wait(AckLevel::Delivered));
    let ended = Refused {
        seq: 2,
        reason: "attempts".to_owned(),
        detail: String::new(),
    };
    let frame = ToSender::Ended { ended: vec![ended] };
    world.input(Input::FromReceiver { lane, frame });
    assert_eq!(error(&world, number).0, Reason::Undelivered);
    // Purged and expired on its way, given up here.
    let number = world.publish_as("orders", &["c"], wait(AckLevel::Relayed));
    world.purge(Line::Outbox { unit: name("c") });
    assert!(error(&world, number).1.ends_with("purged on its way to unit c"));
    let number = world.publish_as("short", &["c"], wait(AckLevel::Delivered));
    world.pass(Duration::from_secs(60));
    let (_, detail) = error(&world, number);
    assert!(
        detail.contains("expired on its way to unit c; it is a dead letter"),
        "{detail}"
    );
    let number = world.publish_as("low", &["a"], wait(AckLevel::Delivered));
    world.consume("low");
    world.terminate_all();
    assert!(
        error(&world, number)
            .1
            .ends_with("terminated in unit a; it is a dead letter: no")
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
    let mut world = few_topics();
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

#[test]
fn the_topic_of_the_relays_is_no_topic_more_whether_it_comes_first_or_last() {
    // M-G7
    let topics = [CALLS_TOPIC, "x1", "x2", "x3", CALLS_TOPIC];
    for topics in [&topics[..4], &topics[1..]] {
        let mut world = few_topics();
        for topic in topics {
            let ticket = world.publish(topic, &["b"]);
            assert!(matches!(world.told(ticket)[..], [Ok(_)]), "{topic} of {topics:?}");
        }
        let one_more = world.publish("x4", &["b"]);
        assert_eq!(world.refused(one_more), Reason::Limited, "{topics:?}");
    }
}

/// One that knows three topics of users.
fn few_topics() -> World {
    World::with(|setup| {
        let mut topics = (*setup.topics).clone();
        let all = TopicSettings {
            rule: TopicRule::All,
            ..TopicSettings::default()
        };
        topics.insert("x*".to_owned(), all);
        topics.insert(CALLS_TOPIC.to_owned(), calls_topic());
        setup.topics = Arc::new(topics);
        setup.queue.topics_max = 3;
    })
}

// C-P1: what the README says of a mixed Geo. A relay of a version before kept calls has no such topic.
#[test]
fn a_call_that_an_older_relay_refuses_is_a_dead_letter_that_says_so_and_goes_when_that_is_upgraded() {
    let refused = World::new().refusal(|message| message.topic = name(CALLS_TOPIC));
    assert_eq!(refused, "unknown_topic");
    let mut world = World::with(|setup| {
        let topics = Arc::make_mut(&mut setup.topics);
        topics.insert(CALLS_TOPIC.to_owned(), calls_topic());
    });
    let lane = world.lane_up(1, "b", LaneKind::Live);
    for _ in 0..2 {
        world.publish(CALLS_TOPIC, &["b"]);
    }
    for number in [1, 2] {
        let detail = "unit b has no [topics.\"strait.calls\"]".to_owned();
        world.ack(lane, number, vec![Refused::new(number, &refused, detail)]);
    }
    world.restart();
    let Answer::Messages { messages, .. } = world.ask(Command::Peek {
        line: Line::Dead,
        filter: Filter::default(),
        limit: 10,
        bodies: false,
    }) else {
        panic!("no dead letters")
    };
    assert_eq!(messages.len(), 2, "none is lost");
    for letter in messages {
        let said = [letter.place, letter.reason, letter.was_for, letter.error].map(Option::unwrap_or_default);
        assert_eq!(
            said,
            [
                "link",
                "unknown_topic",
                "unit b",
                "unit b has no [topics.\"strait.calls\"]"
            ]
        );
    }
    // The other side is of this version now.
    let lanes = [(2, LaneKind::Live), (3, LaneKind::Backlog)].map(|(number, kind)| world.lane_up(number, "b", kind));
    let all = RedriveRequest {
        allow_reorder: true,
        ..RedriveRequest::default()
    };
    assert_eq!(world.redrive(all).1, 2);
    world.pass(Duration::from_secs(1));
    let mut sent = Vec::new();
    for lane in lanes {
        sent.extend(world.numbers(lane));
        let batches = world.outputs.iter().filter_map(|output| match output {
            Output::ToReceiver {
                lane: to,
                frame: ToReceiver::Messages { batch, .. },
            } if *to == lane => Some(*batch),
            _ => None,
        });
        for batch in batches.collect::<Vec<_>>() {
            world.ack(lane, batch, Vec::new());
        }
    }
    assert_eq!((sent, world.dead()), (vec![1, 2], 0));
    let Answer::Audit { rows } = world.ask(Command::Audit) else {
        panic!("no audit")
    };
    assert!(rows.iter().all(|row| row.difference == 0), "{rows:?}");
    assert!(
        world
            .engine
            .status(world.now)
            .units
            .iter()
            .all(|unit| unit.live + unit.backlog == 0)
    );
}
