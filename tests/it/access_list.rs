//! S1, R-3.10: gateways are told where clients of users connect, and when the home of a user has moved to another unit.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use strait::wire::access::{
    self, AccessPoint, AccessUpdate, AttachRequest, AttachedUser, ListReply, ListRequest, ReAttach, UserAccess,
};
use toml::Table;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::harness::{Cluster, Relay, http_get, wait_for, within};
use crate::moves::move_key;
use crate::owners::{UNITS, World};
use crate::reload::reload;

const LIMIT: Duration = Duration::from_secs(60);
const USERS: usize = 20;

/// A gateway's client of `strait.v1.Access` at a relay.
#[derive(Clone)]
struct Api(Channel);

impl Api {
    async fn of(relay: &Relay) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", relay.grpc())).unwrap();
        Self(endpoint.connect().await.unwrap())
    }

    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        grpc
    }

    async fn list(&self, user: &str) -> Result<UserAccess, Status> {
        let asked = ListRequest {
            user: Bytes::copy_from_slice(user.as_bytes()),
        };
        let codec = ProstCodec::<ListRequest, ListReply>::default();
        let path = PathAndQuery::from_static(access::LIST);
        let answer = self.grpc().await.unary(Request::new(asked), path, codec).await?;
        Ok(answer.into_inner().access.expect("how it stands"))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Streaming<AccessUpdate>, Status> {
        let codec = ProstCodec::<AttachRequest, AccessUpdate>::default();
        let path = PathAndQuery::from_static(access::ATTACH);
        let answer = self.grpc().await.server_streaming(request, path, codec).await?;
        Ok(answer.into_inner())
    }
}

fn user(number: usize) -> String {
    format!("m{number}")
}

/// Users, and the home that the gateway had heard of.
fn asked(users: impl IntoIterator<Item = String>, home: &str) -> Request<AttachRequest> {
    let user = |user: String| AttachedUser {
        user: user.into(),
        home: home.to_owned(),
    };
    Request::new(AttachRequest {
        users: users.into_iter().map(user).collect(),
    })
}

fn point(unit: &str) -> AccessPoint {
    AccessPoint {
        unit: unit.to_owned(),
        address: format!("wss://{unit}.example.com/ws"),
    }
}

fn units(points: &[AccessPoint]) -> Vec<&str> {
    points.iter().map(|point| point.unit.as_str()).collect()
}

async fn next(stream: &mut Streaming<AccessUpdate>) -> AccessUpdate {
    let update = within("an update", LIMIT, stream.message()).await.unwrap();
    update.expect("the stream goes on")
}

/// The first update, of users that are all at home there.
async fn first(stream: &mut Streaming<AccessUpdate>, home: &str) {
    let update = next(stream).await;
    assert!(update.advice.is_empty(), "{update:?}");
    for listed in update.users {
        assert_eq!((listed.home.as_str(), listed.moving), (home, false), "{listed:?}");
    }
}

/// Waits for advice about so many users; nobody gets it twice.
async fn advice(stream: &mut Streaming<AccessUpdate>, count: usize) -> BTreeMap<Bytes, ReAttach> {
    let mut heard = BTreeMap::new();
    while heard.len() < count {
        for advice in next(stream).await.advice {
            assert!(heard.insert(advice.user.clone(), advice).is_none(), "advice came twice");
        }
    }
    heard
}

/// Conversations stand for users; those of the world belong to unit `c`.
async fn world() -> World {
    world_with(&[]).await
}

/// The same, with further settings of all relays.
async fn world_with(further: &[(&str, toml::Value)]) -> World {
    let mut settings: Vec<(String, toml::Value)> = vec![
        ("access.dimension".to_owned(), "cid".into()),
        ("access.spread".to_owned(), "4s".into()),
    ];
    settings.extend(further.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    for unit in UNITS {
        settings.push((format!("access of {unit}"), vec![point(unit).address].into()));
    }
    let world = World::start_with_units(|unit, builder| {
        settings
            .iter()
            .fold(builder, |builder, (key, value)| match key.strip_prefix("access of ") {
                Some(own) if own == unit => builder.set(unit, "relay.access", value.clone()),
                Some(other) => builder.set(unit, &format!("units.{other}.access"), value.clone()),
                None => builder.set(unit, key, value.clone()),
            })
    })
    .await;
    for number in 0..USERS {
        let key = format!("cid={}", user(number));
        assert_eq!(world.call("c", &key).await.unwrap(), "c");
    }
    world
}

/// `strait ... --admin <this relay>`, off the threads of the test.
async fn strait(relay: &Relay, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(line.split(' ')).args(["--admin", &relay.admin()]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = ran.await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

async fn done(relay: &Relay, line: &str) {
    let (code, text) = strait(relay, line).await;
    assert_eq!(code, Some(0), "{line}: {text}");
}

// S1: the home comes first, wherever it is asked; who has no home begins with the unit that is asked; operators see the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_a_user_begins_with_its_home() {
    let world = world().await;
    let mut heard = Vec::new();
    // a-2 has never heard of the claim.
    for relay in ["a-2", "b-1", "c-1"] {
        let api = Api::of(world.cluster.relay(relay)).await;
        let listed = api.list("m1").await.unwrap();
        assert_eq!((listed.home.as_str(), listed.points.first()), ("c", Some(&point("c"))));
        assert_eq!(listed.points.len(), 3);
        heard.push(listed.points);
        let nobody = api.list("nobody").await.unwrap();
        let own = &relay[..1];
        assert_eq!((nobody.home.as_str(), nobody.points.first()), ("", Some(&point(own))));
        assert!(nobody.detail.contains("claimed"), "{}", nobody.detail);
    }
    assert!(heard.windows(2).all(|pair| pair[0] == pair[1]), "{heard:?}");

    let relay = world.cluster.relay("b-1");
    let (status, page) = http_get(&relay.admin(), "/access?user=m1").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (status, &page["home"], &page["points"][0]["unit"]),
        (200, &json!("c"), &json!("c"))
    );
    let (code, text) = strait(relay, "access m1").await;
    let is_shown = text.contains("home    c") && text.contains("1.  c  wss://c.example.com/ws");
    assert!(code == Some(0) && is_shown, "{text}");
    let (code, text) = strait(relay, "access nobody").await;
    assert!(code == Some(0) && text.contains("home    none"), "{text}");
    let (code, text) = strait(relay, "access m1 --output json").await;
    assert!(
        code == Some(0) && serde_json::from_str::<Value>(&text).unwrap() == page,
        "{text}"
    );
}

// O-C1: what commands say while the store is away names that, once and in plain words, and nothing that is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_that_the_store_is_away() {
    let mut world = world().await;
    world.cluster.relay_mut("a-1").kill();
    let relay = world.cluster.relay("b-1");
    let (code, text) = strait(relay, "access nobody").await;
    assert!(code == Some(0) && text.contains("it cannot be known now"), "{text}");
    assert!(!text.contains("no unit has claimed"), "{text}");
    for line in ["route get --key cid=nobody", "route history --key cid=nobody"] {
        let (code, text) = strait(relay, line).await;
        assert_ne!(code, Some(0), "{text}");
        assert!(text.contains("the route store is away: "), "{text}");
        for raw in ["status:", "code:", "transport error", "source:"] {
            assert!(!text.contains(raw), "{line}: {text}");
        }
        assert_eq!(text.matches("away").count(), 1, "{line}: {text}");
    }
    let grpc = format!("http://{}", relay.grpc());
    let framed = format!("tcp://{}", relay.framed());
    for address in [grpc, framed] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.args([
            "call",
            "im.Echo/Unary",
            "--key",
            "cid=nobody",
            "--data",
            "x",
            "--relay",
            &address,
        ]);
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let text = [ran.stdout, ran.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(
            !ran.status.success() && text.contains("routes_away"),
            "{address}: {text}"
        );
        assert!(
            text.contains("route store") && !text.contains("slow"),
            "{address}: {text}"
        );
    }
}

// D1: gateways of the old, the new and another unit hear of a user that moves, once; a slow reader hears what is true in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_moves_is_told_of_everywhere() {
    let world = world().await;
    let mut streams = Vec::new();
    for relay in ["a-2", "b-1", "c-1"] {
        let api = Api::of(world.cluster.relay(relay)).await;
        let mut stream = api.attach(asked([user(0), user(1)], "")).await.unwrap();
        first(&mut stream, "c").await;
        streams.push(stream);
    }
    let api = Api::of(world.cluster.relay("a-2")).await;
    let mut slow = api.attach(asked([user(1)], "")).await.unwrap();
    let before = world.cluster.relay("a-2").metrics().await;
    assert!((before.sum("strait_access_users", &[]) - 3.0).abs() < f64::EPSILON);

    move_key(&world, "a-1", 0, "b").await;
    let mut moments = Vec::new();
    for stream in &mut streams {
        let heard = advice(stream, 1).await;
        let advice = &heard[user(0).as_bytes()];
        assert_eq!((advice.unit.as_str(), advice.previous.as_str()), ("b", "c"));
        assert_eq!(advice.points.first(), Some(&point("b")));
        assert!(advice.within_ms == 4000 && advice.after_ms < 4000, "{advice:?}");
        moments.push((advice.after_ms, advice.epoch));
    }
    assert!(moments.windows(2).all(|pair| pair[0].0 == pair[1].0), "{moments:?}");
    for to in ["a", "c", "a", "b"] {
        move_key(&world, "b-1", 1, to).await;
    }
    // It is told of the home it had, or of none of this; in the end it knows.
    let heard = within("the slow one to hear", LIMIT, async {
        let mut home = String::new();
        let mut told = 0;
        while home != "b" {
            let update = next(&mut slow).await;
            for listed in update.users {
                home = listed.home;
            }
            for advice in update.advice {
                assert_eq!(advice.previous, home, "advice follows what was told before");
                home = advice.unit;
                told += 1;
            }
        }
        told
    })
    .await;
    assert!(heard <= 4, "{heard}");
    // The others are told of nothing that they have been told of.
    for stream in &mut streams {
        let mut home = "c".to_owned();
        while home != "b" {
            for advice in next(stream).await.advice {
                assert_eq!((&advice.user[..], &advice.previous), (user(1).as_bytes(), &home));
                home = advice.unit;
            }
        }
    }
    let after = world.cluster.relay("a-2").metrics().await;
    assert!(after.sum("strait_access_advice_total", &[]) >= 2.0);

    // Who was away meanwhile says what it had heard, and is told at once.
    for (before, told) in [("c", 2), ("b", 0)] {
        let mut late = api.attach(asked([user(0), user(1)], before)).await.unwrap();
        let update = next(&mut late).await;
        assert!(update.users.iter().all(|listed| listed.home == "b"), "{update:?}");
        assert_eq!(update.advice.len(), told, "{update:?}");
    }
}

// all users of a unit that is drained are told to go, each at a moment of its own; and back when the unit takes its keys again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_drained_unit_are_told_to_go_and_to_come_back() {
    let world = world().await;
    let api = Api::of(world.cluster.relay("c-1")).await;
    let mut stream = api.attach(asked((0..USERS).map(user), "")).await.unwrap();
    first(&mut stream, "c").await;

    let relay = world.cluster.relay("a-2");
    done(relay, "unit drain c --to a=1,b=1 --wait").await;
    let heard = advice(&mut stream, USERS).await;
    let mut moments: Vec<_> = heard.values().map(|advice| advice.after_ms).collect();
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() > USERS / 2, "they all come at once: {moments:?}");
    for advice in heard.values() {
        assert!(
            ["a", "b"].contains(&advice.unit.as_str()) && advice.previous == "c",
            "{advice:?}"
        );
        let order = units(&advice.points);
        assert_eq!(
            (order[0], order.last()),
            (advice.unit.as_str(), Some(&"c")),
            "what is drained comes last"
        );
    }
    let to_a = heard.values().filter(|advice| advice.unit == "a").count();
    assert!((1..USERS).contains(&to_a), "{to_a}");

    done(relay, "unit return c --wait").await;
    for advice in advice(&mut stream, USERS).await.values() {
        assert_eq!(
            (advice.unit.as_str(), &advice.previous),
            ("c", &heard[&advice.user].unit)
        );
    }
}

// gateways hear who has taken over the users of an evacuated unit, though nobody has called and their relay remembers the claims
// of few of them; that unit is in no list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_an_evacuated_unit_are_told_who_has_taken_over() {
    let world = world_with(&[("routes.claims_known_max", 4.into())]).await;
    let relay = world.cluster.relay("a-2");
    let api = Api::of(relay).await;
    let mut stream = api.attach(asked((0..USERS).map(user), "")).await.unwrap();
    first(&mut stream, "c").await;
    done(relay, "unit evacuate c --to a=1,b=1 --accept-loss --wait").await;
    let heard = advice(&mut stream, USERS).await;
    for advice in heard.values() {
        let order = units(&advice.points);
        assert_eq!((order[0], order.len()), (advice.unit.as_str(), 2), "{order:?}");
        assert!(!order.contains(&"c") && advice.previous == "c", "{advice:?}");
    }
    done(relay, "unit return c --wait").await;
    for advice in advice(&mut stream, USERS).await.values() {
        assert_eq!(
            (advice.unit.as_str(), &advice.previous),
            ("c", &heard[&advice.user].unit)
        );
    }
}

// E3, C-L1: bad questions and too many users are refused, settings are in force after a reload, and the drain ends every stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_and_end_with_the_relay() {
    let mut world = world().await;
    let api = Api::of(world.cluster.relay("a-2")).await;
    let refused = async |request| api.attach(request).await.unwrap_err().code();
    let many = |count: usize| asked((0..count).map(|at| at.to_string()), "");
    assert_eq!(refused(many(0)).await, Code::InvalidArgument);
    assert_eq!(refused(many(501)).await, Code::InvalidArgument);
    assert_eq!(refused(asked(["x".repeat(257)], "")).await, Code::InvalidArgument);
    assert_eq!(refused(asked([user(0)], "no unit")).await, Code::InvalidArgument);
    assert_eq!(api.list("").await.unwrap_err().code(), Code::InvalidArgument);
    // Gateways of other units have relays of their own.
    let mut other = many(1);
    other.metadata_mut().insert("strait-unit", "b".parse().unwrap());
    let elsewhere = Api::of(world.cluster.relay("c-1")).await;
    assert_eq!(
        elsewhere.attach(other).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let mut stream = api.attach(many(500)).await.unwrap();
    let mut heard = 0;
    while heard < 500 {
        let update = next(&mut stream).await;
        assert!((1..=100).contains(&update.users.len()));
        heard += update.users.len();
    }
    reload(world.cluster.relay("a-2"), "applied", |config| {
        let table: Table = "dimension = \"cid\"\nusers_max = 500\nspread = \"0s\"".parse().unwrap();
        config.insert("access".to_owned(), table.into());
        let moved = vec![toml::Value::from("wss://moved")];
        config["relay"]
            .as_table_mut()
            .unwrap()
            .insert("access".to_owned(), moved.into());
    })
    .await;
    assert_eq!(refused(many(1)).await, Code::ResourceExhausted);
    assert_eq!(api.list("nobody").await.unwrap().points[0].address, "wss://moved");
    drop(stream);
    let mut stream = wait_for("room for another", LIMIT, async || api.attach(many(1)).await.ok()).await;
    next(&mut stream).await;

    let relay = world.cluster.relay_mut("a-2");
    assert!(within("the drain", LIMIT, relay.terminate()).await.success());
    let ended = within("the end of the stream", LIMIT, stream.message())
        .await
        .unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
}

// Without a dimension of users the answer says what to do; without a route store rules say where users are at home.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_off_until_they_are_named_and_need_no_store() {
    let cluster = Cluster::builder()
        .unit_in("geo", "a", 1)
        .unit_in("geo", "b", 1)
        .set("b", "access.dimension", "uid")
        .set("b", "units.a.access", vec![toml::Value::from(point("a").address)])
        .start()
        .await;
    let off = Api::of(cluster.relay("a-1")).await.list("b:1").await.unwrap_err();
    assert_eq!(off.code(), Code::FailedPrecondition);
    assert!(off.message().contains("access.dimension"), "{off}");
    let (code, text) = strait(cluster.relay("a-1"), "access b:1").await;
    assert!(code == Some(2) && text.contains("access.dimension"), "{text}");
    let api = Api::of(cluster.relay("b-1")).await;
    let listed = api.list("a:1").await.unwrap();
    assert_eq!((listed.home.as_str(), units(&listed.points)), ("a", vec!["a"]));
    assert_eq!(api.list("x").await.unwrap().home, "");
    let mut stream = api.attach(asked(["a:1".to_owned()], "")).await.unwrap();
    first(&mut stream, "a").await;
    reload(cluster.relay("b-1"), "applied", |config| {
        let rules = config["routing"]["rules"].as_array_mut().unwrap();
        rules[0]["unit"] = "b".into();
        config["routing"]
            .as_table_mut()
            .unwrap()
            .insert("version".to_owned(), 2.into());
    })
    .await;
    let heard = advice(&mut stream, 1).await;
    assert_eq!(
        (heard[&b"a:1"[..]].unit.as_str(), heard[&b"a:1"[..]].previous.as_str()),
        ("b", "a")
    );
}

/// A process that ends with the test, however that ends.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// S1: gateways of other families attach their users with what they have heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_gateway_hears_of_a_user_that_moves() {
    let world = world().await;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let gateway = Command::new(interpreter)
        .arg(root.join("examples/python/access.py"))
        .args([&world.cluster.relay("b-1").grpc(), "m0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut gateway = Gateway(gateway.unwrap());
    let (told, mut lines) = tokio::sync::mpsc::channel(64);
    let output = BufReader::new(gateway.0.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = told.blocking_send(line);
        }
    });
    let home = within("the home", LIMIT, lines.recv()).await;
    assert_eq!(home.as_deref(), Some("m0 is at home in c"));
    move_key(&world, "a-1", 0, "b").await;
    let moved = within("the new home", LIMIT, lines.recv()).await.unwrap();
    let is_right = moved.starts_with("m0 moves from c to b in ") && moved.contains("ms: wss://b.example.com/ws, ");
    assert!(is_right, "{moved}");
}
