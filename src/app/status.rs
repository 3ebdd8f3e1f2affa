//! What the shards say of themselves, for readiness, status pages and the drain.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::model::{Geo, UnitId};
use crate::settings::Settings;

/// The state of the relay as its shards last told it. Shared; written by each shard a few times a second.
pub(super) struct Status {
    shards: Vec<ShardStatus>,
    known: Mutex<Known>,
}

/// What the settings in force name.
#[derive(Clone)]
struct Known {
    units: BTreeMap<UnitId, (Geo, bool)>,
    services: Vec<String>,
}

/// One shard's part.
#[derive(Debug, Default)]
pub(super) struct ShardStatus {
    /// Calls that local services have open.
    pub(super) calls_outbound: AtomicUsize,
    /// Calls that are open at local services.
    pub(super) calls_inbound: AtomicUsize,
    /// Connections of local services.
    pub(super) connections: AtomicUsize,
    /// Links that take calls, by unit.
    links: Mutex<BTreeMap<UnitId, usize>>,
}

/// One other unit, as status pages show it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct UnitStatus {
    /// Its Geo.
    pub(super) geo: Geo,
    /// Whether this relay dials it.
    pub(super) dial: bool,
    /// Links that take calls, all shards together.
    pub(super) links: usize,
}

/// The whole relay, as status pages show it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Overview {
    /// Threads that carry calls.
    pub(super) shards: usize,
    /// Calls that local services have open.
    pub(super) calls_outbound: usize,
    /// Calls that are open at local services.
    pub(super) calls_inbound: usize,
    /// Connections of local services.
    pub(super) connections: usize,
    /// The other units.
    pub(super) units: BTreeMap<UnitId, UnitStatus>,
    /// Services in the settings.
    pub(super) services: Vec<String>,
}

impl Status {
    /// Nothing said yet.
    pub(super) fn new(settings: &Settings, shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardStatus::default()).collect(),
            known: Mutex::new(Known::of(settings)),
        }
    }

    /// Other units and services are in the settings.
    pub(super) fn reload(&self, settings: &Settings) {
        *locked(&self.known) = Known::of(settings);
    }

    /// Number of shards.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// One shard's part.
    pub(super) fn shard(&self, index: usize) -> Option<&ShardStatus> {
        self.shards.get(index)
    }

    /// Links to a unit that take calls.
    pub(super) fn links(&self, unit: &UnitId) -> usize {
        let links = |shard: &ShardStatus| locked(&shard.links).get(unit).copied();
        self.shards.iter().filter_map(links).sum()
    }

    /// Whether every unit that is dialled has a link.
    pub(super) fn all_dialled_units_have_links(&self) -> bool {
        let known = locked(&self.known).clone();
        known
            .units
            .iter()
            .all(|(unit, (_, dial))| !dial || self.links(unit) > 0)
    }

    /// Calls open at this relay, in both directions.
    pub(super) fn open_calls(&self) -> usize {
        self.sum(|shard| Some(&shard.calls_outbound)) + self.sum(|shard| Some(&shard.calls_inbound))
    }

    /// Everything, for status pages.
    pub(super) fn overview(&self) -> Overview {
        let known = locked(&self.known).clone();
        let unit = |(unit, (geo, dial)): (&UnitId, &(Geo, bool))| {
            let status = UnitStatus {
                geo: geo.clone(),
                dial: *dial,
                links: self.links(unit),
            };
            (unit.clone(), status)
        };
        Overview {
            shards: self.shards.len(),
            calls_outbound: self.sum(|shard| Some(&shard.calls_outbound)),
            calls_inbound: self.sum(|shard| Some(&shard.calls_inbound)),
            connections: self.sum(|shard| Some(&shard.connections)),
            units: known.units.iter().map(unit).collect(),
            services: known.services,
        }
    }

    /// The overview as fields of a JSON object.
    pub(super) fn fields(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self.overview()) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        }
    }

    fn sum<'a>(&'a self, of: impl Fn(&'a ShardStatus) -> Option<&'a AtomicUsize>) -> usize {
        self.shards
            .iter()
            .filter_map(of)
            .map(|number| number.load(Ordering::Relaxed))
            .sum()
    }
}

impl ShardStatus {
    /// The links of this shard that take calls, by unit.
    pub(super) fn set_links(&self, links: Vec<(UnitId, usize)>) {
        *locked(&self.links) = links.into_iter().collect();
    }
}

impl Known {
    fn of(settings: &Settings) -> Self {
        let units = settings.units.iter();
        Self {
            units: units
                .map(|(unit, of)| (unit.clone(), (of.geo.clone(), of.dial)))
                .collect(),
            services: settings.services.keys().map(ToString::to_string).collect(),
        }
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each statement under the lock leaves a valid state.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
