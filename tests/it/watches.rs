//! services ask who owns keys, bind keys to their unit, and hear of owners that change, without making a call.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use strait::wire::routes::{
    self, ClaimReply, ClaimRequest, ResolveReply, ResolveRequest, Route, RouteKey, RouteUpdate, WatchRoutesRequest,
};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::harness::{Directory, wait_for, within};
use crate::moves::move_key;
use crate::owners::World;

const LIMIT: Duration = Duration::from_secs(30);

/// A client of `strait.v1.Routes` at a relay.
#[derive(Clone)]
struct Api(Channel);

impl Api {
    async fn of(world: &World, relay: &str) -> Self {
        let address = world.cluster.relay(relay).grpc();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self(endpoint.connect().await.unwrap())
    }

    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        grpc
    }

    async fn resolve(&self, keys: &[RouteKey]) -> Result<Route, Status> {
        let asked = ResolveRequest { keys: keys.to_vec() };
        let codec = ProstCodec::<ResolveRequest, ResolveReply>::default();
        let path = PathAndQuery::from_static(routes::RESOLVE);
        let answer = self.grpc().await.unary(Request::new(asked), path, codec).await?;
        Ok(answer.into_inner().route.expect("a route"))
    }

    async fn claim(&self, key: RouteKey) -> Result<(Route, bool), Status> {
        let asked = ClaimRequest { key: Some(key) };
        let codec = ProstCodec::<ClaimRequest, ClaimReply>::default();
        let path = PathAndQuery::from_static(routes::CLAIM);
        let answer = self.grpc().await.unary(Request::new(asked), path, codec).await?;
        let answer = answer.into_inner();
        Ok((answer.route.expect("a route"), answer.won))
    }

    async fn watch(&self, request: Request<WatchRoutesRequest>) -> Result<Streaming<RouteUpdate>, Status> {
        let codec = ProstCodec::<WatchRoutesRequest, RouteUpdate>::default();
        let path = PathAndQuery::from_static(routes::WATCH);
        let answer = self.grpc().await.server_streaming(request, path, codec).await?;
        Ok(answer.into_inner())
    }
}

fn cid(key: &str) -> RouteKey {
    RouteKey {
        dimension: "cid".into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

fn asked(keys: impl IntoIterator<Item = RouteKey>) -> Request<WatchRoutesRequest> {
    Request::new(WatchRoutesRequest {
        keys: keys.into_iter().collect(),
    })
}

async fn next(stream: &mut Streaming<RouteUpdate>) -> Vec<Route> {
    let update = within("an update", LIMIT, stream.message()).await.unwrap();
    update.expect("the stream goes on").routes
}

// R-I5: whoever is first has the key, everybody else hears who that is; to ask claims nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_resolved_and_claimed_without_a_call() {
    let world = World::start(&[]).await;
    let (a, b) = (Api::of(&world, "a-2").await, Api::of(&world, "b-1").await);
    let unclaimed = a.resolve(&[cid("1")]).await.unwrap_err();
    assert_eq!(unclaimed.code(), Code::NotFound, "{unclaimed}");
    let unclaimed = b.resolve(&[cid("1")]).await.unwrap_err();
    assert_eq!(unclaimed.code(), Code::NotFound, "to ask claims nothing: {unclaimed}");

    let (route, won) = a.claim(cid("1")).await.unwrap();
    assert_eq!((route.unit.as_str(), route.key, won), ("a", Some(cid("1")), true));
    assert!(a.claim(cid("1")).await.unwrap().1, "the answer is the same again");
    let (route, won) = b.claim(cid("1")).await.unwrap();
    assert_eq!((route.unit.as_str(), won), ("a", false));
    assert_eq!(b.resolve(&[cid("1")]).await.unwrap().unit, "a");
    assert_eq!(world.call("b", "cid=1").await.unwrap(), "a", "calls go there");

    // By a rule of this dimension; of two keys the first dimension decides.
    let uid = RouteKey {
        dimension: "uid".into(),
        key: "b:7".into(),
    };
    let route = a.resolve(&[cid("1"), uid.clone()]).await.unwrap();
    assert_eq!((route.unit.as_str(), route.key.as_ref()), ("b", Some(&uid)));
    for (keys, code) in [
        (vec![], Code::InvalidArgument),
        (vec![cid("1"); 17], Code::InvalidArgument),
        (
            vec![RouteKey {
                dimension: "other".into(),
                key: "1".into(),
            }],
            Code::InvalidArgument,
        ),
    ] {
        let refused = a.resolve(&keys).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let refused = a.claim(uid).await;
    assert!(refused.is_err() || !refused.unwrap().1, "a rule has it");
}

// S6: who watches hears of each key at once, then of each that moves; a slow reader hears what is true in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_hear_of_owners_that_change() {
    let world = World::start(&[]).await;
    for key in ["m0", "m1"] {
        assert_eq!(world.call("a", &format!("cid={key}")).await.unwrap(), "a");
    }
    let c = Api::of(&world, "c-1").await;
    // Its relay has heard of the claims.
    for key in ["m0", "m1"] {
        world.call("c", &format!("cid={key}")).await.unwrap();
    }
    let mut watch = c.watch(asked(["m0", "m1", "nobody"].map(cid))).await.unwrap();
    let mut slow = c.watch(asked(["m1"].map(cid))).await.unwrap();
    let first = next(&mut watch).await;
    let units: Vec<_> = first.iter().map(|route| route.unit.as_str()).collect();
    assert_eq!(units, ["a", "a", ""]);
    assert!(first[2].detail.contains("claimed"), "{}", first[2].detail);
    assert_eq!(next(&mut slow).await[0].unit, "a");

    move_key(&world, "a-1", 0, "b").await;
    let moved = loop {
        let news = next(&mut watch).await;
        assert!(
            news.iter().all(|route| route.key == Some(cid("m0"))),
            "only what has changed"
        );
        if let Some(route) = news.into_iter().find(|route| route.unit == "b") {
            break route;
        }
    };
    assert!(moved.epoch > first[0].epoch && !moved.moving);
    // A claim that this relay learns of.
    assert_eq!(world.call("b", "cid=nobody").await.unwrap(), "b");
    assert_eq!(world.call("c", "cid=nobody").await.unwrap(), "b");
    loop {
        let news = next(&mut watch).await;
        if news
            .iter()
            .any(|route| (route.key.as_ref(), route.unit.as_str()) == (Some(&cid("nobody")), "b"))
        {
            break;
        }
    }
    for to in ["b", "c", "a", "b"] {
        move_key(&world, "b-1", 1, to).await;
    }
    let told = within("the slow one to hear", LIMIT, async {
        let mut told = Vec::new();
        loop {
            told.extend(next(&mut slow).await);
            let last = told.last().unwrap();
            let is_newest = c.resolve(&[cid("m1")]).await.unwrap().epoch == last.epoch;
            if is_newest && last.unit == "b" && !last.moving {
                return told;
            }
        }
    })
    .await;
    assert!(
        told.is_sorted_by_key(|route| route.epoch),
        "an epoch went back: {told:?}"
    );
}

// Bounded per watch and per relay, with room again when one ends; the drain of the relay is held up by none (C-L1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_bounded_and_end_with_the_relay() {
    let mut world = World::start(&[]).await;
    let a = Api::of(&world, "a-2").await;
    let many = |count: usize| asked((0..count).map(|key| cid(&key.to_string())));
    let refused = a.watch(many(501)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let mut watches = Vec::new();
    for _ in 0..100 {
        let mut watch = a.watch(many(500)).await.unwrap();
        assert_eq!(next(&mut watch).await.len(), 500);
        watches.push(watch);
    }
    let refused = a.watch(many(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    watches.pop();
    wait_for("room for another", LIMIT, async || a.watch(many(1)).await.ok()).await;
    // Services of other units have relays of their own.
    let c = Api::of(&world, "c-1").await;
    let mut other = many(1);
    other.metadata_mut().insert("strait-unit", "b".parse().unwrap());
    let refused = c.watch(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    let relay = world.cluster.relay_mut("a-2");
    assert!(within("the drain", LIMIT, relay.terminate()).await.success());
    let ended = within("the end of a watch", LIMIT, watches[0].message())
        .await
        .unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
}

// gRPC clients of other families hear of moved keys, with the token that calls bring along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_hears_of_a_move_with_its_token() {
    let folder = Directory::new();
    let keys = folder.path().join("token.keys");
    let made = Command::new(env!("CARGO_BIN_EXE_strait"))
        .arg("token-key")
        .arg(&keys)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let world = World::start(&[("routes.tokens.key_file", keys.to_str().unwrap().into())]).await;
    for from in ["a", "c"] {
        assert_eq!(world.call(from, "cid=m0").await.unwrap(), "a");
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let mut client = Command::new(interpreter)
        .arg(root.join("examples/python/watch_routes.py"))
        .args([&world.cluster.relay("c-1").grpc(), "cid=m0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (told, mut lines) = tokio::sync::mpsc::channel(64);
    let output = BufReader::new(client.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = told.blocking_send(line);
        }
    });
    let first = within("the owner", LIMIT, lines.recv()).await;
    assert_eq!(first.as_deref(), Some("m0 a with a token"));
    move_key(&world, "b-1", 0, "b").await;
    let last = within("the new owner", LIMIT, async {
        loop {
            let line = lines.recv().await.expect("the client runs");
            if line.starts_with("m0 b") {
                return line;
            }
        }
    })
    .await;
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(last, "m0 b with a token");
}
