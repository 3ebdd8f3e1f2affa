//! Who has each key at each revision: the history of the store, resolved with all that was ever claimed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{Subject, UNITS, name, unit};
use crate::control::claims::ClaimKey;
use crate::model::{ANY_KEY, Name, UnitId};
use crate::routing::record::{Batch, Claim, Rev, Snapshot};
use crate::routing::{Evidence, Found, KeyHash, Known, RouteTable, Routes, Settings, Standing};

pub(super) struct Truth {
    subjects: Vec<Subject>,
    /// The copy at each revision, and when it was written.
    copies: BTreeMap<Rev, (Arc<Routes>, u64)>,
    /// Without a copy.
    table: RouteTable,
    claims: BTreeMap<ClaimKey, Claim>,
    /// By key: what is so from which revision on.
    owners: BTreeMap<usize, Vec<(Rev, Owner)>>,
}

/// Who has a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owner {
    pub unit: UnitId,
    pub epoch: u64,
    pub standing: Standing,
    /// The revision since which this unit has it.
    pub term: Rev,
}

/// All claims hold at once.
struct Told<'a>(&'a BTreeMap<ClaimKey, Claim>, &'a Routes);

impl Evidence for Told<'_> {
    fn claim(&self, dimension: &Name, key: &[u8], _: KeyHash) -> Found {
        let mut claims = self.0.iter();
        let found = claims.find(|((of, name), _)| of == dimension && name.0 == key);
        found.map_or(Found::Unasked, |(_, claim)| {
            Found::Known(Known {
                target: claim.target.clone(),
                base: claim.base,
                as_of: self.1.epoch(),
            })
        })
    }
}

impl Truth {
    pub(super) fn new(snapshot: &Snapshot, subjects: Vec<Subject>) -> Self {
        let routes = Arc::new(Routes::from_snapshot(snapshot));
        let units: Vec<_> = UNITS.map(name).to_vec();
        let table = RouteTable::build(&Settings::default(), &unit(0), &units).unwrap();
        let mut truth = Self {
            subjects,
            copies: BTreeMap::from([(routes.rev(), (routes, 0))]),
            table,
            claims: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        let rev = *truth.copies.keys().next().unwrap();
        for subject in 0..truth.subjects.len() {
            truth.extend(subject, rev);
        }
        truth
    }

    /// Something was written. The keys whose owner changed, with the term of the new one.
    pub(super) fn on_commit(&mut self, now: u64, batch: &Batch) -> Vec<(usize, Rev)> {
        let (_, (last, _)) = self.copies.last_key_value().unwrap();
        let next = last.apply(batch).unwrap();
        self.copies.insert(batch.rev, (Arc::new(next), now));
        for subject in 0..self.subjects.len() {
            self.extend(subject, batch.rev);
        }
        let subjects = 0..self.subjects.len();
        let changed = subjects.filter_map(|subject| {
            let owner = self.owner(subject, batch.rev)?;
            (owner.term == batch.rev).then_some((subject, batch.rev))
        });
        changed.collect()
    }

    pub(super) fn on_claimed(&mut self, claim: &Claim) {
        let key = (claim.dimension.clone(), claim.key.clone());
        self.claims.insert(key.clone(), claim.clone());
        let mut subjects = self.subjects.iter();
        let of = subjects.position(|subject| subject.dimension == key.0 && subject.bytes() == key.1);
        let Some(of) = of else { return };
        self.owners.remove(&of);
        let revs: Vec<Rev> = self.copies.keys().copied().collect();
        for rev in revs {
            self.extend(of, rev);
        }
    }

    /// Looks who has a key at a revision, behind all that was looked at.
    fn extend(&mut self, subject: usize, rev: Rev) {
        let (routes, _) = &self.copies[&rev];
        let here = unit(0);
        let table = self.table.with_routes(Arc::clone(routes));
        let hints = self.subjects[subject].hints();
        let told = Told(&self.claims, routes);
        let Ok(decision) = table.resolve(&hints, &ANY_KEY, &here, &told) else {
            return;
        };
        let owners = self.owners.entry(subject).or_default();
        let before = owners.last().map(|(_, owner)| owner);
        let term = before
            .filter(|owner| owner.unit == *decision.unit)
            .map(|owner| owner.term);
        let owner = Owner {
            unit: decision.unit.clone(),
            epoch: decision.epoch,
            standing: decision.standing,
            term: term.unwrap_or(rev),
        };
        if before != Some(&owner) {
            owners.push((rev, owner));
        }
    }

    /// Who has a key at a revision.
    pub(super) fn owner(&self, subject: usize, rev: Rev) -> Option<&Owner> {
        let owners = self.owners.get(&subject)?;
        let at = owners.partition_point(|(from, _)| *from <= rev);
        owners.get(at.checked_sub(1)?).map(|(_, owner)| owner)
    }

    pub(super) fn digest(&self, rev: Rev) -> Option<u64> {
        self.copies.get(&rev).map(|(routes, _)| routes.digest())
    }

    pub(super) fn written_at(&self, rev: Rev) -> Option<u64> {
        self.copies.get(&rev).map(|(_, at)| *at)
    }
}
