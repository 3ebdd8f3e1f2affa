//! A queue in memory: keeps no rule but those that the edges rely on, and writes down what it was told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use strait::model::{AckLevel, Message, MessageId, Name, UnixMillis};
use strait::queue::api::{ConsumerId, Deliver, DeliveryId, Input, Output, Progress, Publish, Settlement, Ticket};
use strait::queue::{Inlet, Outlets};

/// What a test asks of the queue and sees of it.
#[derive(Default)]
pub struct Desk {
    state: Mutex<Seen>,
    changed: Condvar,
}

/// What the queue saw, and how it is to behave.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a way to misbehave")]
pub struct Seen {
    /// Messages, in the order in which they came.
    pub messages: Vec<Message>,
    /// Units each goes to.
    pub units: Vec<Vec<String>>,
    /// What consumers said, in words.
    pub said: Vec<String>,
    /// Publications nobody waits for any more.
    pub forgotten: usize,
    pub consumers: usize,
    /// Says nothing to publishers.
    pub is_silent: bool,
    /// Says that messages were accepted, and never more.
    pub is_stuck: bool,
    pub is_buffered: bool,
    pub refuse: Option<strait::model::RelayError>,
    pub refuse_subscriptions: bool,
    pub visibility_timeout: Option<Duration>,
}

impl Desk {
    pub fn set(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    /// Waits until something holds.
    pub fn wait(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        let mut seen = self.state.lock().unwrap();
        while !holds(&seen) {
            assert!(
                Instant::now() < limit,
                "never saw: {what}; said {:?}, {} messages, {} forgotten, {} consumers",
                seen.said,
                seen.messages.len(),
                seen.forgotten,
                seen.consumers
            );
            seen = self.changed.wait_timeout(seen, Duration::from_millis(50)).unwrap().0;
        }
    }
}

/// Runs until the inlet closes.
pub fn run(inlet: &Inlet, outlets: &Outlets, desk: &Desk) {
    let mut queue = Queue {
        outlets,
        desk,
        waiting: VecDeque::new(),
        consumers: BTreeMap::new(),
        stamp: 0,
    };
    let mut inputs = Vec::new();
    while inlet.take(&mut inputs, Duration::from_millis(10)) {
        for input in inputs.drain(..) {
            if let Input::Publish(publish) = &input {
                inlet.on_answered(publish.bytes());
            }
            queue.on_input(input);
        }
        queue.tick();
        desk.changed.notify_all();
    }
}

struct Queue<'a> {
    outlets: &'a Outlets,
    desk: &'a Desk,
    waiting: VecDeque<Waiting>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    stamp: u64,
}

struct Waiting {
    seq: u64,
    attempts: u32,
    not_before: Instant,
    message: Message,
}

struct Consumer {
    shard: u16,
    topic: Name,
    group: Name,
    in_flight_max: usize,
    not_before: Instant,
    has: BTreeMap<(u64, u64), (Waiting, Instant)>,
}

impl Queue<'_> {
    fn on_input(&mut self, input: Input) {
        match input {
            Input::Publish(publish) => self.on_publish(*publish),
            Input::Forget(_) => self.desk.set(|seen| seen.forgotten += 1),
            Input::Subscribe(wanted) => {
                let is_refused = self.desk.look(|seen| seen.refuse_subscriptions);
                let result = if is_refused {
                    use strait::model::{Reason, RelayError, Retry};
                    Err(Box::new(RelayError::new(
                        Reason::Limited,
                        Retry::Safe,
                        "too many groups",
                    )))
                } else {
                    self.consumers.insert(
                        wanted.consumer,
                        Consumer {
                            shard: wanted.shard,
                            topic: wanted.topic,
                            group: wanted.group,
                            in_flight_max: wanted.in_flight_max,
                            not_before: Instant::now(),
                            has: BTreeMap::new(),
                        },
                    );
                    Ok(())
                };
                let ticket = wanted.ticket;
                self.send(ticket.shard, Output::Subscribed { ticket, result });
            }
            Input::Unsubscribe(id) => {
                if let Some(consumer) = self.consumers.remove(&id) {
                    self.say(format!("unsubscribe with {}", consumer.has.len()));
                    self.waiting
                        .extend(consumer.has.into_values().map(|(waiting, _)| waiting));
                }
            }
            Input::Settle {
                consumer,
                delivery,
                outcome,
            } => self.on_settle(consumer, delivery, outcome),
            _ => {}
        }
    }

    fn on_publish(&mut self, publish: Publish) {
        let (is_silent, is_stuck, is_buffered, refuse) = self
            .desk
            .look(|seen| (seen.is_silent, seen.is_stuck, seen.is_buffered, seen.refuse.clone()));
        let ticket = publish.ticket;
        if let Some(error) = refuse {
            let result = Err(Box::new(error));
            return self.send(ticket.shard, Output::Published { ticket, result });
        }
        let seq = self.desk.look(|seen| seen.messages.len()) + 1;
        let seq = u64::try_from(seq).unwrap();
        let name = |text| Name::new(text).unwrap();
        let message = Message {
            id: MessageId {
                unit: name("a"),
                relay: name("a-1"),
                epoch: 1,
                number: seq,
            },
            topic: publish.topic,
            key: publish.key,
            accepted_at: UnixMillis(1000 + seq),
            deadline: publish.deadline,
            visited: vec![name("a")],
            redrives: 0,
            routed: 0,
            attributes: publish.attributes,
            body: publish.body,
        };
        self.desk.set(|seen| {
            seen.messages.push(message.clone());
            seen.units.push(publish.units.iter().map(ToString::to_string).collect());
        });
        if !is_silent {
            for level in [AckLevel::Accepted, AckLevel::Relayed, AckLevel::Delivered] {
                if level <= publish.wait && !(is_stuck && level > AckLevel::Accepted) {
                    self.tell(ticket, &message, level, is_buffered);
                }
            }
        }
        self.waiting.push_back(Waiting {
            seq,
            attempts: 0,
            not_before: Instant::now(),
            message,
        });
    }

    fn tell(&self, ticket: Ticket, message: &Message, level: AckLevel, buffered: bool) {
        let id = message.attributes.value("id");
        let result = Ok(Progress {
            id: message.id.clone(),
            level,
            duplicate: matches!(id, Some(b"again" | b"old")),
            buffered,
            // Of a duplicate of an old message no more may be known.
            last: id == Some(b"old"),
        });
        self.send(ticket.shard, Output::Published { ticket, result });
    }

    fn on_settle(&mut self, id: ConsumerId, delivery: DeliveryId, outcome: Settlement) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        let key = (delivery.seq, delivery.stamp);
        if outcome == Settlement::Extend {
            if let Some((_, since)) = consumer.has.get_mut(&key) {
                *since = Instant::now();
                self.say(format!("extend {}", delivery.seq));
            }
            return;
        }
        let Some((mut waiting, _)) = consumer.has.remove(&key) else {
            return self.say(format!("late {}", delivery.seq));
        };
        let seq = waiting.seq;
        match outcome {
            Settlement::Ack => self.say(format!("ack {seq}")),
            Settlement::Terminate { reason } => self.say(format!("terminate {seq}: {reason}")),
            Settlement::Nack { delay, reason } => {
                self.say(format!("nack {seq} {delay:?}: {reason}"));
                waiting.attempts += 1;
                waiting.not_before = Instant::now() + delay.unwrap_or(Duration::from_millis(20));
                self.waiting.push_front(waiting);
            }
            Settlement::Unavailable { pushback } => {
                consumer.not_before = Instant::now() + pushback;
                self.say(format!("unavailable {seq}"));
                self.waiting.push_front(waiting);
            }
            Settlement::Extend => {}
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let timeout = self.desk.look(|seen| seen.visibility_timeout);
        let timeout = timeout.unwrap_or(Duration::from_secs(30));
        let mut out = Vec::new();
        for (id, consumer) in &mut self.consumers {
            let late: Vec<_> = consumer
                .has
                .iter()
                .filter(|(_, (_, since))| *since + timeout < now)
                .collect();
            let late: Vec<_> = late.into_iter().map(|(key, _)| *key).collect();
            for key in late {
                let (mut waiting, _) = consumer.has.remove(&key).unwrap();
                waiting.attempts += 1;
                self.waiting.push_front(waiting);
                let delivery = DeliveryId {
                    seq: key.0,
                    stamp: key.1,
                };
                let (shard, consumer) = (consumer.shard, *id);
                out.push((
                    shard,
                    Output::Overdue {
                        shard,
                        consumer,
                        delivery,
                    },
                ));
            }
        }
        while let Some((id, at)) = self.next(now) {
            let waiting = self.waiting.remove(at).unwrap();
            self.stamp += 1;
            let consumer = self.consumers.get_mut(&id).unwrap();
            let delivery = DeliveryId {
                seq: waiting.seq,
                stamp: self.stamp,
            };
            let deliver = Deliver {
                shard: consumer.shard,
                consumer: id,
                delivery,
                attempts: waiting.attempts,
                group: consumer.group.clone(),
                visibility_timeout: timeout,
                message: waiting.message.clone(),
            };
            consumer.has.insert((delivery.seq, delivery.stamp), (waiting, now));
            out.push((deliver.shard, Output::Deliver(Box::new(deliver))));
        }
        for (shard, output) in out {
            self.send(shard, output);
        }
        let consumers = self.consumers.len();
        self.desk.set(|seen| seen.consumers = consumers);
    }

    /// A message, and a consumer that has room for it: the one with the fewest.
    fn next(&self, now: Instant) -> Option<(ConsumerId, usize)> {
        self.waiting.iter().enumerate().find_map(|(at, waiting)| {
            if waiting.not_before > now {
                return None;
            }
            let fit = self.consumers.iter().filter(|(_, consumer)| {
                consumer.topic == waiting.message.topic
                    && consumer.has.len() < consumer.in_flight_max
                    && consumer.not_before <= now
            });
            let chosen = fit.min_by_key(|(_, consumer)| consumer.has.len());
            chosen.map(|(id, _)| (*id, at))
        })
    }

    fn say(&self, text: String) {
        self.desk.set(|seen| seen.said.push(text));
    }

    fn send(&self, shard: u16, output: Output) {
        self.outlets.shards[usize::from(shard)].push(output);
    }
}

/// A queue on a thread of its own.
pub fn start(inlet: Arc<Inlet>, outlets: Outlets, desk: Arc<Desk>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || run(&inlet, &outlets, &desk))
}
