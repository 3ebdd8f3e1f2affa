//! Copies against a log that is replayed, over random histories.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Key, RouteHints};
use crate::routing::record::{OpId, Target};
use crate::routing::{Rule, Standing};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn dimension(text: &str) -> DimensionSpec {
    serde_json::from_value(serde_json::json!({ "name": text })).unwrap()
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

/// Companies by rule, conversations by bucket.
fn book() -> Book {
    Book {
        units: ["a", "b", "c"].map(name).to_vec(),
        dimensions: vec![dimension("cid"), dimension("org")],
        rules: vec![
            (1, rule("org", "a", None)),
            (2, rule("cid", "a", Some([0.0, 50.0]))),
            (3, rule("cid", "b", Some([50.0, 100.0]))),
        ],
    }
}

fn key(dimension: &str, key: u8) -> Key {
    Key {
        dimension: Bytes::copy_from_slice(dimension.as_bytes()),
        key: Bytes::from(key.to_string()),
    }
}

fn key_id(dimension: &str, number: u8) -> NodeId {
    NodeId::Key {
        dimension: name(dimension),
        key: number.to_string().as_str().into(),
    }
}

/// What may be decided in a history.
#[derive(Clone, Debug)]
enum Step {
    Put(NodeId, Target, State),
    Progress,
}

fn unit() -> impl Strategy<Value = UnitId> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(name)
}

fn step() -> impl Strategy<Value = Step> {
    let id = prop_oneof![
        4 => (0_u8..3).prop_map(|number| key_id("cid", number)),
        2 => (0_u8..2).prop_map(|number| key_id("org", number)),
        2 => (0_u8..3).prop_map(|number| NodeId::Bucket {
            dimension: name("cid"),
            bucket: super::super::bucket(number.to_string().as_bytes()),
        }),
        1 => Just(NodeId::Rule { dimension: name("org"), rule: 1 }),
        1 => unit().prop_map(NodeId::Unit),
    ];
    let put = (id, unit(), unit(), 0_u8..6, any::<u64>()).prop_map(|(id, unit, to, kind, by)| {
        let by = MoveId(by);
        let (target, state) = match (&id, kind) {
            (NodeId::Unit(own), 0 | 1) => {
                let takeover = ["a", "b", "c"].map(name).into_iter().filter(|unit| unit != own);
                (
                    Target::Unit(own.clone()),
                    State::Evacuated {
                        takeover: takeover.map(|unit| (unit, 1)).collect(),
                    },
                )
            }
            (NodeId::Unit(own), 2) => (Target::Unit(own.clone()), State::Fencing { by }),
            (NodeId::Unit(own), _) => (Target::Unit(own.clone()), State::Active),
            (_, 0) => (Target::Unit(unit), State::Tombstone),
            (_, 1) => (Target::Unit(unit), State::Migrating { to, by }),
            (_, 2) => (Target::Unit(unit), State::Frozen { to, by }),
            (NodeId::Key { dimension, .. }, 3) if dimension.as_str() == "cid" => {
                (Target::Follow(name("org")), State::Active)
            }
            _ => (Target::Unit(unit), State::Active),
        };
        Step::Put(id, target, state)
    });
    prop_oneof![9 => put, 1 => Just(Step::Progress)]
}

/// The batches of a history, after the book at revision 1.
fn batches(steps: &[Step]) -> Vec<Batch> {
    let first = Change {
        rev: Rev(1),
        id: RecordId::Book,
        record: Some(Record::Book(book())),
    };
    let mut batches = vec![Batch {
        prev: Rev(0),
        rev: Rev(1),
        changes: vec![first],
    }];
    for step in steps {
        let prev = batches.last().unwrap().rev;
        let rev = prev.next();
        let changes = match step {
            Step::Progress => Vec::new(),
            Step::Put(id, target, state) => {
                let node = Node {
                    id: id.clone(),
                    target: target.clone(),
                    state: state.clone(),
                    rev,
                    previous: None,
                    op: OpId(0),
                    reason: String::new(),
                };
                vec![Change {
                    rev,
                    id: RecordId::Node(id.clone()),
                    record: Some(Record::Node(node)),
                }]
            }
        };
        batches.push(Batch { prev, rev, changes });
    }
    batches
}

fn empty() -> Routes {
    Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(3, Rev(0)),
        seed: 42,
        changes: Vec::new(),
    })
}

/// The records at the end of batches, as a store would give them.
fn snapshot(batches: &[Batch]) -> Snapshot {
    let mut records = BTreeMap::new();
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        records.insert(change.id.clone(), change.clone());
    }
    Snapshot {
        epoch: Epoch::new(3, batches.last().unwrap().rev),
        seed: 42,
        changes: records.into_values().rev().collect(),
    }
}

type Outcome = Result<(UnitId, Epoch, Standing), String>;

fn resolve(routes: &Routes, keys: &[Key]) -> Outcome {
    let hints = RouteHints {
        keys: keys.to_vec(),
        ..RouteHints::default()
    };
    let resolved = routes.resolve(&hints, &(), &mut ()).unwrap();
    resolved
        .map(|found| (found.unit.clone(), found.epoch, found.standing))
        .map_err(|error| error.to_string())
}

/// All that is asked in these tests: conversations with their companies, and companies.
fn all(routes: &Routes) -> Vec<Outcome> {
    let pairs = (0..3).flat_map(|cid| (0..2).map(move |org| vec![key("cid", cid), key("org", org)]));
    let alone = (0..2).map(|org| vec![key("org", org)]);
    pairs.chain(alone).map(|keys| resolve(routes, &keys)).collect()
}

proptest! {
    // R-I4: the epoch of a key never goes back, and rises when the owner changes.
    #[test]
    fn epochs_of_keys_only_rise(steps in prop::collection::vec(step(), 1..40)) {
        let mut routes = empty();
        let mut before: Option<Vec<Outcome>> = None;
        for batch in batches(&steps) {
            routes = routes.apply(&batch).unwrap();
            let now = all(&routes);
            for (was, is) in before.iter().flatten().zip(&now) {
                if let (Ok((owner, epoch, _)), Ok((next, later, _))) = (was, is) {
                    prop_assert!(later >= epoch, "{was:?} {is:?}");
                    prop_assert!(owner == next || later > epoch, "{was:?} {is:?}");
                }
            }
            before = Some(now);
        }
    }

    // R-I6, R-I13: by batches, by a snapshot, by both or from a file, a copy is the same.
    #[test]
    fn copies_of_one_revision_are_alike_however_they_got_there(
        steps in prop::collection::vec(step(), 1..40), cut in any::<prop::sample::Index>(),
    ) {
        let batches = batches(&steps);
        let (early, late) = batches.split_at(1 + cut.index(batches.len()));
        let by_batches = batches.iter().fold(empty(), |routes, batch| routes.apply(batch).unwrap());
        let by_snapshot = Routes::from_snapshot(&snapshot(&batches));
        let by_both = late.iter().fold(Routes::from_snapshot(&snapshot(early)), |routes, batch| {
            routes.apply(batch).unwrap()
        });
        let by_file = Routes::load(&by_batches.save()).unwrap();
        for other in [by_snapshot, by_both, by_file] {
            prop_assert_eq!(other.epoch(), by_batches.epoch());
            prop_assert_eq!(other.digest(), by_batches.digest());
            prop_assert_eq!(all(&other), all(&by_batches));
            prop_assert_eq!(other.moving().count(), by_batches.moving().count());
        }
    }

    // R-I13
    #[test]
    fn a_batch_that_does_not_begin_where_the_copy_stands_changes_nothing(
        steps in prop::collection::vec(step(), 2..20), at in any::<prop::sample::Index>(), next in any::<prop::sample::Index>(),
    ) {
        let batches = batches(&steps);
        let at = at.index(batches.len());
        let routes = batches[..at].iter().fold(empty(), |routes, batch| routes.apply(batch).unwrap());
        let batch = &batches[next.index(batches.len())];
        match routes.apply(batch) {
            Ok(after) => prop_assert_eq!((batch.prev, after.rev()), (routes.rev(), batch.rev)),
            Err(gap) => {
                prop_assert_eq!(gap, Gap { at: routes.rev(), prev: batch.prev });
                prop_assert_ne!(gap.at, gap.prev);
            }
        }
    }

    // a file that is cut off or changed is refused.
    #[test]
    fn a_damaged_file_is_refused(steps in prop::collection::vec(step(), 1..10), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let routes = batches(&steps).iter().fold(empty(), |routes, batch| routes.apply(batch).unwrap());
        let bytes = routes.save();
        let at = at.index(bytes.len());
        prop_assert!(Routes::load(&bytes[..at]).is_err());
        let mut flipped = bytes;
        flipped[at] ^= 1 << bit;
        prop_assert!(Routes::load(&flipped).is_err());
    }
}

#[test]
fn a_frozen_bucket_freezes_its_keys_and_a_key_of_its_own_goes_its_own_way() {
    let by = MoveId(9);
    let bucket = NodeId::Bucket {
        dimension: name("cid"),
        bucket: super::super::bucket(b"1"),
    };
    let frozen = State::Frozen { to: name("c"), by };
    let steps = [
        Step::Put(bucket, Target::Unit(name("b")), frozen),
        Step::Put(key_id("cid", 2), Target::Unit(name("c")), State::Active),
    ];
    let routes = batches(&steps)
        .iter()
        .fold(empty(), |routes, batch| routes.apply(batch).unwrap());
    let (unit, epoch, standing) = resolve(&routes, &[key("cid", 1)]).unwrap();
    assert_eq!((unit.as_str(), epoch), ("b", Epoch::new(3, Rev(2))));
    assert_eq!(standing, Standing::Frozen { by, rev: Rev(2) });
    let (unit, epoch, standing) = resolve(&routes, &[key("cid", 2)]).unwrap();
    assert_eq!(
        (unit.as_str(), epoch, standing),
        ("c", Epoch::new(3, Rev(3)), Standing::Open)
    );
    assert_eq!(routes.moving().count(), 1);
}
