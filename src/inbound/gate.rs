//! The owner's gate of a shard: calls of keys that its unit owns come in here, as long as it owns them.
//!
//! # Invariants
//! - G4. What a call was let through by is given back when the call ends ([`Admission`]); if its caller has gone before the
//!   service has answered, when its time is over (`abandoned`).
//! - G5. A freeze that nothing waits for any more is reported, if not at once then with the next tick.
//! - G6. With a mirror it waits for the shadows of what was served, but not for longer than [`SHADOWS_WAIT`].
//!
//! # Not here
//! Who is let through (`routing::gate`); without a route store there is no gate.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::mirrored::Mirrored;
use crate::control::claims::Claims;
use crate::control::clock::boot_time;
use crate::control::keeper::{GateId, Held};
use crate::control::shadows::Shadows;
use crate::control::tokens::{TokenKeys, unix_now};
use crate::model::{Geo, Mode, Place, Reason, RelayError, Request, Retry, RoutePolicy};
use crate::routing::gate::{Closed, Drain, Gate, Knock, Registered};
use crate::routing::record::{Epoch, Lease, NodeId};
use crate::routing::token::{self, Brought, Occasion, TokenCounts, With};
use crate::routing::{self, Decision, RouteError, RouteTable, Source, Standing, Trail};

/// What the gate is made of.
pub struct GateParts {
    /// Its number at the keeper.
    pub id: GateId,
    /// This unit and relay.
    pub place: Place,
    /// This Geo: epochs of others mean something else.
    pub geo: Geo,
    /// Table and lease.
    pub routing: routing::Handle,
    /// Who has keys that nothing else was decided about.
    pub claims: Claims,
    /// Where freezes are reported that nothing waits for any more.
    pub drained: mpsc::Sender<(GateId, Drain)>,
    /// Where it is said what a freeze waits for, if that takes long.
    pub held: mpsc::Sender<Held>,
    /// Longest time a call of a key may run that another unit may take over.
    pub in_flight_max: Duration,
    /// What callers know of keys, if there are route tokens.
    pub tokens: Option<GateTokens>,
    /// Calls that another unit gets too.
    pub shadows: Shadows,
}

/// What the gate needs for route tokens.
pub struct GateTokens {
    /// The keys of the Geo.
    pub keys: TokenKeys,
    /// Counts those that are given.
    pub counts: TokenCounts,
}

/// The owner's gate of a shard.
pub struct OwnerGate {
    parts: GateParts,
    gate: RefCell<Gate>,
    unsent: RefCell<Vec<(Drain, Instant)>>,
}

/// A call that was let through; dropped when it has ended (G4).
pub(super) struct Admission {
    gate: Rc<OwnerGate>,
    registered: Registered,
    /// When it must have ended.
    pub(super) until: Option<Instant>,
    /// It only reads: nothing waits for it.
    pub(super) reads: bool,
    /// Its key is on its way to another unit: a stream has to make way.
    pub(super) is_passing: bool,
    /// What becomes its shadow at another unit, if its key moves with a mirror.
    pub(super) mirrored: Option<Box<Mirrored>>,
}

impl OwnerGate {
    /// The gate of one shard.
    pub fn new(parts: GateParts) -> Rc<Self> {
        Rc::new(Self {
            parts,
            gate: RefCell::default(),
            unsent: RefCell::default(),
        })
    }

    /// Lets a call through, and writes into it since when its unit owns the key. `None`: no key routes it.
    pub(super) fn enter(
        self: &Rc<Self>,
        table: &RouteTable,
        request: &mut Request,
        policy: &RoutePolicy,
    ) -> Result<Option<Admission>, RelayError> {
        let parts = &self.parts;
        let here = &parts.place.unit;
        let resolved = self.resolve(table, request, policy);
        let (decision, trail) = resolved.map_err(|error| self.without_route(request, policy, error))?;
        if decision.source == Source::Provisional && decision.unit != here {
            return Err(unsure());
        }
        if decision.dimension.is_none() {
            return if decision.unit == here {
                Ok(None)
            } else {
                Err(wrong_unit(&parts.place, &decision))
            };
        }
        let reads = policy.reads && table.lets_read(&decision);
        let registered = self.gate.borrow_mut().register(trail, reads);
        let registered = registered.ok_or_else(|| {
            let detail = "too many calls of keys are under way on this thread of the relay";
            RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK)
        })?;
        let mut admission = Admission {
            gate: Rc::clone(self),
            registered,
            until: self.until(table, &decision, request.received),
            reads,
            is_passing: matches!(decision.standing, Standing::Frozen { .. }),
            mirrored: None,
        };
        let knock = Knock {
            unit: here,
            reads,
            is_waited_for: request.facts.mode == Mode::Replay,
            min_epoch: self.min_epoch(request),
            lease: &parts.routing.lease(),
            now: boot_time(),
        };
        let admitted = self.gate.borrow().admit(table, &decision, &knock);
        admitted.map_err(|closed| self.refusal(closed, &decision, (table, &*request)))?;
        request.facts.owner_epoch = Some(decision.since);
        if !policy.reads {
            admission.mirrored = Mirrored::begin(&parts.shadows, table, &trail, request);
        }
        Ok(Some(admission))
    }

    /// Resolves a call, by the token that its relay sent along if need be.
    fn resolve<'t>(
        &'t self,
        table: &'t RouteTable,
        request: &Request,
        policy: &'t RoutePolicy,
    ) -> Result<(Decision<'t>, Trail), RouteError> {
        let parts = &self.parts;
        let ring = parts.tokens.as_ref().map(|tokens| tokens.keys.ring());
        let given = ring.as_deref().zip(table.routes()).zip(request.hints.token.as_deref());
        let with = given.map(|((ring, routes), field)| With {
            ring,
            routes,
            field,
            now: unix_now(),
            lost: Epoch::default(),
        });
        let brought = Brought::new(&parts.claims, with);
        table.resolve_with_trail(&request.hints, policy, &parts.place.unit, &brought)
    }

    /// The token that goes with the name of the owner.
    fn token(&self, decision: &Decision<'_>, table: &RouteTable, request: &Request) -> Option<Bytes> {
        let (tokens, routes) = (self.parts.tokens.as_ref()?, table.routes()?);
        let dimension = decision.dimension?;
        let key = request
            .hints
            .keys
            .iter()
            .find(|key| key.dimension == dimension.as_str())?;
        let text = tokens.keys.issue(routes, decision, &key.key, &self.parts.claims)?;
        tokens.counts.on_issued(Occasion::Redirect);
        Some(token::field(dimension, &text).into())
    }

    /// A freeze is to be waited for. Calls that go through its node are told apart with [`is_met_by`](Self::is_met_by).
    pub(super) fn drain(&self, drain: Drain) {
        let drained = self.gate.borrow_mut().drain(drain, &self.parts.routing.table());
        self.report(drained);
    }

    /// Whether this call goes through a frozen node.
    pub(super) fn is_met_by(&self, drain: &Drain, admission: &Admission) -> bool {
        let table = self.parts.routing.table();
        self.gate.borrow().is_met_by(drain, admission.registered, &table)
    }

    /// Whether a freeze waits for calls here.
    pub(super) fn waits_for(&self, drain: &Drain) -> bool {
        self.gate.borrow().waits_for(drain)
    }

    /// Says what a freeze waits for; if that cannot be told now, the next look tells it.
    pub(super) fn tell_held(&self, drain: &Drain, by: &str) -> bool {
        let held = Held {
            gate: self.parts.id,
            drain: drain.clone(),
            by: by.to_owned(),
        };
        self.parts.held.try_send(held).is_ok()
    }

    /// Reports what could not be reported before (G5).
    pub fn flush(&self) {
        if let Some(tokens) = &self.parts.tokens {
            tokens.counts.flush();
        }
        for (drain, since) in self.unsent.take() {
            self.report_one(drain, since);
        }
    }

    fn report(&self, drained: Vec<Drain>) {
        let now = tokio::time::Instant::now().into_std();
        for drain in drained {
            self.report_one(drain, now);
        }
    }

    /// Reports what has been drained since then, if no shadows are to go before (G6).
    fn report_one(&self, drain: Drain, since: Instant) {
        let waited = tokio::time::Instant::now().into_std().saturating_duration_since(since);
        if waited < SHADOWS_WAIT && self.has_shadows(&drain) {
            return self.unsent.borrow_mut().push((drain, since));
        }
        let reported = (self.parts.id, drain);
        if let Err(mpsc::error::TrySendError::Full((_, drain))) = self.parts.drained.try_send(reported) {
            self.unsent.borrow_mut().push((drain, since));
        }
    }

    fn has_shadows(&self, drain: &Drain) -> bool {
        let table = self.parts.routing.table();
        let key = match (&drain.node, table.routes()) {
            (NodeId::Key { dimension, key }, Some(routes)) => Some(routes.hash(dimension.as_str().as_bytes(), &key.0)),
            _ => None,
        };
        self.parts.shadows.waits(drain.by, key)
    }

    /// When a call must have ended: a forced takeover of its key counts on it.
    fn until(&self, table: &RouteTable, decision: &Decision<'_>, received: Instant) -> Option<Instant> {
        let dimension = table.routes()?.dimension(decision.dimension?)?;
        (dimension.owner_lease != Lease::Infinite).then(|| received + self.parts.in_flight_max)
    }

    /// The epoch the caller's relay routed with, if it counts as ours do.
    fn min_epoch(&self, request: &Request) -> u64 {
        let source = request.facts.source.as_ref();
        let is_ours = source.is_none_or(|source| source.geo == self.parts.geo);
        if is_ours { request.facts.epoch } else { 0 }
    }

    /// The owner of a key may not have heard of its claim yet.
    fn without_route(&self, request: &Request, policy: &RoutePolicy, error: RouteError) -> RelayError {
        let error = error.of_call(policy.reads);
        let is_unclaimed = matches!(error, RouteError::Unclaimed { .. });
        if is_unclaimed {
            self.parts.claims.ask(&request.hints, policy);
        }
        let error = RelayError::from(error);
        if error.reason == Reason::RoutesAway {
            return error.pushed_back(PUSHBACK);
        }
        error
    }

    fn refusal(
        &self,
        closed: Closed,
        decision: &Decision<'_>,
        (table, request): (&RouteTable, &Request),
    ) -> RelayError {
        let here = &self.parts.place.unit;
        match closed {
            Closed::NotOwner => RelayError {
                token: self.token(decision, table, request).map(Box::new),
                ..wrong_unit(&self.parts.place, decision)
            },
            Closed::Behind => {
                let detail = "this relay has not heard yet of the decision that sent the call here";
                RelayError::new(Reason::RoutesAway, Retry::Safe, detail).pushed_back(PUSHBACK)
            }
            Closed::Frozen => {
                let detail = format!("the key is being moved away from unit {here}; it is there in a moment");
                RelayError::new(Reason::Moving, Retry::Safe, detail).pushed_back(PUSHBACK)
            }
            Closed::NoLease => {
                let detail = format!(
                    "unit {here} owns the key, but this relay has not heard of the route store for too long to know \
                     that it still does"
                );
                RelayError::new(Reason::NoLease, Retry::Safe, detail).pushed_back(PUSHBACK)
            }
        }
    }
}

impl Admission {
    /// Longest time that a service is thought to go on after the caller has gone.
    pub(super) fn in_flight_max(&self) -> Duration {
        self.gate.parts.in_flight_max
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let parts = &self.gate.parts;
        let drained = self
            .gate
            .gate
            .borrow_mut()
            .release(self.registered, || parts.routing.table());
        self.gate.report(drained);
    }
}

/// The unit does not own the key; who does.
pub(super) fn wrong_unit(place: &Place, decision: &Decision<'_>) -> RelayError {
    let detail = format!(
        "unit {} does not own the key; unit {} does, by route table {}",
        place.unit, decision.unit, decision.epoch
    );
    let mut error = RelayError::new(Reason::WrongUnit, Retry::Safe, detail);
    error.owner = Some((decision.unit.clone(), decision.epoch));
    error
}

/// The store is away, and this relay would put the key elsewhere. The caller's relay may know of a claim, so it is not told where
/// (F2 of `control::provisional`).
fn unsure() -> RelayError {
    let detail = "the route store is away, and without it this relay puts the key elsewhere than the caller's does";
    RelayError::new(Reason::RoutesAway, Retry::Safe, detail).pushed_back(PUSHBACK)
}

/// How long a freeze waits for shadows; well below the time a key may be frozen.
const SHADOWS_WAIT: Duration = Duration::from_millis(500);
/// When whoever was refused for a moment should come back.
const PUSHBACK: Duration = Duration::from_millis(25);
