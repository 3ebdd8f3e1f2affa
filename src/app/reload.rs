//! SIGHUP: the settings are read again (O-C3).
//!
//! # Invariants
//! - R1. Settings with any mistake change nothing.
//! - R2. What can change without a restart is in force at once: routes, credentials, retries, log. What cannot is
//!   named in the log, each time.
//!
//! # Not here
//! Connections that are open keep the credentials they were made with.

use std::sync::Arc;

use prometheus::{IntCounterVec, IntGauge, Opts};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{AppError, Shared};
use crate::peer;
use crate::peer::credentials::{Credentials, CredentialsError, Own, wall_clock};
use crate::routing::{self, RouteTable};
use crate::settings::{Problems, Settings, Source, differences};
use crate::telemetry::{self, Chain, LogError, LogHandle};

/// Reads the settings again on SIGHUP.
pub(super) struct Reload {
    hangup: Signal,
    source: Source,
    /// What is in force.
    settings: Settings,
    shared: Arc<Shared>,
    log: LogHandle,
    metrics: Metrics,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("the credentials cannot be used")]
    Credentials(#[from] CredentialsError),
    #[error("the log levels cannot be used")]
    Log(#[from] LogError),
    #[error("{0}")]
    Problems(#[from] Problems),
    #[error("{0}; a unit that is new in [units] can own keys only after a restart")]
    Routes(String),
}

impl Reload {
    /// From now on SIGHUP does not end the process.
    pub(super) fn new(
        source: Source,
        shared: Arc<Shared>,
        log: LogHandle,
        registry: &prometheus::Registry,
    ) -> Result<Self, AppError> {
        let hangup = signal(SignalKind::hangup()).map_err(|source| AppError::Thread {
            what: "the handler of SIGHUP",
            source,
        })?;
        Ok(Self {
            hangup,
            source,
            settings: shared.settings.clone(),
            shared,
            log,
            metrics: Metrics::register(registry)?,
        })
    }

    /// Waits for signals; never ends.
    pub(super) async fn run(mut self) {
        while self.hangup.recv().await.is_some() {
            match self.reload() {
                Ok(()) => self.metrics.on_applied(),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "settings refused; those before stay in force");
                    self.metrics.reloads.with_label_values(&[REFUSED]).inc();
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Everything that can fail comes before anything changes (R1).
    fn reload(&mut self) -> Result<(), ReloadError> {
        let new = self.source.load()?.check(self.source.base())?.settings;
        let next = apply(&self.settings, &new);
        let routes = self.routes(&next.routing)?;
        let own = Own {
            geo: self.shared.geo.clone(),
            unit: self.shared.place.unit.clone(),
            relay: self.shared.place.relay.clone(),
        };
        let credentials = Credentials::load(&next.peer, &next.units, &own, wall_clock())?;
        if next.log.level != self.settings.log.level {
            self.log.set_levels(&next.log.level)?;
        }
        self.shared.quic.credentials().replace(credentials);
        if next.routing != self.settings.routing {
            if routes.version() <= self.settings.routing.version {
                tracing::warn!(
                    "the routes changed, but routing.version did not rise: other units cannot tell which is newer"
                );
            }
            self.shared.routing.replace(routes);
        }
        self.shared.retries.replace_settings(next.retry.clone());
        telemetry::access::set_share(next.log.access);
        telemetry::span::set_enabled(next.log.spans);
        let changed = differences(&self.settings, &next).join(", ");
        let restart = differences(&next, &new).join(", ");
        self.settings = next;
        tracing::info!(%changed, "settings loaded");
        if !restart.is_empty() {
            tracing::warn!(settings = %restart, "these settings take effect only after a restart");
        }
        Ok(())
    }

    fn routes(&self, routing: &routing::Settings) -> Result<RouteTable, ReloadError> {
        let units = self.settings.units.keys();
        RouteTable::build(routing, &self.shared.place.unit, units).map_err(|errors| {
            let mut text = Vec::new();
            for error in errors {
                text.push(format!("{}: {}", error.path(), error.problem));
            }
            ReloadError::Routes(text.join("; "))
        })
    }
}

/// The settings in force with what of the new ones needs no restart.
fn apply(running: &Settings, new: &Settings) -> Settings {
    Settings {
        routing: routing::Settings {
            hops_max: running.routing.hops_max,
            ..new.routing.clone()
        },
        peer: peer::Settings {
            certificate: new.peer.certificate.clone(),
            key: new.peer.key.clone(),
            trust: new.peer.trust.clone(),
            crls: new.peer.crls.clone(),
            crl_expired: new.peer.crl_expired,
            ..running.peer.clone()
        },
        retry: new.retry.clone(),
        log: telemetry::Settings {
            format: running.log.format,
            ..new.log.clone()
        },
        ..running.clone()
    }
}

struct Metrics {
    reloads: IntCounterVec,
    loaded: IntGauge,
}

impl Metrics {
    fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "strait_settings_reload_total",
                "Times the settings were read again, by whether they were applied.",
            ),
            &["outcome"],
        )?;
        let loaded = IntGauge::new(
            "strait_settings_loaded_timestamp_seconds",
            "When the settings in force were read, in seconds since 1970.",
        )?;
        for outcome in [APPLIED, REFUSED] {
            reloads.with_label_values(&[outcome]);
        }
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(loaded.clone()))?;
        let metrics = Self { reloads, loaded };
        metrics.on_loaded();
        Ok(metrics)
    }

    fn on_applied(&self) {
        self.reloads.with_label_values(&[APPLIED]).inc();
        self.on_loaded();
    }

    fn on_loaded(&self) {
        self.loaded
            .set(i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX));
    }
}

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";
