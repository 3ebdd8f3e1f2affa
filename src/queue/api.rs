//! What goes into the queue and what comes out: the words between its thread and the shards.
//!
//! # Invariants
//! - Q1. What goes in is never lost and never waits: what may be under way is bounded by the limits of publishers
//!   (`queue.publish_bytes_max`), of lanes (`queue.lane_bytes_max`) and of consumers (their messages in flight).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::lanes::{LaneId, LaneKind, ToReceiver, ToSender};
use super::operator::{Answer, Command};
use crate::model::{
    AckLevel, Geo, GroupName, Key, Message, MessageId, Metadata, RelayError, RelayName, Topic, UnitId, UnixMillis,
};

/// Who on which shard waits for an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ticket {
    /// The shard; [`Ticket::ADMIN`] is the admin thread.
    pub shard: u16,
    /// Number there.
    pub number: u64,
}

/// Who takes messages of a group.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConsumerId(pub u64);

/// One hand-over of a message to a consumer. A later one of the same message has another stamp.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeliveryId {
    /// Number in the inbox of the topic.
    pub seq: u64,
    /// Which hand-over.
    pub stamp: u64,
}

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// A local service publishes.
    Publish(Box<Publish>),
    /// Nobody waits for this publish any more; the message stays.
    Forget(Ticket),
    /// A lane that we opened is up.
    LaneUp {
        /// The lane.
        lane: LaneId,
        /// Unit of the relay at the other end.
        unit: UnitId,
        /// That relay.
        relay: RelayName,
        /// Which lane it is to be.
        kind: LaneKind,
    },
    /// A peer opened a lane.
    LaneAccepted {
        /// The lane.
        lane: LaneId,
        /// Geo of the peer, from its certificate.
        geo: Geo,
        /// Unit of the peer, from its certificate.
        unit: UnitId,
        /// The relay.
        relay: RelayName,
    },
    /// Came on a lane that a peer opened.
    FromSender {
        /// The lane.
        lane: LaneId,
        /// What.
        frame: ToReceiver,
        /// Bytes of the frame, which count until they are acknowledged.
        bytes: usize,
    },
    /// Came on a lane that we opened.
    FromReceiver {
        /// The lane.
        lane: LaneId,
        /// What.
        frame: ToSender,
    },
    /// A lane ended.
    LaneDown(LaneId),
    /// A consumer wants messages.
    Subscribe(Box<Subscribe>),
    /// A consumer goes; what it has is handed to others, without counting as an attempt.
    Unsubscribe(ConsumerId),
    /// A consumer is done with a message.
    Settle {
        /// The consumer.
        consumer: ConsumerId,
        /// Which hand-over.
        delivery: DeliveryId,
        /// How it ended.
        outcome: Settlement,
    },
    /// An operator asks.
    Operate(Ticket, Box<Command>),
    /// The control task asks how much waits here.
    Ask(Question),
    /// It does not want to know any more.
    Withdraw(Ticket),
    /// Other routes are in force: what waits for them is looked at again.
    Routes,
    /// Other settings are in force.
    Reload(Box<super::Setup>),
}

/// How much of some keys waits in the inbox: messages of topics with the rule `owner` that are on disk here, or on their way to it,
/// and that some group is not done with. Of topics without a group all messages wait.
///
/// What comes after the question does not count. Ask when the relay goes by the routes in which these keys are frozen: then no more of
/// them comes, and that none is left stays true. It is answered once, unless it is withdrawn or the relay ends before; asked again
/// with its ticket, it begins anew.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// Which keys.
    pub keys: Arc<dyn super::Keys>,
    /// It is answered when no more than so many are left. That none is left is not undone by a restart.
    pub at_most: u64,
}

/// A message of a local service.
#[derive(Debug)]
pub struct Publish {
    /// Who waits.
    pub ticket: Ticket,
    /// Its topic.
    pub topic: Topic,
    /// Its key.
    pub key: Option<Key>,
    /// `CloudEvents` attributes.
    pub attributes: Metadata,
    /// Opaque.
    pub body: Bytes,
    /// Units it goes to, by the topic's rule; may hold this one.
    pub units: Vec<UnitId>,
    /// Epoch of the owner of its key, which is the unit it goes to; 0 if not its key decides, or the settings say who owns keys.
    pub routed: u64,
    /// It is not known yet who owns its key: what to tell the publisher if that does not become known. `units` says nothing then.
    pub unrouted: Option<Box<RelayError>>,
    /// How long it may wait for that, or for the end of a move of its key.
    pub patience: Duration,
    /// Its own end, if the publisher named one.
    pub deadline: Option<UnixMillis>,
    /// What the publisher waits for: it is told each level up to this one.
    pub wait: AckLevel,
}

/// A consumer of a group.
#[derive(Debug)]
pub struct Subscribe {
    /// The consumer; its shard gets the messages.
    pub consumer: ConsumerId,
    /// Where it lives.
    pub shard: u16,
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// The topic.
    pub topic: Topic,
    /// The group; it is made if it is not there.
    pub group: GroupName,
    /// Messages it may have at a time.
    pub in_flight_max: usize,
}

/// How a hand-over ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// Failed; again after a while: what the consumer wishes, else by the topic's back-off.
    Nack {
        /// Wished pause.
        delay: Option<Duration>,
        /// For a person.
        reason: String,
    },
    /// Failed for good: a dead letter at once.
    Terminate {
        /// For a person.
        reason: String,
    },
    /// It never reached the consumer, which takes nothing for a while. Not an attempt.
    Unavailable {
        /// How long.
        pushback: Duration,
    },
    /// The consumer needs more time; the visibility timeout begins anew.
    Extend,
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// A message came so far, or failed.
    Published {
        /// Who waits.
        ticket: Ticket,
        /// How far.
        result: Result<Progress, Box<RelayError>>,
    },
    /// To a relay, on a lane that we opened.
    ToReceiver {
        /// The lane.
        lane: LaneId,
        /// What.
        frame: ToReceiver,
    },
    /// To a relay, on a lane that it opened.
    ToSender {
        /// The lane.
        lane: LaneId,
        /// What.
        frame: ToSender,
    },
    /// A lane is of no use any more.
    CloseLane {
        /// The lane.
        lane: LaneId,
        /// For the log.
        why: String,
    },
    /// A consumer's subscription is in force, or is not.
    Subscribed {
        /// Who waits.
        ticket: Ticket,
        /// Why not.
        result: Result<(), Box<RelayError>>,
    },
    /// For a consumer.
    Deliver(Box<Deliver>),
    /// The consumer has kept a message too long; the message may be elsewhere by now (M-B4).
    Overdue {
        /// Shard of the consumer.
        shard: u16,
        /// The consumer.
        consumer: ConsumerId,
        /// Which hand-over.
        delivery: DeliveryId,
    },
    /// How many messages of the keys of a question the groups here are not done with.
    Undelivered {
        /// Who asked.
        ticket: Ticket,
        /// How many there were when it was asked, or none are left.
        messages: u64,
    },
    /// What an operator asked for.
    Answer(Ticket, Box<Answer>),
}

/// How far a message has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Its id; of the first one if it is a duplicate.
    pub id: MessageId,
    /// How far.
    pub level: AckLevel,
    /// A message with this `source` and `id` had been accepted before (M-B3).
    pub duplicate: bool,
    /// It is with the operating system, not with the disk (M-A5).
    pub buffered: bool,
    /// Nothing more is told: it is the level that was waited for, or nobody knows how far the first one of a duplicate has
    /// come beyond this one.
    pub last: bool,
}

/// A message for a consumer.
#[derive(Debug)]
pub struct Deliver {
    /// Shard of the consumer.
    pub shard: u16,
    /// The consumer.
    pub consumer: ConsumerId,
    /// Which hand-over.
    pub delivery: DeliveryId,
    /// Failed attempts before this one.
    pub attempts: u32,
    /// Its group.
    pub group: GroupName,
    /// How long the consumer may take.
    pub visibility_timeout: Duration,
    /// The message.
    pub message: Message,
}

impl Ticket {
    /// Number of the admin thread in place of a shard's.
    pub const ADMIN: u16 = u16::MAX;
    /// Number of the thread of the routes in place of a shard's.
    pub const ROUTES: u16 = u16::MAX - 1;
}
