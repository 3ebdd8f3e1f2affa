//! The call that hands a message over: the body is the message, all else is metadata. Pure.
//!
//! ```text
//! ce-<attribute>     each CloudEvents attribute, as the HTTP binding of CloudEvents writes it (binary mode)
//!                    (`delivery::http1` makes datacontenttype the content-type)
//! strait-message-id  the same at each attempt
//! strait-topic, strait-group, strait-attempt (from 1 on)
//! strait-key         dimension=key, percent-encoded like attributes; the call's own key on framed connections
//! ```

use std::time::Instant;

use bytes::Bytes;

use crate::model::{
    Envelope, Facts, Message, Metadata, MetadataBuilder, MetadataError, Place, Request, RequestBody, RouteHints,
};
use crate::queue::api::Deliver;

/// The call. `times` are now and the deadline.
///
/// # Errors
/// Says why the message can never be handed over.
pub(super) fn request(
    path: &Bytes,
    deliver: Deliver,
    place: &Place,
    (now, deadline): (Instant, Option<Instant>),
) -> Result<Request, String> {
    let metadata = metadata(&deliver).map_err(|error| format!("the message cannot be written as a call: {error}"))?;
    let Message { key, body, .. } = deliver.message;
    Ok(Request {
        path: path.clone(),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata,
        hints: RouteHints {
            keys: key.into_iter().collect(),
            // At least once: whoever takes messages must stand one twice.
            idempotent: true,
            ..RouteHints::default()
        },
        facts: Facts {
            visited: vec![place.unit.clone()],
            attempt: u8::try_from(deliver.attempts).unwrap_or(u8::MAX),
            ..Facts::default()
        },
        received: now,
        deadline,
        body: RequestBody { chunk: body, end: true },
    })
}

fn metadata(deliver: &Deliver) -> Result<Metadata, MetadataError> {
    let message = &deliver.message;
    let mut fields = MetadataBuilder::with_capacity(message.attributes.as_bytes().len() + 512);
    let mut name = Vec::with_capacity(32);
    for (attribute, value) in message.attributes.iter() {
        name.clear();
        name.extend_from_slice(b"ce-");
        name.extend_from_slice(attribute);
        if is_plain(value) {
            fields.push(&name, value)?;
        } else {
            fields.push(&name, &encoded(value))?;
        }
    }
    fields.push(b"strait-message-id", message.id.to_string().as_bytes())?;
    fields.push(b"strait-topic", message.topic.as_str().as_bytes())?;
    fields.push(b"strait-group", deliver.group.as_str().as_bytes())?;
    let attempt = deliver.attempts.saturating_add(1).to_string();
    fields.push(b"strait-attempt", attempt.as_bytes())?;
    if let Some(key) = &message.key {
        let mut text = key.dimension.to_vec();
        text.push(b'=');
        text.extend_from_slice(&encoded(&key.key));
        fields.push(b"strait-key", &text)?;
    }
    Ok(fields.build())
}

/// Whether a value stands in a header as it is.
fn is_plain(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%'))
}

/// Percent-encoded as the HTTP binding of `CloudEvents` says (3.1.3.2).
fn encoded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        if is_plain(&[*byte]) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Key, MessageId, Name, UnixMillis};
    use crate::queue::api::{ConsumerId, DeliveryId};

    fn deliver() -> Deliver {
        let name = |text| Name::new(text).unwrap();
        let mut attributes = MetadataBuilder::new();
        attributes.push(b"source", b"/im").unwrap();
        attributes.push(b"subject", "100% \u{e9}".as_bytes()).unwrap();
        attributes.push(b"datacontenttype", b"application/json").unwrap();
        Deliver {
            shard: 0,
            consumer: ConsumerId(1),
            delivery: DeliveryId { seq: 1, stamp: 1 },
            attempts: 2,
            group: name("g"),
            visibility_timeout: Duration::from_secs(30),
            message: Message {
                id: MessageId {
                    unit: name("a"),
                    relay: name("a-1"),
                    epoch: 1,
                    number: 7,
                },
                topic: name("t"),
                key: Some(Key {
                    dimension: Bytes::from_static(b"uid"),
                    key: Bytes::from_static(b"a b"),
                }),
                accepted_at: UnixMillis(0),
                deadline: None,
                visited: vec![name("a")],
                redrives: 0,
                routed: 0,
                attributes: attributes.build(),
                body: Bytes::from_static(b"hello"),
            },
        }
    }

    // M-A1: binary mode, as the bindings of CloudEvents write it.
    #[test]
    fn a_message_becomes_a_call_with_its_attributes_as_fields() {
        let now = tokio::time::Instant::now().into_std();
        let place = Place {
            unit: Name::new("a").unwrap(),
            relay: Name::new("a-1").unwrap(),
        };
        let path = Bytes::from_static(b"/im.Sink/Receive");
        let request = request(&path, deliver(), &place, (now, None)).unwrap();
        assert_eq!(&request.body.chunk[..], b"hello");
        for (name, value) in [
            ("ce-source", "/im"),
            ("ce-subject", "100%25%20%C3%A9"),
            ("ce-datacontenttype", "application/json"),
            ("strait-message-id", "a/a-1/0000000000000001/7"),
            ("strait-topic", "t"),
            ("strait-group", "g"),
            ("strait-attempt", "3"),
            ("strait-key", "uid=a%20b"),
        ] {
            assert_eq!(request.metadata.text(name), Some(value), "{name}");
        }
        assert_eq!(&request.hints.keys[0].key[..], b"a b");
    }
}
