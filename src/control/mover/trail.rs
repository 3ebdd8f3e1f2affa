//! S7 and S8: for a while the source still knows where a node went.
//!
//! # Invariants
//! - T1. The trail of a node that another move is to move stays until that one has: its data at the old owner stays as well, which may
//!   be where it goes. Who ends a trail may hear of that move too late, so what it writes says that it decided nothing
//!   ([`Term::is_swept`](crate::routing::record::Term::is_swept)), and the node moves all the same.
//! - T2. A move clears the trail that it has laid, and none that a later one has laid to the same unit.

use std::collections::BTreeSet;

use super::memory::HookState;
use super::plan::operation;
use super::progress::TOLD_MAX;
use super::{Job, LOOK_AT_TRAIL, Mover, Phase, Plan, Planned, Sight, Step};
use crate::routing::NodeView;
use crate::routing::record::{Commit, Hook, Move, MoveId, MoveState, Node, Record, RecordId, Rev, State};

impl Mover {
    /// After its time, has the application of the old owner clean up, then forgets the old owner, some nodes at a time.
    pub(super) fn clear_trail(&mut self, sight: &Sight<'_>, job: &Job<'_>, plan: &mut Plan) {
        let age = self.memory.age(RecordId::Move(job.work.id), job.rev, sight.now);
        if job.is_held {
            return;
        }
        let left = job.work.options.trail.saturating_sub(age);
        let gives_up = age >= job.work.options.trail + TOLD_MAX;
        if !left.is_zero() {
            if let Some(node) = job.work.nodes.first() {
                self.memory.wait(job.work.id, node, Phase::Trail);
            }
            return plan.look_again(left.min(LOOK_AT_TRAIL));
        }
        let others = sight.routes.moves().filter(|other| other.state == MoveState::Running);
        let wanted: BTreeSet<_> = others.flat_map(|other| &other.nodes).collect();
        let mut clean = Vec::new();
        let mut waits = false;
        for id in &job.work.nodes {
            let Some(NodeView::Whole(node)) = sight.routes.view(id) else {
                continue;
            };
            let is_there = node.state == State::Active && node.target.unit() == Some(&job.work.to);
            // Given to this unit again after this move was done: by another one, whose trail it is (T2).
            let is_ours = is_there && node.since() <= job.rev;
            let Some(from) = node.previous.as_ref().filter(|_| is_ours) else {
                continue;
            };
            if clean.iter().any(|other: &&Node| other.id == node.id) {
                continue;
            }
            if wanted.contains(id) {
                waits = true;
                continue;
            }
            match self.hook(sight, job, id, (Hook::Cleanup, from), plan) {
                HookState::Done | HookState::Refused => clean.push(node),
                HookState::Due(_) | HookState::Waits if gives_up => clean.push(node),
                HookState::Due(_) | HookState::Waits => waits = true,
            }
            if clean.len() >= TOGETHER_MAX {
                break;
            }
        }
        if !clean.is_empty() {
            self.commit(plan, cleared(sight, job, &clean));
        } else if waits {
            plan.look_again(super::LOOK_UNDER_WAY);
        } else {
            self.finish(sight, job, job.work.clone(), plan);
        }
    }

    /// S8: ends a move for good. Of those that finished before, the oldest are removed: they are kept for people only.
    pub(super) fn finish(&mut self, sight: &Sight<'_>, job: &Job<'_>, work: Move, plan: &mut Plan) {
        let work = Move {
            state: MoveState::Finished,
            ..work
        };
        let mut planned = Planned::of_move(sight, job, work, Step::End, "");
        for (rev, id) in too_old(sight, job.work.nodes.len()).into_iter().take(TOGETHER_MAX) {
            planned.compare_at(RecordId::Move(id), rev);
            planned.commit.removes.push(RecordId::Move(id));
        }
        self.commit(plan, planned);
    }
}

/// Finished moves that are not kept beside one that finishes now and names so many nodes.
fn too_old(sight: &Sight<'_>, nodes: usize) -> Vec<(Rev, MoveId)> {
    let mut finished: Vec<_> = sight.routes.finished_moves().collect();
    finished.sort_unstable_by_key(|(_, rev, _)| std::cmp::Reverse(*rev));
    let mut kept = (1, nodes);
    let newer = finished.iter().take_while(|(.., nodes)| {
        kept = (kept.0 + 1, kept.1.saturating_add(*nodes));
        kept.0 <= Move::FINISHED_MAX && kept.1 <= Move::FINISHED_NODES_MAX
    });
    let newer = newer.count();
    let mut old: Vec<_> = finished.into_iter().skip(newer).map(|(id, rev, _)| (rev, id)).collect();
    old.sort_unstable();
    old
}

fn cleared(sight: &Sight<'_>, job: &Job<'_>, nodes: &[&Node]) -> Planned {
    let about = RecordId::Move(job.work.id);
    let first = nodes
        .first()
        .map_or(about.clone(), |node| RecordId::Node(node.id.clone()));
    let rev = sight.routes.rev_of(&first);
    let op = operation(sight, job.work.id, &first, Step::ClearTrail, rev, "");
    let compares = nodes.iter().map(|node| (RecordId::Node(node.id.clone()), node.rev));
    let puts = nodes.iter().map(|node| {
        Record::Node(Node {
            previous: None,
            term: node.same_term().swept(),
            rev: Rev::ZERO,
            op,
            ..(*node).clone()
        })
    });
    Planned {
        commit: Commit {
            op,
            compares: compares.collect(),
            puts: puts.collect(),
            removes: Vec::new(),
        },
        by: job.work.id,
        about,
        step: Step::ClearTrail,
        was_trailing: true,
        freezes: None,
    }
}

/// Nodes that are written at once.
const TOGETHER_MAX: usize = 50;
