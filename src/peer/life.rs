//! How long a link may live: replaced in time, ended at its limit, asked about again after a reload. Pure.
//!
//! # Invariants
//! - V1. A link ends before the certificate that expires first on it, and before its longest age (T4, O-S2).
//! - V2. Long before that it wants to be replaced, at a moment drawn at random: links made together are not
//!   replaced together.

use std::time::{Duration, Instant};

use super::settings::Settings;

/// What the settings say about the life of links.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Longest age.
    pub(super) age_max: Duration,
    /// Time before the expiry of a certificate in which links are replaced.
    pub(super) expiry_margin: Duration,
    /// Time after a reload within which links with earlier credentials are replaced.
    pub(super) spread: Duration,
}

/// The plan for one link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Life {
    replace_at: Instant,
    ends_at: Instant,
    limit: Limit,
}

/// What ends a link at the latest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Limit {
    /// Its age.
    Age,
    /// The expiry of one of the certificates it was made with.
    Expiry,
}

/// What should become of a link now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// It is over.
    End(Limit),
    /// It goes on.
    Keep,
    /// Another link should take its place.
    Replace,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            age_max: settings.link_age_max,
            expiry_margin: settings.link_expiry_margin,
            spread: settings.link_replace_spread,
        }
    }
}

impl Life {
    /// The plan for a link made `now`, the first certificate of which expires after `valid_for`. `dice` is in
    /// `0.0..1.0`.
    pub(super) fn new(now: Instant, terms: &Terms, valid_for: Duration, dice: f64) -> Self {
        let dice = dice.clamp(0.0, 1.0);
        let by_age = terms.age_max.mul_f64(0.5 + 0.25 * dice);
        let by_expiry = match valid_for.checked_sub(terms.expiry_margin) {
            Some(before_margin) if !before_margin.is_zero() => before_margin + terms.expiry_margin.mul_f64(0.5 * dice),
            // Nobody renewed the certificate in time, so far. Each link gets about half of what is left: a new
            // certificate of the peer is found, and the attempts do not become more and more frequent.
            _ => valid_for.mul_f64(0.4 + 0.2 * dice),
        };
        let before_expiry = valid_for.saturating_sub(GUARD);
        let (ends_after, limit) = if before_expiry <= terms.age_max {
            (before_expiry, Limit::Expiry)
        } else {
            (terms.age_max, Limit::Age)
        };
        Self {
            replace_at: after(now, by_age.min(by_expiry)),
            ends_at: after(now, ends_after),
            limit,
        }
    }

    /// This relay has other credentials now: the link is replaced within the spread.
    pub(super) fn on_new_credentials(&mut self, now: Instant, terms: &Terms, dice: f64) {
        let soon = after(now, terms.spread.mul_f64(dice.clamp(0.0, 1.0)));
        self.replace_at = self.replace_at.min(soon);
    }

    /// What should become of the link.
    pub(super) fn step(&self, now: Instant) -> Step {
        if now >= self.ends_at {
            Step::End(self.limit)
        } else if now >= self.replace_at {
            Step::Replace
        } else {
            Step::Keep
        }
    }

    /// Time left until the link ends at the latest.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.ends_at.saturating_duration_since(now)
    }
}

/// A time that cannot be reckoned with is never reached.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + FAR)
}

/// Links end so long before a certificate does: looks are a second apart, and clocks differ a little.
const GUARD: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const TERMS: Terms = Terms {
        age_max: Duration::from_secs(24 * 3600),
        expiry_margin: HOUR,
        spread: Duration::from_secs(30),
    };

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    // T4: with a long certificate it is the age that counts, and half of the age is left for the last calls.
    #[test]
    fn a_link_is_replaced_by_age_and_ends_at_its_longest_age() {
        let now = start();
        let life = Life::new(now, &TERMS, 24 * 90 * HOUR, 0.0);
        assert_eq!(life.step(now + 11 * HOUR), Step::Keep);
        assert_eq!(life.step(now + 12 * HOUR), Step::Replace);
        assert_eq!(life.step(now + 24 * HOUR), Step::End(Limit::Age));
    }

    // O-S2: the first certificate that expires counts.
    #[test]
    fn a_link_is_replaced_within_the_margin_and_ends_before_the_certificate() {
        let now = start();
        let (first, last) = (
            Life::new(now, &TERMS, 6 * HOUR, 0.0),
            Life::new(now, &TERMS, 6 * HOUR, 1.0),
        );
        assert_eq!(first.step(now + 5 * HOUR), Step::Replace);
        assert_eq!(last.step(now + 5 * HOUR + HOUR / 3), Step::Keep);
        assert_eq!(last.step(now + 5 * HOUR + HOUR / 2), Step::Replace);
        assert_eq!(
            last.step(now + (6 * HOUR).saturating_sub(GUARD)),
            Step::End(Limit::Expiry)
        );
        assert_eq!(last.step(now + (6 * HOUR).saturating_sub(2 * GUARD)), Step::Replace);
    }

    #[test]
    fn new_credentials_have_it_replaced_within_the_spread() {
        let now = start();
        let mut life = Life::new(now, &TERMS, 6 * HOUR, 0.5);
        life.on_new_credentials(now + HOUR, &TERMS, 0.5);
        assert_eq!(life.step(now + HOUR + Duration::from_secs(14)), Step::Keep);
        assert_eq!(life.step(now + HOUR + Duration::from_secs(15)), Step::Replace);
        // A second reload does not put it off.
        life.on_new_credentials(now + HOUR + Duration::from_secs(14), &TERMS, 1.0);
        assert_eq!(life.step(now + HOUR + Duration::from_secs(15)), Step::Replace);
    }

    proptest! {
        // V1, V2: whatever the numbers, it is asked to be replaced first and ends in time.
        #[test]
        fn a_link_is_replaced_before_it_ends_and_ends_in_time(
            valid in 0_u64..10_000_000, age in 2_u64..10_000_000, margin in 0_u64..10_000_000, dice in 0.0_f64..1.0,
        ) {
            let now = start();
            let terms = Terms { age_max: Duration::from_secs(age), expiry_margin: Duration::from_secs(margin), ..TERMS };
            let life = Life::new(now, &terms, Duration::from_secs(valid), dice);
            prop_assert!(life.left(now) <= terms.age_max);
            prop_assert!(life.left(now) <= Duration::from_secs(valid.saturating_sub(2)));
            if valid >= 5 {
                prop_assert!(life.replace_at < life.ends_at);
            }
        }
    }
}
