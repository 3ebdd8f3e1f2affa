//! `[access]` in `config/relay.toml`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Name;

/// `[access]`: where clients of users connect. Gateways at the edge of a unit ask their relay for it, `strait.v1.Access`; `access` of
/// `[relay]` and `[units.<name>]` says where the units' gateways are.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The dimension of users, from `routing.dimensions`: its owner is a user's home unit. Default none: nobody can ask. Another one
    /// is in force after a restart.
    pub dimension: Option<Name>,
    /// Over what time the clients of users whose home has moved connect anew: each is given its own moment in it. Default `15s`, at
    /// most `10m`; `0s`: all at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub spread: Duration,
    /// Access points in the list of a user, those of the home first. Default 16; 1 to 64.
    pub points_max: usize,
    /// Users that gateways follow at this relay, all together, about half a KiB each; more are refused. Default 50000.
    pub users_max: usize,
}

impl Settings {
    /// Longest spread.
    pub const SPREAD_MAX: Duration = Duration::from_secs(10 * 60);
    /// Most access points in a list.
    pub const POINTS_MAX: usize = 64;
    /// Most access points of a unit.
    pub const UNIT_POINTS_MAX: usize = 8;
    /// Longest access point in bytes.
    pub const POINT_BYTES_MAX: usize = 255;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dimension: None,
            spread: Duration::from_secs(15),
            points_max: 16,
            users_max: 50_000,
        }
    }
}
