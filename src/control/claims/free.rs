//! Keys that nobody had a moment ago: the negative cache, for readers only (B3).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Limits;
use crate::routing::KeyHash;

/// Keys that nobody had a moment ago. Clones share it. It is asked only about keys that nothing else is known of.
#[derive(Clone, Default)]
pub(super) struct Free(Arc<Mutex<Keys>>);

#[derive(Default)]
struct Keys {
    until: HashMap<KeyHash, Duration>,
    tidied_at: Duration,
}

impl Free {
    /// Remembers a key for a fifth more or less than the limit says, so that not all are asked for again at once. If there is
    /// no room it is not remembered.
    pub(super) fn insert(&self, key: KeyHash, now: Duration, dice: u64, limits: &Limits) {
        let mut keys = self.keys();
        keys.tidy(now, limits);
        if keys.until.len() < limits.free_max {
            keys.until.insert(key, now + jittered(limits.free_for, dice));
        }
    }

    pub(super) fn contains(&self, key: KeyHash, now: Duration) -> bool {
        self.keys().until.get(&key).is_some_and(|until| now < *until)
    }

    pub(super) fn remove(&self, key: KeyHash) {
        self.keys().until.remove(&key);
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Forgets what is over, now and then, and at once if there is no room.
    fn tidy(&mut self, now: Duration, limits: &Limits) {
        let is_full = self.until.len() >= limits.free_max;
        let pause = if is_full { limits.free_for / 10 } else { limits.free_for };
        if now >= self.tidied_at + pause {
            self.until.retain(|_, until| now < *until);
            self.tidied_at = now;
        }
    }
}

/// From four to six fifths of a time.
fn jittered(time: Duration, dice: u64) -> Duration {
    let thousandths = 800 + u32::try_from(dice % 401).unwrap_or_default();
    time * thousandths / 1000
}
