//! New keys while the store is away: puts them somewhere, durably, and says which are to be claimed later. Part of the driver.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{ClaimKey, Listed, Outcome, Waiter};
use crate::control::heard::Heard;
use crate::control::provisional::{
    Choice, Choices, Chosen, Metrics, NotDismissed, ProvisionalError, ProvisionalFile, Settled,
};
use crate::control::tokens::unix_now;
use crate::routing::KeyHash;
use crate::routing::record::{Epoch, OpId, Target};
use crate::telemetry::Chain;

/// What the fallback is made of.
pub struct FallbackParts {
    /// The file, and what it holds.
    pub file: (ProvisionalFile, Vec<Choice>),
    /// Keys that are kept at most.
    pub provisional_max: usize,
    /// When the feed was heard of.
    pub heard: Heard,
    /// Series.
    pub metrics: Metrics,
}

/// New keys while the store is away.
pub(super) struct Fallback {
    choices: Choices,
    chosen: Chosen,
    file: Arc<ProvisionalFile>,
    heard: Heard,
    metrics: Metrics,
    /// The write that is under way; one at a time, with all that came meanwhile in the next.
    writing: JoinSet<Result<(), ProvisionalError>>,
    /// Claims under way.
    asked: HashMap<Waiter, ClaimKey>,
    due_at: Duration,
    dismissing: Vec<(ClaimKey, Dismissed)>,
}

type Dismissed = oneshot::Sender<Result<(), NotDismissed>>;

impl Fallback {
    pub(super) fn new(parts: FallbackParts, chosen: Chosen) -> Self {
        let (file, loaded) = parts.file;
        Self {
            choices: Choices::new(parts.provisional_max, loaded),
            chosen,
            file: Arc::new(file),
            heard: parts.heard,
            metrics: parts.metrics,
            writing: JoinSet::new(),
            asked: HashMap::new(),
            due_at: Duration::ZERO,
            dismissing: Vec::new(),
        }
    }

    /// Hands those of before a restart to the shards; once, as soon as hashes of keys are known.
    pub(super) fn install(&self, hash: impl Fn(&ClaimKey) -> KeyHash) {
        for choice in self.choices.durable() {
            self.chosen.insert(hash(&choice.claim_key()), choice);
        }
    }

    /// When the feed was heard of.
    pub(super) fn heard(&self) -> Duration {
        self.heard.at()
    }

    /// Whether something is to be done without being asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.choices.counts().pending > 0 || self.chosen.in_force()
    }

    /// When to look again.
    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        self.is_busy().then(|| now + PACE)
    }

    /// Whether a key was put somewhere, and nothing else is known of it.
    pub(super) fn is_pending(&self, key: &ClaimKey) -> bool {
        self.choices.get(key).is_some_and(|choice| choice.conflict.is_none())
    }

    /// Whether a key can be put somewhere at all.
    pub(super) fn can_choose(&self) -> bool {
        !self.choices.is_broken()
    }

    /// A key goes there; in use when it is on disk (F1).
    pub(super) fn choose(&mut self, (dimension, key): ClaimKey, target: Target, epoch: Epoch) {
        let choice = Choice {
            dimension,
            key,
            target,
            epoch,
            op: OpId(fastrand::u128(..)),
            at: unix_now(),
            conflict: None,
        };
        if self.choices.add(choice) {
            self.metrics.on_chosen();
        } else {
            self.metrics.on_refused();
        }
    }

    /// Says whether choices count from now on, and writes what is to be written. Answers whether calls that wait may go on now.
    pub(super) fn tick(&mut self, is_away: bool) -> bool {
        if self.writing.is_empty() {
            let writes = self.choices.take_writes();
            if !writes.is_empty() {
                let file = Arc::clone(&self.file);
                self.writing.spawn_blocking(move || file.write(&writes));
            }
        }
        self.metrics.on_counts(self.choices.counts());
        let is_full = self.choices.is_full() && self.can_choose();
        let is_news = self.chosen.in_force() != is_away;
        if is_news && self.choices.counts().pending > 0 {
            if is_away {
                tracing::info!(
                    "the route store is away: keys that it has no claim of go where this relay has put them"
                );
            } else {
                tracing::info!("the route store answers: keys that were placed without it are claimed");
            }
        }
        self.chosen.set(is_away, is_full)
    }

    /// Whether a write is done; never, while none is under way. Cancel safe.
    pub(super) async fn written(&mut self) -> bool {
        match self.writing.join_next().await {
            Some(Ok(Ok(()))) => true,
            Some(Ok(Err(error))) => {
                tracing::error!(error = %Chain(&error), "no more keys are placed without the route store until a restart");
                false
            }
            Some(Err(_)) => false,
            None => std::future::pending().await,
        }
    }

    pub(super) fn on_written(&mut self, is_done: bool, hash: impl Fn(&ClaimKey) -> KeyHash) {
        if is_done {
            for choice in self.choices.on_written() {
                self.chosen.insert(hash(&choice.claim_key()), &choice);
            }
        } else {
            self.choices.on_write_failed();
        }
        let answer = if is_done { Ok(()) } else { Err(NotDismissed::Broken) };
        for (key, reply) in std::mem::take(&mut self.dismissing) {
            if self.choices.is_written(&key) {
                // Whoever asked may have gone.
                let _ = reply.send(answer);
            } else {
                self.dismissing.push((key, reply));
            }
        }
    }

    /// Those that are to be claimed now.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Choice> {
        if now < self.due_at || self.choices.counts().pending == 0 {
            return Vec::new();
        }
        self.due_at = now + PACE;
        self.choices.due(ASKED_MAX.saturating_sub(self.asked.len()))
    }

    /// One that is to be claimed at once, because a call waits for it.
    pub(super) fn ask(&mut self, key: &ClaimKey) -> Option<Choice> {
        self.choices.ask(key)
    }

    /// Its claim is under way.
    pub(super) fn asked(&mut self, waiter: Waiter, key: ClaimKey) {
        self.asked.insert(waiter, key);
    }

    /// The key whose claim this waiter waited for.
    pub(super) fn told(&mut self, waiter: Waiter) -> Option<ClaimKey> {
        self.asked.remove(&waiter)
    }

    /// What became of a claim.
    pub(super) fn settle(&mut self, key: &ClaimKey, outcome: &Outcome, hash: KeyHash) {
        let (Outcome::Won(holder) | Outcome::Lost(holder)) = outcome else {
            return self.choices.on_unanswered(key);
        };
        let settled = self.choices.settle(key, (&holder.target, holder.base), unix_now());
        match settled {
            Some(Settled::Confirmed) => self.chosen.remove(hash),
            Some(Settled::Conflict) => {
                if let Some(choice) = self.choices.get(key) {
                    self.chosen.insert(hash, choice);
                }
            }
            None => return,
        }
        if let Some(settled) = settled {
            self.metrics.on_settled(settled, key.0.as_str());
        }
    }

    pub(super) fn list(&self, limit: usize) -> Listed {
        Listed {
            choices: self.choices.rows(limit),
            counts: self.choices.counts(),
            in_force: self.chosen.in_force(),
        }
    }

    /// Forgets a conflict; told when the disk has forgotten it too.
    pub(super) fn dismiss(&mut self, key: ClaimKey, hash: Option<KeyHash>, reply: Dismissed) {
        match self.choices.dismiss(&key) {
            Ok(()) => {
                if let Some(hash) = hash {
                    self.chosen.remove(hash);
                }
                self.dismissing.push((key, reply));
            }
            Err(error) => {
                // Whoever asked may have gone.
                let _ = reply.send(Err(error));
            }
        }
    }
}

/// Between two groups of keys that are claimed after the store was away: 1,280 per second, so that calls have the store too.
const PACE: Duration = Duration::from_millis(100);
/// Keys that are being claimed at once.
const ASKED_MAX: usize = 128;
