//! What an application is asked while its keys move: its `OwnerControl` service.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::model::{ServiceName, UnitId};

/// The application of a dimension that takes part in moves of its keys: then nothing that the old owner still executes is lost
/// (guarantee level L1, R-D11).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HookSpec {
    /// The service that implements `strait.v1.OwnerControl`, under the name that relays of each unit know it by. Required.
    pub service: ServiceName,
    /// Longest time one question may take; then it is asked again. Default `10s`, at most `1m`.
    #[serde(default = "timeout", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// A key is frozen when its copy is no further behind than so long. Default `200ms`.
    #[serde(default = "lag_max", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lag_max: Duration,
    /// And no further behind than so many bytes. Default 1048576.
    #[serde(default = "lag_bytes_max")]
    pub lag_bytes_max: u64,
    /// And no further behind than so many changes. Default 1000.
    #[serde(default = "lag_changes_max")]
    pub lag_changes_max: u64,
}

/// What an application is asked, in the order in which it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// At the new owner: get ready.
    Prepare,
    /// At the new owner: begin to copy.
    Copy,
    /// At the new owner: how far behind is the copy?
    Lag,
    /// At the old owner: finish what is running.
    Quiesce,
    /// At the new owner: copy the rest, now that nothing changes.
    FinalSync,
    /// At the unit that has the node now, the old owner if the move was given up: serve it.
    Activate,
    /// At the unit that has the node no more, or was not given it: forget it.
    Cleanup,
}

/// How far a copy is behind.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lag {
    /// Changes that are not copied.
    pub changes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The age of the oldest of them.
    #[serde(with = "humantime_serde")]
    pub time: Duration,
}

/// What the application said last about a move, for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HookNote {
    /// About which node.
    pub node: NodeId,
    /// To which question.
    pub hook: Hook,
    /// The application of which unit.
    pub unit: UnitId,
    /// Why it is not done yet, or that it refused; empty if nothing was said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// How far its copy is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
}

impl HookSpec {
    /// The longest [`timeout`](Self::timeout).
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

    /// With all defaults.
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            timeout: timeout(),
            lag_max: lag_max(),
            lag_bytes_max: lag_bytes_max(),
            lag_changes_max: lag_changes_max(),
        }
    }

    /// Whether a copy is near enough for a freeze (R-3.9 S2).
    pub fn allows(&self, lag: Lag) -> bool {
        lag.time <= self.lag_max && lag.bytes <= self.lag_bytes_max && lag.changes <= self.lag_changes_max
    }
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Copy,
        Self::Lag,
        Self::Quiesce,
        Self::FinalSync,
        Self::Activate,
        Self::Cleanup,
    ];

    /// In logs, series and texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::Lag => "lag",
            Self::Quiesce => "quiesce",
            Self::FinalSync => "final_sync",
            Self::Activate => "activate",
            Self::Cleanup => "cleanup",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn timeout() -> Duration {
    Duration::from_secs(10)
}

fn lag_max() -> Duration {
    Duration::from_millis(200)
}

fn lag_bytes_max() -> u64 {
    1 << 20
}

fn lag_changes_max() -> u64 {
    1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    // S2: each measure by itself holds a freeze back.
    #[test]
    fn a_copy_that_is_too_far_behind_in_any_measure_is_not_near_enough() {
        let spec = HookSpec::new(Name::new("im.OwnerControl").unwrap());
        let near = Lag {
            changes: 1000,
            bytes: 1 << 20,
            time: Duration::from_millis(200),
        };
        assert!(spec.allows(Lag::default()) && spec.allows(near));
        assert!(!spec.allows(Lag { changes: 1001, ..near }));
        assert!(!spec.allows(Lag {
            bytes: near.bytes + 1,
            ..near
        }));
        assert!(!spec.allows(Lag {
            time: near.time + Duration::from_millis(1),
            ..near
        }));
    }

    #[test]
    fn only_the_service_must_be_named() {
        let spec: HookSpec = serde_json::from_value(serde_json::json!({ "service": "im.OwnerControl" })).unwrap();
        assert_eq!(spec, HookSpec::new(Name::new("im.OwnerControl").unwrap()));
        let wrong = serde_json::json!({ "service": "im.OwnerControl", "lag": 1 });
        assert!(serde_json::from_value::<HookSpec>(wrong).is_err());
    }
}
