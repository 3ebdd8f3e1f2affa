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
//!
//! # Not here
//! What is done with calls of a unit that is away (`outbound::kept`).

mod tally;

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
    /// What others say of each unit; `None` since that changed.
    others: Option<Vec<Others>>,
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
        number
            .and_then(|number| state.counted().get(number).copied())
            .unwrap_or_default()
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
        let counted = state.counted().to_vec();
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
        self.on_heard();
        number
    }

    fn counted(&mut self) -> &[Others] {
        let (units, reports) = (self.units.len(), &self.reports);
        self.others.get_or_insert_with(|| {
            let counting = reports.values().filter(|report| report.counts);
            tally::count(units, counting.map(|report| (report.speaker, &report.said)))
        })
    }

    fn on_heard(&mut self) {
        self.others = None;
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
        for (unit, sighting) in sightings {
            if let Some(number) = state.numbers.get(unit) {
                report.said.say(*number, *sighting);
            }
        }
        state.on_heard();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn name(text: &str) -> UnitId {
        Name::new(text).unwrap()
    }

    /// This relay knows these units.
    fn knowing(units: &[&str]) -> Arc<Observers> {
        let observers = Arc::new(Observers::default());
        observers.know(&units.iter().map(|unit| name(unit)).collect::<Vec<_>>());
        observers
    }

    fn others(reach: usize, away: usize) -> Others {
        Others { reach, away }
    }

    const AWAY: Sighting = Sighting::Away;
    const REACHED: Sighting = Sighting::Reached;

    // B1
    #[test]
    fn what_a_peer_says_counts_while_its_link_is_up_and_it_answers() {
        let observers = knowing(&["b", "c", "d"]);
        let b = name("b");
        assert_eq!(observers.others(&b), others(0, 0), "nobody has said anything");
        let (first, second, of_d) = (
            observers.enter(&name("c")),
            observers.enter(&name("c")),
            observers.enter(&name("d")),
        );
        assert_eq!(observers.others(&b), others(0, 0), "links alone say nothing");
        first.hear(&[(b.clone(), REACHED), (name("d"), AWAY)]);
        second.hear(&[(b.clone(), AWAY)]);
        of_d.hear(&[(b.clone(), AWAY)]);
        assert_eq!(observers.others(&b), others(1, 1));
        assert_eq!(observers.others(&name("d")), others(0, 1));
        first.set_counts(false);
        assert_eq!(observers.others(&b), others(0, 2), "it does not answer");
        first.set_counts(true);
        assert_eq!(observers.others(&b), others(1, 1), "it does again");
        drop(first);
        assert_eq!(observers.others(&b), others(0, 2), "the link has ended");
        drop(second);
        assert_eq!(observers.others(&b), others(0, 1));
        of_d.hear(&[(b.clone(), Sighting::Unknown)]);
        assert_eq!(observers.others(&b), others(0, 0), "it is no observer any more");
    }

    // B2, B3
    #[test]
    fn nobody_speaks_of_himself_or_of_units_that_are_not_in_the_settings() {
        let observers = knowing(&["b", "c"]);
        let of_b = observers.enter(&name("b"));
        of_b.hear(&[(name("b"), AWAY), (name("elsewhere"), REACHED), (name("c"), REACHED)]);
        assert_eq!(observers.others(&name("b")), others(0, 0));
        assert_eq!(observers.others(&name("c")), others(1, 0));
        assert_eq!(observers.others(&name("elsewhere")), others(0, 0));
        assert_eq!(observers.state().units.len(), 2);
    }

    // B4
    #[test]
    fn a_peer_is_told_all_at_first_and_then_what_has_changed() {
        let observers = knowing(&["b", "c"]);
        let witness = observers.enter(&name("c"));
        let told = |witness: &Witness, expected: &[(&str, Sighting)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(unit, sighting)| (name(unit), *sighting))
                .collect();
            assert_eq!(witness.news(), expected);
            assert_eq!(witness.news(), [], "once");
        };
        told(&witness, &[("b", AWAY), ("c", AWAY)]);
        observers.on_reached(0, &name("b"), true);
        told(&witness, &[("b", REACHED)]);
        // Calls of one shard go by the links of another one, too.
        observers.on_reached(3, &name("b"), true);
        observers.on_reached(0, &name("b"), false);
        told(&witness, &[]);
        assert_eq!(observers.own(&name("b")), REACHED);
        observers.on_reached(3, &name("b"), false);
        told(&witness, &[("b", AWAY)]);
        // There and back between two looks.
        observers.on_reached(0, &name("b"), true);
        observers.on_reached(0, &name("b"), false);
        told(&witness, &[("b", AWAY)]);
        told(&observers.enter(&name("b")), &[("b", AWAY), ("c", AWAY)]);
    }

    // C-L2
    #[test]
    fn a_unit_that_leaves_the_settings_is_not_known_any_more() {
        let observers = knowing(&["b", "c"]);
        let witness = observers.enter(&name("c"));
        observers.on_reached(0, &name("b"), true);
        witness.news();
        observers.know([&name("c"), &name("d")]);
        assert_eq!(witness.news(), [(name("b"), Sighting::Unknown), (name("d"), AWAY)]);
        // Its links end, each in its time.
        observers.on_reached(1, &name("b"), true);
        assert_eq!(observers.own(&name("b")), Sighting::Unknown);
        // It comes back, and its links are there still.
        observers.know([&name("b"), &name("c"), &name("d")]);
        assert_eq!(witness.news(), [(name("b"), REACHED)]);
    }

    #[test]
    fn the_series_show_what_all_observers_say() {
        let observers = knowing(&["b", "c", "d"]);
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry, &name("a")).unwrap();
        let shown = |sighting: &str| {
            observers.show(&metrics);
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == "strait_peer_observers");
            let rows = family.unwrap().get_metric().iter();
            let has = |row: &prometheus::proto::Metric, name: &str, value: &str| {
                row.get_label()
                    .iter()
                    .any(|label| label.name() == name && label.value() == value)
            };
            let row = rows.filter(|row| has(row, "dst_unit", "b") && has(row, "sighting", sighting));
            row.map(|row| row.get_gauge().get_value()).collect::<Vec<_>>()
        };
        assert_eq!((shown("reached"), shown("away")), (vec![0.0], vec![1.0]));
        observers.on_reached(0, &name("b"), true);
        let (of_c, of_d) = (observers.enter(&name("c")), observers.enter(&name("d")));
        of_c.hear(&[(name("b"), AWAY)]);
        of_d.hear(&[(name("b"), REACHED)]);
        assert_eq!((shown("reached"), shown("away")), (vec![2.0], vec![1.0]));
        drop(of_d);
        assert_eq!((shown("reached"), shown("away")), (vec![1.0], vec![1.0]));
    }
}
