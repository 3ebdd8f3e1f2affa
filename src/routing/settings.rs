//! `[routing]` in `config/relay.toml`.

use serde::{Deserialize, Serialize};

use crate::model::{Name, UnitId};

/// `[routing]`: which unit owns which keys.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Version of this table, carried by every forwarded call as its epoch. Raise it with every change of
    /// the rules: a relay asked with an older version tells the newer owner. Default 1.
    pub version: u64,
    /// Kinds of keys in order of precedence: a call with keys of several dimensions goes where the first
    /// of them says. Default: none, so only `strait-unit` and the services' `missing_key` decide.
    pub dimensions: Vec<Name>,
    /// Units a call may pass, the origin included, before it is refused as a loop. Default 4.
    pub hops_max: usize,
    /// Rules. Within a dimension a rule with `keys` wins over `prefix` (the longest wins), then `range`,
    /// then `hash`, then `default`; the order in the file does not matter. Default: none.
    pub rules: Vec<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 1,
            dimensions: Vec::new(),
            hops_max: 4,
            rules: Vec::new(),
        }
    }
}

/// `[[routing.rules]]`: gives some keys of a dimension to a unit. Exactly one of `keys`, `prefix`,
/// `range`, `hash` and `default` says which.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The dimension the rule is about; one of `routing.dimensions`.
    pub dimension: Name,
    /// The unit that owns the keys: one of `[units]`, or this relay's own.
    pub unit: UnitId,
    /// These keys, each exactly as callers send it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Keys that start with this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Keys that are decimal numbers from the first to the second value, both included, such as
    /// `["1000", "1999"]`. Keys with other characters than digits never match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[String; 2]>,
    /// Share of all keys in percent, from the first value up to but not including the second, such as
    /// `[0, 50]`. A key stays in its share for ever: it is hashed into one of 4096 buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<[f64; 2]>,
    /// `true`: all keys that no other rule of the dimension matches.
    #[serde(default, skip_serializing_if = "is_false")]
    pub default: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}
