//! Series of route tokens.

use prometheus::local::LocalIntCounter;
use prometheus::{IntCounterVec, Opts, Registry};

use super::answer::Occasion;
use super::brought::CheckOutcome;

/// Series of route tokens, shared by all shards.
#[derive(Clone, Debug)]
pub struct TokenSeries {
    checked: IntCounterVec,
    issued: IntCounterVec,
}

/// The counters of one shard; handed to the series with [`flush`](Self::flush).
#[derive(Debug)]
pub struct TokenCounts {
    checked: Vec<(CheckOutcome, LocalIntCounter)>,
    issued: Vec<(Occasion, LocalIntCounter)>,
}

impl TokenSeries {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let checked = Opts::new(
            "strait_routes_tokens_checked_total",
            "Route tokens that calls of local services brought, by how they stood.",
        );
        let issued = Opts::new(
            "strait_routes_tokens_issued_total",
            "Route tokens given to callers, by why.",
        );
        let series = Self {
            checked: IntCounterVec::new(checked, &["outcome"])?,
            issued: IntCounterVec::new(issued, &["reason"])?,
        };
        registry.register(Box::new(series.checked.clone()))?;
        registry.register(Box::new(series.issued.clone()))?;
        // There before anything has happened, also without a key file.
        series.on_shard().flush();
        Ok(series)
    }

    /// The counters of one shard.
    pub fn on_shard(&self) -> TokenCounts {
        let checked = CheckOutcome::all().map(|outcome| {
            let counter = self.checked.with_label_values(&[outcome.as_str()]);
            (outcome, counter.local())
        });
        let issued = Occasion::ALL.into_iter().map(|occasion| {
            let counter = self.issued.with_label_values(&[occasion.as_str()]);
            (occasion, counter.local())
        });
        TokenCounts {
            checked: checked.collect(),
            issued: issued.collect(),
        }
    }
}

impl TokenCounts {
    /// A token was looked at.
    pub fn on_checked(&self, outcome: CheckOutcome) {
        if let Some((_, counter)) = self.checked.iter().find(|(other, _)| *other == outcome) {
            counter.inc();
        }
    }

    /// A token was given to a caller.
    pub fn on_issued(&self, occasion: Occasion) {
        if let Some((_, counter)) = self.issued.iter().find(|(other, _)| *other == occasion) {
            counter.inc();
        }
    }

    /// Adds what was counted since the last time to the shared series.
    pub fn flush(&self) {
        let checked = self.checked.iter().map(|(_, counter)| counter);
        for counter in checked.chain(self.issued.iter().map(|(_, counter)| counter)) {
            counter.flush();
        }
    }
}
