//! The current table, shared by all shards.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch;

use super::RouteTable;

/// The current route table. Clones share it.
#[derive(Clone)]
pub struct Handle {
    table: Arc<ArcSwap<RouteTable>>,
    /// Counts what may let a call go on that waits for its route.
    changes: watch::Sender<u64>,
}

impl Handle {
    /// Starts with this table.
    pub fn new(table: RouteTable) -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(table)),
            changes: watch::Sender::new(0),
        }
    }

    /// The current table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// Makes a table current. Calls that hold the one before finish with it.
    pub fn replace(&self, table: RouteTable) {
        self.table.store(Arc::new(table));
        self.wake();
    }

    /// Lets everything look again that waits for a route: a claim was answered, say.
    pub fn wake(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Hears of each [`replace`](Self::replace) and [`wake`](Self::wake) after this call; several may be one.
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
