//! Route tokens: what a client keeps about a key, so that a relay need not ask the store who has it (R-3.6).
//!
//! ```text
//!   0       1     2     4           6        14         20         24      25      26        42
//!   +-------+-----+-----+-----------+--------+----------+----------+-------+-------+---------+
//!   | ver 4 | kid | geo | unit, or  | epoch  | as of    | issued   | life- | flags |   MAC   |
//!   | kind 4|     |     | 0: follow |        | revision | at, s    | time  |       |         |
//!   +-------+-----+-----+-----------+--------+----------+----------+-------+-------+---------+
//! ```
//! Numbers are big-endian, the text is base64url without padding, 56 characters. Version and kind are 1. Flags from the lowest
//! bit: follow, from a claim, provisional, canary. Lifetimes: 0 usual, 1 short, 2 long.
//!
//! ```text
//! day key = BLAKE3 derive_key("strait 2026 route token day key", master (32) | geo (2) | day since 1970 (4))
//! MAC     = BLAKE3 keyed(day key, "rt1" | bytes 0..26 | dimension | length of the key (4) | key), the first 16 bytes
//! ```
//! No character of a dimension is a zero byte, as the first byte of the length is, so two pairs of dimension and key never
//! give the same text.
//!
//! # Path
//! A call's `strait-token` fields go through [`presented`] and [`Ring::open`]; the [`Token`] is then evidence like any other:
//! its target as of its revision (R-3.4), which [`Brought`] gives to whoever resolves the call. [`Grounds`] say which token the
//! answer carries along, and [`Ring::issue`] makes it.
//!
//! # Invariants
//! - T1. What was not signed for this dimension, this key and this Geo is no token, whatever bit differs (R-I7).
//! - T2. A token is a hint, never a permission: without one, or with garbage, a call goes the way of all others, and
//!   [`Refused`] is for a counter only.
//! - T3. How long a comparison takes tells nothing of a MAC, and no secret is ever shown.
//! - T4. Time is an argument: seconds since 1970.
//!
//! # Not here
//! Whether a token is still right (the copy of the routes), and tokens between Geos (kind 2, which is refused).

mod answer;
mod brought;
mod field;
mod layout;
mod lifetime;
mod metrics;
mod ring;
mod secrets;
mod statement;
#[cfg(test)]
mod tests;

pub use answer::{Grounds, Occasion, is_claimed, may_have_tokens};
pub use brought::{Brought, Check, CheckOutcome, With};
pub use field::{PRESENTED_MAX, Presented, field, presented};
pub use layout::{Flags, Text, Token, TokenTarget};
pub use lifetime::{AS_OF_AGE_MAX, Lifetime};
pub use metrics::{TokenCounts, TokenSeries};
pub use ring::Ring;
pub use secrets::{Secrets, SecretsError, SecretsProblem};

/// Why a text is no token. For a counter; callers never see it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Refused {
    /// It was signed, but by somebody who writes what this relay does not know.
    Contents,
    /// No key of that day is in use: too old, or from the future.
    Day,
    /// Characters that no token has.
    Encoding,
    /// Its time is over.
    Expired,
    /// The field has another form than `dimension;token`.
    Field,
    /// Of another Geo.
    Geo,
    /// Of a kind that this relay does not know.
    Kind,
    /// Too short or too long.
    Length,
    /// Not signed by a key of this Geo, or for another dimension or key.
    Mac,
    /// More than [`PRESENTED_MAX`] in one call.
    Many,
    /// Of a version that this relay does not know.
    Version,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Contents,
        Self::Day,
        Self::Encoding,
        Self::Expired,
        Self::Field,
        Self::Geo,
        Self::Kind,
        Self::Length,
        Self::Mac,
        Self::Many,
        Self::Version,
    ];

    /// Label of the counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contents => "contents",
            Self::Day => "day",
            Self::Encoding => "encoding",
            Self::Expired => "expired",
            Self::Field => "field",
            Self::Geo => "geo",
            Self::Kind => "kind",
            Self::Length => "length",
            Self::Mac => "mac",
            Self::Many => "many",
            Self::Version => "version",
        }
    }
}
