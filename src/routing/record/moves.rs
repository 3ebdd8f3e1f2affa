//! Work that moves nodes from one unit to another.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HookNote, MoveId, NodeId, RelayId, Rev};
use crate::model::UnitId;

/// Work that moves nodes, or a whole unit. What has become of each node stands in its own record; this one
/// says what was wanted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Move {
    /// Its number.
    pub id: MoveId,
    /// What is done.
    #[serde(default)]
    pub kind: MoveKind,
    /// The unit whose drain or return it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<UnitId>,
    /// What is moved, at most [`Move::NODES_MAX`]; of work on a unit, that unit alone.
    pub nodes: Vec<NodeId>,
    /// The new owner; of an evacuation the one that gets most.
    pub to: UnitId,
    /// What was decided up to this revision was known to whoever asked. A node about which something was decided since, and that
    /// does not belong to the new owner, was tried, or others decided otherwise meanwhile: it stays where it is.
    pub since: Rev,
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
    /// What the application said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<HookNote>,
    /// Nodes are not frozen before this relay, which was killed and has started again, can report that nothing runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<RelayId>,
    /// Nodes are not frozen before few messages of them wait at this relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undelivered_at: Option<RelayId>,
    /// Of a move with a mirror: a write that should have had a shadow has none at the other unit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow_incomplete: bool,
}

impl Move {
    /// More keys are moved by several moves.
    pub const NODES_MAX: usize = 10_000;
    /// Finished moves that are kept, for people; older ones are removed.
    pub const FINISHED_MAX: usize = 100;
    /// Nodes that finished moves name, all together: about 10 MB in the store and in each snapshot, with keys of 30 bytes. Only the last
    /// one is kept whatever it names.
    pub const FINISHED_NODES_MAX: usize = 100_000;
}

/// What is done.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveKind {
    /// Nodes get another owner.
    #[default]
    Nodes,
    /// A unit is fenced, then others have its keys.
    Evacuate {
        /// Units and weights.
        takeover: Vec<(UnitId, u16)>,
        /// Do not wait for relays of the unit that cannot be reached longer than for the longest lease that ends, although keys
        /// have a lease that never does: both may admit writes of those for a while (R-D7).
        accept_dual: bool,
    },
    /// A unit that was evacuated gets its keys back.
    GiveBack,
}

/// How a move is done.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct MoveOptions {
    /// Ask the application of the dimension at each step, if it has one ([`HookSpec`](super::HookSpec)). Default: yes.
    pub hooks: bool,
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
    /// Send what the owner of a node serves to the other unit too, as shadows: to the new owner until the node is there, to the
    /// old one while the trail lasts (R-3.9 S1, S7). Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            hooks: true,
            parallel: 8,
            freeze_budget: Duration::from_secs(2),
            copy_limit: Duration::from_secs(3600),
            trail: Duration::from_secs(3600),
            mirror: false,
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
    /// All nodes are done, one way or the other; those that were moved still say where from.
    Trailing,
    /// Nothing is left to do.
    Finished,
}
