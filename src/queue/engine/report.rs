//! What the metrics are told of how things stand, once a second, of many groups less often; once a minute whether the books balance (M-G8).

use std::time::Duration;

use super::Engine;
use crate::queue::effects::Now;
use crate::queue::operator::Answer;
use crate::queue::outbox::Outbox;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Report {
    at: Duration,
    groups_at: Duration,
    books_at: Duration,
    /// Messages that the books cannot account for, as was told last.
    imbalance: u64,
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
        let status = self.status_but_groups(now);
        self.metrics.on_status(&status);
        if now.mono >= self.report.groups_at {
            let groups = self.places.inbox.status(now);
            self.metrics.on_groups(&groups);
            let steps = u32::try_from(groups.len() / GROUPS_PER_SECOND).unwrap_or(u32::MAX);
            self.report.groups_at = now.mono + INTERVAL * steps.clamp(1, STEPS_MAX);
        }
        if let Answer::Redrives { tasks } = self.redrives(now) {
            self.metrics.on_redrives(&tasks);
        }
        let evicted = self.dedup.evicted();
        let before = self.report.evicted.replace(evicted).unwrap_or(evicted);
        self.metrics.on_dedup_evicted(evicted.saturating_sub(before));
        if now.mono >= self.report.books_at {
            self.report.books_at = now.mono + BOOKS_INTERVAL;
            self.check_books();
        }
    }

    /// Lays the books beside what is known to be open, without a look at the disk: `strait audit` does that.
    fn check_books(&mut self) {
        let messages = self.imbalance();
        let before = std::mem::replace(&mut self.report.imbalance, messages);
        if messages > before {
            tracing::error!(
                messages,
                "the books of messages do not balance; `strait audit` shows which"
            );
        }
        self.metrics.on_books(messages);
    }

    /// How many messages the books cannot account for.
    pub(in crate::queue) fn imbalance(&self) -> u64 {
        let outboxes = self.places.outboxes.values().map(Outbox::imbalance);
        outboxes.fold(self.places.inbox.imbalance(), u64::saturating_add)
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
/// With more groups than that they are told less often: to look at all of them would take more time than what they do.
const GROUPS_PER_SECOND: usize = 5_000;
/// Seconds between two times at most.
const STEPS_MAX: u32 = 30;
const BOOKS_INTERVAL: Duration = Duration::from_secs(60);
