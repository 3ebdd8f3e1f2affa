//! The route store of this relay and all that asks it, on a thread of their own.
//!
//! # Path
//! [`ways`] makes the channels that shards hold; [`start`] opens the store, or the way to it, and lets the keeper of the copy, the
//! desk of claims, the driver of moves and, at the relay that has the routes, the lines of other relays work until [`Running::stop`].
//!
//! # Invariants
//! - R3. A store that cannot be opened ends the start of the relay, with the reason; one that is away does not.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AppError, Shared};
use crate::admin::RouteDesk;
use crate::control::StoreKind;
use crate::control::authority::{self, Authority};
use crate::control::claims::{self, Claims, Driver, DriverParts, FallbackParts, Wanted};
use crate::control::clock::boot_time;
use crate::control::embedded::Embedded;
use crate::control::etcd::{self, Etcd};
use crate::control::heard::Heard;
use crate::control::keeper::{GateId, Held};
use crate::control::operator::{self, Answer, Command, Operator};
use crate::control::provisional::{Choice, ProvisionalFile};
use crate::control::remote::Remote;
use crate::control::shadows::{Shadows, Teller};
use crate::control::store::Store;
use crate::control::worker::{self, Worker};
use crate::control::{keys, mover};
use crate::crossing::Receiver;
use crate::inbound::{QueueGate, QueueGateParts};
use crate::outbound::{OwnAsked, OwnCalls, OwnerControl};
use crate::peer::verify::Dialled;
use crate::peer::{Line, LineDialler, Lines};
use crate::queue::api::Output;
use crate::routing::gate::Drain;
use crate::routing::record::{Book, RelayId};
use crate::settings::Settings;

/// How shards reach the thread of the routes.
pub(super) struct Ways {
    pub(super) claims: Claims,
    pub(super) drained: mpsc::Sender<(GateId, Drain)>,
    pub(super) held: mpsc::Sender<Held>,
    /// What other units get of what this one serves.
    pub(super) shadows: Shadows,
    /// Answers operators, as soon as the store is open.
    pub(super) operator: Arc<LateOperator>,
    /// What the settings in force would publish.
    pub(super) configured: Arc<ArcSwap<Book>>,
    /// Why what is in the files now is not what is in force.
    pub(super) unread: Arc<ArcSwap<Option<String>>>,
    drains: Mutex<Vec<Option<mpsc::Receiver<Drain>>>>,
    own_calls: OwnCalls,
    /// For the shard that makes them.
    own_asked: Mutex<Option<OwnAsked>>,
}

/// Answers operators once the store is open.
#[derive(Default)]
pub(super) struct LateOperator(OnceLock<Operator>);

impl RouteDesk for LateOperator {
    fn ask(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        match self.0.get() {
            Some(operator) => operator.ask(command),
            None => Box::pin(async {
                let detail = "the relay is starting; ask again in a moment".to_owned();
                Answer::Failed { detail }
            }),
        }
    }
}

/// The other ends, for [`start`].
pub(super) struct Ends {
    claims: (Claims, mpsc::Receiver<Wanted>),
    gates: BTreeMap<GateId, mpsc::Sender<Drain>>,
    queue: QueueEnds,
    drained: mpsc::Receiver<(GateId, Drain)>,
    held: mpsc::Receiver<Held>,
    lines: mpsc::Receiver<Line>,
}

/// The ends of the gate of the queue.
struct QueueEnds {
    claims: Claims,
    answers: Receiver<Output>,
    drains: mpsc::Receiver<Drain>,
    drained: mpsc::Sender<(GateId, Drain)>,
}

/// The thread of the routes.
pub(super) struct Running {
    stop: CancellationToken,
    /// Cancelled if calls were cut off.
    cut_off: CancellationToken,
    thread: JoinHandle<()>,
}

/// The channels between so many shards and the thread of the routes, and where lines of other relays go; `None` without a route
/// store. `answers` are those of the queue.
pub(super) fn ways(
    settings: &Settings,
    shards: usize,
    answers: Receiver<Output>,
    shadows: Shadows,
) -> Option<(Ways, Ends, Lines)> {
    if settings.routes.store == StoreKind::None {
        return None;
    }
    let (own_calls, own_asked) = OwnCalls::new();
    let (claims, wanted) = Claims::new();
    let (drained, told) = mpsc::channel(DRAINS_MAX);
    let (held, held_up) = mpsc::channel(DRAINS_MAX);
    let (lines, opened) = mpsc::channel(LINES_WAITING_MAX);
    let mut gates = BTreeMap::new();
    let mut drains = Vec::new();
    for shard in 0..shards {
        let (gate, asked) = mpsc::channel(DRAINS_MAX);
        gates.insert(GateId::Shard(shard), gate);
        drains.push(Some(asked));
    }
    let (gate, queue_drains) = mpsc::channel(DRAINS_MAX);
    gates.insert(GateId::Queue, gate);
    let queue = QueueEnds {
        claims: claims.clone(),
        answers,
        drains: queue_drains,
        drained: drained.clone(),
    };
    let ways = Ways {
        claims: claims.clone(),
        drained,
        held,
        shadows,
        operator: Arc::default(),
        configured: Arc::new(ArcSwap::from_pointee(settings.route_book())),
        unread: Arc::default(),
        drains: Mutex::new(drains),
        own_calls,
        own_asked: Mutex::new(Some(own_asked)),
    };
    let ends = Ends {
        claims: (claims, wanted),
        gates,
        queue,
        drained: told,
        held: held_up,
        lines: opened,
    };
    Some((ways, ends, lines))
}

impl Ways {
    /// What a shard is asked to wait for; given out once.
    pub(super) fn drains(&self, shard: usize) -> Option<mpsc::Receiver<Drain>> {
        let mut drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        drains.get_mut(shard)?.take()
    }

    /// Asks the store as operators do.
    pub(super) fn ask(&self) -> keys::Ask {
        let operator = Arc::clone(&self.operator);
        Arc::new(move |command| {
            let operator = Arc::clone(&operator);
            Box::pin(async move { operator.ask(command).await })
        })
    }

    /// The calls that this relay makes itself, for the shard that makes them; given out once.
    pub(super) fn own_asked(&self) -> Option<OwnAsked> {
        self.own_asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Opens the store and starts the thread.
pub(super) async fn start(shared: Arc<Shared>, ends: Ends, book: Book) -> Result<Running, AppError> {
    let stop = CancellationToken::new();
    let (up, is_up) = oneshot::channel();
    let cut_off = CancellationToken::new();
    let tokens = (stop.clone(), cut_off.clone());
    let failed = |source| AppError::Thread {
        what: "the thread of the routes",
        source,
    };
    let thread = std::thread::Builder::new()
        .name("strait-keeper".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(live(&shared, ends, book, tokens, up)),
                Err(source) => drop(up.send(Err(failed(source)))),
            }
        })
        .map_err(failed)?;
    match is_up.await {
        Ok(Ok(())) => Ok(Running { stop, cut_off, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(std::io::Error::other("it ended while starting"))),
    }
}

impl Running {
    /// Closes the session, unless calls were cut off, and ends the thread.
    pub(super) async fn stop(self, is_drained: bool) {
        if !is_drained {
            self.cut_off.cancel();
        }
        self.stop.cancel();
        // A thread that panicked has said so on standard error.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

async fn live(
    shared: &Shared,
    ends: Ends,
    book: Book,
    (stop, cut_off): (CancellationToken, CancellationToken),
    up: oneshot::Sender<Result<(), AppError>>,
) {
    let tasks = TaskTracker::new();
    let opened = open(shared, &tasks).and_then(|store| {
        let provisional = ProvisionalFile::open(&shared.data_dir.join(PROVISIONAL))?;
        Ok((store, provisional))
    });
    let (store, provisional) = match opened {
        Ok(opened) => opened,
        Err(error) => return drop(up.send(Err(error))),
    };
    let heard = Heard::new(boot_time());
    let place = &shared.place;
    let relay = RelayId {
        unit: place.unit.clone(),
        relay: place.relay.clone(),
    };
    let limits = mover::Limits {
        in_flight_max: shared.settings.routes.in_flight_max,
        ..mover::Limits::default()
    };
    let Some(ways) = &shared.routes else { return };
    let hooks = OwnerControl::new(ways.own_calls.clone(), shared.routing.clone());
    let moves = mover::Driver::new(
        Arc::clone(&store),
        relay.clone(),
        shared.routing.clone(),
        hooks,
        limits,
        shared.series.moves.clone(),
    );
    let worker = Worker::new(worker::Parts {
        store: Arc::clone(&store),
        relay,
        routing: shared.routing.clone(),
        gates: ends.gates,
        drained: ends.drained,
        held: ends.held,
        saved: shared.data_dir.join(COPY),
        book,
        heard: heard.clone(),
        metrics: shared.series.routes.clone(),
        in_flight_max: limits.in_flight_max,
        cut_off,
    });
    let claims = claims_driver(shared, Arc::clone(&store), ends.claims, (provisional, heard));
    let operator = operator(shared, ways, Arc::clone(&store));
    let _ = ways.operator.0.set(operator);
    if up.send(Ok(())).is_err() {
        return;
    }
    tasks.spawn(claims.run(stop.clone()));
    tasks.spawn(queue_gate(shared, ends.queue).run(stop.clone()));
    tasks.spawn(moves.run(stop.clone()));
    let teller = Teller::new(Arc::clone(&store), shared.routing.clone(), ways.shadows.clone());
    tasks.spawn(teller.run(stop.clone()));
    if let Some(keys) = &shared.tokens {
        tasks.spawn(keys.clone().watch(stop.clone()));
    }
    let (lines, taken, geo) = (ends.lines, tasks.clone(), shared.geo.clone());
    tasks.spawn(serve_lines(lines, geo, Authority::new(store), taken, stop.clone()));
    worker.run(stop).await;
    tasks.close();
    if tokio::time::timeout(END_LIMIT, tasks.wait()).await.is_err() {
        tracing::debug!(tasks = tasks.len(), "the thread of the routes ended with tasks left");
    }
}

/// Asks the store who has keys, and places new ones while it is away.
fn claims_driver(
    shared: &Shared,
    store: Arc<dyn Store>,
    claims: (Claims, mpsc::Receiver<Wanted>),
    (file, heard): ((ProvisionalFile, Vec<Choice>), Heard),
) -> Driver {
    let settings = &shared.settings.routes;
    Driver::new(DriverParts {
        store,
        routing: shared.routing.clone(),
        unit: shared.place.unit.clone(),
        claims,
        known_max: settings.claims_known_max,
        limits: claims::Limits {
            away_after: settings.claim_fallback_after,
            ..claims::Limits::default()
        },
        fallback: FallbackParts {
            file,
            provisional_max: settings.provisional_max,
            heard,
            metrics: shared.series.provisional.clone(),
        },
    })
}

/// The gate of the queue.
fn queue_gate(shared: &Shared, ends: QueueEnds) -> QueueGate {
    QueueGate::new(QueueGateParts {
        unit: shared.place.unit.clone(),
        routing: shared.routing.clone(),
        claims: Some(ends.claims),
        queue: shared.queue.handle.clone(),
        answers: ends.answers,
        drains: ends.drains,
        drained: ends.drained,
    })
}

/// Answers operators.
fn operator(shared: &Shared, ways: &Ways, store: Arc<dyn Store>) -> Operator {
    let configured = Arc::clone(&ways.configured);
    let settings = &shared.settings;
    let kept = match settings.route_authority() {
        Some(authority) => format!("embedded at {authority}"),
        None => format!("etcd at {}", settings.routes.etcd.endpoints.join(", ")),
    };
    let (routing, metrics) = (shared.routing.clone(), shared.series.routes.clone());
    let unread = Arc::clone(&ways.unread);
    let view = move || operator::View {
        store: kept.clone(),
        is_stale: metrics.is_stale(),
        unread: Option::clone(&unread.load()),
        lease: routing.lease(),
        now: boot_time(),
    };
    Operator::new(operator::Parts {
        store,
        routing: shared.routing.clone(),
        place: shared.place.clone(),
        configured: Arc::new(move || Book::clone(&configured.load())),
        view: Arc::new(view),
        in_flight_max: settings.routes.in_flight_max,
        copy_wait: operator::COPY_WAIT,
        claims: ways.claims.clone(),
        route_policy: shared.route_policies(),
    })
}

/// The store itself, or the way to it.
fn open(shared: &Shared, tasks: &TaskTracker) -> Result<Arc<dyn Store>, AppError> {
    let settings = &shared.settings;
    let seed = fastrand::u128(..);
    if settings.is_route_authority() {
        let path = shared.data_dir.join(FILE);
        let store = Embedded::open(&path, Arc::new(boot_time), seed)?;
        return Ok(Arc::new(store));
    }
    if let Some(authority) = settings.route_authority() {
        let relay = Dialled {
            unit: authority.unit,
            relay: Some(authority.relay),
        };
        let addresses = settings.routes.authority_addresses.clone();
        let local = settings.peer.listen.ip();
        let lines = LineDialler::new(&shared.quic, local, relay, addresses, DIAL_LIMIT)?;
        let lines = Arc::new(lines);
        let dial = move || {
            let lines = Arc::clone(&lines);
            async move { lines.dial().await.map_err(std::io::Error::other) }
        };
        return Ok(Arc::new(Remote::new(dial, tasks.clone())));
    }
    let etcd = &settings.routes.etcd;
    let parts = etcd::Parts {
        addresses: etcd.endpoints.clone(),
        prefix: format!("{}/{}", etcd.prefix.trim_end_matches('/'), shared.geo),
        tls: tls(settings)?,
        seed,
    };
    Ok(Arc::new(Etcd::new(&parts, tasks.clone())?))
}

fn tls(settings: &Settings) -> Result<Option<etcd::Tls>, AppError> {
    let etcd = &settings.routes.etcd;
    if etcd.certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let read = |path: &Path| {
        fs::read(path).map_err(|source| AppError::RouteFile {
            path: path.to_path_buf(),
            source,
        })
    };
    Ok(Some(etcd::Tls {
        authorities: read(&etcd.authorities)?,
        chain: read(&etcd.certificate)?,
        key: read(&etcd.key)?,
    }))
}

/// Answers the relays that ask this one for the routes.
async fn serve_lines(
    mut lines: mpsc::Receiver<Line>,
    geo: crate::model::Geo,
    authority: Authority,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let line = tokio::select! {
            () = stop.cancelled() => return,
            line = lines.recv() => line,
        };
        let Some(Line { peer, io }) = line else { return };
        if peer.geo != geo {
            tracing::warn!(%peer, "a relay of another Geo asked for the routes; they stay in this one");
            continue;
        }
        if tasks.len() >= LINES_MAX {
            tracing::warn!(%peer, "too many relays ask for the routes at once");
            continue;
        }
        let caller = authority::Caller {
            unit: peer.unit.clone(),
            relay: peer.relay.clone(),
        };
        let (authority, stop) = (authority.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = authority.serve(caller, io, stop).await {
                tracing::debug!(%peer, %error, "a line broke");
            }
        });
    }
}

/// The embedded store, below `relay.data_dir`.
const FILE: &str = "routes.redb";
/// The copy that is kept over a restart, below `relay.data_dir`.
const COPY: &str = "routes.copy";
/// Keys that were placed without the store, below `relay.data_dir`.
const PROVISIONAL: &str = "provisional.redb";
/// Freezes on their way to a shard, or back.
const DRAINS_MAX: usize = 4096;
/// Lines that have not been taken up.
const LINES_WAITING_MAX: usize = 64;
/// Lines at once, feeds among them.
const LINES_MAX: usize = 4096;
/// What is lost while a relay starts is not sent again soon: another attempt is faster.
const DIAL_LIMIT: Duration = Duration::from_secs(1);
const END_LIMIT: Duration = Duration::from_secs(2);
