//! `Subscribe`: messages of a group as a stream, settled by what the consumer says in the other direction.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::{DefaultKey, Key};

use super::call::{Call, Kind};
use super::{Messages, bad, reply};
use crate::inbound::{IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX};
use crate::model::{CallerRef, Message, Name, RelayError, ReplyEvent};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Settlement};
use crate::wire::messages::{self, Attribute, MessageKey, Nack, Received, Say, Start, SubscribeRequest};

/// A subscription.
pub(super) struct Subscriber {
    pub(super) id: ConsumerId,
    /// It has been told to the client that the subscription is in force.
    in_force: bool,
    /// Number of the next delivery.
    next: u64,
    in_flight: BTreeMap<u64, DeliveryId>,
    /// Not written yet, because the client does not read as fast.
    waiting: VecDeque<Waiting>,
    /// Bytes that the client has not read, as far as is known.
    unread: usize,
    /// Since when something has waited.
    blocked: Option<Instant>,
}

struct Waiting {
    number: u64,
    timeout: Duration,
    content: Content,
}

enum Content {
    Whole(Box<Deliver>),
    /// Some of it is out.
    Rest(Bytes),
}

impl Subscriber {
    fn new(id: ConsumerId) -> Self {
        Self {
            id,
            in_force: false,
            next: 1,
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            unread: 0,
            blocked: None,
        }
    }

    /// What fits into the window.
    fn pump(&mut self, caller: &CallerRef, out: &crate::mailbox::Mailbox<(CallerRef, ReplyEvent)>, now: Instant) {
        while self.in_force && self.unread < WINDOW_BYTES {
            let Some(first) = self.waiting.front_mut() else {
                self.blocked = None;
                return;
            };
            if let Content::Whole(deliver) = &first.content {
                first.content = Content::Rest(reply::encode(true, &received(first.number, deliver)));
            }
            let Content::Rest(bytes) = &mut first.content else {
                return;
            };
            let chunk = bytes.split_to(bytes.len().min(WINDOW_BYTES - self.unread));
            let is_out = bytes.is_empty();
            self.unread += chunk.len();
            out.push((caller.clone(), ReplyEvent::Part(reply::more(chunk))));
            if is_out {
                self.waiting.pop_front();
            }
        }
        self.blocked.get_or_insert(now);
    }

    /// Takes a delivery out of those that wait, if none of it was written.
    fn take_unwritten(&mut self, number: u64) -> bool {
        let at = self
            .waiting
            .iter()
            .position(|one| one.number == number && matches!(one.content, Content::Whole(_)));
        at.and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// Takes out all that was not written, if the client has read nothing for half of the visibility timeout.
    fn give_up_waiting(&mut self, now: Instant) -> Vec<(DeliveryId, Duration)> {
        let timeout = self.waiting.front().map(|one| one.timeout);
        let (Some(timeout), Some(since)) = (timeout, self.blocked) else {
            return Vec::new();
        };
        if now.saturating_duration_since(since) < timeout / 2 {
            return Vec::new();
        }
        let (rest, unwritten): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|one| matches!(one.content, Content::Rest(_)));
        self.waiting = rest;
        let ids = unwritten.iter().filter_map(|one| self.in_flight.remove(&one.number));
        ids.map(|id| (id, timeout)).collect()
    }
}

impl Messages {
    /// The consumer says something.
    pub(super) fn on_said(&self, key: DefaultKey, message: Bytes) -> Result<(), RelayError> {
        let request: SubscribeRequest = messages::decode(message).map_err(|error| bad(error.to_string()))?;
        let say = request
            .request
            .ok_or_else(|| bad("a SubscribeRequest says one of start, ack, nack, terminate and extend"))?;
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(key) else { return Ok(()) };
        match (&mut call.kind, say) {
            (Kind::Subscribing, Say::Start(start)) => {
                let id = self.start(key, &start)?;
                call.kind = Kind::Consumer(Box::new(Subscriber::new(id)));
                Ok(())
            }
            (Kind::Subscribing, _) => Err(bad("the first request of Subscribe must be `start`")),
            (Kind::Consumer(_), Say::Start(_)) => {
                Err(bad("a stream has one `start`; subscribe to more on further streams"))
            }
            (Kind::Consumer(subscriber), say) => {
                self.settle(subscriber, say);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn start(&self, key: DefaultKey, start: &Start) -> Result<ConsumerId, RelayError> {
        let name = |what, text: &str| {
            Name::new(text).map_err(|error| bad(format!("the {what} of `start` is not a name: {error}")))
        };
        let (topic, group) = (name("topic", &start.topic)?, name("group", &start.group)?);
        self.parts.publishers.check_topic(&topic)?;
        let in_flight_max = match usize::try_from(start.in_flight_max).unwrap_or(usize::MAX) {
            0 => IN_FLIGHT_DEFAULT,
            wanted if wanted <= IN_FLIGHT_MAX => wanted,
            wanted => {
                return Err(bad(format!(
                    "in_flight_max is {wanted}, at most {IN_FLIGHT_MAX} are possible"
                )));
            }
        };
        let me = self.me.upgrade().ok_or_else(super::draining)?;
        let id = key.data().as_ffi();
        Ok(self.parts.consumers.subscribe((topic, group), in_flight_max, me, id))
    }

    fn settle(&self, subscriber: &mut Subscriber, say: Say) {
        let consumers = &self.parts.consumers;
        let consumer = subscriber.id;
        match say {
            Say::Ack(ack) => {
                for number in ack.deliveries {
                    if let Some(delivery) = subscriber.in_flight.remove(&number) {
                        consumers.settle(consumer, delivery, Settlement::Ack);
                    }
                }
            }
            Say::Nack(Nack {
                delivery,
                delay_ms,
                reason,
            }) => {
                if let Some(delivery) = subscriber.in_flight.remove(&delivery) {
                    let delay = delay_ms.map(Duration::from_millis);
                    let reason = clip(reason);
                    consumers.settle(consumer, delivery, Settlement::Nack { delay, reason });
                }
            }
            Say::Terminate(terminate) => {
                if let Some(delivery) = subscriber.in_flight.remove(&terminate.delivery) {
                    let reason = clip(terminate.reason);
                    consumers.settle(consumer, delivery, Settlement::Terminate { reason });
                }
            }
            Say::Extend(extend) => {
                if let Some(delivery) = subscriber.in_flight.get(&extend.delivery) {
                    consumers.settle(consumer, *delivery, Settlement::Extend);
                }
            }
            Say::Start(_) => {}
        }
    }

    /// The subscription is in force: initial metadata says so.
    pub(super) fn on_in_force(&self, key: DefaultKey) {
        self.with_subscriber(key, |call_head, caller, subscriber| {
            if !std::mem::replace(call_head, true) {
                self.out
                    .push((caller.clone(), ReplyEvent::Part(self.replies.head(true))));
            }
            subscriber.in_force = true;
            subscriber.pump(caller, &self.out, now());
        });
    }

    /// A message for a consumer.
    pub(super) fn on_delivery(&self, key: DefaultKey, deliver: Box<Deliver>) {
        self.with_subscriber(key, |_, caller, subscriber| {
            let number = subscriber.next;
            subscriber.next += 1;
            subscriber.in_flight.insert(number, deliver.delivery);
            subscriber.waiting.push_back(Waiting {
                number,
                timeout: deliver.visibility_timeout,
                content: Content::Whole(deliver),
            });
            subscriber.pump(caller, &self.out, now());
        });
    }

    /// A message is not the consumer's any more.
    pub(super) fn on_kept_too_long(&self, key: DefaultKey, delivery: DeliveryId) {
        self.with_subscriber(key, |_, _, subscriber| {
            let number = subscriber.in_flight.iter().find(|(_, id)| **id == delivery);
            if let Some(number) = number.map(|(number, _)| *number) {
                subscriber.in_flight.remove(&number);
                subscriber.take_unwritten(number);
            }
        });
    }

    /// The client has read.
    pub(super) fn on_reply_credit(&self, key: DefaultKey, bytes: usize) {
        let is_stream = {
            let mut calls = self.calls.borrow_mut();
            match calls.get_mut(key).map(|call| &mut call.kind) {
                Some(Kind::Stream(stream)) => {
                    stream.on_read(bytes);
                    true
                }
                _ => false,
            }
        };
        if is_stream {
            return self.on_room(key);
        }
        self.with_subscriber(key, |_, caller, subscriber| {
            subscriber.unread = subscriber.unread.saturating_sub(bytes);
            subscriber.blocked = None;
            subscriber.pump(caller, &self.out, now());
        });
    }

    /// Gives back what waits for clients that do not read: it never reached them, so it is no attempt (M3).
    pub(super) async fn watch_blocked(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = now();
            for call in self.calls.borrow_mut().values_mut() {
                let Kind::Consumer(subscriber) = &mut call.kind else {
                    continue;
                };
                for (delivery, timeout) in subscriber.give_up_waiting(now) {
                    let outcome = Settlement::Unavailable { pushback: timeout / 2 };
                    self.parts.consumers.settle(subscriber.id, delivery, outcome);
                }
            }
        }
    }

    fn with_subscriber(&self, key: DefaultKey, act: impl FnOnce(&mut bool, &CallerRef, &mut Subscriber)) {
        let mut calls = self.calls.borrow_mut();
        if let Some(Call {
            caller,
            has_head,
            kind: Kind::Consumer(subscriber),
            ..
        }) = calls.get_mut(key)
        {
            act(has_head, caller, subscriber);
        }
    }
}

fn received(number: u64, deliver: &Deliver) -> Received {
    let Message {
        id,
        topic,
        key,
        accepted_at,
        deadline,
        attributes,
        body,
        ..
    } = &deliver.message;
    let block = attributes.as_bytes();
    let attributes = attributes.iter().map(|(name, value)| Attribute {
        name: block.slice_ref(name),
        value: block.slice_ref(value),
    });
    Received {
        delivery: number,
        attempt: deliver.attempts.saturating_add(1),
        id: id.to_string(),
        topic: topic.to_string(),
        key: key.as_ref().map(|key| MessageKey {
            dimension: key.dimension.clone(),
            key: key.key.clone(),
        }),
        attributes: attributes.collect(),
        body: body.clone(),
        accepted_at_ms: accepted_at.0,
        expires_at_ms: deadline.map_or(0, |deadline| deadline.0),
        visibility_timeout_ms: u64::try_from(deliver.visibility_timeout.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Text of a consumer for dead letters.
fn clip(mut text: String) -> String {
    let end = (0..=TEXT_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Bytes of a reply that are on their way to a client.
const WINDOW_BYTES: usize = 256 * 1024;
/// How often clients that do not read are looked for.
const LOOK: Duration = Duration::from_millis(500);
const TEXT_MAX: usize = 1024;
