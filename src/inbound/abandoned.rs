//! Calls of owned keys whose caller has gone, while the service may still execute them: what let them in is given back when their
//! time is over, not before (R-3.8 step 6).
//!
//! A service is told that the caller has gone, and says nothing any more: when it has stopped is not known. So its time is over
//! when the call's would have been, or `in_flight_max` after the caller has gone. They are bounded by the gate, which they are
//! registered at.

use std::time::{Duration, Instant};

use super::gate::Admission;
use crate::calls::{Calls, Limited, TimeLimits};

/// Calls whose caller has gone, on one shard.
pub(super) struct Abandoned {
    calls: Calls<Call>,
    /// Times are rounded up from here, so that many end at once: each look goes through all of them.
    start: Instant,
}

struct Call {
    admission: Admission,
    limits: TimeLimits,
    until: Instant,
}

impl Abandoned {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            calls: Calls::default(),
            start: now,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The caller of a call has gone.
    pub(super) fn keep(&self, admission: Admission, limits: TimeLimits, now: Instant) {
        let longest = now + admission.in_flight_max();
        let until = limits.limit().map_or(longest, |limit| limit.min(longest));
        if until > now {
            self.calls.insert(Call {
                admission,
                limits,
                until: self.rounded(until),
            });
        }
    }

    /// Gives back what is due; runs as long as the shard.
    pub(super) async fn watch(&self) {
        self.calls.watch(|id| drop(self.calls.take(id))).await;
    }

    /// Streams that a freeze waits for make way, as if their callers were there.
    pub(super) fn make_way(&self, now: Instant, is_waited_for: impl Fn(&Admission) -> bool) {
        let mut look = None;
        for id in self.calls.ids() {
            self.calls.with(id, |call| {
                if is_waited_for(&call.admission) {
                    look = Some(call.limits.make_way(now));
                }
            });
        }
        if let Some(at) = look {
            self.calls.expect(at);
        }
    }

    /// How many there are of a kind.
    pub(super) fn count(&self, is_meant: impl Fn(&Admission) -> bool) -> usize {
        let ids = self.calls.ids().into_iter();
        ids.filter(|id| self.calls.with(*id, |call| is_meant(&call.admission)) == Some(true))
            .count()
    }

    fn rounded(&self, at: Instant) -> Instant {
        let grain = ROUND.as_millis();
        let millis = at.saturating_duration_since(self.start).as_millis();
        let rounded = millis.div_ceil(grain).saturating_mul(grain);
        u64::try_from(rounded).map_or(at, |millis| self.start + Duration::from_millis(millis))
    }
}

impl Limited for Call {
    fn limit(&self) -> Option<Instant> {
        let makes_way = self.limits.limit().filter(|limit| self.limits.makes_way(*limit));
        Some(makes_way.map_or(self.until, |limit| limit.min(self.until)))
    }
}

const ROUND: Duration = Duration::from_millis(100);
