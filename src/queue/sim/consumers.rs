//! Consumers: most acknowledge; others fail, refuse, are silent or go away.

use std::collections::BTreeMap;
use std::time::Duration;

use super::relay::{groups, name, topics};
use super::{Event as WorldEvent, World};
use crate::queue::CALLS_TOPIC;
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Input, Settlement, Subscribe, Ticket};

#[derive(Default)]
pub(super) struct Consumers {
    last: u64,
    /// Relay, its life, topic and group of each.
    pub homes: BTreeMap<ConsumerId, (usize, u64, &'static str, &'static str)>,
    waiting: BTreeMap<u64, ConsumerId>,
}

#[derive(Debug)]
pub(super) enum Event {
    Come(usize, u64, &'static str, &'static str),
    Go(ConsumerId),
    Settle(ConsumerId, DeliveryId, u64, Settlement),
}

impl World {
    /// A relay has started: its consumers come again.
    pub(super) fn subscribe_all(&mut self, relay: usize) {
        let Some(life) = self.relays[relay].life_number() else {
            return;
        };
        for topic in topics(&self.plan) {
            for group in groups(topic) {
                for _ in 0..2 {
                    let time = self.dice.u64(1_000..300_000);
                    self.plan_in(time, WorldEvent::Consumer(Event::Come(relay, life, topic, group)));
                }
            }
        }
    }

    pub(super) fn on_consumer(&mut self, event: Event) {
        match event {
            Event::Come(relay, life, topic, group) => self.come(relay, life, topic, group),
            Event::Go(consumer) => {
                if let Some((relay, life, topic, group)) = self.consumers.homes.remove(&consumer) {
                    self.input(relay, life, Input::Unsubscribe(consumer));
                    let time = self.dice.u64(1_000..1_000_000);
                    self.plan_in(time, WorldEvent::Consumer(Event::Come(relay, life, topic, group)));
                }
            }
            Event::Settle(consumer, delivery, event, outcome) => {
                let Some((relay, life, topic, group)) = self.consumers.homes.get(&consumer).copied() else {
                    return;
                };
                if self.relays[relay].life_number() != Some(life) {
                    return;
                }
                self.ledger
                    .on_settled((relay, life, topic, group), (self.now, event), delivery, &outcome);
                let input = Input::Settle {
                    consumer,
                    delivery,
                    outcome,
                };
                self.input(relay, life, input);
            }
        }
    }

    fn come(&mut self, relay: usize, life: u64, topic: &'static str, group: &'static str) {
        if self.relays[relay].life_number() != Some(life) {
            return;
        }
        self.consumers.last += 1;
        self.tickets += 1;
        let consumer = ConsumerId(self.consumers.last);
        self.consumers.homes.insert(consumer, (relay, life, topic, group));
        self.consumers.waiting.insert(self.tickets, consumer);
        let subscribe = Subscribe {
            consumer,
            shard: 0,
            ticket: Ticket {
                shard: 0,
                number: self.tickets,
            },
            topic: name(topic),
            group: name(group),
            in_flight_max: self.dice.usize(1..20),
        };
        self.input(relay, life, Input::Subscribe(Box::new(subscribe)));
    }

    pub(super) fn on_subscribed(&mut self, ticket: Ticket, in_force: bool) {
        let consumer = self.consumers.waiting.remove(&ticket.number);
        if !in_force
            && let Some((relay, life, topic, group)) =
                consumer.and_then(|consumer| self.consumers.homes.remove(&consumer))
        {
            self.plan_in(500_000, WorldEvent::Consumer(Event::Come(relay, life, topic, group)));
        }
    }

    pub(super) fn on_deliver(&mut self, relay: usize, deliver: &Deliver) {
        let consumer = deliver.consumer;
        let Some((home, life, topic, group)) = self.consumers.homes.get(&consumer).copied() else {
            // It has just gone.
            return;
        };
        if home != relay || deliver.message.topic.as_str() != topic || deliver.group.as_str() != group {
            return self
                .ledger
                .blame(format!("a message came to the wrong consumer: {deliver:?}"));
        }
        let now = self.moment();
        let text = deliver
            .message
            .key
            .as_ref()
            .map(|key| String::from_utf8_lossy(&key.key).into_owned());
        self.ledger.owner = text.and_then(|key| self.true_owner(&key));
        let Some(event) =
            self.ledger
                .on_delivered((relay, life, topic, group), now.wall, &self.publishers.all, deliver)
        else {
            return;
        };
        if topic == CALLS_TOPIC {
            return self.make_call((relay, event), deliver);
        }
        let bad = deliver
            .message
            .key
            .as_ref()
            .is_some_and(|key| key.key.starts_with(b"bad"));
        let nack = |delay| Settlement::Nack {
            delay,
            reason: "no".to_owned(),
        };
        let outcome = match self.dice.u8(..100) {
            _ if self.calm => Some(Settlement::Ack),
            _ if bad => Some(nack(None)),
            0..6 => Some(nack(None)),
            6..8 => Some(nack(Some(Duration::from_millis(300)))),
            8..10 => Some(Settlement::Terminate {
                reason: "never".to_owned(),
            }),
            10..12 => None,
            12..14 => {
                self.plan_in(1, WorldEvent::Consumer(Event::Go(consumer)));
                None
            }
            14..16 => Some(Settlement::Unavailable {
                pushback: Duration::from_millis(50),
            }),
            _ => Some(Settlement::Ack),
        };
        if let Some(outcome) = outcome {
            self.settle_soon(deliver, event, outcome);
        }
    }

    /// A consumer says how a hand-over has ended.
    pub(super) fn settle_soon(&mut self, deliver: &Deliver, event: u64, outcome: Settlement) {
        let time = self.dice.u64(200..20_000);
        let settle = Event::Settle(deliver.consumer, deliver.delivery, event, outcome);
        self.plan_in(time, WorldEvent::Consumer(settle));
    }
}
