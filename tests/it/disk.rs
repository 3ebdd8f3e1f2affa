//! M-A4, M-G6: disks that fail, are slow, are full, or are damaged, under real relays.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use strait::client::{CallError, Client, Publish, Subscribe};
use strait::model::{Reason, Retry};

use crate::harness::{Cluster, ClusterBuilder, Injection, Relay, SYNCS, http_post_body, wait_for, within};
use crate::services::{self, Echo, to_b};

pub const LIMIT: Duration = Duration::from_secs(60);

/// What a consumer got: how often each body came.
pub type Got = Arc<Mutex<BTreeMap<Vec<u8>, u32>>>;

pub fn pair(echo: &Echo) -> ClusterBuilder {
    Cluster::pair(&echo.endpoint())
        .set("a", "topics.orders.rule", "owner")
        .set("b", "topics.orders.rule", "owner")
        .set("a", "queue.segment_bytes", "1MiB")
}

pub async fn connect(relay: &Relay) -> Client {
    let address = format!("tcp://{}", relay.framed());
    let builder = Client::builder(&address).backoff_max(Duration::from_millis(50));
    builder.connect().await.unwrap()
}

pub async fn consume(relay: &Relay) -> (Client, Got) {
    let (client, got) = (connect(relay).await, Got::default());
    let seen = Arc::clone(&got);
    let note = move |attempt: strait::client::Attempt| {
        *seen.lock().unwrap().entry(attempt.body().to_vec()).or_default() += 1;
        std::future::ready(Ok(()))
    };
    client.subscribe(Subscribe::new("orders", "test"), note).await.unwrap();
    (client, got)
}

/// A message of its own kind, of a kilobyte.
pub fn message(number: usize) -> (Publish, Vec<u8>) {
    let mut body = format!("message {number:06} ").into_bytes();
    body.resize(1_024, b'.');
    let key = format!("b:{}", number % 10);
    let publish = Publish::new("orders")
        .key("uid", key)
        .identity("test", &number.to_string());
    (publish.body(body.clone()), body)
}

pub async fn publish(client: &Client, number: usize) -> Result<Vec<u8>, CallError> {
    let (publish, body) = message(number);
    within("a publication", LIMIT, client.publish(publish.timeout(LIMIT))).await?;
    Ok(body)
}

/// Publishes until it is accepted.
async fn publish_at_last(client: &Client, number: usize) -> Vec<u8> {
    wait_for("a publication to be accepted", LIMIT, async || {
        match publish(client, number).await {
            Ok(body) => Some(body),
            Err(error) => {
                assert_ne!(error.retry(), Retry::Never, "{error}");
                None
            }
        }
    })
    .await
}

pub async fn until_got(got: &Got, wanted: &[Vec<u8>]) {
    wait_for("all messages to arrive", LIMIT, async || {
        let got = got.lock().unwrap();
        wanted.iter().all(|body| got.contains_key(body)).then_some(())
    })
    .await;
}

async fn ask(relay: &Relay, command: Value) -> Value {
    let (status, body) = http_post_body(&relay.admin(), "/queue", &command.to_string())
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
    // Of a long command the last answer counts.
    serde_json::from_str(body.lines().last().unwrap()).unwrap()
}

pub async fn status(relay: &Relay) -> Value {
    ask(relay, json!({ "do": "status" })).await
}

/// The books must be even (M-G8).
pub async fn audit(relay: &Relay) -> Vec<Value> {
    let answer = ask(relay, json!({ "do": "audit" })).await;
    let rows = answer["rows"].as_array().cloned().unwrap_or_default();
    for row in &rows {
        assert_eq!(row["difference"], 0, "{row}");
    }
    rows
}

// M-G6: after a failed sync, what was in it is not acknowledged unless it was written anew; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_once_loses_nothing_that_was_acknowledged() {
    let echo = Echo::start();
    let mut cluster = pair(&echo).start().await;
    cluster.relay_mut("a-1").expect_error("queue");
    let client = connect(cluster.relay("a-1")).await;
    cluster.relay_mut("b-1").terminate().await;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        acknowledged.push(publish(&client, number).await.unwrap());
    }
    let injection = Injection::start(cluster.relay("a-1").pid(), SYNCS, "error=EIO:when=1").await;
    for number in 20..60 {
        acknowledged.push(publish_at_last(&client, number).await);
    }
    drop(injection);
    // What was acknowledged is on disk, not just in memory.
    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    cluster.relay_mut("b-1").start().await;
    let (_consumer, got) = consume(cluster.relay("b-1")).await;
    until_got(&got, &acknowledged).await;
    assert_eq!(got.lock().unwrap().len(), 60, "a message came that was never published");
    audit(cluster.relay("a-1")).await;
}

// M-G6: while every sync fails nothing is acknowledged, and what needs no disk goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_for_a_while_acknowledges_nothing_and_holds_up_no_call() {
    let echo = Echo::start();
    let mut cluster = pair(&echo).start().await;
    cluster.relay_mut("a-1").expect_error("queue");
    let relay = cluster.relay("a-1");
    let client = connect(relay).await;
    let calls = services::Client::connect(&relay.grpc()).await;
    let first = publish(&client, 0).await.unwrap();
    let injection = Injection::start(relay.pid(), SYNCS, "error=EIO").await;
    for number in 1..5 {
        let error = publish(&client, number).await.unwrap_err();
        assert_ne!(error.retry(), Retry::Never, "{error}");
        let answer = within("a call", LIMIT, calls.unary("Unary", to_b(Bytes::from_static(b"x")))).await;
        answer.unwrap();
    }
    wait_for("the status to say so", LIMIT, async || {
        (status(relay).await["disk"] == "failing").then_some(())
    })
    .await;
    drop(injection);
    let mut acknowledged = vec![first];
    for number in 5..10 {
        acknowledged.push(publish_at_last(&client, number).await);
    }
    let (_consumer, got) = consume(cluster.relay("b-1")).await;
    until_got(&got, &acknowledged).await;
    audit(relay).await;
}

// M-G6: publishers wait for a slow disk, calls do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_makes_publishers_wait_and_nobody_else() {
    let echo = Echo::start();
    let cluster = pair(&echo).start().await;
    let relay = cluster.relay("a-1");
    let client = connect(relay).await;
    let calls = services::Client::connect(&relay.grpc()).await;
    publish(&client, 0).await.unwrap();
    let injection = Injection::start(relay.pid(), SYNCS, "delay_enter=1s").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { publish(&client, 1).await }
    });
    let mut answered = 0;
    while !waiting.is_finished() {
        within("a call", LIMIT, calls.unary("Unary", to_b(Bytes::from_static(b"x"))))
            .await
            .unwrap();
        answered += 1;
    }
    waiting.await.unwrap().unwrap();
    // One sync takes a second; a call that had to wait for it would come with it.
    assert!(
        answered >= 20,
        "only {answered} calls were answered while a message waited for the disk"
    );
    drop(injection);
}

// M-G6: new messages are refused with a time to wait, delivery goes on, and it ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_messages_and_recovers_by_itself() {
    let echo = Echo::start();
    let mut cluster = pair(&echo).set("a", "queue.checkpoint_interval", "200ms").prepare();
    cluster.relay_mut("a-1").on_small_disk("32m");
    cluster.relay_mut("a-1").start().await;
    let client = connect(cluster.relay("a-1")).await;
    let mut acknowledged = Vec::new();
    let error = loop {
        match publish(&client, acknowledged.len()).await {
            Ok(body) => acknowledged.push(body),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 64 * 1024, "a disk of 32 MiB does not get full");
    };
    let CallError::Relay(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!((error.reason, error.retry), (Reason::Limited, Retry::Safe), "{error}");
    assert!(error.pushback.is_some_and(|wait| wait > Duration::ZERO), "{error:?}");
    assert!(
        acknowledged.len() > 8 * 1024,
        "refused after {} messages of 1 KiB",
        acknowledged.len()
    );
    assert_eq!(status(cluster.relay("a-1")).await["disk"], "full");

    // Somebody else takes what is left: the queue's reserve must be enough to get rid of messages.
    let filler = cluster.relay("a-1").data_inside().join("filler");
    fill(&filler);
    cluster.relay_mut("b-1").start().await;
    let (_consumer, got) = consume(cluster.relay("b-1")).await;
    until_got(&got, &acknowledged).await;
    fs::remove_file(filler).unwrap();
    let again = publish_at_last(&client, 1_000_000).await;
    until_got(&got, &[again]).await;
    assert_eq!(
        got.lock().unwrap().len(),
        acknowledged.len() + 1,
        "what was refused came all the same"
    );
    audit(cluster.relay("a-1")).await;
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let mut block = vec![1; 64 * 1024];
    while !block.is_empty() {
        while file.write_all(&block).is_ok() {}
        block.truncate(block.len() / 2);
    }
}

// One process per data directory.
#[tokio::test]
async fn a_second_process_on_the_same_data_directory_is_refused() {
    let echo = Echo::start();
    let cluster = pair(&echo).start().await;
    let relay = cluster.relay("a-1");
    let client = connect(relay).await;
    publish(&client, 0).await.unwrap();
    // The same data, other ports.
    let config = fs::read_to_string(relay.config()).unwrap();
    let mut config: toml::Table = config.parse().unwrap();
    for (section, key) in [("admin", "listen"), ("peer", "listen")] {
        config[section]
            .as_table_mut()
            .unwrap()
            .insert(key.to_owned(), "127.0.0.1:0".into());
    }
    for protocol in ["grpc", "framed"] {
        let ingress = config["ingress"][protocol].as_table_mut().unwrap();
        ingress.insert("listen".to_owned(), toml::Value::Array(Vec::new()));
        ingress.insert("socket".to_owned(), format!("second-{protocol}.sock").into());
    }
    let other = relay.directory().join("second.toml");
    fs::write(&other, config.to_string()).unwrap();
    let second = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["run", "--config"])
        .arg(other)
        .stdin(Stdio::null())
        .output();
    let second = second.unwrap();
    let said = String::from_utf8_lossy(&second.stdout).into_owned() + &String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success(), "{said}");
    assert!(
        said.contains("data") && said.contains("queue"),
        "it does not say what is wrong: {said}"
    );
    assert!(
        said.contains(&relay.pid().to_string()),
        "it does not say who has it: {said}"
    );
    publish(&client, 1).await.unwrap();
}

// M-A4, M-G2: damage is confined to the damaged message, and told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_costs_the_message_it_is_in_and_is_told() {
    let echo = Echo::start();
    let mut cluster = pair(&echo).start().await;
    cluster.relay_mut("b-1").terminate().await;
    let client = connect(cluster.relay("a-1")).await;
    let mut acknowledged = Vec::new();
    for number in 0..200 {
        acknowledged.push(publish(&client, number).await.unwrap());
    }
    cluster.relay_mut("a-1").terminate().await;
    let lost = acknowledged.remove(100);
    flip_bit_of(&cluster.relay("a-1").directory().join("data"), &lost);
    cluster.relay_mut("a-1").expect_error("damage");
    cluster.relay_mut("a-1").start().await;
    cluster.relay_mut("b-1").start().await;
    let (_consumer, got) = consume(cluster.relay("b-1")).await;
    until_got(&got, &acknowledged).await;
    let relay = cluster.relay("a-1");
    wait_for("the loss to be in the books", LIMIT, async || {
        let rows = audit(relay).await;
        rows.iter().any(|row| row["corrupted"] == 1).then_some(())
    })
    .await;
    let told = status(relay).await;
    let ranges: Vec<&str> = told["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    // Messages are numbered from 1 on.
    assert!(ranges.contains(&"messages 101 to 101 for unit b"), "{told}");
    assert!(
        ranges.iter().any(|range| range.starts_with("segment 1 is damaged")),
        "{told}"
    );
    let metrics = relay.metrics().await;
    assert!(metrics.sum("strait_queue_damaged_ranges", &[]) >= 1.0);
    assert!(relay.log().contains("damaged"), "the log does not tell");
    assert!(!got.lock().unwrap().contains_key(&lost), "a damaged message was served");
    assert_eq!(got.lock().unwrap().len(), 199);
}

/// Flips a bit in the middle of these bytes, wherever they are in the files of a directory.
fn flip_bit_of(directory: &Path, wanted: &[u8]) {
    let mut files = Vec::new();
    list(directory, &mut files);
    let mut flipped = 0;
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at + wanted.len() / 2] ^= 4;
            fs::write(&file, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "the message is in one file");
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => list(&entry.path(), files),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}
