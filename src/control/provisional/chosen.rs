//! What shards see of the choices: where a key is, while the store is away.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Choice;
use crate::routing::record::Epoch;
use crate::routing::{KeyHash, Known, Provisional};

/// Where keys are while the store is away. Clones share it. Keys are kept as hashes, as copies of the routes do.
#[derive(Clone, Default)]
pub struct Chosen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The store is away; only then a choice counts (F2).
    in_force: AtomicBool,
    full: AtomicBool,
    keys: RwLock<HashMap<KeyHash, Known>>,
}

impl Chosen {
    /// Where a key is.
    pub fn find(&self, hash: KeyHash) -> Provisional {
        if !self.in_force() {
            return Provisional::Nothing;
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        match keys.get(&hash) {
            Some(known) => Provisional::Chosen(known.clone()),
            None if self.0.full.load(Ordering::Relaxed) => Provisional::Full,
            None => Provisional::Nothing,
        }
    }

    /// Whether the store is away, and choices count.
    pub fn in_force(&self) -> bool {
        self.0.in_force.load(Ordering::Acquire)
    }

    /// Whether the store is away, and whether there is no room for one more choice. Answers whether that is news.
    pub fn set(&self, in_force: bool, full: bool) -> bool {
        let was_full = self.0.full.swap(full, Ordering::Relaxed);
        let was_in_force = self.0.in_force.swap(in_force, Ordering::AcqRel);
        (was_in_force, was_full && was_in_force) != (in_force, full && in_force)
    }

    /// A choice that is on disk (F1). Of a conflict the owner by the claim: what the store has said is never forgotten (F2).
    pub fn insert(&self, hash: KeyHash, choice: &Choice) {
        let known = match &choice.conflict {
            Some(conflict) => Known {
                target: conflict.target.clone(),
                base: conflict.base,
                as_of: choice.epoch.max(conflict.base),
            },
            None => Known {
                target: choice.target.clone(),
                base: Epoch::default(),
                as_of: choice.epoch,
            },
        };
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(hash, known);
    }

    /// There is a claim, and nothing more to remember.
    pub fn remove(&self, hash: KeyHash) {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&hash);
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").finish_non_exhaustive()
    }
}
