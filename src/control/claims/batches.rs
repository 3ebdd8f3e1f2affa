//! What is on its way to the store.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{ClaimKey, Limits};
use crate::control::store::StoreError;
use crate::routing::record::{Claim, Epoch};

/// Number of a batch; counts up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BatchId(pub(super) u64);

/// What to ask the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Batch {
    /// [`Store::claim`](crate::control::store::Store::claim).
    Claim(Vec<Claim>),
    /// [`Store::claims`](crate::control::store::Store::claims).
    LookUp(Vec<ClaimKey>),
}

/// What the store answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Who has each key that was to be claimed.
    Claimed(Vec<Claim>),
    /// Who has each key that was looked up, in the order of the batch.
    Found(Vec<Option<Claim>>),
    /// Nothing, or that it may not.
    Failed(StoreError),
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    Claim,
    LookUp,
}

/// Keys of one kind of question that wait for a batch, first come first served, and batches under way.
pub(super) struct Line {
    kind: Kind,
    queued: VecDeque<(ClaimKey, Duration)>,
    under_way: BTreeMap<BatchId, UnderWay>,
    /// Keys that are queued or under way.
    load: usize,
    /// Nothing is sent before: the store has just failed.
    pause_until: Duration,
    failures: u32,
}

pub(super) struct UnderWay {
    pub(super) keys: Vec<ClaimKey>,
    /// Where the copy was when it was sent.
    pub(super) as_of: Epoch,
    sent_at: Duration,
}

impl Line {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            queued: VecDeque::new(),
            under_way: BTreeMap::new(),
            load: 0,
            pause_until: Duration::ZERO,
            failures: 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn push(&mut self, key: ClaimKey, now: Duration) {
        self.queued.push_back((key, now));
        self.load += 1;
    }

    /// Keys of the next batch if one is due: as many as fit, or the first has waited long enough.
    pub(super) fn due(&mut self, now: Duration, limits: &Limits) -> Option<Vec<ClaimKey>> {
        if now < self.due_at(limits)? {
            return None;
        }
        let count = self.queued.len().min(limits.batch_max);
        self.load -= count;
        Some(self.queued.drain(..count).map(|(key, _)| key).collect())
    }

    pub(super) fn sent(&mut self, id: BatchId, keys: Vec<ClaimKey>, as_of: Epoch, now: Duration) {
        self.load += keys.len();
        let batch = UnderWay {
            keys,
            as_of,
            sent_at: now,
        };
        self.under_way.insert(id, batch);
    }

    /// A batch that is not under way any more: it was answered, or was given up before.
    pub(super) fn finish(&mut self, id: BatchId) -> Option<UnderWay> {
        let batch = self.under_way.remove(&id)?;
        self.load -= batch.keys.len();
        Some(batch)
    }

    pub(super) fn load(&self) -> usize {
        self.load
    }

    pub(super) fn on_answered(&mut self) {
        self.failures = 0;
        self.pause_until = Duration::ZERO;
    }

    /// Batches that fail together are one failure.
    pub(super) fn on_failed(&mut self, now: Duration, limits: &Limits) {
        if now < self.pause_until {
            return;
        }
        self.pause_until = now + limits.pause * (1 << self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
    }

    /// A batch that the store takes too long for.
    pub(super) fn overdue(&mut self, now: Duration, limits: &Limits) -> Option<(BatchId, UnderWay)> {
        let is_overdue = |batch: &UnderWay| now >= batch.sent_at + limits.answer_within;
        let (id, _) = self
            .under_way
            .first_key_value()
            .filter(|(_, batch)| is_overdue(batch))?;
        let id = *id;
        Some((id, self.finish(id)?))
    }

    /// When there is something to do next.
    pub(super) fn wake_at(&self, limits: &Limits) -> Option<Duration> {
        // Batches are numbered as they are sent, so the first is the oldest.
        let overdue = self.under_way.values().next();
        let overdue = overdue.map(|batch| batch.sent_at + limits.answer_within);
        self.due_at(limits).into_iter().chain(overdue).min()
    }

    fn due_at(&self, limits: &Limits) -> Option<Duration> {
        let (_, since) = self.queued.front()?;
        let gathered = if self.queued.len() >= limits.batch_max {
            *since
        } else {
            *since + limits.gather
        };
        Some(gathered.max(self.pause_until))
    }
}
