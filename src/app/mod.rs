//! The composition root: builds, wires, starts in order, drains in reverse order.
//!
//! # Path
//! [`run`] starts the shards (`shard`), which carry all calls, then the listeners (`accept`), which hand each
//! connection to one shard, then waits for a signal and drains.
//!
//! # Order of the end (C-L1)
//! not ready -> no new connections, clients and peers told -> open calls finish within
//! `relay.drain_timeout` -> lanes for messages end -> the queue is on disk and closed -> links close -> shards end ->
//! admin last. A second signal ends at once.

mod accept;
mod certificates;
mod contexts;
mod error;
mod messages;
mod policies;
mod queue_thread;
mod reload;
mod routes;
mod shard;
mod shared;
mod status;
mod watch;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::certificates::Pages;
pub use self::error::AppError;
use self::reload::Reload;
use self::shard::{Command, Shard};
use self::shared::Shared;
use self::status::{ShardStatus, Status};
use crate::admin::{self, Admin};
use crate::crossing::Receiver;
use crate::queue::api::Output;
use crate::settings::{Checked, Source};
use crate::telemetry::{LogHandle, Registry};

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
    let (shared, ends) = shared::build(checked, &registry)?;
    let shared = Arc::new(shared);
    let reload = Reload::new(source, shared.clone(), log.clone(), registry.series())?;
    let settings = &shared.settings;
    let health = &shared.health;
    health.set(
        "starting",
        false,
        "the relay is starting; what is on disk is read first",
    );
    let drain = CancellationToken::new();
    let parts = admin_parts(&shared, registry, log, &drain, ends.queue.admin)?;
    let admin = admin_address.map(|address| Admin::start(address, parts)).transpose()?;
    // Readiness waits for it: it takes a while if much is on disk.
    let queue = queue_thread::start(&shared, (ends.queue.inlet, ends.queue.outlets), ends.queue.metrics).await?;
    let routes = match ends.routes {
        Some(ends) => Some(routes::start(Arc::clone(&shared), ends, settings.route_book()).await?),
        None => None,
    };
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
        wait_for_routes(&shared).await;
        health.set("starting", true, "");
        drain.cancelled().await;
        health.set("draining", false, "the relay is shutting down");
        stop_accepting.cancel();
        finish(&shards, &shared.status, grace).await
    };
    let (forced, is_drained) = tokio::select! {
        ((), is_drained) = async { tokio::join!(accepting, life) } => (false, is_drained),
        () = signals(&drain) => (true, false),
        () = reload.run(shards.iter().map(Shard::commands).collect()) => (true, false),
    };
    if forced {
        // At once: a restart reads from the log what was not written down yet.
        std::mem::forget(queue);
    } else {
        close_lanes(&shards).await;
        queue_thread::stop(queue).await;
        if let Some(routes) = routes {
            routes.stop(is_drained).await;
        }
        end(shards).await;
    }
    if let Some(admin) = admin {
        admin.stop();
    }
    tracing::info!(forced, "relay stopped");
    Ok(())
}

/// What operators may see and do.
fn admin_parts(
    shared: &Arc<Shared>,
    registry: Registry,
    log: LogHandle,
    drain: &CancellationToken,
    answers: Receiver<Output>,
) -> Result<admin::Parts, AppError> {
    let settings = &shared.settings;
    Ok(admin::Parts {
        registry,
        health: shared.health.clone(),
        log,
        routing: shared.routing.clone(),
        tokens: shared.tokens.clone(),
        claims: shared.routes.as_ref().map(|routes| routes.claims.clone()),
        place: shared.place.clone(),
        route_policy: shared.route_policies(),
        status: Arc::new(Pages(shared.clone())),
        drain: drain.clone(),
        users: Some(shared.access.clone()),
        access: admin::Access {
            read: contexts::token(&settings.admin.read_token_file)?,
            change: contexts::token(&settings.admin.change_token_file)?,
        },
        queue: Some(Arc::new(admin::Desk::new(shared.queue.handle.clone(), answers))),
        away: shared.queue.away.clone(),
        observers: shared.observers.clone(),
        routes: shared.routes.as_ref().map(|routes| {
            let desk: Arc<dyn admin::RouteDesk> = routes.operator.clone();
            desk
        }),
    })
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

/// A relay that has a route store is not ready before it has a copy of the routes, be it the one it kept: it could say of no
/// key who owns it.
async fn wait_for_routes(shared: &Shared) {
    let mut changes = shared.routing.changes();
    let mut said = false;
    loop {
        let table = shared.routing.table();
        if !table.has_store() || table.routes().is_some() {
            return;
        }
        let wait = if said { Duration::MAX } else { LINK_WAIT };
        match timeout(wait, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                said = true;
                let why = "waiting for the route store: without a copy of the routes no key has an owner";
                shared.health.set("starting", false, why);
                tracing::warn!("not ready: {why}");
            }
        }
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

/// Lets open calls finish within the grace period; whether all did.
async fn finish(shards: &[Shard], status: &Status, grace: Duration) -> bool {
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
    let is_drained = timeout(grace, done).await.is_ok();
    if !is_drained {
        let overview = status.overview();
        tracing::warn!(
            calls_outbound = overview.calls_outbound,
            calls_inbound = overview.calls_inbound,
            "drain timeout; these calls are cut off"
        );
    }
    is_drained
}

/// Ends all lanes for messages: what comes from peers later would not be stored.
async fn close_lanes(shards: &[Shard]) {
    for shard in shards {
        let (done, is_done) = oneshot::channel();
        let _ = shard.commands().send(Command::CloseLanes(done)).await;
        let _ = is_done.await;
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
