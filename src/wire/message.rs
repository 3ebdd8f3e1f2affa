//! A message as bytes: the same in records of the queue and in batches between relays.
//!
//! ```text
//! attributes len u32 (big endian) | attributes (`wire::attributes`) | body
//!
//! tag 1 topic       text                    tag 6 accepted at  unix milliseconds
//! tag 2 key         dimension len u8 | dimension | key
//! tag 3 id: unit    text                    tag 7 deadline     unix milliseconds
//! tag 4 id: relay   text                    tag 8 visited      text, list
//! tag 5 id: epoch u64 | number u64          tag 9 redrives     number
//! tag 11 routed     number                   tag 10 attributes  metadata block
//! ```
//! Whoever holds the bytes knows how long they are: the record or the batch says it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::attributes::{self, AttributeError};
use super::names;
use crate::model::{Key, Message, MessageId, Metadata, MetadataError, Name, UnixMillis};

/// Units a message may have visited.
pub const VISITED_MAX: usize = 64;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Its attributes are broken.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// The bytes end too early.
    #[error("the message is cut off")]
    Cut,
    /// Its metadata is broken.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An attribute that each message has is not there.
    #[error("the message lacks {0}")]
    Missing(&'static str),
    /// It has visited more than [`VISITED_MAX`] units.
    #[error("the message has visited more units than the protocol allows")]
    TooMany,
}

/// Appends a message.
pub fn put(out: &mut BytesMut, message: &Message) {
    let start = out.len();
    out.put_u32(0);
    attributes::put_bytes(out, TOPIC, message.topic.as_str().as_bytes());
    if let Some(key) = &message.key {
        put_key(out, key);
    }
    attributes::put_bytes(out, ID_UNIT, message.id.unit.as_str().as_bytes());
    attributes::put_bytes(out, ID_RELAY, message.id.relay.as_str().as_bytes());
    let mut number = [0; 16];
    let mut rest = &mut number[..];
    rest.put_u64(message.id.epoch);
    rest.put_u64(message.id.number);
    attributes::put_bytes(out, ID_NUMBER, &number);
    attributes::put_number(out, ACCEPTED_AT, message.accepted_at.0);
    if let Some(deadline) = message.deadline {
        attributes::put_number(out, DEADLINE, deadline.0);
    }
    for unit in &message.visited {
        attributes::put_bytes(out, VISITED, unit.as_str().as_bytes());
    }
    if message.redrives > 0 {
        attributes::put_number(out, REDRIVES, u64::from(message.redrives));
    }
    if message.routed > 0 {
        attributes::put_number(out, ROUTED, message.routed);
    }
    if !message.attributes.is_empty() {
        attributes::put_bytes(out, ATTRIBUTES, message.attributes.as_bytes());
    }
    let len = u32::try_from(out.len() - start - LEN_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + LEN_BYTES) {
        place.copy_from_slice(&len.to_be_bytes());
    }
    out.put_slice(&message.body);
}

/// Reads a message that fills `bytes`; it keeps parts of them.
///
/// # Errors
/// [`MessageError`].
pub fn read(mut bytes: Bytes) -> Result<Message, MessageError> {
    if bytes.len() < LEN_BYTES {
        return Err(MessageError::Cut);
    }
    let len = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
    if bytes.len() < len {
        return Err(MessageError::Cut);
    }
    let block = bytes.split_to(len);
    let mut parts = Parts::default();
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = attributes::take(&mut rest)? {
        parts.take(tag, value, &block)?;
    }
    let (epoch, number) = parts.number.ok_or(MessageError::Missing("its number"))?;
    Ok(Message {
        id: MessageId {
            unit: parts.unit.ok_or(MessageError::Missing("the unit of its id"))?,
            relay: parts.relay.ok_or(MessageError::Missing("the relay of its id"))?,
            epoch,
            number,
        },
        topic: parts.topic.ok_or(MessageError::Missing("its topic"))?,
        key: parts.key,
        accepted_at: parts.accepted_at,
        deadline: parts.deadline,
        visited: parts.visited,
        redrives: parts.redrives,
        routed: parts.routed,
        attributes: parts.attributes,
        body: bytes,
    })
}

#[derive(Default)]
struct Parts {
    topic: Option<Name>,
    key: Option<Key>,
    unit: Option<Name>,
    relay: Option<Name>,
    number: Option<(u64, u64)>,
    accepted_at: UnixMillis,
    deadline: Option<UnixMillis>,
    visited: Vec<Name>,
    redrives: u32,
    routed: u64,
    attributes: Metadata,
}

impl Parts {
    fn take(&mut self, tag: u8, value: &[u8], block: &Bytes) -> Result<(), MessageError> {
        match tag {
            TOPIC => self.topic = Some(name(tag, value)?),
            KEY => self.key = Some(read_key(tag, value, block)?),
            ID_UNIT => self.unit = Some(name(tag, value)?),
            ID_RELAY => self.relay = Some(name(tag, value)?),
            ID_NUMBER => {
                let value: [u8; 16] = value.try_into().map_err(|_| AttributeError::Value(tag))?;
                let mut rest = &value[..];
                self.number = Some((rest.get_u64(), rest.get_u64()));
            }
            ACCEPTED_AT => self.accepted_at = UnixMillis(attributes::number(tag, value)?),
            DEADLINE => self.deadline = Some(UnixMillis(attributes::number(tag, value)?)),
            VISITED if self.visited.len() >= VISITED_MAX => return Err(MessageError::TooMany),
            VISITED => self.visited.push(name(tag, value)?),
            REDRIVES => {
                let redrives = attributes::number(tag, value)?;
                self.redrives = u32::try_from(redrives).map_err(|_| AttributeError::Value(tag))?;
            }
            ROUTED => self.routed = attributes::number(tag, value)?,
            ATTRIBUTES => self.attributes = Metadata::parse(block.slice_ref(value))?,
            _ => attributes::skip_unknown(tag)?,
        }
        Ok(())
    }
}

fn put_key(out: &mut BytesMut, key: &Key) {
    let mut value = BytesMut::with_capacity(1 + key.dimension.len() + key.key.len());
    // A dimension is a name: 255 bytes at most.
    value.put_u8(u8::try_from(key.dimension.len()).unwrap_or(u8::MAX));
    value.put_slice(&key.dimension);
    value.put_slice(&key.key);
    attributes::put_bytes(out, KEY, &value);
}

fn read_key(tag: u8, value: &[u8], block: &Bytes) -> Result<Key, AttributeError> {
    let (&len, rest) = value.split_first().ok_or(AttributeError::Value(tag))?;
    let (dimension, key) = rest
        .split_at_checked(usize::from(len))
        .ok_or(AttributeError::Value(tag))?;
    Ok(Key {
        dimension: block.slice_ref(dimension),
        key: block.slice_ref(key),
    })
}

fn name(tag: u8, value: &[u8]) -> Result<Name, AttributeError> {
    names::read(value).map_err(|_| AttributeError::Value(tag))
}

const LEN_BYTES: usize = 4;

const TOPIC: u8 = 1;
const KEY: u8 = 2;
const ID_UNIT: u8 = 3;
const ID_RELAY: u8 = 4;
const ID_NUMBER: u8 = 5;
const ACCEPTED_AT: u8 = 6;
const DEADLINE: u8 = 7;
const VISITED: u8 = 8;
const REDRIVES: u8 = 9;
const ATTRIBUTES: u8 = 10;
const ROUTED: u8 = 11;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::MetadataBuilder;

    fn any_name() -> impl Strategy<Value = Name> {
        "[A-Za-z0-9._-]{1,40}".prop_map(|text| Name::new(&text).unwrap())
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let ids = (any_name(), any_name(), any::<u64>(), any::<u64>());
        let key = proptest::option::of((any_name(), proptest::collection::vec(any::<u8>(), 0..300)));
        let visited = proptest::collection::vec(any_name(), 0..VISITED_MAX);
        let rest = (
            any::<u64>(),
            proptest::option::of(any::<u64>()),
            any::<u32>(),
            any::<u64>(),
        );
        let bytes = (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000));
        (ids, any_name(), key, visited, rest, bytes).prop_map(|(ids, topic, key, visited, rest, bytes)| {
            let mut attributes = MetadataBuilder::new();
            if bytes.0 {
                attributes.push(b"source", b"/im").unwrap();
                attributes.push(b"id", b"17").unwrap();
            }
            Message {
                id: MessageId {
                    unit: ids.0,
                    relay: ids.1,
                    epoch: ids.2,
                    number: ids.3,
                },
                topic,
                key: key.map(|(dimension, key)| Key {
                    dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                    key: key.into(),
                }),
                accepted_at: UnixMillis(rest.0),
                deadline: rest.1.map(UnixMillis),
                visited,
                redrives: rest.2,
                routed: rest.3,
                attributes: attributes.build(),
                body: bytes.1.into(),
            }
        })
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(message in any_message()) {
            let mut out = BytesMut::new();
            put(&mut out, &message);
            prop_assert_eq!(read(out.freeze()).unwrap(), message);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(bytes.into());
        }

        #[test]
        fn ids_are_read_as_they_are_shown(message in any_message()) {
            prop_assert_eq!(message.id.to_string().parse::<MessageId>().unwrap(), message.id);
        }
    }
}
