//! Who has which key: the positive cache, shared by all shards.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use quick_cache::sync::Cache;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::routing::record::{Claim, Epoch, OpId, Target};

/// Who has a key since its birth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// The owner since birth.
    pub target: Target,
    /// The epoch it was claimed at. Evidence as of this revision: what was decided later stands in the copy.
    pub base: Epoch,
    /// The operation that won.
    pub op: OpId,
}

impl From<Claim> for Holder {
    fn from(claim: Claim) -> Self {
        Self {
            target: claim.target,
            base: claim.base,
            op: claim.op,
        }
    }
}

/// Who has which key, as far as this relay has heard and remembers. Clones share it.
///
/// Nothing in it can be out of date (B2), so there is neither a time limit nor a way to remove a key. Keys are kept as hashes
/// of 128 bits, keyed so that nobody can make two keys that collide.
#[derive(Clone)]
pub struct Known {
    cache: Arc<Cache<u128, Holder>>,
    hash_key: [u8; 16],
}

impl Known {
    /// Remembers so many keys; those that were not asked for go first. `seed` is the store's, or random.
    pub fn new(keys_max: usize, seed: u128) -> Self {
        Self {
            cache: Arc::new(Cache::new(keys_max)),
            hash_key: seed.to_be_bytes(),
        }
    }

    /// Who has a key.
    pub fn get(&self, dimension: &str, key: &[u8]) -> Option<Holder> {
        self.cache.get(&self.hash(dimension, key))
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    pub(super) fn insert(&self, dimension: &str, key: &[u8], holder: Holder) {
        self.cache.insert(self.hash(dimension, key), holder);
    }

    fn hash(&self, dimension: &str, key: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key);
        hasher.write(dimension.as_bytes());
        // No name has this byte, so the border is clear.
        hasher.write(&[0]);
        hasher.write(key);
        hasher.finish128().as_u128()
    }
}

impl fmt::Debug for Known {
    /// How many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys]", self.len())
    }
}
