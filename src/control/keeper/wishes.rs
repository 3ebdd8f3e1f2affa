//! What a keeper wants done.

use std::sync::Arc;

use super::GateId;
use crate::routing::Routes;
use crate::routing::gate::Drain;
use crate::routing::lease::LeaseState;
use crate::routing::record::{FreezeAck, Rev, SessionId};

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Ask the store for a snapshot; answer with [`Keeper::on_snapshot`](super::Keeper::on_snapshot) or [`Keeper::on_feed_ended`](super::Keeper::on_feed_ended).
    Snapshot,
    /// Read the feed from there; answer with [`Keeper::on_batch`](super::Keeper::on_batch) and at its end [`Keeper::on_feed_ended`](super::Keeper::on_feed_ended).
    Watch(Rev),
    /// Open a session; answer with [`Keeper::on_opened`](super::Keeper::on_opened).
    Open,
    /// Renew the session; answer with [`Keeper::on_renewed`](super::Keeper::on_renewed).
    Renew(SessionId),
    /// Put this copy in force.
    Publish(Arc<RoutesRef>),
    /// What the session allows has changed.
    Lease(LeaseState),
    /// Wait until nothing runs that goes through a node; answer with [`Keeper::on_drained`](super::Keeper::on_drained).
    Drain(GateId, Drain),
    /// Report to the store; answer with [`Keeper::on_reported`](super::Keeper::on_reported).
    Report(Vec<FreezeAck>),
    /// The copy is behind, or no longer.
    Stale(bool),
}

/// A copy that can be compared: two are the same if they are at the same epoch and have the same digest.
#[derive(Clone, Debug)]
pub struct RoutesRef(pub Arc<Routes>);

impl PartialEq for RoutesRef {
    fn eq(&self, other: &Self) -> bool {
        (self.0.epoch(), self.0.digest()) == (other.0.epoch(), other.0.digest())
    }
}
