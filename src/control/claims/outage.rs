//! Whether the store counts as away. Pure.
//!
//! A store that is slow, or says no, is there. One that does not answer has to be silent for a while, so that an election among its
//! members does not send keys where nobody has claimed them.

use std::time::Duration;

/// What is known of answers that did not come.
#[derive(Debug, Default)]
pub(super) struct Outage(Option<Failing>);

/// Nothing was answered between these two failures.
#[derive(Clone, Copy, Debug)]
struct Failing {
    first: Duration,
    last: Duration,
}

impl Outage {
    /// The store did not answer.
    pub(super) fn failed(&mut self, now: Duration) {
        let first = self.0.map_or(now, |failing| failing.first);
        self.0 = Some(Failing { first, last: now });
    }

    /// It has.
    pub(super) fn answered(&mut self) {
        self.0 = None;
    }

    /// Whether it is away: it failed lately, and was heard of neither by those who ask nor otherwise (at `heard`) for this long.
    pub(super) fn is_on(&self, heard: Duration, now: Duration, after: Duration) -> bool {
        self.0.is_some_and(|failing| {
            let silent_since = failing.first.min(heard);
            // What failed long ago says nothing of now.
            now.saturating_sub(failing.last) <= FRESH && now.saturating_sub(silent_since) >= after
        })
    }
}

/// Longer than it takes to ask again and again in vain: the time for an answer, and the longest pause.
const FRESH: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    // away is not slow, and not an election.
    #[test]
    fn a_store_is_away_when_it_was_silent_for_long_enough_and_has_just_failed() {
        let (mut outage, after) = (Outage::default(), s(3));
        assert!(!outage.is_on(s(0), s(100), after), "nobody has asked");
        outage.failed(s(100));
        assert!(!outage.is_on(s(100), s(102), after));
        assert!(outage.is_on(s(100), s(103), after));
        assert!(
            outage.is_on(s(97), s(100), after),
            "the feed has been silent for longer"
        );
        assert!(
            outage.is_on(s(103), s(103), after),
            "claims are not answered, whatever the feed says"
        );
        assert!(!outage.is_on(s(0), s(106), after), "nobody has asked lately");
        outage.failed(s(106));
        assert!(outage.is_on(s(106), s(106), after), "since the first failure");
        outage.answered();
        assert!(!outage.is_on(s(0), s(106), after));
        outage.failed(s(107));
        assert!(!outage.is_on(s(107), s(109), after), "it counts anew");
    }
}
