//! Who takes messages on one shard: the queue's thread knows numbers, here they have ports.
//!
//! # Invariants
//! - K1. A consumer hears nothing after `unsubscribe`, and nothing after a subscription that was refused.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::model::{GroupName, Map, RelayError, Topic};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Input, Settlement, Subscribe, Ticket};
use crate::queue::{self};

/// Takes messages of a group. `id` is the number it gave itself. Never called from inside a method of [`Consumers`] that
/// it executes, as callers and callees do it (V2).
pub trait Consumer {
    /// The subscription is in force, or is not.
    fn on_subscribed(&self, id: u64, result: Result<(), Box<RelayError>>);
    /// A message; to be settled by [`Consumers::settle`].
    fn on_deliver(&self, id: u64, deliver: Box<Deliver>);
    /// A message was kept too long; it may be elsewhere by now (M-B4).
    fn on_overdue(&self, id: u64, delivery: DeliveryId);
}

/// A consumer, and the number it goes by there.
type Port = (Rc<dyn Consumer>, u64);

/// The consumers of one shard.
pub struct Consumers {
    queue: queue::Handle,
    shard: u16,
    next: Cell<u64>,
    ports: RefCell<Map<ConsumerId, Port>>,
}

impl Consumers {
    /// None yet.
    pub fn new(queue: queue::Handle, shard: u16) -> Rc<Self> {
        Rc::new(Self {
            queue,
            shard,
            next: Cell::new(0),
            ports: RefCell::default(),
        })
    }

    /// Wants messages of a group, `in_flight_max` at a time; they come to `port` with its number `id`.
    pub fn subscribe(
        &self,
        (topic, group): (Topic, GroupName),
        in_flight_max: usize,
        port: Rc<dyn Consumer>,
        id: u64,
    ) -> ConsumerId {
        let number = self.next.get();
        self.next.set(number + 1);
        // Unlike among all shards of the process.
        let consumer = ConsumerId(u64::from(self.shard) << 48 | number);
        self.ports.borrow_mut().insert(consumer, (port, id));
        self.queue.send(Input::Subscribe(Box::new(Subscribe {
            consumer,
            shard: self.shard,
            ticket: Ticket {
                shard: self.shard,
                number: consumer.0,
            },
            topic,
            group,
            in_flight_max,
        })));
        consumer
    }

    /// Wants none any more; what it has goes to others.
    pub fn unsubscribe(&self, consumer: ConsumerId) {
        if self.ports.borrow_mut().remove(&consumer).is_some() {
            self.queue.send(Input::Unsubscribe(consumer));
        }
    }

    /// Is done with a message, or wants more time.
    pub fn settle(&self, consumer: ConsumerId, delivery: DeliveryId, outcome: Settlement) {
        self.queue.send(Input::Settle {
            consumer,
            delivery,
            outcome,
        });
    }

    /// Consumers there are.
    pub fn len(&self) -> usize {
        self.ports.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ports.borrow().is_empty()
    }

    /// The queue answers a subscription.
    pub fn on_subscribed(&self, ticket: Ticket, result: Result<(), Box<RelayError>>) {
        let consumer = ConsumerId(ticket.number);
        let port = if result.is_ok() {
            self.port(consumer)
        } else {
            self.ports.borrow_mut().remove(&consumer)
        };
        if let Some((port, id)) = port {
            port.on_subscribed(id, result);
        }
    }

    /// The queue has a message for a consumer.
    pub fn on_deliver(&self, deliver: Box<Deliver>) {
        if let Some((port, id)) = self.port(deliver.consumer) {
            port.on_deliver(id, deliver);
        }
    }

    /// A consumer has kept a message too long.
    pub fn on_overdue(&self, consumer: ConsumerId, delivery: DeliveryId) {
        if let Some((port, id)) = self.port(consumer) {
            port.on_overdue(id, delivery);
        }
    }

    fn port(&self, consumer: ConsumerId) -> Option<(Rc<dyn Consumer>, u64)> {
        self.ports.borrow().get(&consumer).cloned()
    }
}
