//! What a mover remembers. Nothing of it decides who owns a key (V1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Hook, HookCall, Hooked, Planned, Sight};
use crate::control::store::StoreError;
use crate::model::{Name, UnitId};
use crate::routing::record::{Claim, Committed, Epoch, KeyBytes, Move, MoveId, NodeId, OpId, RecordId, Rev};
use crate::routing::{Found, Known};

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    holds: BTreeMap<RecordId, Hold>,
    asked: BTreeMap<OpId, RecordId>,
    /// Since when records are as they are, as far as this mover saw.
    seen: BTreeMap<(RecordId, Rev), Duration>,
    hooks: BTreeMap<HookCall, Calling>,
    claims: BTreeMap<(MoveId, NodeId), Asked>,
    /// Nodes that nothing is to be done with, and whether they belong to the new owner.
    settled: BTreeMap<(MoveId, NodeId), bool>,
}

/// A record that is left alone.
#[derive(Clone, Debug)]
struct Hold {
    until: Until,
    freezes: Option<(UnitId, usize)>,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Answered,
    Copied(Rev),
    Time(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Calling {
    Under,
    Answered(Hooked, Duration),
}

#[derive(Clone, Debug)]
enum Asked {
    Under,
    Answered(Found),
}

/// What is known of a hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HookState {
    /// The application is to be asked.
    Due(HookCall),
    Waits,
    Done,
    Refused,
}

impl Memory {
    /// Forgets what is over.
    pub(super) fn forget(&mut self, sight: &Sight<'_>) {
        let routes = sight.routes;
        let moves: BTreeSet<MoveId> = routes.moves().map(|work| work.id).collect();
        self.seen.retain(|(id, rev), _| routes.rev_of(id) == *rev);
        self.hooks.retain(|call, _| moves.contains(&call.by));
        self.settled.retain(|(by, _), _| moves.contains(by));
        self.claims.retain(|(by, node), _| {
            moves.contains(by) && routes.view(node).is_none_or(|view| view.state().work().is_none())
        });
        self.holds.retain(|_, hold| hold.lasts(sight));
    }

    pub(super) fn is_held(&self, id: &RecordId, sight: &Sight<'_>) -> bool {
        self.holds.get(id).is_some_and(|hold| hold.lasts(sight))
    }

    /// A commit is asked for.
    pub(super) fn hold(&mut self, planned: &Planned) {
        self.asked.insert(planned.commit.op, planned.about.clone());
        let hold = Hold {
            until: Until::Answered,
            freezes: planned.freezes.clone(),
        };
        self.holds.insert(planned.about.clone(), hold);
    }

    pub(super) fn on_committed(&mut self, op: OpId, committed: &Result<Committed, StoreError>, now: Duration) {
        let Some(about) = self.asked.remove(&op) else { return };
        let Some(hold) = self.holds.get_mut(&about) else { return };
        hold.until = match committed {
            Ok(Committed::Done(rev)) => Until::Copied(*rev),
            // It is there no more, or the copy is not where the store is.
            Ok(Committed::Conflict { found, .. }) if *found == Rev::ZERO => Until::Time(now + AGAIN),
            Ok(Committed::Conflict { found, .. }) => Until::Copied(*found),
            Err(StoreError::Broken(_) | StoreError::Denied(_)) => Until::Time(now + LATER),
            Err(_) => Until::Time(now + AGAIN),
        };
        if !matches!(committed, Ok(Committed::Done(_))) {
            hold.freezes = None;
        }
    }

    /// Keys of a unit that are about to be frozen.
    pub(super) fn freezing(&self, unit: &UnitId) -> usize {
        let freezes = self.holds.values().filter_map(|hold| hold.freezes.as_ref());
        freezes.filter(|(of, _)| of == unit).map(|(_, count)| count).sum()
    }

    /// How long a record has been as it is.
    pub(super) fn age(&mut self, id: RecordId, rev: Rev, now: Duration) -> Duration {
        now.saturating_sub(*self.seen.entry((id, rev)).or_insert(now))
    }

    /// How a hook stands; one that is due is called.
    pub(super) fn hook(&mut self, call: HookCall, now: Duration) -> HookState {
        match self.hooks.get(&call) {
            Some(Calling::Answered(Hooked::Done, _)) => HookState::Done,
            // What has moved has moved.
            Some(Calling::Answered(Hooked::Refused, _)) if matches!(call.hook, Hook::Activate | Hook::Cleanup) => {
                HookState::Done
            }
            Some(Calling::Answered(Hooked::Refused, _)) => HookState::Refused,
            Some(Calling::Answered(Hooked::NotYet, at)) if now.saturating_sub(*at) < AGAIN => HookState::Waits,
            Some(Calling::Under) => HookState::Waits,
            Some(Calling::Answered(Hooked::NotYet, _)) | None => {
                self.hooks.insert(call.clone(), Calling::Under);
                HookState::Due(call)
            }
        }
    }

    pub(super) fn on_hook(&mut self, call: &HookCall, hooked: Hooked, now: Duration) {
        if let Some(calling) = self.hooks.get_mut(call) {
            *calling = Calling::Answered(hooked, now);
        }
    }

    /// What is known of a key's claim; `None` while the store is being asked.
    pub(super) fn claim(&self, by: MoveId, node: &NodeId) -> Option<Found> {
        match self.claims.get(&(by, node.clone())) {
            None => Some(Found::Unasked),
            Some(Asked::Under) => None,
            Some(Asked::Answered(found)) => Some(found.clone()),
        }
    }

    pub(super) fn ask_claim(&mut self, by: MoveId, node: &NodeId) {
        self.claims.insert((by, node.clone()), Asked::Under);
    }

    pub(super) fn on_claims(
        &mut self,
        by: MoveId,
        keys: &[(Name, KeyBytes)],
        asked_at: Epoch,
        claims: &Result<(Rev, Vec<Option<Claim>>), StoreError>,
    ) {
        for (index, (dimension, key)) in keys.iter().enumerate() {
            let node = NodeId::Key {
                dimension: dimension.clone(),
                key: key.clone(),
            };
            let claim = claims.as_ref().ok().and_then(|(_, claims)| claims.get(index));
            match claim {
                Some(claim) => {
                    let known = claim.as_ref().map(|claim| Known {
                        target: claim.target.clone(),
                        base: claim.base,
                        as_of: asked_at,
                    });
                    let found = known.map_or(Found::Nothing, Found::Known);
                    self.claims.insert((by, node), Asked::Answered(found));
                }
                // It is asked again.
                None => drop(self.claims.remove(&(by, node))),
            }
        }
    }

    /// Nothing is to be done with a node.
    pub(super) fn settle(&mut self, work: &Move, node: &NodeId, is_there: bool) {
        self.settled.insert((work.id, node.clone()), is_there);
    }

    pub(super) fn settled(&self, work: &Move, node: &NodeId) -> Option<bool> {
        if self.settled.is_empty() {
            return None;
        }
        self.settled.get(&(work.id, node.clone())).copied()
    }
}

impl Hold {
    fn lasts(&self, sight: &Sight<'_>) -> bool {
        match self.until {
            Until::Answered => true,
            Until::Copied(rev) => sight.routes.rev() < rev,
            Until::Time(at) => sight.now < at,
        }
    }
}

/// Until something that was not answered is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// Until something that the store refused is asked again.
const LATER: Duration = Duration::from_secs(2);
