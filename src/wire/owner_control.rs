//! The messages of the `strait.v1.OwnerControl` API, which applications implement, as `proto/strait/v1/owner_control.proto`
//! documents them.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

/// What a question is about.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Node {
    /// The dimension; empty of a unit.
    #[prost(string, tag = "1")]
    pub dimension: String,
    /// What of it.
    #[prost(oneof = "What", tags = "2, 3, 4, 5")]
    pub what: Option<What>,
}

/// What of a dimension moves.
#[derive(Clone, Eq, PartialEq, prost::Oneof)]
pub enum What {
    /// One key.
    #[prost(bytes = "bytes", tag = "2")]
    Key(Bytes),
    /// The keys of a bucket that no other decision names.
    #[prost(uint32, tag = "3")]
    Bucket(u32),
    /// The keys of a rule that no other decision names.
    #[prost(uint32, tag = "4")]
    Rule(u32),
    /// All keys of a unit.
    #[prost(string, tag = "5")]
    Unit(String),
}

/// A question; the method says which.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct HookRequest {
    /// Number of the move, 16 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub r#move: String,
    /// What moves.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// The unit that had it before; empty if that is not one.
    #[prost(string, tag = "3")]
    pub from: String,
    /// The unit that is to have it.
    #[prost(string, tag = "4")]
    pub to: String,
    /// Revision of the decision that the question follows.
    #[prost(uint64, tag = "5")]
    pub revision: u64,
}

/// The answer to all questions but `Lag`.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct HookReply {
    /// Not done yet: ask again.
    #[prost(bool, tag = "1")]
    pub pending: bool,
    /// For people.
    #[prost(string, tag = "2")]
    pub detail: String,
}

/// The answer to `Lag`.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct LagReply {
    /// Changes that are not copied.
    #[prost(uint64, tag = "1")]
    pub changes: u64,
    /// Their bytes.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Age of the oldest, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub time_ms: u64,
    /// It cannot be said yet: ask again.
    #[prost(bool, tag = "4")]
    pub pending: bool,
    /// For people.
    #[prost(string, tag = "5")]
    pub detail: String,
}

impl HookRequest {
    /// As bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl HookReply {
    /// Reads an answer; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

impl LagReply {
    /// Reads an answer; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    /// The age of the oldest change.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.time_ms)
    }
}
