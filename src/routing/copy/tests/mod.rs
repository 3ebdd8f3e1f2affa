//! Copies against a log that is replayed, over random histories. Here: what histories are made of.

mod evidence;
mod history;
mod mirrored;
mod saved;
mod takeover;
mod tokens;
mod trail;
mod walks;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Key, RouteHints};
use crate::routing::evidence::Evidence;
use crate::routing::record::{
    Change, MoveKind, MoveOptions, MoveState, OpId, Record, RelayId, RelayRecord, SessionId, Target, Term,
};
use crate::routing::{RouteError, Rule, Standing};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn dimension(text: &str, placement: &serde_json::Value) -> DimensionSpec {
    serde_json::from_value(serde_json::json!({ "name": text, "placement": placement })).unwrap()
}

fn rule(text: &str, unit: &str, share: Option<[f64; 2]>) -> Rule {
    Rule {
        dimension: name(text),
        unit: name(unit),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: share,
        default: share.is_none(),
    }
}

/// Companies by rule, conversations by bucket, rooms by claim.
fn book() -> Book {
    Book {
        units: ["a", "b", "c"].map(name).to_vec(),
        dimensions: vec![
            dimension("cid", &"rules".into()),
            dimension("room", &serde_json::json!({ "claim": [] })),
            dimension("org", &"rules".into()),
        ],
        rules: vec![
            (1, rule("org", "a", None)),
            (2, rule("cid", "a", Some([0.0, 50.0]))),
            (3, rule("cid", "b", Some([50.0, 100.0]))),
        ],
        ..Book::default()
    }
}

fn key(dimension: &str, key: u8) -> Key {
    Key {
        dimension: Bytes::copy_from_slice(dimension.as_bytes()),
        key: Bytes::from(key.to_string()),
    }
}

fn hints(keys: &[Key]) -> RouteHints {
    RouteHints {
        keys: keys.to_vec(),
        ..RouteHints::default()
    }
}

fn key_id(dimension: &str, number: u8) -> NodeId {
    NodeId::Key {
        dimension: name(dimension),
        key: number.to_string().as_str().into(),
    }
}

/// The bucket that a conversation is in.
fn bucket_id(number: u8) -> NodeId {
    NodeId::Bucket {
        dimension: name("cid"),
        bucket: crate::routing::bucket(number.to_string().as_bytes()),
    }
}

/// What may happen in a history.
#[derive(Clone, Debug)]
enum Step {
    Put(NodeId, Target, State),
    /// A rule for a range of rooms and one for a company come or go.
    Publish(bool),
    Work(MoveId, Option<MoveState>),
    Relay(u8, bool),
    Progress,
}

fn unit() -> impl Strategy<Value = UnitId> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(name)
}

fn some_node() -> impl Strategy<Value = NodeId> {
    prop_oneof![
        4 => (0_u8..3).prop_map(|number| key_id("cid", number)),
        2 => (0_u8..2).prop_map(|number| key_id("org", number)),
        2 => (0_u8..2).prop_map(|number| key_id("room", number)),
        2 => (0_u8..3).prop_map(bucket_id),
        2 => prop::sample::select(vec![1, 8]).prop_map(|rule| NodeId::Rule { dimension: name("org"), rule }),
        1 => unit().prop_map(NodeId::Unit),
    ]
}

fn put() -> impl Strategy<Value = Step> {
    (some_node(), unit(), unit(), 0_u8..7, any::<u64>()).prop_map(|(id, unit, to, kind, by)| {
        let by = MoveId(by);
        let (target, state) = match (&id, kind) {
            (NodeId::Unit(own), 0 | 1) => {
                let others = ["a", "b", "c"].map(name).into_iter().filter(|unit| unit != own);
                let takeover = others.map(|unit| (unit, 1)).collect();
                (Target::Unit(own.clone()), State::Evacuated { takeover })
            }
            (NodeId::Unit(own), 2) => (Target::Unit(own.clone()), State::Fencing { by }),
            (NodeId::Unit(own), _) => (Target::Unit(own.clone()), State::Active),
            (_, 0) => (Target::Unit(unit), State::Tombstone),
            (_, 1) => (Target::Unit(unit), State::Migrating { to, by }),
            (_, 2) => (Target::Unit(unit), State::Frozen { to, by }),
            (NodeId::Key { dimension, .. }, 3) if dimension.as_str() == "cid" => {
                (Target::Follow(name("org")), State::Active)
            }
            (NodeId::Key { dimension, .. }, 4) if dimension.as_str() == "cid" => {
                let target = Target::Group {
                    dimension: name("org"),
                    key: "1".into(),
                };
                (target, State::Active)
            }
            _ => (Target::Unit(unit), State::Active),
        };
        Step::Put(id, target, state)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        Just(None),
        Just(Some(MoveState::Running)),
        Just(Some(MoveState::Finished)),
    ];
    prop_oneof![
        20 => put(),
        2 => any::<bool>().prop_map(Step::Publish),
        1 => (0_u64..3, state).prop_map(|(id, state)| Step::Work(MoveId(id), state)),
        1 => (0_u8..3, any::<bool>()).prop_map(|(relay, is_there)| Step::Relay(relay, is_there)),
        2 => Just(Step::Progress),
    ]
}

fn work(id: MoveId, state: MoveState) -> Move {
    Move {
        id,
        nodes: Vec::new(),
        to: name("a"),
        kind: MoveKind::Nodes,
        of: None,
        since: Rev::ZERO,
        options: MoveOptions::default(),
        state,
        driver: RelayId {
            unit: name("a"),
            relay: name("r"),
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

/// The id of what a step writes, and the record; `None` if it is removed.
fn written(step: &Step, rev: Rev) -> Option<(RecordId, Option<Record>)> {
    Some(match step {
        Step::Progress => return None,
        Step::Put(id, target, state) => {
            let node = Node {
                id: id.clone(),
                target: target.clone(),
                state: state.clone(),
                rev,
                // Some were written by steps that gave nothing to anybody.
                term: match rev.0 % 4 {
                    0 => Term::since(Rev(rev.0 / 2)).swept(),
                    2 => Term::since(Rev(rev.0 / 2)),
                    _ => Term::default(),
                },
                previous: None,
                home: rev.0.is_multiple_of(3).then(|| name("c")),
                op: OpId(0),
                reason: String::new(),
            };
            (RecordId::Node(id.clone()), Some(Record::Node(node)))
        }
        Step::Publish(with_more) => {
            let mut book = book();
            if *with_more {
                let range = Rule {
                    range: Some(["0".to_owned(), "1".to_owned()]),
                    default: false,
                    ..rule("room", "c", None)
                };
                let listed = Rule {
                    keys: vec!["1".to_owned()],
                    default: false,
                    ..rule("org", "a", None)
                };
                book.rules.extend([(7, range), (8, listed)]);
            }
            (RecordId::Book, Some(Record::Book(book)))
        }
        Step::Work(id, state) => (RecordId::Move(*id), state.map(|state| Record::Move(work(*id, state)))),
        Step::Relay(number, is_there) => {
            let relay = RelayId {
                unit: name("a"),
                relay: name(&format!("r{number}")),
            };
            let record = RelayRecord {
                relay: relay.clone(),
                session: SessionId(rev.0),
                succeeds: false,
            };
            (RecordId::Relay(relay), is_there.then_some(Record::Relay(record)))
        }
    })
}

/// The batches of a history, after the book at revision 1.
fn batches(steps: &[Step]) -> Vec<Batch> {
    let all = std::iter::once(&Step::Publish(false)).chain(steps);
    let batches = (0..).zip(all).map(|(prev, step)| {
        let (prev, rev) = (Rev(prev), Rev(prev + 1));
        let changes = written(step, rev).into_iter();
        let changes = changes.map(|(id, record)| Change { rev, id, record }).collect();
        Batch { prev, rev, changes }
    });
    batches.collect()
}

fn empty() -> Routes {
    Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(3, Rev(0)),
        seed: 42,
        changes: Vec::new(),
    })
}

fn replayed(batches: &[Batch]) -> Routes {
    batches
        .iter()
        .fold(empty(), |routes, batch| routes.apply(batch).unwrap())
}

/// The records at the end of batches, as a store would give them.
fn snapshot(batches: &[Batch]) -> Snapshot {
    let mut records = BTreeMap::new();
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        match change.record {
            Some(_) => records.insert(change.id.clone(), change.clone()),
            None => records.remove(&change.id),
        };
    }
    Snapshot {
        epoch: Epoch::new(3, batches.last().unwrap().rev),
        seed: 42,
        changes: records.into_values().rev().collect(),
    }
}

type Outcome = Result<(UnitId, Epoch, Standing), RouteError>;

fn resolve_with(routes: &Routes, keys: &[Key], evidence: &impl Evidence) -> Outcome {
    let resolved = routes.resolve(&hints(keys), &[], evidence, &mut ()).unwrap();
    resolved.map(|found| (found.unit.clone(), found.epoch, found.standing))
}

/// Since when all that is asked has its owners, the homes of keys, and when something was decided about them last.
fn pasts(routes: &Routes, evidence: &impl Evidence) -> Vec<(Option<Epoch>, Option<UnitId>, Option<Rev>)> {
    let pasts = questions().map(|keys| {
        let resolved = routes.resolve(&hints(&keys), &[], evidence, &mut ()).unwrap();
        let hash = routes.hash(&keys[0].dimension, &keys[0].key);
        let view = routes.view_of(hash);
        let (home, decided) = (
            view.and_then(|view| view.home().cloned()),
            view.map(|view| view.decided()),
        );
        (resolved.ok().map(|found| found.since), home, decided)
    });
    pasts.collect()
}

fn resolve(routes: &Routes, keys: &[Key]) -> Outcome {
    resolve_with(routes, keys, &())
}

/// All that is asked in these tests: conversations with their companies, rooms and companies.
fn questions() -> impl Iterator<Item = Vec<Key>> {
    let pairs = (0..3).flat_map(|cid| (0..2).map(move |org| vec![key("cid", cid), key("org", org)]));
    let alone = (0..2).flat_map(|number| [vec![key("org", number)], vec![key("room", number)]]);
    pairs.chain(alone)
}

fn all(routes: &Routes, evidence: &impl Evidence) -> Vec<Outcome> {
    questions().map(|keys| resolve_with(routes, &keys, evidence)).collect()
}
