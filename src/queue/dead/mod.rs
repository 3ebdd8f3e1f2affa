//! Dead letters: messages that were given up, until somebody takes them back or their time is over (M-E4).
//!
//! The letters are in the log; here is what one must know of each without reading it: 16 bytes.
//!
//! # Invariants
//! - D1. A letter counts from the moment its record is on disk, and until the record that ends it is: a `DeadGone`, or the
//!   `Stored` of its message on its way back.
//! - D2. Letters on their way to the disk count for the limit, so that it is not passed by those under way.

pub mod redrive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DeadLetterSettings;
use super::line::Settled;
use super::record::DeadLetter;
use crate::model::{Seq, UnixMillis};

/// What is known of the dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    retention: Duration,
    bytes_max: u64,
    gone: Settled,
    /// By number, from `gone.frontier() + 1` on; `None` for those that are gone.
    letters: VecDeque<Option<Letter>>,
    last: Seq,
    count: u64,
    bytes: u64,
    /// On their way to the disk.
    under_way: Under,
    reasons: Vec<String>,
    by_reason: BTreeMap<u16, u64>,
}

/// What a checkpoint keeps.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct DeadSnapshot {
    gone: Vec<u8>,
    letters: Vec<Option<Letter>>,
    reasons: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Letter {
    at: u64,
    bytes: u32,
    /// Place among `reasons`.
    reason: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Under {
    count: u64,
    bytes: u64,
}

impl DeadLetters {
    /// None yet.
    pub fn new(settings: &DeadLetterSettings) -> Self {
        Self {
            retention: settings.retention,
            bytes_max: settings.bytes_max.as_u64(),
            gone: Settled::default(),
            letters: VecDeque::new(),
            last: 0,
            count: 0,
            bytes: 0,
            under_way: Under::default(),
            reasons: Vec::new(),
            by_reason: BTreeMap::new(),
        }
    }

    /// Other settings are in force.
    pub fn configure(&mut self, settings: &DeadLetterSettings) {
        self.retention = settings.retention;
        self.bytes_max = settings.bytes_max.as_u64();
    }

    /// Whether there is no room for another one. One letter always fits, so that none is larger than the limit.
    pub fn is_full(&self) -> bool {
        self.bytes.saturating_add(self.under_way.bytes) >= self.bytes_max
    }

    /// A number for a letter that is written now.
    pub fn assign(&mut self, bytes: usize) -> Seq {
        self.under_way.count += 1;
        self.under_way.bytes = self.under_way.bytes.saturating_add(u64::from(small(bytes)));
        self.last + self.under_way.count
    }

    /// The disk failed: numbers that are not on it are given again.
    pub fn rollback(&mut self) {
        self.under_way = Under::default();
    }

    /// A letter is on disk.
    pub fn on_dead(&mut self, letter: &DeadLetter) {
        if letter.seq <= self.last {
            return;
        }
        let bytes = small(letter_bytes(letter));
        self.under_way.count = self.under_way.count.saturating_sub(letter.seq - self.last);
        self.under_way.bytes = self.under_way.bytes.saturating_sub(u64::from(bytes));
        // Numbers between are of letters that were damaged on disk.
        while self.last + 1 < letter.seq {
            self.last += 1;
            self.gone.insert(self.last);
            self.letters.push_back(None);
        }
        self.last = letter.seq;
        let reason = self.reason(&letter.reason);
        self.letters.push_back(Some(Letter {
            at: letter.last_failure.0,
            bytes,
            reason,
        }));
        self.count += 1;
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
        *self.by_reason.entry(reason).or_default() += 1;
        self.shrink();
    }

    /// Letters are gone: what ends them is on disk. Returns how many were there.
    pub fn on_gone(&mut self, seqs: &[(Seq, Seq)]) -> u64 {
        let mut gone = 0;
        for (from, to) in seqs {
            for seq in (*from).max(self.gone.frontier() + 1)..=(*to).min(self.last) {
                gone += u64::from(self.remove(seq));
            }
        }
        self.shrink();
        gone
    }

    /// Whether a letter is there.
    pub fn contains(&self, seq: Seq) -> bool {
        seq <= self.last && !self.gone.contains(seq)
    }

    /// Letters whose time is over, as a run from the first one on.
    pub fn expired(&self, now: UnixMillis) -> Option<(Seq, Seq)> {
        let retention = u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX);
        let first = self.gone.frontier() + 1;
        let over = |letter: &Option<Letter>| letter.is_none_or(|letter| letter.at.saturating_add(retention) <= now.0);
        let run = self
            .letters
            .iter()
            .take(EXPIRE_AT_ONCE)
            .take_while(|letter| over(letter))
            .count();
        let run = u64::try_from(run).unwrap_or(0);
        (run > 0).then(|| (first, first + run - 1))
    }

    /// How many numbers from `from` to `to`, both included, are gone.
    pub fn done_between(&self, from: Seq, to: Seq) -> u64 {
        self.gone.done_between(from, to)
    }

    /// Numbers that are gone.
    pub fn gone(&self) -> &Settled {
        &self.gone
    }

    /// The first letter that is there, if any is.
    pub fn first(&self) -> Option<Seq> {
        (self.gone.frontier() < self.last).then(|| self.gone.frontier() + 1)
    }

    /// The number of the last letter that was there.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of them, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of each reason, by its name.
    pub fn by_reason(&self) -> Vec<(String, u64)> {
        let name = |reason: &u16| self.reasons.get(usize::from(*reason)).cloned().unwrap_or_default();
        let counts = self.by_reason.iter().filter(|(_, count)| **count > 0);
        let mut counts: Vec<_> = counts.map(|(reason, count)| (name(reason), *count)).collect();
        counts.sort();
        counts
    }

    /// For a checkpoint.
    pub fn snapshot(&self) -> DeadSnapshot {
        DeadSnapshot {
            gone: self.gone.to_bytes(),
            letters: self.letters.iter().copied().collect(),
            reasons: self.reasons.clone(),
        }
    }

    /// From a checkpoint; `None` if it is broken.
    pub fn restore(&mut self, snapshot: DeadSnapshot) -> Option<()> {
        self.gone = Settled::from_bytes(&snapshot.gone)?;
        self.letters = snapshot.letters.into();
        self.reasons = snapshot.reasons;
        self.last = self.gone.frontier() + u64::try_from(self.letters.len()).ok()?;
        for letter in self.letters.iter().flatten() {
            self.count += 1;
            self.bytes = self.bytes.saturating_add(u64::from(letter.bytes));
            *self.by_reason.entry(letter.reason).or_default() += 1;
        }
        Some(())
    }

    fn remove(&mut self, seq: Seq) -> bool {
        let Ok(index) = usize::try_from(seq - self.base()) else {
            return false;
        };
        let Some(letter) = self.letters.get_mut(index).and_then(Option::take) else {
            return false;
        };
        self.gone.insert(seq);
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(u64::from(letter.bytes));
        if let Some(count) = self.by_reason.get_mut(&letter.reason) {
            *count = count.saturating_sub(1);
        }
        true
    }

    /// Number of the first of `letters`.
    fn base(&self) -> Seq {
        self.last + 1 - u64::try_from(self.letters.len()).unwrap_or(0)
    }

    fn shrink(&mut self) {
        while matches!(self.letters.front(), Some(None)) {
            self.letters.pop_front();
        }
    }

    fn reason(&mut self, reason: &str) -> u16 {
        let place = self.reasons.iter().position(|known| known == reason);
        let place = place.unwrap_or_else(|| {
            if self.reasons.len() >= REASONS_MAX {
                return self.reasons.len() - 1;
            }
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        });
        u16::try_from(place).unwrap_or(0)
    }
}

/// Bytes of a letter on disk, about.
pub fn letter_bytes(letter: &DeadLetter) -> usize {
    letter.message.bytes() + letter.error.len() + LETTER_BYTES
}

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A letter without its message, about.
pub const LETTER_BYTES: usize = 100;
/// Letters that go at once when their time is over.
const EXPIRE_AT_ONCE: usize = 10_000;
/// Reasons are words of ours; peers of later versions may know more of them.
const REASONS_MAX: usize = 64;
