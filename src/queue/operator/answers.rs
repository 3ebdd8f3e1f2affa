//! What operators get from the queue.

use serde::{Deserialize, Serialize};

use super::{LimitValues, RedriveRequest};
use crate::queue::record::Pause;

/// What comes back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// It is done.
    Done {
        /// Messages it concerned.
        messages: u64,
    },
    /// How far something long is; more answers follow.
    Progress {
        /// Done.
        done: u64,
        /// Of about so many.
        of: u64,
    },
    /// It cannot be done.
    Refused {
        /// What to do about it.
        detail: String,
    },
    /// For `Peek`.
    Messages {
        /// What fits.
        messages: Vec<Peeked>,
        /// There is more.
        more: bool,
    },
    /// For `Status`.
    Status(Box<Status>),
    /// For `Audit`.
    Audit {
        /// One for each topic and unit, or topic and group.
        rows: Vec<AuditRow>,
    },
    /// For `Redrive` and `Redrives`.
    Redrives {
        /// The tasks.
        tasks: Vec<RedriveStatus>,
    },
}

/// A message that was looked at.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Peeked {
    /// Number in the line.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Its key, as `dimension=key`.
    pub key: Option<String>,
    /// Milliseconds since 1970.
    pub accepted_at: u64,
    /// Milliseconds since 1970.
    pub deadline: Option<u64>,
    /// `live`, `backlog`, `waiting`, `in_flight`, `retrying`, `blocked`, `dead`, `mirror`.
    pub state: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// Times it was redriven.
    pub redrives: u32,
    /// `CloudEvents` attributes.
    pub attributes: Vec<(String, String)>,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// The body in base64, if it was asked for.
    pub body: Option<String>,
    /// Of dead letters: `link`, `delivery` or `policy`.
    pub place: Option<String>,
    /// Of dead letters.
    pub reason: Option<String>,
    /// Of dead letters.
    pub error: Option<String>,
    /// Of dead letters, milliseconds since 1970.
    pub first_failure: Option<u64>,
    /// Of dead letters, milliseconds since 1970.
    pub last_failure: Option<u64>,
    /// Of dead letters: unit or group it was for.
    pub was_for: Option<String>,
}

/// Everything at a glance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// `group` or `buffered` (M-A5).
    pub durability: String,
    /// Life of the log, in hexadecimal.
    pub epoch: String,
    /// Disk space of the queue.
    pub bytes_used: u64,
    /// And its limit.
    pub bytes_max: u64,
    /// Segment files.
    pub segments: u64,
    /// `ok`, `low`, `full` or `failing`.
    pub disk: String,
    /// Units that messages go to.
    pub units: Vec<UnitStatus>,
    /// Groups that messages are delivered to.
    pub groups: Vec<GroupStatus>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of them.
    pub dead_letter_bytes: u64,
    /// Dead letters by reason.
    pub dead_by_reason: Vec<(String, u64)>,
    /// Damaged records that were found, as ranges for a person.
    pub damaged: Vec<String>,
}

/// Messages to one unit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct UnitStatus {
    /// The unit.
    pub unit: String,
    /// `connecting`, `live`, `draining`, `paused`, `stalled`, `denied` or `down` (M-G1).
    pub state: String,
    /// Why, in words, where that helps.
    pub detail: String,
    /// Live messages that the unit does not have yet.
    pub live: u64,
    /// Messages of the backlog.
    pub backlog: u64,
    /// Bytes of both, about.
    pub bytes: u64,
    /// Milliseconds since the oldest was accepted.
    pub oldest_ms: Option<u64>,
    /// Backlog messages per second over the last seconds.
    pub replay_rate: f64,
    /// Limits in force.
    pub limits: LimitValues,
    /// Seconds until the backlog is empty at this rate (M-D4).
    pub eta_seconds: Option<u64>,
    /// Keys that wait behind their backlog.
    pub keys_behind: u64,
    /// Whether all keys wait because there are too many to tell apart, or just after a start.
    pub keys_coarse: bool,
    /// The pause, if it is paused.
    pub pause: Option<Pause>,
    /// Why and until when the unit counts as away for calls of methods with `on_failure`, if an operator says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_as_away: Option<Pause>,
}

/// Messages for one group.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct GroupStatus {
    /// Topic.
    pub topic: String,
    /// Group.
    pub group: String,
    /// Consumers that are there.
    pub consumers: u64,
    /// Not done yet, all together.
    pub pending: u64,
    /// With consumers.
    pub in_flight: u64,
    /// Waiting for their next attempt.
    pub retrying: u64,
    /// Waiting behind a message of their key.
    pub behind: u64,
    /// Keys that are blocked until an operator acts.
    pub blocked_keys: u64,
    /// Milliseconds since the oldest was accepted.
    pub oldest_ms: Option<u64>,
    /// The pause, if it is paused.
    pub pause: Option<Pause>,
}

/// One line of the books (M-G8):
/// `accepted = relayed + pending + expired + dropped + dead_lettered + purged + corrupted + rerouted`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditRow {
    /// Topic.
    pub topic: String,
    /// The unit, or `group NAME` for the inbox.
    pub to: String,
    /// Taken in.
    pub accepted: u64,
    /// Relayed, or delivered.
    pub relayed: u64,
    /// Still there, as counted in the log.
    pub pending: u64,
    /// Time over.
    pub expired: u64,
    /// Made room.
    pub dropped: u64,
    /// Given up.
    pub dead_lettered: u64,
    /// Removed by an operator.
    pub purged: u64,
    /// Lost to damage on disk.
    pub corrupted: u64,
    /// Taken to another unit, because their keys belong to that one now.
    #[serde(default)]
    pub rerouted: u64,
    /// `accepted` less all others: zero, or something is wrong.
    pub difference: i64,
}

/// How far a redrive is (M-F2).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RedriveStatus {
    /// Its number.
    pub task: u64,
    /// `running`, `paused`, `done`, `cancelled` or `failed`.
    pub state: String,
    /// Messages moved.
    pub moved: u64,
    /// Still to move, about.
    pub remaining: u64,
    /// Messages that could not be moved (redriven too often).
    pub failed: u64,
    /// Messages per second now.
    pub rate: f64,
    /// Milliseconds since 1970.
    pub started: u64,
    /// Seconds to the end, about.
    pub eta_seconds: Option<u64>,
    /// What was asked.
    pub request: RedriveRequest,
    /// Who.
    pub who: String,
    /// Why it failed or is paused.
    pub reason: String,
}
