//! How far a move is: what has become of its nodes, which come next, and when it has ended.

use std::time::Duration;

use super::memory::HookState;
use super::{Act, HookCall, Job, LOOK_UNDER_WAY, Mover, Plan, Planned, Sight, Step};
use crate::model::{Name, UnitId};
use crate::routing::record::{Hook, HookSpec, KeyBytes, Move, MoveKind, MoveState, NodeId, RecordId, State};

/// What has become of a node of a move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// It is where it is to be.
    Moved,
    /// It was tried, or others decided otherwise: it stays.
    Stayed,
    /// This move is at it.
    UnderWay,
    /// Nothing has happened yet.
    Untouched,
}

/// What a look at the nodes of a move finds.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    next: u32,
    moved: u32,
    aborted: u32,
    /// Of all nodes that were looked at.
    stayed: u32,
    busy: usize,
}

impl Mover {
    /// Takes the next steps of a move.
    pub(super) fn run(&mut self, sight: &Sight<'_>, job: &Job<'_>, plan: &mut Plan) {
        let mut tally = Tally {
            next: job.work.next,
            moved: job.work.moved,
            aborted: job.work.aborted,
            stayed: job.work.aborted,
            busy: 0,
        };
        for node in sight.routes.moving() {
            if node.state.work() == Some(job.work.id) {
                tally.busy += 1;
                self.advance(sight, job, node, plan);
            }
        }
        let under_way = tally.busy;
        let mut claims = Vec::new();
        self.scan(sight, job, &mut tally, &mut claims, plan);
        if !claims.is_empty() {
            plan.acts.push(Act::Claims(job.work.id, claims));
        }
        if tally.busy > 0 {
            plan.look_again(LOOK_UNDER_WAY);
        }
        if !job.is_held {
            self.note(sight, job, tally, under_way, plan);
        }
    }

    /// Looks at the nodes from the first that is not done, and begins as many as may be under way.
    fn scan(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        tally: &mut Tally,
        claims: &mut Vec<(Name, KeyBytes)>,
        plan: &mut Plan,
    ) {
        let parallel = usize::from(job.work.options.parallel.max(1));
        let is_stopping = job.work.state == MoveState::Aborting;
        let first = usize::try_from(job.work.next).unwrap_or(usize::MAX);
        let mut is_start = true;
        for node in job.work.nodes.iter().skip(first) {
            if tally.busy >= parallel && !is_start && !is_stopping {
                return;
            }
            let fate = self.fate(sight, job.work, node);
            let is_done = match fate {
                Fate::Moved | Fate::Stayed => self.is_told(sight, job, node, fate, plan),
                Fate::UnderWay => false,
                Fate::Untouched if is_stopping => true,
                Fate::Untouched => {
                    if tally.busy < parallel {
                        self.begin(sight, job, node, claims, plan);
                        // It may have turned out that nothing is to be done.
                        tally.busy += usize::from(self.memory.settled(job.work, node).is_none());
                    }
                    false
                }
            };
            tally.stayed += u32::from(fate == Fate::Stayed);
            tally.busy += usize::from(!is_done && matches!(fate, Fate::Moved | Fate::Stayed));
            is_start &= is_done;
            if is_start {
                tally.next += 1;
                tally.moved += u32::from(fate == Fate::Moved);
                tally.aborted += u32::from(fate == Fate::Stayed);
            }
        }
    }

    /// What has become of a node, by its record (V1).
    pub(super) fn fate(&self, sight: &Sight<'_>, work: &Move, node: &NodeId) -> Fate {
        let view = sight.routes.view(node);
        let state = view.map_or(&State::Active, |view| view.state());
        // That its trail has ended decides nothing: whoever ends it may not have heard of this move (T1).
        let is_newer = view.is_some_and(|view| view.decided() > work.since);
        if state.work() == Some(work.id) {
            return Fate::UnderWay;
        }
        if let Some(is_there) = self.memory.settled(work, node) {
            return if is_there { Fate::Moved } else { Fate::Stayed };
        }
        if state.work().is_some() {
            return Fate::Untouched;
        }
        let is_there = match &work.kind {
            MoveKind::Nodes => view.and_then(|view| view.unit()) == Some(&work.to),
            MoveKind::Evacuate { .. } => is_newer && state.takeover().is_some(),
            MoveKind::GiveBack => is_newer && *state == State::Active,
        };
        match (is_there, is_newer) {
            (true, _) => Fate::Moved,
            (false, true) => Fate::Stayed,
            (false, false) => Fate::Untouched,
        }
    }

    /// Whether the application of whoever has the node now knows that it does, and that of whoever did not get it that it did
    /// not. One that cannot be told for long is not waited for: what is decided is decided.
    fn is_told(&mut self, sight: &Sight<'_>, job: &Job<'_>, node: &NodeId, fate: Fate, plan: &mut Plan) -> bool {
        let Some(view) = sight.routes.view(node) else {
            return true;
        };
        let asks = job.work.options.hooks && application(sight, node).is_some();
        if !asks || self.memory.settled(job.work, node).is_some() {
            return true;
        }
        let owner = match (&job.work.kind, view.unit()) {
            (MoveKind::Nodes, Some(owner)) => owner,
            (MoveKind::Nodes, None) => return true,
            _ => &job.work.to,
        };
        let mut tells = vec![(Hook::Activate, owner)];
        if fate == Fate::Stayed && job.work.kind == MoveKind::Nodes {
            tells.push((Hook::Cleanup, &job.work.to));
        }
        let age = self.memory.age(RecordId::Node(node.clone()), view.rev(), sight.now);
        let gives_up = age >= TOLD_MAX;
        let mut are_told = true;
        for tell in tells {
            are_told &= match self.hook(sight, job, node, tell, plan) {
                HookState::Done | HookState::Refused => true,
                // What it is being asked now, it may be doing (T3).
                HookState::Due(_) | HookState::Asked => false,
                HookState::Waits => gives_up,
            };
        }
        are_told
    }

    /// Asks the application of a unit, once. Without one all is done.
    pub(super) fn hook(
        &mut self,
        sight: &Sight<'_>,
        job: &Job<'_>,
        node: &NodeId,
        (hook, unit): (Hook, &UnitId),
        plan: &mut Plan,
    ) -> HookState {
        let Some(spec) = application(sight, node).filter(|_| job.work.options.hooks) else {
            return HookState::Done;
        };
        let view = sight.routes.view(node);
        let owner = view.and_then(|view| view.unit()).filter(|owner| **owner != job.work.to);
        let from = owner.or(view.and_then(|view| view.previous())).cloned();
        // Whoever serves the node from now on is told since when it has it, as its calls say; also if the move was given up.
        let since = view
            .and_then(|view| view.same_term().since)
            .filter(|_| hook == Hook::Activate);
        let call = HookCall {
            by: job.work.id,
            node: node.clone(),
            rev: since.unwrap_or_else(|| sight.routes.rev_of(&RecordId::Node(node.clone()))),
            hook,
            unit: unit.clone(),
            from: from.filter(|_| job.work.kind == MoveKind::Nodes),
            to: job.work.to.clone(),
        };
        let state = self.memory.hook(call, spec, sight.now);
        if let HookState::Due(call) = &state {
            plan.acts.push(Act::Hook(call.clone()));
        }
        state
    }

    /// Writes how far the move is, if that is worth it.
    fn note(&mut self, sight: &Sight<'_>, job: &Job<'_>, tally: Tally, under_way: usize, plan: &mut Plan) {
        let work = job.work;
        let count = u32::try_from(work.nodes.len()).unwrap_or(u32::MAX);
        let is_over = tally.next >= count && under_way == 0;
        let stride = (count / STEPS_NOTED).max(1);
        let too_many = count >= BULK_MIN && tally.stayed.saturating_mul(STAY_MAX) > count;
        let (state, step) = if is_over {
            // Of what was moved it is still known from where.
            let leaves_trail = tally.moved > 0 && work.kind == MoveKind::Nodes;
            let state = if leaves_trail {
                MoveState::Trailing
            } else {
                MoveState::Finished
            };
            (state, Step::End)
        } else if too_many && work.state == MoveState::Running {
            (MoveState::Aborting, Step::Stop)
        } else if tally.next - work.next >= stride && tally.next < count && work.state == MoveState::Running {
            (work.state, Step::Progress)
        } else if let Some(note) = self.memory.note_due(work, sight.now) {
            let work = Move {
                note: Some(note),
                ..work.clone()
            };
            return self.commit(plan, Planned::of_move(sight, job, work, Step::Progress, "note"));
        } else if self.memory.put_off_by(work.id) != work.waits_for.as_ref()
            || self.memory.undelivered_at(work.id) != work.undelivered_at.as_ref()
        {
            let work = Move {
                waits_for: self.memory.put_off_by(work.id).cloned(),
                undelivered_at: self.memory.undelivered_at(work.id).cloned(),
                ..work.clone()
            };
            return self.commit(plan, Planned::of_move(sight, job, work, Step::Progress, "waits"));
        } else {
            return;
        };
        let next = Move {
            state,
            next: if work.state == MoveState::Aborting {
                count
            } else {
                tally.next
            },
            moved: tally.moved,
            aborted: tally.aborted,
            note: self.memory.note(work.id).cloned().or_else(|| work.note.clone()),
            waits_for: self.memory.put_off_by(work.id).cloned(),
            undelivered_at: self.memory.undelivered_at(work.id).cloned(),
            ..work.clone()
        };
        if state == MoveState::Finished {
            return self.finish(sight, job, next, plan);
        }
        self.commit(plan, Planned::of_move(sight, job, next, step, ""));
    }
}

/// The application that is asked about a node; of a unit the first one, since all are asked and answer together.
pub(super) fn application<'a>(sight: &Sight<'a>, node: &NodeId) -> Option<&'a HookSpec> {
    let mut dimensions = sight.routes.book().dimensions.iter();
    match node.dimension() {
        Some(name) => dimensions.find(|spec| spec.name == *name)?.hooks.as_ref(),
        None => dimensions.find_map(|spec| spec.hooks.as_ref()),
    }
}

/// The longest that an application is told again what was decided.
pub(super) const TOLD_MAX: Duration = Duration::from_secs(600);
/// How often it is noted how far a move is, at most.
const STEPS_NOTED: u32 = 20;
/// A move of fewer nodes goes on whatever happens.
const BULK_MIN: u32 = 20;
/// One in so many nodes may stay where it was; more stop a move.
const STAY_MAX: u32 = 20;
