//! The tokens of a call as evidence: opened only if nothing else decides about the key.

use std::cell::RefCell;

use super::{Presented, Refused, Ring, Token, presented};
use crate::model::Name;
use crate::routing::evidence::{Evidence, Found, Known, Provisional, Verdict};
use crate::routing::record::Epoch;
use crate::routing::{KeyHash, Routes};

/// What is known of the keys of a call: what its tokens say, and what `claims` has heard.
pub struct Brought<'a, E> {
    claims: &'a E,
    with: Option<With<'a>>,
    checked: RefCell<Option<Check>>,
}

/// What tokens are opened with.
#[derive(Clone, Copy, Debug)]
pub struct With<'a> {
    /// The keys of the Geo.
    pub ring: &'a Ring,
    /// The copy that resolves the call.
    pub routes: &'a Routes,
    /// The value of the call's field.
    pub field: &'a [u8],
    /// Seconds since 1970.
    pub now: u64,
    /// Tokens ahead of the copy up to here come from a future that the store has lost; it never comes.
    pub lost: Epoch,
}

/// What became of the token of the first key that one was wanted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Check {
    /// What it says; `None` if it was none.
    pub token: Option<Token>,
    /// How it stands.
    pub outcome: CheckOutcome,
}

/// How a token stands at a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckOutcome {
    /// It holds.
    Current,
    /// The copy knows of a later decision about the key.
    Superseded,
    /// Of before a restore of the store.
    TooOld,
    /// The copy is behind it.
    Ahead,
    /// The control group itself is behind it: it has lost what the token speaks of.
    LostFuture,
    /// Signed, but this copy cannot tell what it means.
    Unclear,
    /// Not looked at: the client brought too many that were none.
    Unchecked,
    /// No token.
    Refused(Refused),
}

impl<'a, E: Evidence> Brought<'a, E> {
    /// `claims`, and the tokens there are. Without `with` it costs nothing.
    pub fn new(claims: &'a E, with: Option<With<'a>>) -> Self {
        Self {
            claims,
            with,
            checked: RefCell::new(None),
        }
    }

    /// What became of the token of the key that decided; `None` if no token was wanted, or the call has none for it.
    pub fn checked(&self) -> Option<Check> {
        *self.checked.borrow()
    }

    /// Looks at the token of a key that was resolved without it.
    pub fn look_at(&self, dimension: &Name, key: &[u8]) {
        let _ = self.token(dimension, key);
    }

    fn check(&self, dimension: &Name, key: &[u8]) -> Option<(Check, Option<Known>)> {
        let with = self.with.as_ref()?;
        let token = match find(with.field, dimension)? {
            Ok(given) => with.ring.open(given.text, dimension, key, with.now),
            Err(refused) => Err(refused),
        };
        let refused = |outcome| Check { token: None, outcome };
        let token = match token {
            Ok(token) => token,
            Err(why) => return Some((refused(CheckOutcome::Refused(why)), None)),
        };
        let (known, outcome) = with.judge(&token, dimension, key);
        let check = Check {
            token: Some(token),
            outcome,
        };
        Some((check, known))
    }
}

impl With<'_> {
    fn judge(&self, token: &Token, dimension: &Name, key: &[u8]) -> (Option<Known>, CheckOutcome) {
        let routes = self.routes;
        let as_of = token.evidence_as_of();
        if as_of > routes.epoch() && as_of <= self.lost {
            return (None, CheckOutcome::LostFuture);
        }
        let Some(known) = token.known(routes, dimension) else {
            // A unit that only a later book has.
            let outcome = if as_of > routes.epoch() {
                CheckOutcome::Ahead
            } else {
                CheckOutcome::Unclear
            };
            return (None, outcome);
        };
        let newest = routes.newest_of(routes.hash(dimension.as_str().as_bytes(), key));
        let outcome = match known.judge(routes.epoch(), newest) {
            Verdict::Current => CheckOutcome::Current,
            Verdict::Superseded => CheckOutcome::Superseded,
            Verdict::TooOld => CheckOutcome::TooOld,
            Verdict::Ahead(_) => CheckOutcome::Ahead,
        };
        (Some(known), outcome)
    }
}

impl<E: Evidence> Evidence for Brought<'_, E> {
    fn token(&self, dimension: &Name, key: &[u8]) -> Option<Known> {
        let (check, known) = self.check(dimension, key)?;
        // Keys that the first one follows have tokens of their own; those are not told of.
        self.checked.borrow_mut().get_or_insert(check);
        known
    }

    fn claim(&self, dimension: &Name, key: &[u8], hash: KeyHash) -> Found {
        self.claims.claim(dimension, key, hash)
    }

    fn provisional(&self, hash: KeyHash) -> Provisional {
        self.claims.provisional(hash)
    }
}

/// The first token of a field for this dimension; else what is wrong with the field, if something is.
fn find<'a>(field: &'a [u8], dimension: &Name) -> Option<Result<Presented<'a>, Refused>> {
    let mut wrong = None;
    for part in presented([field]) {
        match part {
            Ok(part) if part.dimension == dimension.as_str() => return Some(Ok(part)),
            Ok(_) => {}
            Err(refused) => wrong = Some(Err(refused)),
        }
    }
    wrong
}

impl CheckOutcome {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::Current,
            Self::Superseded,
            Self::TooOld,
            Self::Ahead,
            Self::LostFuture,
            Self::Unclear,
            Self::Unchecked,
        ];
        own.into_iter().chain(Refused::ALL.map(Self::Refused))
    }

    /// Label of the counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Superseded => "superseded",
            Self::TooOld => "too_old",
            Self::Ahead => "ahead",
            Self::LostFuture => "lost_future",
            Self::Unclear => "unclear",
            Self::Unchecked => "unchecked",
            Self::Refused(why) => why.as_str(),
        }
    }
}
