//! The durable queue: keeps messages until the units and groups they are for have them.
//!
//! # Path
//! `outbound::message` publishes; the message is a record of the [`log`]; then the outbox of each unit sends it, or
//! the inbox delivers it here. What a peer sends comes in through arrivals and goes on to the inbox.
//!
//! # Not here
//! Streams of lanes (`outbound`, `inbound`, `peer`), calls to services (`delivery`), which unit owns a key (`routing`).

pub mod api;
pub mod arrivals;
mod away;
pub mod codec;
mod commands;
pub mod dead;
pub mod dedup;
pub mod effects;
pub mod engine;
mod handle;
pub mod inbox;
mod jobs;
pub mod lanes;
pub mod line;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod outbox;
mod ownership;
mod planted;
pub mod record;
mod rest;
mod settings;
#[cfg(test)]
mod sim;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use away::AwayUnits;
pub use engine::ParkingLimits;
pub use handle::{Handle, Inlet, Outlets};
pub use metrics::Metrics;
pub use ownership::{Keys, Owner, Ownership, Route};
pub use settings::{
    CALLS_TOPIC, DeadLetterSettings, DedupSettings, Exhausted, GroupSettings, MirrorSettings, OnExpiry, Overflow,
    Priority, Push, ReplayLimits, ReplayOrder, ReplaySettings, RetrySettings, Settings, Sync, TopicRule, TopicSettings,
    Topics, UnitReplay, calls_group, calls_topic,
};

pub use worker::{QueueError, Running, start};

use crate::model::{Geo, Message, Place, UnitId};

/// What the queue works by; exchanged as a whole when settings change.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This relay.
    pub place: Place,
    /// Its Geo.
    pub geo: Geo,
    /// `[queue]`.
    pub queue: Settings,
    /// `[replay]`.
    pub replay: ReplaySettings,
    /// `[topics.*]`.
    pub topics: Arc<Topics>,
    /// What is known of the other units.
    pub neighbours: Neighbours,
}

/// What is known of the other units.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Their Geos, as far as they are known.
    pub geos: BTreeMap<UnitId, Geo>,
    /// Units that a message may pass, its origin included (`routing.hops_max`).
    pub hops_max: usize,
    /// Who owns a key; `None`: nobody asks, all messages of peers stay here.
    pub owners: Option<Arc<dyn Ownership>>,
    /// How many publications may wait until it is known where they go.
    pub parking: ParkingLimits,
    /// Which of them count as away because an operator says so.
    pub away: AwayUnits,
}

impl Setup {
    /// Whether a unit is in another Geo.
    pub fn is_abroad(&self, unit: &UnitId) -> bool {
        let geo = self.neighbours.geos.get(unit);
        geo.is_some_and(|geo| *geo != self.geo)
    }
}

impl Neighbours {
    /// Who owns the key of a message.
    pub fn owner(&self, message: &Message) -> Owner {
        let key = message.key.as_ref().zip(self.owners.as_ref());
        key.map_or(Owner::Unknown, |(key, owners)| owners.of(key))
    }

    /// Where a publication goes of which that was not known when it came.
    pub fn route(&self, message: &Message) -> Route {
        let key = message.key.as_ref().zip(self.owners.as_ref());
        key.map_or(Route::Nowhere, |(key, owners)| owners.route(key))
    }
}
