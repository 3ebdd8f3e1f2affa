//! How long nodes are frozen while nothing is wrong: no longer than their move allows (R-I12).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::routing::record::{Batch, MoveId, NodeId, Record, State};

#[derive(Default)]
pub(super) struct Pauses {
    budgets: BTreeMap<MoveId, Duration>,
    /// Since when nodes are frozen, and by what.
    frozen: BTreeMap<NodeId, (u64, MoveId)>,
    /// When something was wrong last.
    troubled_at: u64,
    longest: u64,
}

impl Pauses {
    /// Something is wrong now, or was until now.
    pub(super) fn on_trouble(&mut self, now: u64) {
        self.troubled_at = now;
    }

    /// Whether nothing was wrong since then.
    pub(super) fn is_quiet_since(&self, at: u64) -> bool {
        self.troubled_at < at
    }

    /// What was frozen too long, if that is over now.
    pub(super) fn on_commit(&mut self, now: u64, batch: &Batch) -> Option<String> {
        let mut wrong = None;
        for change in &batch.changes {
            match &change.record {
                Some(Record::Move(work)) => _ = self.budgets.insert(work.id, work.options.freeze_budget),
                Some(Record::Node(node)) => {
                    let before = self.frozen.remove(&node.id);
                    if let State::Frozen { by, .. } = node.state {
                        let since = before.filter(|(_, of)| *of == by);
                        self.frozen.insert(node.id.clone(), since.unwrap_or((now, by)));
                    } else if let Some((since, by)) = before {
                        wrong = wrong.or_else(|| self.judge(now, since, by, &node.id));
                    }
                }
                _ => {}
            }
        }
        wrong
    }

    /// Since when a node is frozen.
    pub(super) fn since(&self, node: &NodeId) -> Option<u64> {
        self.frozen.get(node).map(|(since, _)| *since)
    }

    /// The longest pause while nothing was wrong, in microseconds.
    pub(super) fn longest(&self) -> u64 {
        self.longest
    }

    fn judge(&mut self, now: u64, since: u64, by: MoveId, node: &NodeId) -> Option<String> {
        if self.troubled_at >= since {
            return None;
        }
        let pause = Duration::from_micros(now - since);
        self.longest = self.longest.max(now - since);
        let allowed = self.budgets.get(&by)?.mul_f64(CLOCKS) + ROUND;
        (pause > allowed).then(|| format!("R-I12: {node:?} was frozen for {pause:?}; {allowed:?} was allowed"))
    }
}

/// The clock of a driver may be slower than time.
const CLOCKS: f64 = 1.06;
/// A driver that looks, a commit, and the feed.
const ROUND: Duration = Duration::from_secs(1);
