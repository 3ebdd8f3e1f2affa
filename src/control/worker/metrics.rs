//! Series of a relay's copy of the routes.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

use crate::routing::Routes;
use crate::routing::record::Batch;

/// Series of a relay's copy of the routes.
#[derive(Clone, Debug)]
pub struct Metrics {
    revision: IntGauge,
    overrides: IntGauge,
    bytes: IntGauge,
    moving: IntGauge,
    frozen: IntGauge,
    stale: IntGauge,
    session: IntGauge,
    changes: IntCounter,
    snapshots: IntCounter,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            revision: gauge(
                "strait_routes_revision",
                "Revision of the route store that this relay has applied.",
            )?,
            overrides: gauge(
                "strait_routes_keys",
                "Keys with a record of their own in the copy of the routes.",
            )?,
            bytes: gauge("strait_routes_bytes", "Memory of the copy of the routes.")?,
            moving: gauge(
                "strait_routes_moving",
                "Keys, buckets, rules and units that are being moved.",
            )?,
            frozen: gauge(
                "strait_routes_frozen",
                "Freezes of keys of this unit that this relay waits for or has reported.",
            )?,
            stale: gauge(
                "strait_routes_stale",
                "1 while nothing was heard from the route store for 2 seconds, else 0.",
            )?,
            session: gauge(
                "strait_routes_session",
                "1 while this relay has a session with the route store, else 0.",
            )?,
            changes: counter(
                "strait_routes_changes_total",
                "Changes that came with the feed of the route store.",
            )?,
            snapshots: counter(
                "strait_routes_snapshots_total",
                "Times that the whole of the routes was read because there was no copy or a gap in the feed.",
            )?,
        })
    }

    pub(super) fn on_copy(&self, routes: &Routes) {
        self.revision.set(whole(routes.rev().0));
        self.overrides.set(whole(routes.overrides_len()));
        self.bytes.set(whole(routes.bytes()));
        self.moving.set(whole(routes.moving().count()));
    }

    /// Whether nothing was heard of the store for seconds.
    pub fn is_stale(&self) -> bool {
        self.stale.get() != 0
    }

    pub(super) fn on_tick(&self, has_session: bool, frozen: usize) {
        self.session.set(has_session.into());
        self.frozen.set(whole(frozen));
    }

    pub(super) fn on_stale(&self, stale: bool) {
        self.stale.set(stale.into());
    }

    pub(super) fn on_batch(&self, batch: &Batch) {
        self.changes
            .inc_by(u64::try_from(batch.changes.len()).unwrap_or_default());
    }

    pub(super) fn on_snapshot(&self) {
        self.snapshots.inc();
    }
}

fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
