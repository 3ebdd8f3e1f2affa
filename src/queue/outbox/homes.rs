//! Which keys have messages in the line, so that new ones follow them though another unit owns the key by now (M-C1).
//!
//! Only messages of ordered topics that were routed by an epoch are counted: where the settings say who owns a key, nothing
//! moves, and nothing is to be known here.
//!
//! # Invariants
//! - H1. A key with a message in the line that is not done, or on its way to the line, is at home here, surely or perhaps. A key that is
//!   surely here has such a message. Perhaps is said of keys that a restart found, of those that were here when a message ended whose key
//!   was not known, and of all while there are too many to be told apart.
//! - H2. In a snapshot, messages that do not count here any more are done. Else a restart would have them once more, and take what
//!   becomes of them off the count of later ones of their keys.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{Map, Seq};

/// See the module. A key is its hash.
#[derive(Debug, Default)]
pub(super) struct Homes {
    keys: Map<u64, Home>,
    /// Keys of messages that have a number and are not on disk yet.
    coming: VecDeque<(Seq, u64)>,
    /// All keys are at home perhaps: there were too many.
    coarse: bool,
    /// Keys that came so early may be counted too high; and how many have come.
    unsure: u64,
    came: u64,
}

/// A key that is at home.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Home {
    count: u32,
    /// The highest epoch that one of them was routed by.
    epoch: u64,
    /// As the how-manieth it came.
    came: u64,
}

/// What is known of a key that is at home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stay {
    /// It leaves for another line; what comes now comes behind it.
    Leaves,
    /// It may have nothing here in truth.
    Perhaps,
    /// It has messages here.
    Surely,
}

impl Homes {
    /// As a snapshot has it.
    pub(super) fn restored(keys: Vec<(u64, Home)>, coarse: bool) -> Self {
        let came = keys.iter().map(|(_, home)| home.came).max().unwrap_or_default();
        Self {
            keys: keys.into_iter().collect(),
            coarse,
            unsure: came,
            came,
            coming: VecDeque::new(),
        }
    }

    /// For a snapshot: keys in a fixed order, and whether they are not told apart.
    pub(super) fn all(&self) -> (Vec<(u64, Home)>, bool) {
        if self.coarse || self.keys.len() > SAVED_MAX {
            return (Vec::new(), true);
        }
        let coming: Vec<u64> = self.coming.iter().map(|(_, hash)| *hash).collect();
        let mut keys: Vec<(u64, Home)> = self.keys.iter().map(|(hash, home)| (*hash, *home)).collect();
        for (hash, home) in &mut keys {
            // What is not on disk is counted when its record is read.
            let coming = coming.iter().filter(|coming| *coming == hash).count();
            home.count = home.count.saturating_sub(u32::try_from(coming).unwrap_or(u32::MAX));
        }
        keys.retain(|(_, home)| home.count > 0);
        keys.sort_unstable_by_key(|(hash, _)| *hash);
        (keys, false)
    }

    /// The epoch by which messages of a key are in the line, if some are.
    pub(super) fn find(&self, hash: u64) -> Option<(u64, Stay)> {
        match self.keys.get(&hash) {
            Some(home) if home.came > self.unsure => Some((home.epoch, Stay::Surely)),
            Some(home) => Some((home.epoch, Stay::Perhaps)),
            None => self.coarse.then_some((LOWEST, Stay::Perhaps)),
        }
    }

    /// A message of a key gets a number.
    pub(super) fn on_assigned(&mut self, seq: Seq, hash: u64, epoch: u64, room: usize) {
        self.coming.push_back((seq, hash));
        self.add(hash, epoch, room);
    }

    /// A message is on disk.
    pub(super) fn on_stored(&mut self, seq: Seq, hash: u64, epoch: u64, room: usize) {
        while self.coming.front().is_some_and(|(coming, _)| *coming < seq) {
            self.coming.pop_front();
        }
        match self.coming.front() {
            Some((coming, _)) if *coming == seq => _ = self.coming.pop_front(),
            _ => self.add(hash, epoch, room),
        }
    }

    /// What is not on disk will not be.
    pub(super) fn rollback(&mut self) {
        for (_, hash) in std::mem::take(&mut self.coming) {
            self.remove(hash);
        }
    }

    /// A message of a key is done.
    pub(super) fn remove(&mut self, hash: u64) {
        if let Some(home) = self.keys.get_mut(&hash) {
            home.count = home.count.saturating_sub(1);
            if home.count == 0 {
                self.keys.remove(&hash);
            }
        }
    }

    /// A message is done whose key is not known.
    pub(super) fn remove_some(&mut self) {
        self.unsure = self.came;
    }

    /// A key has nothing here, as is known otherwise.
    pub(super) fn forget(&mut self, hash: u64) {
        self.keys.remove(&hash);
    }

    /// Whether there is something to be put right as soon as the line is empty.
    pub(super) fn wants_clear(&self) -> bool {
        self.coarse || (self.unsure > 0 && !self.keys.is_empty())
    }

    /// The line is empty.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, hash: u64, epoch: u64, room: usize) {
        if self.coarse {
            return;
        }
        if let Some(home) = self.keys.get_mut(&hash) {
            home.count = home.count.saturating_add(1);
            home.epoch = home.epoch.max(epoch);
        } else if self.keys.len() < room {
            self.came += 1;
            let (count, came) = (1, self.came);
            self.keys.insert(hash, Home { count, epoch, came });
        } else {
            self.coarse = true;
            self.keys = Map::default();
        }
    }
}

/// No epoch of an owner is lower.
const LOWEST: u64 = 1;
/// Keys that a checkpoint holds, of about 14 bytes each; with more of them they are not told apart after a restart.
const SAVED_MAX: usize = 200_000;
