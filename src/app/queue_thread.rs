//! The queue as the relay starts and stops it: its thread, and the ways between it and the shards.

use std::sync::{Arc, Mutex, PoisonError};

use super::{AppError, Shared};
use crate::crossing::{self, Receiver};
use crate::inbound::KeyOwners;
use crate::outbound::Claims;
use crate::queue::api::Output;
use crate::queue::{self, AwayUnits, Handle, Inlet, Neighbours, Outlets, ParkingLimits, Running, Setup};
use crate::settings::Settings;

/// What shards need of the queue.
pub(super) struct Ways {
    /// Into it.
    pub(super) handle: Handle,
    /// Which shard has the lanes to which unit.
    pub(super) claims: Arc<Claims>,
    /// Units that count as away because an operator says so.
    pub(super) away: AwayUnits,
    /// Out of it, by shard; each is taken once.
    outputs: Mutex<Vec<Option<Receiver<Output>>>>,
}

/// The other ends of the ways.
pub(super) struct Ends {
    pub(super) inlet: Arc<Inlet>,
    pub(super) outlets: Outlets,
    pub(super) metrics: queue::Metrics,
    /// For the admin thread.
    pub(super) admin: Receiver<Output>,
}

/// Ways between so many shards and a queue that is not started yet; the last one is what it answers the thread of the routes.
pub(super) fn ways(
    settings: &queue::Settings,
    shards: usize,
    metrics: queue::Metrics,
) -> (Ways, Ends, Receiver<Output>) {
    let (handle, inlet) = Handle::new(settings.publish_bytes_max.as_usize());
    let (to_shards, from_queue) = (0..shards).map(|_| crossing::pipe()).unzip();
    let (to_admin, admin) = crossing::pipe();
    let (to_routes, answers) = crossing::pipe();
    let from_queue: Vec<_> = from_queue;
    let ways = Ways {
        handle,
        claims: Arc::default(),
        away: AwayUnits::default(),
        outputs: Mutex::new(from_queue.into_iter().map(Some).collect()),
    };
    let outlets = Outlets {
        shards: to_shards,
        admin: to_admin,
        routes: Some(to_routes),
    };
    let ends = Ends {
        inlet,
        outlets,
        metrics,
        admin,
    };
    (ways, ends, answers)
}

impl Ways {
    /// What the queue has for a shard; given out once.
    pub(super) fn outputs(&self, shard: usize) -> Option<Receiver<Output>> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.get_mut(shard)?.take()
    }
}

/// Starts the queue: recovers what is on disk, which takes a while if that is much.
pub(super) async fn start(
    shared: &Arc<Shared>,
    ways: (Arc<Inlet>, Outlets),
    metrics: queue::Metrics,
) -> Result<Running, AppError> {
    let shared = shared.clone();
    let started = tokio::task::spawn_blocking(move || {
        let dir = shared.data_dir.join(FOLDER);
        let setup = setup(&shared, &shared.settings);
        queue::start(setup, &dir, fastrand::u64(..), ways, metrics)
    });
    let failed = |source| AppError::Thread {
        what: "the queue",
        source,
    };
    Ok(started.await.map_err(|error| failed(error.into()))??)
}

/// Waits until all is on disk.
pub(super) async fn stop(running: Running) {
    // It has said so if it failed.
    let _ = tokio::task::spawn_blocking(move || running.stop()).await;
}

/// How the queue works by these settings.
pub(super) fn setup(shared: &Shared, settings: &Settings) -> Setup {
    let geos = settings.units.iter().map(|(unit, of)| (unit.clone(), of.geo.clone()));
    Setup {
        place: shared.place.clone(),
        geo: shared.geo.clone(),
        queue: settings.queue.clone(),
        replay: settings.replay.clone(),
        topics: Arc::new(settings.topics.clone()),
        neighbours: Neighbours {
            geos: geos.collect(),
            away: shared.queue.away.clone(),
            hops_max: settings.routing.hops_max,
            parking: ParkingLimits {
                publications: settings.routes.parked_max,
                ..ParkingLimits::default()
            },
            owners: Some(Arc::new(KeyOwners::new(
                shared.routing.clone(),
                shared.place.unit.clone(),
                shared.routes.as_ref().map(|routes| routes.claims.clone()),
            ))),
        },
    }
}

/// Below `relay.data_dir`.
const FOLDER: &str = "queue";

/// The number of a shard, as the queue knows it.
pub(super) fn shard_number(index: usize) -> u16 {
    // Threads for calls are as many as the machine has cores.
    u16::try_from(index).unwrap_or(u16::MAX - 2)
}
