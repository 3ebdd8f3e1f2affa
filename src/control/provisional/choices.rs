//! All choices of a relay, and what is to be written and claimed next. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{Choice, Conflict, Write};
use crate::control::store::ClaimKey;
use crate::routing::record::{Epoch, Target};

/// All choices of a relay.
#[derive(Debug)]
pub struct Choices {
    max: usize,
    entries: BTreeMap<ClaimKey, Entry>,
    /// Keys whose entry on disk is another one than here.
    unwritten: BTreeSet<ClaimKey>,
    writing: Option<Vec<ClaimKey>>,
    /// The file has failed: nothing is written any more.
    is_broken: bool,
    conflicts: usize,
    /// The key that was claimed last, so that all have their turn.
    cursor: Option<ClaimKey>,
}

#[derive(Debug)]
struct Entry {
    choice: Choice,
    /// Only then anything goes by it (F1).
    is_durable: bool,
    /// It is being claimed.
    is_asked: bool,
}

/// What became of a choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settled {
    /// The claim says the same. The choice is forgotten.
    Confirmed,
    /// The claim says something else. The choice is kept for an operator.
    Conflict,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Those that are to be claimed.
    pub pending: usize,
    /// Those whose key belongs to another unit.
    pub conflicts: usize,
}

/// Why a choice was not dismissed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotDismissed {
    /// There is none.
    #[error("this relay has no choice for that key; each relay lists its own with strait route provisional")]
    Unknown,
    /// It is not settled.
    #[error(
        "the choice for that key is not settled; it is claimed when the route store is back, and then goes by itself"
    )]
    Pending,
    /// The file has failed.
    #[error("the file of choices cannot be written; the log of this relay says why")]
    Broken,
}

impl Choices {
    /// Those that the file has. At most `max` are kept from now on.
    pub fn new(max: usize, loaded: impl IntoIterator<Item = Choice>) -> Self {
        let entry = |choice: Choice| {
            let entry = Entry {
                choice,
                is_durable: true,
                is_asked: false,
            };
            (entry.choice.claim_key(), entry)
        };
        let entries: BTreeMap<_, _> = loaded.into_iter().map(entry).collect();
        Self {
            max,
            conflicts: entries.values().filter(|entry| entry.choice.conflict.is_some()).count(),
            entries,
            unwritten: BTreeSet::new(),
            writing: None,
            is_broken: false,
            cursor: None,
        }
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        Counts {
            pending: self.entries.len() - self.conflicts,
            conflicts: self.conflicts,
        }
    }

    /// Whether there is no room for one more (F5).
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.max
    }

    /// Whether the file has failed: then nothing new is chosen.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// The choice for a key, be it on disk or not.
    pub fn get(&self, key: &ClaimKey) -> Option<&Choice> {
        self.entries.get(key).map(|entry| &entry.choice)
    }

    /// All that are on disk.
    pub fn durable(&self) -> impl Iterator<Item = &Choice> {
        let entries = self.entries.values().filter(|entry| entry.is_durable);
        entries.map(|entry| &entry.choice)
    }

    /// The first ones in the order of their keys, conflicts before all else.
    pub fn rows(&self, limit: usize) -> Vec<Choice> {
        let of = |is_conflict: bool| {
            let choices = self.durable();
            choices.filter(move |choice| choice.conflict.is_some() == is_conflict)
        };
        of(true).chain(of(false)).take(limit).cloned().collect()
    }

    /// One more; it is written with the next batch. `false`: there is one of the key already, or no room (F5).
    pub fn add(&mut self, choice: Choice) -> bool {
        let key = choice.claim_key();
        if self.is_broken || self.is_full() || self.entries.contains_key(&key) {
            return false;
        }
        let entry = Entry {
            choice,
            is_durable: false,
            is_asked: false,
        };
        self.entries.insert(key.clone(), entry);
        self.unwritten.insert(key);
        true
    }

    /// What is to be written now, in one transaction; nothing while another one is under way.
    pub fn take_writes(&mut self) -> Vec<Write> {
        if self.writing.is_some() || self.is_broken {
            return Vec::new();
        }
        let keys: Vec<_> = self.unwritten.iter().take(WRITES_MAX).cloned().collect();
        let write = |key: &ClaimKey| match self.entries.get(key) {
            Some(entry) => Write::Put(entry.choice.clone()),
            None => Write::Remove(key.clone()),
        };
        let writes: Vec<_> = keys.iter().map(write).collect();
        for key in &keys {
            self.unwritten.remove(key);
        }
        self.writing = (!keys.is_empty()).then_some(keys);
        writes
    }

    /// What was taken is on disk. The choices that may be used from now on.
    pub fn on_written(&mut self) -> Vec<Choice> {
        let mut usable = Vec::new();
        for key in self.writing.take().into_iter().flatten() {
            // Of one that has changed meanwhile the disk has something else.
            if self.unwritten.contains(&key) {
                continue;
            }
            if let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.is_durable) {
                entry.is_durable = true;
                usable.push(entry.choice.clone());
            }
        }
        usable
    }

    /// It is not, and nothing is written any more: what the disk has is as it was before.
    pub fn on_write_failed(&mut self) {
        self.is_broken = true;
        self.writing = None;
        self.unwritten.clear();
        self.entries.retain(|_, entry| entry.is_durable);
    }

    /// Some that are to be claimed, each in its turn. They are not named again before [`settle`](Self::settle) or
    /// [`on_unanswered`](Self::on_unanswered).
    pub fn due(&mut self, limit: usize) -> Vec<Choice> {
        let cursor = self.cursor.take();
        let after = cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.entries.range((after, Bound::Unbounded));
        let wanted = rest.filter(|(_, entry)| entry.is_claimable());
        let keys: Vec<_> = wanted.take(limit).map(|(key, _)| key.clone()).collect();
        // Past the end it begins anew with the next call.
        self.cursor = keys.last().filter(|_| keys.len() == limit).cloned();
        keys.iter().filter_map(|key| self.ask(key)).collect()
    }

    /// One that is to be claimed now, because a call waits for it; `None` if it is being claimed, or is not to be.
    pub fn ask(&mut self, key: &ClaimKey) -> Option<Choice> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.is_claimable())?;
        entry.is_asked = true;
        Some(entry.choice.clone())
    }

    /// The store did not say who has a key.
    pub fn on_unanswered(&mut self, key: &ClaimKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.is_asked = false;
        }
    }

    /// The store says who has a key, whoever claimed it (F4). What became of the choice; `None` if there is none that waits for
    /// that.
    pub fn settle(&mut self, key: &ClaimKey, claimed: (&Target, Epoch), now: u64) -> Option<Settled> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.is_pending())?;
        entry.is_asked = false;
        let (target, base) = claimed;
        self.unwritten.insert(key.clone());
        if *target == entry.choice.target {
            self.entries.remove(key);
            return Some(Settled::Confirmed);
        }
        entry.choice.conflict = Some(Conflict {
            target: target.clone(),
            base,
            at: now,
        });
        self.conflicts += 1;
        Some(Settled::Conflict)
    }

    /// An operator has done what there was to do about a conflict.
    ///
    /// # Errors
    /// [`NotDismissed`].
    pub fn dismiss(&mut self, key: &ClaimKey) -> Result<(), NotDismissed> {
        let entry = self.entries.get(key).ok_or(NotDismissed::Unknown)?;
        if entry.choice.conflict.is_none() {
            return Err(NotDismissed::Pending);
        }
        if self.is_broken {
            return Err(NotDismissed::Broken);
        }
        self.entries.remove(key);
        self.conflicts -= 1;
        self.unwritten.insert(key.clone());
        Ok(())
    }

    /// Whether the disk has what is here of a key.
    pub fn is_written(&self, key: &ClaimKey) -> bool {
        let is_writing = self.writing.as_ref().is_some_and(|keys| keys.contains(key));
        !is_writing && !self.unwritten.contains(key)
    }
}

impl Entry {
    fn is_pending(&self) -> bool {
        self.is_durable && self.choice.conflict.is_none()
    }

    fn is_claimable(&self) -> bool {
        self.is_pending() && !self.is_asked
    }
}

/// Entries of one transaction.
const WRITES_MAX: usize = 1000;
