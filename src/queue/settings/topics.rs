//! `[topics.*]` of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, GroupName, Name, ServiceName, Topic, UnitId};

/// `[topics.*]`: the topics of this relay. A name that ends in `*` stands for all that begin so; the longest wins.
pub type Topics = BTreeMap<String, TopicSettings>;

/// `[topics."name"]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Which units get a message. Default `owner`.
    pub rule: TopicRule,
    /// The units, for the rule `units`; this relay's own may be one of them.
    pub units: Vec<UnitId>,
    /// Units whose messages of this topic are taken. Default: all that are configured.
    pub from: Option<Vec<UnitId>>,
    /// Whether messages of one key keep their order. Default true. Without, the newest can be replayed first.
    pub ordered: bool,
    /// Longest message; zero means `queue.message_bytes_max`. Default 0.
    pub message_bytes_max: ByteSize,
    /// How long a message is worth something, if its publisher names no earlier end. Default `0s`: for ever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// What becomes of a message whose time is over. Default `drop`, which is counted.
    pub on_expiry: OnExpiry,
    /// Disk space for messages of this topic to one unit, and in the own unit. Default `0`: no limit of its own.
    pub bytes_max: ByteSize,
    /// The same as a number of messages. Default 0: no limit.
    pub messages_max: u64,
    /// What happens when that is used up. Default `reject-new`.
    pub overflow: Overflow,
    /// Whether new messages are refused early when the disk gets full. Default `normal`.
    pub priority: Priority,
    /// Which stored messages go first. Default `oldest-first`.
    pub replay_order: ReplayOrder,
    /// Whether what crosses a Geo's border is kept as a read-only copy as well (M-G5). Default false.
    pub mirror: bool,
    /// How often and when a delivery that failed is tried again.
    pub retry: RetrySettings,
    /// What happens to a message, and to its key, when its attempts have run out. Default `dlq-and-continue`.
    pub exhausted: Exhausted,
    /// How long a consumer may take for one message. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub visibility_timeout: Duration,
    /// Groups of consumers that exist from the start, by name. Others come to be when a consumer subscribes.
    pub groups: BTreeMap<GroupName, GroupSettings>,
}

/// Which units get a message (M-G4).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TopicRule {
    /// All units, this one included.
    All,
    /// This unit only.
    Local,
    /// The unit that owns the key.
    #[default]
    Owner,
    /// Those listed.
    Units,
}

/// What becomes of a message whose time is over.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    /// It goes to the dead letters.
    DeadLetter,
    /// It is removed.
    #[default]
    Drop,
}

/// What happens when a topic is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The oldest messages make room, each counted and with a gap record.
    DropOldest,
    /// New messages are refused.
    #[default]
    RejectNew,
}

/// How early a topic is refused when the disk gets full.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// At `queue.refuse_low_at`.
    Low,
    /// At `queue.refuse_all_at`.
    #[default]
    Normal,
}

/// Which stored messages go first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayOrder {
    /// The newest; only for topics without order.
    NewestFirst,
    /// The oldest.
    #[default]
    OldestFirst,
}

/// What happens when the attempts of a message have run out (M-C3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exhausted {
    /// Its key waits until an operator acts.
    BlockKey,
    /// It goes to the dead letters, the next of its key is delivered.
    #[default]
    DlqAndContinue,
    /// It and all later ones of its key go to the dead letters until an operator acts.
    DlqRestOfKey,
}

/// `[topics."name".retry]`: exponential back-off with full jitter (M-E1).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Upper bound of the first pause; each next one is twice as long. Default `1s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub first: Duration,
    /// Upper bound of all pauses. Default `5m`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub longest: Duration,
    /// Attempts in all. Default 16.
    pub attempts: u32,
}

/// `[topics."name".groups."name"]`: a group of consumers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSettings {
    /// Messages are handed to this service, one of `[services]` or one that registered, as unary calls: the body is the
    /// message, its attributes are metadata with `ce-` before their names. Default none: consumers subscribe.
    pub push: Option<Push>,
}

/// Where a group's messages are pushed to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The service.
    pub service: ServiceName,
    /// The method. Default `Receive`.
    #[serde(default = "receive")]
    pub method: Name,
    /// Messages under way at a time. Default 64.
    #[serde(default = "push_in_flight")]
    pub in_flight_max: usize,
}

#[expect(clippy::expect_used, reason = "a constant that fits the rule")]
fn receive() -> Name {
    Name::new("Receive").expect("a constant name is valid")
}

fn push_in_flight() -> usize {
    64
}

/// The topic of calls that are kept for their unit (C-P1, C-P2). Only relays publish and take its messages.
pub const CALLS_TOPIC: &str = "strait.calls";

/// The group that takes them: the relays of the unit.
#[expect(clippy::expect_used, reason = "a constant that fits the rule")]
pub fn calls_group() -> GroupName {
    Name::new("owner").expect("a constant name is valid")
}

/// The settings of that topic, if none are given.
pub fn calls_topic() -> TopicSettings {
    TopicSettings {
        ttl: Duration::from_secs(24 * 3600),
        on_expiry: OnExpiry::DeadLetter,
        bytes_max: ByteSize::mib(10 * 1024),
        // A service that is away for an hour, or fails so long, loses nothing of it.
        retry: RetrySettings {
            longest: Duration::from_secs(60),
            attempts: 128,
            ..RetrySettings::default()
        },
        ..TopicSettings::default()
    }
}

impl TopicSettings {
    /// The settings of a topic: those under its name, or under the longest beginning with `*` that fits.
    pub fn of<'a>(topics: &'a Topics, topic: &Topic) -> Option<&'a Self> {
        Self::named(topics, topic).map(|(_, settings)| settings)
    }

    /// The same, with the name they stand under.
    pub fn named<'a>(topics: &'a Topics, topic: &Topic) -> Option<(&'a str, &'a Self)> {
        let fits = |pattern: &str| {
            pattern
                .strip_suffix('*')
                .is_some_and(|start| topic.as_str().starts_with(start))
        };
        let found = topics.get_key_value(topic.as_str()).or_else(|| {
            let fitting = topics.iter().filter(|(pattern, _)| fits(pattern));
            fitting.max_by_key(|(pattern, _)| pattern.len())
        });
        found.map(|(pattern, settings)| (pattern.as_str(), settings))
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            rule: TopicRule::default(),
            units: Vec::new(),
            from: None,
            ordered: true,
            message_bytes_max: ByteSize::default(),
            ttl: Duration::ZERO,
            on_expiry: OnExpiry::default(),
            bytes_max: ByteSize::default(),
            messages_max: 0,
            overflow: Overflow::default(),
            priority: Priority::default(),
            replay_order: ReplayOrder::default(),
            mirror: false,
            retry: RetrySettings::default(),
            exhausted: Exhausted::default(),
            visibility_timeout: Duration::from_secs(30),
            groups: BTreeMap::new(),
        }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            attempts: 16,
        }
    }
}
