//! What operators ask.

use super::*;

impl World {
    pub(super) fn ask(&mut self, command: Command) -> Answer {
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

    pub(super) fn peek(&mut self, line: Line) -> Vec<(u64, String, String)> {
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

    pub(super) fn dead(&mut self) -> usize {
        self.peek(Line::Dead).len()
    }

    pub(super) fn redrive(&mut self, request: RedriveRequest) -> (String, u64, String) {
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

    pub(super) fn purge(&mut self, line: Line) {
        let purge = Command::Purge {
            line,
            filter: Filter::default(),
            all: true,
            dry_run: false,
            who: String::new(),
        };
        assert_eq!(self.ask(purge), Answer::Done { messages: 1 });
    }
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
fn a_key_goes_on_when_the_purge_of_what_was_before_it_is_on_disk() {
    // M-H2, M-C1: V1 of `inbox::leaving`
    let mut world = World::new();
    world.publish("orders", &["a"]);
    world.publish("orders", &["a"]);
    let purge = Command::Purge {
        line: Line::Inbox {
            topic: name("orders"),
            group: None,
        },
        filter: Filter {
            to_seq: Some(1),
            ..Filter::default()
        },
        all: false,
        dry_run: false,
        who: String::new(),
    };
    assert_eq!(world.ask(purge), Answer::Done { messages: 1 });
    world.consume("orders");
    let bodies: Vec<_> = world.delivered().into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies, ["body 2"]);
}

#[test]
fn a_relay_finds_by_itself_that_its_books_do_not_balance() {
    // M-G8: without an audit, and without reading the log.
    use crate::queue::planted::{Bug, plant};
    for (bug, difference) in [(None, 0), (Some(Bug::CountedTwice), 1)] {
        let registry = prometheus::Registry::new();
        let mut world = World::new();
        world.engine.metrics = Metrics::register(&registry, &name("a")).unwrap();
        world.publish("orders", &["a", "b"]);
        plant(bug);
        world.purge(Line::Outbox { unit: name("b") });
        plant(None);
        world.pass(Duration::from_secs(61));
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        let line = format!("strait_queue_audit_difference_messages {difference}\n");
        assert!(text.contains(&line), "{text}");
    }
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
fn a_unit_counts_as_away_for_a_time_and_what_is_kept_for_it_waits() {
    //
    let topics = [
        (CALLS_TOPIC.to_owned(), crate::queue::calls_topic()),
        ("orders".to_owned(), TopicSettings::default()),
    ];
    let mut world = World::with(|setup| setup.topics = Arc::new(topics.into()));
    let calls = |unit: &str| Pausable::Calls { unit: name(unit) };
    let topic = Pausable::Topic {
        topic: name(CALLS_TOPIC),
    };
    let pause = |world: &mut World, what: &Pausable, reason: &str, seconds: u64| {
        let pause = Pause::for_time(reason, Some(Duration::from_secs(seconds)), world.now.wall);
        let (what, who) = (what.clone(), "ann".to_owned());
        matches!(world.ask(Command::Pause { what, pause, who }), Answer::Done { .. })
    };
    let resume = |world: &mut World, what: &Pausable| {
        let (what, who) = (what.clone(), String::new());
        assert!(matches!(world.ask(Command::Resume { what, who }), Answer::Done { .. }));
    };
    for (unit, reason, seconds) in [("b", " ", 60), ("b", "why", 90_000), ("z", "why", 60), ("a", "why", 60)] {
        assert!(
            !pause(&mut world, &calls(unit), reason, seconds),
            "{unit} {reason} {seconds}"
        );
    }
    let endless = Command::Pause {
        what: calls("b"),
        pause: Pause::for_time("why", None, world.now.wall),
        who: String::new(),
    };
    assert!(matches!(world.ask(endless), Answer::Refused { .. }));
    assert!(world.setup.neighbours.away.of(&name("b")).is_none());

    assert!(pause(&mut world, &calls("b"), "wrong answers", 600));
    let away = world.setup.neighbours.away.of(&name("b")).unwrap();
    assert_eq!(away.reason, "ann: wrong answers");
    let Answer::Status(status) = world.ask(Command::Status) else {
        panic!("no status");
    };
    let unit = status.units.iter().find(|unit| unit.unit == "b").unwrap();
    assert_eq!((&unit.counts_as_away, &unit.pause), (&Some(away), &None));
    world.lane_up(1, "b", LaneKind::Live);
    world.lane_up(2, "b", LaneKind::Backlog);
    world.publish(CALLS_TOPIC, &["b"]);
    world.publish("orders", &["b"]);
    let sent = |world: &World| world.sent_bodies().len();
    assert_eq!(sent(&world), 1, "other topics go on");
    // One of two reasons ends, then the other one.
    assert!(pause(&mut world, &topic, "maintenance", 600));
    resume(&mut world, &calls("b"));
    world.pass(Duration::from_secs(2));
    assert!(!world.setup.neighbours.away.contains(&name("b")));
    assert_eq!(sent(&world), 1);
    assert!(pause(&mut world, &calls("b"), "wrong answers", 60));
    resume(&mut world, &topic);
    world.pass(Duration::from_secs(2));
    assert_eq!(sent(&world), 1);

    world.setup.neighbours.away = AwayUnits::default();
    world.restart();
    assert!(world.setup.neighbours.away.contains(&name("b")));
    world.lane_up(1, "b", LaneKind::Live);
    world.lane_up(2, "b", LaneKind::Backlog);
    world.pass(Duration::from_secs(30));
    assert!(sent(&world) <= 1, "{:?}", world.sent_bodies());
    world.pass(Duration::from_secs(32));
    assert!(!world.setup.neighbours.away.contains(&name("b")));
    world.restart();
    world.lane_up(1, "b", LaneKind::Live);
    world.lane_up(2, "b", LaneKind::Backlog);
    world.pass(Duration::from_secs(2));
    assert_eq!(sent(&world), 2, "{:?}", world.sent_bodies());
}
