//! `[queue]` and `[replay]` of the configuration; `[topics.*]` is in `topics`.

mod topics;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use topics::{
    CALLS_TOPIC, Exhausted, GroupSettings, OnExpiry, Overflow, Priority, Push, ReplayOrder, RetrySettings, TopicRule,
    TopicSettings, Topics, calls_group, calls_topic,
};

use crate::model::{ByteSize, Topic, UnitId};

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
