//! Who has which key: the positive cache, shared by all shards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

use super::free::Free;
use super::{ClaimKey, Limits};
use crate::routing::record::{Claim, Epoch, OpId, Target};
use crate::routing::{self, KeyHash, key_hash};

/// Who has a key since its birth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// The owner since birth.
    pub target: Target,
    /// The epoch it was claimed at.
    pub base: Epoch,
    /// Where this relay's copy was when the store was asked. Evidence as of this revision: what was decided later stands
    /// in the copy.
    pub as_of: Epoch,
    /// The operation that won.
    pub op: OpId,
}

impl Holder {
    /// What the store said of a claim when it was asked by a relay whose copy was at `as_of`.
    pub(super) fn new(claim: Claim, as_of: Epoch) -> Self {
        Self {
            target: claim.target,
            base: claim.base,
            as_of: as_of.max(claim.base),
            op: claim.op,
        }
    }
}

impl From<Holder> for routing::Known {
    fn from(holder: Holder) -> Self {
        Self {
            target: holder.target,
            base: holder.base,
            as_of: holder.as_of,
        }
    }
}

/// Who has which key, as far as this relay has heard and remembers. Clones share it.
///
/// Nothing in it can be out of date (B2), so there is neither a time limit nor a way to remove a key; but that nobody has a key is
/// remembered for a moment only (B3). Keys are kept as hashes,
/// as copies of the routes do.
#[derive(Clone)]
pub struct Known {
    cache: Arc<Cache<KeyHash, Holder>>,
    pub(super) free: Free,
    seed: u128,
}

impl Known {
    /// Remembers so many keys; those that were not asked for go first. `seed` is that of the store's records.
    pub fn new(keys_max: usize, seed: u128) -> Self {
        Self {
            cache: Arc::new(Cache::new(keys_max)),
            free: Free::default(),
            seed,
        }
    }

    /// Who has a key.
    pub fn get(&self, hash: KeyHash) -> Option<Holder> {
        self.cache.get(&hash)
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    pub(super) fn find(&self, key: &ClaimKey) -> Option<Holder> {
        self.get(self.hash(key))
    }

    pub(super) fn insert(&self, key: &ClaimKey, holder: Holder) {
        let hash = self.hash(key);
        self.cache.insert(hash, holder);
        self.free.remove(hash);
    }

    pub(super) fn is_free(&self, key: &ClaimKey, now: Duration) -> bool {
        self.free.contains(self.hash(key), now)
    }

    pub(super) fn set_free(&self, key: &ClaimKey, now: Duration, dice: u64, limits: &Limits) {
        self.free.insert(self.hash(key), now, dice, limits);
    }

    /// Somebody claims it.
    pub(super) fn is_wanted(&self, key: &ClaimKey) {
        self.free.remove(self.hash(key));
    }

    fn hash(&self, (dimension, key): &ClaimKey) -> KeyHash {
        key_hash(self.seed, dimension.as_str().as_bytes(), &key.0)
    }
}

impl fmt::Debug for Known {
    /// How many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys]", self.len())
    }
}
