//! Route tokens on the calls of a shard: what they say when a call is routed, and which one its answer carries along.
//!
//! # Invariants
//! - T5. Without a key file, without a copy of the routes and without claimed dimensions nothing of this runs.
//! - T6. Whatever a token is, no call fails or waits for longer because of it than without it, but for one that speaks of what
//!   the store has and this relay has not heard yet.
//! - T7. Only tokens that hold are passed on to the owner's relay.
//!
//! # Not here
//! What tokens are and when they are right (`routing::token`), and who is told without asking (`users`).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;

use super::rpc::{Open, Rpc};
use super::strikes::{Client, Strikes};
use super::users::Users;
use super::verdict::Failure;
use crate::control::claims::Claims;
use crate::control::clock::boot_time;
use crate::control::tokens::{TokenKeys, claim_of, unix_now};
use crate::control::worker;
use crate::model::{CallerRef, Key, MetadataBuilder, Name, Part, Request, RouteHints, RoutePolicy};
use crate::routing::record::{Epoch, Rev};
use crate::routing::token::{
    AS_OF_AGE_MAX, Brought, Check, CheckOutcome, Grounds, Refused, Ring, Text, TokenCounts, With, field, is_claimed,
    may_have_tokens,
};
use crate::routing::{Decision, RouteError, RouteTable, Routes, Source, Standing};

/// What route tokens need.
pub struct TokenParts {
    /// The keys of the Geo.
    pub keys: TokenKeys,
    /// Counts them.
    pub counts: TokenCounts,
    /// Whether the copy of the routes hears of the store.
    pub copy: worker::Metrics,
}

/// The tokens of a shard.
pub(super) struct Tokens {
    pub(super) parts: TokenParts,
    pub(super) users: RefCell<Users>,
    strikes: RefCell<Strikes>,
    ages: RefCell<Ages>,
    /// Tokens ahead of the copy up to here speak of what the store has lost.
    lost: Cell<Epoch>,
}

/// The token that the answer of a call carries along.
#[derive(Default)]
pub(super) struct Offer {
    counted: Option<CheckOutcome>,
    value: Option<Box<str>>,
}

/// Where the copy was when.
#[derive(Default)]
struct Ages {
    /// Seconds since 1970 and revisions, the oldest first.
    seen: std::collections::VecDeque<(u64, Epoch)>,
}

/// A call on its way through the table.
struct Glance<'a> {
    tokens: &'a Tokens,
    ring: &'a Ring,
    routes: &'a Routes,
    claims: &'a Option<Claims>,
    now: u64,
}

impl Tokens {
    pub(super) fn new(parts: TokenParts) -> Self {
        Self {
            parts,
            users: RefCell::default(),
            strikes: RefCell::default(),
            ages: RefCell::default(),
            lost: Cell::new(Epoch::default()),
        }
    }

    /// The call's field, if it has one and is looked at.
    fn field<'r>(&self, request: &'r Request, client: Client, offer: &mut Offer) -> Option<&'r [u8]> {
        let field = request.hints.token.as_deref()?;
        if self.strikes.borrow_mut().may_check(client, boot_time()) {
            return Some(field);
        }
        self.count(CheckOutcome::Unchecked, offer);
        None
    }

    /// Once for each call, and again if it changes while the call waits.
    fn count(&self, outcome: CheckOutcome, offer: &mut Offer) {
        if offer.counted.replace(outcome) != Some(outcome) {
            self.parts.counts.on_checked(outcome);
        }
    }

    fn on_checked(&self, check: Check, client: Client, offer: &mut Offer) {
        self.count(check.outcome, offer);
        if matches!(check.outcome, CheckOutcome::Refused(why) if why != Refused::Expired) {
            self.strikes.borrow_mut().on_bad(client, boot_time());
        }
    }

    /// A token is ahead of a copy that hears of the store, and has been for a while: the store has lost what it speaks of.
    fn loses(&self, check: Option<Check>, request: &Request) -> bool {
        let Some((CheckOutcome::Ahead, Some(token))) = check.map(|check| (check.outcome, check.token)) else {
            return false;
        };
        let waited = clock().saturating_duration_since(request.received);
        if waited < AHEAD_MAX || self.parts.copy.is_stale() {
            return false;
        }
        let as_of = token.evidence_as_of();
        tracing::warn!(
            as_of = %as_of,
            "a route token speaks of what the route store does not have; was it restored without a new incarnation?"
        );
        self.lost.set(self.lost.get().max(as_of));
        true
    }
}

impl Rpc {
    /// Resolves a call with what its tokens say, and gets the token of its answer ready.
    pub(super) fn resolve<'t>(
        &'t self,
        table: &'t RouteTable,
        request: &mut Request,
        policy: &'t RoutePolicy,
        (caller, offer): (&CallerRef, &mut Offer),
    ) -> Result<Decision<'t>, RouteError> {
        let (here, claims) = (&self.parts.place.unit, &self.parts.claims);
        let with_tokens = self.tokens.as_ref().zip(table.routes());
        let Some((tokens, routes)) = with_tokens.filter(|(_, routes)| may_have_tokens(routes)) else {
            return table.resolve(&request.hints, policy, here, claims);
        };
        let ring = tokens.parts.keys.ring();
        let client = client_of(caller);
        let glance = Glance {
            tokens,
            ring: &ring,
            routes,
            claims,
            now: unix_now(),
        };
        let field = tokens.field(request, client, offer);
        let brought = Brought::new(claims, field.map(|field| glance.with(field)));
        let mut decision = table.resolve(&request.hints, policy, here, &brought);
        let mut check = brought.checked();
        if decision.is_err() && tokens.loses(check, request) {
            let brought = Brought::new(claims, field.map(|field| glance.with(field)));
            decision = table.resolve(&request.hints, policy, here, &brought);
            check = brought.checked();
        }
        let Some((decided, dimension, key)) = decision
            .as_ref()
            .ok()
            .and_then(|of| claimed(of, routes, &request.hints))
        else {
            if let Some(check) = check {
                tokens.on_checked(check, client, offer);
            }
            return decision;
        };
        if decided.source == Source::Override {
            brought.look_at(dimension, key);
            check = brought.checked();
        }
        if let Some(check) = check {
            tokens.on_checked(check, client, offer);
        }
        let issued = match decided.standing {
            Standing::Open => glance.issue(decided, dimension, key, check),
            Standing::Frozen { .. } => None,
        };
        if caller.port.takes_routes() {
            let mut users = tokens.users.borrow_mut();
            users.on_used(&caller.port, client, (dimension, key), decided.unit, boot_time());
        }
        let is_bad = check.is_some_and(|check| check.token.is_none()) || offer.counted == Some(CheckOutcome::Unchecked);
        if let Some(text) = &issued {
            let value = field_of(dimension, text);
            let others = request.hints.token.take().filter(|_| !is_bad);
            // The owner's relay need not ask the store either (T7).
            request.hints.token = Some(before(&value, others));
            offer.value = Some(value);
        } else if is_bad {
            request.hints.token = None;
        }
        decision
    }

    /// Another relay named the owner of the key, with a token for it.
    pub(super) fn on_redirect(&self, open: &mut Open, failure: &Failure) {
        let (Some(tokens), Failure::Relay(error)) = (&self.tokens, failure) else {
            return;
        };
        let (Some(value), Some(request)) = (&error.token, &mut open.again) else {
            return;
        };
        let table = self.parts.routing.table();
        let Some(routes) = table.routes() else { return };
        let ring = tokens.parts.keys.ring();
        let with = With {
            ring: &ring,
            routes,
            field: value,
            now: unix_now(),
            lost: Epoch::default(),
        };
        // Text of a relay that has other keys, or is of another Geo, is no token of ours.
        let is_ours = request.hints.keys.iter().find_map(|key| {
            let dimension = name_of(key)?;
            let brought = Brought::new(&(), Some(with));
            brought.look_at(&dimension, &key.key);
            brought.checked()?.token
        });
        if is_ours.is_none() {
            return;
        }
        let Ok(text) = std::str::from_utf8(value) else { return };
        request.hints.token = Some(before(text, request.hints.token.take()));
        open.offer.value = Some(text.into());
    }
}

impl<'a> Glance<'a> {
    fn with(&self, field: &'a [u8]) -> With<'a> {
        With {
            ring: self.ring,
            routes: self.routes,
            field,
            now: self.now,
            lost: self.tokens.lost.get(),
        }
    }

    /// The token that the answer carries along, if it is to carry one.
    fn issue(&self, decision: &Decision<'_>, dimension: &Name, key: &[u8], check: Option<Check>) -> Option<Text> {
        let lifetime = self.tokens.parts.keys.lifetime(dimension)?;
        let claim = match decision.source {
            Source::Claim => claim_of(self.claims, self.routes, dimension, key),
            _ => None,
        };
        let grounds = Grounds {
            routes: self.routes,
            decision,
            key,
            check,
            claim: claim.as_ref(),
            now: self.now,
            then: self.tokens.ages.borrow_mut().at(self.routes.epoch(), self.now),
            lifetime,
        };
        let (occasion, token) = grounds.answer()?;
        let text = self.ring.issue(dimension, key, &token)?;
        self.tokens.parts.counts.on_issued(occasion);
        Some(text)
    }
}

impl Offer {
    /// Puts the token where the caller finds it: among the trailers; of a reply that has none and nothing else, in the head.
    pub(super) fn put_into(&mut self, part: &mut Part) {
        let Some(value) = self.value.take() else { return };
        let block = match (&mut part.head, &mut part.end) {
            (Some((_, head)), Some(end)) if end.trailers.is_empty() => head,
            (_, Some(end)) => &mut end.trailers,
            (Some((_, head)), None) => head,
            (None, None) => return,
        };
        let mut fields = MetadataBuilder::from_block(block);
        // Ours, and well-formed: a name and base 64.
        let _ = fields.push(b"strait-token", value.as_bytes());
        *block = fields.build();
    }

    /// The token for a caller whose call has failed.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.value.take().map(|value| Bytes::from(value.into_string()))
    }
}

impl Ages {
    /// Where the copy was [`AS_OF_AGE_MAX`] ago; zero while nobody knows.
    fn at(&mut self, epoch: Epoch, now: u64) -> Rev {
        if self.seen.back().is_none_or(|(at, _)| now >= at.saturating_add(STEP)) {
            self.seen.push_back((now, epoch));
        }
        let is_old = |at: u64| now.saturating_sub(at) >= AS_OF_AGE_MAX;
        while self.seen.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.seen.pop_front();
        }
        let oldest = self.seen.front().filter(|(at, _)| is_old(*at));
        oldest.map_or(Rev::ZERO, |(_, epoch)| epoch.rev())
    }
}

/// The decision, if its key is one that tokens are for.
fn claimed<'d, 't>(
    decision: &'d Decision<'t>,
    routes: &Routes,
    hints: &'d RouteHints,
) -> Option<(&'d Decision<'t>, &'t Name, &'d [u8])> {
    let dimension = decision.dimension.filter(|dimension| is_claimed(routes, dimension))?;
    let key = hints.keys.iter().find(|key| key.dimension == dimension.as_str())?;
    Some((decision, dimension, &key.key[..]))
}

fn client_of(caller: &CallerRef) -> Client {
    std::rc::Rc::as_ptr(&caller.port).cast::<()>().addr()
}

fn name_of(key: &Key) -> Option<Name> {
    Name::new(std::str::from_utf8(&key.dimension).ok()?).ok()
}

fn field_of(dimension: &Name, text: &Text) -> Box<str> {
    field(dimension, text).into()
}

/// A token, and behind it those that a call has already: the first of a dimension counts.
fn before(value: &str, others: Option<Bytes>) -> Bytes {
    match others {
        Some(others) => [value.as_bytes(), b",", &others[..]].concat().into(),
        None => Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn clock() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// How long a call waits for what its token speaks of.
const AHEAD_MAX: Duration = Duration::from_secs(1);
/// Seconds between two looks at where the copy is.
const STEP: u64 = 60;
