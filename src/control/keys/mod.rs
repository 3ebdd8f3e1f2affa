//! Who owns keys, for services that ask without making a call (R-3.13: `Resolve`, `Claim`, `WatchRoutes`).
//!
//! # Invariants
//! - K1. To resolve and to watch claims nothing.
//! - K2. Who watches hears of the present state of each of its keys, however late it reads; what it has not read is not kept.
//! - K3. Keys that are watched are bounded, per watch and per relay.
//! - K4. A watch looks at its keys when the copy of the routes has changed, and at those without owner when a claim was answered.
//!
//! # Not here
//! How it is asked (`ingress::routes`), and who is told of keys that it has used (`outbound::users`).

#[cfg(test)]
mod tests;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

pub use self::watch::{News, Watch};
use super::claims::Claims;
use super::operator::{Answer, Command, GiveAsk, KeyRow};
use super::tokens::TokenKeys;
use crate::model::{ANY_KEY, Key, Name, RouteHints, UnitId};
use crate::routing::record::{Epoch, KeyBytes, Target};
use crate::routing::token::{Occasion, TokenSeries};
use crate::routing::{self, Evidence, Found, KeyHash, Known, RouteError, RouteTable, Standing};

/// Asks the route store as operators do.
pub type Ask = Arc<dyn Fn(Command) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// What is needed to answer.
pub struct Parts {
    /// This unit.
    pub unit: UnitId,
    /// The route table.
    pub routing: routing::Handle,
    /// Who has keys that nothing else was decided about, if there is a route store.
    pub claims: Option<Claims>,
    /// Asks that store, if there is one.
    pub ask: Option<Ask>,
    /// The keys of route tokens, if there are any, and what counts those that are given.
    pub tokens: Option<(TokenKeys, TokenSeries)>,
}

/// Answers services. Clones are the same.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    parts: Parts,
    watched: AtomicUsize,
}

/// The owner of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// Which of the keys that were asked for decided.
    pub at: usize,
    /// The owner.
    pub unit: UnitId,
    /// Since when.
    pub epoch: u64,
    /// It is frozen on its way to another unit.
    pub is_moving: bool,
    /// What to send along with calls of the key.
    pub token: Option<String>,
}

/// Why there is no answer, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nobody has claimed the key.
    #[error("nobody has claimed the key yet; call with it, or claim it")]
    Unclaimed,
    /// It cannot be done with this key.
    #[error("{0}")]
    Refused(String),
    /// Not now.
    #[error("{0}")]
    Away(String),
    /// Too many keys are watched.
    #[error(
        "{WATCHED_MAX} keys are watched at this relay, which is the most; watch fewer, or at another relay of the unit"
    )]
    Full,
}

impl Desk {
    /// With these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            watched: AtomicUsize::new(0),
        }))
    }

    /// Who owns the keys of a call.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn resolve(&self, keys: Vec<Key>) -> Result<Owner, KeysError> {
        check(&keys, CALL_KEYS_MAX)?;
        let parts = &self.0.parts;
        let hints = hints(keys);
        let table = parts.routing.table();
        let unclaimed = match self.owner(&table, &hints, &parts.claims) {
            Err(RouteError::Unclaimed { dimension, .. }) => dimension,
            known => return known.map_err(KeysError::from),
        };
        let Some(key) = hints.keys.iter().find(|key| key.dimension == unclaimed.as_str()) else {
            let detail = format!("the key leads to one of {unclaimed} whose claim this relay has not heard of");
            return Err(KeysError::Away(detail));
        };
        let claimed = self.claimed(&table, &unclaimed, &key.key).await?;
        // Decided by what is in force now, with what the store said.
        self.owner(&parts.routing.table(), &hints, &claimed)
            .map_err(KeysError::from)
    }

    /// Binds a key to this unit if it has no owner; also says whether this unit has it.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn claim(&self, key: Key) -> Result<(Owner, bool), KeysError> {
        check(std::slice::from_ref(&key), CALL_KEYS_MAX)?;
        let parts = &self.0.parts;
        let here = parts.unit.clone();
        let command = Command::Claim(GiveAsk {
            dimension: name_of(&key)?,
            key: KeyBytes(key.key.clone()),
            unit: here.clone(),
            dry_run: false,
            who: "strait.v1.Routes".to_owned(),
        });
        let refusal = match self.ask(command).await? {
            Answer::Given(_) => None,
            Answer::Refused { detail } => Some(detail),
            other => return Err(failed(other)),
        };
        match (self.resolve(vec![key]).await, refusal) {
            (Ok(owner), _) => {
                let has_won = owner.unit == here;
                Ok((owner, has_won))
            }
            (Err(KeysError::Unclaimed), Some(detail)) => Err(KeysError::Refused(detail)),
            (Err(error), _) => Err(error),
        }
    }

    /// Watches keys until the watch is dropped.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn watch(&self, keys: Vec<Key>) -> Result<Watch, KeysError> {
        check(&keys, WATCH_KEYS_MAX)?;
        for key in &keys {
            name_of(key)?;
        }
        let count = keys.len();
        let room = |watched: usize| watched.checked_add(count).filter(|sum| *sum <= WATCHED_MAX);
        let watched = &self.0.watched;
        if watched
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            return Err(KeysError::Full);
        }
        Ok(Watch::new(self.clone(), keys))
    }

    fn owner(&self, table: &RouteTable, hints: &RouteHints, evidence: &impl Evidence) -> Result<Owner, RouteError> {
        let parts = &self.0.parts;
        let decision = table.resolve(hints, &ANY_KEY, &parts.unit, evidence)?;
        let named = decision.dimension.map(Name::as_str).unwrap_or_default();
        let at = hints.keys.iter().position(|key| key.dimension == named);
        Ok(Owner {
            at: at.unwrap_or_default(),
            unit: decision.unit.clone(),
            epoch: decision.epoch,
            is_moving: matches!(decision.standing, Standing::Frozen { .. }),
            token: self.token(table, hints, &decision, evidence),
        })
    }

    fn token(
        &self,
        table: &RouteTable,
        hints: &RouteHints,
        decision: &routing::Decision<'_>,
        evidence: &impl Evidence,
    ) -> Option<String> {
        let (keys, series) = self.0.parts.tokens.as_ref()?;
        let (routes, dimension) = (table.routes()?, decision.dimension?);
        if decision.standing != Standing::Open {
            return None;
        }
        let key = hints.keys.iter().find(|key| key.dimension == dimension.as_str())?;
        let text = keys.issue(routes, decision, &key.key, evidence)?;
        let counts = series.on_shard();
        counts.on_issued(Occasion::Push);
        counts.flush();
        Some(text.as_str().to_owned())
    }

    /// What the store says of a claim.
    async fn claimed(&self, table: &RouteTable, dimension: &Name, key: &Bytes) -> Result<Claimed, KeysError> {
        let command = Command::Get {
            dimension: dimension.clone(),
            key: KeyBytes(key.clone()),
            service: None,
            method: None,
        };
        let row: Box<KeyRow> = match self.ask(command).await? {
            Answer::Key(row) => row,
            other => return Err(failed(other)),
        };
        let claim = row.claim.ok_or(KeysError::Unclaimed)?;
        Ok(Claimed {
            dimension: dimension.clone(),
            key: key.clone(),
            target: claim.target,
            base: claim.base,
            // Asked later than this.
            as_of: Epoch(table.version()).max(claim.base),
        })
    }

    async fn ask(&self, command: Command) -> Result<Answer, KeysError> {
        let no_store = || KeysError::Refused("this relay has no route store, so its rules alone decide".to_owned());
        let ask = self.0.parts.ask.clone().ok_or_else(no_store)?;
        Ok(ask(command).await)
    }
}

/// One claim that the store has told of.
struct Claimed {
    dimension: Name,
    key: Bytes,
    target: Target,
    base: Epoch,
    as_of: Epoch,
}

impl Evidence for Claimed {
    fn claim(&self, dimension: &Name, key: &[u8], _: KeyHash) -> Found {
        if *dimension == self.dimension && *key == self.key {
            return Found::Known(Known {
                target: self.target.clone(),
                base: self.base,
                as_of: self.as_of,
            });
        }
        Found::Unasked
    }
}

impl From<RouteError> for KeysError {
    fn from(error: RouteError) -> Self {
        let text = error.to_string();
        match error {
            RouteError::Unclaimed { .. } => Self::Unclaimed,
            RouteError::Behind { .. } | RouteError::NoCopy => Self::Away(text),
            RouteError::UnknownDimension { .. }
            | RouteError::KeyTooLong { .. }
            | RouteError::MissingKey
            | RouteError::NoParent { .. } => Self::Invalid(text),
            _ => Self::Refused(text),
        }
    }
}

fn failed(answer: Answer) -> KeysError {
    match answer {
        Answer::Refused { detail } => KeysError::Refused(detail),
        Answer::Failed { detail } => KeysError::Away(detail),
        other => KeysError::Away(format!(
            "the route desk answers with something else ({})",
            other.outcome()
        )),
    }
}

fn check(keys: &[Key], limit: usize) -> Result<(), KeysError> {
    match keys.len() {
        0 => Err(KeysError::Invalid("name a key".to_owned())),
        count if count > limit => Err(KeysError::Invalid(format!(
            "{count} keys are too many; at most {limit}"
        ))),
        _ => Ok(()),
    }
}

fn name_of(key: &Key) -> Result<Name, KeysError> {
    let text = String::from_utf8_lossy(&key.dimension);
    Name::new(&text).map_err(|error| KeysError::Invalid(format!("dimension: {error}")))
}

fn hints(keys: Vec<Key>) -> RouteHints {
    RouteHints {
        keys,
        ..RouteHints::default()
    }
}

/// Keys of a call.
const CALL_KEYS_MAX: usize = 16;
/// Keys of a watch.
const WATCH_KEYS_MAX: usize = 500;
/// Keys that are watched at a relay.
const WATCHED_MAX: usize = 50_000;
