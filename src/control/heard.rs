//! When the feed of the store was heard of last, for those who ask the store other things.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When the feed was heard of last, on the clock of leases. Clones share it.
#[derive(Clone, Debug)]
pub struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Of a relay that starts now: nothing was heard before, and nothing missed.
    pub fn new(now: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(millis(now))))
    }

    /// Something is heard.
    pub fn note(&self, now: Duration) {
        self.0.store(millis(now), Ordering::Relaxed);
    }

    /// When that was, to the millisecond.
    pub fn at(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
