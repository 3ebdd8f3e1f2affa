//! The control group as a state machine: what the embedded store runs, and the simulation.
//!
//! # Invariants
//! - G1. A commit is done as a whole or not at all, and each done commit has a revision of its own.
//! - G2. A commit that was done is answered with its revision, however often it is asked for (R12 of the research: a retry
//!   of our own is a win): as long as its number is among the last [`DONE_MAX`], or a node that it wrote still has it.
//! - G3. The feed has every change once, in order, each batch beginning where the one before ended (R-I13).
//! - G4. Nodes and the book are never removed (R-D2).
//! - G5. What a relay said counts only while the life lasts in which it said it.
//!
//! # Not here
//! Disks (`embedded`), claims, which are too many for memory.

mod lives;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use self::lives::Lives;
pub(in crate::control) use self::rules::{check_asked, check_claims, check_commit};
use super::store::{Reading, StoreError};
use crate::routing::record::{
    Batch, Book, Change, Commit, Committed, Epoch, Node, OpId, Record, RecordId, Rev, Snapshot,
};

/// The control group.
#[derive(Clone, Debug)]
pub struct Ledger {
    epoch: Epoch,
    seed: u128,
    records: BTreeMap<RecordId, Change>,
    /// What happened last, for feeds and histories.
    log: VecDeque<Change>,
    /// The revision before the first change of the log.
    log_from: Rev,
    done: HashMap<OpId, Rev>,
    done_order: VecDeque<OpId>,
    pub(super) lives: Lives,
}

/// A commit that was done now: what must be on disk before anybody hears of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The operation.
    pub op: OpId,
    /// What it changed.
    pub batch: Batch,
}

impl Ledger {
    /// With what a disk holds. `done` are the operations that were done last, the oldest first.
    pub fn new(snapshot: Snapshot, done: impl IntoIterator<Item = (OpId, Rev)>, now: std::time::Duration) -> Self {
        let mut ledger = Self {
            epoch: snapshot.epoch,
            seed: snapshot.seed,
            records: BTreeMap::new(),
            log: VecDeque::new(),
            log_from: snapshot.epoch.rev(),
            done: HashMap::new(),
            done_order: VecDeque::new(),
            lives: Lives::default(),
        };
        for change in snapshot.changes {
            if let Some(Record::Relay(relay)) = &change.record {
                // Every life gets its full time anew.
                ledger.lives.begin(relay.clone(), now);
            }
            ledger.records.insert(change.id.clone(), change);
        }
        for (op, rev) in done {
            ledger.remember(op, rev);
        }
        ledger
    }

    /// Incarnation and revision.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All records.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: self.epoch,
            seed: self.seed,
            changes: self.records.values().cloned().collect(),
        }
    }

    /// These records as they are now.
    pub fn read(&self, ids: &[RecordId]) -> Reading {
        Reading {
            epoch: self.epoch,
            found: ids.iter().map(|id| self.records.get(id).cloned()).collect(),
        }
    }

    /// A node as it is now.
    pub fn node(&self, id: &RecordId) -> Option<&Node> {
        match &self.records.get(id)?.record {
            Some(Record::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// What is published.
    pub fn book(&self) -> Option<&Book> {
        match &self.records.get(&RecordId::Book)?.record {
            Some(Record::Book(book)) => Some(book),
            _ => None,
        }
    }

    /// What was written about a record, newest first, as far as it is remembered.
    pub fn history(&self, id: &RecordId, limit: usize) -> Vec<Change> {
        let matching = self.log.iter().rev().filter(|change| change.id == *id);
        let mut found: Vec<_> = matching.take(limit).cloned().collect();
        if found.is_empty() {
            found.extend(self.records.get(id).cloned());
        }
        found
    }

    /// Does a commit, or says why not. `Written` must be on disk before the answer is given; it is empty if the commit was
    /// done before, or is not done.
    ///
    /// # Errors
    /// [`StoreError::Broken`]: the records make no sense.
    pub fn commit(&mut self, commit: Commit) -> Result<(Committed, Option<Written>), StoreError> {
        if let Some(rev) = self.done.get(&commit.op) {
            return Ok((Committed::Done(*rev), None));
        }
        for (id, expected) in &commit.compares {
            let found = self.records.get(id).map_or(Rev::ZERO, |change| change.rev);
            if found != *expected {
                // Forgotten, but the node says that it was this very commit that changed it.
                if self
                    .node(id)
                    .is_some_and(|node| node.op == commit.op && commit.writes(id))
                {
                    return Ok((Committed::Done(found), None));
                }
                return Ok((Committed::Conflict { id: id.clone(), found }, None));
            }
        }
        self.check(&commit)?;
        let (prev, rev) = (self.epoch.rev(), self.epoch.rev().next());
        let puts = commit.puts.into_iter().map(|record| {
            let id = record.id();
            let record = match record {
                Record::Node(node) => Record::Node(Node { rev, ..node }),
                record => record,
            };
            (id, Some(record))
        });
        let removes = commit.removes.into_iter().map(|id| (id, None));
        let changes: Vec<_> = puts
            .chain(removes)
            .map(|(id, record)| Change { rev, id, record })
            .collect();
        let batch = Batch { prev, rev, changes };
        self.apply(&batch);
        self.remember(commit.op, rev);
        let written = Written { op: commit.op, batch };
        Ok((Committed::Done(rev), Some(written)))
    }

    /// What changed after `from`; one batch, progress only if nothing did. `None` if that is no longer known.
    pub fn since(&self, from: Rev) -> Option<Batch> {
        if from < self.log_from || from > self.epoch.rev() {
            return None;
        }
        let at = self.log.partition_point(|change| change.rev <= from);
        Some(Batch {
            prev: from,
            rev: self.epoch.rev(),
            changes: self.log.range(at..).cloned().collect(),
        })
    }

    fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match &change.record {
                Some(_) => drop(self.records.insert(change.id.clone(), change.clone())),
                None => drop(self.records.remove(&change.id)),
            }
            self.log.push_back(change.clone());
        }
        self.epoch = Epoch::new(self.epoch.incarnation(), batch.rev);
        // Whole revisions only: a feed never begins in the middle of one.
        while self.log.len() > LOG_MAX
            && let Some(oldest) = self.log.front().map(|change| change.rev)
            && oldest < batch.rev
        {
            while self.log.front().is_some_and(|change| change.rev == oldest) {
                self.log.pop_front();
            }
            self.log_from = oldest;
        }
    }

    fn remember(&mut self, op: OpId, rev: Rev) {
        if self.done.insert(op, rev).is_none() {
            self.done_order.push_back(op);
        }
        while self.done_order.len() > DONE_MAX
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }
}

/// Changes that are remembered; a relay that missed more takes a snapshot.
pub const LOG_MAX: usize = 20_000;
/// Commits that are remembered, so that one that is asked for again is not done again.
pub const DONE_MAX: usize = 4096;
