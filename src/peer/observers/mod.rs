//! Which units this relay reaches, and which others say they reach: a unit counts as away only if most say so (R-3.11).
//!
//! ```text
//! links of all shards --> own sightings --frames, once a second at most--> peers
//! peers --frames--> a report for each link --> what others say of a unit
//! ```
//!
//! # Invariants
//! - B1. What a peer has said counts while its link is up and it answers probes. It goes with the link.
//! - B2. What relays of a unit say of that unit counts for nothing.
//! - B3. Only units of this relay's settings are remembered, whatever a peer names.
//! - B4. A peer is told only if it says that it understands ([`FEATURE`]). One that does not is no observer.
//! - B5. A unit that goes away in a Geo of many units is news from all of them, and its calls ask meanwhile. So what others say is counted
//!   for one unit at a time, and anew only if it was said of that one.
//!
//! # Not here
//! What is done with calls of a unit that is away (`outbound::kept`).

mod tally;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotmap::{DefaultKey, SlotMap};

pub use self::tally::Others;
use self::tally::Said;
use super::metrics::Metrics;
use crate::model::{Map, Sighting, UnitId};

/// Among the features of a hello: the sender says which units it reaches, and listens to what others say.
pub(super) const FEATURE: &str = "sightings";

/// What is known of who reaches whom. Shared by all shards; touched when links and reports change, and for calls of a unit to which
/// there is no link.
#[derive(Debug, Default)]
pub struct Observers {
    state: Mutex<State>,
    /// How often what this relay says has changed.
    said: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Units that are or were in the settings, by their number.
    units: Vec<Unit>,
    numbers: Map<UnitId, usize>,
    reports: SlotMap<DefaultKey, Report>,
    /// What others say of each unit, as far as it was asked for since that changed (B5).
    others: Vec<Option<Others>>,
    /// The series show another state.
    is_news: bool,
}

#[derive(Debug)]
struct Unit {
    name: UnitId,
    /// Whether a link of it takes calls, by shard.
    shards: Vec<bool>,
    /// What this relay says.
    sighting: Sighting,
    /// Since which of the changes.
    since: u64,
}

/// What came on one link.
#[derive(Debug)]
struct Report {
    /// The number of the peer's unit.
    speaker: usize,
    counts: bool,
    said: Said,
}

/// One link's part: what its peer says, and what it has been told. Dropped with the link, and the report with it (B1).
pub(super) struct Witness {
    observers: Arc<Observers>,
    report: DefaultKey,
    counts: Cell<bool>,
    /// Up to which of the changes the peer was told.
    told: Cell<u64>,
}

impl Observers {
    /// What other units say of one.
    pub fn others(&self, unit: &UnitId) -> Others {
        let mut state = self.state();
        let number = state.numbers.get(unit).copied();
        number.map(|number| state.others_of(number)).unwrap_or_default()
    }

    /// What this relay sees of a unit itself.
    pub fn own(&self, unit: &UnitId) -> Sighting {
        let state = self.state();
        let number = state.numbers.get(unit);
        let unit = number.and_then(|number| state.units.get(*number));
        unit.map_or(Sighting::Unknown, |unit| unit.sighting)
    }

    /// These units are in the settings, and no others. Each shard says so.
    pub(super) fn know<'a>(&self, units: impl IntoIterator<Item = &'a UnitId>) {
        let mut state = self.state();
        let mut known = vec![false; state.units.len()];
        for unit in units {
            let number = state.number(unit);
            if let Some(known) = known.get_mut(number) {
                *known = true;
            }
            self.look(&mut state, number, Unit::now);
        }
        for (number, _) in known.iter().enumerate().filter(|(_, known)| !**known) {
            self.look(&mut state, number, |_| Sighting::Unknown);
        }
    }

    /// Whether a shard has a link to a unit that takes calls.
    pub(super) fn on_reached(&self, shard: usize, unit: &UnitId, is_reached: bool) {
        let mut state = self.state();
        let Some(number) = state.numbers.get(unit).copied() else {
            return;
        };
        if let Some(unit) = state.units.get_mut(number) {
            if unit.shards.len() <= shard {
                unit.shards.resize(shard + 1, false);
            }
            if let Some(at_shard) = unit.shards.get_mut(shard) {
                *at_shard = is_reached;
            }
        }
        self.look(&mut state, number, |unit| match unit.sighting {
            Sighting::Unknown => Sighting::Unknown,
            _ => unit.now(),
        });
    }

    /// A link to a relay of this unit is up, and its peer listens (B4).
    pub(super) fn enter(self: &Arc<Self>, unit: &UnitId) -> Witness {
        let mut state = self.state();
        let speaker = state.number(unit);
        let report = state.reports.insert(Report {
            speaker,
            counts: true,
            said: Said::default(),
        });
        Witness {
            observers: Arc::clone(self),
            report,
            counts: Cell::new(true),
            told: Cell::new(0),
        }
    }

    /// Shows in the series what has changed.
    pub(super) fn show(&self, metrics: &Metrics) {
        let mut state = self.state();
        if !std::mem::take(&mut state.is_news) {
            return;
        }
        let counted: Vec<Others> = (0..state.units.len()).map(|number| state.others_of(number)).collect();
        for (unit, others) in state.units.iter().zip(counted) {
            let own = |sighting| usize::from(unit.sighting == sighting);
            let reached = others.reach + own(Sighting::Reached);
            metrics.on_observed(&unit.name, reached, others.away + own(Sighting::Away));
        }
    }

    /// What this relay says of a unit may have changed.
    fn look(&self, state: &mut State, number: usize, now: impl FnOnce(&Unit) -> Sighting) {
        let Some(unit) = state.units.get_mut(number) else {
            return;
        };
        let sighting = now(unit);
        if std::mem::replace(&mut unit.sighting, sighting) != sighting {
            unit.since = self.said.fetch_add(1, Ordering::Relaxed) + 1;
            state.is_news = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each statement under the lock leaves a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Observers {
    /// One relay of each of these units says this of a unit, and nothing else has been said.
    pub(crate) fn set_said(&self, of: &UnitId, says: &[(&UnitId, Sighting)]) {
        let mut state = self.state();
        state.reports.clear();
        let number = state.number(of);
        for (speaker, sighting) in says {
            let mut said = Said::default();
            said.say(number, *sighting);
            let speaker = state.number(speaker);
            let counts = true;
            state.reports.insert(Report { speaker, counts, said });
        }
        state.on_heard();
    }
}

impl State {
    /// The number of a unit, given when it is first named by the settings or has a link.
    fn number(&mut self, unit: &UnitId) -> usize {
        if let Some(number) = self.numbers.get(unit) {
            return *number;
        }
        let number = self.units.len();
        self.numbers.insert(unit.clone(), number);
        self.units.push(Unit {
            name: unit.clone(),
            shards: Vec::new(),
            sighting: Sighting::Unknown,
            since: 0,
        });
        self.others.push(None);
        self.is_news = true;
        number
    }

    /// What others say of the unit of this number.
    fn others_of(&mut self, number: usize) -> Others {
        let (units, reports) = (self.units.len(), &self.reports);
        let Some(others) = self.others.get_mut(number) else {
            return Others::default();
        };
        *others.get_or_insert_with(|| {
            let counting = reports.values().filter(|report| report.counts);
            tally::count(number, units, counting.map(|report| (report.speaker, &report.said)))
        })
    }

    /// Something else is said of one unit.
    fn on_said(&mut self, number: usize) {
        if let Some(others) = self.others.get_mut(number) {
            *others = None;
        }
        self.is_news = true;
    }

    /// Something else may be said of each unit.
    fn on_heard(&mut self) {
        self.others.fill(None);
        self.is_news = true;
    }
}

impl Unit {
    fn now(&self) -> Sighting {
        if self.shards.contains(&true) {
            Sighting::Reached
        } else {
            Sighting::Away
        }
    }
}

impl Witness {
    /// What the peer is to be told: what has changed since it was told last.
    pub(super) fn news(&self) -> Vec<(UnitId, Sighting)> {
        let said = self.observers.said.load(Ordering::Relaxed);
        let told = self.told.replace(said);
        if said == told {
            return Vec::new();
        }
        let state = self.observers.state();
        let news = state.units.iter().filter(|unit| unit.since > told);
        news.map(|unit| (unit.name.clone(), unit.sighting)).collect()
    }

    /// The peer has said this.
    pub(super) fn hear(&self, sightings: &[(UnitId, Sighting)]) {
        let mut state = self.observers.state();
        let state = &mut *state;
        let Some(report) = state.reports.get_mut(self.report) else {
            return;
        };
        let mut heard = Vec::with_capacity(sightings.len());
        for (unit, sighting) in sightings {
            if let Some(number) = state.numbers.get(unit).copied() {
                report.said.say(number, *sighting);
                heard.push(number);
            }
        }
        for number in heard {
            state.on_said(number);
        }
    }

    /// Whether the peer answers probes.
    pub(super) fn set_counts(&self, counts: bool) {
        if self.counts.replace(counts) == counts {
            return;
        }
        let mut state = self.observers.state();
        if let Some(report) = state.reports.get_mut(self.report) {
            report.counts = counts;
        }
        state.on_heard();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let mut state = self.observers.state();
        state.reports.remove(self.report);
        state.on_heard();
    }
}
