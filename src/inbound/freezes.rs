//! What a freeze does to calls that run here: streams make way, calls come to their end, and what does neither for a while is named.
//!
//! A service that answers nothing for long, such as one that waits for something to happen, looks like any other that is still at
//! work: its request is whole, and nobody can say whether it will write. So the freeze waits for it, and gives up after its budget
//! (R-I2, R-I12). Whoever reads why has to know which method it was.
//!
//! # Invariants
//! - Z1. What is named is a call that the freeze waits for, as it was at the last look; no key, and nothing else that a caller wrote.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::gate::{Admission, OwnerGate};
use super::rpc::Rpc;
use crate::routing::gate::Drain;

/// Freezes that a shard was asked to wait for.
#[derive(Default)]
pub(super) struct Freezes(RefCell<Vec<Waiting>>);

struct Waiting {
    drain: Drain,
    since: Instant,
    /// What was said last about it.
    told: String,
}

impl Rpc {
    /// A key, bucket, rule or unit of this unit is frozen: says so when no call of it runs any more. Streams make way after a
    /// moment; calls come to their end.
    pub fn drain(&self, drain: &Drain) {
        let Some(gate) = &self.parts.gate else { return };
        gate.drain(drain.clone());
        let now = tokio::time::Instant::now().into_std();
        let mut look = None;
        for id in self.calls.ids() {
            self.calls.with(id, |open| {
                if open.admission.as_ref().is_some_and(|call| gate.is_met_by(drain, call)) {
                    look = Some(open.limits.make_way(now));
                }
            });
        }
        if let Some(at) = look {
            self.calls.expect(at);
        }
        self.abandoned.make_way(now, |call| gate.is_met_by(drain, call));
        self.freezes.add(drain, now);
    }

    /// Says of freezes that wait for longer than streams take to make way which calls they wait for. To be called now and then.
    pub fn tell_held(&self) {
        let Some(gate) = &self.parts.gate else { return };
        let now = tokio::time::Instant::now().into_std();
        for mut waiting in self.freezes.due(gate, now) {
            let by = self.holders(gate, &waiting.drain);
            if let Some(by) = by.filter(|by| *by != waiting.told && gate.tell_held(&waiting.drain, by)) {
                waiting.told = by;
            }
            self.freezes.0.borrow_mut().push(waiting);
        }
    }

    /// The calls that a freeze waits for, in words.
    fn holders(&self, gate: &OwnerGate, drain: &Drain) -> Option<String> {
        let is_meant = |call: &Admission| !call.reads && gate.is_met_by(drain, call);
        let mut named: Option<String> = None;
        let mut others = 0_usize;
        for id in self.calls.ids() {
            self.calls.with(id, |open| {
                if open.admission.as_ref().is_some_and(is_meant) {
                    let name = method_of(open.record.path());
                    match &named {
                        Some(first) => others += usize::from(*first != name),
                        None => named = Some(name),
                    }
                }
            });
        }
        let gone = self.abandoned.count(is_meant);
        match (named, others, gone) {
            (Some(name), 0, _) => Some(name),
            (Some(name), others, _) => Some(format!("{name} and calls of other methods ({others})")),
            (None, _, 0) => None,
            (None, _, gone) => Some(format!("calls whose callers have gone ({gone})")),
        }
    }
}

impl Freezes {
    /// One of the same node and work before is over.
    fn add(&self, drain: &Drain, now: Instant) {
        let mut all = self.0.borrow_mut();
        all.retain(|other| (other.drain.by, &other.drain.node) != (drain.by, &drain.node));
        all.push(Waiting {
            drain: drain.clone(),
            since: now,
            told: String::new(),
        });
    }

    /// Takes out those that have waited for long; forgets those that nothing waits for any more.
    fn due(&self, gate: &OwnerGate, now: Instant) -> Vec<Waiting> {
        let mut all = self.0.borrow_mut();
        if all.is_empty() {
            return Vec::new();
        }
        all.retain(|waiting| gate.waits_for(&waiting.drain));
        let is_due = |waiting: &mut Waiting| now.saturating_duration_since(waiting.since) >= PATIENCE;
        all.extract_if(.., is_due).collect()
    }
}

/// Service and method of a path, if it looks like that.
fn method_of(path: &[u8]) -> String {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    let name = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix('/'));
    let name = name.filter(|name| name.len() <= NAME_MAX && name.bytes().all(|byte| is_fine(&byte)));
    name.map_or_else(|| "a call".to_owned(), str::to_owned)
}

/// Half of the time for which a freeze may last; streams have made way by then.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest name that is told.
const NAME_MAX: usize = 200;
