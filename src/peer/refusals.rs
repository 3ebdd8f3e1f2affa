//! Refused peers: each with a named reason, in one counter and one line of the log (O-S1).
//!
//! # Invariants
//! - D4. Labels come from closed sets: directions and the reasons of [`Refusal`]. Nothing a peer sends becomes a label.
//! - D5. A stranger cannot fill the log: at most [`LINES_PER_SECOND`] lines a second; the counter counts all.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};

use super::verify::Refusal;
use crate::telemetry::Repeats;

/// Lines per second and process that refused peers may add to the log.
pub const LINES_PER_SECOND: u32 = 10;

/// Who opened the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The peer opened it, we accepted.
    Accepted,
    /// We opened it.
    Dialled,
}

/// Hears of each refused peer.
pub trait RefusalSink: fmt::Debug + Send + Sync {
    /// A peer was refused before any of its application bytes were read, or its open link ends because it would be
    /// refused now. `detail` says what was found, for the log.
    fn on_refused(&self, direction: Direction, reason: &'static str, detail: &dyn fmt::Display);
}

/// The sink of a running relay: counter and log.
pub struct Refusals {
    refused: IntCounterVec,
    lines: Mutex<Repeats>,
}

impl Direction {
    /// Label of the direction.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dialled => "dialled",
        }
    }
}

impl Refusals {
    /// Registers `strait_peer_refused_total{direction,reason}`, at zero for every reason there is.
    ///
    /// # Errors
    /// The registry has a metric of that name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refused = IntCounterVec::new(
            Opts::new(
                "strait_peer_refused_total",
                "Connections refused in the handshake, and open links whose peer would be refused now, by who opened them and why.",
            ),
            &["direction", "reason"],
        )?;
        for direction in [Direction::Accepted, Direction::Dialled] {
            for reason in Refusal::REASONS {
                refused.with_label_values(&[direction.as_str(), reason]);
            }
        }
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            refused,
            lines: Mutex::new(Repeats::new(LINES_PER_SECOND, Duration::from_secs(1))),
        })
    }

    /// Refusals so far with this reason.
    pub fn count(&self, direction: Direction, reason: &str) -> u64 {
        self.refused.with_label_values(&[direction.as_str(), reason]).get()
    }

    /// Refusals so far, all reasons together.
    pub fn total(&self, direction: Direction) -> u64 {
        Refusal::REASONS
            .iter()
            .map(|reason| self.count(direction, reason))
            .sum()
    }
}

impl RefusalSink for Refusals {
    fn on_refused(&self, direction: Direction, reason: &'static str, detail: &dyn fmt::Display) {
        self.refused.with_label_values(&[direction.as_str(), reason]).inc();
        let now = tokio::time::Instant::now().into_std();
        // A poisoned lock still holds usable numbers; a refusal must not end the handshake thread.
        let line = self
            .lines
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .admit(now);
        if let Some(skipped) = line {
            tracing::warn!(
                direction = direction.as_str(),
                reason,
                skipped,
                "peer refused: {detail}"
            );
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // D4: a dashboard sees each reason at zero before the first refusal.
    #[test]
    fn every_reason_is_there_from_the_start() {
        let registry = Registry::new();
        let _refusals = Refusals::register(&registry).unwrap();
        let families = registry.gather();
        assert_eq!(families[0].name(), "strait_peer_refused_total");
        assert_eq!(families[0].get_metric().len(), 2 * Refusal::REASONS.len());
    }
}
