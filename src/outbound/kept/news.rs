//! What services of this unit are told of a call that is kept: a message of a topic of this unit, which subscribers get and, by a group
//! with `push`, a local service (R-3.11, steps 3 and 4). Pure.
//!
//! # Invariants
//! - N1. Nobody is told of a call that is not on disk.
//! - N2. It is on its way before the call is answered: of two calls of a key of which one was made after the other was answered, the first
//!   is told first.
//! - N3. That nobody could be told changes nothing for the call.
//!
//! # Not here
//! How it comes there (`queue`), what the unit of the key says of the call later (`inbound::push`).

use bytes::Bytes;

use crate::model::{Key, MessageId, Metadata, MetadataBuilder, MetadataError, Topic, UnitId};
use crate::outbound::message::Tell;
use crate::wire::kept::KeptCall;

/// A call of which services of this unit are told once it is on disk.
pub(super) struct News {
    topic: Topic,
    /// The unit that it is kept for.
    owner: UnitId,
    key: Key,
    /// The caller's id of it.
    id: Vec<u8>,
    method: String,
    executed: bool,
    /// How the message in the body is compressed, as its caller said; empty if it is not.
    encoding: Vec<u8>,
    body: Bytes,
}

impl News {
    /// Of a call that is kept for a unit, with its key and its caller's id.
    pub(super) fn of(call: &KeptCall, owner: &UnitId, (key, id): (&Key, &[u8]), topic: &Topic) -> Self {
        let (is_compressed, body) = message_of(call);
        let encoding = Metadata::parse(call.metadata.clone()).ok().filter(|_| is_compressed);
        let encoding = encoding.and_then(|fields| fields.value("grpc-encoding").map(<[u8]>::to_vec));
        Self {
            topic: topic.clone(),
            owner: owner.clone(),
            // Not a part of what was read.
            key: Key {
                dimension: Bytes::copy_from_slice(&key.dimension),
                key: Bytes::copy_from_slice(&key.key),
            },
            id: id.to_vec(),
            method: call.name(),
            executed: call.executed,
            encoding: encoding.unwrap_or_default(),
            body: Bytes::copy_from_slice(body),
        }
    }

    /// As a message for this unit; the call is stored as `ticket`.
    ///
    /// # Errors
    /// Its parts fit into no message.
    pub(super) fn tell(self, unit: &UnitId, ticket: &MessageId) -> Result<Tell, MetadataError> {
        let ticket = ticket.to_string();
        let mut fields = MetadataBuilder::new();
        // A call that is made again, and was stored once, is told once. No notice of a refusal has this source.
        fields.push(b"source", format!("strait.calls/kept/{unit}").as_bytes())?;
        fields.push(b"id", ticket.as_bytes())?;
        fields.push(b"type", b"strait.call.kept")?;
        fields.push(b"subject", self.method.as_bytes())?;
        fields.push(b"ticket", ticket.as_bytes())?;
        fields.push(b"callid", &self.id)?;
        fields.push(b"owner", self.owner.as_str().as_bytes())?;
        fields.push(b"onfailure", if self.executed { b"local" } else { b"park" })?;
        fields.push(b"provisional", b"true")?;
        if !self.encoding.is_empty() {
            fields.push(b"grpcencoding", &self.encoding)?;
        }
        Ok(Tell {
            unit: unit.clone(),
            topic: self.topic,
            key: self.key,
            attributes: fields.build(),
            body: self.body,
        })
    }
}

/// The one message of a call without what gRPC puts before it, and whether it is compressed.
fn message_of(call: &KeptCall) -> (bool, &[u8]) {
    match call.body.split_at_checked(PREFIX_BYTES) {
        Some((prefix, message)) if call.grpc => (prefix.first() == Some(&1), message),
        _ => (false, &call.body),
    }
}

const PREFIX_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crossing::testing;
    use crate::model::{Envelope, Name};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn told(change: impl FnOnce(&mut KeptCall)) -> Tell {
        let key = Key {
            dimension: "uid".into(),
            key: "1".into(),
        };
        let mut fields = MetadataBuilder::new();
        fields.push(b"grpc-encoding", b"gzip").unwrap();
        fields.push(b"authorization", b"secret").unwrap();
        let mut request = testing::request("/im.Room/Post");
        request.envelope = Envelope::Grpc;
        request.metadata = fields.build();
        request.body.chunk = Bytes::from_static(b"\0\0\0\0\x05hello");
        let mut call = KeptCall::of(&request, &name("uid"), true);
        change(&mut call);
        let ticket = MessageId {
            unit: name("a"),
            relay: name("a-1"),
            epoch: 1,
            number: 7,
        };
        let news = News::of(&call, &name("b"), (&key, b"order-9"), &name("im.kept"));
        news.tell(&name("a"), &ticket).unwrap()
    }

    // whoever hears of a call can tell that it is not final, whose it is, and which one will be applied or refused later.
    #[test]
    fn services_of_the_unit_hear_what_was_kept_for_whom_and_that_it_is_not_final() {
        let tell = told(|_| {});
        assert_eq!((&tell.unit, &tell.topic), (&name("a"), &name("im.kept")));
        assert_eq!((&tell.key.dimension[..], &tell.key.key[..]), (&b"uid"[..], &b"1"[..]));
        assert_eq!(&tell.body[..], b"hello");
        for (field, value) in [
            ("type", "strait.call.kept"),
            ("source", "strait.calls/kept/a"),
            ("id", "a/a-1/0000000000000001/7"),
            ("ticket", "a/a-1/0000000000000001/7"),
            ("subject", "im.Room/Post"),
            ("callid", "order-9"),
            ("owner", "b"),
            ("onfailure", "local"),
            ("provisional", "true"),
        ] {
            assert_eq!(tell.attributes.text(field), Some(value), "{field}");
        }
        for field in ["grpcencoding", "authorization"] {
            assert_eq!(tell.attributes.text(field), None, "{field}");
        }
        assert_eq!(
            told(|call| call.executed = false).attributes.text("onfailure"),
            Some("park")
        );
    }

    #[test]
    fn the_body_is_the_message_as_its_caller_wrote_it() {
        let compressed = told(|call| call.body = Bytes::from_static(b"\x01\0\0\0\x02zz"));
        assert_eq!(&compressed.body[..], b"zz");
        assert_eq!(compressed.attributes.text("grpcencoding"), Some("gzip"));
        let framed = told(|call| call.grpc = false);
        assert_eq!(&framed.body[..], b"\0\0\0\0\x05hello");
        assert_eq!(framed.attributes.text("grpcencoding"), None);
    }
}
