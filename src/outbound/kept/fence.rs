//! Calls of units that are being fenced: nobody writes their keys until others take over.
//!
//! # Invariants
//! - F1. While relays of the unit can be reached, others take over in a moment: calls wait for that, as for any move, for [`PATIENCE`].
//!   A fence that was met so long ago has something else to wait for: calls are kept at once.
//! - F2. What cannot be kept waits as before.
//!
//! # Not here
//! Whether a call is kept (`plan`), waiting (`outbound::parked`).

use std::time::Instant;

use super::clock;
use super::plan::{self, Not};
use crate::model::{CallId, Reason, RelayError, Request, Retry, RoutePolicy, UnitId};
use crate::outbound::parked::PATIENCE;
use crate::outbound::rpc::Rpc;
use crate::routing::RouteTable;
use crate::routing::record::{NodeId, Rev, State};

/// Since when this shard meets the fence of a unit. One is enough: units are evacuated one at a time.
#[derive(Debug, Default)]
pub(super) struct Fence(Option<(UnitId, Rev, Instant)>);

impl Fence {
    /// A call meets the fence that a unit has since this revision; whether calls have met it for so long that waiting is of no use.
    pub(super) fn has_lasted(&mut self, unit: &UnitId, rev: Rev, now: Instant) -> bool {
        match &self.0 {
            Some((known, since, at)) if (known, *since) == (unit, rev) => {
                now.saturating_duration_since(*at) >= PATIENCE
            }
            _ => {
                self.0 = Some((unit.clone(), rev, now));
                false
            }
        }
    }
}

impl Rpc {
    /// How a call of a unit ends that is being evacuated, if it is kept rather than waits (F1).
    pub(in crate::outbound) fn fenced(
        &self,
        table: &RouteTable,
        unit: &UnitId,
        (policy, request): (&RoutePolicy, &Request),
    ) -> Option<RelayError> {
        let calls = self.kept.as_ref()?;
        plan::wanted(policy.away, request)?;
        let rev = fence_of(table, unit).filter(|_| *unit != self.parts.place.unit)?;
        let lasted = calls.fence.borrow_mut().has_lasted(unit, rev, clock());
        if let Some(error) = self.counts_as_away(unit, (policy, request)) {
            return Some(error);
        }
        match self.way(unit) {
            Err(error) => Some(error).filter(plan::is_away),
            Ok(_) if lasted && may_be_kept(policy, request) => {
                let detail = format!("unit {unit} is being evacuated, and nobody has taken over its keys yet");
                Some(RelayError::new(Reason::UnitAway, Retry::Safe, detail))
            }
            Ok(_) => None,
        }
    }

    /// Whether an error says that a call has waited long enough for others to take over from its unit.
    pub(super) fn has_waited_for_takeover(&self, id: CallId, error: &RelayError) -> bool {
        if (error.reason, error.retry) != (Reason::Moving, Retry::Safe) {
            return false;
        }
        let table = self.parts.routing.table();
        let is_fenced = |unit: &UnitId| fence_of(&table, unit).is_some();
        self.calls.with(id, |open| is_fenced(open.record.unit())) == Some(true)
    }
}

/// Whether a call that waits could be kept, or once the rest of it is there (F2).
fn may_be_kept(policy: &RoutePolicy, request: &Request) -> bool {
    let was_perhaps_seen = request.facts.attempt > 0;
    matches!(plan::decide(policy, request, was_perhaps_seen), Ok(_) | Err(Not::Yet))
}

/// Whether the route store says that a unit has its keys no more, or soon.
pub(super) fn is_given_up(table: &RouteTable, unit: &UnitId) -> bool {
    let node = table
        .routes()
        .and_then(|routes| routes.node(&NodeId::Unit(unit.clone())));
    node.is_some_and(|node| matches!(node.state, State::Fencing { .. } | State::Evacuated { .. }))
}

/// Since when a unit is fenced, if it is.
fn fence_of(table: &RouteTable, unit: &UnitId) -> Option<Rev> {
    let node = table.routes()?.node(&NodeId::Unit(unit.clone()))?;
    matches!(node.state, State::Fencing { .. }).then_some(node.rev)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Name;

    // F1: each evacuation is waited for anew, however many calls meet it.
    #[test]
    fn a_fence_has_lasted_when_calls_have_met_it_for_as_long_as_one_waits() {
        let unit = |text| Name::new(text).unwrap();
        let start = tokio::time::Instant::now().into_std();
        let mut fence = Fence::default();
        let mut has_lasted = |name, rev, millis| {
            let now = start + Duration::from_millis(millis);
            fence.has_lasted(&unit(name), Rev(rev), now)
        };
        assert!(!has_lasted("c", 5, 0));
        assert!(!has_lasted("c", 5, 4_999));
        assert!(has_lasted("c", 5, 5_000));
        assert!(has_lasted("c", 5, 60_000));
        assert!(!has_lasted("c", 9, 60_000), "it was given back, and is evacuated again");
        assert!(!has_lasted("b", 9, 70_000));
        assert!(has_lasted("b", 9, 75_000));
    }
}
