//! The steps of a key, bucket or rule.

use std::time::Duration;

use super::barrier::{Barrier, lease_of};
use super::lives::Settling;
use super::memory::HookState;
use super::plan::Put;
use super::{Job, LOOK_FROZEN, LOOK_UNDER_WAY, Mover, Phase, Plan, Planned, Sight, Step, Why};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Hook, KeyBytes, Lease, MoveKind, MoveState, Node, NodeId, RecordId, Rev, State, Target, Term,
};
use crate::routing::{Found, RouteError, Unmovable};

impl Mover {
    /// S0, if nothing is in the way.
    pub(super) fn begin(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        node: &NodeId,
        claims: &mut Vec<(Name, KeyBytes)>,
        plan: &mut Plan,
    ) {
        if job.is_held || self.memory.is_held(&RecordId::Node(node.clone()), sight) {
            return;
        }
        let work = job.work;
        if work.kind != MoveKind::Nodes {
            return self.begin_unit(sight, job, node, plan);
        }
        if !sight.routes.is_active(&work.to) {
            return self.memory.settle(work, node, false);
        }
        if self.is_cleaned_up(sight, job, node) {
            plan.look_again(LOOK_UNDER_WAY);
            return self.memory.wait(work.id, node, Phase::Hook(Hook::Cleanup));
        }
        let Some(claim) = self.memory.claim(work.id, node) else {
            return;
        };
        match sight.routes.origin(node, &claim) {
            Ok(origin) if origin.unit == work.to => self.memory.settle(work, node, true),
            Ok(origin) => {
                let put = Put {
                    target: Target::Unit(origin.unit),
                    state: State::Migrating {
                        to: work.to.clone(),
                        by: work.id,
                    },
                    term: Term::since(origin.since),
                    previous: sight.routes.view(node).and_then(|view| view.previous().cloned()),
                };
                let mut planned = Planned::of_node(sight, job, node, put, Step::Begin).compare_unit(sight, &work.to);
                planned.compare_at(RecordId::Move(work.id), job.rev);
                for (id, rev) in origin.path {
                    planned.compare_at(id, rev);
                }
                self.commit(plan, planned);
            }
            Err(Unmovable::Busy(_) | Unmovable::NoOwner(RouteError::Behind { .. })) => {}
            Err(Unmovable::NoOwner(RouteError::Unclaimed { .. })) if claim == Found::Unasked => {
                if let NodeId::Key { dimension, key } = node {
                    self.memory.ask_claim(work.id, node);
                    claims.push((dimension.clone(), key.clone()));
                }
            }
            Err(_) => self.memory.settle(work, node, false),
        }
    }

    /// The next step of a node under way.
    pub(super) fn advance(&mut self, sight: &Sight<'_>, job: &Job<'_>, node: &Node, plan: &mut Plan) {
        let age = self.memory.age(RecordId::Node(node.id.clone()), node.rev, sight.now);
        if self.memory.is_held(&RecordId::Node(node.id.clone()), sight) {
            return;
        }
        match (&node.state, &node.target) {
            (State::Migrating { to, .. }, Target::Unit(from)) => {
                // What it waits for is known when it was looked at; until then it is not too late.
                let waited = self.memory.waited(job.work.id, &node.id);
                let late = waited.filter(|waited| {
                    // Nothing was heard yet of the relays that it would wait for.
                    let is_known = !matches!(waited, Phase::Settle | Phase::Deliver) || self.held(job, node).is_some();
                    let limit = job.work.options.copy_limit;
                    age >= if is_known {
                        limit
                    } else {
                        limit.saturating_add(SILENT_MAX)
                    }
                });
                match obstacle(sight, job, (from, to), None).or(late.map(Why::late)) {
                    Some(why) => self.abort(sight, job, node, why, plan),
                    None => self.freeze(sight, job, (node, age), (from, to), plan),
                }
            }
            (State::Frozen { to, .. }, Target::Unit(from)) => {
                plan.look_again(LOOK_FROZEN);
                plan.want_standing();
                let why = obstacle(sight, job, (from, to), Some(node.rev));
                let why = why.or((age >= job.work.options.freeze_budget).then_some(Why::Budget));
                match why {
                    Some(why) => self.abort(sight, job, node, why, plan),
                    None => self.hand_over(sight, job, node, (from, to), plan),
                }
            }
            (State::Fencing { .. } | State::Returning { .. }, _) => self.advance_unit(sight, job, (node, age), plan),
            // What follows another key is never begun.
            _ => self.abort(sight, job, node, Why::Unit, plan),
        }
    }

    /// S1 to S3.
    fn freeze(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        (node, age): (&Node, Duration),
        (from, to): (&UnitId, &UnitId),
        plan: &mut Plan,
    ) {
        for hook in [Hook::Prepare, Hook::Copy, Hook::Lag] {
            match self.hook(sight, job, &node.id, (hook, to), plan) {
                HookState::Done => {}
                HookState::Refused => return self.abort(sight, job, node, Why::Hook, plan),
                HookState::Due(_) | HookState::Asked | HookState::Waits => return,
            }
        }
        let is_ready = self.may_freeze(sight, job, &node.id, from, plan)
            && self.is_delivered_but_for_few(sight, job, (node, age), from, plan);
        if !is_ready {
            return;
        }
        let count = self.weight(&node.id);
        let frozen = self.frozen(sight, from);
        self.memory.wait(job.work.id, &node.id, Phase::Freeze);
        if job.is_held || frozen > 0 && frozen + count > self.limits.frozen_max {
            return;
        }
        let put = Put {
            target: node.target.clone(),
            state: State::Frozen {
                to: to.clone(),
                by: job.work.id,
            },
            term: node.same_term(),
            previous: node.previous.clone(),
        };
        let planned = Planned::of_node(sight, job, &node.id, put, Step::Freeze);
        let mut planned = planned.compare_unit(sight, from).compare_unit(sight, to);
        planned.compare_at(RecordId::Move(job.work.id), job.rev);
        planned.freezes = Some((from.clone(), count));
        self.commit(plan, planned);
    }

    /// Whether relays of a unit can report a freeze; else the move says whom it waits for. The node is served meanwhile.
    pub(super) fn may_freeze(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        node: &NodeId,
        unit: &UnitId,
        plan: &mut Plan,
    ) -> bool {
        match self.memory.lives.settling(unit, self.limits.in_flight_max, sight.now) {
            Settling::Over => return true,
            Settling::Unknown => plan.want_standing(),
            Settling::Waits(relay) => {
                let rev = sight.routes.rev_of(&RecordId::Node(node.clone()));
                let held = format!("relay {relay} was killed and has started again");
                self.memory.note_held(job.work.id, (node, rev), Phase::Settle, held);
                self.memory.put_off(job.work.id, relay);
            }
        }
        self.memory.wait(job.work.id, node, Phase::Settle);
        false
    }

    /// Whether few messages of a node wait at its unit (S2): all must be delivered while it is frozen. It is served meanwhile.
    fn is_delivered_but_for_few(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        (node, age): (&Node, Duration),
        unit: &UnitId,
        plan: &mut Plan,
    ) -> bool {
        let barrier = self.barrier(sight, job, node, unit);
        let many = barrier.has_many(sight.standing, SILENT_MAX);
        if many == Ok(None) {
            return true;
        }
        plan.want_standing();
        // Mostly none waits: then the copy is not to grow old for this. What is under way is looked at again anyway.
        if age < AT_ONCE {
            plan.look_again(LOOK_FROZEN);
        }
        if let Some(relay) = many.ok().flatten() {
            let held = format!("at relay {relay}");
            self.memory
                .note_held(job.work.id, (&node.id, node.rev), Phase::Deliver, held);
            // What is over in a moment is not worth a commit.
            if age >= AT_ONCE {
                self.memory.note_undelivered(job.work.id, relay);
            }
        }
        self.memory.wait(job.work.id, &node.id, Phase::Deliver);
        false
    }

    fn barrier<'a>(&self, sight: &Sight<'_>, job: &Job<'_>, node: &'a Node, unit: &'a UnitId) -> Barrier<'a> {
        let dimension = node.id.dimension();
        Barrier {
            by: job.work.id,
            node: &node.id,
            rev: node.rev,
            units: vec![unit],
            lease: dimension.map_or(Lease::Infinite, |dimension| lease_of(sight.routes, dimension)),
            in_flight_max: self.limits.in_flight_max,
        }
    }

    /// S4 and S5.
    fn hand_over(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        node: &Node,
        (from, to): (&UnitId, &UnitId),
        plan: &mut Plan,
    ) {
        let barrier = self.barrier(sight, job, node, from);
        let is_passed = sight.standing.is_some_and(|standing| barrier.is_passed(standing));
        if !is_passed {
            if let Some(held) = sight.standing.and_then(|standing| barrier.held_by(standing)) {
                self.memory
                    .note_held(job.work.id, (&node.id, node.rev), Phase::Drain, held);
            }
            return self.memory.wait(job.work.id, &node.id, Phase::Drain);
        }
        // Only now: before, a call that was let through could still reach an application that has said it is done.
        for hook in [(Hook::Quiesce, from), (Hook::FinalSync, to)] {
            match self.hook(sight, job, &node.id, hook, plan) {
                HookState::Done => {}
                HookState::Refused => return self.abort(sight, job, node, Why::Hook, plan),
                HookState::Due(_) | HookState::Asked | HookState::Waits => return,
            }
        }
        let put = Put {
            target: Target::Unit(to.clone()),
            state: State::Active,
            term: Term::default(),
            previous: Some(from.clone()),
        };
        let planned = Planned::of_node(sight, job, &node.id, put, Step::Commit);
        self.commit(plan, planned.compare_unit(sight, from).compare_unit(sight, to));
    }

    /// The node stays where it is; compares the revision that a commit would compare (R-I10).
    pub(super) fn abort(&mut self, sight: &Sight<'_>, job: &Job<'_>, node: &Node, why: Why, plan: &mut Plan) {
        let state = match &node.state {
            State::Returning { takeover, .. } => State::Evacuated {
                takeover: takeover.clone(),
            },
            _ => State::Active,
        };
        let put = Put {
            target: node.target.clone(),
            state,
            term: node.same_term(),
            previous: node.previous.clone(),
        };
        let planned = Planned::of_node(sight, job, &node.id, put, Step::Abort(why));
        let planned = planned.because(why.as_str());
        let more = match why {
            Why::Hook => self.memory.refusal(job.work.id, &node.id),
            Why::Budget | Why::Messages | Why::Settle => self.held(job, node).map(str::to_owned),
            Why::CopyLimit => match (self.memory.waited(job.work.id, &node.id), &node.state) {
                (Some(Phase::Hook(hook)), State::Migrating { to, .. }) => {
                    Some(format!("it waited for {hook} at unit {to}"))
                }
                _ => None,
            },
            _ => None,
        };
        let planned = match more {
            Some(more) => planned.because(&more),
            None => planned,
        };
        self.commit(plan, planned);
    }

    /// What a node waited for when it was looked at last, in words.
    fn held(&self, job: &Job<'_>, node: &Node) -> Option<&str> {
        let phase = if node.state.is_frozen() {
            Phase::Drain
        } else {
            self.memory.waited(job.work.id, &node.id)?
        };
        self.memory.held_by(job.work.id, &node.id, phase)
    }

    /// Keys of a unit that are frozen, or about to be.
    fn frozen(&self, sight: &Sight<'_>, unit: &UnitId) -> usize {
        let frozen = sight
            .routes
            .moving()
            .filter(|node| matches!(node.state, State::Frozen { .. }) && node.target.unit() == Some(unit));
        frozen.map(|node| self.weight(&node.id)).sum::<usize>() + self.memory.freezing(unit)
    }

    fn weight(&self, id: &NodeId) -> usize {
        match id {
            NodeId::Key { .. } => 1,
            _ => self.limits.frozen_max,
        }
    }
}

/// Why a node cannot go on; a frozen one also if something was decided about a unit since (V3).
fn obstacle(sight: &Sight<'_>, job: &Job<'_>, (from, to): (&UnitId, &UnitId), frozen_at: Option<Rev>) -> Option<Why> {
    let unit = |unit: &UnitId| sight.routes.view(&NodeId::Unit(unit.clone()));
    let is_source = unit(from).is_none_or(|view| matches!(view.state(), State::Active | State::Draining));
    let is_newer = |name| unit(name).is_some_and(|view| frozen_at.is_some_and(|rev| view.rev() > rev));
    if job.work.state == MoveState::Aborting {
        Some(Why::Stopped)
    } else if !sight.routes.is_active(to) {
        Some(Why::Destination)
    } else if !is_source || is_newer(from) || is_newer(to) {
        Some(Why::Unit)
    } else {
        None
    }
}

/// Messages that are delivered within this time are waited for without a word.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A relay that was not heard of for so long says nothing about its messages soon.
const SILENT_MAX: Duration = Duration::from_secs(3);
