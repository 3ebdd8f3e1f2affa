//! The messages of the `strait.v1.Messages` API, as `proto/strait/v1/messages.proto` documents them.
//!
//! Texts that come in are kept as slices of what was received and checked where they are used: a message that is
//! published costs no allocation for each of its attributes.
//!
//! # Not here
//! What the fields may hold (`outbound::message`), framing of several messages (`envelope`).

use bytes::{Bytes, BytesMut};
use prost::Message;

/// The service's name.
pub const SERVICE: &str = "strait.v1.Messages";
/// The service that framed consumers are called by.
pub const SUBSCRIBER: &str = "strait.v1.Subscriber";
/// `messages.proto`, compiled: a `google.protobuf.FileDescriptorSet` for gRPC reflection. `tests/proto.rs` keeps it fresh.
pub const DESCRIPTORS: &[u8] = include_bytes!("../../proto/messages.descriptors");
/// The path of a call that hands a message to a framed consumer.
pub const RECEIVE: &str = "/strait.v1.Subscriber/Receive";

/// How far a message has come.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub enum AckLevel {
    /// As a wish: accepted.
    Unspecified = 0,
    /// On this relay's disk.
    Accepted = 1,
    /// On the disk of a relay of each unit it goes to.
    Relayed = 2,
    /// Acknowledged by a consumer of each group.
    Delivered = 3,
}

/// What "on disk" means.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub enum Durability {
    /// Not said.
    Unspecified = 0,
    /// The disk has said so.
    Group = 1,
    /// The operating system has it.
    Buffered = 2,
}

/// The business key of a message.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct MessageKey {
    /// Kind of key.
    #[prost(bytes = "bytes", tag = "1")]
    pub dimension: Bytes,
    /// The key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

/// An entry of `map<string, string>`.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Attribute {
    /// Its name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// A message to publish.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct PublishRequest {
    /// Its topic.
    #[prost(bytes = "bytes", tag = "1")]
    pub topic: Bytes,
    /// Its key.
    #[prost(message, optional, tag = "2")]
    pub key: Option<MessageKey>,
    /// `CloudEvents` attributes.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<Attribute>,
    /// Opaque.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
    /// Milliseconds since 1970; 0 = as the topic says.
    #[prost(uint64, tag = "5")]
    pub expires_at_ms: u64,
    /// What to wait for.
    #[prost(enumeration = "AckLevel", tag = "6")]
    pub wait: i32,
    /// Longest wait in milliseconds; 0 = the call's deadline.
    #[prost(uint32, tag = "7")]
    pub wait_ms: u32,
    /// Comes back in the reply of a stream.
    #[prost(uint64, tag = "8")]
    pub number: u64,
}

/// How far a message came.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct PublishReply {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// How far.
    #[prost(enumeration = "AckLevel", tag = "2")]
    pub level: i32,
    /// It had been accepted before.
    #[prost(bool, tag = "3")]
    pub duplicate: bool,
    /// How safely it is stored.
    #[prost(enumeration = "Durability", tag = "4")]
    pub durability: i32,
    /// Of the request.
    #[prost(uint64, tag = "5")]
    pub number: u64,
    /// Why it did not come as far as wished.
    #[prost(message, optional, tag = "6")]
    pub error: Option<PublishError>,
}

/// Why a message of a batch or stream did not come as far as wished.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct PublishError {
    /// A reason of relays.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// For a person.
    #[prost(string, tag = "2")]
    pub message: String,
    /// `safe`, `ambiguous` or `never`.
    #[prost(string, tag = "3")]
    pub retry: String,
    /// Wait so long before.
    #[prost(uint64, tag = "4")]
    pub pushback_ms: u64,
}

/// Messages to publish.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct PublishBatchRequest {
    /// The messages.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<PublishRequest>,
}

/// What became of them.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct PublishBatchReply {
    /// One for each request.
    #[prost(message, repeated, tag = "1")]
    pub replies: Vec<PublishReply>,
}

/// What a consumer says.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct SubscribeRequest {
    /// One of these.
    #[prost(oneof = "Say", tags = "1, 2, 3, 4, 5")]
    pub request: Option<Say>,
}

/// What a consumer says.
#[derive(Clone, Eq, PartialEq, prost::Oneof)]
pub enum Say {
    /// First of all.
    #[prost(message, tag = "1")]
    Start(Start),
    /// These are done.
    #[prost(message, tag = "2")]
    Ack(Ack),
    /// This one failed.
    #[prost(message, tag = "3")]
    Nack(Nack),
    /// This one failed for good.
    #[prost(message, tag = "4")]
    Terminate(Terminate),
    /// This one needs more time.
    #[prost(message, tag = "5")]
    Extend(Extend),
}

/// Begins a subscription.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Start {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The group.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Messages at a time; 0 = 64.
    #[prost(uint32, tag = "3")]
    pub in_flight_max: u32,
}

/// Deliveries are done.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Ack {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub deliveries: Vec<u64>,
}

/// A delivery failed.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Nack {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub delivery: u64,
    /// Wished pause.
    #[prost(uint64, optional, tag = "2")]
    pub delay_ms: Option<u64>,
    /// For a person.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// A delivery failed for good.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Terminate {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub delivery: u64,
    /// For a person.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// A delivery takes longer.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Extend {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub delivery: u64,
}

/// A message for a consumer.
#[derive(Clone, Eq, PartialEq, Message)]
pub struct Received {
    /// To settle it by.
    #[prost(uint64, tag = "1")]
    pub delivery: u64,
    /// From 1 on.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    /// Its id.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Its topic.
    #[prost(string, tag = "4")]
    pub topic: String,
    /// Its key.
    #[prost(message, optional, tag = "5")]
    pub key: Option<MessageKey>,
    /// `CloudEvents` attributes.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<Attribute>,
    /// Opaque.
    #[prost(bytes = "bytes", tag = "7")]
    pub body: Bytes,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    pub accepted_at_ms: u64,
    /// Milliseconds since 1970; 0 = never.
    #[prost(uint64, tag = "9")]
    pub expires_at_ms: u64,
    /// Milliseconds.
    #[prost(uint64, tag = "10")]
    pub visibility_timeout_ms: u64,
}

/// The bytes are not the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the bytes are not the message that messages.proto documents")]
pub struct Malformed;

/// Reads a message; fields of bytes are slices of `bytes`.
///
/// # Errors
/// [`Malformed`].
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|_| Malformed)
}

/// Has bytes on the wire. For modules that do not know protobuf.
pub trait Encode {
    /// The message, bare.
    fn to_bytes(&self) -> Bytes;
    /// The message in gRPC framing.
    fn to_prefixed_bytes(&self) -> Bytes;
}

impl<M: Message> Encode for M {
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        // A BytesMut grows: there is always room.
        let _ = self.encode(&mut out);
        out.freeze()
    }

    fn to_prefixed_bytes(&self) -> Bytes {
        let len = self.encoded_len();
        let prefix = super::envelope::grpc_prefix(len);
        let mut out = BytesMut::with_capacity(prefix.len() + len);
        out.extend_from_slice(&prefix);
        let _ = self.encode(&mut out);
        out.freeze()
    }
}
