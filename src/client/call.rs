//! What a call and its ending look like to the program.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{
    Code, Ending, Envelope, Facts, Key, Metadata, MetadataBuilder, MetadataError, Name, NameError, OnFailure, Part,
    RelayError, ReplyBody, Request, RequestBody, Retry, RouteHints, Source,
};

/// How a call ended.
pub(super) type Outcome = Result<Reply, CallError>;

/// A call to make. Cloning is cheap: bytes are shared.
#[derive(Clone)]
pub struct Call {
    path: Bytes,
    hints: RouteHints,
    metadata: Metadata,
    body: Bytes,
    timeout: Option<Duration>,
    invalid: Option<InvalidCall>,
}

/// What of a call breaks a rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCall {
    /// Not `package.Service/Method`.
    #[error("a method looks like im.Echo/Say")]
    Method,
    /// A dimension, unit or class breaks the name rule.
    #[error("{0}")]
    Name(NameError),
    /// A metadata field is not allowed.
    #[error("{0}")]
    Metadata(MetadataError),
}

/// Why a call did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The deadline passed. `sent`: whether the service may have acted.
    #[error("the deadline passed")]
    Deadline {
        /// The request was sent.
        sent: bool,
    },
    /// The call cannot be expressed.
    #[error("invalid call")]
    Invalid(#[source] InvalidCall),
    /// The connection broke after the request was sent. The service may have acted.
    #[error("the connection to the relay broke while the call was under way: {0}")]
    Lost(String),
    /// A relay ended the call.
    #[error("{0}")]
    Relay(Box<RelayError>),
    /// The service answered with an error.
    #[error("{0}")]
    Status(Box<Status>),
    /// The reply is longer than the client's limit.
    #[error("the reply has more than {limit} bytes; raise message_bytes_max")]
    TooLarge {
        /// As the builder says.
        limit: usize,
    },
}

/// Reply of a service.
#[derive(Clone, Default)]
pub struct Reply {
    metadata: Metadata,
    body: Bytes,
    trailers: Metadata,
}

/// Error of a service.
#[derive(Clone, Debug, Default, thiserror::Error)]
#[error("the service answered {code:?}: {message}")]
pub struct Status {
    /// gRPC status code.
    pub code: Code,
    /// Text for a person.
    pub message: String,
    /// Further metadata.
    pub trailers: Metadata,
}

/// A call that came to a service of this client.
pub struct Received {
    request: Request,
}

impl Call {
    /// A call of `package.Service/Method`.
    pub fn new(method: &str) -> Self {
        let method = method.strip_prefix('/').unwrap_or(method);
        let valid = method
            .rsplit_once('/')
            .is_some_and(|(s, m)| !s.is_empty() && !m.is_empty());
        Self {
            path: Bytes::from(format!("/{method}")),
            hints: RouteHints::default(),
            metadata: Metadata::default(),
            body: Bytes::new(),
            timeout: None,
            invalid: (!valid).then_some(InvalidCall::Method),
        }
    }

    /// Routes by a key; repeatable, the relay's order of dimensions decides.
    #[must_use]
    pub fn key(mut self, dimension: &str, key: impl AsRef<[u8]>) -> Self {
        if let Some(dimension) = self.name(dimension) {
            self.hints.keys.push(Key {
                dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                key: Bytes::copy_from_slice(key.as_ref()),
            });
        }
        self
    }

    /// Goes to this unit, if policy allows.
    #[must_use]
    pub fn unit(mut self, unit: &str) -> Self {
        self.hints.unit = self.name(unit);
        self
    }

    /// Priority class.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        self.hints.class = self.name(class);
        self
    }

    /// Route tokens learnt elsewhere, as the value of a `strait-token` field. Those of its own hottest keys a client sends by
    /// itself; this one is sent in their place.
    #[must_use]
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.hints.token = Some(token.into());
        self
    }

    /// The method may be executed twice: relays may try again when they cannot know.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.hints.idempotent = true;
        self
    }

    /// What to do while the unit is away. Default: fail.
    #[must_use]
    pub fn on_failure(mut self, what: OnFailure) -> Self {
        self.hints.on_failure = what;
        self
    }

    /// Adds a metadata field; the name in lower case.
    #[must_use]
    pub fn metadata(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut fields = MetadataBuilder::from_block(&self.metadata);
        match fields.push(name.as_bytes(), value.as_ref()) {
            Ok(()) => self.metadata = fields.build(),
            Err(error) => self.invalid = Some(InvalidCall::Metadata(error)),
        }
        self
    }

    /// The message, encoded.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// How long to wait for the reply, sending included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(super) fn hints_mut(&mut self) -> &mut RouteHints {
        &mut self.hints
    }

    pub(super) fn timeout_or(&self, default: Duration) -> Duration {
        // A deadline that the clock cannot express is as good as this one.
        self.timeout
            .unwrap_or(default)
            .min(Duration::from_secs(365 * 24 * 3600))
    }

    pub(super) fn into_request(self, now: Instant, deadline: Instant) -> Result<Request, CallError> {
        if let Some(invalid) = self.invalid {
            return Err(CallError::Invalid(invalid));
        }
        Ok(Request {
            path: self.path,
            authority: Bytes::new(),
            envelope: Envelope::Framed,
            metadata: self.metadata,
            hints: self.hints,
            facts: Facts::default(),
            received: now,
            deadline: Some(deadline),
            body: RequestBody {
                chunk: self.body,
                end: true,
            },
        })
    }

    fn name(&mut self, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.invalid = Some(InvalidCall::Name(error));
                None
            }
        }
    }
}

impl CallError {
    /// Whether making the call again can make a service act twice.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Closed | Self::Deadline { sent: false } => Retry::Safe,
            Self::Invalid(_) | Self::Status(_) | Self::TooLarge { .. } => Retry::Never,
            Self::Lost(_) | Self::Deadline { sent: true } => Retry::Ambiguous,
            Self::Relay(error) => error.retry,
        }
    }
}

impl Reply {
    /// A reply with this message.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// A reply with initial metadata as well.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// A reply with trailing metadata as well.
    #[must_use]
    pub fn with_trailers(mut self, trailers: Metadata) -> Self {
        self.trailers = trailers;
        self
    }

    /// The message.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The message, without the rest.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Initial metadata; relays put `strait-unit` here, and of replies without trailers `strait-token`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Trailing metadata; relays put `strait-token` here.
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// What a reply from the wire means for the caller.
    pub(super) fn from_wire(metadata: Metadata, body: Bytes, end: Ending) -> Outcome {
        if end.status == Code::Ok {
            return Ok(Self {
                metadata,
                body,
                trailers: end.trailers,
            });
        }
        Err(CallError::Status(Box::new(Status {
            code: end.status,
            message: String::from_utf8_lossy(&end.message).into_owned(),
            trailers: end.trailers,
        })))
    }

    /// The one part, but for its body, that says what a handler said; and the body.
    pub(super) fn into_wire(result: Result<Self, Status>) -> (Part, Bytes) {
        let (metadata, body, end) = match result {
            Ok(reply) => {
                let end = Ending {
                    trailers: reply.trailers,
                    ..Ending::default()
                };
                (reply.metadata, reply.body, end)
            }
            Err(status) => {
                let end = Ending {
                    // An error that says OK would be taken for a success.
                    status: if status.code == Code::Ok {
                        Code::Unknown
                    } else {
                        status.code
                    },
                    message: status.message.into(),
                    trailers: status.trailers,
                    ..Ending::default()
                };
                (Metadata::default(), Bytes::new(), end)
            }
        };
        let part = Part {
            head: Some((200, metadata)),
            body: ReplyBody::default(),
            end: Some(end),
        };
        (part, body)
    }
}

impl Status {
    /// An error with a text for a person.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            trailers: Metadata::default(),
        }
    }
}

impl Received {
    pub(super) fn new(request: Request) -> Self {
        Self { request }
    }

    /// `package.Service`.
    pub fn service(&self) -> &str {
        self.request.service().unwrap_or_default()
    }

    /// `Method`.
    pub fn method(&self) -> &str {
        self.request.method().unwrap_or_default()
    }

    /// The message.
    pub fn body(&self) -> &Bytes {
        &self.request.body.chunk
    }

    /// Metadata of the caller.
    pub fn metadata(&self) -> &Metadata {
        &self.request.metadata
    }

    /// The keys the call was routed by.
    pub fn keys(&self) -> &[Key] {
        &self.request.hints.keys
    }

    /// Who called, as the relays established it.
    pub fn source(&self) -> Option<&Source> {
        self.request.facts.source.as_ref()
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.request.deadline
    }
}

impl fmt::Debug for Call {
    /// No payload and no key (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Call({}, {} bytes)",
            String::from_utf8_lossy(&self.path),
            self.body.len()
        )
    }
}

impl fmt::Debug for Reply {
    /// No payload (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes, {:?})", self.body.len(), self.metadata)
    }
}

impl fmt::Debug for Received {
    /// No payload and no key (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(&self.request).finish()
    }
}
