//! Messages of local services: what is refused, what is a duplicate, and who waits for what.
//!
//! # Invariants
//! - P1. A publisher is told that its message is accepted when the record is on disk (M-A2), and is refused before anything
//!   of the message is kept.
//! - P2. A duplicate is answered with the first message's id, also while that one is on its way to the disk (M-B3). It waits
//!   with those who wait for the first one; if there are none, nobody knows more than that it was accepted.
//!
//! # Not here
//! Publications that wait until it is known where they go (`parking`).

mod admit;
mod candidate;
mod coming;

use std::time::Duration;

use self::admit::DISK_PUSHBACK;
pub(super) use self::admit::check_size;
pub(super) use self::candidate::{Candidate, Refusal};
use self::coming::Coming;
pub(super) use self::coming::Publishing;
use super::Engine;
use super::parking::ParkedEnd;
use super::places::unknown_topic;
use super::reroute::Way;
use super::waits::{Awaited, Waiter};
use crate::model::{AckLevel, Message, MessageId, Reason, RelayError, Retry, Seq, Topic, UnitId};
use crate::queue::api::{Output, Publish, Ticket};
use crate::queue::dedup::{First, Print};
use crate::queue::effects::Now;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{Record, Stored};
use crate::queue::{Route, Sync, TopicSettings};

impl Engine {
    pub(super) fn on_publish(&mut self, now: Now, publish: Publish) {
        let candidate = Box::new(Candidate::new(&self.setup, publish));
        match self.take_in(now, candidate, false) {
            Ok(()) => {}
            Err(Refusal::Ended(candidate, error)) => self.refuse(&candidate, *error),
            Err(Refusal::Waits(candidate, error)) => self.park(now, candidate, error),
        }
    }

    /// Tells a publisher that its message is not taken.
    pub(super) fn refuse(&mut self, candidate: &Candidate, error: RelayError) {
        self.publishing.answered += candidate.bytes;
        self.metrics.on_refused(error.reason);
        let place = &self.setup.place;
        let result = Err(Box::new(error.at(&place.unit, &place.relay)));
        let ticket = candidate.ticket();
        self.outputs.push_back(Output::Published { ticket, result });
    }

    /// Stores a message, or answers it as a duplicate. `is_first`: it has waited, and is the first of its key that does.
    pub(super) fn take_in(&mut self, now: Now, mut candidate: Box<Candidate>, is_first: bool) -> Result<(), Refusal> {
        let topics = std::sync::Arc::clone(&self.setup.topics);
        let topic = &candidate.message.topic;
        let Some(settings) = TopicSettings::of(&topics, topic) else {
            let error = unknown_topic(topic);
            return Err(Refusal::ended(candidate, error));
        };
        if candidate.waiter.level > AckLevel::Accepted && !self.waits.has_room() {
            let detail = "too many publishers wait until their messages are relayed or delivered; wait for ACCEPTED";
            let error = RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(PUSHBACK);
            return Err(Refusal::ended(candidate, error));
        }
        candidate.stamp(now, settings);
        let print = Print::of(&candidate.message).filter(|_| self.dedup.is_on());
        if let Some(print) = &print
            && self.is_duplicate(&candidate.message.topic, print, candidate.waiter)
        {
            self.publishing.answered += candidate.bytes;
            return Ok(());
        }
        let may_be_behind = settings.ordered && !is_first && !self.parking.is_empty() && !planted(Bug::NewBeforeParked);
        if may_be_behind && let Some(error) = self.parking.waits_for(candidate.key_hash()) {
            return Err(Refusal::Waits(candidate, error));
        }
        if let Some(error) = candidate.unrouted.take() {
            match self.setup.neighbours.route(&candidate.message) {
                Route::To(unit, epoch) => (candidate.units, candidate.message.routed) = (vec![unit], epoch),
                Route::Later => {
                    candidate.unrouted = Some(error.clone());
                    return Err(Refusal::Waits(candidate, error));
                }
                Route::Nowhere => return Err(Refusal::Ended(candidate, error)),
            }
        }
        let way = self.way(&mut candidate.message, &candidate.units, settings);
        let Way { outs, own } = match way {
            Ok(way) => way,
            Err(error) if error.reason == Reason::Moving => return Err(Refusal::Waits(candidate, Box::new(error))),
            Err(error) => return Err(Refusal::ended(candidate, error)),
        };
        if let Err(error) = self.admit(now, &candidate.message, settings, (&outs, own)) {
            return Err(Refusal::ended(candidate, error));
        }
        let Candidate {
            message, waiter, bytes, ..
        } = *candidate;
        self.store(message, settings, (outs, own), |number, publishing| {
            let place = publishing.coming.push(Coming {
                number,
                bytes,
                print,
                waiter,
                others: Vec::new(),
            });
            if let Some(print) = print {
                publishing.prints.insert(print, place);
            }
        });
        Ok(())
    }

    /// Answers a duplicate, or has it wait with the first one.
    fn is_duplicate(&mut self, topic: &Topic, print: &Print, waiter: Waiter) -> bool {
        let waiter = Waiter {
            duplicate: true,
            ..waiter
        };
        if let Some(place) = self.publishing.prints.get(print)
            && let Some(coming) = self.publishing.coming.at_mut(*place)
        {
            coming.others.push(waiter);
            self.metrics.on_duplicate(topic);
            return true;
        }
        let Some(first) = self.dedup.look_up(print) else {
            return false;
        };
        self.metrics.on_duplicate(topic);
        let told = self.waits.join((first.epoch, first.number), waiter);
        let known = self.awaited(self.id(first), Vec::new(), None);
        self.outputs
            .push_back(told.unwrap_or_else(|| known.at_least_accepted(&waiter)));
        true
    }

    /// Gives a message its numbers and writes it.
    fn store(
        &mut self,
        mut message: Message,
        settings: &TopicSettings,
        (outs, own): (Vec<UnitId>, bool),
        coming: impl FnOnce((u64, u64), &mut Publishing),
    ) {
        self.publishing.last += 1;
        message.id.number = self.publishing.last;
        message.id.epoch = self.publishing.epoch;
        coming((message.id.epoch, message.id.number), &mut self.publishing);
        self.places.know_topic(&message.topic);
        let crosses = settings.mirror && outs.iter().any(|unit| self.setup.is_abroad(unit));
        let mirror = crosses.then(|| self.places.mirrors.assign(&message.topic));
        let inbox = own.then(|| self.places.inbox.assign(&message.topic));
        let numbered = |unit: UnitId| {
            let seq = self.places.outbox(&unit, &self.setup).assign();
            (unit, seq)
        };
        let outs: Vec<(UnitId, Seq)> = outs.into_iter().map(numbered).collect();
        self.at_home(&message, settings, &outs);
        let stored = Stored {
            message,
            from: None,
            outs,
            inbox,
            only: None,
            redriven: None,
            rerouted: None,
            mirror,
        };
        if planted(Bug::SendBeforeSync) {
            self.places
                .on_stored(Now::default(), &self.setup, &stored, false, &mut self.fx);
        }
        if planted(Bug::AckBeforeSync) {
            self.on_accepted(&stored);
        }
        self.journal.push(Record::Stored(Box::new(stored)));
    }

    /// A message of a publisher is on disk. Says whether somebody waits until it is delivered.
    pub(super) fn on_accepted(&mut self, stored: &Stored) -> bool {
        let number = (stored.message.id.epoch, stored.message.id.number);
        self.publishing.stored = self.publishing.stored.max(number.1);
        let tell_delivered = self.publishing.awaits_delivery(number);
        let Some(coming) = self.publishing.coming.pop_if(number) else {
            return false;
        };
        self.publishing.answered += coming.bytes;
        if let Some(print) = coming.print {
            self.publishing.prints.remove(&print);
        }
        let message = &stored.message;
        let mut awaited = self.awaited(message.id.clone(), Vec::new(), None);
        for waiter in coming.waiters() {
            self.outputs.push_back(awaited.progress(waiter, AckLevel::Accepted));
        }
        let waits = |waiter: &&Waiter| waiter.level > AckLevel::Accepted;
        let waiters: Vec<Waiter> = coming.waiters().filter(waits).copied().collect();
        if !waiters.is_empty() {
            // Where it goes matters to those only who wait for more.
            awaited.outs.clone_from(&stored.outs);
            awaited.inbox = stored.inbox.map(|seq| (message.topic.clone(), seq));
            self.waits.add(awaited, waiters, &mut self.outputs);
        }
        tell_delivered
    }

    /// The disk failed: publishers of all that is not on it are refused.
    pub(super) fn refuse_coming(&mut self) {
        let detail = "the disk of this relay failed; nothing of the message was kept";
        let place = self.setup.place.clone();
        for coming in self.publishing.coming.take_all() {
            self.publishing.answered += coming.bytes;
            for waiter in coming.waiters() {
                let error = RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(DISK_PUSHBACK);
                self.metrics.on_refused(error.reason);
                let result = Err(Box::new(error.at(&place.unit, &place.relay)));
                let ticket = waiter.ticket;
                self.outputs.push_back(Output::Published { ticket, result });
            }
        }
        self.publishing.prints.clear();
        self.publishing.take_back();
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        if self.parking.forget(ticket) {
            return self.metrics.on_unparked(ParkedEnd::Left);
        }
        self.waits.forget(ticket);
        for coming in &mut self.publishing.coming.messages {
            // It is still accepted and counted; only nobody is told more than that.
            for waiter in coming.waiters_mut().filter(|waiter| waiter.ticket == ticket) {
                waiter.level = AckLevel::Accepted;
            }
        }
    }

    fn id(&self, first: First) -> MessageId {
        MessageId {
            unit: self.setup.place.unit.clone(),
            relay: self.setup.place.relay.clone(),
            epoch: first.epoch,
            number: first.number,
        }
    }

    fn awaited(&self, id: MessageId, outs: Vec<(UnitId, Seq)>, inbox: Option<(Topic, Seq)>) -> Awaited {
        Awaited {
            id,
            buffered: self.setup.queue.sync == Sync::Buffered,
            outs,
            inbox,
        }
    }

    /// Units without this one, each once.
    pub(super) fn others(&self, units: &[UnitId]) -> Vec<UnitId> {
        let mut others: Vec<UnitId> = Vec::with_capacity(units.len());
        for unit in units {
            if *unit != self.setup.place.unit && !others.contains(unit) {
                others.push(unit.clone());
            }
        }
        others
    }
}

const PUSHBACK: Duration = Duration::from_millis(500);
