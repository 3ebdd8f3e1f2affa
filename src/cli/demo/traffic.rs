//! Callers of each unit, and what came of their calls.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::super::grpc;
use super::DemoError;
use super::services::{ECHO, PRESENCE, speaker};
use super::world::{Relay, Unit};
use crate::client::{Call, CallError, Client};

/// A service of a unit that calls others, over both protocols.
#[derive(Clone)]
pub(super) struct Caller {
    unit: Unit,
    framed: Client,
    grpc: Channel,
}

/// What came of some calls.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Tally {
    /// Calls made.
    pub(super) calls: u64,
    /// Calls answered with success.
    pub(super) answered: u64,
    /// Of those, calls that the owner of the key answered: its service and the relays say so alike.
    pub(super) by_owner: u64,
    /// Calls that failed, by what `strait-error` says; `other: ...` if it says nothing.
    pub(super) errors: BTreeMap<String, u64>,
}

/// Tallies by unit of the caller and owner of the key.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies(pub(super) BTreeMap<(Unit, Unit), Tally>);

/// How a call is made: two protocols on the way in, two kinds of services at the end.
#[derive(Clone, Copy)]
struct Kind {
    over_grpc: bool,
    method: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        over_grpc: true,
        method: ECHO,
    },
    Kind {
        over_grpc: false,
        method: ECHO,
    },
    Kind {
        over_grpc: true,
        method: PRESENCE,
    },
    Kind {
        over_grpc: false,
        method: PRESENCE,
    },
];

impl Caller {
    /// Connects to the relay of a unit.
    ///
    /// # Errors
    /// The relay does not listen.
    pub(super) async fn connect(relay: &Relay) -> Result<Self, DemoError> {
        let address = format!("http://{}", relay.grpc());
        Ok(Self {
            unit: relay.unit,
            framed: relay.connect().await?,
            grpc: grpc::connect(&address, Duration::from_secs(5)).await?,
        })
    }

    /// The unit it belongs to.
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    /// Its connection over the framed protocol.
    pub(super) fn framed(&self) -> &Client {
        &self.framed
    }

    /// Makes calls for `keys` keys of each owner, in all four ways.
    pub(super) async fn calls(&self, owners: &[Unit], keys: usize, timeout: Duration) -> Tallies {
        let mut tallies = Tallies::default();
        for number in 0..keys {
            for owner in owners {
                for kind in KINDS {
                    let result = self.call(kind, *owner, number, timeout).await;
                    tallies.add(self.unit, *owner, &result);
                }
            }
        }
        tallies
    }

    /// One call; gives the unit that answered, or what the relay said.
    async fn call(&self, kind: Kind, owner: Unit, number: usize, timeout: Duration) -> Result<String, String> {
        let key = format!("{}{number:03}", owner.prefix);
        if kind.over_grpc {
            let call = grpc::Unary {
                method: kind.method.to_owned(),
                fields: vec![("strait-key", format!("im.conversation={key}"))],
                body: Bytes::from_static(b"hello"),
                timeout,
            };
            let reply = grpc::unary(self.grpc.clone(), call).await;
            let reply = reply.map_err(|status| reason_of_status(&status))?;
            let unit = reply.metadata().get("strait-unit").and_then(|unit| unit.to_str().ok());
            return Ok(served(unit, reply.get_ref()));
        }
        let call = Call::new(kind.method)
            .key("im.conversation", key)
            .body("hello")
            .timeout(timeout);
        let reply = self.framed.call(call).await.map_err(|error| reason_of_call(&error))?;
        Ok(served(reply.metadata().text("strait-unit"), reply.body()))
    }
}

/// All callers call keys of all owners, all at once.
pub(super) async fn calls(callers: &[Caller], owners: &[Unit], keys: usize, timeout: Duration) -> Tallies {
    let mut tasks = JoinSet::new();
    for caller in callers {
        let (caller, owners) = (caller.clone(), owners.to_vec());
        tasks.spawn(async move { caller.calls(&owners, keys, timeout).await });
    }
    let mut all = Tallies::default();
    for tallies in tasks.join_all().await {
        all.merge(tallies);
    }
    all
}

/// Callers that go on until they are stopped.
pub(super) struct Steady {
    tasks: JoinSet<Tallies>,
    stop: CancellationToken,
}

impl Steady {
    /// All callers call keys of all owners, at a leisurely pace.
    pub(super) fn start(callers: &[Caller], owners: &[Unit]) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for caller in callers {
            let (caller, owners, stop) = (caller.clone(), owners.to_vec(), stop.clone());
            tasks.spawn(async move {
                let mut all = Tallies::default();
                while !stop.is_cancelled() {
                    all.merge(caller.calls(&owners, 1, PATIENCE).await);
                    tokio::time::sleep(PACE).await;
                }
                all
            });
        }
        Self { tasks, stop }
    }

    /// Stops them and gives what came of their calls.
    pub(super) async fn stop(self) -> Tallies {
        self.stop.cancel();
        let mut all = Tallies::default();
        for tallies in self.tasks.join_all().await {
            all.merge(tallies);
        }
        all
    }
}

impl Tallies {
    fn add(&mut self, from: Unit, owner: Unit, result: &Result<String, String>) {
        let tally = self.0.entry((from, owner)).or_default();
        tally.calls += 1;
        match result {
            Ok(unit) => {
                tally.answered += 1;
                tally.by_owner += u64::from(unit == owner.name);
            }
            Err(reason) => *tally.errors.entry(reason.clone()).or_default() += 1,
        }
    }

    /// Adds what came of other calls.
    pub(super) fn merge(&mut self, other: Self) {
        for (pair, tally) in other.0 {
            self.0.entry(pair).or_default().merge(&tally);
        }
    }

    /// All of them together.
    pub(super) fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.0.values() {
            total.merge(tally);
        }
        total
    }
}

impl Tally {
    fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.by_owner += other.by_owner;
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
    }
}

/// The unit that answered, if service and relays agree.
fn served(unit: Option<&str>, body: &[u8]) -> String {
    match (unit, speaker(body)) {
        (Some(unit), Some(speaker)) if unit == speaker => unit.to_owned(),
        (unit, speaker) => format!("relays say {unit:?}, the service says {speaker:?}"),
    }
}

/// The value of `strait-error`, as gRPC callers see it.
fn reason_of_status(status: &tonic::Status) -> String {
    match status.metadata().get("strait-error").map(|said| said.to_str()) {
        Some(Ok(said)) => said.to_owned(),
        _ => format!("other: {:?} {}", status.code(), status.message()),
    }
}

/// The same for framed callers, to whom it comes in parts.
pub(super) fn reason_of_call(error: &CallError) -> String {
    match error {
        CallError::Relay(error) => match &error.place {
            Some(place) => format!("{}; unit={}; relay={}", error.reason, place.unit, place.relay),
            None => error.reason.to_string(),
        },
        error => format!("other: {error}"),
    }
}

/// Longer than any call of a demo takes on a machine that is busy with other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(10);
