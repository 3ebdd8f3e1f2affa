//! What operators are told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{UnitPlan, UnitRow};
use crate::control::provisional::Choice;
use crate::control::store::RelayStanding;
use crate::model::{Name, ServiceName, UnitId};
use crate::routing::Explanation;
use crate::routing::record::{
    Book, Claim, Epoch, HookNote, KeyBytes, Lease, Move, MoveId, MoveState, Node, NodeId, RelayId, Rev, SessionId,
    State, Target,
};

/// An answer; one JSON document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// How the relay stands with its store.
    Status(Status),
    /// About one key.
    Key(Box<KeyRow>),
    /// What was decided about one key.
    History(History),
    /// What was decided.
    Nodes(Vec<NodeRow>),
    /// What is published.
    Book(Box<BookRow>),
    /// Moves.
    Moves(Vec<MoveRow>),
    /// Relays.
    Relays(Vec<RelayRow>),
    /// Units.
    Units(Vec<UnitRow>),
    /// What is done about a unit, or would be.
    UnitPlan(Box<UnitPlan>),
    /// What a move would do, or does.
    Plan(Plan),
    /// What taking a move back would do, or does.
    Undone(Undone),
    /// The key belongs to the unit, or would.
    Given(Given),
    /// What became of many keys, or would.
    Imported(Imported),
    /// What is published, or would be.
    Published(Published),
    /// Keys that this relay has put somewhere while the store was away.
    Provisional(ProvisionalRows),
    /// It is done.
    Done,
    /// No, and why.
    Refused {
        /// Why, and what to do about it.
        detail: String,
    },
    /// The store did not do it.
    Failed {
        /// Why, and what to do about it.
        detail: String,
    },
}

/// How a relay stands with its route store, by its own copy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Where the routes are kept, such as `embedded at a/a-1`.
    pub store: String,
    /// What the relay's copy is at; `None` if it has none yet.
    pub epoch: Option<Epoch>,
    /// Nothing was heard of the store for seconds.
    pub is_stale: bool,
    /// The relay's life as the store knows it.
    pub session: Option<SessionId>,
    /// Whether the relay admits writes of keys that its unit owns.
    pub dimensions: Vec<LeaseRow>,
    /// Keys that something was decided about.
    pub overrides: usize,
    /// Moves that have not finished.
    pub moves: Vec<MoveId>,
    /// Keys, buckets, rules and units that are being moved.
    pub under_way: usize,
}

/// Keys that a relay has put somewhere while the store was away.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ProvisionalRows {
    /// Whether the store is away, so that calls go by them.
    pub in_force: bool,
    /// Keys that are claimed when the store is back.
    pub pending: usize,
    /// Keys that belong to another unit by a claim that was first.
    pub conflicts: usize,
    /// Some of them, conflicts first.
    pub rows: Vec<ProvisionalRow>,
}

/// A key that a relay has put somewhere while the store was away.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ProvisionalRow {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// Where it went.
    pub chosen: Target,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who has it by a claim that was first; `None` while it is not settled.
    pub claimed: Option<Target>,
    /// When that was found, in seconds since 1970.
    pub found_at: Option<u64>,
}

/// Whether a relay admits writes of a dimension.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LeaseRow {
    /// Kind of key.
    pub dimension: Name,
    /// How long it goes on without the store.
    pub lease: Lease,
    /// Whether it admits writes now.
    pub admits: bool,
}

/// What there is about one key.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KeyRow {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// What was decided about this key alone.
    pub node: Option<NodeRow>,
    /// Who claimed it.
    pub claim: Option<ClaimRow>,
    /// How the relay resolves it.
    pub explanation: Explanation,
}

/// What was decided about one key.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct History {
    /// Newest first, as far back as the store remembers.
    pub nodes: Vec<NodeRow>,
    /// Who claimed it, before all else.
    pub claim: Option<ClaimRow>,
}

/// A key that belongs to a unit, or would.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Given {
    /// What was done for that.
    pub how: How,
    /// Nothing was done, it only would be.
    pub dry_run: bool,
}

/// How a key came to its unit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It was claimed.
    Claimed,
    /// It was decided, because keys of its dimension are not claimed.
    Pinned,
    /// It belongs to the unit already.
    There,
}

/// What became of many keys. Keys are named by their position among those that were asked for, from 0.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Imported {
    /// Keys that were claimed or pinned.
    pub given: usize,
    /// Keys that belonged to their units already.
    pub there_already: usize,
    /// Keys that belong to other units, and were left alone.
    pub conflicts: Vec<Conflict>,
    /// Keys that cannot be given to anybody.
    pub refused: Vec<Refusal>,
    /// Nothing was done, it only would be.
    pub dry_run: bool,
}

/// A key that belongs to another unit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// Its position.
    pub at: usize,
    /// Who has it.
    pub owner: UnitId,
}

/// A key that cannot be given to anybody.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// Its position.
    pub at: usize,
    /// Why, and what to do about it.
    pub detail: String,
}

/// What is published.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Published {
    /// The revision that published it; `None` if nothing was.
    pub rev: Option<Rev>,
    /// What is new, a line each; empty if all was published already.
    pub changes: Vec<String>,
    /// Why the configuration that is in the relay's file now is not the one that this was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Nothing was done, it only would be.
    pub dry_run: bool,
}

/// What was decided about a key, bucket, rule or unit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NodeRow {
    /// What it is about.
    pub id: NodeId,
    /// Who owns it.
    pub target: Target,
    /// Whether it is being moved.
    pub state: State,
    /// Since which revision.
    pub rev: Rev,
    /// The owner before.
    pub previous: Option<UnitId>,
    /// Why.
    pub reason: String,
}

/// What is published.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BookRow {
    /// The revision that published it.
    pub rev: Rev,
    /// Units, dimensions and rules.
    pub book: Book,
    /// Rules whose keys were moved since, or are being moved.
    pub moved: Vec<NodeRow>,
}

/// A claim.
#[derive(Clone, Debug, Eq, Deserialize, PartialEq, Serialize)]
pub struct ClaimRow {
    /// The owner since birth.
    pub target: Target,
    /// Which unit asked.
    pub by: UnitId,
    /// What that relay's copy was at.
    pub base: Epoch,
}

/// How far a move is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MoveRow {
    /// Which.
    pub id: MoveId,
    /// The new owner.
    pub to: UnitId,
    /// How far.
    pub state: MoveState,
    /// Nodes in all.
    pub nodes: usize,
    /// Nodes that belong to the new owner.
    pub moved: u32,
    /// Nodes that stayed where they were.
    pub aborted: u32,
    /// Nodes that are not done one way or the other.
    pub left: usize,
    /// Seconds until all are done, at the pace so far; `None` if that cannot be said.
    pub eta_seconds: Option<u64>,
    /// Nodes under way, each with its state.
    pub under_way: Vec<(NodeId, State)>,
    /// Some of those that stayed where they were, each with the reason; those of which nothing was decided since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stayed: Vec<(NodeId, String)>,
    /// The relay that drives it.
    pub driver: RelayId,
    /// When it was asked for, in seconds since 1970.
    pub asked_at: u64,
    /// Who asked, and why.
    pub reason: String,
    /// What the application said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<HookNote>,
    /// The relay that it waits for before it freezes anything: it was killed and has started again, and cannot report yet that
    /// nothing runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<RelayId>,
    /// A relay at which messages of its nodes wait to be delivered: nothing is frozen before there are few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undelivered_at: Option<RelayId>,
    /// Whether what the owner serves goes to the other unit too.
    #[serde(default)]
    pub mirror: bool,
    /// A write that should have had a shadow at the other unit has none.
    #[serde(default)]
    pub shadow_incomplete: bool,
}

/// How a relay stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RelayRow {
    /// Which.
    pub relay: RelayId,
    /// Its present life.
    pub session: SessionId,
    /// Time since the store heard of it; `None` if longer than the store remembers.
    #[serde(with = "humantime_serde")]
    pub silent_for: Option<Duration>,
    /// Freezes that it has applied.
    pub frozen: usize,
}

/// What a move does.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// The move; `None` if nothing is done.
    pub id: Option<MoveId>,
    /// The new owner.
    pub to: UnitId,
    /// What is moved.
    pub nodes: Vec<PlannedNode>,
    /// What is there already.
    pub there_already: usize,
    /// The applications that are asked at each step. Without one, calls that outlive their deadline may still write at the old
    /// owner after the move (guarantee level L0).
    #[serde(default)]
    pub hooks: Vec<ServiceName>,
}

/// What taking a move back does.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Undone {
    /// A move for each unit that gets something back.
    pub plans: Vec<Plan>,
    /// What the move did not give to its new owner, or has moved on since: it stays where it is.
    pub stay: usize,
}

/// One node that is moved.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PlannedNode {
    /// Which.
    pub id: NodeId,
    /// Who owns it now.
    pub from: UnitId,
}

impl Answer {
    /// How it ended, for the audit log.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
            _ => "done",
        }
    }
}

impl MoveRow {
    /// Whether every node is done, one way or the other.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl NodeRow {
    /// Of a record and its revision.
    pub(super) fn new(node: Node, rev: Rev) -> Self {
        Self {
            id: node.id,
            target: node.target,
            state: node.state,
            rev,
            previous: node.previous,
            reason: node.reason,
        }
    }
}

impl From<Choice> for ProvisionalRow {
    fn from(choice: Choice) -> Self {
        let (claimed, found_at) = choice.conflict.map(|conflict| (conflict.target, conflict.at)).unzip();
        Self {
            dimension: choice.dimension,
            key: choice.key,
            chosen: choice.target,
            at: choice.at,
            claimed,
            found_at,
        }
    }
}

impl From<Claim> for ClaimRow {
    fn from(claim: Claim) -> Self {
        Self {
            target: claim.target,
            by: claim.by,
            base: claim.base,
        }
    }
}

impl From<RelayStanding> for RelayRow {
    fn from(standing: RelayStanding) -> Self {
        Self {
            relay: standing.relay,
            session: standing.session,
            silent_for: standing.silent_for,
            frozen: standing.acks.len(),
        }
    }
}

impl MoveRow {
    /// Of a record and the nodes under way.
    pub(super) fn new(work: Move, under_way: Vec<(NodeId, State)>, stayed: Vec<(NodeId, String)>, now: u64) -> Self {
        let done = usize::try_from(work.moved.saturating_add(work.aborted)).unwrap_or(usize::MAX);
        let left = match work.state {
            MoveState::Trailing | MoveState::Finished => 0,
            _ => work.nodes.len().saturating_sub(done),
        };
        let since = now.saturating_sub(work.asked_at);
        let needed = |left: usize| {
            since
                .saturating_mul(left.try_into().ok()?)
                .checked_div(done.try_into().ok()?)
        };
        Self {
            left,
            eta_seconds: if left == 0 { None } else { needed(left) },
            id: work.id,
            to: work.to,
            state: work.state,
            nodes: work.nodes.len().max(done),
            moved: work.moved,
            aborted: work.aborted,
            under_way,
            stayed,
            driver: work.driver,
            asked_at: work.asked_at,
            reason: work.reason,
            note: work.note,
            waits_for: work.waits_for,
            undelivered_at: work.undelivered_at,
            mirror: work.options.mirror,
            shadow_incomplete: work.shadow_incomplete,
        }
    }
}
