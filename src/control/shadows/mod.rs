//! Shadows: what the owner of a key that moves has served, for the other unit of the move (R-3.9 S1, S7).
//!
//! # Path
//! `inbound` admits a call and takes a [`Ticket`]; when the service has answered, the ticket is [kept](Ticket::keep) with the call's
//! shadow; `outbound` sends what is [due](Shadows::next), in order. What is missed is counted, and the [`Teller`] writes into the
//! record of the move that the mirror is incomplete.
//!
//! # Invariants
//! - H1. Nobody who calls the owner waits for a shadow: to admit and to keep one are a few lines of memory under a lock that is held
//!   for nothing else.
//! - H2. A ticket ends as a shadow, as a place that was given back, or counted as missed; whatever becomes of its call.
//! - H3. Of a key each relay of the owner keeps the order in which *it* admitted calls, on whichever shard. Several relays of a unit
//!   keep no order between them.
//! - H4. A freeze is reported as drained when the shadows of what was served before have gone, or after a moment: when the other unit
//!   has the key it takes no more of them (`inbound`).
//!
//! # Not here
//! Which calls have shadows (`routing::Routes::mirrored`). Shadows that wait when a relay ends are gone, and nobody counts them.

mod lines;
mod metrics;
mod teller;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

pub use self::lines::{Due, LineId};
use self::lines::{Limits, Lines};
pub use self::metrics::{Metrics, Received, Sent};
pub use self::teller::Teller;
use crate::routing::KeyHash;
use crate::routing::record::MoveId;
use crate::wire::shadow::Shadow;

/// All shadows of a relay. Clones share them.
#[derive(Clone, Debug)]
pub struct Shadows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something may be sent.
    due: Notify,
    /// A move has a mirror that is incomplete, and its record may not say so.
    missed: Notify,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    lines: Lines,
    untold: BTreeSet<MoveId>,
    told: BTreeSet<MoveId>,
}

/// The place of a call in its line (H2).
#[derive(Debug)]
pub struct Ticket {
    shadows: Shadows,
    line: LineId,
    number: u64,
    is_open: bool,
}

impl Shadows {
    /// None yet.
    pub fn new(metrics: Metrics) -> Self {
        let limits = Limits {
            of_line: OF_KEY_MAX,
            places: WAITING_MAX,
            bytes: BYTES_MAX,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                lines: Lines::new(limits),
                untold: BTreeSet::new(),
                told: BTreeSet::new(),
            }),
            due: Notify::new(),
            missed: Notify::new(),
            metrics,
        }))
    }

    /// A call was admitted whose shadow goes to another unit; `None` if too much waits.
    pub fn admit(&self, line: LineId) -> Option<Ticket> {
        let admitted = self.change(|lines| lines.admit(&line));
        if admitted.is_none() {
            self.on_ended(line.by, Sent::Full);
        }
        Some(Ticket {
            shadows: self.clone(),
            line,
            number: admitted?,
            is_open: true,
        })
    }

    /// Waits until something may be due; for one waiter.
    pub async fn due(&self) {
        self.0.due.notified().await;
    }

    /// What to send next. Its line waits until [`sent`](Self::sent).
    pub fn next(&self) -> Option<Due> {
        self.change(Lines::next)
    }

    /// Whether shadows of a move have not reached the other unit yet: of a key, or of all its keys.
    pub fn waits(&self, by: MoveId, key: Option<KeyHash>) -> bool {
        self.state().lines.waits(by, key)
    }

    /// A shadow that was due has ended.
    pub fn sent(&self, line: &LineId, answered: Instant, outcome: Sent, now: Instant) {
        if outcome == Sent::Delivered {
            self.0.metrics.on_delivered(now.saturating_duration_since(answered));
        }
        self.on_ended(line.by, outcome);
        self.change(|lines| lines.ended(line));
        // One less is on its way, whoever is next.
        self.0.due.notify_one();
    }

    /// A shadow of another unit has ended here.
    pub fn received(&self, outcome: Received) {
        self.0.metrics.on_received(outcome);
    }

    fn on_ended(&self, by: MoveId, outcome: Sent) {
        self.0.metrics.on_sent(outcome);
        if outcome.is_missed() {
            let mut state = self.state();
            if !state.told.contains(&by) && state.untold.insert(by) {
                self.0.missed.notify_one();
            }
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Lines) -> R) -> R {
        let (changed, places) = {
            let mut state = self.state();
            let changed = change(&mut state.lines);
            (changed, state.lines.places())
        };
        self.0.metrics.set_waiting(places);
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The service has answered: the shadow leaves when its turn comes.
    pub fn keep(mut self, shadow: Shadow, now: Instant) {
        self.is_open = false;
        let kept = self
            .shadows
            .change(|lines| lines.answered(&self.line, self.number, shadow, now));
        if !kept {
            self.shadows.on_ended(self.line.by, Sent::Full);
        }
        self.shadows.0.due.notify_one();
    }

    /// The service has answered, and the call can have no shadow.
    pub fn miss(self, why: Sent) {
        self.shadows.on_ended(self.line.by, why);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_open {
            self.shadows.change(|lines| lines.give_back(&self.line, self.number));
            self.shadows.0.due.notify_one();
        }
    }
}

/// Places of a key.
const OF_KEY_MAX: usize = 256;
/// Places in all.
const WAITING_MAX: usize = 8192;
/// Bytes of bodies and metadata in all.
const BYTES_MAX: usize = 32 << 20;
