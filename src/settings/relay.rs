//! `[relay]` and `[calls]`: what belongs to no single component.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CallRoute;
use crate::model::{Geo, MissingKey, RelayName, ServiceName, UnitId};

/// `[relay]`: who this relay is and where it works.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Geo of this relay's unit. Required.
    pub geo: Option<Geo>,
    /// Unit of this relay. Required. Units are named once for the whole system.
    pub unit: Option<UnitId>,
    /// Name of this relay in its unit. Required. Two relays of a unit have two names.
    pub name: Option<RelayName>,
    /// Folder for sockets and, later, queues. A relative path starts at the folder of the configuration
    /// file. Default `data`.
    pub data_dir: PathBuf,
    /// Threads that carry calls. Default 0: one for each core.
    pub shards: usize,
    /// How long running calls may take to finish after SIGTERM or `POST /drain`; then they are cut off.
    /// Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain_timeout: Duration,
    /// How often to look whether a file of the settings, a certificate, a key, a bundle or a revocation list has
    /// changed; what has not changed again by the next look is read, as on SIGHUP. Default `5s`; `0s`: on SIGHUP only.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub watch_interval: Duration,
    /// Where clients of users reach the gateways of this unit, such as `["wss://a.example.com/ws"]`, in the order in which they try;
    /// see `[access]`. Eight at most. Default none.
    pub access: Vec<String>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            geo: None,
            unit: None,
            name: None,
            data_dir: PathBuf::from("data"),
            shards: 0,
            drain_timeout: Duration::from_secs(30),
            watch_interval: Duration::from_secs(5),
            access: Vec::new(),
        }
    }
}

/// `[calls]`: for calls to services that have no `[services]` table here, such as those of other units.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    /// How long a call without a deadline may take until its first sign of being a stream. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// A stream without a deadline on which nothing moves for so long is ended. Default `5m`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// Longest life of a stream without a deadline, however busy. Default `1day`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub duration_max: Duration,
    /// What becomes of calls without a key: `reject`, `local` or `unit:<name>`. Default `reject`.
    pub missing_key: MissingKey,
    /// How calls of single services are routed, wherever these run.
    pub route: BTreeMap<ServiceName, CallRoute>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(5 * 60),
            duration_max: Duration::from_secs(24 * 60 * 60),
            missing_key: MissingKey::Reject,
            route: BTreeMap::new(),
        }
    }
}
