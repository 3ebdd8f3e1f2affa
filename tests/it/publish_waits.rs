//! R-I17: publications of a key that has no owner yet, or that just moves, wait for that and go on in their order; they end
//! with the reason if it takes too long.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use strait::client::{self, Publish, Subscribe};
use strait::wire::messages::{
    self, Encode, MessageKey, PublishBatchReply, PublishBatchRequest, PublishReply, PublishRequest,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use toml::{Table, Value};
use tonic::Status;

use crate::harness::{Relay, http_get, wait_for, within};
use crate::moves::ask;
use crate::owners::World;
use crate::services::{Client, request, stream_of};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "im.message";
/// Longest time a publication waits for its way.
const PATIENCE: Duration = Duration::from_secs(5);

async fn world(settings: &[(&str, Value)]) -> World {
    let rule = format!("topics.\"{TOPIC}\".rule");
    let world = World::start(&[&[(rule.as_str(), "owner".into())], settings].concat()).await;
    for relay in world.cluster.relays() {
        wait_for("the relay to have a session", LIMIT, async || {
            let metrics = relay.metrics().await;
            (metrics.sum("strait_routes_session", &[]) == 1.0).then_some(())
        })
        .await;
    }
    world
}

/// A client of the API of messages at a relay, which tries nothing again.
async fn api(relay: &Relay) -> Client {
    Client::connect(&relay.grpc()).await.service("strait.v1.Messages")
}

fn message(key: &str, number: u64) -> PublishRequest {
    PublishRequest {
        topic: Bytes::from_static(TOPIC.as_bytes()),
        key: Some(MessageKey {
            dimension: Bytes::from_static(b"cid"),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }),
        body: Bytes::from(format!("{key} {number}")),
        number,
        ..PublishRequest::default()
    }
}

async fn publish(client: &Client, key: &str, number: u64, timeout: Option<Duration>) -> Result<PublishReply, Status> {
    let mut asked = request(message(key, number).to_bytes(), &[]);
    if let Some(timeout) = timeout {
        asked.set_timeout(timeout);
    }
    let reply = client.unary("Publish", asked).await?.into_inner();
    Ok(messages::decode(reply).unwrap())
}

/// The reason a relay gave, and its words.
fn said(status: &Status) -> (String, String) {
    let field = status
        .metadata()
        .get("strait-error")
        .map(|field| field.to_str().unwrap());
    let reason = field.and_then(|field| field.split(';').next()).unwrap_or_default();
    (reason.to_owned(), status.message().to_owned())
}

/// The last number of the id of an accepted message: which one of its relay it is.
fn place(reply: &PublishReply) -> u64 {
    assert_eq!(reply.error, None);
    reply.id.rsplit('/').next().unwrap().parse().unwrap()
}

async fn waiting(relay: &Relay) -> f64 {
    relay.metrics().await.sum("strait_queue_publications_waiting", &[])
}

async fn ended(relay: &Relay, end: &str) -> f64 {
    relay
        .metrics()
        .await
        .sum("strait_queue_publish_waits_ended_total", &[("end", end)])
}

/// What a consumer got, and how many it may be done with.
#[derive(Clone)]
struct Received(Arc<Mutex<Vec<String>>>, Arc<Semaphore>);

impl Received {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn consume(relay: &Relay, may_end: usize) -> (client::Client, Received) {
    let address = format!("tcp://{}", relay.framed());
    let connected = client::Client::connect(&address);
    let client = within("a client to connect", LIMIT, connected).await.unwrap();
    let received = Received(Arc::default(), Arc::new(Semaphore::new(may_end)));
    let all = received.clone();
    let subscribed = client.subscribe(Subscribe::new(TOPIC, "ledger"), move |message| {
        let all = all.clone();
        async move {
            let body = String::from_utf8(message.body().to_vec()).unwrap();
            all.0.lock().unwrap().push(body);
            all.1.acquire().await.unwrap().forget();
            Ok(())
        }
    });
    within("a subscription", LIMIT, subscribed).await.unwrap();
    (client, received)
}

// M-C1: whatever a new key is published by, the first try is accepted, and its messages keep their order.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_publication_of_a_new_key_is_accepted_at_the_first_try() {
    let world = world(&[]).await;
    let relay = world.cluster.relay("b-1");
    let client = api(relay).await;
    let (framed, received) = consume(relay, Semaphore::MAX_PERMITS).await;
    let mut expected = Vec::new();
    for key in ["one", "two", "three"] {
        publish(&client, key, 0, None).await.unwrap();
        expected.push(format!("{key} 0"));
    }
    let all = (0..20).map(|number| {
        Publish::new(TOPIC)
            .key("cid", "framed")
            .body(format!("framed {number}"))
    });
    for end in framed.publish_all(all).await {
        end.unwrap();
    }
    let batch = PublishBatchRequest {
        messages: (0..40)
            .map(|number| message(["batch", "other"][number % 2], number as u64))
            .collect(),
    };
    let reply = client
        .unary("PublishBatch", request(batch.to_bytes(), &[]))
        .await
        .unwrap();
    let replies = messages::decode::<PublishBatchReply>(reply.into_inner())
        .unwrap()
        .replies;
    let of_key = |first: usize| replies.iter().skip(first).step_by(2).map(place).collect::<Vec<_>>();
    assert!(of_key(0).is_sorted() && of_key(1).is_sorted(), "{replies:?}");
    let stream = stream_of((0..200).map(|number| message("stream", number).to_bytes()).collect());
    let mut replies = client
        .chat("PublishStream", request(stream, &[]))
        .await
        .unwrap()
        .into_inner();
    let mut places = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        let reply: PublishReply = messages::decode(reply).unwrap();
        places.push((reply.number, place(&reply)));
    }
    places.sort_unstable();
    assert!(
        places.len() == 200 && places.is_sorted_by_key(|(_, place)| *place),
        "{places:?}"
    );
    expected.extend((0..20).map(|number| format!("framed {number}")));
    expected.extend((0..40).map(|number| format!("{} {number}", ["batch", "other"][number % 2])));
    expected.extend((0..200).map(|number| format!("stream {number}")));
    wait_for("all messages", LIMIT, async || {
        (received.all().len() >= expected.len()).then_some(())
    })
    .await;
    let received = received.all();
    for key in ["framed", "batch", "other", "stream"] {
        let of_key = |all: &[String]| {
            all.iter()
                .filter(|body| body.starts_with(key))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(of_key(&received), of_key(&expected));
    }
    assert_eq!(received.len(), expected.len());
    let metrics = relay.metrics().await;
    assert_eq!(metrics.sum("strait_queue_refused_total", &[]), 0.0);
    assert!(metrics.sum("strait_queue_publish_waits_total", &[("reason", "routes_away")]) >= 7.0);
    assert_eq!(metrics.sum("strait_queue_publications_waiting", &[]), 0.0);
}

/// Begins to move a key; what its old owner has taken is waited for.
async fn begin_to_move(relay: &Relay, key: &str, to: &str) -> String {
    let node = json!({ "node": { "key": { "dimension": "cid", "key": key } } });
    let options = json!({ "freeze_budget": "30s" });
    let plan = ask(
        relay,
        &json!({ "ask": "move", "what": [node], "to": to, "options": options }),
    )
    .await;
    plan["plan"]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{plan}"))
        .to_owned()
}

// M-C1: what is published while its key moves waits, comes to the new owner once and in order, and holds up nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_its_key_moves_is_accepted_and_comes_once() {
    let world = world(&[]).await;
    let (b, c) = (world.cluster.relay("b-1"), world.cluster.relay("c-1"));
    let client = api(b).await;
    let (_at_b, old) = consume(b, 0).await;
    let (_at_c, new) = consume(c, Semaphore::MAX_PERMITS).await;
    publish(&client, "moves", 0, None).await.unwrap();
    publish(&client, "stays", 0, None).await.unwrap();
    wait_for("the consumer to have it", LIMIT, async || {
        (old.all().len() == 2).then_some(())
    })
    .await;
    // As long as the consumer is not done with the message, the key is frozen.
    begin_to_move(b, "moves", "c").await;
    wait_for("the key to be frozen", LIMIT, async || {
        let (_, body) = http_get(&b.admin(), "/explain?dimension=cid&key=moves").await.unwrap();
        let explained: Json = serde_json::from_str(&body).unwrap();
        explained["frozen"].is_string().then_some(())
    })
    .await;
    let mut ends = JoinSet::new();
    for number in 1..=8_u32 {
        let client = client.clone();
        ends.spawn(async move { (number, publish(&client, "moves", number.into(), None).await) });
        wait_for("it to wait", LIMIT, async || {
            (waiting(b).await == f64::from(number)).then_some(())
        })
        .await;
    }
    // Others go on, who leaves is forgotten, and who gives up soon hears why before.
    publish(&client, "stays", 1, None).await.unwrap();
    let leaves = {
        let client = client.clone();
        tokio::spawn(async move { publish(&client, "moves", 98, None).await })
    };
    wait_for("it to wait", LIMIT, async || (waiting(b).await == 9.0).then_some(())).await;
    leaves.abort();
    wait_for("it to be forgotten", LIMIT, async || {
        (waiting(b).await == 8.0).then_some(())
    })
    .await;
    assert_eq!(ended(b, "left").await, 1.0);
    let status = publish(&client, "moves", 99, Some(Duration::from_millis(600)))
        .await
        .unwrap_err();
    assert_eq!(said(&status).0, "moving", "{status}");
    old.1.add_permits(Semaphore::MAX_PERMITS);
    while let Some(end) = ends.join_next().await {
        let (number, end) = end.unwrap();
        end.unwrap_or_else(|status| panic!("{number}: {status}"));
    }
    wait_for("all messages", LIMIT, async || (new.all().len() >= 8).then_some(())).await;
    let expected: Vec<_> = (1..=8).map(|number| format!("moves {number}")).collect();
    assert_eq!(new.all(), expected);
    assert_eq!(old.all(), ["moves 0", "stays 0", "stays 1"]);
    assert_eq!(
        (ended(b, "went_on").await >= 8.0, ended(b, "refused").await),
        (true, 1.0)
    );
}

// R-I17: with the store away, publications of new keys end with the reason and in time, and no more of them wait than may.
#[tokio::test(flavor = "multi_thread")]
async fn publications_of_new_keys_end_with_the_reason_while_the_store_is_away() {
    let mut world = world(&[("routes.parked_max", 6.into())]).await;
    let client = api(world.cluster.relay("b-1")).await;
    publish(&client, "old", 0, None).await.unwrap();
    world.cluster.relay_mut("a-1").kill();
    let b = world.cluster.relay("b-1");
    let begun = Instant::now();
    let status = publish(&client, "new", 0, Some(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert_eq!(said(&status).0, "routes_away", "{status}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let mut ends = JoinSet::new();
    for number in 0..6 {
        let client = client.clone();
        ends.spawn(async move { publish(&client, &format!("new{number}"), 0, None).await });
    }
    wait_for("them to wait", LIMIT, async || (waiting(b).await == 6.0).then_some(())).await;
    let begun = Instant::now();
    let status = publish(&client, "more", 0, None).await.unwrap_err();
    let (reason, text) = said(&status);
    assert!(reason == "routes_away" && text.contains("too many"), "{status}");
    assert!(begun.elapsed() < PATIENCE / 2, "at once");
    // A key with an owner goes on.
    publish(&client, "old", 1, None).await.unwrap();
    while let Some(end) = ends.join_next().await {
        let status = end.unwrap().unwrap_err();
        assert_eq!(said(&status).0, "routes_away", "{status}");
    }
    assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
    assert_eq!(waiting(b).await, 0.0);
    assert_eq!(ended(b, "refused").await, 7.0);
}

// where new keys are placed without the store, the first publication waits until it counts as away, and is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_publication_without_the_store_is_accepted_where_keys_may_be_placed_without_it() {
    let conversations: Table =
        "name = \"cid\"\nplacement = \"claim\"\nclaim_fallback = \"deterministic\"\nowner_lease = \"infinite\""
            .parse()
            .unwrap();
    let mut world = world(&[
        ("routes.dimension", vec![Value::Table(conversations)].into()),
        ("routes.claim_fallback_after", "500ms".into()),
    ])
    .await;
    world.cluster.relay_mut("a-1").kill();
    let client = api(world.cluster.relay("b-1")).await;
    for number in 0..6 {
        publish(&client, &format!("n{number}"), 0, None).await.unwrap();
    }
}
