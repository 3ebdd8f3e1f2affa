//! The story of a message that a local service publishes: check it, decide which units get it, hand it to the queue, tell
//! how far it came.
//!
//! # Invariants
//! - P1. A message that was handed over gets exactly one end: as far as its publisher wished, an error, or its time. What was
//!   accepted stays accepted, and the end says so with its id (M-A2).
//! - P2. What is refused here never reached the queue: publishing it again makes no duplicate.
//! - P3. Where a message goes is decided once, by the topic's rule, and goes with it to the queue (M-G4).
//!
//! # Not here
//! Whether disk and topic have room, duplicates, expiry (`queue`), how publishers speak (`ingress::messages`).

mod check;
#[cfg(test)]
mod tests;
mod times;
mod topics;
mod way;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use self::check::Checked;
use self::times::{limit, overdue, patience};
pub use self::topics::Catalog;
use crate::calls::{Calls, Limited};
use crate::control::claims::Claims;
use crate::model::{AckLevel, CallId, Key, Metadata, Place, Reason, RelayError, Retry, Topic, UnitId};
use crate::queue::api::{Input, Progress, Publish, Ticket};
use crate::queue::{self, CALLS_TOPIC};
use crate::routing;
use crate::wire::messages::PublishRequest;

/// What the story is made of.
pub struct PublisherParts {
    /// This unit and relay.
    pub place: Place,
    /// Number of the shard.
    pub shard: u16,
    /// The route table.
    pub routing: routing::Handle,
    /// The queue.
    pub queue: queue::Handle,
    /// Topics and units.
    pub catalog: Catalog,
    /// Knows who has keys that nothing else was decided about, if there is a route store.
    pub claims: Option<Claims>,
}

/// Messages that local services publish, on one shard.
pub struct Publishers {
    place: Place,
    shard: u16,
    routing: routing::Handle,
    queue: queue::Handle,
    catalog: RefCell<Rc<Catalog>>,
    claims: Option<Claims>,
    waits: Calls<Wait>,
    draining: Cell<bool>,
}

/// Who publishes. Must obey V2, as callers and callees do: it is never called from inside [`Publishers::publish`].
pub trait Publisher {
    /// The message has come as far as it was waited for, or will not.
    fn on_published(&self, id: u64, index: u64, end: Published);
}

/// Where the end of a publication goes.
#[derive(Clone)]
pub struct PublisherRef {
    /// The publisher's port.
    pub port: Rc<dyn Publisher>,
    /// The publisher's number there.
    pub id: u64,
    /// Which of its publications it is.
    pub index: u64,
}

/// How a publication ended.
#[derive(Debug)]
pub struct Published {
    /// How far the message came, if it was accepted.
    pub progress: Option<Progress>,
    /// Why not as far as it was waited for.
    pub error: Option<Box<RelayError>>,
}

/// A publication that is waited for.
struct Wait {
    back: PublisherRef,
    level: AckLevel,
    limit: Option<Instant>,
    progress: Option<Progress>,
}

/// A call that is stored for the unit that owns its key (C-P1, C-P2).
pub(super) struct Keep {
    /// The key.
    pub(super) key: Key,
    /// What it is, and its identity.
    pub(super) attributes: Metadata,
    /// All of it.
    pub(super) body: Bytes,
}

/// A message of the relay itself for one unit.
pub struct Tell {
    /// The unit.
    pub unit: UnitId,
    /// Its topic.
    pub topic: Topic,
    /// Its key.
    pub key: Key,
    /// Its attributes.
    pub attributes: Metadata,
    /// Its body.
    pub body: Bytes,
}

impl Publishers {
    /// The story of one shard.
    pub fn new(parts: PublisherParts) -> Rc<Self> {
        Rc::new(Self {
            place: parts.place,
            shard: parts.shard,
            routing: parts.routing,
            queue: parts.queue,
            catalog: RefCell::new(Rc::new(parts.catalog)),
            claims: parts.claims,
            waits: Calls::default(),
            draining: Cell::new(false),
        })
    }

    /// Puts other topics and units in force.
    pub fn reload(&self, catalog: Catalog) {
        self.catalog.replace(Rc::new(catalog));
    }

    /// Takes no new messages from now on (C-L1).
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Longest message that can be published, its attributes included.
    pub fn message_bytes_max(&self) -> usize {
        self.catalog.borrow().message_bytes_max()
    }

    /// Whether a topic is known here, for those that want its messages.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check_topic(&self, topic: &Topic) -> Result<(), RelayError> {
        let name = Bytes::copy_from_slice(topic.as_str().as_bytes());
        check_free(topic)?;
        self.catalog.borrow().find(&name).map(|_| ())
    }

    /// Ends publications whose time is over; runs as long as the shard.
    pub async fn watch(&self) {
        self.waits.watch(|id| self.on_overdue(id)).await;
    }

    /// Publications that are waited for.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// The story: check, route, hand over. `deadline` is when the publisher stops waiting. The end comes to `back`; the
    /// number is for [`forget`](Self::forget).
    ///
    /// # Errors
    /// Why the message was not handed over (P2).
    pub fn publish(
        &self,
        request: PublishRequest,
        deadline: Option<Instant>,
        back: PublisherRef,
    ) -> Result<u64, Box<RelayError>> {
        self.hand_over(request, deadline, back)
            .map_err(|error| Box::new(error.at(&self.place.unit, &self.place.relay)))
    }

    /// Stores a call for the unit that owns its key. Works while the relay drains: the call came before. The end comes to `back`.
    ///
    /// # Errors
    /// Why it was not handed over (P2).
    pub(super) fn keep(&self, kept: Keep, back: PublisherRef) -> Result<u64, Box<RelayError>> {
        let catalog = Rc::clone(&self.catalog.borrow());
        let known = catalog.find(&Bytes::from_static(CALLS_TOPIC.as_bytes()))?;
        let way = self.route(&known, Some(kept.key))?;
        let wait = Wait {
            back,
            level: AckLevel::Accepted,
            // Whoever waits has a limit of its own.
            limit: None,
            progress: None,
        };
        // Not a part of what was read.
        let key = way.key.map(|key| Key {
            dimension: Bytes::copy_from_slice(&key.dimension),
            key: Bytes::copy_from_slice(&key.key),
        });
        self.submit(wait, |ticket| Publish {
            ticket,
            topic: known.topic.clone(),
            key,
            attributes: kept.attributes,
            body: kept.body,
            units: way.units,
            routed: way.routed,
            unrouted: way.unrouted,
            patience: patience(None),
            deadline: None,
            wait: AckLevel::Accepted,
        })
    }

    /// Stores a message of the relay itself for one unit, whatever the rule of its topic. The end comes to `back`.
    ///
    /// # Errors
    /// Why it was not handed over (P2).
    pub fn tell(&self, told: Tell, back: PublisherRef) -> Result<u64, Box<RelayError>> {
        let wait = Wait {
            back,
            level: AckLevel::Accepted,
            limit: None,
            progress: None,
        };
        self.submit(wait, |ticket| Publish {
            ticket,
            topic: told.topic,
            key: Some(told.key),
            attributes: told.attributes,
            body: told.body,
            units: vec![told.unit],
            routed: 0,
            unrouted: None,
            patience: patience(None),
            deadline: None,
            wait: AckLevel::Accepted,
        })
    }

    fn submit(&self, wait: Wait, publish: impl FnOnce(Ticket) -> Publish) -> Result<u64, Box<RelayError>> {
        let CallId(number) = self.waits.insert(wait);
        let publish = publish(self.ticket(number));
        self.queue.publish(Box::new(publish)).inspect_err(|_| {
            self.waits.take(CallId(number));
        })?;
        Ok(number)
    }

    fn hand_over(
        &self,
        request: PublishRequest,
        deadline: Option<Instant>,
        back: PublisherRef,
    ) -> Result<u64, RelayError> {
        if self.draining.get() {
            let detail = "this relay is shutting down; publish at another relay of the unit";
            return Err(RelayError::new(Reason::Draining, Retry::Safe, detail));
        }
        let catalog = Rc::clone(&self.catalog.borrow());
        let known = catalog.find(&request.topic)?;
        check_free(&known.topic)?;
        let checked = Checked::new(request, &known)?;
        let way = self.route(&known, checked.key)?;
        let limit = limit(deadline, checked.wait_max);
        let wait = Wait {
            back,
            level: checked.wait,
            limit,
            progress: None,
        };
        let submitted = self.submit(wait, |ticket| Publish {
            ticket,
            topic: known.topic.clone(),
            key: way.key,
            attributes: checked.attributes,
            body: checked.body,
            units: way.units,
            routed: way.routed,
            unrouted: way.unrouted,
            patience: patience(limit),
            deadline: checked.deadline,
            wait: checked.wait,
        });
        submitted.map_err(|error| *error)
    }

    /// Nobody waits for this publication any more; the message stays.
    pub fn forget(&self, number: u64) {
        if self.waits.take(CallId(number)).is_some() {
            self.queue.send(Input::Forget(self.ticket(number)));
        }
    }

    /// The queue tells how far a message came.
    pub fn on_published(&self, ticket: Ticket, result: Result<Progress, Box<RelayError>>) {
        let id = CallId(ticket.number);
        match result {
            Ok(progress) => {
                let is_last = self.waits.with(id, |wait| {
                    let is_last = progress.last || progress.level >= wait.level;
                    wait.progress = Some(progress);
                    is_last
                });
                if is_last == Some(true)
                    && let Some(wait) = self.waits.take(id)
                {
                    wait.end(None);
                }
            }
            Err(error) => {
                if let Some(wait) = self.waits.take(id) {
                    let error = error.at(&self.place.unit, &self.place.relay);
                    wait.end(Some(Box::new(error)));
                }
            }
        }
    }

    fn on_overdue(&self, id: CallId) {
        let Some(wait) = self.waits.take(id) else { return };
        self.queue.send(Input::Forget(self.ticket(id.0)));
        let error = overdue(wait.level, wait.progress.as_ref());
        let error = error.at(&self.place.unit, &self.place.relay);
        wait.end(Some(Box::new(error)));
    }

    fn ticket(&self, number: u64) -> Ticket {
        Ticket {
            shard: self.shard,
            number,
        }
    }
}

impl Wait {
    fn end(self, error: Option<Box<RelayError>>) {
        let end = Published {
            progress: self.progress,
            error,
        };
        self.back.port.on_published(self.back.id, self.back.index, end);
    }
}

impl Limited for Wait {
    fn limit(&self) -> Option<Instant> {
        self.limit
    }
}

/// Calls that are kept are between relays.
fn check_free(topic: &Topic) -> Result<(), RelayError> {
    if topic.as_str() != CALLS_TOPIC {
        return Ok(());
    }
    let detail = format!("topic {topic} is for calls that relays keep for a unit that is away; use another topic");
    Err(RelayError::new(Reason::Policy, Retry::Never, detail))
}
