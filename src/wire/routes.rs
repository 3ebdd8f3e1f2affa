//! The messages of the `strait.v1.Routes` API, as `proto/strait/v1/routes.proto` documents them.
//!
//! # Not here
//! What is answered (`control::keys`).

use bytes::Bytes;
use prost::Message;

/// The service's name.
pub const SERVICE: &str = "strait.v1.Routes";
/// Who owns a key.
pub const RESOLVE: &str = "/strait.v1.Routes/Resolve";
/// Binds a key.
pub const CLAIM: &str = "/strait.v1.Routes/Claim";
/// Who owns keys, and changes of that.
pub const WATCH: &str = "/strait.v1.Routes/WatchRoutes";
/// `routes.proto`, compiled, for gRPC reflection. `tests/proto.rs` keeps it fresh.
pub const DESCRIPTORS: &[u8] = include_bytes!("../../proto/routes.descriptors");

/// A key of a dimension.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct RouteKey {
    /// Kind of key.
    #[prost(string, tag = "1")]
    pub dimension: String,
    /// The key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

/// Who owns a key.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Route {
    /// The key.
    #[prost(message, optional, tag = "1")]
    pub key: Option<RouteKey>,
    /// The owner; empty if nobody is known to be.
    #[prost(string, tag = "2")]
    pub unit: String,
    /// Since when.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// It is frozen on its way.
    #[prost(bool, tag = "4")]
    pub moving: bool,
    /// What to send along with calls.
    #[prost(string, tag = "5")]
    pub token: String,
    /// Why there is no owner.
    #[prost(string, tag = "6")]
    pub detail: String,
}

/// Who owns a key?
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ResolveRequest {
    /// The keys of a call.
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<RouteKey>,
}

/// The owner.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ResolveReply {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub route: Option<Route>,
}

/// Bind a key to this unit.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ClaimRequest {
    /// The key.
    #[prost(message, optional, tag = "1")]
    pub key: Option<RouteKey>,
}

/// Who has it.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct ClaimReply {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub route: Option<Route>,
    /// This unit has it.
    #[prost(bool, tag = "2")]
    pub won: bool,
}

/// Tell me who owns these.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct WatchRoutesRequest {
    /// Each for itself.
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<RouteKey>,
}

/// Owners that are new to who watches.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct RouteUpdate {
    /// They.
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<Route>,
    /// Of the copy that says so.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}
