//! A lane that we opened: numbered batches on their way, acknowledged in order.
//!
//! # Invariants
//! - A1. Batches have the numbers 1, 2, 3 ...; an acknowledgement speaks for its number and all before.
//! - A2. Nothing is sent before the peer has said what it has.
//! - A3. What the peer refuses is known when its batch lands, though a long list of it comes in several frames: those but the
//!   last speak for no batch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::backlog::Waiting;
use crate::model::{GapReason, RelayName, Seq};
use crate::queue::lanes::{LaneId, LaneKind, Refused};
use crate::queue::line::Settled;

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: LaneId,
    pub(super) kind: LaneKind,
    pub(super) relay: RelayName,
    /// What the peer had when it opened; `None`: it has not said so yet.
    pub(super) there: Option<Settled>,
    /// The peer is out of resources.
    pub(super) busy: bool,
    /// The last sign that it moves: it came up, an acknowledgement, or the first batch after a rest.
    moved: Duration,
    batch: u64,
    flights: VecDeque<Flight>,
    bytes: usize,
    messages: usize,
    /// What the peer refused of what is on its way, by number.
    refused: BTreeMap<Seq, Refused>,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Flight {
    batch: u64,
    pub(super) bytes: usize,
    pub(super) sent: Duration,
    pub(super) cargo: Cargo,
}

/// What a batch holds.
#[derive(Debug)]
pub(super) enum Cargo {
    /// So many messages of the live window, the next ones in its order.
    Live(usize),
    /// Messages of the backlog.
    Backlog(Vec<Waiting>),
    /// Numbers that will not come.
    Gap((Seq, Seq), GapReason),
}

impl Lane {
    /// A lane that just came up.
    pub(super) fn new(now: Duration, id: LaneId, kind: LaneKind, relay: RelayName) -> Self {
        Self {
            id,
            kind,
            relay,
            there: None,
            busy: false,
            moved: now,
            batch: 0,
            flights: VecDeque::new(),
            bytes: 0,
            messages: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Whether batches may go.
    pub(super) fn is_open(&self) -> bool {
        self.there.is_some()
    }

    /// The peer said what it has.
    pub(super) fn open(&mut self, now: Duration, there: Settled) {
        self.there = Some(there);
        self.moved = now;
    }

    /// The peer is out of resources, or not any more.
    pub(super) fn set_busy(&mut self, now: Duration, busy: bool) {
        self.busy = busy;
        self.moved = now;
    }

    /// Bytes on their way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages on their way.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// When the oldest batch on its way was sent.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.flights.front().map(|flight| flight.sent)
    }

    /// A batch goes. Returns its number.
    pub(super) fn launch(&mut self, now: Duration, bytes: usize, cargo: Cargo) -> u64 {
        if self.flights.is_empty() {
            self.moved = now;
        }
        self.batch += 1;
        self.bytes += bytes;
        self.messages += cargo.messages();
        self.flights.push_back(Flight {
            batch: self.batch,
            bytes,
            sent: now,
            cargo,
        });
        self.batch
    }

    /// Whether a batch of this number was sent.
    pub(super) fn has_sent(&self, batch: u64) -> bool {
        batch <= self.batch
    }

    /// The peer refuses messages; `false` if these are more than are on their way.
    pub(super) fn refuse(&mut self, refused: Vec<Refused>) -> bool {
        for refused in refused {
            self.refused.insert(refused.seq, refused);
        }
        self.refused.len() <= self.messages
    }

    /// What was refused of the batches that land now.
    pub(super) fn take_refused(&mut self) -> BTreeMap<Seq, Refused> {
        std::mem::take(&mut self.refused)
    }

    /// The next batch that arrived, if an acknowledgement speaks for all up to `batch`.
    pub(super) fn land(&mut self, now: Duration, batch: u64) -> Option<Flight> {
        if self.flights.front()?.batch > batch {
            return None;
        }
        let flight = self.flights.pop_front()?;
        self.moved = now;
        self.bytes -= flight.bytes;
        self.messages -= flight.cargo.messages();
        Some(flight)
    }

    /// All batches on their way; the lane is gone.
    pub(super) fn into_flights(self) -> VecDeque<Flight> {
        self.flights
    }

    /// Messages of the backlog that are on their way.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.flights.iter().flat_map(|flight| match &flight.cargo {
            Cargo::Backlog(waiting) => waiting.as_slice(),
            Cargo::Live(_) | Cargo::Gap(..) => &[],
        })
    }

    /// Since when the peer owes a word; `None`: it does not.
    pub(super) fn waits_since(&self) -> Option<Duration> {
        (!self.is_open() || !self.flights.is_empty()).then_some(self.moved)
    }
}

impl Cargo {
    fn messages(&self) -> usize {
        match self {
            Self::Live(count) => *count,
            Self::Backlog(waiting) => waiting.len(),
            Self::Gap(..) => 0,
        }
    }
}
