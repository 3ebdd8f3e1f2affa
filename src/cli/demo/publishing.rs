//! Publishers and subscribers of the demo's topic. The ledger writes down what they do.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::ledger::{Conversation, Ledger};
use super::traffic::Caller;
use super::world::{GROUP, Relay, TOPIC, UNITS, Unit};
use crate::client::{Attempt, CallError, Client, Nack, Publish, Published, Settle, Subscribe};
use crate::model::Retry;

/// A service of a unit that publishes.
#[derive(Clone)]
pub(super) struct Publisher {
    unit: Unit,
    client: Client,
    ledger: Ledger,
}

/// A message that was published.
pub(super) struct Sent {
    /// In the ledger.
    pub(super) number: usize,
    /// Its id; `None` if the relay did not take it.
    pub(super) id: Option<String>,
}

/// A service that publishes all the time, to all units.
pub(super) struct Steady {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Publisher {
    /// With a connection of its own.
    ///
    /// # Errors
    /// The relay does not listen.
    pub(super) async fn connect(relay: &Relay, ledger: &Ledger) -> Result<Self, DemoError> {
        Ok(Self {
            unit: relay.unit,
            client: relay.connect().await?,
            ledger: ledger.clone(),
        })
    }

    /// Publishes over the connection of a caller.
    pub(super) fn new(caller: &Caller, ledger: &Ledger) -> Self {
        Self {
            unit: caller.unit(),
            client: caller.framed().clone(),
            ledger: ledger.clone(),
        }
    }

    /// Publishes one message and waits until it is on the disk of the relay. What the relay did not take and says is safe to publish
    /// again is published again, for a moment.
    pub(super) async fn publish(&self, conversation: &Conversation, body: &str) -> Sent {
        let number = self.ledger.begin(conversation, Instant::now());
        let mut result = self.client.publish(message(conversation, number, body)).await;
        for _ in 0..AGAIN_MAX {
            if !result.as_ref().is_err_and(|error| error.retry() == Retry::Safe) {
                break;
            }
            tokio::time::sleep(AGAIN).await;
            result = self.client.publish(message(conversation, number, body)).await;
        }
        let id = result.as_ref().ok().map(|published| published.id().to_owned());
        self.ledger.end(number, said(id.as_deref(), result.as_ref().err()));
        Sent { number, id }
    }

    /// Conversations that nobody has published to yet.
    pub(super) fn open(&self, owner: Unit, count: usize) -> Vec<Conversation> {
        (0..count).map(|_| self.ledger.open(self.unit, owner)).collect()
    }

    /// Publishes the same number of messages in each of some conversations, many at a time, in turns. Returns how many the
    /// relay took.
    pub(super) async fn publish_many(&self, conversations: &[Conversation], each: usize) -> u64 {
        let mut numbers = Vec::new();
        let mut messages = Vec::new();
        for conversation in (0..each).flat_map(|_| conversations) {
            let number = self.ledger.begin(conversation, Instant::now());
            messages.push(message(conversation, number, HELLO));
            numbers.push(number);
        }
        let results = self.client.publish_all(messages).await;
        let mut taken = 0;
        for (number, result) in numbers.into_iter().zip(&results) {
            let id = result.as_ref().ok().map(Published::id);
            self.ledger.end(number, said(id, result.as_ref().err()));
            taken += u64::from(result.is_ok());
        }
        taken
    }
}

impl Steady {
    /// Starts: to each unit a message, again as soon as it is accepted and [`PACE`] is over.
    pub(super) fn start(publisher: &Publisher) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for owner in UNITS {
            let (publisher, stop) = (publisher.clone(), stop.clone());
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval(PACE);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut conversation = publisher.ledger.open(publisher.unit, owner);
                for count in 1_u64.. {
                    ticks.tick().await;
                    if stop.is_cancelled() {
                        return;
                    }
                    // A new one from time to time; and at once in a new phase, whose messages should not wait behind others.
                    let is_over = count.is_multiple_of(TALK) || conversation.phase != publisher.ledger.phase();
                    if is_over {
                        conversation = publisher.ledger.open(publisher.unit, owner);
                    }
                    publisher.publish(&conversation, HELLO).await;
                }
            });
        }
        Self { tasks, stop }
    }

    /// Stops when the last message is accepted.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

/// Receives the messages of a unit, as a service of it does.
///
/// # Errors
/// The relay refuses.
pub(super) async fn subscribe(client: &Client, unit: Unit, ledger: &Ledger) -> Result<(), DemoError> {
    let ledger = ledger.clone();
    let subscribed = client.subscribe(Subscribe::new(TOPIC, GROUP), move |attempt: Attempt| {
        let settle = receive(&attempt, unit, &ledger);
        async { settle }
    });
    Ok(subscribed.await?)
}

fn receive(attempt: &Attempt, unit: Unit, ledger: &Ledger) -> Settle {
    if attempt.body() == POISON && ledger.refuses(attempt.id()) {
        return Err(Nack::terminate(UNREADABLE));
    }
    let is_ours = attempt.attribute("source") == Some(SOURCE);
    let number = attempt.attribute("id").and_then(|number| number.parse().ok());
    if let (true, Some(number)) = (is_ours, number) {
        ledger.arrived(unit, number, attempt.id(), Instant::now());
    }
    Ok(())
}

fn message(conversation: &Conversation, number: usize, body: &str) -> Publish {
    Publish::new(TOPIC)
        .key("im.conversation", &conversation.key)
        .identity(SOURCE, &number.to_string())
        .attribute("type", "im.said")
        .body(body.to_owned())
}

fn said<'a>(id: Option<&'a str>, error: Option<&CallError>) -> Result<&'a str, String> {
    id.ok_or_else(|| error.map_or_else(String::new, ToString::to_string))
}

/// What subscribers refuse the first time they see it.
pub(super) const POISON: &str = "poison";
/// And what they say then.
pub(super) const UNREADABLE: &str = "this subscriber cannot read the message";
/// What any other message says.
pub(super) const HELLO: &str = "hello";
/// A relay that hears of the route store again takes messages after a moment.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: u8 = 20;
/// How demos are recognised as who published.
const SOURCE: &str = "/strait-demo";
/// Between two messages to a unit.
pub(super) const PACE: Duration = Duration::from_millis(10);
/// Messages of a conversation.
const TALK: u64 = 4;
