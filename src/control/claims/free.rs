//! Keys that nobody had a moment ago: the negative cache, for readers only (B3).

use std::collections::HashMap;
use std::time::Duration;

use super::{ClaimKey, Limits};

/// Keys that nobody had a moment ago.
pub(super) struct Free {
    until: HashMap<ClaimKey, Duration>,
    tidied_at: Duration,
}

impl Free {
    pub(super) fn new() -> Self {
        Self {
            until: HashMap::new(),
            tidied_at: Duration::ZERO,
        }
    }

    /// Remembers a key for a fifth more or less than the limit says, so that not all are asked for again at once. If there is
    /// no room it is not remembered.
    pub(super) fn insert(&mut self, key: ClaimKey, now: Duration, dice: u64, limits: &Limits) {
        self.tidy(now, limits);
        if self.until.len() < limits.free_max {
            self.until.insert(key, now + jittered(limits.free_for, dice));
        }
    }

    pub(super) fn contains(&self, key: &ClaimKey, now: Duration) -> bool {
        self.until.get(key).is_some_and(|until| now < *until)
    }

    pub(super) fn remove(&mut self, key: &ClaimKey) {
        self.until.remove(key);
    }

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
