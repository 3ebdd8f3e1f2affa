//! Keys that nobody has get an owner; one key, or many.

use std::collections::BTreeMap;

use super::looked::Looked;
use super::moves::described;
use super::{
    Answer, Conflict, GiveAsk, Given, How, IMPORT_MAX, ImportRow, Imported, Operator, OperatorError, PIN_AT_ONCE,
    Refusal,
};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Book, Claim, Commit, Committed, Epoch, KeyBytes, Node, NodeId, OpId, Placement, Record, RecordId, Rev, State,
    Target, Term,
};
use crate::routing::{RouteError, RouteTable, Routes};

/// What becomes of a key that is to be given to a unit.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Given(How),
    /// Another unit has it.
    Owned(UnitId),
    Refused(String),
}

/// What is to be written for a key.
enum Plan {
    Ends(Outcome),
    Claim,
    /// Its node is at this revision.
    Pin(Rev),
}

impl Operator {
    /// Gives a key to a unit. `pins`: also a key that cannot be claimed.
    pub(super) async fn give(&self, ask: GiveAsk, pins: bool, dice: u128) -> Result<Answer, OperatorError> {
        let GiveAsk {
            dimension,
            key,
            unit,
            dry_run,
            who,
        } = ask;
        let row = ImportRow { dimension, key, unit };
        let how = Giving {
            pins,
            dry_run,
            who: &who,
            dice,
            configured: &(self.0.configured)(),
        };
        let outcome = self
            .give_all(std::slice::from_ref(&row), &how)
            .await?
            .into_iter()
            .next();
        match outcome {
            Some(Outcome::Given(how)) => Ok(Answer::Given(Given { how, dry_run })),
            Some(Outcome::Owned(owner)) => Err(OperatorError::Refused(format!(
                "the key belongs to unit {owner} already, and only a move takes it from there: strait route move --to {}",
                row.unit
            ))),
            Some(Outcome::Refused(detail)) => Err(OperatorError::Refused(detail)),
            None => Err(OperatorError::Refused("the route store gave no answer".to_owned())),
        }
    }

    /// Gives many keys to units. Keys that have another owner are told, and left alone.
    pub(super) async fn import(
        &self,
        rows: Vec<ImportRow>,
        dry_run: bool,
        who: &str,
        dice: u128,
    ) -> Result<Answer, OperatorError> {
        if rows.len() > IMPORT_MAX {
            let text = format!("{} keys are too many at once; at most {IMPORT_MAX}", rows.len());
            return Err(OperatorError::Refused(text));
        }
        let how = Giving {
            pins: true,
            dry_run,
            who,
            dice,
            configured: &(self.0.configured)(),
        };
        let mut imported = Imported {
            dry_run,
            ..Imported::default()
        };
        for (at, outcome) in self.give_all(&rows, &how).await?.into_iter().enumerate() {
            match outcome {
                Outcome::Given(How::There) => imported.there_already += 1,
                Outcome::Given(_) => imported.given += 1,
                Outcome::Owned(owner) => imported.conflicts.push(Conflict { at, owner }),
                Outcome::Refused(detail) => imported.refused.push(Refusal { at, detail }),
            }
        }
        Ok(Answer::Imported(imported))
    }

    async fn give_all(&self, rows: &[ImportRow], how: &Giving<'_>) -> Result<Vec<Outcome>, OperatorError> {
        let keys: Vec<_> = rows
            .iter()
            .map(|row| (row.dimension.clone(), row.key.clone()))
            .collect();
        let looked = self.look(&keys).await?;
        let Some(routes) = looked.table().routes() else {
            return Err(OperatorError::Refused(
                "this relay has nothing of the route store yet".to_owned(),
            ));
        };
        let book = self.read_book().await?.map_or(Rev::ZERO, |(_, rev)| rev);
        let mut first: BTreeMap<(&Name, &KeyBytes), (usize, &UnitId)> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(rows.len());
        let (mut claimed, mut pinned) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let before = first.entry((&row.dimension, &row.key)).or_insert((at, &row.unit));
            let plan = match before {
                (earlier, unit) if *earlier != at && **unit == row.unit => Plan::Ends(Outcome::Given(How::There)),
                (earlier, _) if *earlier != at => {
                    let text = "the same key is to be given to another unit before; it cannot belong to both";
                    Plan::Ends(Outcome::Refused(text.to_owned()))
                }
                _ => plan(row, routes, &looked, how, &self.0.place.unit),
            };
            outcomes.push(match plan {
                Plan::Ends(outcome) => outcome,
                Plan::Claim => {
                    claimed.push(at);
                    Outcome::Given(How::Claimed)
                }
                Plan::Pin(rev) => {
                    pinned.push((at, rev));
                    Outcome::Given(How::Pinned)
                }
            });
        }
        if !how.dry_run {
            self.claim_all(rows, &claimed, how, routes.epoch(), &mut outcomes)
                .await?;
            for (part, some) in (0..).zip(pinned.chunks(PIN_AT_ONCE)) {
                self.pin_all(rows, some, (how, part), book, &mut outcomes).await?;
            }
        }
        Ok(outcomes)
    }

    async fn claim_all(
        &self,
        rows: &[ImportRow],
        claimed: &[usize],
        how: &Giving<'_>,
        base: Epoch,
        outcomes: &mut [Outcome],
    ) -> Result<(), OperatorError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let wanted = claimed.iter().filter_map(|at| rows.get(*at));
        let claims = wanted.map(|row| Claim {
            dimension: row.dimension.clone(),
            key: row.key.clone(),
            target: Target::Unit(row.unit.clone()),
            base,
            op: OpId(how.dice),
            by: self.0.place.unit.clone(),
        });
        let told = self.store().claim(claims.collect()).await?;
        for (at, claim) in claimed.iter().zip(told) {
            if let (Some(outcome), Some(row)) = (outcomes.get_mut(*at), rows.get(*at)) {
                *outcome = won(claim, row, OpId(how.dice));
            }
        }
        Ok(())
    }

    /// One commit for some keys; rules that were published meanwhile may name them, so it compares the book too.
    async fn pin_all(
        &self,
        rows: &[ImportRow],
        pinned: &[(usize, Rev)],
        (how, part): (&Giving<'_>, u128),
        book: Rev,
        outcomes: &mut [Outcome],
    ) -> Result<(), OperatorError> {
        let op = OpId(how.dice.wrapping_add(part));
        let mut compares = vec![(RecordId::Book, book)];
        let mut puts = Vec::new();
        for (row, rev) in pinned.iter().filter_map(|(at, rev)| Some((rows.get(*at)?, *rev))) {
            let id = NodeId::Key {
                dimension: row.dimension.clone(),
                key: row.key.clone(),
            };
            compares.push((RecordId::Node(id.clone()), rev));
            puts.push(Record::Node(Node {
                id,
                target: Target::Unit(row.unit.clone()),
                state: State::Active,
                rev: Rev::ZERO,
                term: Term::default(),
                previous: None,
                home: None,
                op,
                reason: described(how.who, "nobody had it"),
            }));
        }
        let commit = Commit {
            op,
            compares,
            puts,
            removes: Vec::new(),
        };
        if let Committed::Conflict { .. } = self.store().commit(commit).await? {
            let text =
                "this key, another of the same import, or the published rules changed at the same moment; ask again";
            for (at, _) in pinned {
                if let Some(outcome) = outcomes.get_mut(*at) {
                    *outcome = Outcome::Refused(text.to_owned());
                }
            }
        }
        Ok(())
    }
}

/// How keys are given.
struct Giving<'a> {
    /// Also keys that cannot be claimed.
    pins: bool,
    dry_run: bool,
    who: &'a str,
    dice: u128,
    configured: &'a Book,
}

/// What is to be done for a key, by what the store has about it (O3).
fn plan(row: &ImportRow, routes: &Routes, looked: &Looked, how: &Giving<'_>, local: &UnitId) -> Plan {
    let refused = |text: String| Plan::Ends(Outcome::Refused(text));
    let Some(spec) = routes.dimension(&row.dimension) else {
        return refused(format!(
            "dimension {} is not published; add it to routing.dimensions, then `strait route publish`",
            row.dimension
        ));
    };
    if row.key.0.is_empty() {
        return refused("an empty text is not a key".to_owned());
    }
    if let Err(text) = takes_keys(looked.table(), how.configured, &row.unit) {
        return refused(text);
    }
    match looked.owner(&row.dimension, &row.key, local) {
        Ok(decision) if *decision.unit == row.unit => Plan::Ends(Outcome::Given(How::There)),
        Ok(decision) => Plan::Ends(Outcome::Owned(decision.unit.clone())),
        Err(RouteError::Unclaimed { dimension, .. }) if dimension == row.dimension => {
            match looked.node(&row.dimension, &row.key) {
                // It follows a key that nobody has.
                Some((node, _)) if node.state != State::Tombstone => {
                    refused("the key follows another one; give that to a unit".to_owned())
                }
                _ => Plan::Claim,
            }
        }
        Err(RouteError::NoRule { .. }) if !matches!(spec.placement, Placement::Rules) => Plan::Claim,
        Err(RouteError::NoRule { dimension }) if dimension == row.dimension && how.pins => {
            let node = looked.node(&row.dimension, &row.key);
            Plan::Pin(node.map_or(Rev::ZERO, |(_, rev)| rev))
        }
        Err(RouteError::NoRule { dimension }) if dimension == row.dimension => refused(format!(
            "keys of dimension {dimension} are not claimed (placement); pin the key: strait route set"
        )),
        Err(error) => refused(error.to_string()),
    }
}

/// Whether a unit can be given keys; why not. `configured` is what the settings would publish: the units of this Geo.
pub(super) fn takes_keys(table: &RouteTable, configured: &Book, unit: &UnitId) -> Result<(), String> {
    let Some(routes) = table.routes() else {
        return Err("this relay has nothing of the route store yet".to_owned());
    };
    let is_published = routes.book().units.contains(unit);
    if !is_published && table.is_known(unit) && !configured.units.contains(unit) {
        return Err(format!(
            "unit {unit} is of another Geo, which has routes of its own: keys do not move between Geos. Name a unit of this Geo \
             (`strait unit status` lists them); new keys can be its own by a rule of [routing] that names it"
        ));
    }
    if !is_published {
        return Err(format!(
            "unit {unit} is not published; add it to [units], then `strait route publish`, or correct its name"
        ));
    }
    if !routes.is_active(unit) {
        return Err(format!(
            "unit {unit} takes no keys now: it is being drained, or others have its keys"
        ));
    }
    Ok(())
}

/// What a claim came to: whoever was first has the key.
fn won(claim: Claim, row: &ImportRow, op: OpId) -> Outcome {
    match claim.target {
        _ if claim.op == op => Outcome::Given(How::Claimed),
        Target::Unit(unit) if unit == row.unit => Outcome::Given(How::There),
        Target::Unit(unit) => Outcome::Owned(unit),
        Target::Follow(dimension) | Target::Group { dimension, .. } => Outcome::Refused(format!(
            "the key follows one of dimension {dimension} since a moment ago"
        )),
    }
}
