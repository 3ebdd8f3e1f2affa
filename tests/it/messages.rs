//! M-A2, M-A4, M-B1, M-C1, M-G1: messages from unit to unit through real relays that are killed, drained and cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::client::{Client, Publish, Subscribe};
use strait::model::AckLevel;

use crate::harness::{Cluster, ClusterBuilder, wait_for, within};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "im.message";

/// What was acknowledged to the publisher, and what the consumer got, each in its order.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Books>>);

#[derive(Default)]
struct Books {
    acknowledged: Vec<u64>,
    received: Vec<u64>,
}

impl Ledger {
    fn acknowledged(&self) -> usize {
        self.0.lock().unwrap().acknowledged.len()
    }

    fn missing(&self) -> BTreeSet<u64> {
        let books = self.0.lock().unwrap();
        let received: BTreeSet<u64> = books.received.iter().copied().collect();
        books
            .acknowledged
            .iter()
            .filter(|number| !received.contains(number))
            .copied()
            .collect()
    }

    /// Every acknowledged message was received, in the order of its key if copies are not counted.
    async fn until_complete(&self) {
        let what = "all acknowledged messages to be received";
        within(what, LIMIT, async {
            while !self.missing().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let books = self.0.lock().unwrap();
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for number in books.received.iter().filter(|number| seen.insert(**number)) {
            let before = last.insert(number % KEYS, *number);
            assert!(before < Some(*number), "M-C1: {number} came behind {before:?}");
        }
        let copies = books.received.len() - seen.len();
        eprintln!(
            "{} acknowledged, {} received, {copies} of them copies",
            books.acknowledged.len(),
            seen.len()
        );
    }
}

fn pair() -> ClusterBuilder {
    let mut builder = Cluster::builder().unit("a", 1).unit("b", 1);
    for unit in ["a", "b"] {
        builder = builder.set(unit, &format!("topics.\"{TOPIC}\".rule"), "owner");
    }
    builder
}

async fn client(address: &str) -> Client {
    within(
        "a client to connect",
        LIMIT,
        Client::connect(&format!("tcp://{address}")),
    )
    .await
    .unwrap()
}

/// Writes what comes at a relay into the ledger.
async fn consume(address: &str, ledger: &Ledger) -> Client {
    let client = client(address).await;
    let ledger = ledger.clone();
    let subscribe = Subscribe::new(TOPIC, "ledger").in_flight_max(256);
    let subscribed = client.subscribe(subscribe, move |message| {
        let number = std::str::from_utf8(message.body()).unwrap().parse().unwrap();
        ledger.0.lock().unwrap().received.push(number);
        async { Ok(()) }
    });
    within("a subscription", LIMIT, subscribed).await.unwrap();
    client
}

fn message(number: u64) -> Publish {
    Publish::new(TOPIC)
        .key("uid", format!("b:{}", number % KEYS))
        .identity("/test", &number.to_string())
        .body(number.to_string())
}

/// Publishes until told to stop: the next number when the one before is acknowledged, however often that takes.
struct Publisher {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Publisher {
    fn start(address: String, ledger: &Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, stopped) = (ledger.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let client = client(&address).await;
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                match client.publish(message(number).timeout(Duration::from_secs(2))).await {
                    Ok(_) => {
                        ledger.0.lock().unwrap().acknowledged.push(number);
                        number += 1;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        within("the publisher to end", LIMIT, self.task).await.unwrap();
    }
}

async fn until_acknowledged(ledger: &Ledger, more: usize) {
    let target = ledger.acknowledged() + more;
    wait_for("messages to be acknowledged", LIMIT, async || {
        (ledger.acknowledged() >= target).then_some(())
    })
    .await;
}

// M-A2: each level is told when it is reached, across units.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_can_wait_until_another_unit_has_it_and_until_a_consumer_is_done() {
    let cluster = pair().start().await;
    let ledger = Ledger::default();
    let _consumer = consume(&cluster.relay("b-1").framed(), &ledger).await;
    let client = client(&cluster.relay("a-1").framed()).await;
    for (number, level) in (0..).zip([AckLevel::Accepted, AckLevel::Relayed, AckLevel::Delivered]) {
        let wait = message(number).wait(level).timeout(LIMIT);
        let published = client.publish(wait).await.unwrap();
        assert_eq!(published.level(), level);
        assert!(!published.is_duplicate());
        if level == AckLevel::Delivered {
            assert!(ledger.0.lock().unwrap().received.contains(&number));
        }
    }
    ledger.until_complete().await;
}

// M-A4, M-B1, M-C1: what a relay has acknowledged survives the end of either relay, however it comes.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_when_relays_are_killed() {
    let mut cluster = pair().start().await;
    let ledger = Ledger::default();
    let _consumer = consume(&cluster.relay("b-1").framed(), &ledger).await;
    let publisher = Publisher::start(cluster.relay("a-1").framed(), &ledger);
    until_acknowledged(&ledger, 50).await;
    for round in 0..6 {
        let name = ["b-1", "a-1"][round % 2];
        if round < 4 {
            cluster.relay_mut(name).kill();
        } else {
            let status = cluster.relay_mut(name).terminate().await;
            assert!(status.success(), "{name}: {status}");
        }
        if name == "b-1" {
            // The other unit is away: messages are accepted all the same.
            until_acknowledged(&ledger, 50).await;
        }
        cluster.relay_mut(name).start().await;
        until_acknowledged(&ledger, 50).await;
    }
    publisher.end().await;
    ledger.until_complete().await;
}

// M-G1, M-A4: a path that swallows everything is seen, and costs no message.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_swallows_everything_is_seen_and_loses_nothing() {
    let cluster = pair().impaired(3).start().await;
    let ledger = Ledger::default();
    let _consumer = consume(&cluster.relay("b-1").framed(), &ledger).await;
    let publisher = Publisher::start(cluster.relay("a-1").framed(), &ledger);
    until_acknowledged(&ledger, 50).await;
    let state = async |state: &str| {
        let metrics = cluster.relay("a-1").metrics().await;
        metrics.sum("strait_queue_link_state", &[("dst_unit", "b"), ("state", state)])
    };
    wait_for("the link to be live", LIMIT, async || {
        (state("live").await == 1.0).then_some(())
    })
    .await;
    cluster.partition(true);
    until_acknowledged(&ledger, 50).await;
    wait_for("the black hole to be seen", Duration::from_secs(15), async || {
        let seen = state("stalled").await + state("down").await;
        (seen == 1.0).then_some(())
    })
    .await;
    assert_eq!(state("live").await, 0.0, "never live while nothing moves");
    until_acknowledged(&ledger, 50).await;
    cluster.partition(false);
    publisher.end().await;
    ledger.until_complete().await;
    wait_for("the link to be live again", LIMIT, async || {
        (state("live").await == 1.0).then_some(())
    })
    .await;
}

// K1: both shards of both relays have links; one of each has the lanes.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_has_one_pair_of_lanes_to_a_unit_whatever_its_shards() {
    let cluster = pair().start().await;
    for (relay, unit) in [("a-1", "b"), ("b-1", "a")] {
        for lane in ["live", "backlog"] {
            let labels = [("dst_unit", unit), ("direction", "out"), ("lane", lane)];
            wait_for("its lanes", LIMIT, async || {
                let metrics = cluster.relay(relay).metrics().await;
                (metrics.sum("strait_peer_message_lanes", &labels) == 1.0).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_open_its_queue_says_so_and_does_not_start() {
    let mut cluster = pair().prepare();
    let relay = cluster.relay_mut("a-1");
    fs::write(relay.directory().join("data/queue"), "no directory").unwrap();
    relay.spawn();
    let status = wait_for("the relay to end", LIMIT, async || relay.exited()).await;
    assert!(!status.success());
    let log = relay.log();
    assert!(
        log.contains("the queue of messages below the data directory cannot be used"),
        "{log}"
    );
    // What was wrong, too: see the cause.
    assert!(log.contains("data/queue"), "{log}");
    relay.kill();
}

/// Keys; each has an order of its own.
const KEYS: u64 = 7;
