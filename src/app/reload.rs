//! The settings are read again, on SIGHUP or when a file has changed (O-C3).
//!
//! # Invariants
//! - R1. Settings with any mistake change nothing.
//! - R2. What can change without a restart is in force at once: routes, units, access points, services, policies of calls,
//!   retries, topics, replay, limits of the queue, credentials, log. What cannot is named in the log, each time.
//!
//! # Not here
//! What becomes of open links (`peer`) and of connections to local services (`delivery`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use prometheus::{IntCounterVec, IntGauge, Opts};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::policies::policies;
use super::shard::{Command, Reloaded};
use super::watch::Watch;
use super::{AppError, Shared, queue_thread};
use crate::control::access;
use crate::delivery::Services;
use crate::ingress;
use crate::peer;
use crate::peer::credentials::{Credentials, CredentialsError, Own, wall_clock};
use crate::queue;
use crate::queue::api::Input;
use crate::routing::{self, RouteTable};
use crate::settings::{self, Problems, Settings, Source, differences};
use crate::telemetry::{self, Chain, LogError, LogHandle};

/// Reads the settings again on SIGHUP, and when a file has changed.
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
    #[error(transparent)]
    Problems(#[from] Problems),
    #[error("{0}; another relay.unit is in force only after a restart")]
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
            metrics: Metrics::register(registry, &shared.settings)?,
            settings: shared.settings.clone(),
            shared,
            log,
        })
    }

    /// Waits for signals and changes; never ends.
    pub(super) async fn run(mut self, shards: Vec<mpsc::Sender<Command>>) {
        let mut watch = Watch::new(&self.source, &self.settings);
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {}
                () = watch.changed(self.settings.relay.watch_interval) => tracing::info!("a file has changed"),
            }
            // Taken before the files are read: what changes meanwhile is a change to come.
            watch = Watch::new(&self.source, &self.settings);
            match self.reload() {
                Ok(reloaded) => {
                    self.metrics.on_applied(&self.settings);
                    let setup = queue_thread::setup(&self.shared, &self.settings);
                    self.shared.queue.handle.send(Input::Reload(Box::new(setup)));
                    for shard in &shards {
                        let _ = shard.send(Command::Reload(Arc::clone(&reloaded))).await;
                    }
                    // Other files may be named now.
                    watch.follow(&self.source, &self.settings);
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "settings refused; those before stay in force");
                    self.metrics.on_refused();
                    self.unread(Some(format!(
                        "this relay has refused it ({}); put it right, and ask again when it is read",
                        Chain(&error)
                    )));
                    // A file that they name may be on its way.
                    if let Ok(named) = self.read() {
                        watch.follow(&self.source, &named);
                    }
                }
            }
        }
    }

    fn read(&self) -> Result<Settings, ReloadError> {
        let checked = self.source.load()?.check(self.source.base())?;
        checked.warn();
        Ok(checked.settings)
    }

    /// Everything that can fail comes before anything changes (R1).
    fn reload(&mut self) -> Result<Arc<Reloaded>, ReloadError> {
        let new = self.read()?;
        let next = apply(&self.settings, &new);
        let routes = self.routes(&next)?;
        let own = Own {
            geo: self.shared.geo.clone(),
            unit: self.shared.place.unit.clone(),
            relay: self.shared.place.relay.clone(),
            lines: self.settings.line_role(),
        };
        let credentials = Credentials::load(&next.peer, &next.units, &own, wall_clock())?;
        if next.log.level != self.settings.log.level {
            self.log.set_levels(&next.log.level)?;
        }
        self.shared.quic.credentials().replace(credentials);
        if next.routing != self.settings.routing && routes.version() <= self.settings.routing.version {
            tracing::warn!(
                "the routes changed, but routing.version did not rise: other units cannot tell which is newer"
            );
        }
        if next.routing != self.settings.routing || next.units != self.settings.units {
            self.shared.routing.replace_rules(&routes);
            if let Some(ways) = &self.shared.routes {
                ways.configured.store(Arc::new(next.route_book()));
            }
        }
        let policies = policies(&next);
        self.shared.policies.store(Arc::new(policies.clone()));
        self.shared.status.reload(&next);
        self.shared.access.replace_directory(next.access_directory());
        self.shared.retries.add_units(next.units.keys().cloned());
        self.shared.retries.replace_settings(next.retry.clone());
        telemetry::access::set_share(next.log.access);
        telemetry::span::set_enabled(next.log.spans);
        let changed = differences(&self.settings, &next).join(", ");
        let restart = differences(&next, &new).join(", ");
        self.settings = next.clone();
        tracing::info!(%changed, "settings loaded");
        let is_published = new.route_book() != next.route_book();
        self.unread(
            is_published.then(|| "this relay reads [[routes.dimension]] only when it starts; start it anew".to_owned()),
        );
        if !restart.is_empty() {
            tracing::warn!(settings = %restart, "these settings take effect only after a restart");
        }
        Ok(Arc::new(Reloaded {
            settings: next,
            policies,
        }))
    }

    /// Says to whoever publishes why what is in the files is not what is in force.
    fn unread(&self, why: Option<String>) {
        if let Some(ways) = &self.shared.routes {
            ways.unread.store(Arc::new(why));
        }
    }

    fn routes(&self, next: &Settings) -> Result<RouteTable, ReloadError> {
        let unit = &self.shared.place.unit;
        RouteTable::build(&next.routing, unit, next.units.keys()).map_err(|errors| {
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
        relay: settings::Relay {
            watch_interval: new.relay.watch_interval,
            access: new.relay.access.clone(),
            ..running.relay.clone()
        },
        units: new.units.clone(),
        services: services(running, new),
        calls: new.calls.clone(),
        retry: new.retry.clone(),
        queue: queue::Settings {
            // The log is opened with them, and the way into the queue is made with the last.
            bytes_max: running.queue.bytes_max,
            segment_bytes: running.queue.segment_bytes,
            sync: running.queue.sync,
            publish_bytes_max: running.queue.publish_bytes_max,
            ..new.queue.clone()
        },
        access: access::Settings {
            dimension: running.access.dimension.clone(),
            ..new.access.clone()
        },
        replay: new.replay.clone(),
        topics: new.topics.clone(),
        log: telemetry::Settings {
            format: running.log.format,
            ..new.log.clone()
        },
        ..running.clone()
    }
}

/// The services that change without a restart: all but those that the relay itself answers if nobody else does.
fn services(running: &Settings, new: &Settings) -> Services {
    let own: Vec<_> = ingress::api::own_services(&Services::new()).collect();
    let kept = running.services.iter().filter(|(name, _)| own.contains(name));
    let others = new.services.iter().filter(|(name, _)| !own.contains(name));
    kept.chain(others)
        .map(|(name, of)| (name.clone(), of.clone()))
        .collect()
}

struct Metrics {
    reloads: IntCounterVec,
    loaded: IntGauge,
    refused: IntGauge,
    version: IntGauge,
}

impl Metrics {
    fn register(registry: &prometheus::Registry, settings: &Settings) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let reloads = IntCounterVec::new(
            Opts::new(
                "strait_settings_reload_total",
                "Times the settings were read again, by whether they were applied.",
            ),
            &["outcome"],
        )?;
        for outcome in [APPLIED, REFUSED] {
            reloads.with_label_values(&[outcome]);
        }
        registry.register(Box::new(reloads.clone()))?;
        let metrics = Self {
            reloads,
            loaded: gauge(
                "strait_settings_loaded_timestamp_seconds",
                "When the settings in force were read, in seconds since 1970.",
            )?,
            refused: gauge(
                "strait_settings_refused",
                "1 if the settings or credentials read last were refused, and those before are still in force.",
            )?,
            version: gauge(
                "strait_settings_version",
                "A number that changes with the settings in force; 48 bits of a hash.",
            )?,
        };
        metrics.on_loaded(settings);
        Ok(metrics)
    }

    fn on_applied(&self, settings: &Settings) {
        self.reloads.with_label_values(&[APPLIED]).inc();
        self.on_loaded(settings);
    }

    fn on_refused(&self) {
        self.reloads.with_label_values(&[REFUSED]).inc();
        self.refused.set(1);
    }

    fn on_loaded(&self, settings: &Settings) {
        self.refused.set(0);
        self.version.set(version(settings));
        self.loaded
            .set(i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX));
    }
}

fn version(settings: &Settings) -> i64 {
    let mut hasher = DefaultHasher::new();
    let text = serde_json::to_string(settings).unwrap_or_default();
    text.hash(&mut hasher);
    // So many bits survive in a floating-point number.
    i64::try_from(hasher.finish() >> 16).unwrap_or_default()
}

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";
