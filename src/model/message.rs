//! A message: what a service publishes and consumers of one or more units receive.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::{Key, Metadata, Name, RelayName, UnitId};

/// Name of a topic.
pub type Topic = Name;
/// Name of a group of consumers of a topic.
pub type GroupName = Name;
/// Number in a line of messages, from 1 on, without holes.
pub type Seq = u64;

/// A moment as milliseconds since 1970. Only what outlives a process or leaves the machine is told in it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixMillis(pub u64);

/// What stays with a message wherever it goes (M-B1): who accepted it, and as the how-manieth.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MessageId {
    /// Unit of the relay that accepted it.
    pub unit: UnitId,
    /// The relay that accepted it.
    pub relay: RelayName,
    /// Life of that relay's log; another one after the log was lost or restored (M-A1).
    pub epoch: u64,
    /// How many messages it had accepted in this life, this one included.
    pub number: u64,
}

/// A message. Clones share their bytes.
#[derive(Clone, Eq, PartialEq)]
pub struct Message {
    /// Stable, from the first relay to the consumer.
    pub id: MessageId,
    /// Its topic.
    pub topic: Topic,
    /// The business key: messages of one topic and key keep their order (M-C1), and `owner` topics go where it says.
    pub key: Option<Key>,
    /// When the first relay accepted it.
    pub accepted_at: UnixMillis,
    /// From then on nobody wants it any more (M-E2).
    pub deadline: Option<UnixMillis>,
    /// Units it has been stored in, the origin first (M-G3).
    pub visited: Vec<UnitId>,
    /// How often it was taken out of the dead letters again (M-F3).
    pub redrives: u32,
    /// Epoch of the owner that an `owner` topic sent it to; 0: the settings say who owns its key, and nothing moves.
    pub routed: u64,
    /// `CloudEvents` attributes in binary mode, without `ce-` (`id`, `source`, `type`, `traceparent` ...), as they came.
    pub attributes: Metadata,
    /// Opaque.
    pub body: Bytes,
}

/// How far a message has come (M-A2). The publisher says which one it waits for.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum AckLevel {
    /// Message and route decision are on this relay's disk.
    #[default]
    Accepted,
    /// And on the disk of a relay of each unit it goes to.
    Relayed,
    /// And a consumer of each group there acknowledged it.
    Delivered,
}

/// Why a message left without being relayed or delivered (M-G2, M-G8). Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GapReason {
    /// Its record was damaged on disk.
    Corrupted,
    /// It is among the dead letters.
    DeadLettered,
    /// The topic was full and drops the oldest.
    Dropped,
    /// Its deadline passed.
    Expired,
    /// An operator removed it.
    Purged,
    /// Its key belongs to another unit now, and so it is in the line of that one.
    Rerouted,
}

/// Where a message was given up (M-E4). Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DeadPlace {
    /// A consumer failed or refused it, or its group's attempts ran out.
    Delivery,
    /// The relay of the destination unit refused it.
    Link,
    /// A rule of this relay forbids it where it came to.
    Policy,
}

impl Message {
    /// The `CloudEvents` identity of the producer, `source` and `id`: what duplicates have in common (M-B3).
    pub fn producer(&self) -> Option<(&[u8], &[u8])> {
        Some((self.attributes.value("source")?, self.attributes.value("id")?))
    }

    /// Bytes it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.dimension.len() + key.key.len());
        MESSAGE_BYTES + key + self.attributes.as_bytes().len() + self.body.len()
    }

    /// How long ago it was accepted, by clocks of two relays.
    pub fn age(&self, now: UnixMillis) -> Duration {
        self.accepted_at.age(now)
    }

    /// Whether its deadline has passed.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl UnixMillis {
    /// How long ago it was; zero if it is to come.
    pub fn age(self, now: Self) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.0))
    }
}

impl fmt::Debug for Message {
    /// Neither key nor attributes nor body: they name customers (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:016x}/{}", self.unit, self.relay, self.epoch, self.number)
    }
}

/// A text is not the id of a message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no message id; they look like unit/relay/0123456789abcdef/17")]
pub struct MessageIdError(String);

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('/');
            let id = Self {
                unit: parts.next()?.parse().ok()?,
                relay: parts.next()?.parse().ok()?,
                epoch: u64::from_str_radix(parts.next()?, 16).ok()?,
                number: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| MessageIdError(text.to_owned()))
    }
}

impl AckLevel {
    /// Its name in the API and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "ACCEPTED",
            Self::Relayed => "RELAYED",
            Self::Delivered => "DELIVERED",
        }
    }
}

impl GapReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Corrupted,
        Self::DeadLettered,
        Self::Dropped,
        Self::Expired,
        Self::Purged,
        Self::Rerouted,
    ];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Corrupted => "corrupted",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Rerouted => "rerouted",
        }
    }

    /// Its number in records and frames.
    pub fn code(self) -> u8 {
        match self {
            Self::Corrupted => 1,
            Self::DeadLettered => 2,
            Self::Dropped => 3,
            Self::Expired => 4,
            Self::Purged => 5,
            Self::Rerouted => 6,
        }
    }

    /// The reason with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl DeadPlace {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Delivery, Self::Link, Self::Policy];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Link => "link",
            Self::Policy => "policy",
        }
    }

    /// Its number in records.
    pub fn code(self) -> u8 {
        match self {
            Self::Delivery => 1,
            Self::Link => 2,
            Self::Policy => 3,
        }
    }

    /// The place with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.code() == code)
    }
}

/// A message without its bytes, about.
const MESSAGE_BYTES: usize = 160;
