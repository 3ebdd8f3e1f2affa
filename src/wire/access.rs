//! The messages of the `strait.v1.Access` API, as `proto/strait/v1/access.proto` documents them.
//!
//! # Not here
//! What is answered (`control::access`).

use bytes::Bytes;
use prost::Message;

/// The service's name.
pub const SERVICE: &str = "strait.v1.Access";
/// Where the client of a user connects.
pub const LIST: &str = "/strait.v1.Access/List";
/// Where users are at home, and whose clients should connect elsewhere.
pub const ATTACH: &str = "/strait.v1.Access/Attach";
/// `access.proto`, compiled, for gRPC reflection. `tests/proto.rs` keeps it fresh.
pub const DESCRIPTORS: &[u8] = include_bytes!("../../proto/access.descriptors");

/// An address that clients can connect to.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct AccessPoint {
    /// The unit it leads to.
    #[prost(string, tag = "1")]
    pub unit: String,
    /// It.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// How it stands with a user.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct UserAccess {
    /// The user.
    #[prost(bytes = "bytes", tag = "1")]
    pub user: Bytes,
    /// The home unit; empty if nobody is known to be.
    #[prost(string, tag = "2")]
    pub home: String,
    /// Of what says so.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// It is frozen on its way.
    #[prost(bool, tag = "4")]
    pub moving: bool,
    /// In the order in which to try.
    #[prost(message, repeated, tag = "5")]
    pub points: Vec<AccessPoint>,
    /// Why there is no home.
    #[prost(string, tag = "6")]
    pub detail: String,
}

/// Where does the client of this user connect?
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ListRequest {
    /// The user.
    #[prost(bytes = "bytes", tag = "1")]
    pub user: Bytes,
}

/// There.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ListReply {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub access: Option<UserAccess>,
}

/// A user whose client a gateway has.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct AttachedUser {
    /// The user.
    #[prost(bytes = "bytes", tag = "1")]
    pub user: Bytes,
    /// The home that was told last.
    #[prost(string, tag = "2")]
    pub home: String,
}

/// Tell me of these.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct AttachRequest {
    /// Each for itself.
    #[prost(message, repeated, tag = "1")]
    pub users: Vec<AttachedUser>,
}

/// The client of a user should connect to another unit.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ReAttach {
    /// The user.
    #[prost(bytes = "bytes", tag = "1")]
    pub user: Bytes,
    /// The new home.
    #[prost(string, tag = "2")]
    pub unit: String,
    /// Where the client belonged before.
    #[prost(string, tag = "3")]
    pub previous: String,
    /// Of what says so.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// In the order in which to try.
    #[prost(message, repeated, tag = "5")]
    pub points: Vec<AccessPoint>,
    /// How long from now the client should wait, in milliseconds.
    #[prost(uint64, tag = "6")]
    pub after_ms: u64,
    /// Over what time all clients that move spread, in milliseconds.
    #[prost(uint64, tag = "7")]
    pub within_ms: u64,
}

/// What is new to who follows users.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct AccessUpdate {
    /// Users whose clients stay where they are.
    #[prost(message, repeated, tag = "1")]
    pub users: Vec<UserAccess>,
    /// Users whose clients do not.
    #[prost(message, repeated, tag = "2")]
    pub advice: Vec<ReAttach>,
    /// Of the copy that says so.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}
