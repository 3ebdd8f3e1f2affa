//! The queue as the relay starts and stops it: its thread, and the ways between it and the shards.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::AppError;
use crate::crossing::{self, Receiver};
use crate::model::{Geo, Place};
use crate::outbound::Claims;
use crate::queue::api::Output;
use crate::queue::{self, Handle, Inlet, Outlets, Setup};
use crate::routing;
use crate::settings::Settings;

/// What shards need of the queue.
pub(super) struct Ways {
    /// Into it.
    pub(super) handle: Handle,
    /// Which shard has the lanes to which unit.
    pub(super) claims: Arc<Claims>,
    /// Out of it, by shard; each is taken once.
    outputs: Mutex<Vec<Option<Receiver<Output>>>>,
}

/// The other ends of the ways.
pub(super) struct Ends {
    pub(super) inlet: Arc<Inlet>,
    pub(super) outlets: Outlets,
    /// For the admin thread.
    pub(super) admin: Receiver<Output>,
}

/// Ways between so many shards and a queue that is not started yet.
pub(super) fn ways(settings: &queue::Settings, shards: usize) -> (Ways, Ends) {
    let (handle, inlet) = Handle::new(settings.publish_bytes_max.as_usize());
    let (to_shards, from_queue) = (0..shards).map(|_| crossing::pipe()).unzip();
    let (to_admin, admin) = crossing::pipe();
    let from_queue: Vec<_> = from_queue;
    let ways = Ways {
        handle,
        claims: Arc::default(),
        outputs: Mutex::new(from_queue.into_iter().map(Some).collect()),
    };
    let outlets = Outlets {
        shards: to_shards,
        admin: to_admin,
    };
    let ends = Ends { inlet, outlets, admin };
    (ways, ends)
}

impl Ways {
    /// What the queue has for a shard; given out once.
    pub(super) fn outputs(&self, shard: usize) -> Option<Receiver<Output>> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.get_mut(shard)?.take()
    }
}

/// How the queue works by these settings.
pub(super) fn setup(settings: &Settings, place: &Place, geo: &Geo) -> Setup {
    Setup {
        place: place.clone(),
        geo: geo.clone(),
        queue: settings.queue.clone(),
        replay: settings.replay.clone(),
        topics: Arc::new(settings.topics.clone()),
    }
}

/// The number of a shard, as the queue knows it.
pub(super) fn shard_number(index: usize) -> u16 {
    // Threads for calls are as many as the machine has cores.
    u16::try_from(index).unwrap_or(u16::MAX - 1)
}
