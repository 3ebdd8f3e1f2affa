//! The part of etcd's API, version 3, that the route store needs: messages and paths, as `etcdserverpb/rpc.proto` of etcd has
//! them. Written down here so that no build needs a compiler of protobuf.
//!
//! # Not here
//! What is kept under which key (`control::etcd`).

use bytes::Bytes;
pub use prost::Message;
use prost::Oneof;

/// Reads keys.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// Compares, then reads and writes.
pub const TXN: &str = "/etcdserverpb.KV/Txn";
/// Tells what changes.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Makes a lease.
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
/// Ends a lease.
pub const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
/// Renews leases.
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// How long a lease has left.
pub const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";

/// On every answer.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct Header {
    /// Revision of the store.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key and what it has.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The revision that wrote it.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Its value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// Reads keys.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Range {
    /// The key, or the first.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The first that is not meant any more; empty: one key.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// How many at most; 0: all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// At which revision; 0: now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
}

/// What was read.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Ranged {
    /// Of the store.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// In the order of their keys.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Put {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease that it goes with; 0: none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// Removes keys.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Delete {
    /// The key, or the first.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The first that is not meant any more; empty: one key.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
}

/// Says nothing of interest.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct Nothing {}

/// A part of a transaction.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Operation {
    /// Which.
    #[prost(oneof = "Operate", tags = "1, 2, 3, 4")]
    pub operate: Option<Operate>,
}

/// What a part of a transaction does.
#[derive(Clone, Eq, PartialEq, Oneof)]
pub enum Operate {
    /// Reads.
    #[prost(message, tag = "1")]
    Range(Range),
    /// Writes.
    #[prost(message, tag = "2")]
    Put(Put),
    /// Removes.
    #[prost(message, tag = "3")]
    Delete(Delete),
    /// A transaction of its own.
    #[prost(message, tag = "4")]
    Txn(Txn),
}

/// How a part of a transaction went.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Operated {
    /// As was asked.
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4")]
    pub outcome: Option<Outcome>,
}

/// What a part of a transaction found.
#[derive(Clone, Eq, PartialEq, Oneof)]
pub enum Outcome {
    /// Read.
    #[prost(message, tag = "1")]
    Ranged(Ranged),
    /// Written.
    #[prost(message, tag = "2")]
    Put(Nothing),
    /// Removed.
    #[prost(message, tag = "3")]
    Deleted(Nothing),
    /// A transaction of its own.
    #[prost(message, tag = "4")]
    Txn(Txned),
}

/// What [`Compare::subject`] compares: the revision that wrote a key; 0 if it is not there.
pub const MOD_REVISION: i32 = 2;

/// Whether it is equal, by the default of a field that is left out here.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Compare {
    /// What.
    #[prost(int32, tag = "2")]
    pub subject: i32,
    /// Of which key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// With what; one of etcd's `oneof`, present even if 0.
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

/// Compares, then does one or the other.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Txn {
    /// All must hold.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// If they do.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<Operation>,
    /// If they do not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<Operation>,
}

/// How a transaction went.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Txned {
    /// Of the store; its own revision if it wrote.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Whether all held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One for each operation.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<Operated>,
}

/// Makes a lease.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct LeaseGrant {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
}

/// A lease by its number: to end, to renew, or to ask about.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct LeaseId {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// How a lease stands.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct Lease {
    /// Its number.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Seconds that are left; 0 or less: none.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
    /// Seconds it was granted, where that was asked; 0: there is none.
    #[prost(int64, tag = "4")]
    pub granted: i64,
}

/// A lease that was made. Not [`Lease`]: its fourth field is a text.
#[derive(Clone, Copy, Eq, PartialEq, Message)]
pub struct LeaseGranted {
    /// Its number.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// Asks to be told.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Watch {
    /// One of etcd's `oneof`.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreate>,
}

/// Of which keys, and since when.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct WatchCreate {
    /// The first.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The first that is not meant any more.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// The first revision.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
}

/// What changed. Without fragments, all of a revision is in one.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Watched {
    /// The watch has begun.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// It has ended because what came before this is not known any more.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it has ended.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// In the order of their revisions.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// A key was written or removed.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Event {
    /// 0: written, 1: removed.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// As it is now; of one that was removed the key and the revision.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}
