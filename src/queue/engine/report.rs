//! What the metrics are told of how things stand, once a second; once a minute whether the books balance (M-G8).

use std::time::Duration;

use super::Engine;
use crate::queue::effects::Now;
use crate::queue::operator::Answer;
use crate::queue::outbox::Outbox;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Report {
    at: Duration,
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
        let status = self.status(now);
        self.metrics.on_status(&status);
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
const BOOKS_INTERVAL: Duration = Duration::from_secs(60);
