//! Series of choices without the store.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Counts, Settled};

/// Series of choices without the store.
#[derive(Clone, Debug)]
pub struct Metrics {
    keys: IntGaugeVec,
    choices: IntCounterVec,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            keys: IntGaugeVec::new(
                Opts::new(
                    "strait_routes_provisional_keys",
                    "Keys that this relay put somewhere while the route store was away: to be claimed, or in conflict with a claim \
                     that was first.",
                ),
                &["state"],
            )?,
            choices: IntCounterVec::new(
                Opts::new(
                    "strait_routes_provisional_total",
                    "Keys that were put somewhere while the route store was away, and what became of them.",
                ),
                &["event"],
            )?,
        };
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(metrics.choices.clone()))?;
        metrics.on_counts(Counts::default());
        for event in EVENTS {
            metrics.choices.with_label_values(&[event]);
        }
        Ok(metrics)
    }

    /// How many there are.
    pub fn on_counts(&self, counts: Counts) {
        let set = |state: &str, count: usize| {
            let gauge = self.keys.with_label_values(&[state]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("pending", counts.pending);
        set("conflict", counts.conflicts);
    }

    /// A key was put somewhere.
    pub fn on_chosen(&self) {
        self.choices.with_label_values(&["chosen"]).inc();
    }

    /// A choice had no room.
    pub fn on_refused(&self) {
        self.choices.with_label_values(&["refused"]).inc();
    }

    /// The store has said who has a key. The line names no key: keys name customers.
    pub fn on_settled(&self, settled: Settled, dimension: &str) {
        match settled {
            Settled::Confirmed => self.choices.with_label_values(&["confirmed"]).inc(),
            Settled::Conflict => {
                self.choices.with_label_values(&["conflict"]).inc();
                tracing::warn!(
                    dimension,
                    "a key that was placed without the route store belongs to another unit; see strait route provisional"
                );
            }
        }
    }
}

const EVENTS: [&str; 4] = ["chosen", "confirmed", "conflict", "refused"];
