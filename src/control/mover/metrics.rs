//! Series of moves, each counted by the relay that drives them.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Phase, Why};
use crate::routing::record::{Hook, Lag, Move, MoveState};

/// Series of moves.
#[derive(Clone, Debug)]
pub struct Metrics {
    all_moved: IntCounter,
    some_moved: IntCounter,
    none_moved: IntCounter,
    nodes_moved: IntCounter,
    nodes_stayed: IntCounterVec,
    pause: Histogram,
    phases: IntGaugeVec,
    hooks: IntCounterVec,
    lag_changes: IntGauge,
    lag_bytes: IntGauge,
    lag_seconds: Gauge,
}

/// How an application answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HookOutcome {
    Done,
    NotYet,
    Refused,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ended = counters(
            registry,
            "strait_moves_ended_total",
            "Moves that this relay drove to their end, by how much of them was moved.",
            &["end"],
        )?;
        let nodes = counters(
            registry,
            "strait_moves_nodes_total",
            "Keys, buckets, rules and units whose move this relay ended: moved, or why they stayed.",
            &["end"],
        )?;
        let hooks = counters(
            registry,
            "strait_moves_hooks_total",
            "Questions to applications about moves that this relay drives, by what was asked and how it was answered.",
            &["hook", "outcome"],
        )?;
        let phases = IntGaugeVec::new(
            Opts::new(
                "strait_moves_phase",
                "Keys, buckets, rules and units of moves that this relay drives, by what they wait for.",
            ),
            &["phase"],
        )?;
        registry.register(Box::new(phases.clone()))?;
        let pause = HistogramOpts::new(
            "strait_moves_pause_seconds",
            "Time in which nobody admitted writes of a key that was moved: from asking for the freeze until this relay knew the \
             new owner.",
        );
        let pause = Histogram::with_opts(pause.buckets(PAUSES.to_vec()))?;
        registry.register(Box::new(pause.clone()))?;
        let (lag_changes, lag_bytes, lag_seconds) = lags(registry)?;
        for why in Why::ALL {
            nodes.with_label_values(&[why.label()]);
        }
        for phase in Phase::ALL {
            phases.with_label_values(&[phase.label()]);
        }
        for hook in Hook::ALL {
            for outcome in HookOutcome::ALL {
                hooks.with_label_values(&[hook.as_str(), outcome.label()]);
            }
        }
        Ok(Self {
            all_moved: ended.with_label_values(&["all_moved"]),
            some_moved: ended.with_label_values(&["some_stayed"]),
            none_moved: ended.with_label_values(&["none_moved"]),
            nodes_moved: nodes.with_label_values(&["moved"]),
            nodes_stayed: nodes,
            pause,
            phases,
            hooks,
            lag_changes,
            lag_bytes,
            lag_seconds,
        })
    }

    /// A move has ended; its nodes were counted before.
    pub(super) fn on_ended(&self, work: &Move) {
        let ended = match (work.moved, work.aborted, work.state) {
            (0, ..) => &self.none_moved,
            (_, 0, MoveState::Trailing | MoveState::Finished) => &self.all_moved,
            _ => &self.some_moved,
        };
        ended.inc();
    }

    /// A node belongs to its new owner.
    pub(super) fn on_moved(&self) {
        self.nodes_moved.inc();
    }

    /// A node stays where it was.
    pub(super) fn on_stayed(&self, why: Why) {
        self.nodes_stayed.with_label_values(&[why.label()]).inc();
    }

    /// A node was frozen for so long.
    pub(super) fn on_pause(&self, pause: Duration) {
        self.pause.observe(pause.as_secs_f64());
    }

    /// An application has answered.
    pub(super) fn on_hook(&self, hook: Hook, outcome: HookOutcome) {
        self.hooks.with_label_values(&[hook.as_str(), outcome.label()]).inc();
    }

    /// What nodes wait for now, and how far copies are behind.
    pub(super) fn on_look(&self, phases: impl Iterator<Item = Phase>, lag: Lag) {
        let mut counts: BTreeMap<Phase, i64> = BTreeMap::new();
        for phase in phases {
            *counts.entry(phase).or_default() += 1;
        }
        for phase in Phase::ALL {
            let count = counts.get(&phase).copied().unwrap_or_default();
            self.phases.with_label_values(&[phase.label()]).set(count);
        }
        self.lag_changes.set(i64::try_from(lag.changes).unwrap_or(i64::MAX));
        self.lag_bytes.set(i64::try_from(lag.bytes).unwrap_or(i64::MAX));
        self.lag_seconds.set(lag.time.as_secs_f64());
    }
}

impl HookOutcome {
    const ALL: [Self; 3] = [Self::Done, Self::NotYet, Self::Refused];

    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotYet => "not_yet",
            Self::Refused => "refused",
        }
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// How far copies are behind: changes, bytes, time.
fn lags(registry: &Registry) -> Result<(IntGauge, IntGauge, Gauge), prometheus::Error> {
    let changes = IntGauge::with_opts(Opts::new(
        "strait_moves_lag_changes",
        "Changes by which the copy is behind that is furthest behind, of moves that this relay drives.",
    ))?;
    let bytes = IntGauge::with_opts(Opts::new(
        "strait_moves_lag_bytes",
        "Bytes by which the copy is behind that is furthest behind, of moves that this relay drives.",
    ))?;
    let seconds = Gauge::with_opts(Opts::new(
        "strait_moves_lag_seconds",
        "Time by which the copy is behind that is furthest behind, of moves that this relay drives.",
    ))?;
    registry.register(Box::new(changes.clone()))?;
    registry.register(Box::new(bytes.clone()))?;
    registry.register(Box::new(seconds.clone()))?;
    Ok((changes, bytes, seconds))
}

/// Bounds for pauses, in seconds: from 5 ms to the longest freeze that anybody would allow.
const PAUSES: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

#[cfg(test)]
mod tests {
    use super::*;

    // O-M1: a series is there before anything has happened, so that a rate of it begins at nothing.
    #[test]
    fn every_end_and_phase_has_a_series_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.on_look(
            [Phase::Drain, Phase::Hook(Hook::Lag), Phase::Drain].into_iter(),
            Lag::default(),
        );
        let families = registry.gather();
        let values = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            family.get_metric().len()
        };
        assert_eq!(values("strait_moves_phase"), Phase::ALL.len());
        assert_eq!(values("strait_moves_nodes_total"), Why::ALL.len() + 1);
        assert_eq!(values("strait_moves_ended_total"), 3);
        assert_eq!(values("strait_moves_hooks_total"), Hook::ALL.len() * 3);
        assert_eq!(metrics.phases.with_label_values(&["drain"]).get(), 2);
        metrics.on_look(std::iter::empty(), Lag::default());
        assert_eq!(metrics.phases.with_label_values(&["drain"]).get(), 0);
        assert!(Metrics::register(&registry).is_err());
    }
}
