//! A message of a publisher before it is stored, and why it was not.

use std::time::Duration;

use crate::model::{Message, MessageId, RelayError, UnitId, UnixMillis};
use crate::queue::api::{Publish, Ticket};
use crate::queue::effects::Now;
use crate::queue::engine::waits::Waiter;
use crate::queue::outbox::key_hash;
use crate::queue::{Setup, TopicSettings};

/// A message of a publisher that is not stored yet.
#[derive(Debug)]
pub(in crate::queue::engine) struct Candidate {
    /// As it will be stored, but for its number and time.
    pub(super) message: Message,
    /// Its own end, if the publisher named one.
    pub(super) deadline: Option<UnixMillis>,
    pub(super) units: Vec<UnitId>,
    /// It is not known yet where it goes: how it ends if that stays so.
    pub(super) unrouted: Option<Box<RelayError>>,
    /// How long it may wait for its way.
    pub(in crate::queue::engine) patience: Duration,
    pub(super) waiter: Waiter,
    /// Bytes that count as on their way to the disk.
    pub(super) bytes: usize,
}

/// Why a message was not stored; it comes along.
pub(in crate::queue::engine) enum Refusal {
    Ended(Box<Candidate>, Box<RelayError>),
    /// It can be in a moment; the error if not.
    Waits(Box<Candidate>, Box<RelayError>),
}

impl Refusal {
    pub(super) fn ended(candidate: Box<Candidate>, error: RelayError) -> Self {
        Self::Ended(candidate, Box::new(error))
    }
}

impl Candidate {
    pub(super) fn new(setup: &Setup, publish: Publish) -> Self {
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

    pub(in crate::queue::engine) fn ticket(&self) -> Ticket {
        self.waiter.ticket
    }

    /// Bytes it takes in memory, about.
    pub(in crate::queue::engine) fn size(&self) -> usize {
        self.message.bytes()
    }

    /// Its key and topic; the same number if it has no key, as none that waits is.
    pub(in crate::queue::engine) fn key_hash(&self) -> u64 {
        key_hash(&self.message).unwrap_or_default()
    }

    /// It is accepted now, if at all.
    pub(super) fn stamp(&mut self, now: Now, settings: &TopicSettings) {
        let ttl = u64::try_from(settings.ttl.as_millis()).unwrap_or(u64::MAX);
        let by_topic = (ttl > 0).then(|| UnixMillis(now.wall.0.saturating_add(ttl)));
        self.message.accepted_at = now.wall;
        self.message.deadline = self.deadline.into_iter().chain(by_topic).min();
    }
}
