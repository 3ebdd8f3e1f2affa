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

use std::collections::VecDeque;
use std::time::Duration;

use super::Engine;
use super::parking::ParkedEnd;
use super::places::unknown_topic;
use super::reroute::Way;
use super::upkeep::Level;
use super::waits::{Awaited, Waiter};
use crate::model::{AckLevel, Map, Message, MessageId, Reason, RelayError, Retry, Seq, Topic, UnitId, UnixMillis};
use crate::queue::api::{Output, Publish, Ticket};
use crate::queue::dedup::{First, Print};
use crate::queue::effects::Now;
use crate::queue::outbox::key_hash;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{Record, Stored};
use crate::queue::{Priority, Route, Setup, Sync, TopicSettings};

/// Publishers whose messages are on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// Life of the log that messages are accepted in.
    epoch: u64,
    /// The record of that life is on its way to the disk.
    renewing: bool,
    /// How many messages this life of the log has given numbers to, and how many of them are on disk.
    pub(super) last: u64,
    pub(super) stored: u64,
    coming: UnderWay,
    /// Places among them.
    prints: Map<Print, u64>,
    answered: usize,
}

/// In the order in which they are written, so that the first one is the next to be on disk.
#[derive(Debug, Default)]
struct UnderWay {
    messages: VecDeque<Coming>,
    /// Place of the first one; places are never given again.
    first: u64,
}

#[derive(Debug)]
struct Coming {
    /// Life and number: messages of the last life are still under way when the next one gives its first numbers.
    number: (u64, u64),
    bytes: usize,
    print: Option<Print>,
    waiter: Waiter,
    /// Publishers of its duplicates.
    others: Vec<Waiter>,
}

impl UnderWay {
    /// Adds the last one; its place.
    fn push(&mut self, coming: Coming) -> u64 {
        self.messages.push_back(coming);
        self.first + u64::try_from(self.messages.len()).unwrap_or(u64::MAX) - 1
    }

    fn at_mut(&mut self, place: u64) -> Option<&mut Coming> {
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.messages.get_mut(index)
    }

    /// The first one, if it is this message.
    fn first_if(&self, number: (u64, u64)) -> Option<&Coming> {
        self.messages.front().filter(|coming| coming.number == number)
    }

    /// Takes the first one, if it is this message.
    fn pop_if(&mut self, number: (u64, u64)) -> Option<Coming> {
        self.first_if(number)?;
        self.first += 1;
        self.messages.pop_front()
    }

    /// Takes all.
    fn take_all(&mut self) -> VecDeque<Coming> {
        self.first += u64::try_from(self.messages.len()).unwrap_or(u64::MAX);
        std::mem::take(&mut self.messages)
    }
}

impl Coming {
    fn waiters_mut(&mut self) -> impl Iterator<Item = &mut Waiter> {
        std::iter::once(&mut self.waiter).chain(&mut self.others)
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        std::iter::once(&self.waiter).chain(&self.others)
    }
}

impl Publishing {
    /// As a checkpoint says.
    pub(super) fn restore(&mut self, epoch: u64, stored: u64) {
        (self.epoch, self.stored, self.last) = (epoch, stored, stored);
    }

    /// All records were read.
    pub(super) fn recovered(&mut self) {
        self.last = self.stored;
        self.coming.take_all();
        self.prints.clear();
        self.answered = 0;
    }

    /// The log will begin a new life; a message that comes now is of that one.
    pub(super) fn renew(&mut self, epoch: u64) {
        (self.epoch, self.renewing, self.last) = (epoch, true, 0);
    }

    /// Whether no new life is on its way to the disk.
    pub(super) fn may_renew(&self) -> bool {
        !self.renewing
    }

    /// A new life has begun on disk.
    pub(super) fn on_epoch(&mut self, epoch: u64) {
        if self.epoch == epoch {
            self.renewing = false;
        } else {
            (self.epoch, self.last) = (epoch, 0);
        }
        self.stored = 0;
    }

    /// Numbers of messages that are not on disk are given again.
    fn take_back(&mut self) {
        self.last = if self.renewing { 0 } else { self.stored };
    }

    /// A publication does not count as on its way to the disk any more.
    pub(super) fn give_back(&mut self, candidate: &mut Candidate) {
        self.answered += std::mem::take(&mut candidate.bytes);
    }

    pub(super) fn take_answered(&mut self) -> usize {
        std::mem::take(&mut self.answered)
    }

    /// Whether somebody waits until a message is delivered.
    fn awaits_delivery(&self, number: (u64, u64)) -> bool {
        let coming = self.coming.first_if(number);
        coming.is_some_and(|coming| coming.waiters().any(|waiter| waiter.level == AckLevel::Delivered))
    }
}

/// A message of a publisher that is not stored yet.
#[derive(Debug)]
pub(super) struct Candidate {
    /// As it will be stored, but for its number and time.
    message: Message,
    /// Its own end, if the publisher named one.
    deadline: Option<UnixMillis>,
    units: Vec<UnitId>,
    /// It is not known yet where it goes: how it ends if that stays so.
    unrouted: Option<Box<RelayError>>,
    /// How long it may wait for its way.
    pub(super) patience: Duration,
    waiter: Waiter,
    /// Bytes that count as on their way to the disk.
    bytes: usize,
}

/// Why a message was not stored; it comes along.
pub(super) enum Refusal {
    Ended(Box<Candidate>, Box<RelayError>),
    /// It can be in a moment; the error if not.
    Waits(Box<Candidate>, Box<RelayError>),
}

impl Refusal {
    fn ended(candidate: Box<Candidate>, error: RelayError) -> Self {
        Self::Ended(candidate, Box::new(error))
    }
}

impl Candidate {
    fn new(setup: &Setup, publish: Publish) -> Self {
        let bytes = publish.bytes();
        let place = &setup.place;
        let message = Message {
            id: MessageId {
                unit: place.unit.clone(),
                relay: place.relay.clone(),
                epoch: 0,
                number: 0,
            },
            topic: publish.topic,
            key: publish.key,
            accepted_at: UnixMillis::default(),
            deadline: publish.deadline,
            visited: vec![place.unit.clone()],
            redrives: 0,
            routed: publish.routed,
            attributes: publish.attributes,
            body: publish.body,
        };
        Self {
            message,
            deadline: publish.deadline,
            units: publish.units,
            unrouted: publish.unrouted,
            patience: publish.patience,
            waiter: Waiter {
                ticket: publish.ticket,
                level: publish.wait,
                duplicate: false,
            },
            bytes,
        }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.waiter.ticket
    }

    /// Bytes it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        self.message.bytes()
    }

    /// Its key and topic; the same number if it has no key, as none that waits is.
    pub(super) fn key_hash(&self) -> u64 {
        key_hash(&self.message).unwrap_or_default()
    }

    /// It is accepted now, if at all.
    fn stamp(&mut self, now: Now, settings: &TopicSettings) {
        let ttl = u64::try_from(settings.ttl.as_millis()).unwrap_or(u64::MAX);
        let by_topic = (ttl > 0).then(|| UnixMillis(now.wall.0.saturating_add(ttl)));
        self.message.accepted_at = now.wall;
        self.message.deadline = self.deadline.into_iter().chain(by_topic).min();
    }
}

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

    /// Whether a message can be taken (M-E2, M-E3, M-E4, M-G6).
    fn admit(
        &mut self,
        now: Now,
        message: &Message,
        settings: &TopicSettings,
        (outs, own): (&[UnitId], bool),
    ) -> Result<(), RelayError> {
        check_size(&self.setup, message, settings)?;
        if outs.is_empty() && !own {
            let detail = format!(
                "no unit gets messages of the topic {}; see its rule and units",
                message.topic
            );
            return Err(RelayError::new(Reason::NoRoute, Retry::Never, detail));
        }
        if message.is_expired(now.wall) {
            let detail = "the deadline of the message (expirytime, or the topic's ttl) has passed already";
            return Err(RelayError::new(Reason::DeadlineExceeded, Retry::Never, detail));
        }
        if let Some(detail) = self.refuses(now, settings.priority) {
            return Err(RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(DISK_PUSHBACK));
        }
        if let Err(detail) = self.places.check_topic(&message.topic, &self.setup) {
            return Err(RelayError::new(Reason::Limited, Retry::Never, detail));
        }
        let bytes = message.bytes();
        let full = |unit: &UnitId| {
            let detail = format!(
                "as many messages of topic {} wait for unit {unit} as its settings allow (bytes_max, messages_max)",
                message.topic
            );
            RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(FULL_PUSHBACK)
        };
        for unit in outs {
            if let Some(outbox) = self.places.outboxes.get_mut(unit) {
                outbox.admit(&message.topic, settings, bytes).map_err(|_| full(unit))?;
            }
        }
        if own {
            let inbox = &self.places.inbox;
            inbox
                .admit(&message.topic, settings, bytes)
                .map_err(|_| full(&self.setup.place.unit))?;
        }
        Ok(())
    }

    /// Why the disk takes no new messages.
    fn refuses(&self, now: Now, priority: Priority) -> Option<&'static str> {
        if !self.journal.may_try(now.mono) {
            return Some("the disk of this relay fails; the relay tries again by itself");
        }
        match self.upkeep.level() {
            Level::Full => Some("the disk of this relay is nearly full (queue.refuse_all_at, queue.bytes_max)"),
            Level::Low if priority == Priority::Low => {
                Some("the disk of this relay is nearly full for topics of low priority (queue.refuse_low_at)")
            }
            Level::Low | Level::Ok => None,
        }
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

/// Attributes and body together have a limit.
pub(super) fn check_size(setup: &Setup, message: &Message, settings: &TopicSettings) -> Result<(), RelayError> {
    let bytes = message.attributes.as_bytes().len() + message.body.len();
    let all = setup.queue.message_bytes_max.as_usize();
    let max = match settings.message_bytes_max.as_usize() {
        0 => all,
        of_topic => of_topic.min(all),
    };
    if bytes <= max {
        return Ok(());
    }
    let detail = format!(
        "the message has {bytes} bytes, topic {} allows {max} (message_bytes_max of the topic or of the queue)",
        message.topic
    );
    Err(RelayError::new(Reason::TooLarge, Retry::Never, detail))
}

const PUSHBACK: Duration = Duration::from_millis(500);
const FULL_PUSHBACK: Duration = Duration::from_secs(1);
const DISK_PUSHBACK: Duration = Duration::from_secs(2);
