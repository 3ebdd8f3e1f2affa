//! Whether everybody who could admit writes of a frozen node has stopped (R-3.9 S4, R-D7).

use std::collections::BTreeSet;
use std::time::Duration;

use super::Standing;
use crate::control::store::RelayStanding;
use crate::model::{Name, UnitId};
use crate::routing::Routes;
use crate::routing::lease::is_expired;
use crate::routing::record::{FreezeAck, Lease, MoveId, NodeId, Placement, RelayId, Rev};

/// A freeze that is waited for, or what is to come before it.
#[derive(Clone, Debug)]
pub(super) struct Barrier<'a> {
    pub(super) by: MoveId,
    pub(super) node: &'a NodeId,
    /// The revision that froze the node, or began to move it. Reports about another one are worth nothing (R-R6).
    pub(super) rev: Rev,
    /// Whose relays could admit writes.
    pub(super) units: Vec<&'a UnitId>,
    /// The longest under which they could.
    pub(super) lease: Lease,
    pub(super) in_flight_max: Duration,
}

impl Barrier<'_> {
    /// Whether all have stopped. What was heard before the freeze was known does not count: a relay may have come since.
    pub(super) fn is_passed(&self, standing: &Standing) -> bool {
        let mut concerned = standing.relays.iter().filter(|relay| self.concerns(relay));
        standing.at >= self.rev && concerned.all(|relay| self.has_stopped(relay))
    }

    /// A relay that is waited for before the node can be frozen (S2): it has not said yet that few messages of it wait there.
    /// Who is silent is not waited for: whether it may hold up a freeze is decided when there is one. `None`: nobody.
    ///
    /// # Errors
    /// The relays are to be asked for anew.
    pub(super) fn has_many(&self, standing: Option<&Standing>, silent_max: Duration) -> Result<Option<RelayId>, ()> {
        let standing = standing.filter(|standing| standing.at >= self.rev).ok_or(())?;
        let is_there = |relay: &&RelayStanding| relay.silent_for.is_some_and(|silent| silent < silent_max);
        let mut concerned = standing
            .relays
            .iter()
            .filter(|relay| self.concerns(relay))
            .filter(is_there);
        Ok(concerned
            .find(|relay| !self.has_reported(relay))
            .map(|relay| relay.relay.clone()))
    }

    /// What holds the freeze up, as a relay has said that it waits for; for people.
    pub(super) fn held_by(&self, standing: &Standing) -> Option<String> {
        let mut concerned = standing
            .relays
            .iter()
            .filter(|relay| self.concerns(relay) && !self.has_stopped(relay));
        concerned.find_map(|relay| {
            let ack = relay.acks.iter().find(|ack| self.is_about(ack, relay))?;
            Some(format!(
                "it waited for {} at relay {}",
                ack.held_by.as_ref()?,
                relay.relay
            ))
        })
    }

    fn concerns(&self, relay: &RelayStanding) -> bool {
        self.units.contains(&&relay.relay.unit)
    }

    fn has_reported(&self, relay: &RelayStanding) -> bool {
        relay.acks.iter().any(|ack| self.is_about(ack, relay) && ack.drained)
    }

    fn is_about(&self, ack: &FreezeAck, relay: &RelayStanding) -> bool {
        let is_this_freeze = (ack.by, &ack.node, ack.rev) == (self.by, self.node, self.rev);
        is_this_freeze && ack.session == relay.session
    }

    fn has_stopped(&self, relay: &RelayStanding) -> bool {
        self.has_reported(relay) || is_expired(relay.silent_for, self.lease, self.in_flight_max)
    }
}

/// The longest lease under which a relay may admit writes of keys of this dimension: keys that follow one go by their own.
pub(super) fn lease_of(routes: &Routes, dimension: &Name) -> Lease {
    let dimensions = &routes.book().dimensions;
    let mut reached: BTreeSet<&Name> = BTreeSet::from([dimension]);
    for _ in dimensions {
        let before = reached.len();
        for spec in dimensions {
            if let Placement::Claim(rules) = &spec.placement
                && rules
                    .iter()
                    .filter_map(|rule| rule.follow.as_ref())
                    .any(|follow| reached.contains(follow))
            {
                reached.insert(&spec.name);
            }
        }
        if reached.len() == before {
            break;
        }
    }
    let leases = dimensions.iter().filter(|spec| reached.contains(&spec.name));
    leases.map(|spec| spec.owner_lease).max().unwrap_or(Lease::Infinite)
}

/// The longest lease of all dimensions; with `only_ending`, of those that end.
pub(super) fn longest_lease(routes: &Routes, only_ending: bool) -> Lease {
    let leases = routes.book().dimensions.iter().map(|spec| spec.owner_lease);
    let ending = leases.filter(|lease| !only_ending || *lease != Lease::Infinite);
    ending.max().unwrap_or_default()
}
