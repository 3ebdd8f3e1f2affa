//! How replies look in both envelopes.

use bytes::Bytes;

use crate::model::{Ending, Metadata, MetadataBuilder, Part, RelayError, ReplyBody, Retry};
use crate::outbound::Published;
use crate::queue::api::Progress;
use crate::wire::envelope;
use crate::wire::messages::{AckLevel, Durability, Encode, PublishError, PublishReply};

/// The parts of replies that are always the same.
pub(super) struct Replies {
    head: Metadata,
    trailers: Metadata,
}

impl Replies {
    pub(super) fn new() -> Self {
        let mut head = MetadataBuilder::new();
        // A legal constant.
        let _ = head.push(b"content-type", b"application/grpc");
        Self {
            head: head.build(),
            trailers: envelope::grpc_trailers(&Ending::default()),
        }
    }

    /// A whole reply with one message.
    pub(super) fn whole(&self, is_grpc: bool, message: &impl Encode) -> Part {
        Part {
            head: Some((200, self.head_of(is_grpc))),
            body: ReplyBody(encode(is_grpc, message)),
            end: Some(self.ending(is_grpc)),
        }
    }

    /// The beginning of a stream.
    pub(super) fn head(&self, is_grpc: bool) -> Part {
        Part {
            head: Some((200, self.head_of(is_grpc))),
            ..Part::default()
        }
    }

    /// The end of a stream that went well.
    pub(super) fn end(&self, is_grpc: bool, has_head: bool) -> Part {
        Part {
            head: (!has_head).then(|| (200, self.head_of(is_grpc))),
            end: Some(self.ending(is_grpc)),
            ..Part::default()
        }
    }

    fn head_of(&self, is_grpc: bool) -> Metadata {
        if is_grpc {
            self.head.clone()
        } else {
            Metadata::default()
        }
    }

    fn ending(&self, is_grpc: bool) -> Ending {
        Ending {
            trailers: if is_grpc {
                self.trailers.clone()
            } else {
                Metadata::default()
            },
            ..Ending::default()
        }
    }
}

/// Some of a stream.
pub(super) fn more(bytes: Bytes) -> Part {
    Part {
        body: ReplyBody(bytes),
        ..Part::default()
    }
}

/// A message of a stream, or the one of a reply.
pub(super) fn encode(is_grpc: bool, message: &impl Encode) -> Bytes {
    if is_grpc {
        message.to_prefixed_bytes()
    } else {
        message.to_bytes()
    }
}

/// What is told of a publication.
pub(super) fn published(end: &Published, number: u64) -> PublishReply {
    let mut reply = end.progress.as_ref().map(reached).unwrap_or_default();
    reply.number = number;
    reply.error = end.error.as_deref().map(failure);
    reply
}

/// What is told of a publication that was refused.
pub(super) fn refused(error: &RelayError, number: u64) -> PublishReply {
    PublishReply {
        number,
        error: Some(failure(error)),
        ..PublishReply::default()
    }
}

fn reached(progress: &Progress) -> PublishReply {
    let level = match progress.level {
        crate::model::AckLevel::Accepted => AckLevel::Accepted,
        crate::model::AckLevel::Relayed => AckLevel::Relayed,
        crate::model::AckLevel::Delivered => AckLevel::Delivered,
    };
    let durability = if progress.buffered {
        Durability::Buffered
    } else {
        Durability::Group
    };
    PublishReply {
        id: progress.id.to_string(),
        level: level.into(),
        duplicate: progress.duplicate,
        durability: durability.into(),
        ..PublishReply::default()
    }
}

fn failure(error: &RelayError) -> PublishError {
    let retry = match error.retry {
        Retry::Ambiguous => "ambiguous",
        Retry::Never => "never",
        Retry::Safe => "safe",
    };
    let pushback = error.pushback.map_or(0, |pushback| pushback.as_millis());
    PublishError {
        reason: error.reason.as_str().to_owned(),
        message: error.detail.clone(),
        retry: retry.to_owned(),
        pushback_ms: u64::try_from(pushback).unwrap_or(u64::MAX),
    }
}
