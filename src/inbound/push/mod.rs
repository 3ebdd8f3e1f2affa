//! Hands messages to services as unary calls, whose reply is the settlement: groups with `push` in the settings, and
//! consumers that registered on a framed connection. Calls that other relays kept for this unit are messages too; those it makes.
//!
//! # Path
//! `queue` -> [`Consumers`] -> here -> `delivery` (or the connection that registered; `outbound` for kept calls) -> back ->
//! [`Consumers::settle`]
//!
//! # Invariants
//! - U1. Each message that was handed over is settled once: by the reply, by its failure, or by the visibility timeout, which is
//!   the deadline of the call. After an unsubscription nothing is settled: the queue has given it to others.
//! - U2. What never reached the service is no attempt (`Unavailable`), and the line pauses.
//! - U3. Each declared group has one line in the relay, on the shard that the hash of its name says.
//! - U4. A kept call that is refused is settled when the unit that kept it is told, on disk, or nobody wants to know.
//!
//! # Not here
//! How often and when a message comes again (`queue`), which endpoint gets it (`delivery`).

mod call;
mod declared;
mod notice;
mod replay;
#[cfg(test)]
mod tests;
mod verdict;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::{DefaultKey, Key as _, KeyData, SlotMap};

pub use self::notice::Notice;

use self::declared::Declared;
use self::replay::Called;
use self::verdict::Answer;
use super::consumers::{Consumer, Consumers};
use crate::calls::{Calls, Limited};
use crate::mailbox::Mailbox;
use crate::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Endpoint, GroupName, Name, Place, Registration, RelayError,
    ReplyEvent, RequestEvent, SubscribeError, SubscribedFn, Subscription, Subscriptions, Topic, wants_credit,
};
use crate::queue::api::{ConsumerId, Deliver, DeliveryId, Settlement};
use crate::queue::{self, CALLS_TOPIC, TopicSettings, Topics};
use crate::telemetry::kept::{KeptSeries, ReplayOutcome};
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
    replays: RefCell<Option<Replays>>,
    me: Weak<Self>,
}

/// A consumer that is called.
struct Line {
    consumer: Cell<Option<ConsumerId>>,
    topic: Topic,
    group: GroupName,
    target: Rc<dyn Callee>,
    form: Form,
    /// Whoever waits until the subscription is in force.
    told: Cell<Option<SubscribedFn>>,
}

/// What a message is made into.
#[derive(Clone)]
enum Form {
    /// The call that was kept.
    Kept,
    /// A call of this path that hands it over.
    Message(Bytes),
}

/// Where calls are made that were kept for this unit.
struct Replays {
    callee: Rc<dyn Callee>,
    series: KeptSeries,
    notices: Rc<dyn Notices>,
    line: Option<DefaultKey>,
}

/// Tells units what became of calls that they kept.
pub trait Notices {
    /// Stores a notice; says when it is on disk, or why it is not. May do so at once.
    fn tell(&self, notice: Notice, told: ToldFn);
}

/// Hears that a notice is on disk, or why it is not.
pub type ToldFn = Box<dyn FnOnce(Result<(), Box<RelayError>>)>;

/// A message at a service.
struct Open {
    line: DefaultKey,
    delivery: DeliveryId,
    target: Rc<dyn Callee>,
    id: CallId,
    deadline: Option<Instant>,
    answer: Answer,
    /// Which call it is, if one that was kept.
    kept: Option<Called>,
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
            replays: RefCell::default(),
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
            let form = Form::Message(path);
            let line = self.begin(place, push.in_flight_max, Rc::clone(&self.delivery), form, None);
            self.declared.borrow_mut().began(push, line);
        }
        self.take_kept();
    }

    /// From now on calls that were kept for this unit are made, by `callee`. One shard does so (U3).
    pub fn replay_to(&self, callee: Rc<dyn Callee>, notices: Rc<dyn Notices>, series: KeptSeries) {
        let replays = Replays {
            callee,
            series,
            notices,
            line: None,
        };
        self.replays.replace(Some(replays));
        self.take_kept();
    }

    /// Takes them, if the topic is there and they are this shard's.
    fn take_kept(&self) {
        let group = queue::calls_group();
        let Ok(topic) = Topic::new(CALLS_TOPIC) else { return };
        let is_there = self.topics.borrow().contains_key(CALLS_TOPIC);
        if !is_there || !declared::is_ours(&topic, &group, self.shard) {
            return;
        }
        let callee = match &*self.replays.borrow() {
            Some(Replays { callee, line: None, .. }) => Rc::clone(callee),
            _ => return,
        };
        let line = self.begin((topic, group), KEPT_IN_FLIGHT, callee, Form::Kept, None);
        if let Some(replays) = &mut *self.replays.borrow_mut() {
            replays.line = Some(line);
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
        form: Form,
        told: Option<SubscribedFn>,
    ) -> DefaultKey {
        let line = Rc::new(Line {
            consumer: Cell::new(None),
            topic: topic.clone(),
            group: group.clone(),
            target,
            form,
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
                    open.answer.on_part(part).map(|ended| (ended, open.kept.clone()))
                });
                match done {
                    Some(Some((ended, None))) => self.settle(id, ended.settle()),
                    Some(Some((ended, Some(called)))) => {
                        let code = ended.code();
                        self.settle_kept(id, &code, replay::settle(ended, &called.name));
                    }
                    _ => {}
                }
            }
            ReplyEvent::Failed(error) => self.settle_error(id, &error),
            // The whole message went with the request.
            ReplyEvent::Credit(_) => {}
        }
    }

    fn settle_error(&self, id: CallId, error: &RelayError) {
        match self.calls.with(id, |open| open.kept.clone()).flatten() {
            None => self.settle(id, verdict::of_error(error)),
            Some(called) => {
                let settled = replay::of_error(error, &called.name);
                self.settle_kept(id, error.reason.as_str(), settled);
            }
        }
    }

    fn settle_kept(&self, id: CallId, code: &str, (settlement, outcome): (Settlement, ReplayOutcome)) {
        let notices = self.replays.borrow().as_ref().map(|replays| {
            replays.series.on_replayed(outcome);
            Rc::clone(&replays.notices)
        });
        let wanted = self.calls.with(id, |open| open.kept.as_mut()?.wanted.take()).flatten();
        let reason = match &settlement {
            Settlement::Terminate { reason } => Some(reason.clone()),
            _ => None,
        };
        let (Some(wanted), Some(notices), Some(reason)) = (wanted, notices, reason) else {
            return self.settle(id, settlement);
        };
        let Ok(notice) = wanted.refused(&self.place.unit, code, &reason) else {
            return self.settle(id, settlement);
        };
        let me = self.me.clone();
        let told: ToldFn = Box::new(move |result| {
            if let Err(error) = &result {
                tracing::warn!(%error, "a unit was not told that a call it kept was refused");
            }
            if let Some(me) = me.upgrade() {
                me.settle(
                    id,
                    replay::told(reason, result.as_ref().copied().map_err(|error| &**error)),
                );
            }
        });
        notices.tell(notice, told);
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
        let late = self
            .calls
            .with(id, |open| (Rc::clone(&open.target), open.id, open.kept.clone()));
        if let Some((target, callee_id, kept)) = late {
            target.on_request(callee_id, RequestEvent::Cancel(CancelReason::Deadline));
            if let Some(called) = kept {
                return self.settle_kept(id, "late", replay::late(&called.name));
            }
            let reason = "no answer within the visibility timeout".to_owned();
            self.settle(id, Settlement::Nack { delay: None, reason });
        }
    }

    fn hand_over(&self, key: DefaultKey, line: &Line, deliver: Deliver) {
        let now = tokio::time::Instant::now().into_std();
        let delivery = deliver.delivery;
        let deadline = now.checked_add(deliver.visibility_timeout);
        let made = match &line.form {
            Form::Message(path) => {
                let request = call::request(path, deliver, &self.place, (now, deadline));
                request.map(|request| (request, None))
            }
            Form::Kept => {
                let call = replay::request(deliver, (now, deadline));
                call.map(|(request, called)| (request, Some(called)))
            }
        };
        let (request, kept) = match made {
            Ok(made) => made,
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
            kept,
        });
        match line.target.open(Box::new(request), CallerRef { port: me, id }) {
            Ok(callee_id) => {
                self.calls.with(id, |open| open.id = callee_id);
            }
            Err(refused) => self.settle_error(id, &refused.error),
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
        if TopicSettings::of(&self.topics.borrow(), &topic).is_none() || topic.as_str() == CALLS_TOPIC {
            return Err(SubscribeError::UnknownTopic(topic));
        }
        if self.draining.get() {
            return Err(SubscribeError::Draining);
        }
        let in_flight_max = match wanted.in_flight_max {
            0 => IN_FLIGHT_DEFAULT,
            wanted => wanted.min(IN_FLIGHT_MAX),
        };
        let form = Form::Message(Bytes::from_static(RECEIVE.as_bytes()));
        let key = self.begin((topic, group), in_flight_max, endpoint, form, Some(told));
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
/// Calls that were kept and are at services at a time.
const KEPT_IN_FLIGHT: usize = 64;
/// Longer than a drain lasts.
const DRAIN_PAUSE: Duration = Duration::from_secs(60);
