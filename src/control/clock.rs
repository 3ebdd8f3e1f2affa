//! The clock of leases: it goes on while the machine sleeps.

use std::time::Duration;

/// Time since the machine started, sleep included.
///
/// `Instant` stands still while the machine sleeps: a relay that wakes up would take its lease for fresh.
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}
