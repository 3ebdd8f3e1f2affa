//! What a campaign measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::ledger::{Attempt, Execution, Said};
use crate::mover::{Ended, Moved};

/// Times in which something was wrong, and somewhat after.
pub struct Disturbed(pub Vec<(Instant, Instant)>);

impl Disturbed {
    /// Whether nothing was wrong.
    pub fn is_calm(&self, from: Instant, until: Instant) -> bool {
        !self.0.iter().any(|(begun, ended)| *begun <= until && from <= *ended)
    }
}

/// How long callers waited whose write was the first one under a new owner: what they saw of a move.
pub fn crossings(executions: &[Execution], attempts: &[Attempt]) -> Vec<(Instant, Duration)> {
    let mut first: BTreeMap<(usize, u64), &Execution> = BTreeMap::new();
    for execution in executions.iter().filter(|execution| !execution.cancelled) {
        let found = first.entry((execution.key, execution.epoch)).or_insert(execution);
        if execution.begun < found.begun {
            *found = execution;
        }
    }
    let writes: BTreeSet<u64> = first.values().map(|execution| execution.write).collect();
    attempts
        .iter()
        .filter(|attempt| writes.contains(&attempt.write) && attempt.is_done())
        .map(|attempt| (attempt.begun, attempt.took))
        .collect()
}

/// Milliseconds: half are below the first, 99 of 100 below the second, all up to the third.
pub fn spread(times: impl Iterator<Item = Duration>) -> Json {
    let mut times: Vec<_> = times.collect();
    times.sort();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        let time = times.get(index).copied().unwrap_or_default();
        (time.as_secs_f64() * 10_000.0).round() / 10.0
    };
    json!({ "count": times.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

/// Why writes failed, and how often.
pub fn failures<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> BTreeMap<&'a str, usize> {
    let mut failures = BTreeMap::new();
    for attempt in attempts {
        if let Said::Failed(reason) = &attempt.said {
            *failures.entry(reason.as_str()).or_default() += 1;
        }
    }
    failures
}

/// What became of the moves that were asked for.
pub fn moves(moved: &[Moved], disturbed: &Disturbed) -> Json {
    let over = moved.iter().filter_map(|moved| match moved.ended {
        Ended::Over { moved: keys, stayed } => Some((moved, keys, stayed)),
        _ => None,
    });
    let over: Vec<_> = over.collect();
    let count = |ended: Ended| moved.iter().filter(|moved| moved.ended == ended).count();
    let calm = over
        .iter()
        .filter(|(moved, ..)| disturbed.is_calm(moved.begun, moved.begun + moved.took));
    json!({
        "over": over.len(),
        "keys_moved": over.iter().map(|(_, keys, _)| keys).sum::<u64>(),
        "keys_stayed": over.iter().map(|(.., stayed)| stayed).sum::<u64>(),
        "refused": count(Ended::Refused),
        "unanswered": count(Ended::Unanswered),
        "ms": spread(over.iter().map(|(moved, ..)| moved.took)),
        "ms_calm": spread(calm.map(|(moved, ..)| moved.took)),
    })
}
