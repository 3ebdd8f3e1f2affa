//! What operators are told about units.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MoveRow, RelayRow};
use crate::control::mover::units::Counts;
use crate::control::store::ClaimKey;
use crate::model::UnitId;
use crate::routing::record::{MoveId, RelayId, Rev, State};

/// How a unit stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UnitRow {
    /// Which.
    pub unit: UnitId,
    /// Whether it takes keys, and who has its keys if it does not have them.
    pub state: State,
    /// Since which revision; 0 if nothing was decided about it.
    pub rev: Rev,
    /// Who decided that, and why.
    pub reason: String,
    /// What it has now. Keys that were claimed are counted only if one unit was asked for.
    pub has: Counts,
    /// There are more claims than were counted.
    pub has_more: bool,
    /// Its relays that have the routes.
    pub relays: Vec<RelayRow>,
    /// Its drain, evacuation or return, as far as that is not over.
    pub moves: Vec<MoveRow>,
    /// While it is evacuated or given back: whom that waits for.
    pub fence: Option<Fence>,
}

/// What has to be over before others have the keys of a unit, or it has them again.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fence {
    /// A relay that does not answer has stopped when it was silent for so long; `None`: it may go on for ever.
    #[serde(with = "humantime_serde")]
    pub needed: Option<Duration>,
    /// Relays that have not said that they have stopped.
    pub waits_for: Vec<Fenced>,
}

/// A relay that is waited for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fenced {
    /// Which.
    pub relay: RelayId,
    /// Time since the store heard of it; `None` if longer than the store remembers.
    #[serde(with = "humantime_serde")]
    pub silent_for: Option<Duration>,
    /// When it is waited for no more, if it stays silent; `None`: never.
    #[serde(with = "humantime_serde")]
    pub left: Option<Duration>,
}

/// What is done about a unit, or would be.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UnitPlan {
    /// Which.
    pub unit: UnitId,
    /// What.
    pub act: UnitAct,
    /// What each unit gets, as far as it can be counted.
    pub shares: Vec<ShareRow>,
    /// Buckets and rules whose keys go to several units, each key by itself.
    pub key_by_key: Counts,
    /// What to know before it is done.
    pub notes: Vec<String>,
    /// What would be refused now; of a dry run.
    pub refusal: Option<String>,
    /// The moves that do it; none of a dry run.
    pub moves: Vec<MoveId>,
    /// Claims for the unit go on after this one; ask again with it.
    pub next: Option<ClaimKey>,
    /// Nothing was done, it only would be.
    pub dry_run: bool,
}

/// What is done about a unit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitAct {
    /// Its keys go to others by moves.
    Drain,
    /// Others take over its keys.
    Evacuate,
    /// It gets its keys back.
    Return,
}

/// What a unit gets.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ShareRow {
    /// The unit.
    pub unit: UnitId,
    /// Its weight.
    pub weight: u16,
    /// What.
    pub gets: Counts,
}

impl UnitPlan {
    /// Keys, buckets and rules of all shares.
    pub fn sum(&self) -> usize {
        self.shares.iter().map(|share| share.gets.sum()).sum()
    }
}

impl UnitRow {
    /// Whether nothing is being done about it any more.
    pub fn is_at_rest(&self) -> bool {
        self.state.work().is_none() && self.moves.iter().all(MoveRow::is_over)
    }
}
