//! Who owns a key, as far as this relay knows at the moment: a question of the queue to the routes.
//!
//! # Invariants
//! - W1. The epoch of a key never goes back at one relay, and is higher for each further owner. So of two relays that name
//!   different owners the one with the higher epoch is right, and a message that follows epochs upwards comes to rest.
//!
//! # Not here
//! How it is found out (`routing`), what follows from it (`engine`, `arrivals`, `outbox`).

use std::fmt;

use crate::model::{Key, UnitId};

/// Whose a key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// It is this unit's, and about to move, or this relay cannot say now whose it is: nothing more of it is taken until that is
    /// decided.
    Frozen,
    /// It is another unit's.
    Other {
        /// That unit.
        unit: UnitId,
        /// Since when it is.
        epoch: u64,
    },
    /// It is this unit's.
    Ours,
    /// The settings say so, which know no epochs: nothing ever moves, and what comes here for another unit goes on to it.
    Settings(UnitId),
    /// Nobody knows: what comes is taken.
    Unknown,
}

/// Where a publication goes of which that was not known when it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// Not known yet; it is being found out.
    Later,
    /// By the routes there are now it goes nowhere.
    Nowhere,
    /// To this unit, which owns the key since this epoch, or is taken for its owner while the store is away.
    To(UnitId, u64),
}

/// Knows who owns a key.
pub trait Ownership: fmt::Debug + Send + Sync {
    /// Whose a key is now. Called for each message of a topic with the rule `owner` that comes in: it must not wait.
    fn of(&self, key: &Key) -> Owner;

    /// Where a publication with this key goes. Called again and again while it is not known: it must not wait.
    fn route(&self, key: &Key) -> Route;

    /// Whether others have the keys of a unit because it was evacuated: perhaps nobody is there who says so.
    fn is_evacuated(&self, unit: &UnitId) -> bool;
}

/// Some keys: those of something that is to move.
pub trait Keys: fmt::Debug + Send + Sync {
    /// Whether a key is one of them. Called for each message that waits.
    fn contains(&self, key: &Key) -> bool;
}
