//! What shards, the queue and operators have of the claims: what is known, and the way to ask for more.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use super::{ClaimKey, Known, Outcome};
use crate::control::clock::boot_time;
use crate::control::provisional::{Choice, Chosen, Counts, NotDismissed};
use crate::model::{MissingKey, Name, RouteHints, RoutePolicy};
use crate::routing::{Evidence, Found, KeyHash, Provisional};

/// What a shard knows of claims, and its way to ask for more. Clones share both.
#[derive(Clone, Debug)]
pub struct Claims {
    pub(super) known: Arc<OnceLock<Known>>,
    pub(super) chosen: Chosen,
    wanted: mpsc::Sender<Wanted>,
}

/// What is wanted of the driver.
#[derive(Debug)]
pub enum Wanted {
    /// An owner for the key of a call or message that has none yet; for one that only reads, whether there is one.
    Owner(RouteHints, RoutePolicy),
    /// Who has this key, if anybody has it.
    Holder(ClaimKey, oneshot::Sender<Outcome>),
    /// Keys that were put somewhere without the store, so many at most.
    List(usize, oneshot::Sender<Listed>),
    /// A conflict about a key is settled.
    Dismiss(ClaimKey, oneshot::Sender<Result<(), NotDismissed>>),
}

/// Keys that were put somewhere without the store.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Some of them, conflicts first.
    pub choices: Vec<Choice>,
    /// How many there are.
    pub counts: Counts,
    /// Whether the store is away, so that they count.
    pub in_force: bool,
}

impl Claims {
    /// With the end at which [`Driver`](super::Driver) takes what is wanted.
    pub fn new() -> (Self, mpsc::Receiver<Wanted>) {
        let (wanted, asked) = mpsc::channel(WANTED_MAX);
        let claims = Self {
            known: Arc::default(),
            chosen: Chosen::default(),
            wanted,
        };
        (claims, asked)
    }

    /// Wants an owner for the key of these hints that routes the call; if it only reads, wants to know whether there is one. When
    /// that is known, the routes are said to have changed; if it takes too long, ask again (V2 of the driver).
    pub fn ask(&self, hints: &RouteHints, policy: &RoutePolicy) {
        let hints = RouteHints {
            keys: hints.keys.clone(),
            class: hints.class.clone(),
            ..RouteHints::default()
        };
        let policy = RoutePolicy {
            missing_key: MissingKey::Reject,
            ..policy.clone()
        };
        let _ = self.wanted.try_send(Wanted::Owner(hints, policy));
    }

    /// Asks who has a key and claims nothing. An end without an answer is as [`Outcome::Full`] (V2 of the driver).
    pub fn look_up(&self, key: ClaimKey) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        let _ = self.wanted.try_send(Wanted::Holder(key, reply));
        answer
    }

    /// Keys that were put somewhere without the store, so many at most; none from a relay that ends.
    pub async fn list(&self, limit: usize) -> Listed {
        let (reply, listed) = oneshot::channel();
        let _ = self.wanted.send(Wanted::List(limit, reply)).await;
        listed.await.unwrap_or_default()
    }

    /// A conflict about a key is settled: forgets it, on disk too.
    ///
    /// # Errors
    /// [`NotDismissed`].
    pub async fn dismiss(&self, key: ClaimKey) -> Result<(), NotDismissed> {
        let (reply, dismissed) = oneshot::channel();
        let _ = self.wanted.send(Wanted::Dismiss(key, reply)).await;
        dismissed.await.unwrap_or(Err(NotDismissed::Broken))
    }
}

impl Evidence for Claims {
    fn claim(&self, _: &Name, _: &[u8], hash: KeyHash) -> Found {
        let Some(known) = self.known.get() else {
            return Found::Unasked;
        };
        match known.get(hash) {
            Some(holder) => Found::Known(holder.into()),
            None if known.free.contains(hash, boot_time()) => Found::Nothing,
            None => Found::Unasked,
        }
    }

    fn provisional(&self, hash: KeyHash) -> Provisional {
        self.chosen.find(hash)
    }
}

/// Calls that want an owner for their key and have not been looked at yet.
const WANTED_MAX: usize = 10_000;
