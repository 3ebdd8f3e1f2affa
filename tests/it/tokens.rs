//! what clients keep of claimed keys spares relays to ask the route store, leads to the owner when the store
//! is away, follows keys that move, and is never a reason to refuse a call.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use strait::client::Call;
use tokio::process::Command;
use toml::{Table, Value};
use tonic::Status;

use crate::harness::{Directory, http_get, wait_for};
use crate::moves::ask;
use crate::owners::World;
use crate::services::{Client, request};

const LIMIT: Duration = Duration::from_secs(30);

/// Units with a file of token keys of their Geo; nobody takes conversations by force.
async fn world(folder: &Directory) -> (World, PathBuf) {
    let keys = folder.path().join("token.keys");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["token-key", keys.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut conversations = Table::new();
    conversations.insert("name".to_owned(), "cid".into());
    conversations.insert("placement".to_owned(), "claim".into());
    conversations.insert("owner_lease".to_owned(), "infinite".into());
    let settings = [
        ("routes.tokens.key_file", Value::from(keys.to_str().unwrap())),
        ("routes.dimension", Value::from(vec![Value::Table(conversations)])),
    ];
    (World::start(&settings).await, keys)
}

/// Who served a call, and the token of the answer.
#[derive(Debug)]
struct Answer {
    unit: String,
    token: Option<String>,
}

async fn call(client: &Client, key: &str, token: Option<&str>) -> Result<Answer, Status> {
    let mut fields = vec![("strait-key", key)];
    fields.extend(token.map(|token| ("strait-token", token)));
    let mut asked = request(Bytes::from_static(b"m"), &fields);
    asked.set_timeout(Duration::from_secs(10));
    let answer = client.unary("Unary", asked).await?;
    let text = |name| {
        answer
            .metadata()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    Ok(Answer {
        unit: text("strait-unit").expect("who served it"),
        token: text("strait-token"),
    })
}

/// What a relay counted of tokens with this outcome.
async fn checked(world: &World, relay: &str, outcome: &str) -> f64 {
    let metrics = world.cluster.relay(relay).metrics().await;
    metrics.sum("strait_routes_tokens_checked_total", &[("outcome", outcome)])
}

async fn until_checked(world: &World, relay: &str, outcome: &str, wanted: f64) {
    wait_for(&format!("{wanted} tokens to be {outcome}"), LIMIT, async || {
        (checked(world, relay, outcome).await >= wanted).then_some(())
    })
    .await;
}

async fn move_key(world: &World, key: &str, to: &str) {
    let relay = world.cluster.relay("a-1");
    let node = json!({ "node": { "key": { "dimension": "cid", "key": key } } });
    let plan = ask(relay, &json!({ "ask": "move", "what": [node], "to": to })).await;
    let id = plan["plan"]["id"].as_str().expect("a plan");
    wait_for("the key to be moved", LIMIT, async || {
        let answer = ask(relay, &json!({ "ask": "moves", "id": id })).await;
        (answer["moves"][0]["moved"] == 1).then_some(())
    })
    .await;
}

// a relay that has never heard of a key routes it by its token while the store is away, and the owner's relay,
// which has not heard of it either, lets it in; without the token the same call is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_leads_to_the_owner_while_the_store_is_away() {
    let folder = Directory::new();
    let (mut world, _) = world(&folder).await;
    let first = call(&world.client("a"), "cid=1", None).await.unwrap();
    assert_eq!(first.unit, "a");
    let token = first.token.expect("a token with the answer of a claim");
    let again = call(&world.client("a"), "cid=1", Some(&token)).await.unwrap();
    assert_eq!(again.token, None, "a token that holds and is new is not renewed");

    // What it knows when it ends is what it knows when it starts; then it has never heard of the key.
    let c = world.cluster.relay_mut("c-1");
    assert!(c.terminate().await.success());
    world.cluster.relay_mut("a-1").kill();
    world.cluster.relay_mut("c-1").start().await;
    let client = Client::connect(&world.cluster.relay("c-1").grpc()).await;
    let served = wait_for("a link to the other relay of unit a", LIMIT, async || {
        call(&client, "cid=1", Some(&token)).await.ok()
    })
    .await;
    assert_eq!((served.unit.as_str(), served.token), ("a", None));
    until_checked(&world, "c-1", "current", 1.0).await;
    let metrics = world.cluster.relay("c-1").metrics().await;
    assert!(metrics.sum("strait_routes_lookups_total", &[("source", "token")]) >= 1.0);
    let refused = call(&client, "cid=1", None).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    // R-I7: for another key it is no token.
    let refused = call(&client, "cid=2", Some(&token)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    until_checked(&world, "c-1", "mac", 1.0).await;
}

// after a move the old token leads to the new owner, with a new token; texts that are no tokens do no harm; other keys
// of the Geo let tokens live or make them anew, and no call fails.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_follow_moved_keys_and_new_secrets() {
    let folder = Directory::new();
    let (world, keys) = world(&folder).await;
    let (a, b, c) = (world.client("a"), world.client("b"), world.client("c"));
    let old = call(&b, "cid=5", None).await.unwrap();
    assert_eq!(old.unit, "b");
    let old = old.token.expect("a token with the answer of a claim");
    move_key(&world, "5", "c").await;
    let moved = wait_for("a relay to know of the move", LIMIT, async || {
        let answer = call(&a, "cid=5", Some(&old)).await.unwrap();
        (answer.unit == "c" && checked(&world, "a-1", "superseded").await >= 1.0).then_some(answer)
    })
    .await;
    let new = moved.token.expect("a new token in place of the old one");
    assert_ne!(new, old);
    for client in [&a, &b, &c] {
        let answer = call(client, "cid=5", Some(&new)).await.unwrap();
        assert_eq!((answer.unit.as_str(), answer.token), ("c", None));
    }

    // C-R4: how a token stands can be asked.
    for (token, expected) in [(&old, "superseded"), (&new, "current")] {
        let path = format!("/explain?dimension=cid&key=5&token={token}");
        let (status, body) = http_get(&world.cluster.relay("a-1").admin(), &path).await.unwrap();
        let explained: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, explained["token"].as_str()), (200, Some(expected)), "{body}");
    }

    // Nothing that looks like a token is a reason to refuse a call.
    for text in [
        "",
        "garbage",
        "cid;",
        "cid;AAAA",
        "other;x",
        &new.replace("cid;E", "cid;F"),
        &format!("{new}x"),
    ] {
        let answer = call(&a, "cid=5", Some(text)).await.unwrap();
        assert_eq!(answer.unit, "c", "{text}");
    }
    for _ in 0..250 {
        call(&a, "cid=5", Some("cid;AAAA")).await.unwrap();
    }
    until_checked(&world, "a-1", "unchecked", 1.0).await;

    // A key is added: old tokens live on.
    let kept = call(&c, "cid=6", None).await.unwrap().token.unwrap();
    let rotated = std::process::Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["token-key", "--rotate", keys.to_str().unwrap()])
        .status();
    assert!(rotated.unwrap().success());
    let text = fs::read_to_string(&keys).unwrap();
    assert_eq!((text.matches(" sign").count(), text.matches(" verify").count()), (1, 1));
    // The old key is removed in haste: tokens are made anew with the answers.
    let newest = text.lines().next().unwrap().to_owned();
    let counted = checked(&world, "c-1", "mac").await;
    let answer = call(&c, "cid=6", Some(&kept)).await.unwrap();
    assert_eq!(
        (answer.unit.as_str(), answer.token),
        ("c", None),
        "the key before still verifies"
    );
    assert!(checked(&world, "c-1", "mac").await <= counted);
    fs::write(&keys, newest).unwrap();
    let fresh = wait_for("the old key to be gone", LIMIT, async || {
        let answer = call(&c, "cid=6", Some(&kept)).await.unwrap();
        assert_eq!(answer.unit, "c");
        answer.token
    })
    .await;
    until_checked(&world, "c-1", "mac", counted + 1.0).await;
    let answer = call(&c, "cid=6", Some(&fresh)).await.unwrap();
    assert_eq!((answer.unit.as_str(), answer.token), ("c", None));
}

// S6: the Rust client keeps tokens by itself, and its relay tells it when a key that it used has moved. The
// example for Python does the same with two headers.
#[tokio::test(flavor = "multi_thread")]
async fn clients_keep_tokens_and_are_told_of_moves() {
    let folder = Directory::new();
    let (world, _) = world(&folder).await;
    let framed = format!("tcp://{}", world.cluster.relay("b-1").framed());
    let client = strait::client::Client::connect(&framed).await.unwrap();
    let say = || {
        let call = Call::new("im.Echo/Unary")
            .key("cid", "7")
            .timeout(Duration::from_secs(5));
        client.call(call.body("m"))
    };
    assert_eq!(client.route_token("cid", "7"), None);
    say().await.unwrap();
    let first = client.route_token("cid", "7").expect("a token with the answer");
    say().await.unwrap();
    until_checked(&world, "b-1", "current", 1.0).await;
    assert_eq!(client.route_token("cid", "7").as_ref(), Some(&first));

    move_key(&world, "7", "c").await;
    let told = wait_for("the client to be told of the move", LIMIT, async || {
        client.route_token("cid", "7").filter(|token| *token != first)
    })
    .await;
    wait_for("the push to be counted", LIMIT, async || {
        let metrics = world.cluster.relay("b-1").metrics().await;
        (metrics.sum("strait_routes_tokens_issued_total", &[("reason", "push")]) >= 1.0).then_some(())
    })
    .await;
    let superseded = checked(&world, "b-1", "superseded").await;
    let reply = say().await.unwrap();
    assert_eq!(reply.metadata().text("strait-unit"), Some("c"));
    assert_eq!(client.route_token("cid", "7"), Some(told), "it was told what is right");
    assert!(checked(&world, "b-1", "superseded").await <= superseded);

    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let relay = world.cluster.relay("c-1").grpc();
    let output = Command::new(interpreter)
        .arg(root.join("examples/python/route_tokens.py"))
        .args([&relay, "im.Echo/Unary", "cid=8", "3"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(text, "c without\nc with a token\nc with a token\n");
}
