//! new keys of a dimension that may be placed without the store have an owner while it is away, the same for all relays
//! that know the same units; it is on disk, and claimed or found to be in conflict when the store is back.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use strait::client::{self, Publish, Subscribe};
use toml::{Table, Value};

use crate::harness::{Cluster, Etcd, Relay, http_get, wait_for, within};
use crate::owners::{UNITS, World, call};
use crate::services::{Client, Echo};

const LIMIT: Duration = Duration::from_secs(60);

/// Conversations that are claimed, or placed while the store is away for half a second, and whose owners go on without it.
fn settings() -> Vec<(&'static str, Value)> {
    let conversations: Table =
        "name = \"cid\"\nplacement = \"claim\"\nclaim_fallback = \"deterministic\"\nowner_lease = \"infinite\""
            .parse()
            .unwrap();
    vec![
        ("routes.dimension", vec![Value::Table(conversations)].into()),
        ("routes.claim_fallback_after", "500ms".into()),
    ]
}

/// Once all relays have a session: without one a relay serves no keys of its unit.
async fn world(world: World) -> World {
    until_sessions(&world.cluster).await;
    world
}

async fn until_sessions(cluster: &Cluster) {
    for relay in cluster.relays() {
        wait_for("the relay to have a session", LIMIT, async || {
            let metrics = relay.metrics().await;
            (metrics.sum("strait_routes_session", &[]) == 1.0).then_some(())
        })
        .await;
    }
}

/// `strait ... --admin <this relay>`, off the threads of the test.
async fn strait(relay: &Relay, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(line.split(' ')).args(["--admin", &relay.admin()]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = ran.await.unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// What a relay has placed: for each key where, when, and who has it by a claim that was first.
async fn listed(relay: &Relay) -> BTreeMap<String, (String, u64, Option<String>)> {
    let (_, text) = strait(relay, "route provisional --output json").await;
    let found: Json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let rows = found["provisional"]["rows"].as_array().unwrap();
    let unit = |target: &Json| target["unit"].as_str().map(str::to_owned);
    rows.iter()
        .map(|row| {
            let key = row["key"].as_str().unwrap().to_owned();
            (
                key,
                (
                    unit(&row["chosen"]).unwrap(),
                    row["at"].as_u64().unwrap(),
                    unit(&row["claimed"]),
                ),
            )
        })
        .collect()
}

/// Calls until there is an answer; a relay may hear of the outage later than another.
async fn served(world: &World, from: &str, key: &str) -> String {
    wait_for("the key to be served", LIMIT, async || world.call(from, key).await.ok()).await
}

async fn until_settled(relay: &Relay) {
    wait_for("all choices to be settled", LIMIT, async || {
        let (code, _) = strait(relay, "route provisional").await;
        (code == Some(0)).then_some(())
    })
    .await;
}

async fn events(relay: &Relay, event: &str) -> f64 {
    relay
        .metrics()
        .await
        .sum("strait_routes_provisional_total", &[("event", event)])
}

async fn explained(relay: &Relay, key: &str) -> String {
    let (_, body) = http_get(&relay.admin(), &format!("/explain?dimension=cid&key={key}"))
        .await
        .unwrap();
    body
}

// with the store away all relays send a new key to the same unit, and keep to it when they are killed; when the store is
// back the claims say the same, and nothing is left to do. Refused without the setting: see `owners`.
#[tokio::test(flavor = "multi_thread")]
async fn new_keys_have_one_owner_while_the_store_is_away_and_keep_it() {
    let mut world = world(World::start(&settings()).await).await;
    for unit in ["b", "c"] {
        assert_eq!(world.call(unit, "cid=before").await.unwrap(), "b");
    }
    world.cluster.relay_mut("a-1").kill();
    let mut owners = BTreeMap::new();
    for number in 0..12 {
        let key = format!("cid=n{number}");
        let owner = served(&world, "b", &key).await;
        assert_eq!(served(&world, "c", &key).await, owner, "{key}: two owners");
        owners.insert(format!("n{number}"), owner);
    }
    let units: BTreeSet<_> = owners.values().map(String::as_str).collect();
    assert_eq!(units, UNITS.into(), "each unit has a share: {owners:?}");
    // A claim that a relay knows of is not forgotten.
    assert_eq!(served(&world, "c", "cid=before").await, "b");

    let b = world.cluster.relay("b-1");
    let body = explained(b, "n0").await;
    assert!(
        body.contains("provisional: chosen while the route store is away"),
        "{body}"
    );
    let (code, text) = strait(b, "route provisional").await;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("cid=n0 ") && text.contains("12 pending (the store is away"),
        "{text}"
    );
    let before = listed(b).await;
    let chosen: BTreeMap<_, _> = before
        .iter()
        .map(|(key, (unit, ..))| (key.clone(), unit.clone()))
        .collect();
    assert_eq!(chosen, owners);
    let metrics = b.metrics().await;
    assert_eq!(
        metrics.sum("strait_routes_provisional_keys", &[("state", "pending")]),
        12.0
    );
    assert!(metrics.sum("strait_routes_lookups_total", &[("source", "provisional")]) >= 12.0);
    let (code, text) = strait(b, "route dismiss --key cid=n0").await;
    assert_eq!(code, Some(2), "what is pending is not dismissed: {text}");

    // F1: killed and started anew without the store, it has what it had.
    let b = world.cluster.relay_mut("b-1");
    b.kill();
    b.start().await;
    assert_eq!(listed(b).await, before);
    world.cluster.until_linked("b-1", "c").await;
    world.reconnect("b").await;
    for (key, owner) in owners.iter().filter(|(_, owner)| *owner == "c") {
        assert_eq!(served(&world, "b", &format!("cid={key}")).await, *owner);
    }

    world.cluster.relay_mut("a-1").start().await;
    world.cluster.until_all_linked().await;
    world.reconnect("a").await;
    for relay in ["a-2", "b-1", "c-1"] {
        until_settled(world.cluster.relay(relay)).await;
    }
    for (key, owner) in &owners {
        let (code, text) = strait(world.cluster.relay("a-1"), &format!("route get --key cid={key}")).await;
        assert!(
            code == Some(0) && text.contains(&format!("claimed     for unit {owner}")),
            "{text}"
        );
        for unit in UNITS {
            assert_eq!(
                served(&world, unit, &format!("cid={key}")).await,
                *owner,
                "{key} from {unit}"
            );
        }
    }
    assert_eq!(events(world.cluster.relay("b-1"), "confirmed").await, 12.0);
    assert_eq!(events(world.cluster.relay("c-1"), "conflict").await, 0.0);
    let body = explained(world.cluster.relay("b-1"), "n0").await;
    assert!(body.contains("the key's claim"), "{body}");
}

// F2, F4: a key that another unit claims before the choice is confirmed belongs to that unit; the conflict is kept until a person
// has dismissed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_first_wins_and_the_conflict_is_told() {
    let mut world = world(World::start(&settings()).await).await;
    world.cluster.relay_mut("a-1").kill();
    // Keys that unit b has chosen itself for, so that nobody else has heard of them.
    let mut own = Vec::new();
    for number in 0..40 {
        let key = format!("n{number}");
        if served(&world, "b", &format!("cid={key}")).await == "b" {
            own.push(key);
        }
    }
    assert!(own.len() > 2, "{own:?}");
    world.cluster.relay_mut("b-1").kill();
    world.cluster.relay_mut("a-1").start().await;
    world.cluster.until_linked("c-1", "a").await;
    for key in &own {
        assert_eq!(served(&world, "c", &format!("cid={key}")).await, "c");
    }
    world.cluster.relay_mut("b-1").start().await;
    world.cluster.until_linked("b-1", "c").await;
    world.reconnect("b").await;
    let b = world.cluster.relay("b-1");
    wait_for("the conflicts to be found", LIMIT, async || {
        let rows = listed(b).await;
        (rows.len() == own.len() && rows.values().all(|row| row.2.is_some())).then_some(())
    })
    .await;
    for (key, (chosen, _, claimed)) in listed(b).await {
        assert_eq!((chosen.as_str(), claimed.as_deref()), ("b", Some("c")), "{key}");
    }
    for key in &own {
        assert_eq!(served(&world, "b", &format!("cid={key}")).await, "c");
    }
    assert_eq!(events(b, "conflict").await, own.len() as f64);
    let conflicts = b.metrics().await;
    assert_eq!(
        conflicts.sum("strait_routes_provisional_keys", &[("state", "conflict")]),
        own.len() as f64
    );
    let log = b.log();
    let told = log.matches("a key that was placed without the route store belongs to another unit");
    assert_eq!(told.count(), own.len(), "once for each key: {log}");
    let (code, text) = strait(b, "route provisional").await;
    assert!(code == Some(2) && text.contains("conflict  unit b  unit c"), "{text}");

    for key in &own {
        let (code, text) = strait(b, &format!("route dismiss --key cid={key}")).await;
        assert_eq!(code, Some(0), "{text}");
    }
    until_settled(b).await;
    let b = world.cluster.relay_mut("b-1");
    b.kill();
    b.start().await;
    assert_eq!(listed(b).await, BTreeMap::new(), "dismissed for good");
}

// below etcd: the same when all its members are away, as processes that are gone and as processes that hang.
#[tokio::test(flavor = "multi_thread")]
async fn new_keys_have_one_owner_while_etcd_is_away() {
    let mut etcd = Etcd::start().await;
    let world = world(World::start_below(&etcd, &settings()).await).await;
    assert_eq!(world.call("c", "cid=before").await.unwrap(), "c");
    let members = etcd.len();
    let mut owners = BTreeMap::new();
    for hangs in [false, true] {
        for at in 0..members {
            if hangs {
                etcd.signal(at, "STOP");
            } else {
                etcd.kill(at);
            }
        }
        for number in 0..6 {
            let key = format!("cid=n{hangs}{number}");
            let owner = served(&world, "b", &key).await;
            assert_eq!(served(&world, "c", &key).await, owner, "{key}: two owners");
            owners.insert(key, owner);
        }
        for at in 0..members {
            if hangs {
                etcd.signal(at, "CONT");
            } else {
                etcd.restart(at);
            }
        }
        etcd.until_whole().await;
        for relay in ["a-1", "b-1", "c-1"] {
            wait_for("nothing to be pending", LIMIT, async || {
                let metrics = world.cluster.relay(relay).metrics().await;
                (metrics.sum("strait_routes_provisional_keys", &[("state", "pending")]) == 0.0).then_some(())
            })
            .await;
        }
    }
    for (key, owner) in &owners {
        let claimed: BTreeSet<_> = [served(&world, "a", key).await, served(&world, "b", key).await].into();
        assert_eq!(claimed.len(), 1, "{key}: two owners with the store back");
        // A claim that was under way when the members stopped may have been done when they went on; then it is told as a conflict.
        assert!(key.contains("true") || claimed.contains(owner), "{key}");
    }
}

// only the caller's unit is cut off from the store. An owner that reaches it claims the key, and names the owner it finds.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_reaches_the_store_claims_for_a_caller_that_does_not() {
    let units = ["a", "b", "c", "d"];
    let mut builder = Cluster::builder().routes_at("a-1").impaired(17);
    let mut echoes = Vec::new();
    for unit in units {
        let echo = Echo::start();
        builder = builder
            .unit_in("geo", unit, 1)
            .service(unit, "im.Echo", &[echo.endpoint()])
            .set(unit, "routing.dimensions", vec![Value::from("uid"), Value::from("cid")])
            .set(unit, "peer.keep_alive", "500ms")
            .set(unit, "peer.idle_timeout", "3s");
        for (key, value) in settings() {
            builder = builder.set(unit, key, value);
        }
        echoes.push(echo);
    }
    let cluster = builder.start().await;
    until_sessions(&cluster).await;
    let b = Client::connect(&cluster.relay("b-1").grpc()).await;
    // Of these unit d has some before b is cut off, and b has not heard of it.
    for number in 0..24 {
        let (code, text) = strait(cluster.relay("a-1"), &format!("route set --key cid=d{number} --unit d")).await;
        assert_eq!(code, Some(0), "{text}");
    }
    for (from, to) in [("a-1", "b-1"), ("b-1", "a-1")] {
        cluster.path(from, to).partition_both(true);
    }
    cluster.until_unlinked("b-1", "a").await;
    let (mut claimed, mut found) = (0, 0);
    for number in 0..24 {
        for name in [format!("n{number}"), format!("d{number}")] {
            // To units that b does not reach, or for itself, it goes as b thinks; it is the others that this is about.
            let Ok(owner) = call(b.clone(), format!("cid={name}")).await else {
                continue;
            };
            let (_, text) = strait(cluster.relay("a-1"), &format!("route get --key cid={name}")).await;
            if owner == "b" {
                continue;
            }
            assert!(
                text.contains(&format!("claimed     for unit {owner}")),
                "{name} at {owner}: {text}"
            );
            claimed += u32::from(name.starts_with('n'));
            found += u32::from(name.starts_with('d') && listed(cluster.relay("b-1")).await[&name].0 == "c");
        }
    }
    assert!(claimed > 2 && found > 0, "{claimed} {found}");
    for (from, to) in [("a-1", "b-1"), ("b-1", "a-1")] {
        cluster.path(from, to).partition_both(false);
    }
    // What b has chosen against a claim of before is in conflict, all else is confirmed.
    let relay = cluster.relay("b-1");
    wait_for("all to be settled", LIMIT, async || {
        let rows = listed(relay).await;
        rows.values().all(|row| row.2.is_some()).then_some(())
    })
    .await;
    for (key, (chosen, _, claimed)) in listed(relay).await {
        assert_eq!(claimed.as_deref(), Some("d"), "{key} was chosen for {chosen}");
        assert!(key.starts_with('d') && chosen != "d", "{key} {chosen}");
    }
}

async fn connect(world: &World, relay: &str) -> client::Client {
    let address = format!("tcp://{}", world.cluster.relay(relay).framed());
    within("a client to connect", LIMIT, client::Client::connect(&address))
        .await
        .unwrap()
}

// messages to the owner of a new key go where its calls go.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_new_keys_go_where_calls_go_while_the_store_is_away() {
    let mut settings = settings();
    settings.push(("topics.\"im.message\".rule", "owner".into()));
    let mut world = world(World::start(&settings).await).await;
    let received: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let mut consumers = Vec::new();
    for relay in ["a-2", "b-1", "c-1"] {
        let client = connect(&world, relay).await;
        let received = received.clone();
        let subscribed = client.subscribe(Subscribe::new("im.message", "ledger"), move |message| {
            let key = String::from_utf8(message.body().to_vec()).unwrap();
            received.lock().unwrap().insert(key, relay[..1].to_owned());
            async { Ok(()) }
        });
        within("a subscription", LIMIT, subscribed).await.unwrap();
        consumers.push(client);
    }
    world.cluster.relay_mut("a-1").kill();
    let publisher = connect(&world, "b-1").await;
    let keys: Vec<_> = (0..9).map(|number| format!("m{number}")).collect();
    for key in &keys {
        let message = Publish::new("im.message")
            .key("cid", key.clone())
            .identity("/b", key)
            .body(key.clone())
            .timeout(LIMIT);
        wait_for("the message to be accepted", LIMIT, async || {
            publisher.publish(message.clone()).await.ok()
        })
        .await;
    }
    wait_for("all messages to be received", LIMIT, async || {
        (received.lock().unwrap().len() == keys.len()).then_some(())
    })
    .await;
    for key in &keys {
        let unit = received.lock().unwrap()[key].clone();
        assert_eq!(served(&world, "c", &format!("cid={key}")).await, unit, "{key}");
    }
}
