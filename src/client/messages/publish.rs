//! Publishing.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::client::call::Outcome;
use crate::client::{Call, CallError, Client, UnderWay};
use crate::model::{AckLevel, Reason, RelayError, Retry};
use crate::wire::messages::{
    self, Attribute, Encode, MessageKey, PublishBatchReply, PublishBatchRequest, PublishError, PublishReply,
    PublishRequest,
};

/// A message to publish. Cloning is cheap: bytes are shared.
#[derive(Clone)]
pub struct Publish {
    request: PublishRequest,
    timeout: Option<Duration>,
}

/// A message that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    id: String,
    level: AckLevel,
    is_duplicate: bool,
    is_buffered: bool,
}

impl Client {
    /// Publishes a message and waits until it has come as far as it says: by default until it is on the relay's disk.
    ///
    /// Dropping the future does not take the message back.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::retry`] says whether publishing again can make a second message of it, unless it has
    /// `source` and `id`.
    pub async fn publish(&self, message: Publish) -> Result<Published, CallError> {
        let reply = self.call(message.into_call()).await?;
        let reply: PublishReply = messages::decode(reply.into_body()).map_err(malformed)?;
        Ok(Published::new(reply))
    }

    /// Publishes many, pipelined in batches. The results are in the order of the messages; one that failed does not keep
    /// others from being published.
    pub async fn publish_all(&self, messages: impl IntoIterator<Item = Publish>) -> Vec<Result<Published, CallError>> {
        let mut results = Vec::new();
        let mut under_way = VecDeque::new();
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let batch = next_batch(&mut messages);
            if under_way.len() >= BATCHES_MAX
                && let Some((count, batch)) = under_way.pop_front()
            {
                results.extend(split(batch_end(batch).await, count));
            }
            let count = batch.requests.len();
            under_way.push_back((count, self.begin_batch(batch).await));
        }
        for (count, batch) in under_way {
            results.extend(split(batch_end(batch).await, count));
        }
        results
    }

    async fn begin_batch(&self, batch: Batch) -> Result<UnderWay<'_>, CallError> {
        let timeout = batch.timeout.unwrap_or(self.handle.timeout);
        let deadline = tokio::time::Instant::now() + timeout;
        let request = PublishBatchRequest {
            messages: batch.requests,
        };
        let call = Call::new(&format!("{}/PublishBatch", messages::SERVICE));
        let call = call.body(request.to_bytes()).timeout(timeout);
        let permit = tokio::time::timeout_at(deadline, self.handle.shared.in_flight.acquire())
            .await
            .map_err(|_| CallError::Deadline { sent: false })?
            .map_err(|_| CallError::Closed)?;
        self.begin(call, deadline, permit)
    }
}

/// Messages that go in one call.
struct Batch {
    requests: Vec<PublishRequest>,
    timeout: Option<Duration>,
}

fn next_batch(messages: &mut std::iter::Peekable<impl Iterator<Item = Publish>>) -> Batch {
    let mut batch = Batch {
        requests: Vec::new(),
        timeout: None,
    };
    let mut bytes = 0;
    while let Some(next) = messages.peek() {
        let size = next.request.body.len();
        let is_full = batch.requests.len() >= BATCH_MESSAGES_MAX || bytes + size > BATCH_BYTES_MAX;
        if is_full && !batch.requests.is_empty() {
            break;
        }
        let Some(next) = messages.next() else { break };
        bytes += size;
        batch.timeout = batch.timeout.max(next.timeout);
        batch.requests.push(next.request);
    }
    batch
}

async fn batch_end(batch: Result<UnderWay<'_>, CallError>) -> Outcome {
    batch?.end().await
}

/// The results of the messages of a batch.
fn split(outcome: Outcome, count: usize) -> Vec<Result<Published, CallError>> {
    let replies = outcome.and_then(|reply| {
        let reply: PublishBatchReply = messages::decode(reply.into_body()).map_err(malformed)?;
        Ok(reply.replies)
    });
    match replies {
        Ok(replies) if replies.len() == count => replies.into_iter().map(Published::or_error).collect(),
        Ok(_) => vec![Err(malformed(messages::Malformed)); count],
        Err(error) => vec![Err(error); count],
    }
}

impl Publish {
    /// A message of a topic.
    pub fn new(topic: &str) -> Self {
        let request = PublishRequest {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            ..PublishRequest::default()
        };
        Self { request, timeout: None }
    }

    /// The business key: messages of one key keep their order, and `owner` topics go to its unit.
    #[must_use]
    pub fn key(mut self, dimension: &str, key: impl AsRef<[u8]>) -> Self {
        self.request.key = Some(MessageKey {
            dimension: Bytes::copy_from_slice(dimension.as_bytes()),
            key: Bytes::copy_from_slice(key.as_ref()),
        });
        self
    }

    /// Adds a `CloudEvents` attribute, such as `type` or `traceparent`; without `ce-`.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.request.attributes.push(Attribute {
            name: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
        });
        self
    }

    /// What makes it recognisable when it is published again (M-B3): who made it, and its number there.
    #[must_use]
    pub fn identity(self, source: &str, id: &str) -> Self {
        self.attribute("source", source).attribute("id", id)
    }

    /// The content.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.request.body = body.into();
        self
    }

    /// From then on nobody wants it any more, in milliseconds since 1970.
    #[must_use]
    pub fn expires_at_ms(mut self, at: u64) -> Self {
        self.request.expires_at_ms = at;
        self
    }

    /// How far it must have come for `publish` to return. Default [`AckLevel::Accepted`].
    #[must_use]
    pub fn wait(mut self, level: AckLevel) -> Self {
        let level = match level {
            AckLevel::Accepted => messages::AckLevel::Accepted,
            AckLevel::Relayed => messages::AckLevel::Relayed,
            AckLevel::Delivered => messages::AckLevel::Delivered,
        };
        self.request.wait = level.into();
        self
    }

    /// How long to wait for that.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn into_call(self) -> Call {
        let call = Call::new(PUBLISH).body(self.request.to_bytes());
        match self.timeout {
            Some(timeout) => call.timeout(timeout),
            None => call,
        }
    }
}

impl Published {
    fn new(reply: PublishReply) -> Self {
        let level = match messages::AckLevel::try_from(reply.level) {
            Ok(messages::AckLevel::Relayed) => AckLevel::Relayed,
            Ok(messages::AckLevel::Delivered) => AckLevel::Delivered,
            _ => AckLevel::Accepted,
        };
        Self {
            id: reply.id,
            level,
            is_duplicate: reply.duplicate,
            is_buffered: reply.durability == i32::from(messages::Durability::Buffered),
        }
    }

    fn or_error(reply: PublishReply) -> Result<Self, CallError> {
        match reply.error {
            None => Ok(Self::new(reply)),
            Some(error) => Err(CallError::Relay(Box::new(of_batch(error)))),
        }
    }

    /// Id of the message: the same wherever it goes.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How far it has come.
    pub fn level(&self) -> AckLevel {
        self.level
    }

    /// It had been published before, with the same `source` and `id`.
    pub fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    /// It is with the operating system, not with the disk (`queue.sync = "buffered"`).
    pub fn is_buffered(&self) -> bool {
        self.is_buffered
    }
}

impl fmt::Debug for Publish {
    /// Neither key nor attributes nor body (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = String::from_utf8_lossy(&self.request.topic);
        write!(f, "Publish({topic}, {} bytes)", self.request.body.len())
    }
}

/// The error of one message of a batch, as a call would have had it.
fn of_batch(error: PublishError) -> RelayError {
    let retry = match error.retry.as_str() {
        "safe" => Retry::Safe,
        "never" => Retry::Never,
        _ => Retry::Ambiguous,
    };
    let reason = Reason::from_word(&error.reason).unwrap_or(Reason::Internal);
    let of = RelayError::new(reason, retry, error.message);
    match error.pushback_ms {
        0 => of,
        millis => of.pushed_back(Duration::from_millis(millis)),
    }
}

fn malformed(error: messages::Malformed) -> CallError {
    CallError::Relay(Box::new(RelayError::new(
        Reason::Internal,
        Retry::Ambiguous,
        format!("the answer of the relay cannot be read: {error}"),
    )))
}

const PUBLISH: &str = "strait.v1.Messages/Publish";
/// Messages of a batch, and bytes of their bodies.
const BATCH_MESSAGES_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Batches under way.
const BATCHES_MAX: usize = 8;
