//! What can be asked.

use serde::{Deserialize, Serialize};

use crate::model::{Name, UnitId};
use crate::routing::record::{KeyBytes, MoveId, MoveOptions, NodeId, RelayId};

/// What an operator asks; one JSON document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "ask", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// Who owns a key, as the store has it now, and what was decided about it.
    Get {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
    },
    /// What was decided about a key, newest first.
    History {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
        /// How much at most.
        limit: usize,
    },
    /// All keys, buckets, rules and units that something was decided about.
    Export,
    /// Moves, the last ones first.
    Moves {
        /// Only this one.
        id: Option<MoveId>,
    },
    /// Relays that have the routes, and how they stand.
    Relays,
    /// Moves keys to a unit.
    Move(MoveAsk),
    /// Stops a move: what is under way goes back, what was moved stays.
    Abort {
        /// Which.
        id: MoveId,
        /// Who asks, for the audit log.
        who: String,
    },
    /// Gives a key that has no owner yet to a unit.
    Claim {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
        /// The unit.
        unit: UnitId,
        /// Who asks, for the audit log.
        who: String,
    },
    /// Forgets a relay that will not come back, so that nobody waits for it.
    Forget {
        /// Which.
        relay: RelayId,
        /// Who asks, for the audit log.
        who: String,
    },
}

/// What is to be moved, and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MoveAsk {
    /// What is moved.
    pub what: Vec<Which>,
    /// The new owner.
    pub to: UnitId,
    /// How.
    #[serde(default)]
    pub options: MoveOptions,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// What is moved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// One key, bucket or rule.
    Node(NodeId),
    /// Buckets of a dimension, from the first up to and without the last.
    Buckets {
        /// Kind of key.
        dimension: Name,
        /// The first.
        from: u16,
        /// The first one that is not moved, 4096 at most.
        to: u16,
    },
}

impl Command {
    /// Whether it changes something.
    pub fn changes(&self) -> bool {
        match self {
            Self::Get { .. } | Self::History { .. } | Self::Export | Self::Moves { .. } | Self::Relays => false,
            Self::Move(ask) => !ask.dry_run,
            Self::Abort { .. } | Self::Claim { .. } | Self::Forget { .. } => true,
        }
    }

    /// Its name, for the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::History { .. } => "history",
            Self::Export => "export",
            Self::Moves { .. } => "moves",
            Self::Relays => "relays",
            Self::Move(_) => "move",
            Self::Abort { .. } => "abort",
            Self::Claim { .. } => "claim",
            Self::Forget { .. } => "forget",
        }
    }

    /// Who asks, for the audit log.
    pub fn who(&self) -> &str {
        match self {
            Self::Move(MoveAsk { who, .. })
            | Self::Abort { who, .. }
            | Self::Claim { who, .. }
            | Self::Forget { who, .. } => who,
            _ => "",
        }
    }

    /// What it is about, without keys, for the audit log.
    pub fn target(&self) -> String {
        match self {
            Self::Move(ask) => format!("{} to unit {}", ask.what.len(), ask.to),
            Self::Abort { id, .. } => id.to_string(),
            Self::Claim { dimension, unit, .. } => format!("a key of {dimension} for unit {unit}"),
            Self::Forget { relay, .. } => relay.to_string(),
            _ => String::new(),
        }
    }
}
