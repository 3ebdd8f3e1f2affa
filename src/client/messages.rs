//! Publishing and receiving messages.
//!
//! Delivery is at least once (M-B1): a message whose publication or settlement was lost on the way comes again. Its id stays
//! the same; a publication with `source` and `id` among its attributes can be repeated without making a second message.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::call::Outcome;
use super::{Call, CallError, Client, Handler, Received, Reply, ServeError, Status, Wanted};
use crate::model::{AckLevel, Code, Key, MetadataBuilder, Name, Reason, RelayError, Retry};
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

/// Which messages to receive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subscribe {
    topic: String,
    group: String,
    in_flight_max: u32,
}

/// A message as a handler gets it, and which attempt that is.
pub struct Attempt {
    received: Received,
}

/// What a handler says of a message: done, or why not.
pub type Settle = Result<(), Nack>;

/// A message was not processed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Nack {
    /// Again after a while: this one, or the topic's back-off.
    Later {
        /// Wished pause.
        delay: Option<Duration>,
        /// For a person.
        reason: String,
    },
    /// Never again: it becomes a dead letter.
    Terminate {
        /// For a person.
        reason: String,
    },
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

    async fn begin_batch(&self, batch: Batch) -> Result<super::UnderWay<'_>, CallError> {
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

    /// Receives the messages of a group: `handler` is called for each, and what it returns is the settlement. It must be
    /// done within the visibility timeout of the topic. As with [`serve`](Client::serve), it must not block.
    ///
    /// Returns when the relay has accepted the subscription. It lasts until the client is dropped, and is made again
    /// whenever the connection is. The group gets each message at least once: it is made with the first subscription, if the
    /// settings do not declare it.
    ///
    /// # Errors
    /// [`ServeError`] if the relay refuses it.
    pub async fn subscribe<H, F>(&self, what: Subscribe, handler: H) -> Result<(), ServeError>
    where
        H: Fn(Attempt) -> F + Send + Sync + 'static,
        F: Future<Output = Settle> + Send + 'static,
    {
        let name = |text: &str| Name::new(text).map_err(ServeError::Name);
        let wanted = Wanted::Group {
            topic: name(&what.topic)?,
            group: name(&what.group)?,
        };
        let handler: Handler = Arc::new(move |received| {
            let settled = handler(Attempt { received });
            Box::pin(async move { settled.await.map(|()| Reply::default()).map_err(Nack::into_status) })
        });
        self.register(wanted, handler, what.in_flight_max).await
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

async fn batch_end(batch: Result<super::UnderWay<'_>, CallError>) -> Outcome {
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

impl Subscribe {
    /// The messages of a topic, for a group of consumers: each message goes to one of them.
    pub fn new(topic: &str, group: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            group: group.to_owned(),
            in_flight_max: 0,
        }
    }

    /// Messages at a time. Default 64, at most 4096.
    #[must_use]
    pub fn in_flight_max(mut self, messages: u32) -> Self {
        self.in_flight_max = messages;
        self
    }
}

impl Attempt {
    /// Id of the message: the same at each attempt, and in each unit.
    pub fn id(&self) -> &str {
        self.field("strait-message-id")
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        self.field("strait-topic")
    }

    /// Which attempt this is, from 1 on. A greater number means that it may have been processed before.
    pub fn number(&self) -> u32 {
        self.field("strait-attempt").parse().unwrap_or(1)
    }

    /// Its key.
    pub fn key(&self) -> Option<&Key> {
        self.received.keys().first()
    }

    /// The value of a `CloudEvents` attribute; without `ce-`. Percent-encoded where it is not plain ASCII.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.received.metadata().text(&format!("ce-{name}"))
    }

    /// The content.
    pub fn body(&self) -> &Bytes {
        self.received.body()
    }

    /// When it is given to another consumer, unless it is settled.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.received.deadline()
    }

    /// All that came with it.
    pub fn received(&self) -> &Received {
        &self.received
    }

    fn field(&self, name: &str) -> &str {
        self.received.metadata().text(name).unwrap_or_default()
    }
}

impl Nack {
    /// Again, by the topic's back-off.
    pub fn later(reason: impl Into<String>) -> Self {
        Self::Later {
            delay: None,
            reason: reason.into(),
        }
    }

    /// Again after this time.
    pub fn after(delay: Duration, reason: impl Into<String>) -> Self {
        Self::Later {
            delay: Some(delay),
            reason: reason.into(),
        }
    }

    /// Never again.
    pub fn terminate(reason: impl Into<String>) -> Self {
        Self::Terminate { reason: reason.into() }
    }

    /// As relays read it: `proto/README.md`, "Messages".
    fn into_status(self) -> Status {
        match self {
            Self::Later { delay, reason } => {
                let mut trailers = MetadataBuilder::new();
                if let Some(delay) = delay {
                    // Digits are a legal value.
                    let _ = trailers.push(b"grpc-retry-pushback-ms", delay.as_millis().to_string().as_bytes());
                }
                Status {
                    trailers: trailers.build(),
                    ..Status::new(Code::Aborted, reason)
                }
            }
            Self::Terminate { reason } => Status::new(Code::FailedPrecondition, reason),
        }
    }
}

impl fmt::Debug for Publish {
    /// Neither key nor attributes nor body (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = String::from_utf8_lossy(&self.request.topic);
        write!(f, "Publish({topic}, {} bytes)", self.request.body.len())
    }
}

impl fmt::Debug for Attempt {
    /// Neither key nor attributes nor body (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({}, {} bytes)", self.id(), self.body().len())
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
