//! M-D2, M-F, M-G8, M-H, O-C3: operators of messages at real relays, with the command line that they use.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use strait::client::{self, Nack, Publish, Subscribe};
use toml::{Table, Value};

use crate::harness::{Cluster, ClusterBuilder, Relay, wait_for};
use crate::reload::reload;

const LIMIT: Duration = Duration::from_secs(30);

/// Settings of a topic whose messages are tried again soon.
pub fn topic(settings: &str) -> Table {
    let retry = "retry = { first = \"50ms\", longest = \"100ms\", attempts = 3 }";
    format!("{retry}\n{settings}").parse().unwrap()
}

/// Runs commands at the admin address of a relay.
pub struct Operator(String);

impl Operator {
    pub fn of(relay: &Relay) -> Self {
        Self(relay.admin())
    }

    /// What `strait ...` says: exit code, standard output, standard error.
    fn strait(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        let output = command
            .args(words)
            .args(["--admin", &self.0])
            .env("USER", "ann")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Must succeed.
    pub fn run(&self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let (code, _, error) = self.strait(&words);
        assert_eq!(code, 0, "{line}: {error}");
    }
}

/// Units `a` and `b`; messages of all topics go from `a` to `b`.
fn pair() -> ClusterBuilder {
    let topic = topic("rule = \"units\"\nunits = [\"b\"]");
    let builder = Cluster::builder().unit("a", 1).unit("b", 1);
    builder
        .set("a", "topics.\"chat.*\"", topic.clone())
        .set("b", "topics.\"chat.*\"", topic)
}

fn strait(relay: &Relay, words: &[&str]) -> (i32, String, String) {
    Operator::of(relay).strait(words)
}

/// The same as JSON; it must succeed.
fn json(relay: &Relay, words: &[&str]) -> Json {
    let (code, out, error) = strait(relay, &[words, &["--output", "json"]].concat());
    assert_eq!(code, 0, "{words:?}: {error}");
    serde_json::from_str(&out).unwrap()
}

fn done(relay: &Relay, words: &[&str]) -> u64 {
    json(relay, words)["messages"]
        .as_u64()
        .unwrap_or_else(|| panic!("{words:?} is done"))
}

async fn connect(relay: &Relay) -> client::Client {
    client::Client::connect(&format!("tcp://{}", relay.framed()))
        .await
        .unwrap()
}

/// Publishes so many; bodies are their numbers, keys `k0` to `k3` in turn, the first half has the attribute `half=one`.
async fn publish(relay: &Relay, topic: &str, count: usize) -> Vec<String> {
    let client = connect(relay).await;
    let messages = (0..count).map(|number| {
        let half = if number < count / 2 { "one" } else { "two" };
        let key = format!("k{}", number % 4);
        Publish::new(topic)
            .key("uid", key)
            .attribute("half", half)
            .body(number.to_string())
    });
    let results = client.publish_all(messages).await;
    results
        .into_iter()
        .map(|result| result.unwrap().id().to_owned())
        .collect()
}

/// Everything that a consumer was given: id, attempt, body.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<(String, u32, String)>>>);

impl Taken {
    /// Consumes at a relay until the client is dropped.
    async fn at(relay: &Relay, topic: &str, answer: fn() -> Result<(), Nack>) -> (client::Client, Self) {
        let (client, taken) = (connect(relay).await, Self::default());
        let seen = taken.clone();
        let handler = move |attempt: client::Attempt| {
            let body = String::from_utf8(attempt.body().to_vec()).unwrap();
            let one = (attempt.id().to_owned(), attempt.number(), body);
            seen.0.lock().unwrap().push(one);
            async move { answer() }
        };
        client.subscribe(Subscribe::new(topic, "g"), handler).await.unwrap();
        (client, taken)
    }

    fn all(&self) -> Vec<(String, u32, String)> {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, count: usize) -> Vec<(String, u32, String)> {
        let what = format!("{count} messages");
        wait_for(&what, LIMIT, async || (self.all().len() >= count).then(|| self.all())).await
    }
}

fn terminate() -> Result<(), Nack> {
    Err(Nack::terminate("cannot be digested"))
}

fn seqs(peeked: &Json) -> Vec<u64> {
    let messages = peeked["messages"].as_array().unwrap().iter();
    messages.map(|message| message["seq"].as_u64().unwrap()).collect()
}

fn unit_b(relay: &Relay) -> Json {
    json(relay, &["queue", "status"])["units"][0].clone()
}

async fn until_state(relay: &Relay, state: &str) {
    let what = format!("unit b to be {state}");
    wait_for(&what, LIMIT, async || (unit_b(relay)["state"] == state).then_some(())).await;
}

/// The books of all relays balance.
fn audit(cluster: &Cluster) {
    for relay in cluster.relays() {
        let (code, out, error) = strait(relay, &["audit"]);
        assert!(code == 0 && !out.contains("DO NOT"), "{}: {out}{error}", relay.name);
    }
}

// M-H1: by number, time, key and attribute; twice the same, and consumers notice nothing.
#[tokio::test]
async fn peek_finds_messages_and_changes_nothing() {
    let cluster = pair().start().await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    done(a, &["queue", "pause", "--unit", "b", "--reason", "test"]);
    let ids = publish(a, "chat.x", 20).await;
    let all = ["queue", "peek", "--unit", "b", "--limit", "100"];
    let first = json(a, &all);
    assert_eq!(seqs(&first).len(), 20);
    let peeked: Vec<_> = first["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(peeked, ids, "in the order of the line");
    assert_eq!(first["messages"][0]["body"], Json::Null);
    let numbers = seqs(&first);
    let range = format!("{}-{}", numbers[3], numbers[5]);
    for (filter, expected) in [
        (vec!["--key", "uid=k1"], 5),
        (vec!["--attribute", "half=one"], 10),
        (vec!["--attribute", "half=one", "--key", "uid=k1"], 3),
        (vec!["--seq", &range], 3),
        (vec!["--since", "1h"], 20),
        (vec!["--before", "1h"], 0),
        (vec!["--id", &ids[7]], 1),
        (vec!["--topic", "chat.y"], 0),
    ] {
        assert_eq!(
            seqs(&json(a, &[&all[..], &filter].concat())).len(),
            expected,
            "{filter:?}"
        );
    }
    let with_body = json(a, &["queue", "peek", "--unit", "b", "--limit", "1", "--bodies"]);
    assert_eq!(
        (&with_body["messages"][0]["body"], &with_body["more"]),
        (&Json::from("MA=="), &Json::from(true))
    );
    assert_eq!(json(a, &all), first, "looking changes nothing");
    done(a, &["queue", "resume", "--unit", "b"]);
    let (_client, taken) = Taken::at(b, "chat.x", || Ok(())).await;
    let taken = taken.until(20).await;
    let attempts: Vec<_> = taken.iter().map(|(_, attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1; 20]);
    for key in 0..4 {
        let of_key = taken
            .iter()
            .map(|(_, _, body)| body.parse::<usize>().unwrap())
            .filter(|number| number % 4 == key);
        assert!(of_key.is_sorted(), "the order of key {key}");
    }
    audit(&cluster);
}

// M-H2, M-G2, M-G8
#[tokio::test]
async fn purge_needs_a_filter_tells_the_other_unit_and_is_written_down() {
    let cluster = pair().start().await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    done(a, &["queue", "pause", "--unit", "b", "--reason", "test"]);
    publish(a, "chat.x", 20).await;
    let purge = ["queue", "purge", "--unit", "b", "--yes"];
    assert_eq!(strait(a, &purge).0, 64, "everything by mistake");
    let of_key = ["--key", "uid=k1"];
    assert_eq!(done(a, &[&purge[..4], &of_key, &["--dry-run"]].concat()), 5);
    assert_eq!(
        unit_b(a)["backlog"].as_u64().unwrap() + unit_b(a)["live"].as_u64().unwrap(),
        20
    );
    assert_eq!(done(a, &[&purge[..], &of_key].concat()), 5);
    assert_eq!(
        unit_b(a)["backlog"].as_u64().unwrap() + unit_b(a)["live"].as_u64().unwrap(),
        15
    );
    done(a, &["queue", "resume", "--unit", "b"]);
    let (_client, taken) = Taken::at(b, "chat.x", || Ok(())).await;
    let taken = taken.until(15).await;
    assert!(taken.iter().all(|(_, _, body)| body.parse::<usize>().unwrap() % 4 != 1));
    wait_for("b to hear of the gaps", LIMIT, async || {
        let metrics = b.metrics().await;
        (metrics.sum("strait_queue_received_gaps_total", &[("reason", "purged")]) == 5.0).then_some(())
    })
    .await;
    audit(&cluster);
    let log = a.log();
    let line = log
        .lines()
        .find(|line| line.contains("strait::audit") && line.contains("\"purge\""))
        .unwrap();
    assert!(line.contains("\"who\":\"ann\"") && line.contains("by key"), "{line}");
    assert!(!log.contains("k1"), "keys are not in the log");
}

// M-H3
#[tokio::test]
async fn a_pause_ends_by_itself_or_by_hand() {
    let cluster = pair().start().await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    let (_client, taken) = Taken::at(b, "chat.x", || Ok(())).await;
    done(
        a,
        &["queue", "pause", "--unit", "b", "--reason", "moving b", "--for", "3s"],
    );
    until_state(a, "paused").await;
    let shown = strait(a, &["queue", "status"]).1;
    assert!(
        shown.contains("b: paused until") && shown.contains("moving b"),
        "{shown}"
    );
    publish(a, "chat.x", 4).await;
    assert_eq!(taken.all().len(), 0);
    taken.until(4).await;
    until_state(a, "live").await;
    done(
        a,
        &["queue", "pause", "--unit", "b", "--reason", "for long", "--for", "1h"],
    );
    publish(a, "chat.x", 4).await;
    until_state(a, "paused").await;
    assert_eq!(taken.all().len(), 4);
    done(a, &["queue", "resume", "--unit", "b"]);
    taken.until(8).await;
    done(
        b,
        &[
            "queue",
            "pause",
            "--topic",
            "chat.x",
            "--group",
            "g",
            "--reason",
            "archive is full",
        ],
    );
    publish(a, "chat.x", 4).await;
    wait_for("messages to wait at b", LIMIT, async || {
        let group = json(b, &["queue", "status"])["groups"][0].clone();
        (group["pending"] == 4).then_some(())
    })
    .await;
    assert_eq!(taken.all().len(), 8);
    done(b, &["queue", "resume", "--topic", "chat.x", "--group", "g"]);
    taken.until(12).await;
    audit(&cluster);
}

// M-H4, O-C3: what is wrong changes nothing, what is right is in force at once or named.
#[tokio::test]
async fn an_invalid_change_is_refused_as_a_whole() {
    let cluster = pair().start().await;
    let a = cluster.relay("a-1");
    publish(a, "chat.x", 1).await;
    let (code, _, error) = strait(a, &["replay", "limit", "--unit", "x", "--rate", "5"]);
    assert!(code == 2 && error.contains("unit x"), "{code} {error}");
    assert_eq!(strait(a, &["queue", "pause", "--unit", "x", "--reason", "y"]).0, 2);
    assert_eq!(strait(a, &["dlq", "cancel", "99"]).0, 2);
    let rate = |relay: &Relay| unit_b(relay)["limits"]["messages_per_second"].as_f64().unwrap();
    let replay =
        |rate: &str| -> Value { Value::Table(format!("default.messages_per_second = {rate}").parse().unwrap()) };
    reload(a, "refused", |config| {
        config.insert("replay".to_owned(), replay("70.0"));
        config["topics"]["chat.*"]["units"] = Value::from(vec![Value::from("nowhere")]);
    })
    .await;
    assert!(
        a.log()
            .contains("unit nowhere is neither in [units] nor this relay's own")
    );
    assert_eq!(rate(a), 0.0);
    reload(a, "applied", |config| {
        config["topics"]["chat.*"]["units"] = Value::from(vec![Value::from("b")]);
        let queue: Table = "segment_bytes = \"128MiB\"\nlive_bytes_max = \"1MiB\"\nbytes_max = \"8GiB\""
            .parse()
            .unwrap();
        config.insert("queue".to_owned(), Value::Table(queue));
    })
    .await;
    wait_for("the limit to be in force", LIMIT, async || {
        (rate(a) == 70.0).then_some(())
    })
    .await;
    let log = a.log();
    let line = log.lines().find(|line| line.contains("only after a restart")).unwrap();
    assert!(
        line.contains("\"settings\":\"queue.bytes_max, queue.segment_bytes\""),
        "{line}"
    );
    // A limit set by hand wins until it is cleared.
    done(a, &["replay", "limit", "--unit", "b", "--rate", "7"]);
    assert_eq!(rate(a), 7.0);
    done(a, &["replay", "limit", "--unit", "b", "--clear"]);
    assert_eq!(rate(a), 70.0);
}

// M-F1, M-F2, M-F3, M-C4, M-E4
#[tokio::test]
async fn dead_letters_are_taken_back_at_a_rate_that_can_be_watched() {
    let cluster = pair().start().await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    let (client, taken) = Taken::at(b, "chat.x", terminate).await;
    let ids = publish(a, "chat.x", 40).await;
    taken.until(40).await;
    wait_for("40 dead letters", LIMIT, async || {
        (json(b, &["queue", "status"])["dead_letters"] == 40).then_some(())
    })
    .await;
    drop(client);
    let shown = json(b, &["dlq", "show", "--id", &ids[5], "--bodies"])["messages"][0].clone();
    let facts = ["place", "reason", "error", "was_for", "key"].map(|name| shown[name].as_str().unwrap().to_owned());
    assert_eq!(facts[..2], ["delivery", "terminated"]);
    assert!(
        facts[2].contains("cannot be digested") && facts[3].contains('g') && facts[4] == "uid=k1",
        "{facts:?}"
    );
    assert_eq!(shown["body"], "NQ==");

    let redrive = ["dlq", "redrive", "--topic", "chat.x", "--rate", "10"];
    let (code, _, error) = strait(b, &redrive);
    assert!(code == 2 && error.contains("allow-reorder"), "{code} {error}");
    let redrive = [&redrive[..], &["--allow-reorder"]].concat();
    let dry = json(b, &[&redrive[..], &["--dry-run", "--key", "uid=k1"]].concat());
    assert_eq!(dry["tasks"][0]["remaining"], 10);
    assert_eq!(json(b, &["queue", "status"])["dead_letters"], 40, "it was only counted");
    let task = json(b, &redrive)["tasks"][0].clone();
    let number = task["task"].to_string();
    let of_task = |relay: &Relay| {
        let tasks = json(relay, &["dlq", "tasks"]);
        tasks["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|found| found["task"] == task["task"])
            .unwrap()
            .clone()
    };
    done(b, &["dlq", "pause", &number, "--reason", "wait"]);
    let paused = of_task(b);
    assert_eq!(
        (paused["state"].as_str(), paused["who"].as_str()),
        (Some("paused"), Some("ann"))
    );
    assert!(paused["moved"].as_u64().unwrap() < 40, "{paused}");
    assert_eq!(
        paused["moved"].as_u64().unwrap() + paused["remaining"].as_u64().unwrap(),
        40
    );
    let (_client, again) = Taken::at(b, "chat.x", || Ok(())).await;
    done(b, &["dlq", "resume", &number]);
    let mut taken: Vec<_> = again.until(40).await.into_iter().map(|(id, _, _)| id).collect();
    taken.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(taken, expected, "each once, with the id it had");
    wait_for("the redrive to end", LIMIT, async || {
        (of_task(b)["state"] == "done").then_some(())
    })
    .await;
    assert_eq!(
        (of_task(b)["moved"].as_u64(), of_task(b)["failed"].as_u64()),
        (Some(40), Some(0))
    );
    assert_eq!(json(b, &["queue", "status"])["dead_letters"], 0);
    audit(&cluster);
}
