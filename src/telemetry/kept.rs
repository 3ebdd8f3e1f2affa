//! What becomes of calls whose unit is away, at the relay that keeps them and at the one that replays them (C-P1, C-P2).

use prometheus::{Error, IntCounterVec, Opts, Registry};

/// How a call ended whose unit is away and whose method keeps calls. Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeptOutcome {
    /// The service of this unit executed it, and it is stored.
    Executed,
    /// The service of this unit refused or failed it; it is not stored.
    LocalFailed,
    /// It cannot be kept: it has no id, is a stream, is too large, or may have been executed before.
    NotKept,
    /// There was no room for it, or the disk failed.
    NotStored,
    /// It is stored.
    Parked,
    /// Other units reach its unit, which so does not count as away.
    Reached,
}

/// How the replay of a call ended. Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplayOutcome {
    /// The service failed it; it comes again.
    Again,
    /// The service executed it.
    Applied,
    /// The service says that it has executed it before.
    Duplicate,
    /// The service refused it for good; it is a dead letter.
    Rejected,
    /// It did not reach the service; it comes again.
    Unavailable,
}

/// Counts them. Clones share the series.
#[derive(Clone)]
pub struct KeptSeries {
    kept: IntCounterVec,
    replayed: IntCounterVec,
    told: IntCounterVec,
}

impl KeptOutcome {
    const ALL: [Self; 6] = [
        Self::Executed,
        Self::LocalFailed,
        Self::NotKept,
        Self::NotStored,
        Self::Parked,
        Self::Reached,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::LocalFailed => "local_failed",
            Self::NotKept => "not_kept",
            Self::NotStored => "not_stored",
            Self::Parked => "parked",
            Self::Reached => "reached",
        }
    }
}

impl ReplayOutcome {
    const ALL: [Self; 5] = [
        Self::Again,
        Self::Applied,
        Self::Duplicate,
        Self::Rejected,
        Self::Unavailable,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Again => "again",
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
        }
    }
}

impl KeptSeries {
    /// Series that count nothing yet.
    ///
    /// # Errors
    /// A series of this name exists.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let kept = IntCounterVec::new(
            Opts::new(
                "strait_kept_calls_total",
                "Calls of methods with on_failure whose unit was away, by what became of them at this relay.",
            ),
            &["outcome"],
        )?;
        let replayed = IntCounterVec::new(
            Opts::new(
                "strait_replayed_calls_total",
                "Calls that were kept for this unit and given to its services, by how that ended; each attempt counts.",
            ),
            &["outcome"],
        )?;
        let told = IntCounterVec::new(
            Opts::new(
                "strait_kept_calls_told_total",
                "Kept calls of methods with kept_to, by whether services of this unit are told: the message is on disk, or is not.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(told.clone()))?;
        registry.register(Box::new(kept.clone()))?;
        registry.register(Box::new(replayed.clone()))?;
        for outcome in KeptOutcome::ALL {
            kept.with_label_values(&[outcome.as_str()]);
        }
        for outcome in ReplayOutcome::ALL {
            replayed.with_label_values(&[outcome.as_str()]);
        }
        for outcome in [TOLD, NOT_TOLD] {
            told.with_label_values(&[outcome]);
        }
        Ok(Self { kept, replayed, told })
    }

    /// A call whose unit is away ended.
    pub fn on_kept(&self, outcome: KeptOutcome) {
        self.kept.with_label_values(&[outcome.as_str()]).inc();
        tracing::debug!(outcome = outcome.as_str(), "call whose unit is away");
    }

    /// Calls that ended so.
    #[cfg(test)]
    pub(crate) fn kept(&self, outcome: KeptOutcome) -> u64 {
        self.kept.with_label_values(&[outcome.as_str()]).get()
    }

    /// Services of this unit are told of a call that is kept, or could not be.
    pub fn on_told(&self, is_told: bool) {
        let outcome = if is_told { TOLD } else { NOT_TOLD };
        self.told.with_label_values(&[outcome]).inc();
    }

    /// Kept calls of which services were told, and of which they were not.
    #[cfg(test)]
    pub(crate) fn told(&self) -> (u64, u64) {
        let count = |outcome| self.told.with_label_values(&[outcome]).get();
        (count(TOLD), count(NOT_TOLD))
    }

    /// The replay of a call ended.
    pub fn on_replayed(&self, outcome: ReplayOutcome) {
        self.replayed.with_label_values(&[outcome.as_str()]).inc();
        tracing::debug!(outcome = outcome.as_str(), "replay of a call");
    }
}

const TOLD: &str = "told";
const NOT_TOLD: &str = "not_told";
