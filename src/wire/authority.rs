//! The messages of `strait.control.v1.Authority`, as `proto/strait/control/v1/control.proto` documents them.
//!
//! # Not here
//! What the JSON in them means (`control::question`).

use bytes::Bytes;
use prost::Message;

/// The service's name.
pub const SERVICE: &str = "strait.control.v1.Authority";
/// The path of a question with one answer.
pub const ASK: &str = "/strait.control.v1.Authority/Ask";
/// The path of a question whose answers go on.
pub const WATCH: &str = "/strait.control.v1.Authority/Watch";

/// What is asked.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Question {
    /// As JSON.
    #[prost(bytes = "bytes", tag = "1")]
    pub json: Bytes,
}

/// A part of an answer.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Piece {
    /// Part of the JSON.
    #[prost(bytes = "bytes", tag = "1")]
    pub json: Bytes,
    /// Whether the answer ends here.
    #[prost(bool, tag = "2")]
    pub last: bool,
}
