//! Records to write, and folders to write them in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strait::control::embedded::Clock;
use strait::model::Name;
use strait::routing::record::{
    Book, Claim, Commit, Epoch, KeyBytes, MoveId, Node, NodeId, OpId, Record, RecordId, RelayId, Rev, State, Target,
    Term,
};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn book() -> Record {
    Record::Book(Book {
        units: ["a", "b", "c"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(serde_json::json!({ "name": "cid" })).unwrap()],
        rules: Vec::new(),
        ..Book::default()
    })
}

pub(crate) fn key(text: &str) -> NodeId {
    NodeId::Key {
        dimension: name("cid"),
        key: text.into(),
    }
}

pub(crate) fn node(text: &str, unit: &str, state: State) -> Record {
    Record::Node(Node {
        id: key(text),
        target: Target::Unit(name(unit)),
        state,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    })
}

pub(crate) fn active(text: &str, unit: &str) -> Record {
    node(text, unit, State::Active)
}

pub(crate) fn frozen(text: &str, by: u64) -> Record {
    let (to, by) = (name("b"), MoveId(by));
    node(text, "a", State::Frozen { to, by })
}

pub(crate) fn migrating(text: &str, by: u64) -> Record {
    let (to, by) = (name("b"), MoveId(by));
    node(text, "a", State::Migrating { to, by })
}

/// A commit with an operation of its own.
pub(crate) fn commit(compares: Vec<(RecordId, Rev)>, puts: Vec<Record>) -> Commit {
    Commit {
        op: OpId(fastrand::u128(..)),
        compares,
        puts,
        removes: Vec::new(),
    }
}

/// A claim of unit a, for any.
pub(crate) fn claim(text: &str, unit: &str, op: u128) -> Claim {
    Claim {
        dimension: name("cid"),
        key: text.into(),
        target: Target::Unit(name(unit)),
        base: Epoch(0),
        op: OpId(op),
        by: name("a"),
    }
}

pub(crate) fn claim_key(text: &str) -> (Name, KeyBytes) {
    (name("cid"), text.into())
}

pub(crate) fn relay(unit: &str, number: u32) -> RelayId {
    RelayId {
        unit: name(unit),
        relay: name(&format!("{unit}-{number}")),
    }
}

/// A clock that goes when it is told to.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn forward(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || Duration::from_millis(hand.0.load(Ordering::SeqCst)))
    }
}

/// A folder that goes with its value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("strait-control-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
