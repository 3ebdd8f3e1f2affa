//! What operators ask of the queue and what they get: the admin address and the command line speak it as JSON.

mod answers;

use serde::{Deserialize, Serialize};

pub use answers::{Answer, AuditRow, GroupStatus, Peeked, RedriveStatus, Status, UnitStatus};

use super::record::{Pausable, Pause};
use crate::model::{GroupName, Topic, UnitId};

/// What an operator asks.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Command {
    /// Everything at a glance.
    Status,
    /// Counts every message twice: by the counters and by reading the log (M-G8). Long.
    Audit,
    /// Looks at messages without touching them (M-H1).
    Peek {
        /// Where.
        line: Line,
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// How many at most.
        limit: usize,
        /// With bodies.
        #[serde(default)]
        bodies: bool,
    },
    /// Removes messages (M-H2). Long.
    Purge {
        /// Where.
        line: Line,
        /// Which; an empty filter needs `all`.
        #[serde(default)]
        filter: Filter,
        /// All of them.
        #[serde(default)]
        all: bool,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Stops something until it is resumed or the time is over (M-H3).
    Pause {
        /// What.
        what: Pausable,
        /// Why and how long.
        pause: Pause,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Lets it go on. For a key that is blocked, see `Unblock`.
    Resume {
        /// What.
        what: Pausable,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Lets blocked keys of a group go on: their first message is tried again (M-C3).
    Unblock {
        /// Topic of the group.
        topic: Topic,
        /// The group.
        group: GroupName,
        /// Only this key, as `dimension=key`.
        key: Option<String>,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Removes a group that nobody takes messages of any more; what it is not done with nobody will get.
    RemoveGroup {
        /// Topic of the group.
        topic: Topic,
        /// The group.
        group: GroupName,
        /// Why.
        reason: String,
        /// Only count.
        #[serde(default)]
        dry_run: bool,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Changes replay limits at once (M-D2); without limits those of the settings come back in force.
    Limits {
        /// To this unit.
        unit: UnitId,
        /// Of this topic only.
        topic: Option<Topic>,
        /// The limits.
        limits: Option<LimitValues>,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Takes dead letters back (M-F1). Long; answers with the task.
    Redrive {
        /// How.
        request: RedriveRequest,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// All redrives, the last ones first.
    Redrives,
    /// Ends a redrive; what was moved stays moved.
    CancelRedrive {
        /// Which.
        task: u64,
        /// Who.
        #[serde(default)]
        who: String,
    },
}

/// Where to look.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum Line {
    /// Dead letters.
    Dead,
    /// What came in for a topic, for all groups or one.
    Inbox {
        /// The topic.
        topic: Topic,
        /// Only what this group is not done with.
        group: Option<GroupName>,
    },
    /// Copies of what crossed a Geo's border.
    Mirror {
        /// The topic.
        topic: Topic,
    },
    /// What goes to a unit.
    Outbox {
        /// The unit.
        unit: UnitId,
    },
}

/// Which messages; all given parts must fit.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Of this topic.
    pub topic: Option<Topic>,
    /// With this key, as `dimension=key`.
    pub key: Option<String>,
    /// With this attribute, as `name=value`.
    pub attribute: Option<String>,
    /// First number.
    pub from_seq: Option<u64>,
    /// Last number.
    pub to_seq: Option<u64>,
    /// Accepted (dead letters: last failed) at this time or later, milliseconds since 1970.
    pub since: Option<u64>,
    /// Before this time.
    pub before: Option<u64>,
    /// Dead letters with this reason.
    pub reason: Option<String>,
    /// Dead letters of this place.
    pub place: Option<String>,
    /// This message.
    pub id: Option<String>,
}

/// Replay limits; zero is none.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LimitValues {
    /// Messages per second.
    #[serde(default)]
    pub messages_per_second: f64,
    /// Bytes per second.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// Messages at once after a pause.
    #[serde(default)]
    pub burst: u32,
}

/// How dead letters are taken back.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedriveRequest {
    /// Which.
    pub filter: Filter,
    /// Messages per second; zero: as fast as the backlog lane takes them.
    pub rate: f64,
    /// Seconds in which the rate rises from one message per second to `rate`.
    pub ramp_seconds: u64,
    /// How many at most; zero: all.
    pub limit: u64,
    /// Only count.
    pub dry_run: bool,
    /// New deadline from now on, in seconds; zero keeps the message's own (M-F3).
    pub extend_ttl_seconds: u64,
    /// Needed if messages of ordered topics fit: they come behind later ones of their key (M-C4).
    pub allow_reorder: bool,
}
