//! Series of the access list.

use prometheus::{IntCounter, IntGauge, Registry};

/// Series of the access list. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    users: IntGauge,
    advice: IntCounter,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            users: IntGauge::new("strait_access_users", "Users that gateways follow at this relay.")?,
            advice: IntCounter::new(
                "strait_access_advice_total",
                "Users of which a gateway was told that their clients should connect to another unit.",
            )?,
        };
        registry.register(Box::new(metrics.users.clone()))?;
        registry.register(Box::new(metrics.advice.clone()))?;
        Ok(metrics)
    }

    pub(super) fn on_followed(&self, users: usize) {
        self.users.add(whole(users));
    }

    pub(super) fn on_left(&self, users: usize) {
        self.users.sub(whole(users));
    }

    pub(super) fn on_advice(&self) {
        self.advice.inc();
    }
}

fn whole(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
