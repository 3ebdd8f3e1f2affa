//! The claim desk of a relay: who has a key that nothing else was decided about, and claims for keys that nobody has.
//!
//! # Path
//! A call whose key has no owner [asks](Desk::ask). The desk puts questions together and says what to send to the store; its
//! driver sends it and brings back what was [answered](Desk::answered). Then the desk says whom to tell what. What it learns
//! goes into [`Known`], where all shards look before they ask.
//!
//! # Invariants
//! - B1. A key is on its way to the store at most once; whoever asks meanwhile waits for the same answer.
//! - B2. What is known of a key never changes: claims are written once (R-I5). So an answer may come late, twice or in another
//!   order and is right all the same; "nobody has it" is believed only of the question that is open.
//! - B3. That nobody has a key is remembered for readers, for about a second, and never used for a claim.
//! - B4. A claim is sent again with the operation number it had, so a lost answer is no lost race.
//! - B5. Callers that wait, keys that are known, and keys that are known to be free are bounded, and nobody waits past the time
//!   they said.
//! - B6. A key that went somewhere without the store is not claimed for anybody else by this desk: what was asked for is
//!   [withdrawn](Desk::withdraw) first.
//!
//! # Not here
//! Where a new key should go (`routing::placement`), and what is kept of keys that went somewhere without the store (`provisional`).

mod batches;
mod desk;
mod driver;
mod fallback;
mod free;
mod handle;
mod known;
mod outage;
#[cfg(test)]
mod tests;

pub use batches::{Answer, Batch, BatchId};
pub use desk::{Ask, Desk, Output, Waiter};
pub use driver::{Driver, DriverParts};
pub use fallback::FallbackParts;
pub use handle::{Claims, Listed, Wanted};
pub use known::{Holder, Known};

use std::time::Duration;

use crate::model::Name;
use crate::routing::record::KeyBytes;

/// A key of a dimension.
pub type ClaimKey = (Name, KeyBytes);

/// Limits of a desk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long a question waits for others to go with. Default 1 ms.
    pub gather: Duration,
    /// Keys in one batch. Default 128.
    pub batch_max: usize,
    /// Callers that may wait. Default 10000.
    pub waiters_max: usize,
    /// Keys that are remembered as free. Default 10000.
    pub free_max: usize,
    /// How long a key is remembered as free, a fifth more or less. Default 1 s.
    pub free_for: Duration,
    /// How long the store may take before a batch is sent again. Default 1 s.
    pub answer_within: Duration,
    /// Pause after the first failure of the store; doubled by each further one, up to 32 times as long. Default 50 ms.
    pub pause: Duration,
    /// How long the store must have said nothing before it counts as away. Default 3 s.
    pub away_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(1),
            batch_max: 128,
            waiters_max: 10_000,
            free_max: 10_000,
            free_for: Duration::from_secs(1),
            answer_within: Duration::from_secs(1),
            pause: Duration::from_millis(50),
            away_after: Duration::from_secs(3),
        }
    }
}

/// What a caller is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The claim is the caller's own: it has the key, since now or since an earlier attempt.
    Won(Holder),
    /// Somebody has the key: whoever was first, if the caller claimed it.
    Lost(Holder),
    /// Of a reader: nobody has it.
    Free,
    /// The store does not let this relay.
    Denied(String),
    /// No answer in the time the caller had. Its claim may still be done.
    Away,
    /// Too many wait already. Nothing was asked for.
    Full,
}
