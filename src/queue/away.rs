//! Units that count as away because an operator says so: calls of methods that keep theirs do not go there, and what is kept
//! for them waits.
//!
//! # Not here
//! Until when (`record::Pause`, of which this is the part that others read), calls (`outbound::kept`).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::record::Pause;
use crate::model::UnitId;

/// These units. Clones share them; the engine alone changes them.
#[derive(Clone, Debug, Default)]
pub struct AwayUnits(Arc<ArcSwap<BTreeMap<UnitId, Pause>>>);

impl AwayUnits {
    /// Why a unit counts as away, if it does.
    pub fn of(&self, unit: &UnitId) -> Option<Pause> {
        self.0.load().get(unit).cloned()
    }

    /// Whether a unit counts as away. On the way of each call that could be kept.
    pub fn contains(&self, unit: &UnitId) -> bool {
        self.0.load().contains_key(unit)
    }

    /// A unit counts as away, or no more.
    pub(crate) fn set(&self, unit: &UnitId, pause: Option<&Pause>) {
        self.0.rcu(|units| {
            let mut units = BTreeMap::clone(units);
            match pause {
                Some(pause) => units.insert(unit.clone(), pause.clone()),
                None => units.remove(unit),
            };
            units
        });
    }
}
