//! Keys that this relay put somewhere while the store was away, until their claims are stored.
//!
//! # Path
//! The driver of the claim desk finds that the store is away ([`claims::Desk::is_away`](super::claims::Desk::is_away)), chooses a unit
//! for a new key as every relay at the same revision does, and [adds](Choices::add) it. When the [file](ProvisionalFile) has it, shards
//! find it in [`Chosen`]. When the store answers again, each choice is claimed; then it is forgotten, or kept for an operator if another
//! unit was first.
//!
//! # Invariants
//! - F1. Nothing goes by a choice before it is on disk, so a relay that starts anew finds the same one.
//! - F2. A claim that is known of wins, and choices count only while the store is away.
//! - F3. A choice has one operation number for ever, so a claim that is sent again is no lost race.
//! - F4. A choice goes away when the claim says what it says, or when an operator has dismissed it. Nothing else removes one.
//! - F5. Choices are bounded; what has no room is refused.
//!
//! # Not here
//! Where a key goes (`routing::placement`), asking the store (`claims`).

mod choices;
mod chosen;
mod file;
mod metrics;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use choices::{Choices, Counts, NotDismissed, Settled};
pub use chosen::Chosen;
pub use file::{ProvisionalError, ProvisionalFile, Write};
pub use metrics::Metrics;

use super::store::ClaimKey;
use crate::model::Name;
use crate::routing::record::{Epoch, KeyBytes, OpId, Target};

/// Where this relay has put a key without the store.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Choice {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// Where it went.
    pub target: Target,
    /// Where this relay's copy was.
    pub epoch: Epoch,
    /// Of its claim (F3).
    pub op: OpId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who has it by a claim that was first; `None` until that is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
}

/// A claim that was first, for another owner.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// Who has the key.
    pub target: Target,
    /// What the relay's copy was at that claimed it.
    pub base: Epoch,
    /// When it was found, in seconds since 1970.
    pub at: u64,
}

impl Choice {
    /// What it is about.
    pub fn claim_key(&self) -> ClaimKey {
        (self.dimension.clone(), self.key.clone())
    }
}
