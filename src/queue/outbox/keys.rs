//! Which keys have messages in a backlog: their new messages go behind these (M-C2).
//!
//! # Invariants
//! - K1. A key with a message in the backlog is behind. The other way round, a key may be behind without need: when two have
//!   the same hash, or while keys are not told apart.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::{Key, Map, Message};

/// How many messages of each key are in a backlog; a key is its hash.
#[derive(Debug, Default)]
pub(super) struct Keys {
    counts: Map<u64, u32>,
    /// All keys are behind.
    coarse: bool,
    /// Some key is counted too high.
    stale: bool,
}

impl Keys {
    /// Whether messages of this key must wait.
    pub(super) fn is_behind(&self, hash: u64) -> bool {
        self.coarse || self.counts.contains_key(&hash)
    }

    /// Whether no key is behind: nothing needs to be hashed.
    pub(super) fn is_empty(&self) -> bool {
        !self.coarse && self.counts.is_empty()
    }

    /// Whether keys are not told apart.
    pub(super) fn is_coarse(&self) -> bool {
        self.coarse
    }

    /// Whether the counts should be made anew as soon as all of the backlog is at hand.
    pub(super) fn wants_recount(&self) -> bool {
        self.coarse || self.stale
    }

    /// Keys that are told apart.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// A message more. `room`: for keys that are not counted yet.
    pub(super) fn add(&mut self, hash: u64, room: bool) {
        if self.coarse || hash == NO_KEY {
            return;
        }
        match self.counts.get_mut(&hash) {
            Some(count) => *count = count.saturating_add(1),
            None if room => _ = self.counts.insert(hash, 1),
            None => self.set_coarse(),
        }
    }

    /// A message less.
    pub(super) fn remove(&mut self, hash: u64) {
        if let Some(count) = self.counts.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&hash);
            }
        }
    }

    /// A message less, whose key is not known.
    pub(super) fn remove_some(&mut self) {
        self.stale = true;
    }

    /// From now on keys are not told apart.
    pub(super) fn set_coarse(&mut self) {
        self.coarse = true;
        self.counts = Map::default();
    }

    /// There is no message any more.
    pub(super) fn clear(&mut self) {
        self.coarse = false;
        self.stale = false;
        // The memory goes back too: a long backlog had many keys.
        self.counts = Map::default();
    }
}

/// The key of a message of a topic with this hash.
pub(super) fn hash_of(topic: u64, key: &Key) -> u64 {
    let dimension = xxh3_64_with_seed(&key.dimension, topic);
    xxh3_64_with_seed(&key.key, dimension).max(NO_KEY + 1)
}

/// What a message of an ordered topic counts as, if it has a key.
pub fn key_hash(message: &Message) -> Option<u64> {
    let topic = xxh3_64(message.topic.as_str().as_bytes());
    message.key.as_ref().map(|key| hash_of(topic, key))
}

/// Stands for a message whose order does not matter.
pub(super) const NO_KEY: u64 = 0;
