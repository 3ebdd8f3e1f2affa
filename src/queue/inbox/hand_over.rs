//! Messages go to consumers, and consumers say what became of them.
//!
//! # Invariants
//! - H1. Each hand-over has a stamp; what a consumer says about an older one is ignored.
//! - H2. A message that a consumer kept too long, or refused, has failed once more; one that the consumer never got, or
//!   had when it went away, has not (M-B4).

use std::time::Duration;

use super::endings::Failed;
use super::feed::Ready;
use super::group::{Facts, Group, Open, Place, Scene};
use crate::model::{Message, Seq};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Output, Settlement};
use crate::queue::effects::Effects;
use crate::queue::metrics::Seen;
use crate::queue::planted::{Bug, planted};

impl Group {
    /// Hands out what is ready to consumers with room; `false` if nothing could be done.
    pub(super) fn hand_out(&mut self, scene: &Scene<'_>, fx: &mut Effects) -> bool {
        let mut any = false;
        while self.consumers.have_room() && !self.dies_too_much() && self.is_active(scene) {
            if !self.feed.first_ready().is_some_and(|seq| self.may_go(seq)) {
                break;
            }
            let Some(Ready { seq, facts, message }) = self.feed.pop_ready() else {
                break;
            };
            any = true;
            if self.done.contains(seq) {
                self.freed.extend(facts.key);
            } else if message.is_expired(scene.now.wall) && !planted(Bug::DeliveredLate) {
                self.expire(scene, seq, facts, message, fx);
            } else if let Some((consumer, shard)) = self.consumers.take(facts.bytes) {
                let deliver = self.fly(scene, (seq, facts), message, (consumer, shard), fx);
                fx.output(Output::Deliver(deliver));
            }
            self.go_on(scene, fx);
        }
        any
    }

    fn fly(
        &mut self,
        scene: &Scene<'_>,
        (seq, facts): (Seq, Facts),
        message: Message,
        (consumer, shard): (ConsumerId, u16),
        fx: &mut Effects,
    ) -> Box<Deliver> {
        self.stamp += 1;
        let stamp = self.stamp;
        let visibility_timeout = scene.topic.rules.visibility_timeout;
        let until = scene.now.mono.saturating_add(visibility_timeout);
        let place = Place::Flight { consumer, stamp, until };
        self.open.insert(seq, Open { facts, place });
        self.watch(until, seq);
        let attempts = self.failed(seq);
        if attempts > 0 {
            let (topic, group) = (message.topic.clone(), self.name.clone());
            fx.seen.push(Seen::Redelivered { topic, group });
        }
        Box::new(Deliver {
            shard,
            consumer,
            delivery: DeliveryId { seq, stamp },
            attempts,
            group: self.name.clone(),
            visibility_timeout,
            message,
        })
    }

    /// A consumer says how a hand-over ended. `true`: it acknowledged the message.
    pub(super) fn settle(
        &mut self,
        scene: &Scene<'_>,
        (consumer, delivery): (ConsumerId, DeliveryId),
        outcome: Settlement,
        dice: &mut fastrand::Rng,
        fx: &mut Effects,
    ) -> bool {
        let seq = delivery.seq;
        let Some(open) = self.open.get_mut(&seq) else {
            return false;
        };
        let facts = open.facts;
        match &mut open.place {
            Place::Flight {
                consumer: id,
                stamp,
                until,
            } if *id == consumer && *stamp == delivery.stamp => {
                if outcome == Settlement::Extend {
                    *until = scene.now.mono.saturating_add(scene.topic.rules.visibility_timeout);
                    let until = *until;
                    self.watch(until, seq);
                    return false;
                }
            }
            // Late: it is elsewhere by now.
            _ => return false,
        }
        self.consumers.free(consumer, facts.bytes);
        let mut acknowledged = false;
        match outcome {
            Settlement::Ack => {
                self.open.remove(&seq);
                self.end((seq, facts.key), None, Some(facts.bytes));
                fx.seen.push(Seen::Delivered {
                    topic: scene.topic.name.clone(),
                    group: self.name.clone(),
                    age: facts.accepted_at.age(scene.now.wall),
                });
                acknowledged = true;
            }
            Settlement::Nack { delay, reason } => {
                let failed = Failed {
                    seq,
                    facts,
                    error: reason,
                    delay,
                };
                self.fail(scene, failed, dice, fx);
            }
            Settlement::Terminate { reason } => {
                let mut doom = self.doom_of(scene, seq, "terminated", reason);
                doom.attempts += 1;
                self.doom(seq, facts, doom);
            }
            Settlement::Unavailable { pushback } => {
                let until = scene.now.mono.saturating_add(pushback.max(REST_MIN));
                self.consumers.rest(consumer, until);
                self.want(seq, facts);
            }
            Settlement::Extend => {}
        }
        self.go_on(scene, fx);
        acknowledged
    }

    /// Messages kept too long count as failed, and go elsewhere (M-B4).
    pub(super) fn take_overdue(&mut self, scene: &Scene<'_>, dice: &mut fastrand::Rng, fx: &mut Effects) {
        while let Some((until, seq)) = self
            .overdue
            .front()
            .copied()
            .filter(|(until, _)| *until <= scene.now.mono)
        {
            self.overdue.pop_front();
            let Some(Open { facts, place }) = self.open.get(&seq) else {
                continue;
            };
            let (
                facts,
                Place::Flight {
                    consumer,
                    stamp,
                    until: ends,
                },
            ) = (*facts, *place)
            else {
                continue;
            };
            if ends != until {
                continue;
            }
            if let Some(shard) = self.consumers.free(consumer, facts.bytes) {
                let delivery = DeliveryId { seq, stamp };
                fx.output(Output::Overdue {
                    shard,
                    consumer,
                    delivery,
                });
            }
            let error = "the consumer did not answer within the visibility timeout".to_owned();
            let failed = Failed {
                seq,
                facts,
                error,
                delay: None,
            };
            self.fail(scene, failed, dice, fx);
        }
    }

    fn watch(&mut self, until: Duration, seq: Seq) {
        if self.overdue.len() > 2 * self.consumers.in_flight() + OVERDUE_SPARE {
            let open = &self.open;
            self.overdue.retain(|(end, seq)| {
                let place = open.get(seq).map(|open| open.place);
                matches!(place, Some(Place::Flight { until, .. }) if until == *end)
            });
        }
        self.overdue.push_back((until, seq));
    }
}

/// A consumer that was not reached rests so long at least.
const REST_MIN: Duration = Duration::from_millis(10);
/// Void visibility timeouts that are kept before they are sorted out.
const OVERDUE_SPARE: usize = 64;
