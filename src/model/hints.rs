//! What a caller says about where its call goes: keys, unit, class, and what to do if there is no key or no unit.

use std::fmt;

use bytes::Bytes;

use super::{Name, UnitId};

/// What the caller said about where the call should go and what may be done with it.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct RouteHints {
    /// Keys, each of a dimension; the order of dimensions in the settings decides which counts.
    pub keys: Vec<Key>,
    /// Go to this unit, if policy allows.
    pub unit: Option<UnitId>,
    /// Route tokens the client learnt earlier, as the value of a `strait-token` field; opaque here.
    pub token: Option<Bytes>,
    /// Priority class.
    pub class: Option<Class>,
    /// The method may be executed twice.
    pub idempotent: bool,
    /// What to do while the unit is away.
    pub on_failure: OnFailure,
}

impl fmt::Debug for RouteHints {
    /// Whether there is a token, not which: it says where a customer lives (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteHints")
            .field("keys", &self.keys)
            .field("unit", &self.unit)
            .field("has_token", &self.token.is_some())
            .field("class", &self.class)
            .field("idempotent", &self.idempotent)
            .field("on_failure", &self.on_failure)
            .finish()
    }
}

/// A business key.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Key {
    /// Kind of key, such as `im.conversation`.
    pub dimension: Bytes,
    /// The key itself.
    pub key: Bytes,
}

impl fmt::Debug for Key {
    /// The dimension only: keys name customers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=...", String::from_utf8_lossy(&self.dimension))
    }
}

/// Name of a priority class.
pub type Class = Name;

/// Name of a service, such as `im.Echo`.
pub type ServiceName = Name;

/// What to do with a call whose unit is away.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Answer with the error.
    #[default]
    Fail,
    /// Store it and replay it when the unit is back.
    Park,
    /// Let the local unit execute it, store it, and replay it when the unit is back.
    Local,
}

/// How a call that was parked is answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParkedAs {
    /// With `UNAVAILABLE`, `strait-error: parked` and the ticket.
    #[default]
    Unavailable,
    /// With `OK`, an empty message and the ticket.
    Ok,
}

/// By what a unit counts as away, of which this relay says so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AwayBy {
    /// This relay has no link to it, whatever others say.
    OwnLinks,
    /// More than half of the units that say something, this one among them, do not reach it.
    #[default]
    Quorum,
}

/// What the settings say about calls of a method whose unit is away.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WhileAway {
    /// What to do.
    pub on_failure: OnFailure,
    /// How those are answered that were parked.
    pub parked_as: ParkedAs,
    /// By what the unit counts as away.
    pub away_by: AwayBy,
}

impl OnFailure {
    /// Its name in the settings and in metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Park => "park",
            Self::Local => "local",
        }
    }

    /// What becomes of a call of which its caller wishes this: it can have it parked instead of executed, and nothing that the
    /// settings do not allow.
    #[must_use]
    pub fn wished(self, by_caller: Self) -> Self {
        match (self, by_caller) {
            (Self::Local, Self::Park) => Self::Park,
            (settings, _) => settings,
        }
    }
}

/// What a service wants done with calls that carry no key (C-R3).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum MissingKey {
    /// Refuse, and say which key is wanted.
    #[default]
    Reject,
    /// The local unit.
    Local,
    /// This unit.
    Unit(UnitId),
}

impl fmt::Display for MissingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.write_str("reject"),
            Self::Local => f.write_str("local"),
            Self::Unit(unit) => write!(f, "unit:{unit}"),
        }
    }
}

impl std::str::FromStr for MissingKey {
    type Err = MissingKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "reject" => Ok(Self::Reject),
            "local" => Ok(Self::Local),
            _ => text
                .strip_prefix("unit:")
                .and_then(|unit| UnitId::new(unit).ok())
                .map(Self::Unit)
                .ok_or_else(|| MissingKeyError(text.to_owned())),
        }
    }
}

/// A text that is none of the forms of [`MissingKey`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected \"reject\", \"local\" or \"unit:<name>\", not {0:?}")]
pub struct MissingKeyError(String);

impl serde::Serialize for MissingKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MissingKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for MissingKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MissingKey".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(reject|local|unit:[A-Za-z0-9._-]{1,255})$" })
    }
}
