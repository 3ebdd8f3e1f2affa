//! Publishing and consuming with the crate's own client, which connects again by itself.

use std::time::Duration;

use strait::client::{CallError, Client, Nack, Publish, Subscribe};
use strait::model::{MessageId, Retry};

use crate::content::Content;

/// Publishes at one relay; clones share the connection.
#[derive(Clone)]
pub struct Publisher(Client);

/// Takes messages of a group until it is dropped.
pub struct Outlet(#[expect(dead_code, reason = "keeps the connection")] Client);

/// What a consumer says of a message.
pub enum Verdict {
    /// Done.
    Ack,
    /// Again, after this time.
    Nack(Duration),
}

impl Publisher {
    /// Connects to a relay.
    pub async fn connect(address: &str) -> Self {
        Self(connect(address).await)
    }

    /// Publishes once; gives the id, and whether it was stored before.
    ///
    /// # Errors
    /// As the client says; see [`can_pass`].
    pub async fn publish(&self, topic: &str, content: &Content, seed: u64) -> Result<(MessageId, bool), CallError> {
        let message = Publish::new(topic)
            .key("uid", &content.key)
            .identity(&format!("crash/{seed}"), &content.number.to_string())
            .attribute("type", "crash.test")
            .body(content.body.clone())
            .timeout(Duration::from_secs(10));
        let published = self.0.publish(message).await?;
        assert!(!published.is_buffered(), "nobody asked for a weaker durability");
        Ok((
            published.id().parse().expect("the id of a message"),
            published.is_duplicate(),
        ))
    }
}

/// Whether publishing again can help: all but an error that says never.
pub fn can_pass(error: &CallError) -> bool {
    error.retry() != Retry::Never
}

impl Outlet {
    /// Subscribes; `take` gets id, key, attempt and body of each message.
    pub async fn open<F>(address: &str, topic: &str, group: &str, in_flight: u32, take: F) -> Self
    where
        F: Fn(&MessageId, &str, u32, &[u8]) -> Verdict + Send + Sync + 'static,
    {
        let client = connect(address).await;
        let what = Subscribe::new(topic, group).in_flight_max(in_flight);
        let handler = move |attempt: strait::client::Attempt| {
            let id: MessageId = attempt.id().parse().expect("the id of a message");
            let key = attempt.key().map(|key| String::from_utf8_lossy(&key.key).into_owned());
            let verdict = take(&id, &key.unwrap_or_default(), attempt.number(), attempt.body());
            std::future::ready(match verdict {
                Verdict::Ack => Ok(()),
                Verdict::Nack(delay) => Err(Nack::after(delay, "the plan says so")),
            })
        };
        client.subscribe(what, handler).await.unwrap();
        Self(client)
    }
}

async fn connect(address: &str) -> Client {
    let builder = Client::builder(address).backoff_max(Duration::from_millis(100));
    builder.connect().await.unwrap()
}
