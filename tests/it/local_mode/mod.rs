//! C-P1, C-P2, R-3.11, I16: calls whose unit is away are kept for it, and applied once when it is back, or are dead letters.

mod acknowledged;
mod news;
mod operator;
mod refused;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use strait::client::{self, Call, CallError, Received, Reply, Status};
use strait::model::{Code, Reason};
use tokio::time::Instant;
use toml::{Table, Value};

use crate::harness::{Cluster, ClusterBuilder, Injection, Relay, SYNCS, http_get, wait_for, within};
use crate::moves::ask;
use crate::owners::{UNITS, World};
use crate::services::{Client, channel, request};

const LIMIT: Duration = Duration::from_secs(60);

/// A call as a service got it.
#[derive(Clone, Debug)]
pub struct Entry {
    method: String,
    key: String,
    pub id: String,
    fields: BTreeMap<String, String>,
    owner_epoch: Option<u64>,
}

impl Entry {
    fn of(received: &Received) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields: BTreeMap<_, _> = received
            .metadata()
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        Self {
            method: received.method().to_owned(),
            key: received.keys().first().map(|key| text(&key.key)).unwrap_or_default(),
            id: fields.get("idempotency-key").cloned().unwrap_or_default(),
            fields,
            owner_epoch: received.owner_epoch(),
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// The service `im.Ledger` of a unit: applies a call once by its id, as those of an owner have to.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    got: Vec<Entry>,
    applied: Vec<Entry>,
    ids: BTreeSet<String>,
    /// What is answered to the method `Fails`, until it is taken away.
    refusal: Option<Code>,
}

impl Ledger {
    /// Serves at a relay for as long as the client lives.
    pub async fn at(relay: &Relay) -> (Self, client::Client) {
        let ledger = Self::default();
        let client = ledger.serve(relay).await;
        (ledger, client)
    }

    async fn serve(&self, relay: &Relay) -> client::Client {
        let client = connect(relay).await;
        let state = self.clone();
        let served = client.serve("im.Ledger", move |received| {
            let answer = state.on_call(&received);
            async move { answer }
        });
        within("the ledger to be served", LIMIT, served).await.unwrap();
        client
    }

    fn on_call(&self, received: &Received) -> Result<Reply, Status> {
        let entry = Entry::of(received);
        let mut state = self.0.lock().unwrap();
        state.got.push(entry.clone());
        if let (Some(code), "Fails") = (state.refusal, entry.method.as_str()) {
            return Err(Status::new(code, "the room is closed"));
        }
        if !state.ids.insert(entry.id.clone()) {
            return Err(Status::new(Code::AlreadyExists, "it was applied before"));
        }
        state.applied.push(entry);
        Ok(Reply::new(received.body().clone()))
    }

    fn refuse(&self, code: Option<Code>) {
        self.0.lock().unwrap().refusal = code;
    }

    pub fn applied(&self) -> Vec<Entry> {
        self.0.lock().unwrap().applied.clone()
    }

    pub fn got(&self) -> Vec<Entry> {
        self.0.lock().unwrap().got.clone()
    }
}

async fn connect(relay: &Relay) -> client::Client {
    let address = format!("tcp://{}", relay.framed());
    let builder = client::Client::builder(&address).backoff_max(Duration::from_millis(50));
    within("a client to connect", LIMIT, builder.connect()).await.unwrap()
}

/// Units `a` and `b`. Of `im.Ledger`, `Post` and `Fails` are executed locally while their unit is away, `Park` and `Quiet` are
/// parked, `Plain` fails and `Get` reads.
fn pair() -> ClusterBuilder {
    let mut builder = Cluster::builder().unit("a", 1).unit("b", 1);
    for unit in ["a", "b"] {
        builder = keeping(unit, builder)
            .set(unit, "peer.keep_alive", "500ms")
            .set(unit, "peer.idle_timeout", "3s");
    }
    builder
}

/// The same for one unit.
pub fn keeping(unit: &str, builder: ClusterBuilder) -> ClusterBuilder {
    let methods = "on_failure = \"park\"\nreads = [\"Get\"]\nrejected_to = \"im.refused\"\n\
                   methods.Post.on_failure = \"local\"\nmethods.Fails.on_failure = \"local\"\nmethods.Plain.on_failure = \"fail\"\n";
    let topic = "on_expiry = \"dead-letter\"\nretry = { first = \"20ms\", longest = \"100ms\", attempts = 1000 }\n";
    let (methods, topic): (Table, Table) = (methods.parse().unwrap(), topic.parse().unwrap());
    let refused: Table = "rule = \"all\"\ngroups.app = {}\n".parse().unwrap();
    builder
        .service(unit, "im.Ledger", &[])
        .set(unit, "calls.route.\"im.Ledger\"", methods)
        .set(unit, "topics.\"strait.calls\"", topic)
        .set(unit, "topics.\"im.refused\"", refused)
}

/// Kills the relay of unit `b` and waits until that of `a` has seen it.
async fn lose_b(cluster: &mut Cluster) {
    cluster.relay_mut("b-1").kill();
    cluster.until_unlinked("a-1", "b").await;
}

/// A gRPC call of `im.Ledger`; its metadata as text, or the status.
pub async fn call(
    client: &Client,
    method: &str,
    fields: &[(&'static str, &str)],
) -> Result<BTreeMap<String, String>, tonic::Status> {
    let mut asked = request(Bytes::from_static(b"hello"), fields);
    asked.set_timeout(LIMIT);
    let answer = client.unary(method, asked).await?;
    assert!(answer.get_ref().is_empty() || answer.get_ref() == "hello");
    Ok(texts(answer.metadata()))
}

fn texts(fields: &tonic::metadata::MetadataMap) -> BTreeMap<String, String> {
    let fields = fields.as_ref().iter();
    fields
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

pub fn said<'a>(status: &'a tonic::Status, field: &str) -> &'a str {
    let field = status.metadata().get(field);
    field.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

pub async fn grpc(relay: &Relay) -> Client {
    Client::connect(&relay.grpc()).await.service("im.Ledger")
}

/// How many calls a relay has counted with this end.
pub async fn counted(relay: &Relay, series: &str, outcome: &str) -> f64 {
    let labels = [("outcome", outcome)];
    relay.metrics().await.sum(series, &labels)
}

pub fn strait(relay: &Relay, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(words)
        .args(["--admin", &relay.admin()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The dead letters of a relay.
fn dead(relay: &Relay) -> Vec<Json> {
    let found: Json = serde_json::from_str(&strait(relay, &["dlq", "list", "--output", "json"])).unwrap();
    found["messages"].as_array().cloned().unwrap_or_default()
}

pub async fn until_applied(ledger: &Ledger, wanted: usize) {
    wait_for("the owner to apply what was kept for it", LIMIT, async || {
        (ledger.applied().len() >= wanted).then_some(())
    })
    .await;
}

/// Waits until so many units say that another one is away, as far as this relay has heard.
pub async fn until_seen_away(relay: &Relay, unit: &str, units: usize) {
    wait_for("others to say that the unit is away", LIMIT, async || {
        (seen(relay, unit, "away").await == units as f64).then_some(())
    })
    .await;
}

/// How many units say this of another one, as far as this relay has heard.
pub async fn seen(relay: &Relay, unit: &str, sighting: &str) -> f64 {
    let labels = [("dst_unit", unit), ("sighting", sighting)];
    relay.metrics().await.sum("strait_peer_observers", &labels)
}
