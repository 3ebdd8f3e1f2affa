//! Messages for a unit that was evacuated, while nobody is there: no relay of it says where its keys have gone, so this one goes by
//! its own routes.
//!
//! # How
//! The line is read from its first open message on, and once more when the routes have changed since. A message whose key another
//! unit owns by a later epoch leaves as if its unit had said that the key has moved (`stops`, `moving`).
//!
//! # Invariants
//! - E1. This is done only while the unit has no lane to here: nothing of the line is on its way then (M1). What the unit took without
//!   a word of it comes a second time, at who took over from it.
//! - E2. A key leaves from its first message in the line on, wherever the search has met it: routes change while it is under way, and of
//!   a key that was about to move it has passed by some (M-C1).

use std::time::Duration;

use super::Outbox;
use super::backlog::STRANDED;
use super::keys::NO_KEY;
use super::send::Wake;
use super::stops::{STOPS_MAX, Stopped, id_of};
use crate::model::{Message, Seq, UnitId};
use crate::queue::effects::{Effects, Now, ReadBack, Reader};
use crate::queue::planted::{Bug, planted};

/// State of the search.
#[derive(Debug, Default)]
pub(super) struct Stranded {
    is_evacuated: bool,
    /// The routes have changed since the line was begun to be read.
    again: bool,
    next: Seq,
    /// The last number that a read under way can find.
    reading: Option<Seq>,
    rest_until: Duration,
}

impl Outbox {
    /// The routes have changed; whether they say that the unit was evacuated.
    pub fn on_routes(&mut self, is_evacuated: bool) {
        self.stranded.is_evacuated = is_evacuated;
        self.stranded.again = is_evacuated && !(planted(Bug::StrandedOnce) && self.stranded.next > 0);
    }

    /// Reads on, if there is nobody who could say where messages go.
    pub(super) fn look_for_stranded(&mut self, now: Duration, fx: &mut Effects, wake: &mut Wake) {
        if !self.is_alone() || self.stranded.reading.is_some() || self.stops.len() >= STOPS_MAX {
            return;
        }
        let is_through = self.stranded.next > self.last_stored;
        if is_through && !self.stranded.again {
            return;
        }
        if now < self.stranded.rest_until {
            return wake.at(self.stranded.rest_until);
        }
        if self.stranded.again && (is_through || self.stranded.next == 0) {
            self.stranded.again = false;
            self.stranded.next = 0;
            self.stranded.rest_until = now + REST;
        }
        self.stranded.next = self.stranded.next.max(self.ledger.done.frontier() + 1);
        if self.stranded.next > self.last_stored {
            return;
        }
        if planted(Bug::StrandedFromTheLast) {
            self.stranded.next = self.last_stored;
        }
        self.stranded.reading = Some(self.last_stored);
        let reader = Reader::Outbox {
            unit: self.unit.clone(),
            cursor: STRANDED,
        };
        fx.read(reader, self.line, self.stranded.next, MESSAGES_MAX, BYTES_MAX);
    }

    /// Whether the unit was evacuated, and no relay of it can be reached.
    fn is_alone(&self) -> bool {
        let has_lanes = self.lanes().next().is_some() && !planted(Bug::StrandedWithLanes);
        self.stranded.is_evacuated && !has_lanes && !planted(Bug::StrandedStays)
    }

    /// From where on a message's key leaves: what is before it in the line was read when perhaps other routes were in force (E2).
    fn first_of(&self, hash: u64, seq: Seq) -> Seq {
        if hash == NO_KEY || planted(Bug::StrandedFromTheMiddle) {
            seq
        } else {
            self.ledger.done.frontier() + 1
        }
    }

    /// Planted: new messages go past what waits.
    pub(super) fn is_passed_by(&self) -> bool {
        self.stranded.is_evacuated && planted(Bug::NewBeforeStranded)
    }

    /// A part of the line was read. `owner` says who has the key of a message, and since when.
    pub fn on_stranded_read(&mut self, now: Now, read: ReadBack, owner: impl Fn(&Message) -> Option<(u64, UnitId)>) {
        let Some(last) = self.stranded.reading.take() else {
            return;
        };
        if read.failed || read.from != self.stranded.next {
            self.stranded.rest_until = now.mono + REST;
            return;
        }
        let end = read.next.map_or(last + 1, |next| next.min(last + 1)).max(read.from);
        self.stranded.next = end;
        if !self.is_alone() {
            return;
        }
        let mut stopped = Stopped::default();
        for (seq, message) in read.found.into_iter().filter(|(seq, _)| *seq < end) {
            if message.routed == 0 || !self.is_open(seq) {
                continue;
            }
            let Some(owner) = owner(&message).filter(|(epoch, unit)| *epoch > message.routed && *unit != self.unit)
            else {
                continue;
            };
            let topic = self.known(&message.topic);
            let hash = self.topics.at(topic).key_of(&message);
            let id = id_of(hash, seq);
            if !self.stop_for(now.mono, (id, self.first_of(hash, seq)), topic, Some(owner)) {
                // As many keys leave as may: it goes on here when some have left.
                self.stranded.next = seq;
                break;
            }
            stopped.add(id);
        }
        self.put_stopped(now.mono, stopped);
    }
}

/// Messages of one read,
const MESSAGES_MAX: usize = 1024;
/// and bytes.
const BYTES_MAX: usize = 1 << 20;
/// Between two ways through the line, and after a read that failed.
const REST: Duration = Duration::from_secs(1);
