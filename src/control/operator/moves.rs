//! Moves: begin, stop, look.

use std::collections::BTreeMap;

use super::give::takes_keys;
use super::looked::Looked;
use super::{Answer, MoveAsk, MoveRow, Operator, OperatorError, Plan, PlannedNode, READ_AT_ONCE, Which};
use crate::model::{Name, ServiceName, UnitId};
use crate::routing::record::{
    Book, Change, Commit, Committed, Move, MoveId, MoveKind, MoveState, Node, NodeId, OpId, Record, RecordId, RelayId,
    Rev, State, Target,
};
use crate::routing::{BUCKETS, RouteTable, Rule};

/// A plan, and what it was made by.
struct Planned {
    plan: Plan,
    /// All that was decided up to this revision is in it.
    since: Rev,
    /// The revisions of its nodes, unless those are too many to compare.
    revs: Vec<(RecordId, Rev)>,
}

impl Operator {
    /// Begins a move, or only says what it would do. If something was decided between the plan and its record, a plan of few nodes is
    /// made anew; of many nodes, those that others have moved meanwhile stay where they are.
    pub(super) async fn start(&self, ask: MoveAsk, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let [number, ..] = halves(dice);
        let id = MoveId(number);
        for _ in 0..ATTEMPTS_MAX {
            let Planned { mut plan, since, revs } = self.plan(&ask).await?;
            if ask.dry_run || plan.nodes.is_empty() {
                return Ok(Answer::Plan(plan));
            }
            let work = Move {
                id,
                kind: MoveKind::Nodes,
                of: None,
                nodes: plan.nodes.iter().map(|node| node.id.clone()).collect(),
                to: ask.to.clone(),
                since,
                options: ask.options.clone(),
                state: MoveState::Running,
                driver: RelayId {
                    unit: self.0.place.unit.clone(),
                    relay: self.0.place.relay.clone(),
                },
                next: 0,
                moved: 0,
                aborted: 0,
                asked_at: now,
                reason: described(&ask.who, &ask.reason),
                note: None,
                waits_for: None,
                undelivered_at: None,
                shadow_incomplete: false,
            };
            let of_move = (RecordId::Move(id), Rev::ZERO);
            let committed = self
                .store()
                .commit(Commit {
                    op: OpId(dice),
                    compares: std::iter::once(of_move).chain(revs).collect(),
                    puts: vec![Record::Move(work)],
                    removes: Vec::new(),
                })
                .await?;
            match committed {
                Committed::Done(_) => {
                    plan.id = Some(id);
                    return Ok(Answer::Plan(plan));
                }
                Committed::Conflict {
                    id: RecordId::Node(_), ..
                } => {}
                Committed::Conflict { .. } => {
                    return Err(OperatorError::Refused("another move has this number; ask again".into()));
                }
            }
        }
        let text = "what is to be moved changes faster than a move of it can begin; ask again".to_owned();
        Err(OperatorError::Refused(text))
    }

    /// What a move would do.
    async fn plan(&self, ask: &MoveAsk) -> Result<Planned, OperatorError> {
        let published = self.store().read(vec![RecordId::Book]).await?;
        let table = self.caught_up(published.epoch).await?;
        let Some(routes) = table.routes() else {
            return Err(OperatorError::Refused(
                "this relay has nothing of the route store yet".to_owned(),
            ));
        };
        takes_keys(&table, &(self.0.configured)(), &ask.to).map_err(OperatorError::Refused)?;
        let nodes = expand(&ask.what, routes.book())?;
        let mut found = Vec::with_capacity(nodes.len());
        let (mut since, mut newest) = (None, published.epoch);
        for some in nodes.chunks(READ_AT_ONCE) {
            let reading = self
                .store()
                .read(some.iter().cloned().map(RecordId::Node).collect())
                .await?;
            since.get_or_insert(reading.epoch);
            newest = newest.max(reading.epoch);
            found.extend(reading.found);
        }
        // Keys that were claimed, and nothing else.
        let undecided = nodes.iter().zip(&found).filter_map(|(id, found)| match id {
            NodeId::Key { dimension, key } if !found.as_ref().is_some_and(is_there) => {
                Some((dimension.clone(), key.clone()))
            }
            _ => None,
        });
        let looked = self.look(&undecided.collect::<Vec<_>>()).await?;
        let table = self.caught_up(newest).await?;
        let mut plan = Plan {
            id: None,
            to: ask.to.clone(),
            nodes: Vec::new(),
            there_already: 0,
            hooks: Vec::new(),
        };
        let mut revs = Vec::new();
        for (id, found) in nodes.into_iter().zip(found) {
            let rev = found.as_ref().map_or(Rev::ZERO, |change| change.rev);
            let from = owner(&table, &looked, &id, found, &self.0.place.unit)?;
            if !routes.book().units.contains(&from) {
                let text = format!(
                    "{} belongs to unit {from} of another Geo, which has routes of its own: keys do not move between Geos; move it \
                     within that one, at one of its relays",
                    shown(&id)
                );
                return Err(OperatorError::Refused(text));
            }
            if from == ask.to {
                plan.there_already += 1;
            } else {
                revs.push((RecordId::Node(id.clone()), rev));
                plan.nodes.push(PlannedNode { id, from });
            }
        }
        if ask.options.hooks {
            plan.hooks = applications(routes.book(), &plan.nodes);
        }
        if revs.len() > COMPARED_MAX {
            revs.clear();
        }
        Ok(Planned {
            plan,
            since: since.unwrap_or(published.epoch).rev(),
            revs,
        })
    }

    /// Stops a move.
    pub(super) async fn abort(&self, id: MoveId, op: OpId) -> Result<Answer, OperatorError> {
        for _ in 0..ATTEMPTS_MAX {
            let reading = self.store().read(vec![RecordId::Move(id)]).await?;
            let found = reading.found.into_iter().flatten().next();
            let Some(Change {
                rev,
                record: Some(Record::Move(mut work)),
                ..
            }) = found
            else {
                return Err(missing(id));
            };
            match work.state {
                MoveState::Running => work.state = MoveState::Aborting,
                MoveState::Aborting => return Ok(Answer::Done),
                MoveState::Trailing | MoveState::Finished => {
                    let text = format!("move {id} has finished; take it back with `strait route undo {id}`");
                    return Err(OperatorError::Refused(text));
                }
            }
            let commit = Commit {
                op,
                compares: vec![(RecordId::Move(id), rev)],
                puts: vec![Record::Move(work)],
                removes: Vec::new(),
            };
            // Its driver may have written meanwhile.
            if let Committed::Done(_) = self.store().commit(commit).await? {
                return Ok(Answer::Done);
            }
        }
        let text = format!("move {id} goes on faster than it can be stopped; ask again");
        Err(OperatorError::Refused(text))
    }

    /// Moves, the last ones first, with what is under way.
    pub(super) async fn moves(&self, id: Option<MoveId>, now: u64) -> Result<Answer, OperatorError> {
        let snapshot = self.store().snapshot().await?;
        let mut under_way: BTreeMap<MoveId, Vec<(NodeId, State)>> = BTreeMap::new();
        let mut stayed: BTreeMap<MoveId, Vec<(NodeId, String)>> = BTreeMap::new();
        let mut works = Vec::new();
        for change in snapshot.changes {
            match change.record {
                Some(Record::Node(node)) => {
                    if let Some(by) = node.state.work() {
                        under_way.entry(by).or_default().push((node.id, node.state));
                    } else if let Some((by, why)) = given_up(&node) {
                        let stayed = stayed.entry(by).or_default();
                        if stayed.len() < STAYED_MAX {
                            stayed.push((node.id, why));
                        }
                    }
                }
                Some(Record::Move(work)) if id.is_none_or(|id| id == work.id) => works.push(work),
                _ => {}
            }
        }
        if let (Some(id), true) = (id, works.is_empty()) {
            return Err(missing(id));
        }
        works.sort_by_key(|work| std::cmp::Reverse(work.asked_at));
        let row = |work: Move| {
            let nodes = under_way.remove(&work.id).unwrap_or_default();
            let stayed = stayed.remove(&work.id).unwrap_or_default();
            MoveRow::new(work, nodes, stayed, now)
        };
        Ok(Answer::Moves(works.into_iter().map(row).collect()))
    }
}

pub(super) fn missing(id: MoveId) -> OperatorError {
    OperatorError::Refused(format!("there is no move {id}; `strait route moves` lists them"))
}

/// The move that has left a node where it was, and why, as the mover has written it (`move ID: why`).
fn given_up(node: &Node) -> Option<(MoveId, String)> {
    let (id, why) = node.reason.strip_prefix("move ")?.split_once(": ")?;
    Some((id.parse().ok()?, why.to_owned()))
}

/// Whether something was decided that was not taken back.
fn is_there(found: &Change) -> bool {
    matches!(&found.record, Some(Record::Node(node)) if node.state != State::Tombstone)
}

/// Who owns a node now, if it can be moved.
fn owner(
    table: &RouteTable,
    looked: &Looked,
    id: &NodeId,
    found: Option<Change>,
    local: &UnitId,
) -> Result<UnitId, OperatorError> {
    let node = match found.filter(is_there).and_then(|change| change.record) {
        Some(Record::Node(node)) => Some(node),
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
    let nobody = |why: &str| {
        OperatorError::Refused(format!(
            "{} has no owner that it could be moved from: {why}; give it to a unit with `strait route set`",
            shown(id)
        ))
    };
    match id {
        NodeId::Key { dimension, key } if node.is_none() => looked
            .owner(dimension, key, local)
            .map(|decision| decision.unit.clone())
            .map_err(|error| nobody(&error.to_string())),
        NodeId::Rule { .. } | NodeId::Bucket { .. } | NodeId::Key { .. } | NodeId::Unit(_) => table
            .owner_of(id)
            .cloned()
            .ok_or_else(|| nobody("no rule of the published book gives it to a unit")),
    }
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

fn expand(what: &[Which], book: &Book) -> Result<Vec<NodeId>, OperatorError> {
    let mut nodes = Vec::new();
    for which in what {
        match which {
            Which::Node(NodeId::Unit(_)) => {
                let text = "a unit is not moved; move its buckets, rules and keys";
                return Err(OperatorError::Refused(text.to_owned()));
            }
            Which::Node(NodeId::Rule { dimension, rule }) => {
                let of_rule = |(id, found): &&(u32, Rule)| id == rule && found.dimension == *dimension;
                let Some((_, found)) = book.rules.iter().find(of_rule) else {
                    let text = format!("there is no rule {rule} of {dimension}; `strait route book` lists them");
                    return Err(OperatorError::Refused(text));
                };
                // Its keys go by what was decided about their buckets.
                match found.buckets() {
                    Some(buckets) => nodes.extend(buckets.map(|bucket| bucket_of(dimension, bucket))),
                    None => nodes.push(NodeId::Rule {
                        dimension: dimension.clone(),
                        rule: *rule,
                    }),
                }
            }
            Which::Node(id) => nodes.push(id.clone()),
            Which::Buckets { dimension, from, to } => {
                if from >= to || *to > BUCKETS {
                    let text = format!("buckets go from 0 up to {BUCKETS}; {from} to {to} names none");
                    return Err(OperatorError::Refused(text));
                }
                nodes.extend((*from..*to).map(|bucket| bucket_of(dimension, bucket)));
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

/// The applications that are asked about nodes, each once.
fn applications(book: &Book, nodes: &[PlannedNode]) -> Vec<ServiceName> {
    let is_concerned = |name: &Name| nodes.iter().any(|node| node.id.dimension() == Some(name));
    let concerned = book.dimensions.iter().filter(|spec| is_concerned(&spec.name));
    let mut services: Vec<_> = concerned
        .filter_map(|spec| Some(spec.hooks.as_ref()?.service.clone()))
        .collect();
    services.sort();
    services.dedup();
    services
}

fn bucket_of(dimension: &Name, bucket: u16) -> NodeId {
    NodeId::Bucket {
        dimension: dimension.clone(),
        bucket,
    }
}

pub(super) fn described(who: &str, reason: &str) -> String {
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

/// Nodes of a move of which it is said why they stayed.
const STAYED_MAX: usize = 20;
/// Nodes of a plan that the store compares; etcd takes 128 conditions at a time.
const COMPARED_MAX: usize = 100;
/// Others that write the same record at the same time.
const ATTEMPTS_MAX: usize = 10;
