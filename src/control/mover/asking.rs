//! When to ask the store how relays stand. Pure.
//!
//! # Invariants
//! - A1. How long a question may wait is said by the look that wants the answer, not by the one that asked last: while other moves
//!   only trail looks are far apart, and a key that is frozen next must not wait for the end of such a pause.

use std::time::{Duration, Instant};

use super::LOOK_UNDER_WAY;

/// When it was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking {
    /// The last question; `None`: what was answered to it is out of date, or nothing was asked.
    last: Option<Instant>,
    is_under_way: bool,
    /// The store did not answer: it is left alone until then.
    not_before: Option<Instant>,
}

impl Asking {
    /// Something has changed that the answer depends on.
    pub(super) fn at_once(&mut self) {
        self.last = None;
        self.not_before = None;
    }

    /// When to ask, for a look that comes again after `pause`; `None`: the answer to the last question comes first.
    pub(super) fn due(&self, pause: Duration, now: Instant) -> Option<Instant> {
        let due = self.last.map_or(now, |last| last + pause);
        (!self.is_under_way).then(|| self.not_before.map_or(due, |at| due.max(at)))
    }

    pub(super) fn on_asked(&mut self, now: Instant) {
        self.last = Some(now);
        self.is_under_way = true;
    }

    pub(super) fn on_answered(&mut self, is_known: bool, now: Instant) {
        self.is_under_way = false;
        self.not_before = (!is_known).then(|| now + LOOK_UNDER_WAY);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LOOK_AT_TRAIL, LOOK_FROZEN};
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    // A1, R-I12: a key was frozen just after it was asked for moves that trail.
    #[test]
    fn a_frozen_key_is_asked_about_soon_whatever_was_asked_for_before() {
        let (mut asking, now) = (Asking::default(), start());
        assert_eq!(asking.due(LOOK_AT_TRAIL, now), Some(now));
        asking.on_asked(now);
        assert_eq!(asking.due(LOOK_FROZEN, now), None, "one question at a time");
        asking.on_answered(true, now);
        assert_eq!(asking.due(LOOK_AT_TRAIL, now), Some(now + LOOK_AT_TRAIL));
        assert_eq!(asking.due(LOOK_FROZEN, now), Some(now + LOOK_FROZEN));
    }

    #[test]
    fn an_answer_that_is_out_of_date_is_no_reason_to_wait() {
        let (mut asking, now) = (Asking::default(), start());
        asking.on_asked(now);
        asking.at_once();
        assert_eq!(asking.due(LOOK_FROZEN, now), None);
        asking.on_answered(true, now);
        assert_eq!(asking.due(LOOK_FROZEN, now), Some(now));
    }

    #[test]
    fn a_store_that_does_not_answer_is_left_alone_for_a_moment() {
        let (mut asking, now) = (Asking::default(), start());
        asking.on_asked(now);
        asking.on_answered(false, now);
        assert_eq!(asking.due(LOOK_FROZEN, now), Some(now + LOOK_UNDER_WAY));
        asking.at_once();
        assert_eq!(
            asking.due(LOOK_FROZEN, now),
            Some(now),
            "whose feed goes on, that one is there"
        );
    }
}
