//! Whether a message keeps the rules, and its parts as the queue takes them.
//!
//! A small message is copied into a block of its own: it may wait for long, and as a slice it would hold the whole
//! buffer it was read into, which is many times its size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::topics::Known;
use crate::model::{AckLevel, Key, Metadata, MetadataBuilder, Name, Reason, RelayError, Retry, UnixMillis};
use crate::wire::messages::{self, Attribute, MessageKey, PublishRequest};

/// Attributes of a message.
pub(super) const ATTRIBUTES_MAX: usize = 64;
/// Bytes of their names and values: services that messages are pushed to take header blocks of 8 KiB, as a rule.
pub(super) const ATTRIBUTE_BYTES_MAX: usize = 8 * 1024;
/// Longest key.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// A message that keeps the rules.
pub(super) struct Checked {
    pub(super) key: Option<Key>,
    pub(super) attributes: Metadata,
    pub(super) body: Bytes,
    pub(super) deadline: Option<UnixMillis>,
    pub(super) wait: AckLevel,
    pub(super) wait_max: Option<Duration>,
}

impl Checked {
    pub(super) fn new(request: PublishRequest, known: &Known) -> Result<Self, RelayError> {
        let size = size(&request);
        if size > known.bytes_max {
            let detail = format!(
                "the message has {size} bytes, attributes included; topic {} takes {} (message_bytes_max)",
                known.topic, known.bytes_max
            );
            return Err(RelayError::new(Reason::TooLarge, Retry::Never, detail));
        }
        let wait = match messages::AckLevel::try_from(request.wait) {
            Ok(messages::AckLevel::Unspecified | messages::AckLevel::Accepted) => AckLevel::Accepted,
            Ok(messages::AckLevel::Relayed) => AckLevel::Relayed,
            Ok(messages::AckLevel::Delivered) => AckLevel::Delivered,
            Err(_) => return Err(bad(format!("wait is {}, which is no AckLevel", request.wait))),
        };
        let attributes = attributes(&request.attributes)?;
        let expires = (request.expires_at_ms > 0).then_some(UnixMillis(request.expires_at_ms));
        let deadline = match (expires, expiry_of(&attributes)?) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let key = request.key.map(key).transpose()?;
        let (key, body) = compact(key, request.body);
        Ok(Self {
            key,
            attributes,
            body,
            deadline,
            wait,
            wait_max: (request.wait_ms > 0).then(|| Duration::from_millis(request.wait_ms.into())),
        })
    }
}

fn size(request: &PublishRequest) -> usize {
    let key = request.key.as_ref();
    let key = key.map_or(0, |key| key.dimension.len() + key.key.len());
    let attributes = request.attributes.iter();
    let attributes: usize = attributes.map(|one| one.name.len() + one.value.len()).sum();
    key + attributes + request.body.len()
}

fn attributes(given: &[Attribute]) -> Result<Metadata, RelayError> {
    if given.is_empty() {
        return Ok(Metadata::default());
    }
    let bytes: usize = given.iter().map(|one| one.name.len() + one.value.len()).sum();
    if given.len() > ATTRIBUTES_MAX || bytes > ATTRIBUTE_BYTES_MAX {
        let detail = format!(
            "the message has {} attributes of {bytes} bytes together; {ATTRIBUTES_MAX} of {ATTRIBUTE_BYTES_MAX} bytes are \
             possible, the rest belongs into the body",
            given.len()
        );
        return Err(RelayError::new(Reason::TooLarge, Retry::Never, detail));
    }
    let mut block = MetadataBuilder::with_capacity(bytes + 3 * given.len());
    for Attribute { name, value } in given {
        let is_name = !name.is_empty()
            && name
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !is_name {
            return Err(bad(
                "the name of an attribute is not one of CloudEvents: only a-z and 0-9, without \"ce-\"",
            ));
        }
        let is_text = std::str::from_utf8(value).is_ok_and(|text| !text.chars().any(char::is_control));
        if !is_text || block.push(name, value).is_err() {
            let name = String::from_utf8_lossy(name);
            return Err(bad(format!(
                "attribute {name} is no text without control characters, as CloudEvents wants it"
            )));
        }
    }
    Ok(block.build())
}

/// The end that the attribute `expirytime` names (M-E2).
fn expiry_of(attributes: &Metadata) -> Result<Option<UnixMillis>, RelayError> {
    let Some(text) = attributes.value("expirytime") else {
        return Ok(None);
    };
    let time = std::str::from_utf8(text)
        .ok()
        .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .ok_or_else(|| bad("attribute expirytime is no time as RFC 3339 writes it, such as 2030-01-01T00:00:00Z"))?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    // Before 1970 is over, too.
    Ok(Some(UnixMillis(u64::try_from(millis).unwrap_or(0))))
}

fn key(given: MessageKey) -> Result<Key, RelayError> {
    let dimension = std::str::from_utf8(&given.dimension).unwrap_or("\u{0}");
    Name::new(dimension).map_err(|error| bad(format!("the dimension of the key is not a name: {error}")))?;
    if given.key.is_empty() || given.key.len() > KEY_BYTES_MAX {
        let len = given.key.len();
        return Err(bad(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {len}")));
    }
    Ok(Key {
        dimension: given.dimension,
        key: given.key,
    })
}

/// Key and body of a small message in a block of their own.
fn compact(key: Option<Key>, body: Bytes) -> (Option<Key>, Bytes) {
    if body.len() > COPIED_MAX {
        let own = |part: &Bytes| Bytes::copy_from_slice(part);
        let key = key.map(|key| Key {
            dimension: own(&key.dimension),
            key: own(&key.key),
        });
        return (key, body);
    }
    let (dimension_len, key_len) = key.as_ref().map_or((0, 0), |key| (key.dimension.len(), key.key.len()));
    let mut block = BytesMut::with_capacity(dimension_len + key_len + body.len());
    if let Some(key) = &key {
        block.extend_from_slice(&key.dimension);
        block.extend_from_slice(&key.key);
    }
    block.extend_from_slice(&body);
    let mut block = block.freeze();
    let key = key.map(|_| Key {
        dimension: block.split_to(dimension_len),
        key: block.split_to(key_len),
    });
    (key, block)
}

fn bad(detail: impl Into<String>) -> RelayError {
    RelayError::new(Reason::BadInput, Retry::Never, detail)
}

/// A longer body is a good part of what it was read into.
const COPIED_MAX: usize = 8 * 1024;
