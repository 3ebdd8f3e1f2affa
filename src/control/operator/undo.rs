//! Takes back what a move did: its keys go where they came from, by moves of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::moves::missing;
use super::{Answer, MoveAsk, Operator, OperatorError, Plan, Undo, Undone, Which};
use crate::control::store::{Store, StoreError};
use crate::model::UnitId;
use crate::routing::record::{Change, Move, MoveId, MoveKind, MoveState, NodeId, Record, RecordId, State, Target};

impl Operator {
    /// Begins a move for each unit that gets keys back, or only says what they would do.
    ///
    /// Each of them is a move like any other: what has moved on since, or is being moved, stays.
    pub(super) async fn undo(&self, ask: Undo, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let reading = self.store().read(vec![RecordId::Move(ask.id)]).await?;
        let Some(Record::Move(work)) = reading.found.into_iter().flatten().find_map(|change| change.record) else {
            return Err(missing(ask.id));
        };
        is_over(&work)?;
        let mut origins: BTreeMap<UnitId, Vec<Which>> = BTreeMap::new();
        let mut stay = 0;
        for (node, from) in self.origins(&work).await? {
            match from {
                Some(unit) => origins.entry(unit).or_default().push(Which::Node(node)),
                None => stay += 1,
            }
        }
        let mut plans: Vec<Plan> = Vec::new();
        for (number, (to, what)) in (0..).zip(origins) {
            let back = MoveAsk {
                what,
                to,
                options: work.options.clone(),
                dry_run: ask.dry_run,
                reason: format!("takes back move {}", ask.id),
                who: ask.who.clone(),
            };
            // Each gets a number of its own.
            match self.start(back, now, dice.wrapping_add(number << 64)).await? {
                Answer::Plan(plan) => plans.push(plan),
                other => return Ok(other),
            }
        }
        Ok(Answer::Undone(Undone { plans, stay }))
    }

    /// Where each node of a move came from; `None` of one that this move did not give to its new owner, or that has moved on.
    async fn origins(&self, work: &Move) -> Result<Vec<(NodeId, Option<UnitId>)>, OperatorError> {
        let mut found = Vec::with_capacity(work.nodes.len());
        for some in work.nodes.chunks(AT_ONCE) {
            let mut asked = JoinSet::new();
            for node in some {
                let (store, node) = (Arc::clone(&self.0.store), node.clone());
                let (by, to) = (work.id, work.to.clone());
                asked.spawn(async move { origin(&*store, node, by, &to).await });
            }
            while let Some(answer) = asked.join_next().await {
                let answer = answer.map_err(|_| StoreError::Away("the question was given up".to_owned()))?;
                found.push(answer?);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Only what has come to its end is taken back.
fn is_over(work: &Move) -> Result<(), OperatorError> {
    let id = work.id;
    let text = match (&work.kind, work.state) {
        (MoveKind::Evacuate { .. } | MoveKind::GiveBack, _) => {
            format!("{id} is work on a whole unit; `strait unit` brings a unit back")
        }
        (MoveKind::Nodes, MoveState::Running | MoveState::Aborting) => {
            format!("move {id} is under way; stop it with `strait route abort {id}`, then take back what it had moved")
        }
        (MoveKind::Nodes, MoveState::Trailing | MoveState::Finished) => return Ok(()),
    };
    Err(OperatorError::Refused(text))
}

async fn origin(
    store: &dyn Store,
    node: NodeId,
    by: MoveId,
    to: &UnitId,
) -> Result<(NodeId, Option<UnitId>), StoreError> {
    let changes = store.history(RecordId::Node(node.clone()), LOOK_BACK).await?;
    let from = came_from(changes, by, to);
    Ok((node, from))
}

/// Who had a node before this move gave it to `to`, by what was decided about it, newest first.
fn came_from(changes: Vec<Change>, by: MoveId, to: &UnitId) -> Option<UnitId> {
    let mut nodes = changes.into_iter().filter_map(|change| match change.record {
        Some(Record::Node(node)) => Some(node),
        _ => None,
    });
    let now = nodes.next()?;
    if now.state != State::Active || now.target.unit() != Some(to) {
        return None;
    }
    // The last time that it was being moved.
    let last = nodes.find(|node| node.state.work().is_some())?;
    match (last.state.work(), last.target) {
        (Some(work), Target::Unit(unit)) if work == by => Some(unit),
        _ => None,
    }
}

/// Nodes whose history is asked for at once.
const AT_ONCE: usize = 16;
/// A move writes at most five records about a node; the newest ones say where it came from.
const LOOK_BACK: usize = 5;
