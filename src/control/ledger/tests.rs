//! The ledger against what it promises, over random asks.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Name;
use crate::routing::record::{
    FreezeAck, KeyBytes, Move, MoveId, MoveKind, MoveOptions, MoveState, NodeId, RelayId, State, Target, Term,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn empty() -> Ledger {
    let snapshot = Snapshot {
        epoch: Epoch::new(1, Rev::ZERO),
        seed: 1,
        changes: Vec::new(),
    };
    Ledger::new(snapshot, [], Duration::ZERO)
}

fn book() -> Book {
    Book {
        units: ["a", "b"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(serde_json::json!({ "name": "cid" })).unwrap()],
        rules: Vec::new(),
        ..Book::default()
    }
}

fn key(number: u8) -> NodeId {
    NodeId::Key {
        dimension: name("cid"),
        key: number.to_string().as_str().into(),
    }
}

fn node(id: NodeId, unit: &str, state: State) -> Node {
    Node {
        id,
        target: Target::Unit(name(unit)),
        state,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    }
}

fn commit(op: u128, compares: Vec<(RecordId, Rev)>, puts: Vec<Record>) -> Commit {
    Commit {
        op: OpId(op),
        compares,
        puts,
        removes: Vec::new(),
    }
}

/// With a book, at revision 1.
fn published() -> Ledger {
    let mut ledger = empty();
    let (committed, _) = ledger.commit(commit(1, vec![], vec![Record::Book(book())])).unwrap();
    assert_eq!(committed, Committed::Done(Rev(1)));
    ledger
}

proptest! {
    // G1, G2, G3, R-I13: whatever is asked and asked again, by however many, compares decide, and the feed tells all of it.
    #[test]
    fn commits_are_done_once_where_they_fit_and_the_feed_tells_all(
        asks in prop::collection::vec((0_u8..3, 0_u64..12, any::<bool>(), 0_usize..4, any::<bool>()), 1..120),
    ) {
        let mut ledger = published();
        let first = ledger.snapshot();
        let mut model = BTreeMap::<u8, Rev>::new();
        let mut done: Vec<(Commit, Rev)> = Vec::new();
        let mut copy = crate::routing::Routes::from_snapshot(&first);
        for (index, (number, guess, right, again, feed)) in (0_usize..).zip(asks) {
            if again == 0 && !done.is_empty() {
                let (commit, rev) = done[index % done.len()].clone();
                prop_assert_eq!(ledger.commit(commit).unwrap(), (Committed::Done(rev), None));
                continue;
            }
            let id = RecordId::Node(key(number));
            let is = model.get(&number).copied().unwrap_or_default();
            let expected = if right { is } else { Rev(guess) };
            let unit = if index % 2 == 0 { "a" } else { "b" };
            let put = Record::Node(node(key(number), unit, State::Active));
            let ask = commit(100 + u128::try_from(index).unwrap(), vec![(id.clone(), expected)], vec![put]);
            let before = ledger.epoch().rev();
            match ledger.commit(ask.clone()).unwrap() {
                (Committed::Done(rev), Some(written)) => {
                    prop_assert_eq!((expected, rev), (is, before.next()));
                    prop_assert_eq!((written.batch.prev, written.batch.rev), (before, rev));
                    model.insert(number, rev);
                    done.push((ask, rev));
                }
                (Committed::Conflict { id: at, found }, None) => {
                    prop_assert_ne!(expected, is);
                    prop_assert_eq!((at, found, ledger.epoch().rev()), (id, is, before));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            if feed {
                copy = copy.apply(&ledger.since(copy.rev()).unwrap()).unwrap();
            }
        }
        copy = copy.apply(&ledger.since(copy.rev()).unwrap()).unwrap();
        let whole = crate::routing::Routes::from_snapshot(&ledger.snapshot());
        prop_assert_eq!((copy.epoch(), copy.digest()), (whole.epoch(), whole.digest()));
    }
}

#[test]
fn a_feed_begins_where_it_is_known_and_nowhere_else() {
    let mut ledger = published();
    for number in 0..u128::try_from(LOG_MAX).unwrap() + 10 {
        let put = Record::Node(node(key(1), "a", State::Active));
        ledger.commit(commit(10 + number, vec![], vec![put])).unwrap();
    }
    assert_eq!(ledger.since(Rev::ZERO), None);
    let now = ledger.epoch().rev();
    assert_eq!(ledger.since(now).map(|batch| batch.changes.len()), Some(0));
    assert_eq!(ledger.since(now.next()), None, "of a future");
    let kept = ledger.log_from;
    let batch = ledger.since(kept).unwrap();
    assert_eq!((batch.prev, batch.rev, batch.changes.len()), (kept, now, LOG_MAX));
    assert_eq!(batch.changes[0].rev, kept.next());
}

#[test]
fn records_that_make_no_sense_are_refused_with_what_to_do() {
    let mut ledger = published();
    let mut refused = |record: Record, part: &str| {
        let error = ledger
            .commit(commit(fastrand::u128(..), vec![], vec![record]))
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(
        Record::Node(node(key(1), "x", State::Active)),
        "unit x is not published",
    );
    let to = State::Migrating {
        to: name("x"),
        by: MoveId(1),
    };
    refused(Record::Node(node(key(1), "a", to)), "unit x is not published");
    let long = NodeId::Key {
        dimension: name("cid"),
        key: KeyBytes(vec![b'x'; 257].into()),
    };
    refused(Record::Node(node(long, "a", State::Active)), "256 are allowed");
    let other = NodeId::Key {
        dimension: name("uid"),
        key: "1".into(),
    };
    refused(
        Record::Node(node(other, "a", State::Active)),
        "dimension uid is not published",
    );
    let mut swapped = book();
    swapped.units.reverse();
    refused(Record::Book(swapped), "only ever added");
    let gone = Book {
        dimensions: Vec::new(),
        ..book()
    };
    refused(Record::Book(gone), "dimension cid must stay");
    assert_eq!(ledger.epoch().rev(), Rev(1));
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let mut ledger = published();
    let mut refused = |record: Record, part: &str| {
        let error = ledger
            .commit(commit(fastrand::u128(..), vec![], vec![record]))
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    let mut twice = book();
    twice.units.push(name("a"));
    refused(Record::Book(twice), "stands twice");
    refused(
        Record::Node(node(NodeId::Unit(name("b")), "a", State::Active)),
        "the target of unit b is itself",
    );
    let takeover = vec![(name("a"), 1)];
    refused(
        Record::Node(node(NodeId::Unit(name("a")), "a", State::Evacuated { takeover })),
        "from itself",
    );
    let bucket = NodeId::Bucket {
        dimension: name("cid"),
        bucket: 4096,
    };
    refused(Record::Node(node(bucket, "a", State::Active)), "no bucket 4096");
    refused(
        Record::Node(node(key(1), "a", State::Fencing { by: MoveId(1) })),
        "only units",
    );
    let mut group = node(key(1), "a", State::Active);
    group.target = Target::Group {
        dimension: name("org"),
        key: "1".into(),
    };
    refused(Record::Node(group), "dimension org is not published");
    let nodes = vec![key(1); Move::NODES_MAX + 1];
    refused(
        Record::Move(work(nodes, MoveState::Running)),
        "10001 nodes; 10000 are allowed",
    );
    let twice = Record::Node(node(key(1), "a", State::Active));
    let error = ledger
        .commit(commit(7, vec![], vec![twice.clone(), twice]))
        .unwrap_err();
    assert!(error.to_string().contains("each record once"), "{error}");
    assert_eq!(ledger.epoch().rev(), Rev(1));
}

fn work(nodes: Vec<NodeId>, state: MoveState) -> Move {
    Move {
        id: MoveId(1),
        nodes,
        to: name("b"),
        kind: MoveKind::Nodes,
        of: None,
        since: Rev::ZERO,
        options: MoveOptions::default(),
        state,
        driver: RelayId {
            unit: name("a"),
            relay: name("a-1"),
        },
        next: 0,
        moved: 0,
        aborted: 0,
        asked_at: 0,
        reason: String::new(),
        note: None,
        waits_for: None,
        undelivered_at: None,
        shadow_incomplete: false,
    }
}

// G4
#[test]
fn only_what_nobody_needs_is_removed() {
    let mut ledger = published();
    let running = Record::Move(work(vec![key(1)], MoveState::Running));
    ledger.commit(commit(2, vec![], vec![running])).unwrap();
    let remove = |ledger: &mut Ledger, op, id| {
        ledger.commit(Commit {
            op: OpId(op),
            compares: Vec::new(),
            puts: Vec::new(),
            removes: vec![id],
        })
    };
    for (op, id) in [RecordId::Book, RecordId::Node(key(1)), RecordId::Move(MoveId(1))]
        .into_iter()
        .enumerate()
    {
        remove(&mut ledger, 10 + u128::try_from(op).unwrap(), id).unwrap_err();
    }
    let finished = Record::Move(work(vec![key(1)], MoveState::Finished));
    ledger.commit(commit(3, vec![], vec![finished])).unwrap();
    remove(&mut ledger, 20, RecordId::Move(MoveId(1))).unwrap();
    let batch = ledger.since(Rev(3)).unwrap();
    assert_eq!(batch.changes[0].record, None);
}

// G2, R12: a retry that comes after thousands of others is no lost race.
#[test]
fn a_node_remembers_who_wrote_it() {
    let mut ledger = published();
    let mut put = node(key(1), "a", State::Active);
    put.op = OpId(500);
    let ask = commit(500, vec![(RecordId::Node(key(1)), Rev::ZERO)], vec![Record::Node(put)]);
    let done = ledger.commit(ask.clone()).unwrap().0;
    for number in 0..=u128::try_from(DONE_MAX).unwrap() {
        let put = Record::Node(node(key(2), "a", State::Active));
        ledger.commit(commit(1000 + number, vec![], vec![put])).unwrap();
    }
    assert!(!ledger.done.contains_key(&OpId(500)));
    assert_eq!(ledger.commit(ask.clone()).unwrap(), (done, None));
    let other = Commit { op: OpId(501), ..ask };
    assert!(matches!(ledger.commit(other).unwrap().0, Committed::Conflict { .. }));
}

// G5: a good-bye of an earlier life that comes late does not end the present one.
#[test]
fn a_late_goodbye_ends_no_later_life() {
    let mut ledger = published();
    let relay = RelayId {
        unit: name("a"),
        relay: name("a-1"),
    };
    let begin = |ledger: &mut Ledger, op| {
        let commit = ledger.opening(relay.clone(), OpId(op));
        let Record::Relay(record) = commit.puts[0].clone() else {
            panic!()
        };
        ledger.commit(commit).unwrap();
        record
    };
    let first = begin(&mut ledger, 40);
    let first = ledger.opened(first, Duration::ZERO);
    // The next life is being written when the good-bye comes, and is opened when it is on disk.
    let (_, late) = ledger.closing(first.session, OpId(41)).unwrap();
    let second = begin(&mut ledger, 42);
    assert!(ledger.closing(first.session, OpId(43)).is_none());
    assert!(matches!(ledger.commit(late).unwrap().0, Committed::Conflict { .. }));
    let second = ledger.opened(second, Duration::ZERO);
    ledger.forgotten(&relay);
    assert_eq!(ledger.renew(second.session, Duration::ZERO), Ok(()));

    let (relay, goodbye) = ledger.closing(second.session, OpId(44)).unwrap();
    ledger.commit(goodbye).unwrap();
    ledger.forgotten(&relay);
    assert_eq!(
        ledger.renew(second.session, Duration::ZERO),
        Err(StoreError::SessionOver)
    );
    assert_eq!(ledger.standing(None, Duration::ZERO), []);
}

// G5, R-3.7
#[test]
fn what_a_relay_says_counts_while_its_life_lasts() {
    let mut ledger = published();
    let relay = RelayId {
        unit: name("a"),
        relay: name("a-1"),
    };
    let open = |ledger: &mut Ledger, op: u128, at: u64| {
        let commit = ledger.opening(relay.clone(), OpId(op));
        let Record::Relay(record) = commit.puts[0].clone() else {
            panic!()
        };
        ledger.commit(commit).unwrap();
        ledger.opened(record, Duration::from_secs(at))
    };
    let first = open(&mut ledger, 50, 10);
    let frozen = State::Frozen {
        to: name("b"),
        by: MoveId(7),
    };
    ledger
        .commit(commit(60, vec![], vec![Record::Node(node(key(1), "a", frozen))]))
        .unwrap();
    let rev = ledger.epoch().rev();
    let ack = |session, rev, drained| FreezeAck {
        session,
        by: MoveId(7),
        node: key(1),
        rev,
        drained,
        held_by: None,
    };
    let acks = |ledger: &Ledger| ledger.standing(None, Duration::from_secs(12))[0].acks.clone();
    ledger.report(vec![ack(first.session, Rev(1), true)]);
    assert_eq!(acks(&ledger), [], "of another freeze");
    ledger.report(vec![ack(first.session, rev, true), ack(first.session, rev, false)]);
    assert_eq!(acks(&ledger), [ack(first.session, rev, true)]);
    // What holds it up comes later than the first report, and never after the last one.
    let held = |by: &str| FreezeAck {
        held_by: Some(by.to_owned()),
        ..ack(first.session, rev, false)
    };
    ledger.report(vec![held("im.Chat/Watch")]);
    assert_eq!(acks(&ledger), [ack(first.session, rev, true)]);
    assert!(held("b").is_newer_than(&held("a")) && held("a").is_newer_than(&ack(first.session, rev, false)));
    assert!(!held("a").is_newer_than(&held("a")) && !ack(first.session, rev, false).is_newer_than(&held("a")));
    assert!(ack(first.session, rev, true).is_newer_than(&held("a")));
    assert_eq!(
        ledger.standing(None, Duration::from_secs(12))[0].silent_for,
        Some(Duration::from_secs(2))
    );

    let second = open(&mut ledger, 51, 20);
    assert_ne!(first.session, second.session);
    assert_eq!(acks(&ledger), []);
    ledger.report(vec![ack(first.session, rev, true)]);
    assert_eq!(acks(&ledger), [], "of a life that is over");
    assert_eq!(
        ledger.renew(first.session, Duration::from_secs(21)),
        Err(StoreError::SessionOver)
    );
    assert_eq!(ledger.renew(second.session, Duration::from_secs(21)), Ok(()));

    // After a restart of the store every life has its full time anew.
    let again = Ledger::new(ledger.snapshot(), [], Duration::from_secs(100));
    let standing = again.standing(Some(&name("a")), Duration::from_secs(101));
    assert_eq!(
        (standing[0].session, standing[0].silent_for),
        (second.session, Some(Duration::from_secs(1)))
    );
}
