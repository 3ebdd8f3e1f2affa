//! Consumers of a group: who has room, and whose turn it is.
//!
//! # Invariants
//! - W1. `ring` holds each consumer that has room and does not rest, once.

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
    rests_until: Option<Duration>,
}

impl Consumers {
    pub(super) fn add(&mut self, id: ConsumerId, shard: u16, in_flight_max: usize) {
        let consumer = Consumer {
            shard,
            in_flight_max: in_flight_max.max(1),
            in_flight: 0,
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

    /// Whose turn it is; one more message is in flight there.
    pub(super) fn take(&mut self) -> Option<(ConsumerId, u16)> {
        let id = self.ring.pop_front()?;
        let consumer = self.all.get_mut(&id)?;
        consumer.in_flight += 1;
        self.in_flight += 1;
        if consumer.in_flight < consumer.in_flight_max {
            self.ring.push_back(id);
        }
        Some((id, consumer.shard))
    }

    /// One message less is in flight there. Returns its shard.
    pub(super) fn free(&mut self, id: ConsumerId) -> Option<u16> {
        let consumer = self.all.get_mut(&id)?;
        if consumer.in_flight == consumer.in_flight_max && consumer.rests_until.is_none() {
            self.ring.push_back(id);
        }
        consumer.in_flight -= 1;
        self.in_flight -= 1;
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
            if consumer.in_flight < consumer.in_flight_max {
                self.ring.push_back(id);
            }
        }
    }

    pub(super) fn next_wake(&self) -> Option<Duration> {
        self.resting.first().map(|(until, _)| *until)
    }
}
