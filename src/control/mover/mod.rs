//! The coordinator of moves: says the next step of each (R-3.9, R-3.10). Pure.
//!
//! ```text
//! node:  active -> migrating -> frozen -> active at the new owner      unit:  active -> fencing -> evacuated
//!                      \           \----> active where it was                 evacuated -> returning -> active
//! ```
//!
//! # Path
//! A driver calls [`Mover::look`] with the copy of the routes, how relays stand, and the time; does what it says; and tells the
//! mover what came of it with [`Mover::on_committed`], [`Mover::on_hook`] and [`Mover::on_claims`]. Then it looks again.
//!
//! # Invariants
//! - V1. What is done stands in the records alone. A mover that forgets everything, or two at once, do no harm: each commit
//!   compares the revisions of the records it was decided by, and has a number that says which step of what it is (R-I11).
//! - V2. A node gets its new owner only at the revision that froze it, after every relay that could admit writes of it has
//!   reported *that* freeze as drained, or has been silent for the whole lease and what it had admitted (R-I10, R-R6, R-D7).
//!   How relays stand counts only if it was asked for when the freeze was known.
//! - V3. Between freeze and commit nothing was decided about either unit: their records are older than the freeze.
//! - V4. A node is begun, and frozen, only while its move runs: both compare the record of the move. So once a move has finished,
//!   no node of it is under way.
//! - V5. Nobody but a commit ends a freeze (R-D4); the mover gives one up after its budget (R-I12).
//! - V6. A unit that takes over from others is taken off their lists in the commit that evacuates it, and no key moves between
//!   those that stay (R-I18).
//!
//! A node that stayed where it was keeps a record of its own that says so.
//!
//! # Not here
//! Doing it (`driver`), beginning a move (`operator`), waiting for what is in flight (`routing::gate`, `keeper`).

mod asking;
mod barrier;
mod driver;
mod drivers;
mod hearing;
mod lives;
mod memory;
mod metrics;
mod nodes;
mod plan;
mod progress;
#[cfg(test)]
mod tests;
mod trail;
mod unit_steps;
pub mod units;

use std::time::Duration;

pub use self::driver::{Driver, HookAnswer, Hooks};
use self::drivers::Drivers;
use self::memory::Memory;
pub use self::metrics::Metrics;
pub use self::plan::{Act, HookCall, Hooked, Phase, Plan, Planned, Step, Why};
use super::store::{RelayStanding, StoreError};
use crate::model::Name;
use crate::routing::Routes;
use crate::routing::record::{
    Claim, Committed, Epoch, KeyBytes, Lag, Move, MoveId, MoveState, OpId, RecordId, RelayId, Rev,
};

/// Says the next steps of moves, for one relay.
#[derive(Clone, Debug)]
pub struct Mover {
    relay: RelayId,
    limits: Limits,
    memory: Memory,
    drivers: Drivers,
}

/// What a mover waits for, and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Longest time a write that was admitted may run (R-3.7). Default 10 s.
    pub in_flight_max: Duration,
    /// A relay that was not heard of for so long drives no moves any more; others go on with them. Default 5 s.
    pub silent_max: Duration,
    /// Keys of one unit that may be frozen at once; a bucket or a rule counts as all of them (R-3.9). Default 1000.
    pub frozen_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_max: Duration::from_secs(10),
            silent_max: Duration::from_secs(5),
            frozen_max: 1000,
        }
    }
}

/// How the relays of all units stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The revision of the copy when the store was *asked*.
    pub at: Rev,
    /// What it answered.
    pub relays: Vec<RelayStanding>,
}

/// What a mover sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The copy of the routes.
    pub routes: &'a Routes,
    /// How relays stand, if [`Plan::wants_standing`] asked for it.
    pub standing: Option<&'a Standing>,
    /// Now; of any clock that goes on.
    pub now: Duration,
}

/// A move as it stands.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    work: &'a Move,
    rev: Rev,
    /// Whether its record is being written: then nothing is done that compares it.
    is_held: bool,
}

impl Mover {
    /// For this relay.
    pub fn new(relay: RelayId, limits: Limits) -> Self {
        Self {
            relay,
            limits,
            memory: Memory::default(),
            drivers: Drivers::default(),
        }
    }

    /// What is to be done now, and when to look again.
    pub fn look(&mut self, sight: &Sight<'_>) -> Plan {
        let mut plan = Plan::default();
        self.memory.forget(sight);
        self.drivers.look(sight);
        for work in sight.routes.moves() {
            let id = RecordId::Move(work.id);
            let job = Job {
                work,
                rev: sight.routes.rev_of(&id),
                is_held: self.memory.is_held(&id, sight),
            };
            if work.driver != self.relay {
                self.take_over(sight, &job, &mut plan);
            } else if work.state == MoveState::Trailing {
                self.clear_trail(sight, &job, &mut plan);
            } else {
                self.run(sight, &job, &mut plan);
            }
        }
        plan
    }

    /// A commit was answered, or not.
    pub fn on_committed(&mut self, op: OpId, committed: &Result<Committed, StoreError>, now: Duration) {
        self.memory.on_committed(op, committed, now);
    }

    /// A hook was answered.
    pub fn on_hook(&mut self, call: &HookCall, hooked: Hooked, now: Duration) {
        self.memory.on_hook(call, hooked, now);
    }

    /// The store was asked at a copy of this epoch who claimed keys, for a move, and answered, or not.
    pub fn on_claims(
        &mut self,
        by: MoveId,
        keys: &[(Name, KeyBytes)],
        asked_at: Epoch,
        claims: &Result<(Rev, Vec<Option<Claim>>), StoreError>,
    ) {
        self.memory.on_claims(by, keys, asked_at, claims);
    }

    /// What nodes of moves that this relay drives waited for at the last look.
    pub fn phases(&self) -> impl Iterator<Item = Phase> {
        self.memory.phases()
    }

    /// How far the copies of applications are behind that are furthest behind; of moves that this relay drives.
    pub fn lag(&self) -> Lag {
        self.memory.lag()
    }

    /// Goes on with a move whose driver is gone.
    fn take_over(&mut self, sight: &Sight<'_>, job: &Job<'_>, plan: &mut Plan) {
        plan.want_standing();
        plan.look_again(match job.work.state {
            MoveState::Trailing => LOOK_AT_TRAIL,
            _ => LOOK_AT_OTHERS,
        });
        let Some(standing) = sight.standing.filter(|standing| standing.at >= job.rev && !job.is_held) else {
            return;
        };
        let drives = |relay: &RelayStanding| {
            let heard = relay.silent_for.is_some_and(|silent| silent < self.limits.silent_max);
            relay.relay == job.work.driver && heard
        };
        if !standing.relays.iter().any(drives) {
            let work = Move {
                driver: self.relay.clone(),
                ..job.work.clone()
            };
            let salt = self.relay.to_string();
            self.commit(plan, Planned::of_move(sight, job, work, Step::TakeOver, &salt));
        }
    }

    /// Has a commit done; what it is about is left alone until the copy has it.
    fn commit(&mut self, plan: &mut Plan, planned: Planned) {
        self.memory.hold(&planned);
        plan.look_again(LOOK_UNDER_WAY);
        plan.acts.push(Act::Commit(Box::new(planned)));
    }
}

/// While something is frozen.
const LOOK_FROZEN: Duration = Duration::from_millis(5);
/// While something is under way.
const LOOK_UNDER_WAY: Duration = Duration::from_millis(100);
/// While others drive moves.
const LOOK_AT_OTHERS: Duration = Duration::from_secs(1);
/// While all that is left of moves is where their nodes came from.
const LOOK_AT_TRAIL: Duration = Duration::from_secs(10);
