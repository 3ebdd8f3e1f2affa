//! S1, R-3.5, R-3.8: methods that only read go on while a key moves and claim nothing; methods say which key routes them.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinHandle;
use toml::Value;
use tonic::{Code, Status};

use crate::harness::{http_get, wait_for, within};
use crate::moves::ask;
use crate::owners::World;
use crate::services::{Client, request};

const LIMIT: Duration = Duration::from_secs(30);

fn table(text: &str) -> Value {
    Value::Table(text.parse().unwrap())
}

/// Calls a method with these keys; answers which unit served it.
async fn call(client: &Client, method: &str, keys: &[&str], delay: &str) -> Result<String, Status> {
    let mut fields: Vec<_> = keys.iter().map(|key| ("strait-key", *key)).collect();
    fields.push(("x-delay-ms", delay));
    let mut asked = request(Bytes::from_static(b"m"), &fields);
    asked.set_timeout(LIMIT);
    let answer = client.unary(method, asked).await?;
    let unit = answer.metadata().get("strait-unit").expect("who served it");
    Ok(unit.to_str().unwrap().to_owned())
}

/// Begins to move `cid=1` from a to b while a write of it is under way at a, and waits until it is frozen. Answers that write.
async fn freeze(world: &World) -> JoinHandle<Result<String, Status>> {
    let (client, key) = (world.client("a"), "cid=1");
    assert_eq!(call(&client, "Chat", &[key], "0").await.unwrap(), "a");
    let before = world.served_by("a");
    let slow = tokio::spawn(async move { call(&client, "Chat", &[key], "3000").await });
    wait_for("the write to be at its service", LIMIT, async || {
        (world.served_by("a") > before).then_some(())
    })
    .await;
    let what = json!([{ "node": { "key": { "dimension": "cid", "key": "1" } } }]);
    let options = json!({ "freeze_budget": "20s" });
    let command = json!({ "ask": "move", "what": what, "to": "b", "options": options });
    let plan = ask(world.cluster.relay("a-1"), &command).await;
    assert!(plan["plan"]["id"].is_string(), "{plan}");
    for relay in ["a-1", "a-2", "c-1"] {
        let address = world.cluster.relay(relay).admin();
        wait_for("the key to be frozen", LIMIT, async || {
            let (_, text) = http_get(&address, "/explain?dimension=cid&key=1").await.ok()?;
            let explained: serde_json::Value = serde_json::from_str(&text).ok()?;
            explained["frozen"].is_string().then_some(())
        })
        .await;
    }
    slow
}

// R-I2, R-I12: nobody can say of a method that answers nothing for long whether it will write, so a freeze waits for it and gives up; who
// reads why the key stayed hears which method it was, and at which relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stays_because_of_a_call_says_which_method_it_was() {
    let world = World::start(&[]).await;
    let (client, key) = (world.client("a"), "cid=1");
    assert_eq!(call(&client, "Chat", &[key], "0").await.unwrap(), "a");
    let before = world.served_by("a");
    let slow = tokio::spawn(async move { call(&client, "Chat", &[key], "4000").await });
    wait_for("the call to be at its service", LIMIT, async || {
        (world.served_by("a") > before).then_some(())
    })
    .await;
    let what = json!([{ "node": { "key": { "dimension": "cid", "key": "1" } } }]);
    let plan = ask(
        world.cluster.relay("a-1"),
        &json!({ "ask": "move", "what": what, "to": "b" }),
    )
    .await;
    let moves = json!({ "ask": "moves", "id": plan["plan"]["id"] });
    let why = wait_for("the key to stay", LIMIT, async || {
        let answer = ask(world.cluster.relay("a-1"), &moves).await;
        let stayed = &answer["moves"][0]["stayed"];
        stayed[0].is_array().then(|| stayed.to_string())
    })
    .await;
    assert!(why.contains("it waited for im.Echo/Chat at relay a/a-"), "{why}");
    let served = within("the call", LIMIT, slow).await;
    assert_eq!(served.unwrap().unwrap(), "a");
}

/// Which methods of the echo service only read.
fn reading() -> (&'static str, Value) {
    ("calls.route", table("\"im.Echo\".reads = [\"Unary\"]"))
}

// reads go on at the owner until the move is done, and then at the new one; writes wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_a_key_is_frozen_and_writes_wait() {
    let world = World::start(&[reading()]).await;
    let slow = freeze(&world).await;
    let waiting = {
        let client = world.client("c");
        tokio::spawn(async move { call(&client, "Chat", &["cid=1"], "0").await })
    };
    for unit in ["a", "c"] {
        let read = call(&world.client(unit), "Unary", &["cid=1"], "0").await;
        assert_eq!(read.unwrap(), "a", "from {unit}");
    }
    assert!(!slow.is_finished(), "the reads were not made while the key was frozen");
    assert!(!waiting.is_finished(), "a write did not wait");
    assert_eq!(within("the slow write", LIMIT, slow).await.unwrap().unwrap(), "a");
    assert_eq!(
        within("the write that waits", LIMIT, waiting).await.unwrap().unwrap(),
        "b"
    );
    wait_for("reads at the new owner", LIMIT, async || {
        let read = call(&world.client("c"), "Unary", &["cid=1"], "0").await.unwrap();
        (read == "b").then_some(())
    })
    .await;
}

// `freeze_reads`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_a_dimension_that_freezes_them_wait_as_writes_do() {
    let dimension = table("name = \"cid\"\nplacement = \"claim\"\nfreeze_reads = true");
    let world = World::start(&[reading(), ("routes.dimension", vec![dimension].into())]).await;
    let slow = freeze(&world).await;
    let read = call(&world.client("c"), "Unary", &["cid=1"], "0").await;
    assert_eq!(read.unwrap(), "b");
    assert_eq!(within("the slow write", LIMIT, slow).await.unwrap().unwrap(), "a");
}

// where the owner's relays do not know that a method only reads, it is no read: nothing is admitted behind a freeze.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_decides_what_only_reads() {
    let world = World::start_with_units(|unit, builder| {
        let (key, value) = reading();
        if unit == "c" {
            builder.set(unit, key, value)
        } else {
            builder
        }
    })
    .await;
    let slow = freeze(&world).await;
    let read = call(&world.client("c"), "Unary", &["cid=1"], "0").await;
    assert_eq!(read.unwrap(), "b");
    assert_eq!(within("the slow write", LIMIT, slow).await.unwrap().unwrap(), "a");
}

// B3: a read of a key that nobody has is answered so, claims nothing, and hears of a claim a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_a_key_that_nobody_has_is_answered_and_claims_nothing() {
    let world = World::start(&[reading()]).await;
    for _ in 0..2 {
        let refused = call(&world.client("c"), "Unary", &["cid=9"], "0").await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert!(refused.message().contains("no unit has claimed this key"), "{refused}");
    }
    assert_eq!(world.served(), 0);
    assert_eq!(call(&world.client("b"), "Chat", &["cid=9"], "0").await.unwrap(), "b");
    wait_for("the reader to hear of the claim", LIMIT, async || {
        call(&world.client("c"), "Unary", &["cid=9"], "0").await.ok()
    })
    .await;
    // A write never goes by what readers remember.
    let refused = call(&world.client("c"), "Unary", &["cid=10"], "0").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert_eq!(call(&world.client("c"), "Chat", &["cid=10"], "0").await.unwrap(), "c");
}

// S1: a method is routed by another key than the rest of its service; the relays of the owner need not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_is_routed_by_the_dimension_it_names() {
    let rule = table("dimension = \"uid\"\nunit = \"a\"\ndefault = true");
    let route = table("\"im.Echo\".methods.Unary.dimensions = [\"cid\"]");
    let world = World::start_with_units(|unit, builder| {
        let builder = builder.set(unit, "routing.rules", vec![rule.clone()]);
        if unit == "c" {
            builder.set(unit, "calls.route", route.clone())
        } else {
            builder
        }
    })
    .await;
    assert_eq!(call(&world.client("b"), "Chat", &["cid=1"], "0").await.unwrap(), "b");
    let keys = ["uid=1", "cid=1"];
    assert_eq!(call(&world.client("c"), "Chat", &keys, "0").await.unwrap(), "a");
    assert_eq!(call(&world.client("c"), "Unary", &keys, "0").await.unwrap(), "b");
    assert_eq!(call(&world.client("b"), "Unary", &keys, "0").await.unwrap(), "a");
    let refused = call(&world.client("c"), "Unary", &["uid=1"], "0").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(
        refused
            .message()
            .contains("no key of the call routes calls of this method"),
        "{refused}"
    );
    let address = world.cluster.relay("c-1").admin();
    let (_, text) = http_get(&address, "/explain?dimension=uid&key=1&service=im.Echo&method=Unary")
        .await
        .unwrap();
    assert!(text.contains("no key of the call routes"), "{text}");
}
