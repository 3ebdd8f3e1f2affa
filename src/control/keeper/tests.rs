//! A keeper and a ledger, with answers that are lost, late and in any order.

use proptest::prelude::*;

use super::*;
use crate::control::ledger::Ledger;
use crate::model::Name;
use crate::routing::record::{Book, Commit, Epoch, Node, OpId, Record, RelayId, State, Target, Term};

const IN_FLIGHT_MAX: Duration = Duration::from_secs(10);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(number: u64) -> NodeId {
    NodeId::Key {
        dimension: name("cid"),
        key: number.to_string().as_str().into(),
    }
}

fn ledger() -> Ledger {
    let empty = Snapshot {
        epoch: Epoch::new(0, Rev::ZERO),
        seed: 1,
        changes: Vec::new(),
    };
    let mut ledger = Ledger::new(empty, [], Duration::ZERO);
    let book = Book {
        units: ["a", "b"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(serde_json::json!({ "name": "cid" })).unwrap()],
        rules: Vec::new(),
        ..Book::default()
    };
    commit(&mut ledger, Record::Book(book));
    ledger
}

fn commit(ledger: &mut Ledger, record: Record) -> Rev {
    ledger
        .commit(Commit {
            op: OpId(fastrand::u128(..)),
            compares: Vec::new(),
            puts: vec![record],
            removes: Vec::new(),
        })
        .unwrap();
    ledger.epoch().rev()
}

fn put(ledger: &mut Ledger, number: u64, unit: &str, state: State) -> Rev {
    let node = Node {
        id: key(number),
        target: Target::Unit(name(unit)),
        state,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    };
    commit(ledger, Record::Node(node))
}

fn frozen(by: u64) -> State {
    State::Frozen {
        to: name("b"),
        by: MoveId(by),
    }
}

fn keeper() -> Keeper {
    let gates = BTreeSet::from([GateId::Shard(0), GateId::Queue]);
    Keeper::new(name("a"), gates, None, IN_FLIGHT_MAX, Duration::ZERO)
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Answers what a keeper asks of a store that is there.
fn serve(keeper: &mut Keeper, ledger: &mut Ledger, now: Duration) -> Vec<Wish> {
    let mut others = Vec::new();
    for _ in 0..10 {
        for wish in keeper.take_wishes() {
            match wish {
                Wish::Snapshot => keeper.on_snapshot(&ledger.snapshot(), now),
                Wish::Watch(rev) => match ledger.since(rev) {
                    Some(batch) => keeper.on_batch(&batch, now),
                    None => keeper.on_feed_ended(&StoreError::Compacted, now, 0.0),
                },
                Wish::Open => {
                    let relay = RelayId {
                        unit: name("a"),
                        relay: name("a-1"),
                    };
                    let open = ledger.opening(relay, OpId(fastrand::u128(..)));
                    let Record::Relay(record) = open.puts[0].clone() else {
                        panic!()
                    };
                    ledger.commit(open).unwrap();
                    let opened = ledger.opened(record, now);
                    keeper.on_opened(&Ok(opened), now, 0.0);
                }
                Wish::Renew(session) => keeper.on_renewed(session, &ledger.renew(session, now), now),
                other => others.push(other),
            }
        }
    }
    others
}

fn acks(wishes: &[Wish]) -> Vec<(u64, bool)> {
    let reports = wishes.iter().filter_map(|wish| match wish {
        Wish::Report(acks) => Some(acks),
        _ => None,
    });
    reports.flatten().map(|ack| (ack.rev.0, ack.drained)).collect()
}

// P3, P4, R-R6
#[test]
fn a_freeze_is_reported_with_its_revision_when_every_gate_is_done_and_again_in_a_new_life() {
    let (mut keeper, mut ledger) = (keeper(), ledger());
    keeper.tick(at(0));
    serve(&mut keeper, &mut ledger, at(0));
    let rev = put(&mut ledger, 1, "a", frozen(7));
    put(&mut ledger, 2, "b", frozen(8));
    let batch = ledger.since(keeper.routes().unwrap().rev()).unwrap();
    keeper.on_batch(&batch, at(10));
    let wishes = serve(&mut keeper, &mut ledger, at(10));
    let position = |fits: fn(&Wish) -> bool| wishes.iter().position(fits).unwrap();
    let published = position(|wish| matches!(wish, Wish::Publish(_)));
    assert!(
        published < position(|wish| matches!(wish, Wish::Drain(..))),
        "{wishes:?}"
    );
    assert_eq!(acks(&wishes), [], "nobody is done");

    let drain = Drain {
        by: MoveId(7),
        node: key(1),
        rev,
    };
    keeper.on_drained(GateId::Shard(0), &drain);
    keeper.on_drained(
        GateId::Queue,
        &Drain {
            rev: Rev(1),
            ..drain.clone()
        },
    );
    assert_eq!(
        acks(&serve(&mut keeper, &mut ledger, at(20))),
        [],
        "the queue has not answered for this freeze"
    );
    keeper.tick(at(1100));
    assert_eq!(
        acks(&serve(&mut keeper, &mut ledger, at(1100))),
        [(rev.0, false)],
        "now and then, and only of keys that unit a owns"
    );
    keeper.on_drained(GateId::Queue, &drain);
    assert_eq!(acks(&serve(&mut keeper, &mut ledger, at(1100))), [(rev.0, true)]);

    // The report was lost, or the store has another leader and forgot it.
    keeper.tick(at(2100));
    assert_eq!(acks(&serve(&mut keeper, &mut ledger, at(2100))), [(rev.0, true)]);

    // The store has forgotten the session.
    let session = keeper.lease().session().unwrap();
    let (relay, closing) = ledger.closing(session, OpId(9)).unwrap();
    ledger.commit(closing).unwrap();
    ledger.forgotten(&relay);
    keeper.tick(at(3150));
    serve(&mut keeper, &mut ledger, at(3150));
    keeper.tick(at(3250));
    let wishes = serve(&mut keeper, &mut ledger, at(3250));
    assert_ne!(keeper.lease().session(), Some(session));
    assert_eq!(acks(&wishes), [(rev.0, true)]);
}

// S4: what a gate waits for is reported at once, with what it was asked, and no longer than it waits.
#[test]
fn what_holds_a_freeze_up_is_reported_until_nothing_does() {
    let (mut keeper, mut ledger) = (keeper(), ledger());
    keeper.tick(at(0));
    let rev = put(&mut ledger, 1, "a", frozen(7));
    serve(&mut keeper, &mut ledger, at(0));
    let drain = Drain {
        by: MoveId(7),
        node: key(1),
        rev,
    };
    let held = |gate, rev, by: &str| Held {
        gate,
        drain: Drain { rev, ..drain.clone() },
        by: by.to_owned(),
    };
    let said = |keeper: &mut Keeper| {
        let wishes = keeper.take_wishes();
        let reports = wishes.into_iter().filter_map(|wish| match wish {
            Wish::Report(acks) => Some(acks),
            _ => None,
        });
        reports
            .flatten()
            .map(|ack| (ack.drained, ack.held_by))
            .collect::<Vec<_>>()
    };
    keeper.on_drained(GateId::Queue, &drain);
    keeper.on_held(held(GateId::Queue, rev, "nothing of it runs there"));
    keeper.on_held(held(GateId::Shard(0), Rev(1), "another freeze"));
    assert_eq!(said(&mut keeper), []);
    keeper.on_held(held(GateId::Shard(0), rev, "im.Chat/Watch"));
    let watch = Some("im.Chat/Watch".to_owned());
    assert_eq!(said(&mut keeper), [(false, watch.clone())]);
    keeper.on_held(held(GateId::Shard(0), rev, "im.Chat/Watch"));
    assert_eq!(said(&mut keeper), [], "that is known");
    keeper.tick(at(1500));
    assert!(
        said(&mut keeper).contains(&(false, watch)),
        "the store may have forgotten it"
    );
    keeper.on_drained(GateId::Shard(0), &drain);
    assert_eq!(said(&mut keeper), [(true, None)]);
}

// P5, R-I2: the process before was killed. What it had let through has its time before this one reports anything as drained;
// a relay that is new, or whose process before said good-bye, waits for nothing.
#[test]
fn a_relay_that_starts_again_reports_drained_when_what_ran_before_has_had_its_time() {
    let mut ledger = ledger();
    let mut first = keeper();
    first.tick(at(0));
    serve(&mut first, &mut ledger, at(0));
    let rev = put(&mut ledger, 1, "a", frozen(7));
    let drained = Drain {
        by: MoveId(7),
        node: key(1),
        rev,
    };
    let start = |ledger: &mut Ledger, millis: u64| {
        let gates = BTreeSet::from([GateId::Queue]);
        let mut keeper = Keeper::new(name("a"), gates, None, IN_FLIGHT_MAX, at(millis));
        keeper.tick(at(millis));
        serve(&mut keeper, ledger, at(millis));
        keeper.on_drained(GateId::Queue, &drained);
        (acks(&serve(&mut keeper, ledger, at(millis))), keeper)
    };
    let (said, mut second) = start(&mut ledger, 5000);
    assert_eq!(said, [(rev.0, false)]);
    second.tick(at(14_900));
    assert_eq!(acks(&serve(&mut second, &mut ledger, at(14_900))), [(rev.0, false)]);
    second.tick(at(15_000));
    assert_eq!(acks(&serve(&mut second, &mut ledger, at(15_000))), [(rev.0, true)]);

    // A later life of the same process: its own gates know what runs.
    let session = second.lease().session().unwrap();
    second.tick(at(16_100));
    assert!(second.take_wishes().contains(&Wish::Renew(session)));
    second.on_renewed(session, &Err(StoreError::SessionOver), at(16_100));
    second.tick(at(16_200));
    assert_eq!(acks(&serve(&mut second, &mut ledger, at(16_200))), [(rev.0, true)]);

    let session = second.lease().session().unwrap();
    let (relay, closing) = ledger.closing(session, OpId(9)).unwrap();
    ledger.commit(closing).unwrap();
    ledger.forgotten(&relay);
    let (said, _) = start(&mut ledger, 17_000);
    assert_eq!(said, [(rev.0, true)], "it had said good-bye");
}

proptest! {
    // P1, R-I13: whatever of the feed is lost, repeated or comes late, the copy is that of some revision, never goes back,
    // and is the newest in the end.
    #[test]
    fn a_copy_is_always_of_one_revision_and_catches_up(
        steps in prop::collection::vec((0_u64..4, 0_u8..5, any::<prop::sample::Index>()), 1..80),
    ) {
        let (mut keeper, mut ledger) = (keeper(), ledger());
        let mut digests = BTreeMap::new();
        let mut batches = vec![];
        let mut now = 0;
        for (number, kind, which) in steps {
            now += 100;
            let from = ledger.epoch().rev();
            let unit = if kind == 0 { "a" } else { "b" };
            put(&mut ledger, number, unit, if kind == 1 { frozen(now) } else { State::Active });
            batches.push(ledger.since(from).unwrap());
            let whole = Routes::from_snapshot(&ledger.snapshot());
            digests.insert(whole.rev(), whole.digest());
            let before = keeper.routes().map(|routes| routes.rev());
            match kind {
                0 | 1 => keeper.on_batch(&batches[which.index(batches.len())].clone(), at(now)),
                2 => keeper.on_feed_ended(&StoreError::Away(String::new()), at(now), 0.5),
                3 => {
                    keeper.tick(at(now));
                    serve(&mut keeper, &mut ledger, at(now));
                    let whole = Routes::from_snapshot(&ledger.snapshot());
                    digests.insert(whole.rev(), whole.digest());
                }
                _ => {}
            }
            if let Some(routes) = keeper.routes() {
                prop_assert_eq!(digests.get(&routes.rev()), Some(&routes.digest()));
                prop_assert!(before.is_none_or(|before| before <= routes.rev()));
            }
        }
        for _ in 0..20 {
            now += 1000;
            keeper.on_feed_ended(&StoreError::Compacted, at(now), 0.0);
            keeper.tick(at(now));
            serve(&mut keeper, &mut ledger, at(now));
        }
        prop_assert_eq!(keeper.routes().unwrap().rev(), ledger.epoch().rev());
    }
}

// P3, R-3.9 S2
#[test]
fn a_key_that_is_about_to_move_is_reported_when_little_of_it_waits_in_the_queue() {
    let (mut keeper, mut ledger) = (keeper(), ledger());
    keeper.tick(at(0));
    serve(&mut keeper, &mut ledger, at(0));
    let migrating = State::Migrating {
        to: name("b"),
        by: MoveId(7),
    };
    let rev = put(&mut ledger, 1, "a", migrating.clone());
    put(&mut ledger, 2, "b", migrating);
    let batch = ledger.since(keeper.routes().unwrap().rev()).unwrap();
    keeper.on_batch(&batch, at(10));
    let wishes = serve(&mut keeper, &mut ledger, at(10));
    let drain = Drain {
        by: MoveId(7),
        node: key(1),
        rev,
    };
    let drains = wishes.iter().filter(|wish| matches!(wish, Wish::Drain(..)));
    let expected = Wish::Drain(GateId::Queue, drain.clone());
    assert_eq!(drains.collect::<Vec<_>>(), [&expected], "calls go on");
    assert_eq!((acks(&wishes), keeper.frozen()), (Vec::new(), 0));
    keeper.tick(at(1500));
    assert_eq!(
        acks(&serve(&mut keeper, &mut ledger, at(1500))),
        [],
        "much waits: no news"
    );
    keeper.on_drained(GateId::Queue, &drain);
    assert_eq!(acks(&serve(&mut keeper, &mut ledger, at(1600))), [(rev.0, true)]);
    // The freeze is another matter.
    put(&mut ledger, 1, "a", frozen(7));
    let batch = ledger.since(keeper.routes().unwrap().rev()).unwrap();
    keeper.on_batch(&batch, at(1700));
    assert_eq!(acks(&serve(&mut keeper, &mut ledger, at(1700))), [], "much may run");
    assert_eq!(keeper.frozen(), 1);
}

// P5 is about freezes: what ran before says nothing of what waits in the queue, which is on disk.
#[test]
fn a_relay_that_starts_again_says_at_once_that_little_of_a_key_waits() {
    let mut ledger = ledger();
    let mut first = keeper();
    first.tick(at(0));
    serve(&mut first, &mut ledger, at(0));
    let migrating = State::Migrating {
        to: name("b"),
        by: MoveId(7),
    };
    let rev = put(&mut ledger, 1, "a", migrating);
    let gates = BTreeSet::from([GateId::Shard(0), GateId::Queue]);
    let mut second = Keeper::new(name("a"), gates, None, IN_FLIGHT_MAX, at(5000));
    second.tick(at(5000));
    serve(&mut second, &mut ledger, at(5000));
    let drain = Drain {
        by: MoveId(7),
        node: key(1),
        rev,
    };
    second.on_drained(GateId::Queue, &drain);
    assert_eq!(acks(&serve(&mut second, &mut ledger, at(5000))), [(rev.0, true)]);
}
