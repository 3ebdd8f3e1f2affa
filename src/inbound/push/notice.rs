//! What the unit that kept a call is told if its owner refuses it: a message of the topic that the unit's settings named. Pure.
//!
//! # Not here
//! How it comes there (`queue`): it is on this relay's disk before the call is a dead letter.

use crate::model::{Key, Message, Metadata, MetadataBuilder, MetadataError, Name, Topic, UnitId};
use crate::wire::kept::KeptCall;

/// A call of which its unit wants to know if it is refused.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    unit: UnitId,
    topic: Topic,
    key: Key,
    ticket: String,
    method: String,
    id: Vec<u8>,
    executed: bool,
}

/// What a unit is told of a call that it kept.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The unit that kept it.
    pub unit: UnitId,
    /// The topic.
    pub topic: Topic,
    /// The call's key.
    pub key: Key,
    /// Which call it was, and how it ended, as attributes of a `CloudEvents` message.
    pub attributes: Metadata,
    /// What the owner said, for people.
    pub text: String,
}

impl Wanted {
    /// Of a call that came in this message; `None` if nobody is to be told.
    pub(super) fn of(call: &KeptCall, message: &Message) -> Option<Self> {
        let topic = Name::new(&call.rejected_to).ok()?;
        Some(Self {
            unit: message.id.unit.clone(),
            topic,
            key: message.key.clone()?,
            ticket: message.id.to_string(),
            method: call.name(),
            id: message.attributes.value("id").unwrap_or_default().to_vec(),
            executed: call.executed,
        })
    }

    /// The call was refused by `owner` with this code.
    ///
    /// # Errors
    /// Its parts fit into no message.
    pub(super) fn refused(self, owner: &UnitId, code: &str, text: &str) -> Result<Notice, MetadataError> {
        let mut fields = MetadataBuilder::new();
        // Each attempt to tell is the same message.
        fields.push(b"source", format!("strait.calls/{owner}").as_bytes())?;
        fields.push(b"id", self.ticket.as_bytes())?;
        fields.push(b"type", b"strait.call.rejected")?;
        fields.push(b"subject", self.method.as_bytes())?;
        fields.push(b"datacontenttype", b"text/plain")?;
        fields.push(b"ticket", self.ticket.as_bytes())?;
        fields.push(b"callid", &self.id)?;
        fields.push(b"code", code.as_bytes())?;
        fields.push(b"owner", owner.as_str().as_bytes())?;
        fields.push(b"onfailure", if self.executed { b"local" } else { b"park" })?;
        Ok(Notice {
            unit: self.unit,
            topic: self.topic,
            key: self.key,
            attributes: fields.build(),
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::crossing::testing;
    use crate::model::{MessageId, UnixMillis};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    // who kept a call can tell which one it was, by its ticket and by the caller's id, and why it was refused.
    #[test]
    fn a_notice_goes_to_the_unit_that_kept_the_call_and_says_which_it_was() {
        let key = Key {
            dimension: "uid".into(),
            key: "1".into(),
        };
        let mut call = KeptCall::of(&testing::request("/im.Room/Post"), &name("uid"), true);
        let message = Message {
            id: MessageId {
                unit: name("a"),
                relay: name("a-1"),
                epoch: 1,
                number: 7,
            },
            topic: name("strait.calls"),
            key: Some(key.clone()),
            accepted_at: UnixMillis(1),
            deadline: None,
            visited: Vec::new(),
            redrives: 0,
            routed: 0,
            attributes: call.attributes(&key, b"order-9").unwrap(),
            body: Bytes::new(),
        };
        assert!(Wanted::of(&call, &message).is_none(), "nobody wants to know");
        call.rejected_to = "im.rejected".to_owned();
        let wanted = Wanted::of(&call, &message).unwrap();
        let notice = wanted
            .refused(&name("b"), "NotFound", "im.Room/Post: NotFound: no such room")
            .unwrap();
        assert_eq!(
            (&notice.unit, &notice.topic, &notice.key),
            (&name("a"), &name("im.rejected"), &key)
        );
        assert_eq!(notice.text, "im.Room/Post: NotFound: no such room");
        for (field, value) in [
            ("type", "strait.call.rejected"),
            ("source", "strait.calls/b"),
            ("id", "a/a-1/0000000000000001/7"),
            ("ticket", "a/a-1/0000000000000001/7"),
            ("subject", "im.Room/Post"),
            ("callid", "order-9"),
            ("code", "NotFound"),
            ("owner", "b"),
            ("onfailure", "local"),
        ] {
            assert_eq!(notice.attributes.text(field), Some(value), "{field}");
        }
    }
}
