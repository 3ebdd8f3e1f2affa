//! C-P1, C-P2, R-3.11, I16: calls whose unit is away are kept for it, and applied once when it is back, or are dead letters.

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

/// What a unit was told of calls that it kept: attributes, with `key` and `body`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl Told {
    async fn listen(&self, client: &client::Client) {
        let told = self.clone();
        let subscribe = client::Subscribe::new("im.refused", "app");
        let subscribed = client.subscribe(subscribe, move |message| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let names = ["type", "subject", "ticket", "callid", "code", "owner"];
            let of = |name: &str| (name.to_owned(), message.attribute(name).unwrap_or_default().to_owned());
            let mut fields: BTreeMap<_, _> = names.into_iter().map(of).collect();
            fields.insert("key".to_owned(), text(&message.key().unwrap().key));
            fields.insert("body".to_owned(), text(message.body()));
            told.0.lock().unwrap().push(fields);
            async { Ok(()) }
        });
        within("a subscription", LIMIT, subscribed).await.unwrap();
    }

    fn all(&self) -> Vec<BTreeMap<String, String>> {
        self.0.lock().unwrap().clone()
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

// I16, C-P1, C-P2: what was acknowledged outlives the relay that did, and comes to its unit once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_acknowledged_while_their_unit_was_away_are_applied_once_and_in_order() {
    let mut cluster = pair().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, served_b) = Ledger::at(cluster.relay("b-1")).await;
    // While the unit is there nothing is different.
    let client = grpc(cluster.relay("a-1")).await;
    for method in ["Post", "Park"] {
        let fields = [("strait-key", "uid=b:0"), ("idempotency-key", method)];
        let answer = call(&client, method, &fields).await.unwrap();
        assert_eq!(answer["strait-unit"], "b");
        assert!(!answer.contains_key("strait-provisional") && !answer.contains_key("strait-ticket"));
    }
    assert_eq!((at_a.got().len(), at_b.got().len()), (0, 2));
    assert!(at_b.got().iter().all(|entry| entry.field("strait-replay").is_none()));

    lose_b(&mut cluster).await;
    let framed = connect(cluster.relay("a-1")).await;
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..48 {
        let (key, id) = (format!("b:{}", number % 4), format!("call-{number}"));
        let route = format!("uid={key}");
        let fields = [("strait-key", route.as_str()), ("idempotency-key", id.as_str())];
        match number % 3 {
            0 => {
                let answer = call(&client, "Post", &fields).await.unwrap();
                assert_eq!((&*answer["strait-provisional"], &*answer["strait-unit"]), ("true", "a"));
                assert!(answer["strait-ticket"].starts_with("a/a-1/"), "{answer:?}");
            }
            1 => {
                let status = call(&client, "Park", &fields).await.unwrap_err();
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                assert!(
                    said(&status, "strait-error").starts_with("parked; unit=a"),
                    "{status:?}"
                );
                assert!(said(&status, "strait-ticket").starts_with("a/a-1/"), "{status:?}");
            }
            _ => {
                let post = Call::new("im.Ledger/Post").key("uid", &key).body("hello");
                let post = post.metadata("idempotency-key", &id).timeout(LIMIT);
                let answer = framed.call(post).await.unwrap();
                assert_eq!(answer.metadata().text("strait-provisional"), Some("true"));
            }
        }
        acknowledged.entry(key).or_default().push(id);
    }
    // A call that its caller makes again is one call.
    let again = [("strait-key", "uid=b:0"), ("idempotency-key", "call-0")];
    let status = call(&client, "Post", &again).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists, "the local service knows it");
    assert_eq!(said(&status, "strait-provisional"), "true");
    let again = [("strait-key", "uid=b:1"), ("idempotency-key", "call-1")];
    let status = call(&client, "Park", &again).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    let local = at_a.applied();
    assert_eq!(local.len(), 32);
    for entry in &local {
        assert_eq!(
            (entry.method.as_str(), entry.field("strait-local-mode")),
            ("Post", Some("true"))
        );
        assert_eq!(entry.owner_epoch, None);
    }
    let relay = cluster.relay("a-1");
    for (outcome, expected) in [
        ("executed", 33.0),
        ("parked", 17.0),
        ("local_failed", 0.0),
        ("not_stored", 0.0),
    ] {
        assert_eq!(
            counted(relay, "strait_kept_calls_total", outcome).await,
            expected,
            "{outcome}"
        );
    }

    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    assert_eq!(at_b.applied().len(), 2);
    // The relay is back before its service is.
    drop(served_b);
    cluster.relay_mut("b-1").start().await;
    wait_for("replays that find no service", LIMIT, async || {
        let again = counted(cluster.relay("b-1"), "strait_replayed_calls_total", "again").await;
        (again > 0.0).then_some(())
    })
    .await;
    let _served_b = at_b.serve(cluster.relay("b-1")).await;
    until_applied(&at_b, 50).await;
    wait_for("nothing to be left", LIMIT, async || {
        let applied = counted(cluster.relay("b-1"), "strait_replayed_calls_total", "applied").await;
        (applied == 48.0).then_some(())
    })
    .await;
    let mut replayed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in &at_b.applied()[2..] {
        let mark = if entry.method == "Post" { "local" } else { "parked" };
        assert_eq!(entry.field("strait-replay"), Some(mark), "{entry:?}");
        assert!(entry.field("strait-local-mode").is_none(), "{entry:?}");
        assert!(
            entry
                .field("strait-ticket")
                .is_some_and(|ticket| ticket.starts_with("a/a-1/"))
        );
        replayed.entry(entry.key.clone()).or_default().push(entry.id.clone());
    }
    assert_eq!(replayed, acknowledged);
    let relay = cluster.relay("b-1");
    let duplicates = counted(relay, "strait_replayed_calls_total", "duplicate").await;
    assert_eq!(duplicates, 0.0, "what its caller made again was stored once");
    assert!(dead(cluster.relay("b-1")).is_empty());
}

// C-P2, I16: what the owner refuses for good is a dead letter that says which call it was and why; what it knows is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_refuses_is_a_dead_letter_and_what_it_knows_is_done() {
    let mut cluster = pair().start().await;
    let (_at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let client = grpc(cluster.relay("a-1")).await;
    let known = [("strait-key", "uid=b:1"), ("idempotency-key", "known")];
    call(&client, "Post", &known).await.unwrap();
    let listeners = [connect(cluster.relay("a-1")).await, connect(cluster.relay("b-1")).await];
    let (at_home, elsewhere) = (Told::default(), Told::default());
    at_home.listen(&listeners[0]).await;
    elsewhere.listen(&listeners[1]).await;
    lose_b(&mut cluster).await;
    at_b.refuse(Some(Code::FailedPrecondition));
    call(&client, "Post", &known).await.unwrap();
    let mut tickets = Vec::new();
    for (method, id) in [("Fails", "1"), ("Post", "2")] {
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id)];
        tickets.push(call(&client, method, &fields).await.unwrap()["strait-ticket"].clone());
    }
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 2).await;
    assert_eq!(at_b.applied()[1].id, "2", "the next one of the key goes on");
    let relay = cluster.relay("b-1");
    for (outcome, expected) in [("applied", 1.0), ("duplicate", 1.0), ("rejected", 1.0)] {
        assert_eq!(
            counted(relay, "strait_replayed_calls_total", outcome).await,
            expected,
            "{outcome}"
        );
    }
    let letters = wait_for("a dead letter", LIMIT, async || {
        Some(dead(relay)).filter(|letters| !letters.is_empty())
    })
    .await;
    let text = serde_json::to_string(&letters).unwrap();
    assert_eq!(letters.len(), 1, "{text}");
    assert!(
        text.contains("im.Ledger/Fails: FailedPrecondition: the room is closed"),
        "{text}"
    );
    let shown = strait(relay, &["dlq", "list"]);
    assert!(shown.contains("strait.calls im.Ledger/Fails"), "{shown}");
    let shown = strait(relay, &["dlq", "show"]);
    assert!(
        shown.contains("im.Ledger/Fails: FailedPrecondition: the room is closed"),
        "{shown}"
    );
    let notices = wait_for("the callers' unit to be told", LIMIT, async || {
        Some(at_home.all()).filter(|notices| !notices.is_empty())
    })
    .await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    for (field, value) in [
        ("type", "strait.call.rejected"),
        ("subject", "im.Ledger/Fails"),
        ("ticket", tickets[0].as_str()),
        ("callid", "1"),
        ("code", "FailedPrecondition"),
        ("owner", "b"),
        ("key", "b:1"),
        ("body", "im.Ledger/Fails: FailedPrecondition: the room is closed"),
    ] {
        assert_eq!(notices[0].get(field).map(String::as_str), Some(value), "{field}");
    }
    assert!(elsewhere.all().is_empty(), "the owner knows");
    // The room is open again: an operator takes it back.
    at_b.refuse(None);
    strait(relay, &["dlq", "redrive", "--topic", "strait.calls", "--allow-reorder"]);
    until_applied(&at_b, 3).await;
    assert_eq!(at_b.applied()[2].id, "1");
}

// U4: who kept a call is told that it was refused, also if the owner crashes after that, and is told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_of_a_refused_call_outlives_the_owners_relay() {
    let mut cluster = pair().start().await;
    let (_at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    at_b.refuse(Some(Code::FailedPrecondition));
    let client = connect(cluster.relay("a-1")).await;
    let told = Told::default();
    told.listen(&client).await;
    // Nothing goes from the owner to the unit that is to be told.
    strait(
        cluster.relay("b-1"),
        &["queue", "pause", "--unit", "a", "--reason", "test"],
    );
    lose_b(&mut cluster).await;
    let fields = [("strait-key", "uid=b:1"), ("idempotency-key", "1")];
    let kept = call(&grpc(cluster.relay("a-1")).await, "Fails", &fields).await.unwrap();
    cluster.relay_mut("b-1").start().await;
    wait_for("a dead letter", LIMIT, async || {
        (!dead(cluster.relay("b-1")).is_empty()).then_some(())
    })
    .await;
    // It was on disk before the call was a dead letter.
    cluster.relay_mut("b-1").kill();
    cluster.relay_mut("b-1").start().await;
    assert!(told.all().is_empty(), "its unit is paused");
    strait(cluster.relay("b-1"), &["queue", "resume", "--unit", "a"]);
    let notices = wait_for("the callers' unit to be told", LIMIT, async || {
        Some(told.all()).filter(|notices| !notices.is_empty())
    })
    .await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0]["ticket"], kept["strait-ticket"]);
    assert_eq!(dead(cluster.relay("b-1")).len(), 1);
}

// C-P1, C-P2: what cannot be kept is refused as before, and says why; nothing of it comes to its unit later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_refused_and_says_why() {
    let mut cluster = pair().start().await;
    let (at_a, served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    let client = grpc(cluster.relay("a-1")).await;
    let refused = async |method: &str, fields: &[(&'static str, &str)]| {
        let status = call(&client, method, fields).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
        status.message().to_owned()
    };
    let key = ("strait-key", "uid=b:1");
    for method in ["Post", "Park"] {
        let text = refused(method, &[key]).await;
        assert!(text.contains("not kept") && text.contains("idempotency-key"), "{text}");
    }
    for method in ["Plain", "Get"] {
        let text = refused(method, &[key, ("idempotency-key", "1")]).await;
        assert!(!text.contains("not kept"), "{text}");
    }
    // A stream ends as before, whether its first message is there or not.
    for messages in [0, 1, 2] {
        let (sender, stream) = channel();
        for _ in 0..messages {
            sender.send(Bytes::from_static(b"hello")).await.unwrap();
        }
        let mut asked = request(stream, &[key, ("idempotency-key", "stream")]);
        asked.set_timeout(LIMIT);
        let ended = within("a stream to be refused", LIMIT, client.chat("Post", asked)).await;
        let status = match ended {
            Err(status) => status,
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        };
        assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
        drop(sender);
    }
    assert_eq!(at_a.got().len(), 0);
    // The local service refuses: the caller hears that, and nothing is stored.
    at_a.refuse(Some(Code::InvalidArgument));
    let fields = [key, ("idempotency-key", "2")];
    let status = call(&client, "Fails", &fields).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::InvalidArgument, "the room is closed")
    );
    // It is not there at all.
    drop(served_a);
    let status = wait_for("the service to be gone", LIMIT, async || {
        let status = call(&client, "Post", &[key, ("idempotency-key", "3")]).await.err()?;
        Some(status)
    })
    .await;
    assert!(
        status
            .message()
            .contains("unit b is away, and this unit did not execute the call"),
        "{status:?}"
    );
    cluster.relay_mut("b-1").start().await;
    let _again = Ledger::at(cluster.relay("a-1")).await;
    let posted = wait_for("the unit to be back", LIMIT, async || {
        call(&client, "Plain", &[key, ("idempotency-key", "last")]).await.ok()
    })
    .await;
    assert_eq!(posted["strait-unit"], "b");
    assert_eq!(
        at_b.got().iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(),
        ["last"]
    );
    assert!(strait(cluster.relay("a-1"), &["queue", "audit"]).len() > 1);
}

// I16: nothing is answered that is not on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_the_disk_does_not_take_is_not_acknowledged() {
    let mut cluster = pair().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    cluster.relay_mut("a-1").expect_error("disk");
    let relay = cluster.relay("a-1");
    let client = connect(relay).await;
    let injection = Injection::start(relay.pid(), SYNCS, "error=EIO").await;
    for (method, expected) in [
        (
            "im.Ledger/Post",
            "this unit has executed the call in its place, but could not store it",
        ),
        ("im.Ledger/Park", "the call could not be stored for it"),
    ] {
        let asked = Call::new(method).key("uid", "b:1").body("hello");
        let asked = asked.metadata("idempotency-key", method).timeout(LIMIT);
        let CallError::Relay(error) = client.call(asked).await.unwrap_err() else {
            panic!("{method}: an error of the relay");
        };
        assert_ne!(error.reason, Reason::Parked);
        assert!(error.detail.contains(expected), "{error}");
    }
    drop(injection);
    assert_eq!(at_a.applied().len(), 1);
    assert_eq!(counted(relay, "strait_kept_calls_total", "not_stored").await, 2.0);
    // Made again, it is stored, though the local service has executed it before.
    wait_for("the disk to take it", LIMIT, async || {
        let asked = Call::new("im.Ledger/Post").key("uid", "b:1").body("hello");
        let asked = asked.metadata("idempotency-key", "im.Ledger/Post").timeout(LIMIT);
        match client.call(asked).await.unwrap_err() {
            CallError::Status(status) => {
                assert_eq!(status.code, Code::AlreadyExists);
                Some(())
            }
            error => {
                assert!(error.to_string().contains("could not store it"), "{error}");
                None
            }
        }
    })
    .await;
    assert_eq!(at_a.applied().len(), 1);
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 1).await;
    assert_eq!(at_b.applied()[0].id, "im.Ledger/Post");
}

// C-P1: only if the service says so, parked is an answer without content instead of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_call_is_answered_with_an_empty_message_where_the_settings_say_so() {
    let builder = pair().set("a", "calls.route.\"im.Ledger\".parked_as", "ok");
    let mut cluster = builder.start().await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    let client = grpc(cluster.relay("a-1")).await;
    let fields = [("strait-key", "uid=b:1"), ("idempotency-key", "1")];
    let answer = call(&client, "Quiet", &fields).await.unwrap();
    assert!(answer["strait-ticket"].starts_with("a/a-1/"), "{answer:?}");
    assert!(!answer.contains_key("strait-unit"), "nobody has served it: {answer:?}");
    let framed = connect(cluster.relay("a-1")).await;
    let asked = Call::new("im.Ledger/Quiet").key("uid", "b:1").body("hello");
    let answer = framed.call(asked.metadata("idempotency-key", "2")).await.unwrap();
    assert!(answer.body().is_empty());
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 2).await;
    assert_eq!(
        at_b.applied().iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(),
        ["1", "2"]
    );
}

// O-C1: what a setting does is said before it is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_what_becomes_of_a_method_and_the_topic_of_kept_calls_is_the_relays_own() {
    let cluster = pair().start().await;
    let config = cluster.relay("a-1").config();
    let explain = |method: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args([
                "explain",
                "--key",
                "uid=b:1",
                "--service",
                "im.Ledger",
                "--method",
                method,
                "--config",
            ])
            .arg(&config)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(explain("Post").contains("while away   local"), "{}", explain("Post"));
    assert!(explain("Other").contains("while away   park"), "{}", explain("Other"));
    assert!(!explain("Plain").contains("while away"), "{}", explain("Plain"));
    let asked = "/explain?dimension=uid&key=b:1&service=im.Ledger&method=Post";
    let (_, text) = http_get(&cluster.relay("a-1").admin(), asked).await.unwrap();
    assert!(text.contains("\"on_failure\":\"local\""), "{text}");
    let client = connect(cluster.relay("a-1")).await;
    let publish = client::Publish::new("strait.calls").key("uid", "b:1").body("x");
    let error = client.publish(publish).await.unwrap_err().to_string();
    assert!(error.contains("for calls that relays keep"), "{error}");
    let subscribe = client::Subscribe::new("strait.calls", "owner");
    let refused = client.subscribe(subscribe, |_| async { Ok(()) }).await;
    assert!(refused.is_err(), "nobody else takes these calls");
}

/// Units a, b and c with a ledger each, whose keys have leases that end.
async fn world_with_leases(in_flight_max: &str) -> (World, BTreeMap<&'static str, Ledger>, Vec<client::Client>) {
    let dimension = |text: &str| Value::Table(text.parse().unwrap());
    let dimensions = vec![
        dimension("name = \"cid\"\nplacement = \"claim\"\nowner_lease = \"7s\""),
        dimension("name = \"uid\"\nowner_lease = \"7s\""),
    ];
    let world = World::start_with_units(|unit, builder| {
        keeping(unit, builder)
            .set(unit, "routes.dimension", dimensions.clone())
            .set(unit, "routes.in_flight_max", in_flight_max)
    })
    .await;
    let ledgers: BTreeMap<&str, Ledger> = UNITS.map(|unit| (unit, Ledger::default())).into();
    let mut served = Vec::new();
    for relay in ["a-1", "a-2", "b-1", "c-1"] {
        served.push(ledgers[&relay[..1]].serve(world.cluster.relay(relay)).await);
    }
    (world, ledgers, served)
}

/// Waits until nobody writes the keys of a unit, and nobody has taken over.
async fn until_fenced(relay: &Relay, unit: &str) {
    wait_for("nobody to have the keys", LIMIT, async || {
        let asked = json!({ "ask": "units", "unit": unit });
        let state = ask(relay, &asked).await["units"][0]["state"].clone();
        state["fencing"].is_object().then_some(())
    })
    .await;
}

// an operator says that a unit counts as away, though it answers. Its calls are kept and wait, over a restart, until that is
// taken back; everybody can see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_counts_as_away_because_an_operator_says_so() {
    let mut cluster = pair().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let refuses = |words: &[&str], why: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(["unit", "local-mode"])
            .args(words)
            .args(["--admin", &cluster.relay("a-1").admin()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{words:?}: {text}");
    };
    refuses(&["b", "--for", "25h", "--reason", "x"], "24 hours at most");
    refuses(&["nowhere", "--for", "1h", "--reason", "x"], "no such thing");
    refuses(&["b", "--for", "1h"], "--reason");
    refuses(&["b"], "--for and --reason");
    let none = strait(cluster.relay("a-1"), &["unit", "local-mode"]);
    assert!(none.contains("no unit counts as away"), "{none}");
    let words = ["unit", "local-mode", "b", "--for", "2h", "--reason", "wrong answers"];
    let shown = strait(cluster.relay("a-1"), &words);
    assert!(shown.contains("b ") && shown.contains(": wrong answers"), "{shown}");

    let client = grpc(cluster.relay("a-1")).await;
    let keep = async |client: &Client, id: &str| {
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id)];
        let answer = call(client, "Post", &fields).await.unwrap();
        assert_eq!((&*answer["strait-provisional"], &*answer["strait-unit"]), ("true", "a"));
    };
    keep(&client, "1").await;
    let key = ("strait-key", "uid=b:1");
    let status = call(&client, "Post", &[key]).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
    assert!(status.message().contains("an operator says"), "{status:?}");
    for method in ["Plain", "Get"] {
        let answer = call(&client, method, &[key, ("idempotency-key", method)])
            .await
            .unwrap();
        assert_eq!(answer["strait-unit"], "b", "{method} goes on");
    }
    let labels = [("src_unit", "a"), ("dst_unit", "b")];
    wait_for("the series to say so", LIMIT, async || {
        let metrics = cluster.relay("a-1").metrics().await;
        (metrics.sum("strait_local_mode_by_operator", &labels) == 1.0).then_some(())
    })
    .await;
    let asked = "/explain?dimension=uid&key=b:1&service=im.Ledger&method=Post";
    let (_, text) = http_get(&cluster.relay("a-1").admin(), asked).await.unwrap();
    assert!(
        text.contains("\"counts_as_away\":\"until 20") && text.contains(": wrong answers"),
        "{text}"
    );
    let shown = strait(cluster.relay("a-1"), &["queue", "status"]);
    assert!(shown.contains("b: counts as away for calls until 20"), "{shown}");

    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    cluster.until_linked("a-1", "b").await;
    let _served_a = at_a.serve(cluster.relay("a-1")).await;
    keep(&grpc(cluster.relay("a-1")).await, "2").await;
    assert_eq!(at_a.applied().len(), 2);
    assert_eq!(at_b.applied().len(), 2, "Plain and Get");
    let relays = cluster.relay("a-1").admin();
    let shown = strait(
        cluster.relay("b-1"),
        &["unit", "local-mode", "b", "--off", "--relays", &relays],
    );
    assert!(shown.contains("no unit counts as away"), "{shown}");
    until_applied(&at_b, 4).await;
    let ids: Vec<String> = at_b.applied().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids[2..], ["1", "2"]);
    let fields = [key, ("idempotency-key", "3")];
    let answer = call(&grpc(cluster.relay("a-1")).await, "Post", &fields).await.unwrap();
    assert_eq!(answer["strait-unit"], "b");
}

// I16: what was kept for a unit whose keys others have taken over goes to those, in order; also what was kept while the unit
// was being evacuated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_calls_go_to_those_who_take_over_the_keys() {
    const KEYS: usize = 6;
    let (mut world, ledgers, _served) = world_with_leases("3s").await;
    let plain = async |at: &Client, key: usize| {
        let route = format!("cid=m{key}");
        let fields = [("strait-key", route.as_str()), ("idempotency-key", &route)];
        call(at, "Plain", &fields).await
    };
    let (at_a, at_c) = (
        grpc(world.cluster.relay("a-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    for key in 0..KEYS {
        assert_eq!(plain(&at_c, key).await.unwrap()["strait-unit"], "c");
    }
    world.cluster.relay_mut("c-1").kill();
    world.cluster.until_unlinked("a-1", "c").await;
    until_seen_away(world.cluster.relay("a-1"), "c", 2).await;
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut keep = async |from: usize| {
        for number in from..from + 3 * KEYS {
            let (key, id) = (format!("m{}", number % KEYS), format!("call-{number}"));
            let route = format!("cid={key}");
            let fields = [("strait-key", route.as_str()), ("idempotency-key", id.as_str())];
            if number % 2 == 0 {
                let answer = call(&at_a, "Post", &fields).await.unwrap();
                assert_eq!(answer["strait-provisional"], "true");
            } else {
                let status = call(&at_a, "Park", &fields).await.unwrap_err();
                assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
            }
            acknowledged.entry(key).or_default().push(id);
        }
    };
    keep(0).await;
    let relay = world.cluster.relay("a-2");
    let evacuation = ["unit", "evacuate", "c", "--to", "a=1,b=1", "--accept-loss"];
    strait(relay, &evacuation);
    until_fenced(world.cluster.relay("a-1"), "c").await;
    keep(100).await;
    let mut owners = BTreeMap::new();
    for key in 0..KEYS {
        let fields = wait_for("the key to be taken over", LIMIT, async || plain(&at_a, key).await.ok()).await;
        owners.insert(format!("m{key}"), fields["strait-unit"].clone());
    }
    assert!(owners.values().all(|owner| owner != "c"), "{owners:?}");
    // Nobody of the old owner is there to say where they have gone.
    let before = ledgers["c"].got().len();
    for (key, wanted) in &acknowledged {
        let ledger = &ledgers[owners[key].as_str()];
        let replayed = wait_for("what was kept to be replayed", LIMIT, async || {
            let got = ledger.got().into_iter();
            let got = got.filter(|entry| entry.key == *key && entry.field("strait-replay").is_some());
            let ids: Vec<String> = got.map(|entry| entry.id).collect();
            (ids.len() >= wanted.len()).then_some(ids)
        })
        .await;
        assert_eq!(replayed, *wanted, "{key} at {}", owners[key]);
        let applied = ledger
            .applied()
            .into_iter()
            .filter(|entry| entry.key == *key && entry.method != "Plain");
        let applied: BTreeSet<String> = applied.map(|entry| entry.id).collect();
        assert_eq!(applied, wanted.iter().cloned().collect(), "{key}");
    }
    world.cluster.relay_mut("c-1").start().await;
    world.cluster.until_linked("a-1", "c").await;
    assert_eq!(ledgers["c"].got().len(), before, "the old owner executed some");
    for relay in ["a-1", "a-2", "b-1", "c-1"] {
        assert!(dead(world.cluster.relay(relay)).is_empty(), "{relay}");
    }
}

// a unit is fenced, and one of its relays answers while another one is waited for. Nobody has its keys: calls wait for a takeover
// as long as for any move, then they are kept, and go to whoever takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_unit_that_is_fenced_for_long_are_kept_though_it_answers() {
    let (mut world, ledgers, _served) = world_with_leases("15s").await;
    let (at_a, at_c) = (
        grpc(world.cluster.relay("a-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    let of_key = |method: &'static str, id: &'static str| (method, [("strait-key", "cid=1"), ("idempotency-key", id)]);
    let (method, fields) = of_key("Plain", "first");
    assert_eq!(call(&at_a, method, &fields).await.unwrap()["strait-unit"], "a");
    world.cluster.relay_mut("a-2").kill();
    let evacuation = ["unit", "evacuate", "a", "--to", "b=1,c=1", "--accept-loss"];
    strait(world.cluster.relay("b-1"), &evacuation);
    until_fenced(world.cluster.relay("b-1"), "a").await;
    let before = ledgers["a"].got().len();

    let (post, plain, own) = (of_key("Post", "1"), of_key("Plain", "plain"), of_key("Post", "own"));
    let (kept, refused, at_home) = tokio::join!(
        call(&at_c, post.0, &post.1),
        call(&at_c, plain.0, &plain.1),
        call(&at_a, own.0, &own.1)
    );
    assert_eq!(kept.unwrap()["strait-provisional"], "true");
    for status in [refused.unwrap_err(), at_home.unwrap_err()] {
        assert!(said(&status, "strait-error").starts_with("moving"), "{status:?}");
    }
    // There is nothing to wait for any more.
    let begun = Instant::now();
    let (method, fields) = of_key("Park", "2");
    let status = call(&at_c, method, &fields).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    let (method, fields) = of_key("Post", "3");
    assert_eq!(
        call(&at_c, method, &fields).await.unwrap()["strait-provisional"],
        "true"
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "kept after {took:?}");
    until_fenced(world.cluster.relay("b-1"), "a").await;

    let owner = wait_for("the key to be taken over", LIMIT, async || {
        let (method, fields) = of_key("Plain", "last");
        Some(call(&at_c, method, &fields).await.ok()?["strait-unit"].clone())
    })
    .await;
    assert_ne!(owner, "a");
    let ledger = &ledgers[owner.as_str()];
    let replayed = wait_for("what was kept to be replayed", LIMIT, async || {
        let got = ledger.got().into_iter();
        let got = got.filter(|entry| entry.field("strait-replay").is_some());
        let ids: Vec<String> = got.map(|entry| entry.id).collect();
        (ids.len() >= 3).then_some(ids)
    })
    .await;
    assert_eq!(replayed, ["1", "2", "3"]);
    assert_eq!(
        ledgers["a"].got().len(),
        before,
        "the unit that is fenced executed some"
    );
    for relay in ["a-1", "b-1", "c-1"] {
        assert!(dead(world.cluster.relay(relay)).is_empty(), "{relay}");
    }
}

// a move waits for calls that its old owner has taken, and so they pass the freeze.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_waits_for_kept_calls_and_lets_them_through() {
    let mut world =
        World::start_with_units(|unit, builder| keeping(unit, builder).set(unit, "routes.in_flight_max", "3s")).await;
    let at_b = Ledger::default();
    let served = at_b.serve(world.cluster.relay("b-1")).await;
    let (from_b, from_c) = (
        grpc(world.cluster.relay("b-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    let key = ("strait-key", "cid=1");
    for (client, id) in [(&from_b, "b"), (&from_c, "c")] {
        let answer = call(client, "Plain", &[key, ("idempotency-key", id)]).await.unwrap();
        assert_eq!(answer["strait-unit"], "b");
    }
    world.cluster.relay_mut("b-1").kill();
    world.cluster.until_unlinked("c-1", "b").await;
    until_seen_away(world.cluster.relay("c-1"), "b", 2).await;
    drop(served);
    for id in ["1", "2", "3"] {
        let status = call(&from_c, "Park", &[key, ("idempotency-key", id)])
            .await
            .unwrap_err();
        assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    }
    world.cluster.relay_mut("b-1").start().await;
    let relay = world.cluster.relay("b-1");
    wait_for("replays that find no service", LIMIT, async || {
        let again = counted(relay, "strait_replayed_calls_total", "again").await;
        (again > 0.0).then_some(())
    })
    .await;
    let what = json!([{ "node": { "key": { "dimension": "cid", "key": "1" } } }]);
    let command = json!({ "ask": "move", "what": what, "to": "c", "options": { "freeze_budget": "30s" } });
    let plan = ask(relay, &command).await;
    let id = plan["plan"]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{plan}"))
        .to_owned();
    wait_for("the key to be frozen", LIMIT, async || {
        let (_, text) = http_get(&relay.admin(), "/explain?dimension=cid&key=1").await.ok()?;
        let explained: Json = serde_json::from_str(&text).ok()?;
        explained["frozen"].is_string().then_some(())
    })
    .await;
    let _served = at_b.serve(relay).await;
    wait_for("the key to be moved", LIMIT, async || {
        let row = ask(relay, &json!({ "ask": "moves", "id": id })).await["moves"][0].clone();
        let is_over = row["state"] == "trailing" || row["state"] == "finished";
        is_over.then(|| assert_eq!(row["moved"], 1, "{row}"))
    })
    .await;
    let applied: Vec<String> = at_b.applied().into_iter().map(|entry| entry.id).collect();
    assert_eq!(applied, ["b", "c", "1", "2", "3"], "they came before the move");
}
