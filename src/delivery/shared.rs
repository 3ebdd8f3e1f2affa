//! What the shards know of each other's services: registrations, and counts that limits need.
//!
//! The locks are taken when a service is set up or registered, never for a call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crossing::{Near, Receiver, Sender, pipe};
use crate::model::{RegisterError, ServiceName};

/// Shared by the [`super::Delivery`] of all shards.
pub struct SharedDirectory {
    shards: Vec<Sender<News>>,
    state: Mutex<State>,
    ids: AtomicU64,
}

struct State {
    unread: Vec<Option<Receiver<News>>>,
    counters: HashMap<String, Arc<AtomicUsize>>,
    registered: HashMap<ServiceName, usize>,
}

/// What one shard tells another. At most a few per registration are on their way.
pub(super) enum News {
    /// An endpoint registered there can be called from here.
    Registered { id: u64, service: ServiceName, near: Near },
    /// It can no longer.
    Unregistered { id: u64, service: ServiceName },
}

impl SharedDirectory {
    /// For so many shards, numbered from 0.
    pub fn new(shards: usize) -> Arc<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| pipe()).unzip();
        Arc::new(Self {
            shards: senders,
            state: Mutex::new(State {
                unread: receivers.into_iter().map(Some).collect(),
                counters: HashMap::new(),
                registered: HashMap::new(),
            }),
            ids: AtomicU64::new(1),
        })
    }

    /// News for a shard; taken once.
    pub(super) fn news(&self, shard: usize) -> Option<Receiver<News>> {
        self.state().unread.get_mut(shard).and_then(Option::take)
    }

    /// Tells every shard but `own` what `make` says.
    pub(super) fn tell_others(&self, own: usize, mut make: impl FnMut() -> News) {
        for (index, shard) in self.shards.iter().enumerate() {
            if index != own {
                shard.push(make());
            }
        }
    }

    /// The one counter of all shards with this name.
    pub(super) fn counter(&self, name: &str) -> Arc<AtomicUsize> {
        let mut state = self.state();
        Arc::clone(state.counters.entry(name.to_owned()).or_default())
    }

    /// Counts one more registration of a service and names it.
    pub(super) fn begin(&self, service: &ServiceName, limit: usize) -> Result<u64, RegisterError> {
        let mut state = self.state();
        let count = state.registered.entry(service.clone()).or_default();
        if *count >= limit {
            let service = service.clone();
            return Err(RegisterError::Full { service, limit });
        }
        *count += 1;
        Ok(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// A registration has ended.
    pub(super) fn end(&self, service: &ServiceName) {
        if let Some(count) = self.state().registered.get_mut(service) {
            *count = count.saturating_sub(1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each statement under the lock leaves a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
