//! Records of the control group: what a route store keeps and what its feed carries.
//!
//! They are written as JSON, so that a newer relay can add fields that an older one ignores, and that an operator can read
//! what is in the store.
//!
//! # Invariants
//! - K1. The key of a record says all that its value must not contradict; nothing is looked up by two names.
//! - K2. A record that is not wanted any more becomes a tombstone: an epoch that was seen never goes back (R-D2).

mod book;
mod hooks;
mod ids;
mod key;
mod moves;
mod node;
mod session;
mod term;

pub use book::{Book, DimensionSpec, Fallback, Lease, LeaseError, LocalMode, Placement, PlacementRule, Share};
pub use hooks::{Hook, HookNote, HookSpec, Lag};
pub use ids::{Epoch, MoveId, NodeId, OpId, RecordId, Rev, SessionId};
pub use key::KeyBytes;
pub use moves::{Move, MoveKind, MoveOptions, MoveState};
pub use node::{Claim, Node, State, Target};
pub use session::{FreezeAck, RelayId, RelayRecord};
pub use term::Term;

use serde::{Deserialize, Serialize};

/// One record, of any kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// Dimensions, units and rules.
    Book(Book),
    /// A key, bucket, rule or unit that something was decided about.
    Node(Node),
    /// Work that moves nodes.
    Move(Move),
    /// A relay that has the routes.
    Relay(RelayRecord),
}

impl Record {
    /// What it is kept under.
    pub fn id(&self) -> RecordId {
        match self {
            Self::Book(_) => RecordId::Book,
            Self::Node(node) => RecordId::Node(node.id.clone()),
            Self::Move(work) => RecordId::Move(work.id),
            Self::Relay(relay) => RecordId::Relay(relay.relay.clone()),
        }
    }
}

/// A record as it stands at a revision.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Change {
    /// The revision that wrote it.
    pub rev: Rev,
    /// What it is kept under.
    pub id: RecordId,
    /// The record; `None` if it was removed. Nodes are never removed (K2).
    pub record: Option<Record>,
}

/// What the feed carries: all that changed from one revision to another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Batch {
    /// The revision a copy must be at for this to fit.
    pub prev: Rev,
    /// The revision it is at afterwards.
    pub rev: Rev,
    /// In order of their revisions. Empty: progress only.
    pub changes: Vec<Change>,
}

/// All records at a revision.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Snapshot {
    /// Incarnation and revision.
    pub epoch: Epoch,
    /// Of the hash under which copies keep keys, and of the digest.
    pub seed: u128,
    /// In any order.
    pub changes: Vec<Change>,
}

/// A write that is done as a whole or not at all.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Commit {
    /// Makes a repetition harmless: a commit that was done before is answered as it was then.
    pub op: OpId,
    /// Revisions that these records must have; [`Rev::ZERO`] for one that must not be there.
    pub compares: Vec<(RecordId, Rev)>,
    /// Written if all fit. The store fills in the revision of nodes.
    pub puts: Vec<Record>,
    /// Removed if all fit: relays and finished moves only (K2).
    pub removes: Vec<RecordId>,
}

impl Commit {
    /// Whether it writes this record.
    pub fn writes(&self, id: &RecordId) -> bool {
        self.puts.iter().any(|record| record.id() == *id)
    }
}

/// How a commit ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Committed {
    /// All is written, at this revision.
    Done(Rev),
    /// Nothing is written.
    Conflict {
        /// A record that did not fit.
        id: RecordId,
        /// The revision it has.
        found: Rev,
    },
}
