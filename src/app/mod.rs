//! The composition root: builds, wires, starts in order, drains in reverse order.
//!
//! # Path
//! [`run`] starts the shards (`shard`), which carry all calls, then the listeners (`accept`), which hand each
//! connection to one shard, then waits for a signal and drains.
//!
//! # Order of the end (C-L1)
//! not ready -> no new connections, clients and peers told -> open calls finish within
//! `relay.drain_timeout` -> links close -> shards end -> admin last. A second signal ends at once.

mod accept;
mod certificates;
mod contexts;
mod policies;
mod reload;
mod shard;
mod status;
mod watch;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::policies::policies;
use self::reload::Reload;
use self::shard::{Command, Shard};
use crate::admin::{self, Admin};
use crate::calls::CallPolicies;
use crate::delivery::SharedDirectory;
use crate::model::{Geo, Place};
use crate::peer::credentials::{Credentials, CredentialsError, CredentialsHandle, Own};
use crate::peer::quic::{Quic, QuicError};
use crate::peer::refusals::Refusals;
use crate::settings::{Checked, Settings, Source};
use crate::telemetry::calls::CallSeries;
use crate::telemetry::{LogHandle, Registry};
use crate::{admission, delivery, ingress, peer, routing};

use self::certificates::Pages;
use self::status::{ShardStatus, Status};

/// Why the relay cannot run. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The admin address cannot be used.
    #[error("the admin address cannot be used")]
    Admin(#[from] admin::ServerError),
    /// An address is taken or not allowed.
    #[error("cannot listen on {address} ({what}); is another relay running there?")]
    Bind {
        /// What listens there.
        what: &'static str,
        /// The address or socket path.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Certificate, key or trust cannot be used.
    #[error("the credentials of this relay cannot be used")]
    Credentials(#[from] CredentialsError),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// `relay.data_dir`.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The relay's own API cannot be made.
    #[error(transparent)]
    Api(#[from] ingress::api::ApiError),
    /// Two components want the same series.
    #[error("metrics cannot be registered; this is a fault of this build")]
    Metrics(#[from] prometheus::Error),
    /// TLS cannot be set up.
    #[error("QUIC cannot be set up")]
    Quic(#[from] QuicError),
    /// The files of Unix sockets cannot have the permissions that were asked for.
    #[error("the permissions of Unix sockets cannot be set")]
    Access(#[from] ingress::access::AccessError),
    /// A token cannot be read.
    #[error("a token of the settings cannot be used")]
    Token(#[from] crate::token::TokenError),
    /// A limit of the framed protocol is out of range.
    #[error("the settings of the framed protocol do not fit together")]
    Framed(#[from] ingress::framed::SettingsError),
    /// A thread or runtime cannot be started.
    #[error("cannot start {what}")]
    Thread {
        /// What.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// All that shards share, made once.
struct Shared {
    settings: Settings,
    geo: Geo,
    place: Place,
    data_dir: PathBuf,
    policies: ArcSwap<CallPolicies>,
    retries: Arc<admission::RetryBudgets>,
    framed: delivery::framed::Limits,
    routing: routing::Handle,
    quic: Quic,
    directory: Arc<SharedDirectory>,
    elsewhere: Arc<peer::Elsewhere>,
    roster: Arc<peer::Roster>,
    series: Series,
    status: Arc<Status>,
    health: admin::Health,
}

impl Shared {
    fn missing_keys(self: &Arc<Self>) -> admin::MissingKeys {
        let shared = self.clone();
        Arc::new(move |service| shared.policies.load().of(service).missing_key.clone())
    }

    /// How connections to local services speak.
    fn transports(&self) -> delivery::Transports {
        delivery::Transports {
            grpc: self.settings.delivery.grpc.clone(),
            grpc_metrics: self.series.delivery_grpc.clone(),
            framed: self.framed.clone(),
            framed_metrics: self.series.framed.delivery(),
            http1: self.settings.delivery.http1.clone(),
        }
    }
}

/// Series of all components.
struct Series {
    calls: CallSeries,
    connections_refused: IntCounter,
    delivery: delivery::Metrics,
    delivery_grpc: delivery::grpc::Metrics,
    framed: delivery::framed::Metrics,
    ingress_grpc: ingress::grpc::Metrics,
    peer: peer::Metrics,
}

/// Runs the relay until a signal ends it. `source` is where the settings came from and are read again.
///
/// # Errors
/// [`AppError`] if it cannot start; then nothing is left behind.
pub fn run(source: Source, checked: Checked, log: LogHandle) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("strait-control")
        .build()
        .map_err(|source| AppError::Thread {
            what: "the control runtime",
            source,
        })?;
    runtime.block_on(serve(source, checked, log))
}

async fn serve(source: Source, checked: Checked, log: LogHandle) -> Result<(), AppError> {
    let registry = Registry::new()?;
    prepare_data_dir(&checked.data_dir)?;
    let admin_address = checked.admin;
    let shared = Arc::new(build(checked, &registry)?);
    let reload = Reload::new(source, shared.clone(), log.clone(), registry.series())?;
    let settings = &shared.settings;
    let health = &shared.health;
    health.set("starting", false, "the relay is starting");
    let drain = CancellationToken::new();
    let parts = admin::Parts {
        registry,
        health: health.clone(),
        log,
        routing: shared.routing.clone(),
        place: shared.place.clone(),
        missing_key: shared.missing_keys(),
        status: Arc::new(Pages(shared.clone())),
        drain: drain.clone(),
        access: admin::Access {
            read: contexts::token(&settings.admin.read_token_file)?,
            change: contexts::token(&settings.admin.change_token_file)?,
        },
    };
    let admin = admin_address.map(|address| Admin::start(address, parts)).transpose()?;
    let shards = start_shards(&shared).await?;
    let listeners = accept::Listeners::bind(&shared)?;
    let stop_accepting = CancellationToken::new();
    let accepting = listeners.run(shards.iter().map(Shard::commands).collect(), stop_accepting.clone());
    tracing::info!(
        geo = %shared.geo, unit = %shared.place.unit, relay = %shared.place.relay, shards = shards.len(),
        peers = %settings.peer.listen, version = env!("CARGO_PKG_VERSION"), "relay started"
    );
    let grace = settings.relay.drain_timeout;
    let life = async {
        wait_for_links(&shared.status).await;
        health.set("starting", true, "");
        drain.cancelled().await;
        health.set("draining", false, "the relay is shutting down");
        stop_accepting.cancel();
        finish(&shards, &shared.status, grace).await;
    };
    let forced = tokio::select! {
        ((), ()) = async { tokio::join!(accepting, life) } => false,
        () = signals(&drain) => true,
        () = reload.run(shards.iter().map(Shard::commands).collect()) => true,
    };
    if !forced {
        end(shards).await;
    }
    if let Some(admin) = admin {
        admin.stop();
    }
    tracing::info!(forced, "relay stopped");
    Ok(())
}

fn build(checked: Checked, registry: &Registry) -> Result<Shared, AppError> {
    let series = registry.series();
    let Checked {
        settings,
        geo,
        unit,
        relay,
        data_dir,
        routes,
        admin: _,
        warnings: _,
    } = checked;
    let own = Own {
        geo: geo.clone(),
        unit: unit.clone(),
        relay: relay.clone(),
    };
    let credentials = Credentials::load(&settings.peer, &settings.units, &own, peer::credentials::wall_clock())?;
    let credentials = CredentialsHandle::register(credentials, series)?;
    let quic = Quic::new(
        settings.peer.clone(),
        credentials,
        Arc::new(Refusals::register(series)?),
    )?;
    let shards = shard_count(settings.relay.shards);
    let units = settings.units.keys().chain([&unit]).cloned();
    Ok(Shared {
        routing: routing::Handle::new(routes),
        quic,
        directory: SharedDirectory::new(shards),
        elsewhere: peer::Elsewhere::new(shards, settings.delivery.crossing_in_flight_max),
        roster: Arc::default(),
        policies: ArcSwap::from_pointee(policies(&settings)),
        retries: admission::RetryBudgets::new(units, shards, settings.retry.clone()),
        framed: settings.ingress.framed.limits()?,
        series: Series {
            calls: CallSeries::register(series)?,
            connections_refused: connections_refused(series)?,
            delivery: delivery::Metrics::register(series)?,
            delivery_grpc: delivery::grpc::Metrics::register(series)?,
            framed: delivery::framed::Metrics::register(series)?,
            ingress_grpc: ingress::grpc::Metrics::register(series)?,
            peer: peer::Metrics::register(series, &unit)?,
        },
        status: Arc::new(Status::new(&settings, shards)),
        health: admin::Health::new(),
        place: Place { unit, relay },
        settings,
        geo,
        data_dir,
    })
}

fn connections_refused(registry: &prometheus::Registry) -> Result<IntCounter, prometheus::Error> {
    let refused = IntCounter::new(
        "strait_ingress_connections_refused_total",
        "Local connections closed at once because ingress.connections_max was reached.",
    )?;
    registry.register(Box::new(refused.clone()))?;
    Ok(refused)
}

fn shard_count(wanted: usize) -> usize {
    if wanted > 0 {
        return wanted;
    }
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Creates the data directory (O-S5).
fn prepare_data_dir(path: &Path) -> Result<(), AppError> {
    let failed = |source| AppError::DataDir {
        path: path.to_path_buf(),
        source,
    };
    if !path.exists() {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(DATA_DIR_MODE)
            .create(path)
            .map_err(failed)?;
    }
    Ok(())
}

async fn start_shards(shared: &Arc<Shared>) -> Result<Vec<Shard>, AppError> {
    let mut shards = Vec::new();
    for index in 0..shared.status.shards() {
        shards.push(Shard::start(shared.clone(), index).await?);
    }
    // Only now: a socket that joins the shared port moves part of the peers' packets to itself, and with
    // them connections that another shard already has.
    for shard in &shards {
        let _ = shard.commands().send(Command::Link).await;
    }
    Ok(shards)
}

/// A relay that has just started answers `unit_away` until its links are up. Readiness waits for them a
/// little, not for ever: a unit that is away must not keep this one from serving.
async fn wait_for_links(status: &Status) {
    let up = async {
        while !status.all_dialled_units_have_links() {
            tokio::time::sleep(POLL).await;
        }
    };
    if timeout(LINK_WAIT, up).await.is_err() {
        tracing::warn!("ready, although not every unit has a link yet");
    }
}

/// Waits for a signal to end: the first drains, the second ends at once.
async fn signals(drain: &CancellationToken) {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be caught; end this relay over its admin address");
        return std::future::pending().await;
    };
    for last in [false, true] {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if !last {
            tracing::info!(signal = name, "draining; the same signal again ends at once");
            drain.cancel();
        }
    }
}

/// Lets open calls finish within the grace period.
async fn finish(shards: &[Shard], status: &Status, grace: Duration) {
    for shard in shards {
        let _ = shard.commands().send(Command::Drain).await;
    }
    let done = async {
        // Clients and peers need a moment to hear of it; calls they had sent before still come in.
        tokio::time::sleep(NOTICE).await;
        while status.open_calls() > 0 {
            tokio::time::sleep(POLL).await;
        }
    };
    if timeout(grace, done).await.is_err() {
        let overview = status.overview();
        tracing::warn!(
            calls_outbound = overview.calls_outbound,
            calls_inbound = overview.calls_inbound,
            "drain timeout; these calls are cut off"
        );
    }
}

async fn end(shards: Vec<Shard>) {
    for shard in &shards {
        let _ = shard.commands().send(Command::End).await;
    }
    for shard in shards {
        shard.join();
    }
}

/// The group may pass to the sockets (O-S3), but neither list nor read.
const DATA_DIR_MODE: u32 = 0o710;
const POLL: Duration = Duration::from_millis(20);
const LINK_WAIT: Duration = Duration::from_secs(3);
/// Two ticks of the shards, so that their counts are of after the drain was told.
const NOTICE: Duration = Duration::from_millis(250);
