//! The owner's gate: which calls of keys its unit owns a relay lets through, and which of them are still running.
//!
//! Each shard has one, and only its thread uses it: so what was let through by a table is seen by whoever asks the shard later,
//! with a newer table.
//!
//! # Invariants
//! - G1. A call is registered in the turn of the shard in which its route is looked at, and until it has ended: nothing that
//!   the shard is asked comes in between (R-I2).
//! - G2. A freeze is reported as drained only when no call runs that may write, was let through before and goes through the
//!   frozen node; it says which revision froze it (R-R6).
//! - G3. What runs is bounded.

use std::ops::Deref;
use std::time::Duration;

use slotmap::{DefaultKey, SlotMap};

use super::lease::LeaseState;
use super::record::{Lease, MoveId, NodeId, Rev};
use super::{Decision, RouteTable, Standing, Trail};
use crate::model::UnitId;

/// The gate of a shard.
#[derive(Debug, Default)]
pub struct Gate {
    running: SlotMap<DefaultKey, Running>,
    drains: Vec<Drain>,
}

/// What is kept of a call.
#[derive(Debug)]
struct Running {
    trail: Trail,
    reads: bool,
}

/// A call that is registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Registered(DefaultKey);

/// A freeze that is to be waited for; of the queue also what comes before it, until little waits there (R-3.9 S2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drain {
    /// The work.
    pub by: MoveId,
    /// The node.
    pub node: NodeId,
    /// The revision that made it so.
    pub rev: Rev,
}

/// What is known when a call is to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// This unit.
    pub unit: &'a UnitId,
    /// Whether it only reads, and the dimension lets reads go on while a key is frozen.
    pub reads: bool,
    /// Whether a freeze waits for it anyway: it is a message that was taken before.
    pub is_waited_for: bool,
    /// The epoch the caller routed with.
    pub min_epoch: u64,
    /// The relay's session.
    pub lease: &'a LeaseState,
    /// Now, on the clock of leases.
    pub now: Duration,
}

/// Why a call is not let through. No service has seen it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The caller knows of a later decision than this relay (R-I8).
    Behind,
    /// Another unit owns the key.
    NotOwner,
    /// The key is on its way to another unit.
    Frozen,
    /// The relay has not heard of the store for too long.
    NoLease,
}

impl Gate {
    /// Registers a call with what its route went through and whether it only reads, on the same turn of the shard in which it was looked up (G1).
    /// `None`: as many run as may (G3).
    pub fn register(&mut self, trail: Trail, reads: bool) -> Option<Registered> {
        (self.running.len() < RUNNING_MAX).then(|| Registered(self.running.insert(Running { trail, reads })))
    }

    /// Whether a registered call is let through, as its route was found to be.
    ///
    /// # Errors
    /// [`Closed`]; then it is to be released.
    pub fn admit(&self, table: &RouteTable, decision: &Decision<'_>, knock: &Knock<'_>) -> Result<(), Closed> {
        if table.version() < knock.min_epoch {
            return Err(Closed::Behind);
        }
        if decision.unit != knock.unit {
            return Err(Closed::NotOwner);
        }
        let may_pass = knock.reads || knock.is_waited_for;
        if matches!(decision.standing, Standing::Frozen { .. }) && !may_pass {
            return Err(Closed::Frozen);
        }
        let Some(routes) = table.routes() else { return Ok(()) };
        let dimension = decision.dimension.and_then(|name| routes.dimension(name));
        let lease = dimension.map_or(Lease::default(), |dimension| dimension.owner_lease);
        if knock.reads || knock.lease.admits(lease, routes.rev(), knock.now) {
            Ok(())
        } else {
            Err(Closed::NoLease)
        }
    }

    /// A call has ended, or was not let through. Freezes that wait for nothing more are to be reported; only then a table is
    /// needed.
    pub fn release<T: Deref<Target = RouteTable>>(
        &mut self,
        call: Registered,
        table: impl FnOnce() -> T,
    ) -> Vec<Drain> {
        self.running.remove(call.0);
        if self.drains.is_empty() {
            return Vec::new();
        }
        self.drained(&table())
    }

    /// Whether a call goes through a frozen node: one that may write is waited for, and a stream has to make way.
    pub fn is_met_by(&self, drain: &Drain, call: Registered, table: &RouteTable) -> bool {
        let trail = self.running.get(call.0).map(|running| &running.trail);
        let through = table.routes().map(|routes| routes.through(&drain.node, drain.rev));
        trail.zip(through).is_some_and(|(trail, through)| through.passes(trail))
    }

    /// A freeze is to be waited for; `table` has applied it. It is reported by this or a later call of the gate, once. One of
    /// the same node and work before is forgotten.
    pub fn drain(&mut self, drain: Drain, table: &RouteTable) -> Vec<Drain> {
        self.drains
            .retain(|other| (other.by, &other.node) != (drain.by, &drain.node));
        self.drains.push(drain);
        self.drained(table)
    }

    /// Whether a freeze is waited for.
    pub fn waits_for(&self, drain: &Drain) -> bool {
        self.drains.contains(drain)
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    fn drained(&mut self, table: &RouteTable) -> Vec<Drain> {
        let Some(routes) = table.routes() else {
            self.drains.clear();
            return Vec::new();
        };
        let mut drained = Vec::new();
        let running = &self.running;
        self.drains.retain(|drain| {
            let node = routes.node(&drain.node);
            if node.is_none_or(|node| node.rev != drain.rev || node.state.work() != Some(drain.by)) {
                // The freeze is over: a report of it is worth nothing.
                return false;
            }
            let through = routes.through(&drain.node, drain.rev);
            let waits = running.values().any(|call| !call.reads && through.passes(&call.trail));
            if !waits {
                drained.push(drain.clone());
            }
            waits
        });
        drained
    }
}

/// Calls of owned keys that run on a shard.
const RUNNING_MAX: usize = 100_000;

#[cfg(test)]
mod tests;
