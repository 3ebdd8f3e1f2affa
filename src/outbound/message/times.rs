//! How long a publication is waited for, and what its publisher is told when that time is over (P1).

use std::time::{Duration, Instant};

use crate::model::{AckLevel, Reason, RelayError, Retry};
use crate::queue::api::Progress;

/// The end of a publication whose time is over: what was reached, and under which id.
pub(super) fn overdue(level: AckLevel, progress: Option<&Progress>) -> RelayError {
    let (retry, detail) = match progress {
        Some(progress) => (
            Retry::Never,
            format!(
                "the message was accepted with id {} and has come as far as {}, not {}, in time; it goes on by itself, do \
                 not publish it again",
                progress.id,
                progress.level.as_str(),
                level.as_str()
            ),
        ),
        None => (
            Retry::Ambiguous,
            "the message was not on disk in time and may be accepted yet; with `source` and `id` it can be published again \
             without a duplicate"
                .to_owned(),
        ),
    };
    RelayError::new(Reason::DeadlineExceeded, retry, detail)
}

/// When to give up: so long before the publisher does that it still hears how far the message came.
pub(super) fn limit(deadline: Option<Instant>, wait_max: Option<Duration>) -> Option<Instant> {
    let now = tokio::time::Instant::now().into_std();
    let deadline = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(now);
        now + left.saturating_sub(MARGIN_MAX.min(left / 10))
    });
    let own = wait_max.and_then(|wait| now.checked_add(wait));
    match (deadline, own) {
        (Some(deadline), Some(own)) => Some(deadline.min(own)),
        (deadline, own) => deadline.or(own),
    }
}

/// How long a publication may wait until it is known where it goes: its publisher still hears why, before its time is over.
pub(super) fn patience(limit: Option<Instant>) -> Duration {
    let now = tokio::time::Instant::now().into_std();
    let left = limit.map(|limit| limit.saturating_duration_since(now));
    left.map_or(PATIENCE, |left| {
        left.saturating_sub(PATIENCE_MARGIN_MAX.min(left / 4)).min(PATIENCE)
    })
}

/// Longest time a publication waits until it is known where it goes; calls wait as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time for the queue to say that this was in vain.
const PATIENCE_MARGIN_MAX: Duration = Duration::from_millis(250);
/// Time for the end of a publication to reach its publisher before that one's own deadline.
const MARGIN_MAX: Duration = Duration::from_millis(50);
