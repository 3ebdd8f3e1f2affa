//! What the metrics are told of how things stand, once a second.

use std::time::Duration;

use super::Engine;
use crate::queue::effects::Now;
use crate::queue::operator::Answer;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Report {
    at: Duration,
    /// Ids that were forgotten too early, as they were told last.
    evicted: Option<u64>,
}

impl Engine {
    /// Reports, if it is time. Whatever else is due by time wakes the engine often enough.
    pub(super) fn report(&mut self, now: Now) {
        if now.mono < self.report.at {
            return;
        }
        self.report.at = now.mono + INTERVAL;
        let status = self.status(now);
        self.metrics.on_status(&status);
        if let Answer::Redrives { tasks } = self.redrives(now) {
            self.metrics.on_redrives(&tasks);
        }
        let evicted = self.dedup.evicted();
        let before = self.report.evicted.replace(evicted).unwrap_or(evicted);
        self.metrics.on_dedup_evicted(evicted.saturating_sub(before));
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
