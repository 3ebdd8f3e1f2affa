//! `[log]` in `config/relay.toml`.

use serde::{Deserialize, Serialize};

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How lines look. Default `auto`.
    pub format: Format,
    /// Lowest level per module, such as `info,strait::peer=debug`. Can be changed at run time with
    /// `PUT /log` at the admin address. Default `info`.
    pub level: String,
    /// Share of calls that get an access-log line at each relay they pass, from 0.0 to 1.0. All relays
    /// choose the same calls. Each line costs a few microseconds. Default 0.0.
    pub access: f64,
    /// Whether calls that carry a sampled `traceparent` get a span of this relay as a log line with the
    /// target `strait::span`. If not, `traceparent` passes unchanged. Default false.
    pub spans: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: "info".to_owned(),
            access: 0.0,
            spans: false,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `human` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    Human,
    /// One JSON object per line.
    Json,
}
