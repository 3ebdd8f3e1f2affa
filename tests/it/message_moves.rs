//! M-C1, R-3.9: messages follow a key that moves: none is lost, none comes twice, and each key keeps its order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use strait::client::{Client, Publish, Subscribe};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{wait_for, within};
use crate::moves::ask;
use crate::owners::{UNITS, World};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "im.message";
const KEYS: usize = 6;

/// Messages of one publisher that may be under way: a move waits for all that the old owner has taken, the last of them while the key
/// is frozen.
const UNDER_WAY: usize = 16;

/// What consumers of all units got, in the order in which they got it: unit, key and number; and who may publish more by that.
#[derive(Clone)]
struct Received {
    all: Arc<Mutex<Vec<(String, String)>>>,
    paces: Arc<BTreeMap<String, Semaphore>>,
}

impl Received {
    fn new() -> Self {
        let names = (0..KEYS).flat_map(|key| UNITS.map(|unit| publisher(key, unit)));
        let paces = names.map(|name| (name, Semaphore::new(UNDER_WAY))).collect();
        Self {
            all: Arc::default(),
            paces: Arc::new(paces),
        }
    }

    fn add(&self, unit: &str, body: String) {
        let (name, _) = body.rsplit_once(' ').unwrap();
        self.paces[name].add_permits(1);
        self.all.lock().unwrap().push((unit.to_owned(), body));
    }

    fn len(&self) -> usize {
        self.all.lock().unwrap().len()
    }
}

/// The publisher of a key in a unit; its messages have numbers.
fn publisher(key: usize, unit: &str) -> String {
    format!("m{key} {unit}")
}

async fn client(world: &World, relay: &str) -> Client {
    let address = format!("tcp://{}", world.cluster.relay(relay).framed());
    within("a client to connect", LIMIT, Client::connect(&address))
        .await
        .unwrap()
}

async fn consume(world: &World, (unit, relay): (&'static str, &str), received: &Received) -> Client {
    let client = client(world, relay).await;
    let received = received.clone();
    let subscribe = Subscribe::new(TOPIC, "ledger").in_flight_max(64);
    let subscribed = client.subscribe(subscribe, move |message| {
        let body = String::from_utf8(message.body().to_vec()).unwrap();
        received.add(unit, body);
        async { Ok(()) }
    });
    within("a subscription", LIMIT, subscribed).await.unwrap();
    client
}

/// Publishes for each key from each unit: the next message when the one before is accepted.
struct Publishers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<String>>,
}

impl Publishers {
    async fn start(world: &World, received: &Received) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for unit in UNITS {
            let client = client(world, &format!("{unit}-1")).await;
            for key in 0..KEYS {
                let (client, stop, paces) = (client.clone(), stop.clone(), received.paces.clone());
                let name = publisher(key, unit);
                tasks.spawn(async move {
                    let mut accepted = Vec::new();
                    for number in 0_u32.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        paces[&name].acquire().await.unwrap().forget();
                        let body = format!("{name} {number}");
                        let message = Publish::new(TOPIC)
                            .key("cid", format!("m{key}"))
                            .identity(&format!("/{unit}"), &body)
                            .body(body.clone())
                            .timeout(LIMIT);
                        // A relay that has not heard of the key's owner asks for it and says so; the same message comes again.
                        while let Err(error) = client.publish(message.clone()).await {
                            let text = error.to_string();
                            let is_for_now = text.contains("routes_away") || text.contains("moving");
                            assert!(is_for_now, "{body}: {text}");
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        accepted.push(body);
                    }
                    accepted
                });
            }
        }
        Self { stop, tasks }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        within("the publishers to end", LIMIT, self.tasks.join_all())
            .await
            .concat()
    }
}

/// Moves a key. What its old owner has taken is waited for, so there is time enough for it.
async fn move_key(world: &World, at: &str, key: usize, to: &str) {
    let relay = world.cluster.relay(at);
    let node = json!({ "node": { "key": { "dimension": "cid", "key": format!("m{key}") } } });
    let options = json!({ "freeze_budget": "30s" });
    let plan = ask(
        relay,
        &json!({ "ask": "move", "what": [node], "to": to, "options": options }),
    )
    .await;
    let id = plan["plan"]["id"].as_str().unwrap_or_else(|| panic!("{plan}"));
    wait_for("the key to be moved", LIMIT, async || {
        let answer = ask(relay, &json!({ "ask": "moves", "id": id })).await;
        let row = answer["moves"][0].clone();
        let is_over = row["state"] == "trailing" || row["state"] == "finished";
        is_over.then(|| assert_eq!(row["moved"], 1, "{row}"))
    })
    .await;
}

async fn until_more(received: &Received, more: usize) {
    let target = received.len() + more;
    wait_for("messages to come", LIMIT, async || {
        (received.len() >= target).then_some(())
    })
    .await;
}

// M-C1, R-3.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_follow_a_key_that_moves() {
    let rule = format!("topics.\"{TOPIC}\".rule");
    let world = World::start(&[(rule.as_str(), "owner".into())]).await;
    for key in 0..KEYS {
        world.call(UNITS[key % 3], &format!("cid=m{key}")).await.unwrap();
    }
    let received = Received::new();
    let mut consumers = Vec::new();
    // Each relay has an inbox of its own, and what lies in one without consumers holds up a move.
    for place in [("a", "a-1"), ("a", "a-2"), ("b", "b-1"), ("c", "c-1")] {
        consumers.push(consume(&world, place, &received).await);
    }
    let publishers = Publishers::start(&world, &received).await;
    until_more(&received, 100).await;
    // Each key goes to the next unit, and half of them one further.
    for step in 1..=2 {
        for key in (0..KEYS).filter(|key| step == 1 || key % 2 == 0) {
            let at = ["a-1", "a-2", "b-1", "c-1"][key % 4];
            move_key(&world, at, key, UNITS[(key + step) % 3]).await;
            until_more(&received, 20).await;
        }
    }
    let accepted = publishers.end().await;
    let what = format!("{} messages to be received", accepted.len());
    wait_for(&what, LIMIT, async || (received.len() >= accepted.len()).then_some(())).await;
    let received = received.all.lock().unwrap();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut units: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut last: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (unit, body) in received.iter() {
        *count.entry(body).or_default() += 1;
        let parts: Vec<_> = body.split(' ').collect();
        let (key, from, number) = (parts[0], parts[1], parts[2].parse::<u32>().unwrap());
        let before = last.insert((key, from), number);
        assert!(
            before.is_none_or(|before| before < number),
            "M-C1: {body} came at unit {unit} behind {before:?}"
        );
        let seen = units.entry(key).or_default();
        if seen.last() != Some(&unit.as_str()) {
            seen.push(unit);
        }
    }
    let missing = accepted
        .iter()
        .filter(|body| !count.contains_key(body.as_str()))
        .count();
    let twice = count.values().filter(|count| **count > 1).count();
    assert_eq!((missing, twice), (0, 0), "of {} accepted", accepted.len());
    // Once a key has gone on, nothing of it comes at its old unit.
    for key in 0..KEYS {
        let name = format!("m{key}");
        let mut expected: Vec<_> = (0..=1).map(|step| UNITS[(key + step) % 3]).collect();
        if key % 2 == 0 {
            expected.push(UNITS[(key + 2) % 3]);
        }
        assert_eq!(units[name.as_str()], expected, "{name}");
    }
    eprintln!("{} messages, {} moves", accepted.len(), KEYS + KEYS / 2);
}

// S2: what waits for a key is delivered before it is frozen, however long that takes; its calls and messages go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_a_backlog_is_served_until_its_messages_are_delivered() {
    let rule = format!("topics.\"{TOPIC}\".rule");
    let world = World::start(&[(rule.as_str(), "owner".into())]).await;
    world.call("a", "cid=m0").await.unwrap();
    let at_a = client(&world, "a-1").await;
    let publish = async |number: u32| {
        let message = Publish::new(TOPIC).key("cid", "m0").body(number.to_string());
        let published = at_a.publish(message.timeout(LIMIT));
        within("a publication", LIMIT, published).await.unwrap();
    };
    for number in 0..100 {
        publish(number).await;
    }
    let relay = world.cluster.relay("b-1");
    let node = json!({ "node": { "key": { "dimension": "cid", "key": "m0" } } });
    let plan = ask(relay, &json!({ "ask": "move", "what": [node], "to": "b" })).await;
    let id = plan["plan"]["id"].as_str().unwrap_or_else(|| panic!("{plan}"));
    let row = async || ask(relay, &json!({ "ask": "moves", "id": id })).await["moves"][0].clone();
    wait_for("the move to say what it waits for", LIMIT, async || {
        let row = row().await;
        assert_eq!(row["state"], "running", "{row}");
        (row["undelivered_at"] == json!({ "unit": "a", "relay": "a-1" })).then_some(())
    })
    .await;
    publish(100).await;
    assert_eq!(world.call("a", "cid=m0").await.unwrap(), "a");

    let (received, consumer) = (Arc::new(Mutex::new(Vec::new())), client(&world, "a-1").await);
    let sink = received.clone();
    let subscribed = consumer.subscribe(Subscribe::new(TOPIC, "ledger").in_flight_max(8), move |message| {
        let number = String::from_utf8(message.body().to_vec()).unwrap();
        sink.lock().unwrap().push(number.parse::<u32>().unwrap());
        async { Ok(()) }
    });
    within("a subscription", LIMIT, subscribed).await.unwrap();
    wait_for("the key to be moved", LIMIT, async || {
        let row = row().await;
        let is_over = row["state"] == "trailing" || row["state"] == "finished";
        if is_over {
            let found = (&row["moved"], &row["undelivered_at"]);
            assert_eq!(found, (&json!(1), &json!(null)), "{row}");
        }
        is_over.then_some(())
    })
    .await;
    assert_eq!(*received.lock().unwrap(), (0..=100).collect::<Vec<_>>());
}
