//! The current table, shared by all shards.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::RouteTable;

/// The current route table. Clones share it.
#[derive(Clone)]
pub struct Handle(Arc<ArcSwap<RouteTable>>);

impl Handle {
    /// Starts with this table.
    pub fn new(table: RouteTable) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(table)))
    }

    /// The current table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    /// Makes a table current. Calls that hold the one before finish with it.
    pub fn replace(&self, table: RouteTable) {
        self.0.store(Arc::new(table));
    }

    /// A view for one shard, which costs a shared counter only when the table has changed.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
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
