//! One call of the API.

use std::time::Instant;

use super::publish::{Batch, Stream};
use super::reader::Reader;
use super::subscribe::Subscriber;
use super::{Parts, bad};
use crate::model::{CallerRef, Envelope, Reason, RelayError, Request, Retry};
use crate::wire::envelope::EnvelopeError;

/// A call that has not ended.
pub(super) struct Call {
    pub(super) caller: CallerRef,
    pub(super) is_grpc: bool,
    pub(super) reader: Reader,
    /// Bytes of the request that the caller has no credit for yet.
    pub(super) owed: usize,
    pub(super) has_head: bool,
    /// When the caller stops waiting, if it says so.
    pub(super) deadline: Option<Instant>,
    /// The same, or what the settings say instead.
    pub(super) limit: Option<Instant>,
    pub(super) kind: Kind,
}

/// What it is.
pub(super) enum Kind {
    /// `Publish` or `PublishBatch`, whose message is still to come.
    Unary(Method),
    /// `Publish`: the number of the publication.
    Single(u64),
    Batch(Batch),
    Stream(Stream),
    /// `Subscribe`, which has not said what.
    Subscribing,
    Consumer(Box<Subscriber>),
}

/// Unary methods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Method {
    Publish,
    Batch,
}

/// What a further message of a call is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Unary,
    Answering,
    Stream,
    Subscribe,
}

impl Kind {
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Unary(_) => Name::Unary,
            Self::Single(_) | Self::Batch(_) => Name::Answering,
            Self::Stream(_) => Name::Stream,
            Self::Subscribing | Self::Consumer(_) => Name::Subscribe,
        }
    }
}

impl Call {
    /// The call that a request begins.
    pub(super) fn new(request: &Request, caller: CallerRef, parts: &Parts) -> Result<Self, RelayError> {
        let is_grpc = request.envelope == Envelope::Grpc;
        let kind = match request.method() {
            Some("Publish") => Kind::Unary(Method::Publish),
            Some("PublishBatch") => Kind::Unary(Method::Batch),
            Some("PublishStream") if is_grpc => Kind::Stream(Stream::default()),
            Some("Subscribe") if is_grpc => Kind::Subscribing,
            Some("PublishStream") => {
                return Err(bad(
                    "PublishStream is a stream: use gRPC, or many Publish calls at a time",
                ));
            }
            Some("Subscribe") => {
                return Err(bad(
                    "Subscribe is a stream: use gRPC, or register a subscription (REGISTER, `subscriptions`)",
                ));
            }
            _ => {
                let detail = "strait.v1.Messages has Publish, PublishBatch, PublishStream and Subscribe only";
                return Err(RelayError::new(Reason::UnknownService, Retry::Never, detail));
            }
        };
        let message_bytes = parts.publishers.message_bytes_max() + ENVELOPE_BYTES;
        let bytes_max = match kind {
            Kind::Unary(Method::Batch) => message_bytes.max(BATCH_BYTES),
            Kind::Subscribing => SAID_BYTES,
            _ => message_bytes,
        };
        Ok(Self {
            caller,
            is_grpc,
            reader: Reader::new(is_grpc, bytes_max),
            owed: 0,
            has_head: false,
            deadline: request.deadline,
            limit: request.deadline.or(request.received.checked_add(parts.timeout)),
            kind,
        })
    }

    /// Whether what came is not looked at for now, because too much is under way (M3).
    pub(super) fn is_full(&self) -> bool {
        match &self.kind {
            Kind::Stream(stream) => stream.is_full(),
            _ => false,
        }
    }
}

/// The body of a request is not what it should be.
pub(super) fn unreadable(error: &EnvelopeError) -> RelayError {
    let (reason, detail) = match error {
        EnvelopeError::TooLong { size, limit } => (
            Reason::TooLarge,
            format!("a request message has {size} bytes, {limit} are possible (queue.message_bytes_max)"),
        ),
        EnvelopeError::Compressed => (
            Reason::BadInput,
            "the request is compressed, which this API does not read; send it without compression".to_owned(),
        ),
        other => (Reason::BadInput, other.to_string()),
    };
    RelayError::new(reason, Retry::Never, detail)
}

/// What a request may have beside the message: names, numbers, lengths.
const ENVELOPE_BYTES: usize = 16 * 1024;
/// A batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a consumer says at a time.
const SAID_BYTES: usize = 64 * 1024;
