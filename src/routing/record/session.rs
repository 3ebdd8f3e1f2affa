//! Relays and what they report.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MoveId, NodeId, Rev, SessionId};
use crate::model::{Name, UnitId};

/// A relay of a unit.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RelayId {
    /// Its unit.
    pub unit: UnitId,
    /// Its name there.
    pub relay: Name,
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.unit, self.relay)
    }
}

/// A relay that has a copy of the routes and may admit writes by it. It stays until the relay says good-bye or an operator
/// does it for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RelayRecord {
    /// Which.
    pub relay: RelayId,
    /// Its present life.
    pub session: SessionId,
    /// The life before did not end with a good-bye: what it had let through may run for a while, and until then the relay reports
    /// no freeze as drained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub succeeds: bool,
}

/// A relay has applied a freeze (R-3.9 S4), or has little left of what is to be frozen (S2).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FreezeAck {
    /// The life of the relay that reports.
    pub session: SessionId,
    /// The work.
    pub by: MoveId,
    /// The node.
    pub node: NodeId,
    /// The revision that froze it, or began to move it. A report about another one is worth nothing (R-R6).
    pub rev: Rev,
    /// No write is in flight any more; before the freeze, few messages wait.
    pub drained: bool,
    /// What still runs, if it has for a while; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

impl FreezeAck {
    /// Whether it says more than another report of the same node that may have come later: what has drained stays drained.
    pub fn is_newer_than(&self, known: &Self) -> bool {
        let (own, other) = ((self.rev, self.drained), (known.rev, known.drained));
        other < own || other == own && self.held_by.is_some() && self.held_by != known.held_by
    }
}
