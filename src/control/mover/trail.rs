//! S7 and S8: for a while the source still knows where a node went.
//!
//! # Invariants
//! - T1. The trail of a node that another move is to move stays until that one has: its data at the old owner stays as well, which may
//!   be where it goes. Who ends a trail may hear of that move too late, so what it writes says that it decided nothing
//!   ([`Term::is_swept`](crate::routing::record::Term::is_swept)), and the node moves all the same.
//! - T2. A move clears the trail that it has laid, and none that a later one has laid to the same unit.
//! - T3. Nothing is copied to a unit whose application may still be asked to forget the node: the record says so before it is asked, and
//!   no move of the node begins before that is over: one to a third unit would take the mark off the record, and the one behind it may lead
//!   there. The same goes for a unit that did not get a node, while the move lasts that was given up. An application that could not be
//!   asked is not waited for for ever: each life of a driver asks for [`TOLD_MAX`] at most, and is waited for a little longer. What a relay
//!   that is gone had asked is not known.

use std::collections::BTreeSet;
use std::time::Duration;

use super::memory::HookState;
use super::plan::operation;
use super::progress::{TOLD_MAX, application};
use super::{Job, LOOK_AT_TRAIL, Mover, Phase, Plan, Planned, Sight, Step};
use crate::model::UnitId;
use crate::routing::NodeView;
use crate::routing::record::{Commit, Hook, Move, MoveId, MoveState, Node, NodeId, Record, RecordId, Rev, State};

impl Mover {
    /// After its time, has the application of the old owner clean up, then forgets the old owner, some nodes at a time.
    pub(super) fn clear_trail(&mut self, sight: &Sight<'_>, job: &Job<'_>, plan: &mut Plan) {
        let age = self.memory.age(RecordId::Move(job.work.id), job.rev, sight.now);
        if job.is_held {
            return;
        }
        let left = job.work.options.trail.saturating_sub(age);
        // A driver that came later, or has started again, knows of a mark that the time was over: moves may wait for that.
        let is_marked = |id| {
            let view = sight.routes.view(id);
            view.is_some_and(|view| view.cleaned_up().is_some() && view.unit() == Some(&job.work.to))
        };
        if !left.is_zero() && !job.work.nodes.iter().any(is_marked) {
            if let Some(node) = job.work.nodes.first() {
                self.memory.wait(job.work.id, node, Phase::Trail);
            }
            return plan.look_again(left.min(LOOK_AT_TRAIL));
        }
        let others = sight.routes.moves().filter(|other| other.state == MoveState::Running);
        let wanted: BTreeSet<_> = others.flat_map(|other| &other.nodes).collect();
        let mut written: Vec<Node> = Vec::new();
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
            if written.iter().any(|other| other.id == node.id) {
                continue;
            }
            let asks = job.work.options.hooks && application(sight, id).is_some();
            let is_marked = node.cleaned_up().is_some();
            if !is_marked && !left.is_zero() {
                continue;
            }
            if wanted.contains(id) && !is_marked {
                waits = true;
                continue;
            }
            if asks && !is_marked {
                // T3
                written.push(swept(node, node.previous.clone()));
            } else {
                let age = self.memory.age(RecordId::Node(id.clone()), node.rev, sight.now);
                let gives_up = age >= TOLD_MAX;
                match self.hook(sight, job, id, (Hook::Cleanup, from), plan) {
                    HookState::Done | HookState::Refused => written.push(swept(node, None)),
                    HookState::Waits if gives_up => written.push(swept(node, None)),
                    HookState::Due(_) | HookState::Asked | HookState::Waits => waits = true,
                }
            }
            if written.len() >= TOGETHER_MAX {
                break;
            }
        }
        if !written.is_empty() {
            self.commit(plan, cleared(sight, job, written));
        } else if waits {
            plan.look_again(super::LOOK_UNDER_WAY);
        } else if !left.is_zero() {
            plan.look_again(left.min(LOOK_AT_TRAIL));
        } else {
            self.finish(sight, job, job.work.clone(), plan);
        }
    }

    /// Whether an application may be asked now to forget what is to be copied there, by this move or the one behind it (T3).
    /// Not for longer than whoever asks it goes on, counted anew with each life of a driver.
    pub(super) fn is_cleaned_up(&mut self, sight: &Sight<'_>, job: &Job<'_>, id: &NodeId) -> bool {
        let Some(view) = sight.routes.view(id) else {
            return false;
        };
        let (decided, owner) = (view.decided(), view.unit());
        let age = self.memory.age(RecordId::Node(id.clone()), view.rev(), sight.now);
        // Who drives that move since a moment ago asks anew, and for as long as any.
        let age_of = |other: &Move| age.min(self.drivers.age(other.id, sight.now));
        if view.cleaned_up().is_some() {
            let asks = |other: &&Move| {
                other.state == MoveState::Trailing && Some(&other.to) == owner && other.nodes.contains(id)
            };
            let youngest = sight.routes.moves().filter(asks).map(age_of).min();
            // A relay of an earlier version that drives the other move waits for this one.
            return youngest.unwrap_or(age) < (TOLD_MAX + ASKED_MAX) * 2;
        }
        // Each waits only for what was asked for before it, so no two wait for each other.
        let was_given_up = |other: &Move| {
            let is_under_way = matches!(other.state, MoveState::Running | MoveState::Aborting);
            let is_there = is_under_way && other.id != job.work.id && other.to == job.work.to && other.options.hooks;
            let tried = is_there && other.since < decided && decided <= job.work.since && owner != Some(&other.to);
            let next = usize::try_from(other.next).unwrap_or(usize::MAX);
            tried && other.nodes.iter().skip(next).any(|node| node == id)
        };
        let mut asks = sight.routes.moves().filter(|other| was_given_up(other));
        application(sight, id).is_some() && asks.any(|other| age_of(other) < TOLD_MAX + ASKED_MAX)
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

/// The record of a node of which the old owner is to be forgotten, or is.
fn swept(node: &Node, previous: Option<UnitId>) -> Node {
    Node {
        previous,
        term: node.same_term().swept(),
        ..node.clone()
    }
}

fn cleared(sight: &Sight<'_>, job: &Job<'_>, nodes: Vec<Node>) -> Planned {
    let about = RecordId::Move(job.work.id);
    let first = nodes
        .first()
        .map_or(about.clone(), |node| RecordId::Node(node.id.clone()));
    let rev = sight.routes.rev_of(&first);
    let op = operation(sight, job.work.id, &first, Step::ClearTrail, rev, "");
    let compares: Vec<_> = nodes
        .iter()
        .map(|node| (RecordId::Node(node.id.clone()), node.rev))
        .collect();
    let puts = nodes.into_iter().map(|node| {
        Record::Node(Node {
            rev: Rev::ZERO,
            op,
            ..node
        })
    });
    Planned {
        commit: Commit {
            op,
            compares,
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

/// One question takes no longer, with the time for which it waits for its turn.
const ASKED_MAX: Duration = Duration::from_secs(120);
/// Nodes that are written at once.
const TOGETHER_MAX: usize = 50;
