//! When an endpoint that breaks calls is left out, and for how long. Pure: the caller brings the time.
//!
//! # Invariants
//! - U1. Only failures that the relay itself saw count; a status from the application is a success here (C-F8).
//! - U2. An ejection lasts at most `ejection_max`.

use std::time::Instant;

use super::settings::OutlierSettings;

/// What is known about the failures of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlier {
    failures: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Outlier {
    /// A call ended with an answer of the service, or a connection came up.
    pub(super) fn on_success(&mut self) {
        self.failures = 0;
    }

    /// A connection broke under a call or could not be made. Returns whether this ejects the endpoint.
    pub(super) fn on_failure(&mut self, now: Instant, settings: &OutlierSettings) -> bool {
        if settings.failures == 0 || self.is_ejected(now) {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < settings.failures {
            return false;
        }
        self.forgive(now, settings);
        self.failures = 0;
        self.ejections = self.ejections.saturating_add(1);
        let lasts = settings
            .ejection
            .saturating_mul(self.ejections)
            .min(settings.ejection_max);
        self.until = now.checked_add(lasts);
        true
    }

    /// Whether the endpoint is left out now.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Each ejection time spent without an ejection takes one off the count that makes them longer.
    fn forgive(&mut self, now: Instant, settings: &OutlierSettings) {
        let Some(until) = self.until else { return };
        let quiet = now.saturating_duration_since(until).as_nanos();
        let periods = quiet / settings.ejection.as_nanos().max(1);
        self.ejections = self
            .ejections
            .saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    // C-F8
    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let settings = OutlierSettings::default();
        let now = start();
        let mut outlier = Outlier::default();
        for _ in 0..4 {
            assert!(!outlier.on_failure(now, &settings));
        }
        outlier.on_success();
        for _ in 0..4 {
            assert!(!outlier.on_failure(now, &settings));
        }
        assert!(outlier.on_failure(now, &settings));
        assert!(outlier.is_ejected(now + settings.ejection / 2));
        assert!(!outlier.is_ejected(now + settings.ejection));
    }

    #[test]
    fn the_second_ejection_is_longer_and_quiet_time_forgives() {
        let settings = OutlierSettings {
            failures: 1,
            ..OutlierSettings::default()
        };
        let now = start();
        let mut outlier = Outlier::default();
        assert!(outlier.on_failure(now, &settings));
        let again = now + settings.ejection;
        assert!(outlier.on_failure(again, &settings));
        assert!(outlier.is_ejected(again + settings.ejection * 3 / 2));
        let later = again + settings.ejection * 10;
        assert!(outlier.on_failure(later, &settings));
        assert!(!outlier.is_ejected(later + settings.ejection));
    }

    #[test]
    fn zero_failures_switch_it_off() {
        let settings = OutlierSettings {
            failures: 0,
            ..OutlierSettings::default()
        };
        let mut outlier = Outlier::default();
        for _ in 0..100 {
            assert!(!outlier.on_failure(start(), &settings));
        }
    }

    proptest! {
        // U2
        #[test]
        fn no_ejection_outlasts_its_maximum(steps in proptest::collection::vec((0_u64..100, any::<bool>()), 1..200)) {
            let settings = OutlierSettings { failures: 2, ..OutlierSettings::default() };
            let mut now = start();
            let mut outlier = Outlier::default();
            for (seconds, failed) in steps {
                now += Duration::from_secs(seconds);
                if failed { outlier.on_failure(now, &settings); } else { outlier.on_success(); }
                prop_assert!(!outlier.is_ejected(now + settings.ejection_max));
            }
        }
    }
}
