//! What operators are told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::store::RelayStanding;
use crate::model::{Name, UnitId};
use crate::routing::Explanation;
use crate::routing::record::{
    Claim, Epoch, KeyBytes, Move, MoveId, MoveState, Node, NodeId, RelayId, Rev, SessionId, State, Target,
};

/// An answer; one JSON document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// About one key.
    Key(Box<KeyRow>),
    /// What was decided.
    Nodes(Vec<NodeRow>),
    /// Moves.
    Moves(Vec<MoveRow>),
    /// Relays.
    Relays(Vec<RelayRow>),
    /// What a move would do, or does.
    Plan(Plan),
    /// The key belongs to the unit now.
    Claimed(ClaimRow),
    /// It is done.
    Done,
    /// No, and why.
    Refused {
        /// Why, and what to do about it.
        detail: String,
    },
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

/// A claim.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
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
    /// Nodes under way, each with its state.
    pub under_way: Vec<(NodeId, State)>,
    /// The relay that drives it.
    pub driver: RelayId,
    /// When it was asked for, in seconds since 1970.
    pub asked_at: u64,
    /// Who asked, and why.
    pub reason: String,
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
}

/// One node that is moved.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PlannedNode {
    /// Which.
    pub id: NodeId,
    /// Who owns it now.
    pub from: UnitId,
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
    pub(super) fn new(work: Move, under_way: Vec<(NodeId, State)>) -> Self {
        Self {
            id: work.id,
            to: work.to,
            state: work.state,
            nodes: work.nodes.len(),
            moved: work.moved,
            aborted: work.aborted,
            under_way,
            driver: work.driver,
            asked_at: work.asked_at,
            reason: work.reason,
        }
    }
}
