//! How load and consumers speak to the servers: bytes in, bytes out, so that the loops around it are the same for all.

use bytes::{Bytes, BytesMut};

/// One side of one connection of a publisher or of a consumer.
pub trait Speech {
    /// First words.
    fn greet(&mut self, out: &mut BytesMut);

    /// Publishes; the answer names `slot`, which is free till then.
    fn put_publish(&mut self, out: &mut BytesMut, slot: u32, what: &Outgoing<'_>);

    /// Asks for all messages of all topics, so many at a time.
    fn put_subscribe(&mut self, out: &mut BytesMut, in_flight: usize);

    /// Acknowledges a message.
    fn put_ack(&mut self, out: &mut BytesMut, ack: &Ack);

    /// Where to read into.
    fn buffer(&mut self) -> &mut BytesMut;

    /// The next thing that came, if it came whole. What it needs to answer for the protocol's sake goes to `out`.
    fn next(&mut self, out: &mut BytesMut) -> Option<Heard>;
}

/// A message to publish.
pub struct Outgoing<'a> {
    /// Which topic, from 0.
    pub topic: u32,
    /// Which key, from 0.
    pub key: u32,
    /// The body.
    pub body: &'a Bytes,
}

/// What came.
pub enum Heard {
    /// The message of this slot is stored as far as was asked.
    Stored(u32),
    /// It is not.
    Refused(u32, String),
    /// A message for the consumer.
    Message(Bytes, Ack),
}

/// How a message is acknowledged.
pub enum Ack {
    /// By a message to this subject.
    Subject(Bytes),
    /// By the reply to this call.
    Call(u64),
}

/// Writes number and time into the first bytes of a body of this length.
pub fn body(pattern: &Bytes, number: u64, nanos: u64) -> Bytes {
    let mut body = BytesMut::from(&pattern[..]);
    body[..8].copy_from_slice(&number.to_be_bytes());
    body[8..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
    body.freeze()
}

/// Number and time of a body; fails if it is not one of `pattern`'s.
pub fn stamp(body: &[u8], pattern: &[u8]) -> (u64, u64) {
    assert_eq!(body.len(), pattern.len(), "a message came with another length");
    assert!(
        body[STAMP_BYTES..] == pattern[STAMP_BYTES..],
        "a message came with other bytes"
    );
    let number = |from: usize| u64::from_be_bytes(body[from..from + 8].try_into().unwrap());
    (number(0), number(8))
}

/// Bytes that every body begins with.
pub const STAMP_BYTES: usize = 16;
