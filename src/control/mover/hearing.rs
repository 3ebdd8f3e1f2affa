//! Hears that something was reported, while moves wait for reports: the end of a pause does not wait for the next look then.
//!
//! # Invariants
//! - L1. Nobody listens for a relay that drives nothing.
//! - L2. It only hurries. A store that cannot say it, or a word that is lost, costs the time until the next look.

use std::time::{Duration, Instant};

use crate::control::store::{Reports, StoreError};

/// The words of the store.
#[derive(Debug, Default)]
pub(super) enum Hearing {
    #[default]
    Closed,
    /// Asked for.
    Opening,
    Open(Reports),
    /// It ended, or was not given; asked for again then.
    Ended(Instant),
}

impl Hearing {
    /// Whether to ask the store for its words now, for a relay that is driving moves to their end, or is not.
    pub(super) fn is_due(&mut self, is_driving: bool, now: Instant) -> bool {
        let is_due = match self {
            Self::Closed => is_driving,
            Self::Ended(at) => is_driving && *at <= now,
            Self::Opening => false,
            Self::Open(_) => {
                if !is_driving {
                    *self = Self::Closed;
                }
                false
            }
        };
        if is_due {
            *self = Self::Opening;
        }
        is_due
    }

    pub(super) fn on_opened(&mut self, opened: Result<Reports, StoreError>, now: Instant) {
        *self = opened.map_or(Self::Ended(now + AGAIN), Self::Open);
    }

    /// The next word; never, if nobody listens. Cancel safe.
    pub(super) async fn next(&mut self) {
        let Self::Open(reports) = self else {
            return std::future::pending().await;
        };
        if reports.recv().await.is_none() {
            *self = Self::Ended(tokio::time::Instant::now().into_std() + AGAIN);
        }
    }
}

/// Until a store that does not say it is asked again: another relay may have it by then, or another version.
const AGAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    // L1, L2
    #[tokio::test]
    async fn the_store_is_listened_to_while_moves_are_driven() {
        let now = tokio::time::Instant::now().into_std();
        let mut hearing = Hearing::default();
        assert!(!hearing.is_due(false, now));
        assert!(hearing.is_due(true, now));
        assert!(!hearing.is_due(true, now), "it is asked for once");
        let (sender, reports) = mpsc::channel(1);
        hearing.on_opened(Ok(reports), now);
        sender.try_send(()).unwrap();
        hearing.next().await;
        assert!(!hearing.is_due(true, now) && !sender.is_closed());
        assert!(!hearing.is_due(false, now) && sender.is_closed());

        assert!(hearing.is_due(true, now));
        hearing.on_opened(Err(StoreError::Broken("this is no question".to_owned())), now);
        assert!(!hearing.is_due(true, now), "it does not know better so soon");
        assert!(hearing.is_due(true, now + AGAIN));
        let (sender, reports) = mpsc::channel(1);
        hearing.on_opened(Ok(reports), now);
        drop(sender);
        hearing.next().await;
        assert!(hearing.is_due(true, now + AGAIN * 2));
    }
}
