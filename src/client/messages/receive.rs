//! Receiving.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, Handler, Received, Reply, ServeError, Status, Wanted};
use crate::model::{Code, Key, MetadataBuilder, Name};

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

impl fmt::Debug for Attempt {
    /// Neither key nor attributes nor body (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({}, {} bytes)", self.id(), self.body().len())
    }
}
