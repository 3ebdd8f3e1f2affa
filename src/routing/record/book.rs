//! Dimensions, units and rules, as they are published for all relays of a Geo.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HookSpec, Rev};
use crate::model::{Name, UnitId};
use crate::routing::Rule;

/// What all relays of a Geo resolve with. Publishing one never changes an owner by itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Book {
    /// Units; a unit's position plus one is its number in tokens, so units are only ever added at the end.
    pub units: Vec<UnitId>,
    /// Kinds of keys in order of precedence.
    pub dimensions: Vec<DimensionSpec>,
    /// Rules with ids that are never used again.
    pub rules: Vec<(u32, Rule)>,
    /// Of rules by id whose keys had their owner by other rules before: since when, at the latest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<u32, Rev>,
}

/// A kind of key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionSpec {
    /// Its name.
    pub name: Name,
    /// How a key that nothing was decided about gets its owner.
    #[serde(default)]
    pub placement: Placement,
    /// How long a relay that lost the store goes on admitting writes (R-D7). Default 20 s.
    #[serde(default)]
    pub owner_lease: Lease,
    /// Whether reads wait too while a key is frozen. Default: they go on at the source.
    #[serde(default)]
    pub freeze_reads: bool,
    /// Not read: whether a call may be executed locally while its owner is away is said for each method by the relay that takes it
    /// (`calls.route` in its settings). Kept so that books that say it can be read. Default: no.
    #[serde(default)]
    pub local_mode: LocalMode,
    /// What to do with a new key while claims cannot be stored. Default: refuse.
    #[serde(default)]
    pub claim_fallback: Fallback,
    /// Longest key in bytes. Default 256.
    #[serde(default = "key_bytes_max")]
    pub key_bytes_max: u16,
    /// The application that takes part in moves of its keys. Default: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookSpec>,
}

impl DimensionSpec {
    /// Longest key in bytes, if nothing else is said.
    pub const KEY_BYTES_MAX: u16 = 256;

    /// With all defaults.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            placement: Placement::default(),
            owner_lease: Lease::default(),
            freeze_reads: false,
            local_mode: LocalMode::default(),
            claim_fallback: Fallback::default(),
            key_bytes_max: key_bytes_max(),
            hooks: None,
        }
    }
}

/// How a key that nothing was decided about gets its owner.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// By the rules.
    #[default]
    Rules,
    /// The first writer claims it; rules of the dimension win where they match. New keys go where the first of these rules
    /// that fits says, else to the unit that claims.
    Claim(Vec<PlacementRule>),
}

/// Where new keys go (S8, S11).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementRule {
    /// Only for calls with this class. Default: all.
    pub class: Option<Name>,
    /// Only for keys that begin with this. Default: all.
    pub prefix: Option<String>,
    /// Only for this percentage of keys, by their hash. Default 100.
    pub percent: Option<u8>,
    /// Units by weight. Empty: the owner of the key of dimension `follow`, or the unit that claims.
    pub to: Vec<Share>,
    /// Follow the owner of this dimension's key of the same call.
    pub follow: Option<Name>,
}

/// A unit and its weight.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The unit.
    pub unit: UnitId,
    /// Its share of the sum.
    pub weight: u16,
}

/// How long a relay that lost the store goes on admitting writes for keys it owns. A duration of whole seconds such as
/// `20s`, 7 s or more, or `infinite`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lease {
    /// So many seconds.
    Seconds(u32),
    /// For ever: then nobody takes its keys over by force.
    Infinite,
}

impl Lease {
    /// Its length; `None` if it never ends.
    pub fn length(self) -> Option<Duration> {
        match self {
            Self::Seconds(seconds) => Some(Duration::from_secs(seconds.into())),
            Self::Infinite => None,
        }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::Seconds(20)
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> Self {
        match lease {
            Lease::Seconds(seconds) => format!("{seconds}s"),
            Lease::Infinite => INFINITE.to_owned(),
        }
    }
}

impl TryFrom<String> for Lease {
    type Error = LeaseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == INFINITE {
            return Ok(Self::Infinite);
        }
        let length = humantime::parse_duration(&text).ok();
        let seconds = length
            .filter(|length| length.subsec_nanos() == 0)
            .and_then(|length| u32::try_from(length.as_secs()).ok());
        seconds
            .filter(|seconds| *seconds >= LEASE_SECONDS_MIN)
            .map(Self::Seconds)
            .ok_or(LeaseError(text))
    }
}

impl schemars::JsonSchema for Lease {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Lease".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// A text that is no lease.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected whole seconds, 7 or more, such as \"20s\", or \"infinite\", not {0:?}")]
pub struct LeaseError(String);

/// What `local_mode` of a dimension may say; nobody reads it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LocalMode {
    /// No.
    #[default]
    Deny,
    /// Yes; what was done is replayed to the owner.
    Allow,
}

/// What to do with a new key while claims cannot be stored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Refuse; the caller tries again.
    #[default]
    Deny,
    /// The unit that every relay computes alike from the units it knows; claimed later.
    Deterministic,
}

fn key_bytes_max() -> u16 {
    DimensionSpec::KEY_BYTES_MAX
}

const INFINITE: &str = "infinite";
/// Below it, a pause of the store that everybody survives today would stop writes.
const LEASE_SECONDS_MIN: u32 = 7;
