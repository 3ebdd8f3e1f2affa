//! Series of look-ups: what decided where calls go.

use prometheus::local::LocalIntCounter;
use prometheus::{IntCounterVec, Opts, Registry};

use super::{RouteError, Source};

/// Series of look-ups, shared by all shards.
#[derive(Clone, Debug)]
pub struct LookUpSeries {
    lookups: IntCounterVec,
    waits: IntCounterVec,
}

/// Why a call waits for its route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// Its key is being moved.
    Moving,
    /// Nobody is known to have its key; the store is asked.
    Unclaimed,
    /// This relay has not heard yet of what the caller knows.
    Behind,
}

/// The counters of one shard; handed to the series with [`flush`](Self::flush).
#[derive(Debug)]
pub struct LookUps {
    by_source: [LocalIntCounter; Source::ALL.len()],
    by_wait: [LocalIntCounter; Wait::ALL.len()],
}

impl LookUpSeries {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let series = Self::new()?;
        registry.register(Box::new(series.lookups.clone()))?;
        registry.register(Box::new(series.waits.clone()))?;
        Ok(series)
    }

    fn new() -> Result<Self, prometheus::Error> {
        let lookups = Opts::new(
            "strait_routes_lookups_total",
            "Look-ups of calls that local services made, by what decided.",
        );
        let waits = Opts::new(
            "strait_routes_waits_total",
            "Times that a call of a local service began to wait for its route, by why.",
        );
        Ok(Self {
            lookups: IntCounterVec::new(lookups, &["source"])?,
            waits: IntCounterVec::new(waits, &["why"])?,
        })
    }

    /// The counters of one shard.
    pub fn on_shard(&self) -> LookUps {
        LookUps {
            by_source: Source::ALL.map(|source| self.lookups.with_label_values(&[source.as_str()]).local()),
            by_wait: Wait::ALL.map(|wait| self.waits.with_label_values(&[wait.as_str()]).local()),
        }
    }
}

impl LookUps {
    /// Series that nobody reads; for tests of stories.
    ///
    /// # Errors
    /// Never in practice: names are constants.
    pub fn detached() -> Result<Self, prometheus::Error> {
        Ok(LookUpSeries::new()?.on_shard())
    }

    /// A look-up found an owner.
    pub fn on_found(&self, source: Source) {
        let counters = Source::ALL.iter().zip(&self.by_source);
        for (_, counter) in counters.filter(|(other, _)| **other == source) {
            counter.inc();
        }
    }

    /// A call waits.
    pub fn on_wait(&self, wait: Wait) {
        let counters = Wait::ALL.iter().zip(&self.by_wait);
        for (_, counter) in counters.filter(|(other, _)| **other == wait) {
            counter.inc();
        }
    }

    /// Adds what was counted since the last time to the shared series.
    pub fn flush(&self) {
        for counter in self.by_source.iter().chain(&self.by_wait) {
            counter.flush();
        }
    }
}

impl Wait {
    const ALL: [Self; 3] = [Self::Moving, Self::Unclaimed, Self::Behind];

    fn as_str(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Unclaimed => "unclaimed",
            Self::Behind => "behind",
        }
    }
}

impl From<&RouteError> for Wait {
    fn from(error: &RouteError) -> Self {
        match error {
            RouteError::Unclaimed { .. } => Self::Unclaimed,
            _ => Self::Behind,
        }
    }
}
