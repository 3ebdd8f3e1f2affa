//! What the local service answers, until it is whole; and the answers to calls that were kept. Pure.

use bytes::{Bytes, BytesMut};

use crate::model::{Ending, Envelope, MessageId, Metadata, MetadataBuilder, Part, ReplyBody, wants_credit};
use crate::wire::envelope::grpc_prefix;
use crate::wire::kept::mark_provisional;

/// A reply that is not whole yet.
#[derive(Default)]
pub(super) struct Reply {
    head: Option<(u16, Metadata)>,
    body: BytesMut,
}

/// What a part did to a reply.
pub(super) enum Added {
    /// More is to come, for which the service wants so much credit.
    More(usize),
    /// It is larger than [`BYTES_MAX`].
    TooLarge,
    /// It is whole.
    Whole(Box<Part>),
}

impl Reply {
    /// More of it.
    pub(super) fn add(&mut self, part: Part) -> Added {
        self.head = self.head.take().or(part.head);
        let bytes = part.body.0.len();
        if self.body.len() + bytes > BYTES_MAX {
            return Added::TooLarge;
        }
        self.body.extend_from_slice(&part.body.0);
        let Some(end) = part.end else {
            let credit = if wants_credit(bytes, false) { bytes } else { 0 };
            return Added::More(credit);
        };
        Added::Whole(Box::new(Part {
            head: self.head.take(),
            body: ReplyBody(std::mem::take(&mut self.body).freeze()),
            end: Some(end),
        }))
    }
}

/// The answer to a call that was executed in place of its unit.
pub(super) fn provisional(mut part: Part, ticket: &MessageId) -> Part {
    if let Some((_, head)) = &mut part.head {
        *head = with_ticket(&mark_provisional(head), ticket);
    } else if let Some(Ending { trailers, .. }) = &mut part.end {
        *trailers = with_ticket(&mark_provisional(trailers), ticket);
    }
    part
}

/// An empty message in place of an answer that there is not yet.
pub(super) fn parked(envelope: Envelope, ticket: &MessageId) -> Part {
    let is_grpc = envelope == Envelope::Grpc;
    let fields = |name: &[u8], value: &[u8]| {
        let mut fields = MetadataBuilder::new();
        if is_grpc {
            // Constants of ours.
            let _ = fields.push(name, value);
        }
        fields.build()
    };
    let body = if is_grpc {
        Bytes::copy_from_slice(&grpc_prefix(0))
    } else {
        Bytes::new()
    };
    Part {
        head: Some((200, with_ticket(&fields(b"content-type", b"application/grpc"), ticket))),
        body: ReplyBody(body),
        end: Some(Ending {
            trailers: fields(b"grpc-status", b"0"),
            ..Ending::default()
        }),
    }
}

fn with_ticket(block: &Metadata, ticket: &MessageId) -> Metadata {
    let mut fields = MetadataBuilder::from_block(block);
    // Names and numbers.
    let _ = fields.push(b"strait-ticket", ticket.to_string().as_bytes());
    fields.build()
}

/// Longest answer of a call that is executed in place of its unit: it waits in memory for the disk.
pub(super) const BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Code, Name};

    fn ticket() -> MessageId {
        MessageId {
            unit: Name::new("a").unwrap(),
            relay: Name::new("a-1").unwrap(),
            epoch: 1,
            number: 7,
        }
    }

    fn part(bytes: usize, end: bool) -> Part {
        Part {
            head: None,
            body: ReplyBody(Bytes::from(vec![b'x'; bytes])),
            end: end.then(Ending::default),
        }
    }

    #[test]
    fn a_reply_is_whole_with_its_end_and_never_larger_than_its_limit() {
        let mut reply = Reply::default();
        let head = Part {
            head: Some((200, Metadata::default())),
            ..Part::default()
        };
        assert!(matches!(reply.add(head), Added::More(0)));
        assert!(matches!(reply.add(part(70_000, false)), Added::More(70_000)));
        let Added::Whole(whole) = reply.add(part(3, true)) else {
            panic!("it has ended");
        };
        assert_eq!((whole.body.0.len(), whole.head.is_some()), (70_003, true));
        let mut reply = Reply::default();
        assert!(matches!(reply.add(part(BYTES_MAX, false)), Added::More(_)));
        assert!(matches!(reply.add(part(1, true)), Added::TooLarge));
    }

    // C-P1, C-P2
    #[test]
    fn answers_say_what_they_are_and_name_the_ticket() {
        let mut executed = part(1, true);
        executed.head = Some((200, Metadata::default()));
        let (_, head) = provisional(executed, &ticket()).head.unwrap();
        assert_eq!(head.text("strait-provisional"), Some("true"));
        assert_eq!(head.text("strait-ticket"), Some("a/a-1/0000000000000001/7"));
        let end = provisional(part(0, true), &ticket()).end.unwrap();
        assert_eq!(end.trailers.text("strait-provisional"), Some("true"));
        let answer = parked(Envelope::Grpc, &ticket());
        assert_eq!(&answer.body.0[..], b"\0\0\0\0\0");
        let end = answer.end.unwrap();
        assert_eq!((end.status, end.trailers.text("grpc-status")), (Code::Ok, Some("0")));
        let answer = parked(Envelope::Framed, &ticket());
        assert!(answer.body.0.is_empty() && answer.end.unwrap().trailers.is_empty());
    }
}
