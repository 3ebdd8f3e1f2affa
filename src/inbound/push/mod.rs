//! Hands messages to services as unary calls, whose reply is the settlement: groups with `push` in the settings, and
//! consumers that registered on a framed connection.
//!
//! # Path
//! `queue` -> [`Consumers`] -> here -> `delivery` (or the connection that registered) -> back -> [`Consumers::settle`]
//!
//! # Invariants
//! - U1. Each message that was handed over is settled once: by the reply, by its failure, or by the visibility timeout, which is
//!   the deadline of the call. After an unsubscription nothing is settled: the queue has given it to others.
//! - U2. What never reached the service is no attempt (`Unavailable`), and the line pauses.
//! - U3. Each declared group has one line in the relay, on the shard that the hash of its name says.
//!
//! # Not here
//! How often and when a message comes again (`queue`), which endpoint gets it (`delivery`).

mod call;
mod declared;
mod verdict;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::{DefaultKey, Key as _, KeyData, SlotMap};

use self::declared::Declared;
use self::verdict::Answer;
use super::consumers::{Consumer, Consumers};
use crate::calls::{Calls, Limited};
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Endpoint, GroupName, Name, Place, Registration, RelayError,
    ReplyEvent, RequestEvent, SubscribeError, SubscribedFn, Subscription, Subscriptions, Topic, wants_credit,
};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Settlement};
use crate::queue::{TopicSettings, Topics};
use crate::wire::messages::RECEIVE;

/// What the pushers of one shard are made of.
pub struct PushParts {
    /// This unit and relay.
    pub place: Place,
    /// Where messages come from.
    pub consumers: Rc<Consumers>,
    /// Hands calls to services.
    pub delivery: Rc<dyn Callee>,
    /// Number of the shard and of all shards.
    pub shard: (usize, usize),
    /// Topics in force.
    pub topics: std::sync::Arc<Topics>,
}

/// The pushers of one shard.
pub struct Push {
    place: Place,
    consumers: Rc<Consumers>,
    delivery: Rc<dyn Callee>,
    shard: (usize, usize),
    topics: RefCell<std::sync::Arc<Topics>>,
    lines: RefCell<SlotMap<DefaultKey, Rc<Line>>>,
    declared: RefCell<Declared>,
    calls: Calls<Open>,
    replies: Mailbox<(CallId, ReplyEvent)>,
    draining: Cell<bool>,
    me: Weak<Self>,
}

/// A consumer that is called.
struct Line {
    consumer: Cell<Option<ConsumerId>>,
    topic: Topic,
    group: GroupName,
    target: Rc<dyn Callee>,
    path: Bytes,
    /// Whoever waits until the subscription is in force.
    told: Cell<Option<SubscribedFn>>,
}

/// A message at a service.
struct Open {
    line: DefaultKey,
    delivery: DeliveryId,
    target: Rc<dyn Callee>,
    id: CallId,
    deadline: Option<Instant>,
    answer: Answer,
}

impl Push {
    /// The pushers of one shard, with those of the settings.
    pub fn new(parts: PushParts) -> Rc<Self> {
        let push = Rc::new_cyclic(|me| Self {
            place: parts.place,
            consumers: parts.consumers,
            delivery: parts.delivery,
            shard: parts.shard,
            topics: RefCell::new(std::sync::Arc::clone(&parts.topics)),
            lines: RefCell::default(),
            declared: RefCell::default(),
            calls: Calls::default(),
            replies: Mailbox::new(),
            draining: Cell::new(false),
            me: me.clone(),
        });
        push.reload(parts.topics);
        push
    }

    /// Puts other topics in force: pushers that left end, new ones begin.
    pub fn reload(&self, topics: std::sync::Arc<Topics>) {
        let (gone, new) = self.declared.borrow_mut().change(&topics, self.shard);
        self.topics.replace(topics);
        for line in gone {
            self.end(line);
        }
        for push in new {
            let path = Bytes::from(format!("/{}/{}", push.service, push.method));
            let place = (push.topic.clone(), push.group.clone());
            let line = self.begin(place, push.in_flight_max, Rc::clone(&self.delivery), path, None);
            self.declared.borrow_mut().began(push, line);
        }
    }

    /// Hands replies on and ends calls whose time is over; runs as long as the shard.
    pub async fn run(&self) {
        let replies = async {
            loop {
                self.replies.some().await;
                while let Some((id, event)) = self.replies.pop() {
                    self.on_event(id, event);
                }
            }
        };
        tokio::join!(self.calls.watch(|id| self.on_late(id)), replies);
    }

    /// Takes no further messages; those at services are waited for (C-L1).
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Messages at services.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    fn begin(
        &self,
        (topic, group): (Topic, GroupName),
        in_flight_max: usize,
        target: Rc<dyn Callee>,
        path: Bytes,
        told: Option<SubscribedFn>,
    ) -> DefaultKey {
        let line = Rc::new(Line {
            consumer: Cell::new(None),
            topic: topic.clone(),
            group: group.clone(),
            target,
            path,
            told: Cell::new(told),
        });
        let key = self.lines.borrow_mut().insert(Rc::clone(&line));
        if let Some(me) = self.me.upgrade() {
            let id = key.data().as_ffi();
            let consumer = self.consumers.subscribe((topic, group), in_flight_max, me, id);
            line.consumer.set(Some(consumer));
        }
        key
    }

    fn end(&self, key: DefaultKey) {
        let line = self.lines.borrow_mut().remove(key);
        if let Some(consumer) = line.and_then(|line| line.consumer.take()) {
            self.consumers.unsubscribe(consumer);
        }
    }

    fn on_event(&self, id: CallId, event: ReplyEvent) {
        match event {
            ReplyEvent::Part(part) => {
                let (bytes, end) = (part.body.0.len(), part.end.is_some());
                let done = self.calls.with(id, |open| {
                    if wants_credit(bytes, end) && !end {
                        open.target.on_request(open.id, RequestEvent::Credit(bytes));
                    }
                    open.answer.on_part(part)
                });
                if let Some(Some(settlement)) = done {
                    self.settle(id, settlement);
                }
            }
            ReplyEvent::Failed(error) => self.settle(id, verdict::of_error(&error)),
            // The whole message went with the request.
            ReplyEvent::Credit(_) => {}
        }
    }

    fn settle(&self, id: CallId, outcome: Settlement) {
        let Some(open) = self.calls.take(id) else { return };
        self.settle_at(open.line, open.delivery, outcome);
    }

    fn settle_at(&self, line: DefaultKey, delivery: DeliveryId, outcome: Settlement) {
        let consumer = self.lines.borrow().get(line).and_then(|line| line.consumer.get());
        if let Some(consumer) = consumer {
            self.consumers.settle(consumer, delivery, outcome);
        }
    }

    fn on_late(&self, id: CallId) {
        let late = self.calls.with(id, |open| (Rc::clone(&open.target), open.id));
        if let Some((target, callee_id)) = late {
            target.on_request(callee_id, RequestEvent::Cancel(CancelReason::Deadline));
            let reason = "no answer within the visibility timeout".to_owned();
            self.settle(id, Settlement::Nack { delay: None, reason });
        }
    }

    fn hand_over(&self, key: DefaultKey, line: &Line, deliver: Deliver) {
        let now = tokio::time::Instant::now().into_std();
        let delivery = deliver.delivery;
        let deadline = now.checked_add(deliver.visibility_timeout);
        let request = match call::request(&line.path, deliver, &self.place, (now, deadline)) {
            Ok(request) => request,
            Err(reason) => return self.settle_at(key, delivery, Settlement::Terminate { reason }),
        };
        let Some(me) = self.me.upgrade() else { return };
        let id = self.calls.insert(Open {
            line: key,
            delivery,
            target: Rc::clone(&line.target),
            id: CallId(0),
            deadline,
            answer: Answer::default(),
        });
        match line.target.open(Box::new(request), CallerRef { port: me, id }) {
            Ok(callee_id) => {
                self.calls.with(id, |open| open.id = callee_id);
            }
            Err(refused) => self.settle(id, verdict::of_error(&refused.error)),
        }
    }
}

impl Consumer for Push {
    fn on_subscribed(&self, id: u64, result: Result<(), Box<RelayError>>) {
        let Err(error) = result else {
            let told = self.lines.borrow().get(key(id)).and_then(|line| line.told.take());
            if let Some(told) = told {
                told(Ok(()));
            }
            return;
        };
        let line = self.lines.borrow_mut().remove(key(id));
        if let Some(line) = line {
            line.consumer.take();
            if let Some(told) = line.told.take() {
                return told(Err(error.detail));
            }
            tracing::warn!(
                %error, topic = %line.topic, group = %line.group,
                "the queue refused a subscription; its messages are not pushed"
            );
        }
    }

    fn on_deliver(&self, id: u64, deliver: Box<Deliver>) {
        let line = self.lines.borrow().get(key(id)).cloned();
        let Some(line) = line else { return };
        if self.draining.get() {
            let outcome = Settlement::Unavailable { pushback: DRAIN_PAUSE };
            return self.settle_at(key(id), deliver.delivery, outcome);
        }
        self.hand_over(key(id), &line, *deliver);
    }

    /// The deadline of the call is the same moment (U1).
    fn on_overdue(&self, _: u64, _: DeliveryId) {}
}

impl Caller for Push {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.replies.push((id, event));
    }
}

impl Subscriptions for Push {
    fn subscribe(
        &self,
        wanted: &Subscription,
        endpoint: Rc<dyn Endpoint>,
        told: SubscribedFn,
    ) -> Result<Registration, SubscribeError> {
        let name = |what, text: &str| Name::new(text).map_err(|source| SubscribeError::Name { what, source });
        let topic = name("topic", &wanted.topic)?;
        let group = name("group", &wanted.group)?;
        if TopicSettings::of(&self.topics.borrow(), &topic).is_none() {
            return Err(SubscribeError::UnknownTopic(topic));
        }
        if self.draining.get() {
            return Err(SubscribeError::Draining);
        }
        let in_flight_max = match wanted.in_flight_max {
            0 => IN_FLIGHT_DEFAULT,
            wanted => wanted.min(IN_FLIGHT_MAX),
        };
        let path = Bytes::from_static(RECEIVE.as_bytes());
        let key = self.begin((topic, group), in_flight_max, endpoint, path, Some(told));
        let push = self.me.clone();
        Ok(Registration::new(move || {
            if let Some(push) = push.upgrade() {
                push.end(key);
            }
        }))
    }
}

impl Limited for Open {
    fn limit(&self) -> Option<Instant> {
        self.deadline
    }
}

fn key(id: u64) -> DefaultKey {
    KeyData::from_ffi(id).into()
}

/// Messages of a consumer that says nothing.
pub const IN_FLIGHT_DEFAULT: usize = 64;
/// Messages a consumer can have.
pub const IN_FLIGHT_MAX: usize = 4096;
/// Longer than a drain lasts.
const DRAIN_PAUSE: Duration = Duration::from_secs(60);
