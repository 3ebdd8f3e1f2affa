//! Publications that wait until it is known where they go: their key has no owner yet, or is about to move (R-3.8).
//!
//! ```text
//! publish -- no owner, frozen, or behind such --> [parked, by key] -- routes changed, or now and then --> publish again
//!                                                     |
//!                                                     +-- patience over: ends with what it waits for; publisher gone: forgotten
//! ```
//!
//! # Invariants
//! - G1. Publications and bytes that wait are bounded, per key too (R-I17); none waits longer than its patience.
//! - G2. Those of a key go on in the order in which they came, and what comes meanwhile goes behind them (M-C1).
//! - G3. Nothing of what waits is on disk or was promised to anybody: a publisher that leaves takes it along.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Engine;
use super::publish::{Candidate, Refusal};
use crate::model::{Map, RelayError};
use crate::queue::api::Ticket;
use crate::queue::effects::Now;

/// How many publications may wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParkingLimits {
    /// In all (`routes.parked_max`).
    pub publications: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Of one key of a topic.
    pub of_key: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// By number, which says who came first.
    parked: BTreeMap<u64, Parked>,
    /// The numbers of each key, in their order.
    keys: BTreeMap<u64, VecDeque<u64>>,
    by_end: BTreeSet<(Duration, u64)>,
    by_ticket: Map<Ticket, u64>,
    bytes: usize,
    last: u64,
    /// When to look again, and when that was done last.
    look: Option<Duration>,
    looked: Duration,
}

#[derive(Debug)]
pub(super) struct Parked {
    pub(super) candidate: Box<Candidate>,
    /// How it ends if what it waits for does not come.
    pub(super) error: Box<RelayError>,
    key: u64,
    until: Duration,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParkedEnd {
    /// Where the message goes is known: it is on its way to the disk, or answered as a duplicate.
    WentOn,
    /// Its patience was over, or it was refused for another reason when it went on.
    Refused,
    /// Its publisher waited no longer.
    Left,
}

impl ParkedEnd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WentOn, Self::Refused, Self::Left];

    /// As series name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WentOn => "went_on",
            Self::Refused => "refused",
            Self::Left => "left",
        }
    }
}

impl Default for ParkingLimits {
    fn default() -> Self {
        Self {
            publications: 10_000,
            bytes: 64 << 20,
            of_key: 1024,
        }
    }
}

impl Parking {
    pub(super) fn len(&self) -> usize {
        self.parked.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// What those of a key wait for that came before; `None` if there are none.
    pub(super) fn waits_for(&self, key: u64) -> Option<Box<RelayError>> {
        let first = self.keys.get(&key)?.front()?;
        self.parked.get(first).map(|parked| parked.error.clone())
    }

    /// Puts a publication behind all others of its key; gives it back if there is no room (G1).
    fn add(&mut self, now: Duration, parked: Parked, limits: &ParkingLimits) -> Result<(), Parked> {
        let of_key = self.keys.get(&parked.key).map_or(0, VecDeque::len);
        let bytes = self.bytes + parked.candidate.size();
        if self.parked.len() >= limits.publications || bytes > limits.bytes || of_key >= limits.of_key {
            return Err(parked);
        }
        self.last += 1;
        let number = self.last;
        self.keys.entry(parked.key).or_default().push_back(number);
        self.insert(number, parked);
        self.look.get_or_insert(now + LOOK_AGAIN);
        Ok(())
    }

    fn insert(&mut self, number: u64, parked: Parked) {
        self.bytes += parked.candidate.size();
        self.by_end.insert((parked.until, number));
        self.by_ticket.insert(parked.candidate.ticket(), number);
        self.parked.insert(number, parked);
    }

    /// Takes one out, wherever it stands; its key keeps its place in the order until [`leave`](Self::leave).
    fn take(&mut self, number: u64) -> Option<Parked> {
        let parked = self.parked.remove(&number)?;
        self.bytes -= parked.candidate.size();
        self.by_end.remove(&(parked.until, number));
        self.by_ticket.remove(&parked.candidate.ticket());
        Some(parked)
    }

    /// One of a key is not in its line any more.
    fn leave(&mut self, key: u64, number: u64) {
        if let Some(line) = self.keys.get_mut(&key) {
            line.retain(|other| *other != number);
            if line.is_empty() {
                self.keys.remove(&key);
            }
        }
        if self.keys.is_empty() {
            self.look = None;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Parked> {
        let parked = self.take(number)?;
        self.leave(parked.key, number);
        Some(parked)
    }

    fn first_of(&self, key: u64) -> Option<u64> {
        self.keys.get(&key)?.front().copied()
    }

    /// The publisher waits no longer (G3).
    pub(super) fn forget(&mut self, ticket: Ticket) -> bool {
        let number = self.by_ticket.get(&ticket).copied();
        number.and_then(|number| self.remove(number)).is_some()
    }

    /// One whose patience is over.
    fn overdue(&mut self, now: Duration) -> Option<Parked> {
        let (until, number) = *self.by_end.first()?;
        if until > now {
            return None;
        }
        self.remove(number)
    }

    /// The routes may have changed: looks again at once, or a moment after the last time.
    pub(super) fn on_news(&mut self) {
        if !self.keys.is_empty() {
            self.look = Some(self.looked + LOOK_STEP);
        }
    }

    /// The keys to look at, those that wait for the longest time first; none before it is time.
    fn due(&mut self, now: Duration) -> Vec<u64> {
        if self.look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.looked = now;
        self.look = Some(now + LOOK_AGAIN);
        let fronts = self.keys.iter().filter_map(|(key, line)| Some((*line.front()?, *key)));
        let mut fronts: Vec<_> = fronts.collect();
        fronts.sort_unstable();
        fronts.into_iter().map(|(_, key)| key).collect()
    }

    fn wake_at(&self) -> Option<Duration> {
        let end = self.by_end.first().map(|(until, _)| *until);
        self.look.into_iter().chain(end).min()
    }
}

impl Engine {
    /// A publication has to wait; refuses it if it may not.
    pub(super) fn park(&mut self, now: Now, mut candidate: Box<Candidate>, error: Box<RelayError>) {
        // What waits for long must not take the room of what waits for the disk.
        self.publishing.give_back(&mut candidate);
        let reason = error.reason;
        let parked = Parked {
            key: candidate.key_hash(),
            until: now.mono + candidate.patience,
            candidate,
            error,
        };
        let limits = self.setup.neighbours.parking;
        match self.parking.add(now.mono, parked, &limits) {
            Ok(()) => self.metrics.on_parked(reason),
            Err(mut parked) => {
                parked
                    .error
                    .detail
                    .push_str("; too many publications wait for that already");
                self.refuse(&parked.candidate, *parked.error);
            }
        }
    }

    /// Lets those go on whose way is known by now, and ends those whose patience is over. Answers when to do it again.
    pub(super) fn release_parked(&mut self, now: Now) -> Option<Duration> {
        for key in self.parking.due(now.mono) {
            while let Some(number) = self.parking.first_of(key) {
                if !self.release(now, number) {
                    break;
                }
            }
        }
        while let Some(parked) = self.parking.overdue(now.mono) {
            self.metrics.on_unparked(ParkedEnd::Refused);
            self.refuse(&parked.candidate, *parked.error);
        }
        self.metrics.on_parking(self.parking.len());
        self.parking.wake_at()
    }

    /// How many wait, how many began to by reason (`moving`, `routes_away`), and how many ended by end.
    #[cfg(test)]
    pub(super) fn parked(&self) -> (usize, [u64; 2], [u64; 3]) {
        let (begun, ended) = self.metrics.parked_counts();
        (self.parking.len(), begun, ended)
    }

    /// The first one of a key tries again. `false`: it still waits.
    fn release(&mut self, now: Now, number: u64) -> bool {
        let Some(Parked {
            candidate, key, until, ..
        }) = self.parking.take(number)
        else {
            return false;
        };
        let end = match self.take_in(now, candidate, true) {
            Ok(()) => ParkedEnd::WentOn,
            Err(Refusal::Waits(candidate, error)) => {
                let parked = Parked {
                    candidate,
                    error,
                    key,
                    until,
                };
                self.parking.insert(number, parked);
                return false;
            }
            Err(Refusal::Ended(candidate, error)) => {
                self.refuse(&candidate, *error);
                ParkedEnd::Refused
            }
        };
        self.metrics.on_unparked(end);
        self.parking.leave(key, number);
        true
    }
}

/// When those that wait look again although nothing has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two looks at all of them.
const LOOK_STEP: Duration = Duration::from_millis(5);
