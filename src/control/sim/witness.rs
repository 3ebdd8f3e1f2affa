//! Sees all that happens, and says what must not.

use std::collections::BTreeMap;

use super::keys::Subject;
use super::relay::Life;
use super::truth::{Owner, Truth};
use crate::control::claims::Holder;
use crate::model::UnitId;
use crate::routing::record::{Batch, Claim, Rev, SessionId, Snapshot};
use crate::routing::{Decision, Routes, Standing};

pub(super) struct Witness {
    wrong: Option<String>,
    truth: Truth,
    /// Writes that run, by key: their terms.
    running: BTreeMap<usize, BTreeMap<u64, (Life, Rev)>>,
    /// The newest term in which a write of a key was let through.
    newest: BTreeMap<usize, (Rev, UnitId)>,
    /// What services were told of the newest term of a key.
    told: BTreeMap<usize, (Rev, u64)>,
    /// What a life last found about a key.
    seen: BTreeMap<(Life, usize), Seen>,
    holders: BTreeMap<usize, Holder>,
    /// What a life must have applied before it admits.
    granted: BTreeMap<Life, Rev>,
    accepted: u64,
    done: u64,
    failed: u64,
}

/// A unit, an epoch, whether it is frozen, and the revision at which it was found so.
type Seen = (UnitId, u64, Standing, Rev);

impl Witness {
    pub(super) fn new(snapshot: &Snapshot, subjects: Vec<Subject>) -> Self {
        Self {
            wrong: None,
            truth: Truth::new(snapshot, subjects),
            running: BTreeMap::new(),
            newest: BTreeMap::new(),
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
            holders: BTreeMap::new(),
            granted: BTreeMap::new(),
            accepted: 0,
            done: 0,
            failed: 0,
        }
    }

    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.clone()
    }

    pub(super) fn blame(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }

    pub(super) fn stats(&self) -> String {
        let Self {
            accepted, done, failed, ..
        } = self;
        format!("{accepted} writes let through, {done} calls done, {failed} not")
    }

    pub(super) fn ended(&mut self, well: bool) {
        *if well { &mut self.done } else { &mut self.failed } += 1;
    }

    /// Whether a revision was written so long ago.
    pub(super) fn is_older(&self, rev: Rev, now: u64, age: u64) -> bool {
        self.truth.written_at(rev).is_some_and(|at| now >= at + age)
    }

    /// R-I10: when a key gets another owner, nothing that the one before let through is left. Those keys, and whose they were.
    pub(super) fn on_commit(&mut self, now: u64, batch: &Batch) -> Vec<(usize, UnitId)> {
        let changed = self.truth.on_commit(now, batch);
        for &(subject, term) in &changed {
            let running = self.running.get(&subject);
            let left = running.and_then(|running| running.values().find(|(_, of)| *of < term));
            if let Some((life, of)) = left {
                let text = format!("R-I10: key {subject} has another owner since {term}, and {life:?} a write of {of}");
                self.blame(text);
            }
        }
        let before = |(subject, _)| Some((subject, self.truth.owner(subject, batch.prev)?.unit.clone()));
        changed.into_iter().filter_map(before).collect()
    }

    pub(super) fn on_claimed(&mut self, claim: &Claim) {
        self.truth.on_claimed(claim);
    }

    /// R-I13
    pub(super) fn on_published(&mut self, life: Life, routes: &Routes) {
        if self.truth.digest(routes.rev()) != Some(routes.digest()) {
            self.blame(format!(
                "R-I13: {life:?} has a copy that never was, at {}",
                routes.rev()
            ));
        }
    }

    pub(super) fn on_opened(&mut self, (life, _, granted): (Life, SessionId, Rev)) {
        self.granted.insert(life, granted);
    }

    /// R-I5
    pub(super) fn on_told(&mut self, subject: usize, holder: &Holder) {
        let before = self.holders.entry(subject).or_insert_with(|| holder.clone()).clone();
        if before != *holder {
            self.blame(format!("R-I5: key {subject} belongs to {holder:?}, and to {before:?}"));
        }
    }

    /// R-I4, R-I6, R-I7, R-I9
    pub(super) fn on_resolved(&mut self, life: Life, subject: usize, decision: &Decision<'_>, at: Rev) {
        let found = (decision.unit.clone(), decision.epoch, decision.standing, at);
        let owner = self.truth.owner(subject, at);
        let is_so = |owner: &Owner| {
            (&owner.unit, owner.epoch, owner.standing) == (decision.unit, decision.epoch, decision.standing)
        };
        if !owner.is_some_and(is_so) {
            let source = decision.source.as_str();
            let text = format!("R-I6, R-I7: {life:?} takes key {subject} for {found:?} by {source}; it is {owner:?}");
            return self.blame(text);
        }
        let (unit, epoch, standing, _) = &found;
        if let Some((before, epoch_before, standing_before, rev)) = self.seen.get(&(life, subject)) {
            let is_same = (before, standing_before) == (unit, standing);
            if epoch < epoch_before || at < *rev || (!is_same && epoch == epoch_before) {
                let before = self.seen.get(&(life, subject));
                return self.blame(format!(
                    "R-I4, R-I9: {life:?} found {before:?} of key {subject}, then {found:?}"
                ));
            }
        }
        self.seen.insert((life, subject), found);
    }

    /// step 6: while one unit has a key its services are told one epoch, and those of the next one a higher one.
    fn on_epoch(&mut self, life: Life, subject: usize, term: Rev, since: u64) {
        let (newest, told) = *self.told.entry(subject).or_insert((term, since));
        let is_right = if term == newest { since == told } else { since > told };
        if !is_right {
            let text = format!(
                "R-3.8: {life:?} tells a service that it has key {subject} since {since}, in {term}; before, in {newest}, since {told}"
            );
            self.blame(text);
        }
        self.told.insert(subject, (term, since));
    }

    /// A write is let through by a copy at a revision: R-I1, R-I2, R-I14. Its number.
    pub(super) fn on_accepted(&mut self, life: Life, subject: usize, (at, since): (Rev, u64), now: u64) -> u64 {
        self.accepted += 1;
        let Some(Owner { unit, term, .. }) = self.truth.owner(subject, at).cloned() else {
            self.blame(format!(
                "R-I1: {life:?} lets a write of key {subject} through, which nobody has"
            ));
            return self.accepted;
        };
        if self.granted.get(&life).is_none_or(|granted| at < *granted) {
            self.blame(format!(
                "R-I14: {life:?} lets a write through at {at}, before it caught up"
            ));
        }
        if let Some((newest, by)) = self.newest.get(&subject)
            && (term < *newest || (term == *newest && unit != *by))
        {
            let text =
                format!("R-I1: {life:?} lets a write of key {subject} through in {term} at {now}, after {newest}");
            self.blame(text);
        }
        self.on_epoch(life, subject, term, since);
        let running = self.running.entry(subject).or_default();
        let left = running.values().find(|(_, of)| *of < term).copied();
        running.insert(self.accepted, (life, term));
        self.newest.insert(subject, (term, unit));
        if let Some((other, of)) = left {
            let text =
                format!("R-I2: {life:?} lets a write of key {subject} through in {term}; {other:?} has one of {of}");
            self.blame(text);
        }
        self.accepted
    }

    pub(super) fn on_done(&mut self, subject: usize, running: u64) {
        if let Some(of_key) = self.running.get_mut(&subject) {
            of_key.remove(&running);
        }
    }
}
