//! Moves: begin, stop, look.

use std::collections::BTreeMap;

use super::{Answer, MoveAsk, MoveRow, Operator, OperatorError, Plan, PlannedNode, Which};
use crate::model::UnitId;
use crate::routing::record::{
    Change, Commit, Committed, Move, MoveId, MoveKind, MoveState, Node, NodeId, OpId, Record, RecordId, RelayId, Rev,
    State, Target,
};
use crate::routing::{BUCKETS, RouteTable};

impl Operator {
    /// Begins a move, or only says what it would do.
    pub(super) async fn start(&self, ask: MoveAsk, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let nodes = expand(&ask.what)?;
        let table = self.routing.table();
        let mut plan = Plan {
            id: None,
            to: ask.to.clone(),
            nodes: Vec::new(),
            there_already: 0,
        };
        if !table.is_known(&ask.to) {
            let text = format!(
                "unit {} is not known here; add it to [units], or correct its name",
                ask.to
            );
            return Err(OperatorError::Refused(text));
        }
        let mut since = None;
        for group in nodes.chunks(READ_AT_ONCE) {
            let ids = group.iter().cloned().map(RecordId::Node).collect();
            let reading = self.store.read(ids).await?;
            since = since.or(Some(reading.epoch.rev()));
            for (id, found) in group.iter().zip(reading.found) {
                let from = owner(&table, id, found)?;
                if from == ask.to {
                    plan.there_already += 1;
                } else {
                    plan.nodes.push(PlannedNode { id: id.clone(), from });
                }
            }
        }
        if ask.dry_run || plan.nodes.is_empty() {
            return Ok(Answer::Plan(plan));
        }
        let [number, ..] = halves(dice);
        let id = MoveId(number);
        let work = Move {
            id,
            kind: MoveKind::Nodes,
            nodes: plan.nodes.iter().map(|node| node.id.clone()).collect(),
            to: ask.to,
            since: since.unwrap_or_default(),
            options: ask.options,
            state: MoveState::Running,
            driver: RelayId {
                unit: self.place.unit.clone(),
                relay: self.place.relay.clone(),
            },
            next: 0,
            moved: 0,
            aborted: 0,
            asked_at: now,
            reason: described(&ask.who, &ask.reason),
        };
        let committed = self
            .store
            .commit(Commit {
                op: OpId(dice),
                compares: vec![(RecordId::Move(id), Rev::ZERO)],
                puts: vec![Record::Move(work)],
                removes: Vec::new(),
            })
            .await?;
        match committed {
            Committed::Done(_) => {
                plan.id = Some(id);
                Ok(Answer::Plan(plan))
            }
            Committed::Conflict { .. } => Err(OperatorError::Refused("another move has this number; ask again".into())),
        }
    }

    /// Stops a move.
    pub(super) async fn abort(&self, id: MoveId, op: OpId) -> Result<Answer, OperatorError> {
        loop {
            let reading = self.store.read(vec![RecordId::Move(id)]).await?;
            let found = reading.found.into_iter().flatten().next();
            let Some(Change {
                rev,
                record: Some(Record::Move(mut work)),
                ..
            }) = found
            else {
                let text = format!("there is no move {id}; `strait route moves` lists them");
                return Err(OperatorError::Refused(text));
            };
            if matches!(work.state, MoveState::Trailing | MoveState::Finished) {
                let text = format!("move {id} has finished; move the keys back with another one");
                return Err(OperatorError::Refused(text));
            }
            work.state = MoveState::Aborting;
            let commit = Commit {
                op,
                compares: vec![(RecordId::Move(id), rev)],
                puts: vec![Record::Move(work)],
                removes: Vec::new(),
            };
            // Its driver may have written meanwhile.
            if let Committed::Done(_) = self.store.commit(commit).await? {
                return Ok(Answer::Done);
            }
        }
    }

    /// Moves, the last ones first, with what is under way.
    pub(super) async fn moves(&self, id: Option<MoveId>) -> Result<Answer, OperatorError> {
        let snapshot = self.store.snapshot().await?;
        let mut under_way: BTreeMap<MoveId, Vec<(NodeId, State)>> = BTreeMap::new();
        let mut works = Vec::new();
        for change in snapshot.changes {
            match change.record {
                Some(Record::Node(node)) => {
                    if let Some(by) = node.state.work() {
                        under_way.entry(by).or_default().push((node.id, node.state));
                    }
                }
                Some(Record::Move(work)) if id.is_none_or(|id| id == work.id) => works.push(work),
                _ => {}
            }
        }
        works.sort_by_key(|work| std::cmp::Reverse(work.asked_at));
        let row = |work: Move| {
            let nodes = under_way.remove(&work.id).unwrap_or_default();
            MoveRow::new(work, nodes)
        };
        Ok(Answer::Moves(works.into_iter().map(row).collect()))
    }
}

/// Who owns a node now, if it can be moved.
fn owner(table: &RouteTable, id: &NodeId, found: Option<Change>) -> Result<UnitId, OperatorError> {
    let node = match found.and_then(|change| change.record) {
        Some(Record::Node(node)) if node.state != State::Tombstone => Some(node),
        _ => None,
    };
    if let Some(by) = node.as_ref().and_then(|node| node.state.work()) {
        let text = format!(
            "{} is under way in move {by} already; wait for it, or abort it",
            shown(id)
        );
        return Err(OperatorError::Refused(text));
    }
    if let Some(Node {
        target: Target::Unit(unit),
        ..
    }) = node
    {
        return Ok(unit);
    }
    table.owner_of(id).cloned().ok_or_else(|| {
        let text = format!(
            "{} has no owner that it could be moved from; `strait explain` shows why",
            shown(id)
        );
        OperatorError::Refused(text)
    })
}

/// A node without its key: what is refused ends in logs.
fn shown(id: &NodeId) -> String {
    match id {
        NodeId::Key { dimension, .. } => format!("a key of {dimension}"),
        NodeId::Bucket { dimension, bucket } => format!("bucket {bucket} of {dimension}"),
        NodeId::Rule { dimension, rule } => format!("rule {rule} of {dimension}"),
        NodeId::Unit(unit) => format!("unit {unit}"),
    }
}

fn expand(what: &[Which]) -> Result<Vec<NodeId>, OperatorError> {
    let mut nodes = Vec::new();
    for which in what {
        match which {
            Which::Node(NodeId::Unit(_)) => {
                let text = "a unit is not moved; drain or evacuate it with `strait unit`";
                return Err(OperatorError::Refused(text.to_owned()));
            }
            Which::Node(id) => nodes.push(id.clone()),
            Which::Buckets { dimension, from, to } => {
                if from >= to || *to > BUCKETS {
                    let text = format!("buckets go from 0 up to {BUCKETS}; {from} to {to} names none");
                    return Err(OperatorError::Refused(text));
                }
                nodes.extend((*from..*to).map(|bucket| NodeId::Bucket {
                    dimension: dimension.clone(),
                    bucket,
                }));
            }
        }
    }
    nodes.sort();
    nodes.dedup();
    match nodes.len() {
        0 => Err(OperatorError::Refused(
            "nothing was named that could be moved".to_owned(),
        )),
        count if count > Move::NODES_MAX => {
            let text = format!("{count} nodes are too many for one move; at most {}", Move::NODES_MAX);
            Err(OperatorError::Refused(text))
        }
        _ => Ok(nodes),
    }
}

fn described(who: &str, reason: &str) -> String {
    match (who, reason) {
        (who, "") => who.to_owned(),
        ("", reason) => reason.to_owned(),
        (who, reason) => format!("{who}: {reason}"),
    }
}

/// Two numbers out of random bits.
fn halves(dice: u128) -> [u64; 2] {
    let low = u64::try_from(dice & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(dice >> 64).unwrap_or_default();
    [high, low]
}

/// Records that are read at once.
const READ_AT_ONCE: usize = 100;
