//! Work that moves nodes from one unit to another.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MoveId, NodeId, RelayId};
use crate::model::UnitId;

/// Work that moves nodes. What has become of each node stands in its own record; this one says what was wanted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Move {
    /// Its number.
    pub id: MoveId,
    /// What is moved, at most [`Move::NODES_MAX`].
    pub nodes: Vec<NodeId>,
    /// The new owner.
    pub to: UnitId,
    /// How.
    pub options: MoveOptions,
    /// How far it is.
    pub state: MoveState,
    /// The relay that drives it; any other may go on if that one is gone.
    pub driver: RelayId,
    /// Nodes before this position are done, one way or the other.
    pub next: u32,
    /// Nodes that belong to the new owner.
    pub moved: u32,
    /// Nodes that stayed where they were.
    pub aborted: u32,
    /// When it was asked for, in seconds since 1970; for people.
    pub asked_at: u64,
    /// Who asked, and why.
    pub reason: String,
}

impl Move {
    /// More keys are moved by several moves.
    pub const NODES_MAX: usize = 10_000;
}

/// How a move is done.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct MoveOptions {
    /// Ask the application's `OwnerControl` service at each step.
    pub hooks: bool,
    /// Deliver admitted writes to the new owner too while copying.
    pub mirror: bool,
    /// Nodes under way at once. Default 8.
    pub parallel: u16,
    /// Longest time a node may be frozen before the move of it is given up. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub freeze_budget: Duration,
    /// Longest time the application may copy. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub copy_limit: Duration,
    /// How long the source keeps a mark of where the node went. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub trail: Duration,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            hooks: false,
            mirror: false,
            parallel: 8,
            freeze_budget: Duration::from_secs(2),
            copy_limit: Duration::from_secs(3600),
            trail: Duration::from_secs(3600),
        }
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Under way.
    Running,
    /// An operator stops it: nodes under way go back, others are not touched.
    Aborting,
    /// All nodes are done, one way or the other.
    Finished,
}
