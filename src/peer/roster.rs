//! Which certificates the open links of all shards were made with, for status pages. Touched when a link comes, goes
//! or retires, never for a call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::inspect::Shown;
use super::link::LinkPeer;

/// The open links of all shards.
#[derive(Debug, Default)]
pub struct Roster(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    links: BTreeMap<u64, LinkRow>,
}

/// One open link.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LinkRow {
    /// Geo of the peer.
    pub geo: String,
    /// Unit of the peer.
    pub unit: String,
    /// The peer.
    pub relay: String,
    /// Which thread has the link.
    pub shard: usize,
    /// Whether this relay dialled.
    pub dialled: bool,
    /// Whether another link has taken its place, and it ends with its last call.
    pub retiring: bool,
    /// The certificate this relay has shown.
    pub own: Shown,
    /// The certificate the peer has shown.
    pub peer: Shown,
    /// When it ends at the latest, in seconds since 1970.
    pub ends_at: i64,
}

impl LinkRow {
    /// Unit and name of the peer.
    pub fn relay_key(&self) -> (String, String) {
        (self.unit.clone(), self.relay.clone())
    }
}

impl Roster {
    /// The open links now, in no order that matters.
    pub fn links(&self) -> Vec<LinkRow> {
        self.state().links.values().cloned().collect()
    }

    /// A link is up. It is listed until the row is dropped.
    pub(super) fn enter(self: &Arc<Self>, peer: &LinkPeer, shard: usize, dialled: bool) -> Row {
        let link = LinkRow {
            geo: peer.geo.to_string(),
            unit: peer.unit.to_string(),
            relay: peer.relay.to_string(),
            shard,
            dialled,
            retiring: false,
            own: Shown::default(),
            peer: Shown::default(),
            ends_at: 0,
        };
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.links.insert(number, link);
        Row {
            roster: Arc::clone(self),
            number,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each statement under the lock leaves a valid state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one link.
pub(super) struct Row {
    roster: Arc<Roster>,
    number: u64,
}

impl Row {
    /// Changes the entry.
    pub(super) fn set(&self, change: impl FnOnce(&mut LinkRow)) {
        if let Some(link) = self.roster.state().links.get_mut(&self.number) {
            change(link);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.roster.state().links.remove(&self.number);
    }
}
