//! Whole units: how they stand, drain, evacuate, give back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::moves::described;
use super::{
    ALIVE, Answer, DrainAsk, EvacuateAsk, Fence, Fenced, MoveRow, Operator, OperatorError, RelayRow, ReturnAsk,
    ShareRow, UnitAct, UnitPlan, UnitRow,
};
use crate::control::mover::units::{self, Asked, Begun, Counts, Draining, Refused};
use crate::control::store::{ClaimKey, RelayStanding};
use crate::model::UnitId;
use crate::routing::lease::REMEMBERED;
use crate::routing::record::{
    Claim, Committed, FreezeAck, Lease, Move, MoveKind, MoveState, Node, NodeId, OpId, Record, RelayId, Snapshot, State,
};
use crate::routing::{Routes, rendezvous};

impl Operator {
    /// How units stand.
    pub(super) async fn units(&self, only: Option<UnitId>, now: u64) -> Result<Answer, OperatorError> {
        let (claims, more) = match &only {
            Some(unit) => self.claims_for(unit, None, COUNTED_MAX).await?,
            None => (Vec::new(), None),
        };
        let standing = self.store().standing(None).await?;
        let snapshot = self.store().snapshot().await?;
        let routes = Routes::from_snapshot(&snapshot);
        let mut holdings = units::holdings(&snapshot, &claims);
        let mut rows = Vec::new();
        for (unit, state) in routes.units() {
            if only.as_ref().is_some_and(|only| only != unit) {
                continue;
            }
            let node = routes.node(&NodeId::Unit(unit.clone()));
            let of_unit = standing.iter().filter(|row| row.relay.unit == *unit).cloned();
            rows.push(UnitRow {
                unit: unit.clone(),
                state: state.clone(),
                rev: node.map(|node| node.rev).unwrap_or_default(),
                reason: node.map(|node| reason(&snapshot, node)).unwrap_or_default(),
                has: holdings.remove(unit).unwrap_or_default(),
                has_more: more.is_some(),
                relays: of_unit.map(RelayRow::from).collect(),
                moves: works(&snapshot, unit, now),
                fence: node.and_then(|node| self.fence(&routes, node, &standing)),
            });
        }
        match only {
            Some(unit) if rows.is_empty() => {
                let text = "is not published in this Geo; `strait unit status` lists those there are";
                Err(OperatorError::Refused(format!("unit {unit} {text}")))
            }
            _ => Ok(Answer::Units(rows)),
        }
    }

    /// Drains a unit, or only says what that would do.
    pub(super) async fn drain(&self, ask: DrainAsk, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let (claims, next) = self.claims_for(&ask.unit, ask.after.clone(), AT_ONCE).await?;
        let snapshot = self.store().snapshot().await?;
        let draining = Draining {
            unit: &ask.unit,
            shares: &ask.to,
            options: &ask.options,
            claims: &claims,
            only_claims: ask.after.is_some(),
        };
        let mut begun = units::drain(&snapshot, draining, &self.asked((&ask.who, &ask.reason), now, dice))?;
        let counts = std::mem::take(&mut begun.shares);
        let mut plan = UnitPlan {
            shares: shares(&ask.to, counts),
            next,
            ..empty(&ask.unit, UnitAct::Drain, ask.dry_run)
        };
        plan.notes.push(ROOM.to_owned());
        self.do_begun(begun, plan).await
    }

    /// Evacuates a unit, or only says what that would do.
    pub(super) async fn evacuate(&self, ask: EvacuateAsk, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let snapshot = self.store().snapshot().await?;
        let routes = Routes::from_snapshot(&snapshot);
        let asked = self.asked((&ask.who, &ask.reason), now, dice);
        let begun = units::evacuate(&routes, &ask.unit, &ask.to, ask.accept_dual, &asked)?;
        let standing = self.store().standing(Some(ask.unit.clone())).await?;
        let refusal = unsigned(&ask).or_else(|| endless(&routes, &standing, &ask));
        if let (Some(text), false) = (&refusal, ask.dry_run) {
            return Err(OperatorError::Refused(text.clone()));
        }
        let mut plan = UnitPlan {
            refusal,
            ..empty(&ask.unit, UnitAct::Evacuate, ask.dry_run)
        };
        plan.notes = self.fence_notes(&routes, &standing, &ask);
        if ask.dry_run {
            // In earnest nobody waits until claims are counted.
            let (claims, next) = self.claims_for(&ask.unit, None, COUNTED_MAX).await?;
            if next.is_some() {
                plan.notes
                    .push("there are more claimed keys than were counted".to_owned());
            }
            (plan.shares, plan.key_by_key) = taken_over(&snapshot, &routes, &claims, &ask);
        } else {
            // Its keys are not where moves of its drain would look for them.
            for (number, row) in (1..).zip(works(&snapshot, &ask.unit, now)) {
                match self.abort(row.id, OpId(dice.wrapping_add(number << 32))).await {
                    // It has just ended.
                    Ok(_) | Err(OperatorError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.do_begun(begun, plan).await
    }

    /// Gives a unit its keys back, or only says what that would do.
    pub(super) async fn give_back(&self, ask: ReturnAsk, now: u64, dice: u128) -> Result<Answer, OperatorError> {
        let snapshot = self.store().snapshot().await?;
        let routes = Routes::from_snapshot(&snapshot);
        let unit = &ask.unit;
        let asked = self.asked((&ask.who, &ask.reason), now, dice);
        let mut plan = empty(unit, UnitAct::Return, ask.dry_run);
        let found = routes.units().find(|(known, _)| *known == unit);
        let begun = match found.map(|(_, state)| state) {
            Some(State::Evacuated { takeover }) => {
                let standing = self.store().standing(Some(unit.clone())).await?;
                if !standing.iter().any(is_alive) {
                    return Err(OperatorError::Refused(format!(
                        "no relay of unit {unit} is heard of, so nobody there could serve its keys; start one, and see that \
                         `strait unit status {unit}` shows it"
                    )));
                }
                let names: Vec<_> = takeover.iter().map(|(heir, _)| heir.to_string()).collect();
                plan.notes.push(format!(
                    "all its keys come back from units {} at once; calls of them wait until the relays there have stopped, about a \
                     second",
                    names.join(", ")
                ));
                plan.notes.push(format!(
                    "what was written there since must have been copied to unit {unit} before: Strait moves who owns keys, not data"
                ));
                units::give_back(&routes, unit, ask.options, &asked)?
            }
            Some(State::Fencing { by } | State::Returning { by, .. }) => {
                let text =
                    format!("work on unit {unit} is under way; wait for it, or stop it with `strait route abort {by}`");
                return Err(OperatorError::Refused(text));
            }
            _ => units::take_back(&snapshot, unit, &ask.options, &asked)?,
        };
        plan.shares = shares(&[(unit.clone(), 1)], begun.shares.clone());
        plan.shares.retain(|share| share.gets.sum() > 0);
        self.do_begun(begun, plan).await
    }

    /// Commits what is begun, if it is not a dry run.
    async fn do_begun(&self, begun: Begun, mut plan: UnitPlan) -> Result<Answer, OperatorError> {
        if !plan.dry_run {
            for commit in begun.commits {
                if let Committed::Conflict { .. } = self.store().commit(commit).await? {
                    let text =
                        "something about this unit was decided at the same moment; ask again, what was begun goes on";
                    return Err(OperatorError::Refused(text.to_owned()));
                }
            }
            plan.moves = begun.moves;
        }
        Ok(Answer::UnitPlan(Box::new(plan)))
    }

    fn asked(&self, (who, reason): (&str, &str), now: u64, dice: u128) -> Asked {
        Asked {
            op: OpId(dice),
            driver: RelayId {
                unit: self.0.place.unit.clone(),
                relay: self.0.place.relay.clone(),
            },
            at: now,
            reason: described(who, reason),
        }
    }

    /// Claims for a unit: all of them, or as many as are taken at once and where to go on.
    async fn claims_for(
        &self,
        unit: &UnitId,
        after: Option<ClaimKey>,
        limit: usize,
    ) -> Result<(Vec<Claim>, Option<ClaimKey>), OperatorError> {
        let mut claims = Vec::new();
        let mut next = after;
        for _ in 0..PAGES_MAX {
            let page = self.store().claims_of(unit.clone(), next).await?;
            claims.extend(page.claims);
            next = page.next;
            if next.is_none() || claims.len() >= limit {
                break;
            }
        }
        Ok((claims, next))
    }

    /// Whom an evacuation or a return waits for.
    fn fence(&self, routes: &Routes, node: &Node, standing: &[RelayStanding]) -> Option<Fence> {
        let by = node.state.work()?;
        let work = routes.moves().find(|work| work.id == by);
        let accepts_dual = work.is_some_and(|work| matches!(work.kind, MoveKind::Evacuate { accept_dual: true, .. }));
        let needed = self.needed(routes, accepts_dual);
        let has_acked = |row: &RelayStanding| {
            let is_meant = |ack: &&FreezeAck| (ack.by, &ack.node, ack.rev) == (by, &node.id, node.rev);
            let ack = row.acks.iter().find(is_meant);
            ack.is_some_and(|ack| ack.drained && ack.session == row.session)
        };
        let waits_for = standing
            .iter()
            .filter(|row| node.is_served_by(&row.relay.unit) && !has_acked(row));
        Some(Fence {
            needed,
            waits_for: waits_for.map(|row| fenced(row, needed)).collect(),
        })
    }

    /// How long a relay must be silent to have stopped.
    fn needed(&self, routes: &Routes, accepts_dual: bool) -> Option<Duration> {
        let length = units::fence_lease(routes, accepts_dual).length()?;
        Some(length + self.0.in_flight_max)
    }

    /// What to know before a unit is evacuated.
    fn fence_notes(&self, routes: &Routes, standing: &[RelayStanding], ask: &EvacuateAsk) -> Vec<String> {
        let unit = &ask.unit;
        let needed = self.needed(routes, ask.accept_dual);
        let mut notes: Vec<_> = standing.iter().map(|row| fence_note(row, needed)).collect();
        if standing.is_empty() {
            notes.push(format!("no relay of unit {unit} has the routes; nobody is waited for"));
        }
        notes.push(format!(
            "what their applications have not copied from unit {unit} is lost; Strait does not know how much that is: look at the \
             lag of your replication"
        ));
        notes.push(ROOM.to_owned());
        let store = (self.0.view)().store;
        if store.starts_with(&format!("embedded at {unit}/")) {
            notes.push(format!(
                "the routes are kept there ({store}): while that relay is away nothing can be decided, nor stopped"
            ));
        }
        notes
    }
}

impl From<Refused> for OperatorError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.to_string())
    }
}

fn empty(unit: &UnitId, act: UnitAct, dry_run: bool) -> UnitPlan {
    UnitPlan {
        unit: unit.clone(),
        act,
        shares: Vec::new(),
        key_by_key: Counts::default(),
        notes: Vec::new(),
        refusal: None,
        moves: Vec::new(),
        next: None,
        dry_run,
    }
}

/// Moves of the drain, evacuation or return of a unit that are not over, as an operator sees them.
fn works(snapshot: &Snapshot, unit: &UnitId, now: u64) -> Vec<MoveRow> {
    let works = snapshot.changes.iter().filter_map(|change| match &change.record {
        Some(Record::Move(work)) if work.of.as_ref() == Some(unit) && is_under_way(work) => Some(work),
        _ => None,
    });
    works
        .map(|work| MoveRow::new(work.clone(), Vec::new(), Vec::new(), now))
        .collect()
}

/// Why a unit is as it is: what the move that wrote it was asked for, if that is still known.
fn reason(snapshot: &Snapshot, node: &Node) -> String {
    let asked = snapshot.changes.iter().find_map(|change| match &change.record {
        Some(Record::Move(work)) if node.reason == format!("move {}", work.id) => Some(work.reason.clone()),
        _ => None,
    });
    asked.unwrap_or_else(|| node.reason.clone())
}

fn is_under_way(work: &Move) -> bool {
    matches!(work.state, MoveState::Running | MoveState::Aborting)
}

fn is_alive(row: &RelayStanding) -> bool {
    row.silent_for.is_some_and(|silent| silent < ALIVE)
}

/// What was not signed for.
fn unsigned(ask: &EvacuateAsk) -> Option<String> {
    if !ask.accept_loss {
        return Some(format!(
            "what the applications of the other units have not copied from unit {} is lost, and Strait does not know how much that \
             is; look at the lag of your replication, then say --accept-loss. If the unit still works, drain it instead: \
             `strait unit drain`",
            ask.unit
        ));
    }
    let is_empty = ask.accept_dual && ask.reason.trim().is_empty();
    is_empty.then(|| "whoever signs for two owners says why: --reason".to_owned())
}

/// A relay that may write for ever, and nobody signed for that (R-D7).
fn endless(routes: &Routes, standing: &[RelayStanding], ask: &EvacuateAsk) -> Option<String> {
    if ask.accept_dual {
        return None;
    }
    let dimensions = &routes.book().dimensions;
    let endless = dimensions.iter().find(|spec| spec.owner_lease == Lease::Infinite)?;
    let silent = standing.iter().find(|row| !is_alive(row))?;
    let relay = &silent.relay;
    Some(format!(
        "relay {relay} does not answer, and may write keys of dimension {} for as long as it runs (owner_lease = \"infinite\"). Make \
         sure that its process has ended, then say so with `strait route forget {relay} --stopped`, and ask again. If you cannot, \
         --accept-dual with a --reason signs for it: until it has stopped both may write such keys, and you reconcile them",
        endless.name
    ))
}

fn fence_note(row: &RelayStanding, needed: Option<Duration>) -> String {
    let relay = &row.relay;
    if is_alive(row) {
        return format!("relay {relay} answers: others take over as soon as it has stopped, about a second");
    }
    match fenced(row, needed).left {
        Some(left) if left.is_zero() => {
            format!("relay {relay} is silent for so long that it has stopped; it is not waited for")
        }
        Some(left) => format!(
            "relay {relay} is silent: others take over when its lease and what it had admitted are over, in {}",
            humantime::format_duration(Duration::from_secs(left.as_secs() + 1))
        ),
        None => format!(
            "relay {relay} is silent, and may go on for ever: others take over when it has stopped or is forgotten"
        ),
    }
}

fn fenced(row: &RelayStanding, needed: Option<Duration>) -> Fenced {
    Fenced {
        relay: row.relay.clone(),
        silent_for: row.silent_for,
        left: needed.map(|needed| needed.saturating_sub(row.silent_for.unwrap_or(REMEMBERED))),
    }
}

/// In the order in which they were asked for.
fn shares(asked: &[(UnitId, u16)], mut gets: BTreeMap<UnitId, Counts>) -> Vec<ShareRow> {
    let row = |(unit, weight): &(UnitId, u16)| ShareRow {
        unit: unit.clone(),
        weight: *weight,
        gets: gets.remove(unit).unwrap_or_default(),
    };
    asked.iter().map(row).collect()
}

/// Which keys go where when others take over, and what goes key by key.
fn taken_over(snapshot: &Snapshot, routes: &Routes, claims: &[Claim], ask: &EvacuateAsk) -> (Vec<ShareRow>, Counts) {
    let mut gets: BTreeMap<UnitId, Counts> = BTreeMap::new();
    let mut key_by_key = Counts::default();
    for (id, is_claim) in units::of_unit(snapshot, claims, &ask.unit) {
        let NodeId::Key { dimension, key } = &id else {
            key_by_key.add(&id, is_claim);
            continue;
        };
        let hash = routes.hash(dimension.as_str().as_bytes(), &key.0);
        let to = rendezvous(hash, ask.to.iter().map(|(unit, weight)| (unit, *weight)));
        if let Some(to) = to {
            gets.entry(to.clone()).or_default().add(&id, is_claim);
        }
    }
    (shares(&ask.to, gets), key_by_key)
}

const ROOM: &str = "Strait knows no capacities: see that these units have room for what they get";
/// Claims that are taken at once.
const AT_ONCE: usize = 2000;
/// Claims that are counted.
const COUNTED_MAX: usize = 100_000;
/// Pages of claims that are looked at for one question.
const PAGES_MAX: usize = 100;
