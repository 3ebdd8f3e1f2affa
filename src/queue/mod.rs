//! The durable queue: keeps messages until the units and groups they are for have them.
//!
//! # Path
//! `outbound::message` publishes; the message is a record of the [`log`]; then the outbox of each unit sends it, or
//! the inbox delivers it here. What a peer sends comes in through arrivals and goes on to the inbox.
//!
//! # Not here
//! Streams of lanes (`outbound`, `inbound`, `peer`), calls to services (`delivery`), which unit owns a key (`routing`).

pub mod api;
mod commands;
pub mod effects;
mod handle;
pub mod lanes;
pub mod line;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod record;
mod settings;

use std::sync::Arc;

pub use handle::{Handle, Inlet, Outlets};
pub use metrics::{DiskMetrics, Metrics};
pub use settings::{
    DeadLetterSettings, DedupSettings, Exhausted, GroupSettings, OnExpiry, Overflow, Priority, Push, ReplayLimits,
    ReplayOrder, ReplaySettings, RetrySettings, Settings, Sync, TopicRule, TopicSettings, Topics, UnitReplay,
};

use crate::model::{Geo, Place};

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
}
