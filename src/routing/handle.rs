//! The current table, shared by all shards.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch;

use super::lease::LeaseState;
use super::{RouteTable, Routes};

/// The current route table. Clones share it.
#[derive(Clone)]
pub struct Handle {
    table: Arc<ArcSwap<RouteTable>>,
    /// What the session with the route store allows.
    lease: Arc<ArcSwap<LeaseState>>,
    /// Counts what may let a call go on that waits for its route.
    changes: watch::Sender<u64>,
}

impl Handle {
    /// Starts with this table.
    pub fn new(table: RouteTable) -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(table)),
            lease: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// The current table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// Puts the rules of a table in force, with the copy of the route store there is. Calls that hold the table before finish
    /// with it.
    pub fn replace_rules(&self, rules: &RouteTable) {
        self.table.rcu(|table| rules.with_routes_of(table));
        self.wake();
    }

    /// Puts a copy of the route store in force.
    pub fn replace_routes(&self, routes: &Arc<Routes>) {
        self.table.rcu(|table| table.with_routes(Arc::clone(routes)));
        self.wake();
    }

    /// Says what the session with the route store allows.
    pub fn set_lease(&self, lease: LeaseState) {
        self.lease.store(Arc::new(lease));
        self.wake();
    }

    /// What the session with the route store allows.
    pub fn lease(&self) -> LeaseState {
        **self.lease.load()
    }

    /// Lets everything look again that waits for a route: a claim was answered, say.
    pub fn wake(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Hears of each change of rules, copy and lease, and of each [`wake`](Self::wake), after this call; several may be one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A view for one shard, which costs a shared counter only when the table has changed.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.table)))
    }
}

/// View of the current table for one owner.
pub struct Reader(Cache<Arc<ArcSwap<RouteTable>>, Arc<RouteTable>>);

impl Reader {
    /// The current table.
    pub fn table(&mut self) -> &RouteTable {
        self.0.load()
    }
}
