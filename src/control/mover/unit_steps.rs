//! The steps of a whole unit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::barrier::{Barrier, longest_lease};
use super::memory::HookState;
use super::plan::Put;
use super::units::same_term;
use super::{Job, LOOK_FROZEN, LOOK_UNDER_WAY, Mover, Plan, Planned, Sight, Step, Why};
use crate::model::UnitId;
use crate::routing::NodeView;
use crate::routing::record::{Hook, MoveKind, MoveState, Node, NodeId, Record, RecordId, State, Target, Term};

/// Units and weights.
type Shares = Vec<(UnitId, u16)>;

impl Mover {
    /// Fences a unit, or freezes its keys where they are.
    pub(super) fn begin_unit(&mut self, sight: &Sight<'_>, job: &Job<'_>, id: &NodeId, plan: &mut Plan) {
        let NodeId::Unit(unit) = id else {
            return self.memory.settle(job.work, id, false);
        };
        let state = sight.routes.view(id).map_or(&State::Active, |view| view.state());
        let state = match (&job.work.kind, state) {
            (MoveKind::Evacuate { takeover, .. }, State::Active | State::Draining) => {
                if heirs(sight, unit, takeover).is_empty() {
                    return self.memory.settle(job.work, id, false);
                }
                State::Fencing { by: job.work.id }
            }
            (MoveKind::GiveBack, State::Evacuated { takeover }) => {
                match self.is_ready(sight, job, id, plan) {
                    Some(true) => {}
                    Some(false) => return self.memory.settle(job.work, id, false),
                    None => return,
                }
                for (holder, _) in takeover {
                    if !self.may_freeze(sight, job, id, holder, plan) {
                        return;
                    }
                }
                State::Returning {
                    takeover: takeover.clone(),
                    by: job.work.id,
                }
            }
            _ => return self.memory.settle(job.work, id, false),
        };
        let put = Put {
            target: Target::Unit(unit.clone()),
            state,
            term: same_term(sight.routes, unit),
            previous: None,
        };
        let mut planned = Planned::of_node(sight, job, id, put, Step::Freeze);
        planned.compare_at(RecordId::Move(job.work.id), job.rev);
        if let MoveKind::Evacuate { takeover, .. } = &job.work.kind {
            // Units that are evacuated to each other at once would wait for ever.
            for (heir, _) in heirs(sight, unit, takeover) {
                planned = planned.compare_unit(sight, &heir);
            }
        }
        self.commit(plan, planned);
    }

    /// Whether a unit can have its keys back: a relay of it is alive, and the application has copied. `None`: not yet known.
    fn is_ready(&mut self, sight: &Sight<'_>, job: &Job<'_>, id: &NodeId, plan: &mut Plan) -> Option<bool> {
        plan.want_standing();
        plan.look_again(LOOK_UNDER_WAY);
        let rev = sight.routes.rev_of(&RecordId::Node(id.clone()));
        let age = self.memory.age(RecordId::Node(id.clone()), rev, sight.now);
        let standing = sight.standing?;
        let is_alive = standing.relays.iter().any(|relay| {
            let heard = relay.silent_for.is_some_and(|silent| silent < self.limits.silent_max);
            relay.relay.unit == job.work.to && heard
        });
        if !is_alive || age >= job.work.options.copy_limit {
            return Some(false);
        }
        for hook in [Hook::Prepare, Hook::Copy, Hook::Lag] {
            match self.hook(sight, job, id, (hook, &job.work.to), plan) {
                HookState::Done => {}
                HookState::Refused => return Some(false),
                HookState::Due(_) | HookState::Asked | HookState::Waits => return None,
            }
        }
        Some(true)
    }

    /// The next step of a unit whose keys are frozen.
    pub(super) fn advance_unit(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        (node, age): (&Node, Duration),
        plan: &mut Plan,
    ) {
        plan.look_again(LOOK_FROZEN);
        plan.want_standing();
        let is_back = matches!(node.state, State::Returning { .. });
        if job.work.state == MoveState::Aborting {
            return self.abort(sight, job, node, Why::Stopped, plan);
        }
        if is_back && age >= job.work.options.freeze_budget {
            return self.abort(sight, job, node, Why::Budget, plan);
        }
        let NodeId::Unit(unit) = &node.id else { return };
        let holders = match &node.state {
            State::Returning { takeover, .. } => takeover.iter().map(|(unit, _)| unit).collect(),
            _ => vec![unit],
        };
        let barrier = Barrier {
            by: job.work.id,
            node: &node.id,
            rev: node.rev,
            units: holders,
            lease: longest_lease(sight.routes, accepts_dual(&job.work.kind)),
            in_flight_max: self.limits.in_flight_max,
        };
        if !sight.standing.is_some_and(|standing| barrier.is_passed(standing)) {
            return;
        }
        match &job.work.kind {
            MoveKind::Evacuate { takeover, .. } if !is_back => self.evacuate(sight, job, (unit, node), takeover, plan),
            MoveKind::GiveBack if is_back => {
                let hooked = self.hook(sight, job, &node.id, (Hook::FinalSync, unit), plan);
                if hooked == HookState::Done {
                    let put = at_rest(unit, State::Active, Term::default());
                    self.commit(plan, Planned::of_node(sight, job, &node.id, put, Step::Commit));
                } else if hooked == HookState::Refused {
                    self.abort(sight, job, node, Why::Hook, plan);
                }
            }
            _ => self.abort(sight, job, node, Why::Unit, plan),
        }
    }

    /// Others take over the unit's keys, and those that it had taken over (V6).
    fn evacuate(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        (unit, node): (&UnitId, &Node),
        takeover: &[(UnitId, u16)],
        plan: &mut Plan,
    ) {
        let heirs = heirs(sight, unit, takeover);
        if heirs.is_empty() {
            // Its keys wait until there is somebody, or an operator stops the work.
            return plan.look_again(LOOK_UNDER_WAY);
        }
        let put = at_rest(
            unit,
            State::Evacuated {
                takeover: heirs.clone(),
            },
            Term::default(),
        );
        let mut planned = Planned::of_node(sight, job, &node.id, put, Step::Commit);
        for (heir, _) in heirs.iter().chain(takeover) {
            planned = planned.compare_unit(sight, heir);
        }
        let op = planned.commit.op;
        for other in &sight.routes.book().units {
            let id = NodeId::Unit(other.clone());
            let Some(view) = sight.routes.view(&id) else { continue };
            let NodeView::Whole(before) = view else { continue };
            let Some((state, term)) = without(before, unit, &heirs) else {
                continue;
            };
            planned.compare_at(RecordId::Node(id.clone()), view.rev());
            let put = at_rest(other, state, term);
            let mut rewritten = Planned::of_node(sight, job, &id, put, Step::Commit).commit.puts;
            for record in &mut rewritten {
                if let Record::Node(node) = record {
                    node.op = op;
                }
            }
            planned.commit.puts.append(&mut rewritten);
        }
        self.commit(plan, planned);
    }
}

/// The state of a unit that `gone` may have keys of, without it. Those that stay keep their weights, so no key moves between
/// them; if nobody stays, all keys of the unit were at `gone`, and are frozen.
///
/// Those that stay keep what they have since they had it; only what `gone` had gets another owner now.
fn without(node: &Node, gone: &UnitId, heirs: &Shares) -> Option<(State, Term)> {
    let before = node.state.takeover()?;
    if !before.iter().any(|(unit, _)| unit == gone) {
        return None;
    }
    let stay: Shares = before.iter().filter(|(unit, _)| unit != gone).cloned().collect();
    let has_keys = stay.iter().any(|(_, weight)| *weight > 0);
    let mut term = Term::default();
    if has_keys {
        term.earlier.clone_from(&node.term.earlier);
        term.earlier.push((before.to_vec(), node.since()));
    }
    let takeover = if has_keys { stay } else { heirs.clone() };
    let state = match &node.state {
        State::Returning { by, .. } => State::Returning { takeover, by: *by },
        _ => State::Evacuated { takeover },
    };
    Some((state, term))
}

/// Those of the units that can take over now. For one that was evacuated itself those stand in who have its keys: all that is
/// given away is frozen, so it may go to anybody.
fn heirs(sight: &Sight<'_>, unit: &UnitId, takeover: &[(UnitId, u16)]) -> Shares {
    let mut heirs = BTreeMap::new();
    for (heir, weight) in takeover {
        let id = NodeId::Unit(heir.clone());
        let state = sight.routes.view(&id).map_or(&State::Active, |view| view.state());
        let own = [(heir.clone(), *weight)];
        for (heir, weight) in state.takeover().unwrap_or(&own) {
            if *weight > 0 && heir != unit && takes_keys(sight, heir) {
                heirs.insert(heir.clone(), *weight);
            }
        }
    }
    heirs.into_iter().collect()
}

/// Whether a unit serves what it has. One that is drained does.
fn takes_keys(sight: &Sight<'_>, unit: &UnitId) -> bool {
    let view = sight.routes.view(&NodeId::Unit(unit.clone()));
    let is_there = sight.routes.book().units.contains(unit);
    is_there && view.is_none_or(|view| matches!(view.state(), State::Active | State::Draining))
}

fn at_rest(unit: &UnitId, state: State, term: Term) -> Put {
    Put {
        target: Target::Unit(unit.clone()),
        state,
        term,
        previous: None,
    }
}

fn accepts_dual(kind: &MoveKind) -> bool {
    matches!(kind, MoveKind::Evacuate { accept_dual: true, .. })
}
