//! `[queue]`, `[replay]` and `[topics.*]` of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, GroupName, Name, ServiceName, Topic, UnitId};

/// `[queue]`: messages on disk.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Disk space for all of the queue. New messages are refused before it is used up. Default `16GiB`.
    pub bytes_max: ByteSize,
    /// Size of a segment file. Default `64MiB`; from `64KiB` to `1GiB`.
    pub segment_bytes: ByteSize,
    /// When a message counts as stored. Default `group`: when the disk has said so; all that wait share one sync.
    /// `buffered`: when the operating system has it; a power cut can lose messages that were acknowledged.
    pub sync: Sync,
    /// Longest message, attributes and body together. Default `1MiB`; a topic can set less.
    pub message_bytes_max: ByteSize,
    /// Bytes of messages that may wait for the disk; publishers beyond it are pushed back. Default `64MiB`.
    pub publish_bytes_max: ByteSize,
    /// Bytes of live messages for one unit that are kept in memory until the unit has them. What goes beyond
    /// is read back from disk. Default `8MiB`.
    pub live_bytes_max: ByteSize,
    /// Bytes that may be on their way to a relay, per lane, without its acknowledgement. Default `4MiB`.
    pub lane_bytes_max: ByteSize,
    /// Longest batch of messages in one frame. Default `128KiB`.
    pub batch_bytes: ByteSize,
    /// Percent of the disk, or of `bytes_max`, from which topics of low priority are refused. Default 85.
    pub refuse_low_at: u8,
    /// Percent from which all new messages are refused. Default 90.
    pub refuse_all_at: u8,
    /// Keys with messages in the backlog of a unit that are told apart. With more of them, all messages with a key wait
    /// behind the backlog. Default 2,000,000, of about 20 bytes each.
    pub backlog_keys_max: usize,
    /// Messages of a group that may wait for a pause to end or behind a message of their key. A group with more
    /// takes no further messages until some are done. Default 100,000, of about 40 bytes each.
    pub parked_max: usize,
    /// Topics this relay has had messages of. Beyond, messages of further ones are refused (`limited`), as are
    /// subscriptions to them: keys tell apart what belongs together, topics what is treated alike. Default 100,000, of about
    /// 1 KiB each, and as much again for each unit they go to.
    pub topics_max: usize,
    /// Time between two snapshots of the queue's state; a restart reads what came after the last one. Default `10s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub checkpoint_interval: Duration,
    /// How duplicates of publishers are recognised.
    pub dedup: DedupSettings,
    /// Messages that were given up.
    pub dead_letters: DeadLetterSettings,
    /// Copies of what crosses a Geo's border, for topics with `mirror`.
    pub mirror: MirrorSettings,
}

/// When a message counts as stored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// When the disk has said so; all that wait share one sync.
    #[default]
    Group,
    /// When the operating system has it: a power cut can lose messages that were acknowledged. Shown in each
    /// acknowledgement, in the status and in a metric (M-A5).
    Buffered,
}

/// `[queue.dedup]`: how duplicates of publishers are recognised, by `source` and `id` (M-B3).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DedupSettings {
    /// How long a message is remembered. Default `10m`, at most `24h`; zero switches it off.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub window: Duration,
    /// How many are remembered at most, on disk. Default 3,600,000, of about 20 bytes in memory and on disk each.
    /// With more, the oldest are forgotten early, which is counted.
    pub messages_max: u64,
}

/// `[queue.dead_letters]`: messages that were given up.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterSettings {
    /// How long they are kept. Default `14d`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retention: Duration,
    /// Disk space for them. When it is used up, what would add another one pauses. Default `1GiB`.
    pub bytes_max: ByteSize,
    /// How often a message may be redriven. Default 3.
    pub redrives_max: u32,
}

/// `[queue.mirror]`: copies of what crosses a Geo's border (M-G5).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorSettings {
    /// How long they are kept. Default `7d`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retention: Duration,
    /// Disk space for those of one topic. The oldest make room. Default `1GiB`.
    pub bytes_max: ByteSize,
}

/// `[replay]`: how fast stored messages go to units that were away (M-D).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplaySettings {
    /// A message that has waited so long is no longer live. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub backlog_after: Duration,
    /// Percent of a link that its backlog gets at least while live messages use the link. Default 5.
    pub min_share: u8,
    /// Limits for units that have none of their own.
    pub default: ReplayLimits,
    /// Limits by unit.
    pub units: BTreeMap<UnitId, UnitReplay>,
}

/// Limits of the replay to one unit, and of single topics in it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UnitReplay {
    /// All topics together.
    pub limits: ReplayLimits,
    /// By topic; they hold beside the limits of the unit.
    pub topics: BTreeMap<Topic, ReplayLimits>,
}

/// How fast a backlog may be replayed. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayLimits {
    /// Messages per second. Default 0: none.
    pub messages_per_second: f64,
    /// Bytes per second. Default 0: none.
    pub bytes_per_second: ByteSize,
    /// Messages that may go at once after a pause. Default 0: a twentieth of a second's, at least one.
    pub burst: u32,
}

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

impl Default for Settings {
    fn default() -> Self {
        Self {
            bytes_max: ByteSize::mib(16 * 1024),
            segment_bytes: ByteSize::mib(64),
            sync: Sync::Group,
            message_bytes_max: ByteSize::mib(1),
            publish_bytes_max: ByteSize::mib(64),
            live_bytes_max: ByteSize::mib(8),
            lane_bytes_max: ByteSize::mib(4),
            batch_bytes: ByteSize::kib(128),
            refuse_low_at: 85,
            refuse_all_at: 90,
            backlog_keys_max: 2_000_000,
            parked_max: 100_000,
            topics_max: 100_000,
            checkpoint_interval: Duration::from_secs(10),
            dedup: DedupSettings::default(),
            dead_letters: DeadLetterSettings::default(),
            mirror: MirrorSettings::default(),
        }
    }
}

impl Default for DedupSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            messages_max: 3_600_000,
        }
    }
}

impl Default for DeadLetterSettings {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(14 * 24 * 3600),
            bytes_max: ByteSize::mib(1024),
            redrives_max: 3,
        }
    }
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            bytes_max: ByteSize::mib(1024),
        }
    }
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            backlog_after: Duration::from_secs(30),
            min_share: 5,
            default: ReplayLimits::default(),
            units: BTreeMap::new(),
        }
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
