//! Consumers of a group: who has room, and whose turn it is.
//!
//! # Invariants
//! - W1. `ring` holds each consumer that has room and does not rest, once.
//! - W2. A consumer has no more than its messages in flight, and no more than [`FLIGHT_BYTES_MAX`] but for the last one: what is
//!   kept in memory for one that is slow is bounded (M-B4, M-G7).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::Map;
use crate::queue::api::ConsumerId;

#[derive(Default)]
pub(super) struct Consumers {
    all: Map<ConsumerId, Consumer>,
    /// Those that can take a message, in turn.
    ring: VecDeque<ConsumerId>,
    /// Those that take nothing for a while, by the end of it.
    resting: BTreeSet<(Duration, ConsumerId)>,
    in_flight: usize,
}

struct Consumer {
    shard: u16,
    in_flight_max: usize,
    in_flight: usize,
    /// Bytes of those.
    bytes: usize,
    rests_until: Option<Duration>,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max && self.bytes < FLIGHT_BYTES_MAX
    }
}

impl Consumers {
    pub(super) fn add(&mut self, id: ConsumerId, shard: u16, in_flight_max: usize) {
        let consumer = Consumer {
            shard,
            in_flight_max: in_flight_max.max(1),
            in_flight: 0,
            bytes: 0,
            rests_until: None,
        };
        self.all.insert(id, consumer);
        self.ring.push_back(id);
    }

    /// Whether it was there. What it had in flight is free.
    pub(super) fn remove(&mut self, id: ConsumerId) -> bool {
        let Some(consumer) = self.all.remove(&id) else {
            return false;
        };
        self.in_flight -= consumer.in_flight;
        self.ring.retain(|other| *other != id);
        if let Some(until) = consumer.rests_until {
            self.resting.remove(&(until, id));
        }
        true
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn have_room(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Whose turn it is; one more message of so many bytes is in flight there.
    pub(super) fn take(&mut self, bytes: usize) -> Option<(ConsumerId, u16)> {
        let id = self.ring.pop_front()?;
        let consumer = self.all.get_mut(&id)?;
        consumer.in_flight += 1;
        consumer.bytes += bytes;
        self.in_flight += 1;
        if consumer.has_room() {
            self.ring.push_back(id);
        }
        Some((id, consumer.shard))
    }

    /// One message less, of so many bytes, is in flight there. Returns its shard.
    pub(super) fn free(&mut self, id: ConsumerId, bytes: usize) -> Option<u16> {
        let consumer = self.all.get_mut(&id)?;
        let had_room = consumer.has_room();
        consumer.in_flight -= 1;
        consumer.bytes = consumer.bytes.saturating_sub(bytes);
        self.in_flight -= 1;
        if !had_room && consumer.has_room() && consumer.rests_until.is_none() {
            self.ring.push_back(id);
        }
        Some(consumer.shard)
    }

    /// It takes nothing until then.
    pub(super) fn rest(&mut self, id: ConsumerId, until: Duration) {
        let Some(consumer) = self.all.get_mut(&id) else {
            return;
        };
        match consumer.rests_until.replace(until) {
            Some(before) => _ = self.resting.remove(&(before, id)),
            None => self.ring.retain(|other| *other != id),
        }
        self.resting.insert((until, id));
    }

    /// Those whose rest is over take messages again.
    pub(super) fn wake(&mut self, now: Duration) {
        while let Some(&(until, id)) = self.resting.first().filter(|(until, _)| *until <= now) {
            self.resting.remove(&(until, id));
            let Some(consumer) = self.all.get_mut(&id) else {
                continue;
            };
            consumer.rests_until = None;
            if consumer.has_room() {
                self.ring.push_back(id);
            }
        }
    }

    pub(super) fn next_wake(&self) -> Option<Duration> {
        self.resting.first().map(|(until, _)| *until)
    }
}

/// Bytes in flight to one consumer; one message more when it has less.
pub(super) const FLIGHT_BYTES_MAX: usize = 16 << 20;
