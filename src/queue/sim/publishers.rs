//! Services that publish, and what they were told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::relay::{name, topics, unit};
use super::{Event, World};
use crate::model::{AckLevel, Key, MessageId, MetadataBuilder, Reason, RelayError, Retry};
use crate::queue::api::{Input, Progress, Publish, Ticket};
use crate::queue::{CALLS_TOPIC, TopicRule};

#[derive(Default)]
pub(super) struct Publishers {
    pub all: Vec<Published>,
    by_ticket: BTreeMap<u64, usize>,
    calls: u64,
    /// Of each key of a topic at a relay: which publications were accepted, in the order of publishing, as which message.
    orders: BTreeMap<(usize, &'static str, String), BTreeMap<u64, MessageId>>,
}

/// An event as its producer knows it.
#[derive(Debug)]
pub(super) struct Published {
    pub relay: usize,
    pub topic: &'static str,
    pub key: Option<String>,
    pub units: Vec<usize>,
    /// Its key can move: it goes to whoever owns it.
    pub moves: bool,
    /// Microseconds since the start.
    pub at: u64,
    /// What the producer was told at first,
    pub accepted: Option<MessageId>,
    /// and when that its unit has it.
    pub relayed: Option<u64>,
    /// The call that it is, by the id of its caller.
    pub call: Option<u64>,
    level: Option<AckLevel>,
    wait: AckLevel,
}

impl Publishers {
    fn new_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// Messages of a key are accepted in the order in which they were published (M-C1).
    fn out_of_order(&mut self, relay: usize, ticket: u64, event: usize, id: &MessageId) -> Option<String> {
        let published = &self.all[event];
        let key = published.key.clone()?;
        let accepted = self.orders.entry((relay, published.topic, key)).or_default();
        accepted.insert(ticket, id.clone());
        let same_life = |(_, other): &(&u64, &MessageId)| other.epoch == id.epoch;
        let before = accepted.range(..ticket).rev().find(same_life);
        let after = accepted.range(ticket + 1..).find(same_life);
        let wrong = before.filter(|(_, other)| other.number > id.number);
        let wrong = wrong.or(after.filter(|(_, other)| other.number < id.number));
        wrong.map(|(other, as_which)| {
            format!("publication {ticket} was accepted as {id}, {other} of the same key as {as_which} (M-C1)")
        })
    }
}

impl World {
    pub(super) fn publish_some(&mut self) {
        if self.calm {
            return;
        }
        let bursts = if self.plan.harsh { 3 } else { 1 };
        let burst = if self.dice.u8(..30) < bursts {
            self.dice.usize(10..80)
        } else {
            1
        };
        // More at once than a topic may have makes it drop its oldest.
        let topic = (burst > 1 && self.plan.harsh && self.dice.bool()).then_some("small");
        for _ in 0..burst {
            let old = self.publishers.all.len();
            if old > 0 && self.dice.u8(..10) == 0 {
                // An answer was lost, or the producer is in doubt.
                let again = self.dice.usize(old.saturating_sub(200)..old);
                self.publish(again);
            } else if let Some(new) = self.make_event(topic) {
                self.publish(new);
            }
        }
        let time = self.dice.u64(2_000..60_000);
        self.plan_in(time, Event::Publish);
    }

    fn make_event(&mut self, topic: Option<&'static str>) -> Option<usize> {
        let relay = self.dice.usize(..self.relays.len());
        self.relays[relay].life.as_ref()?;
        let any = *self.dice.choice(topics(&self.plan))?;
        let calls = self.plan.outages && self.dice.u8(..4) == 0;
        let topic = topic.unwrap_or(if calls { CALLS_TOPIC } else { any });
        if topic == CALLS_TOPIC
            && let Some(again) = self.call_again(relay)
        {
            return Some(again);
        }
        let number = self.dice.usize(..12);
        let kind = match (topic, self.dice.u8(..8)) {
            ("poison" | "block", 0..4) | (CALLS_TOPIC, 0) => "bad",
            ("orders", 0) => "odd",
            _ => "key",
        };
        let is_call = topic == CALLS_TOPIC;
        let keyed = topic == "orders" || is_call || self.dice.u8(..5) > 0;
        let key = keyed.then(|| format!("{kind}-{number}"));
        let relays = self.relays.len();
        let rule = self.relays[relay].setup.topics[topic].rule;
        let units = match rule {
            TopicRule::All | TopicRule::Units => (0..relays).collect(),
            TopicRule::Local => vec![relay],
            TopicRule::Owner => vec![number % relays],
        };
        let call = is_call.then(|| self.publishers.new_call());
        self.publishers.all.push(Published {
            relay,
            topic,
            key,
            units,
            moves: rule == TopicRule::Owner && kind != "odd" && keyed,
            at: self.now,
            accepted: None,
            relayed: None,
            call,
            level: None,
            wait: *self.dice.choice(&[
                AckLevel::Accepted,
                AckLevel::Accepted,
                AckLevel::Relayed,
                AckLevel::Delivered,
            ])?,
        });
        Some(self.publishers.all.len() - 1)
    }

    /// A caller that heard nothing makes a call of the last ones again, at this relay: that keeps it, too.
    fn call_again(&mut self, relay: usize) -> Option<usize> {
        if self.dice.u8(..6) > 0 {
            return None;
        }
        let all = &self.publishers.all;
        let last = &all[all.len().saturating_sub(100)..];
        let is_there = |call| all.iter().any(|other| other.call == call && other.relay == relay);
        let calls = last.iter().filter(|of| of.call.is_some() && !is_there(of.call));
        let calls: Vec<&Published> = calls.collect();
        let before = *self.dice.choice(&calls)?;
        let again = Published {
            relay,
            key: before.key.clone(),
            units: before.units.clone(),
            at: self.now,
            accepted: None,
            relayed: None,
            level: None,
            ..*before
        };
        self.publishers.all.push(again);
        Some(self.publishers.all.len() - 1)
    }

    fn publish(&mut self, event: usize) {
        let bytes = self.dice.usize(1..400);
        let published = &self.publishers.all[event];
        let relay = published.relay;
        let key = published.key.as_ref().filter(|_| published.moves);
        let owner = key.and_then(|key| self.relays[relay].view.owner(key));
        let unrouted = owner.is_some() && self.dice.u8(..4) == 0;
        let (units, routed) = match owner {
            Some(_) if unrouted => (Vec::new(), 0),
            Some((owner, epoch, _)) => (vec![unit(owner)], epoch),
            None => (published.units.iter().copied().map(unit).collect(), 0),
        };
        let unrouted = unrouted.then(|| Box::new(RelayError::new(Reason::RoutesAway, Retry::Safe, "no owner yet")));
        let Some(life) = self.relays[relay].life_number() else {
            return;
        };
        self.tickets += 1;
        let mut attributes = MetadataBuilder::new();
        let (source, id) = match published.call {
            Some(call) => (format!("strait.calls/{:?}", published.key), call.to_string()),
            None => (format!("/producer/{relay}"), event.to_string()),
        };
        attributes.push(b"source", source.as_bytes()).unwrap();
        attributes.push(b"id", id.as_bytes()).unwrap();
        let publish = Publish {
            ticket: Ticket {
                shard: 0,
                number: self.tickets,
            },
            topic: name(published.topic),
            key: published.key.as_ref().map(|key| Key {
                dimension: Bytes::from_static(b"key"),
                key: Bytes::copy_from_slice(key.as_bytes()),
            }),
            attributes: attributes.build(),
            body: Bytes::from(format!("{event} {}", "x".repeat(bytes))),
            units,
            routed,
            unrouted,
            patience: Duration::from_secs(5),
            deadline: None,
            wait: published.wait,
        };
        self.publishers.by_ticket.insert(self.tickets, event);
        self.publishers.all[event].level = None;
        self.input(relay, life, Input::Publish(Box::new(publish)));
    }

    pub(super) fn on_published(&mut self, relay: usize, ticket: Ticket, progress: Option<Progress>) {
        let Some(event) = self.publishers.by_ticket.get(&ticket.number).copied() else {
            return self.ledger.blame(format!("relay {relay} answers nobody: {ticket:?}"));
        };
        let published = &mut self.publishers.all[event];
        let Some(progress) = progress else {
            return;
        };
        match &published.accepted {
            None => published.accepted = Some(progress.id.clone()),
            Some(first) if *first == progress.id => {}
            Some(first) => {
                let text = format!("event {event} was accepted as {first}, then as {} (M-B3)", progress.id);
                return self.ledger.blame(text);
            }
        }
        if !progress.duplicate {
            if let Some(wrong) = self.publishers.out_of_order(relay, ticket.number, event, &progress.id) {
                self.ledger.blame(wrong);
            }
            let published = &mut self.publishers.all[event];
            let in_order = published.level.is_none_or(|level| level < progress.level);
            if !in_order || progress.level > published.wait {
                let text = format!(
                    "event {event} was told {:?} after {:?} (W1)",
                    progress.level, published.level
                );
                self.ledger.blame(text);
            }
            published.level = Some(progress.level);
            match progress.level {
                AckLevel::Accepted => {}
                AckLevel::Relayed => published.relayed = Some(self.now),
                // That it was delivered was heard before that it came: on another lane, which does not end it (O4 of `outbox`).
                AckLevel::Delivered => _ = published.relayed.take_if(|at| *at == self.now),
            }
        }
    }
}
