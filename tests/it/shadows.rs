//! R-3.9 S1, S7: while keys move with a mirror, what their owner has served reaches the other unit as shadows, in order; callers do
//! not notice, and nobody but relays of the owner sends any.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use strait::wire::shadow::{Shadow, ShadowKey};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Background, Cluster, wait_for, within};
use crate::moves::ask;
use crate::services::{BytesCodec, Client, request};

const LIMIT: Duration = Duration::from_secs(60);
const UNITS: [&str; 3] = ["a", "b", "c"];

/// A call as a service saw it.
#[derive(Clone, Debug)]
struct Seen {
    key: String,
    entry: String,
    /// The move, if it was a shadow.
    shadow: Option<String>,
    epoch: u64,
    source: String,
}

/// The application of one unit: notes what it is told.
#[derive(Default)]
struct App {
    seen: Mutex<Vec<Seen>>,
    /// It says that its copy is not near enough.
    is_copying: AtomicBool,
    /// It does not answer shadows.
    hangs: AtomicBool,
}

impl App {
    /// Entries of a key, as calls or as shadows, in the order in which they came.
    fn entries(&self, key: &str, shadows: bool) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let of_key = seen
            .iter()
            .filter(|seen| seen.key == key && seen.shadow.is_some() == shadows);
        of_key.map(|seen| seen.entry.clone()).collect()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// `app.Ledger`.
#[derive(Clone)]
struct Ledger(Arc<App>);

/// `app.OwnerControl`.
#[derive(Clone)]
struct Control(Arc<App>);

impl NamedService for Ledger {
    const NAME: &'static str = "app.Ledger";
}

impl NamedService for Control {
    const NAME: &'static str = "app.OwnerControl";
}

impl Service<http::Request<Body>> for Ledger {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Write(self.0.clone());
        Box::pin(async move { Ok(Grpc::new(BytesCodec).unary(call, request).await) })
    }
}

impl Service<http::Request<Body>> for Control {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_pending = request.uri().path().ends_with("/Lag") && self.0.is_copying.load(Ordering::SeqCst);
        let call = Question(is_pending);
        Box::pin(async move { Ok(Grpc::new(BytesCodec).unary(call, request).await) })
    }
}

struct Write(Arc<App>);

impl UnaryService<Bytes> for Write {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let app = self.0.clone();
        Box::pin(async move {
            let text = |name: &str| {
                let value = request.metadata().get(name);
                value.map(|value| value.to_str().unwrap().to_owned())
            };
            let shadow = text("strait-shadow").map(|said| {
                assert_eq!(said, "true");
                text("strait-shadow-move").expect("the move")
            });
            if shadow.is_some() && app.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            app.seen.lock().unwrap().push(Seen {
                key: text("x-key").unwrap_or_default(),
                entry: String::from_utf8_lossy(request.get_ref()).into_owned(),
                shadow,
                epoch: text("strait-owner-epoch").map_or(0, |epoch| epoch.parse().unwrap()),
                source: text("strait-source-unit").unwrap_or_default(),
            });
            Ok(Response::new(Bytes::new()))
        })
    }
}

/// Yes to all; of `Lag`: ask again, if that is so.
struct Question(bool);

impl UnaryService<Bytes> for Question {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        // `pending` of `LagReply`.
        let answer = if self.0 { &b"\x20\x01"[..] } else { b"" };
        Box::pin(async move { Ok(Response::new(Bytes::from_static(answer))) })
    }
}

/// Units a, b and c with an application each, b with two relays; conversations are claimed. Relays have two shards.
struct World {
    cluster: Cluster,
    apps: BTreeMap<&'static str, Arc<App>>,
    clients: BTreeMap<&'static str, Client>,
    _services: Vec<Background>,
}

impl World {
    async fn start() -> Self {
        let mut builder = Cluster::builder().routes_at("c-1");
        let (mut apps, mut services) = (BTreeMap::new(), Vec::new());
        for unit in UNITS {
            let dimensions = ["uid", "cid"].map(toml::Value::from).to_vec();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            builder = builder
                .unit_in("geo", unit, if unit == "b" { 2 } else { 1 })
                .set(unit, "routing.dimensions", dimensions)
                .set(unit, "routes.dimension", vec![conversations()]);
            for service in ["app.Ledger", "app.OwnerControl"] {
                builder = builder.service(unit, service, &[format!("http://{address}")]);
            }
            let app = Arc::new(App::default());
            apps.insert(unit, app.clone());
            services.push(Background::start("app", move || async move {
                listener.set_nonblocking(true).unwrap();
                let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
                let server = Server::builder()
                    .add_service(Ledger(app.clone()))
                    .add_service(Control(app));
                let _ = server.serve_with_incoming(incoming).await;
            }));
        }
        let cluster = builder.start().await;
        let mut clients = BTreeMap::new();
        for unit in UNITS {
            let address = cluster.relay(&format!("{unit}-1")).grpc();
            clients.insert(unit, Client::connect(&address).await.service("app.Ledger"));
        }
        Self {
            cluster,
            apps,
            clients,
            _services: services,
        }
    }

    /// Begins the move of keys to unit b with a mirror; its application copies until it is told otherwise.
    async fn begin(&self, keys: &[String]) -> String {
        self.apps["b"].is_copying.store(true, Ordering::SeqCst);
        let node = |key: &String| json!({ "node": { "key": { "dimension": "cid", "key": key } } });
        let what: Vec<_> = keys.iter().map(node).collect();
        let options = json!({ "mirror": true, "freeze_budget": "20s" });
        let command = json!({ "ask": "move", "what": what, "to": "b", "options": options });
        let plan = ask(self.cluster.relay("c-1"), &command).await;
        plan["plan"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{plan}"))
            .to_owned()
    }

    fn end_copying(&self) {
        self.apps["b"].is_copying.store(false, Ordering::SeqCst);
    }

    async fn row(&self, id: &str) -> Value {
        let answer = ask(self.cluster.relay("b-1"), &json!({ "ask": "moves", "id": id })).await;
        answer["moves"][0].clone()
    }

    async fn until_moved(&self, id: &str, count: usize) {
        let row = wait_for("the move to be over", LIMIT, async || {
            let row = self.row(id).await;
            (row["state"] == "trailing").then_some(row)
        })
        .await;
        assert_eq!(row["moved"], count, "{row}");
    }

    /// What the relays of a unit counted of shadows.
    async fn counted(&self, unit: &str, direction: &str, outcome: &str) -> f64 {
        let labels = [("direction", direction), ("outcome", outcome)];
        let mut sum = 0.0;
        for relay in self
            .cluster
            .relays()
            .iter()
            .filter(|relay| relay.name.starts_with(unit))
        {
            sum += relay.metrics().await.sum("strait_shadow_calls_total", &labels);
        }
        sum
    }
}

/// The first writer claims a conversation; the application is asked when it moves.
fn conversations() -> toml::Value {
    let text = r#"
        name = "cid"
        placement = "claim"
        hooks = { service = "app.OwnerControl" }
    "#;
    toml::Value::Table(text.parse().unwrap())
}

async fn write(client: &Client, key: &str, entry: &str) -> Result<Duration, Status> {
    let named = format!("cid={key}");
    let fields = [("strait-key", named.as_str()), ("x-key", key)];
    let mut asked = request(Bytes::copy_from_slice(entry.as_bytes()), &fields);
    asked.set_timeout(LIMIT);
    let begun = Instant::now();
    client.unary("Add", asked).await.map(|_| begun.elapsed())
}

// S1, S7: each write that the owner has acknowledged between S0 and the freeze is at the new owner as a shadow, in the order in which
// the owner served it, whichever unit it came from; then those of the new owner are at the old one. No shadow comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_a_move_reach_the_other_unit_as_shadows_in_order() {
    let world = World::start().await;
    let keys: Vec<_> = (0..6).map(|key| format!("k{key}")).collect();
    for key in &keys {
        write(&world.clients["a"], key, "first").await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    // A key has one writer, which takes another way each time: so its order is known.
    for key in keys.clone() {
        let mut clients = Vec::new();
        for unit in ["a", "c", "a"] {
            // Other connections are on other shards.
            let address = world.cluster.relay(&format!("{unit}-1")).grpc();
            clients.push(Client::connect(&address).await.service("app.Ledger"));
        }
        let stop = stop.clone();
        writers.spawn(async move {
            let mut written = vec!["first".to_owned()];
            while !stop.load(Ordering::SeqCst) {
                let entry = written.len().to_string();
                write(&clients[written.len() % 3], &key, &entry).await.unwrap();
                written.push(entry);
            }
            (key, written)
        });
    }
    let id = world.begin(&keys).await;
    let (a, b) = (&world.apps["a"], &world.apps["b"]);
    let many = |app: &App, shadows| keys.iter().all(|key| app.entries(key, shadows).len() > 30);
    wait_for("shadows at unit b", LIMIT, async || many(b, true).then_some(())).await;
    world.end_copying();
    world.until_moved(&id, keys.len()).await;
    wait_for("shadows at unit a", LIMIT, async || many(a, true).then_some(())).await;
    stop.store(true, Ordering::SeqCst);
    let written: BTreeMap<_, _> = within("the writers to end", LIMIT, writers.join_all())
        .await
        .into_iter()
        .collect();
    let mut shadows = 0;
    for (key, written) in &written {
        wait_for("the last shadows", LIMIT, async || {
            (a.entries(key, true).len() == b.entries(key, false).len()).then_some(())
        })
        .await;
        let (old, new) = (a.entries(key, false), b.entries(key, false));
        assert_eq!([&old[..], &new[..]].concat(), *written, "{key}: who served it");
        let forward = b.entries(key, true);
        assert!(
            old.ends_with(&forward),
            "{key}: {forward:?} are not the last of {old:?}"
        );
        // The relays of unit b keep no order between them (H3); each shadow is there, once.
        let sorted = |mut entries: Vec<String>| {
            entries.sort();
            entries
        };
        assert_eq!(sorted(a.entries(key, true)), sorted(new), "{key}: back");
        shadows += forward.len();
        let of_key: Vec<_> = b.seen().into_iter().filter(|seen| seen.key == *key).collect();
        let first_call = of_key.iter().position(|seen| seen.shadow.is_none()).unwrap();
        assert!(
            of_key[first_call..].iter().all(|seen| seen.shadow.is_none()),
            "{key}: a shadow came after the key"
        );
        let (shadow, call) = (&of_key[first_call - 1], &of_key[first_call]);
        assert_eq!(shadow.shadow.as_ref(), Some(&id));
        assert!(
            shadow.epoch < call.epoch,
            "a shadow says the epoch of the owner that served it"
        );
    }
    let sources: std::collections::BTreeSet<_> = b.seen().into_iter().map(|seen| seen.source).collect();
    assert!(sources.contains("a") && sources.contains("c"), "{sources:?}");
    assert_eq!(world.counted("a", "sent", "delivered").await, shadows as f64);
    assert_eq!(world.counted("b", "received", "delivered").await, shadows as f64);
    for outcome in ["failed", "full", "refused", "stream", "too_large"] {
        assert_eq!(world.counted("a", "sent", outcome).await, 0.0, "{outcome}");
        assert_eq!(world.counted("b", "sent", outcome).await, 0.0, "{outcome}");
    }
    let row = world.row(&id).await;
    assert_eq!(
        (&row["mirror"], &row["shadow_incomplete"]),
        (&json!(true), &json!(false))
    );
    let all: usize = written.values().map(Vec::len).sum();
    eprintln!("{all} writes, {shadows} shadows before the keys were there");
}

// S1: callers of the owner do not wait for the other unit, whatever it does; what it misses is counted, and the move says so and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_not_wait_for_a_unit_that_hangs() {
    let world = World::start().await;
    let key = "k".to_owned();
    write(&world.clients["a"], &key, "first").await.unwrap();
    world.apps["b"].hangs.store(true, Ordering::SeqCst);
    let id = world.begin(std::slice::from_ref(&key)).await;
    wait_for("the first shadow", LIMIT, async || {
        write(&world.clients["a"], &key, "more").await.unwrap();
        let metrics = world.cluster.relay("a-1").metrics().await;
        (metrics.sum("strait_shadow_waiting", &[]) > 0.0).then_some(())
    })
    .await;
    let mut took = Vec::new();
    for count in 0..400 {
        took.push(write(&world.clients["a"], &key, &count.to_string()).await.unwrap());
    }
    took.sort();
    assert!(
        took[399] < Duration::from_secs(1),
        "a caller waited for {:?}",
        took[399]
    );
    // A key has 256 places.
    assert!(world.counted("a", "sent", "full").await >= 100.0);
    wait_for("the move to say that it is incomplete", LIMIT, async || {
        (world.row(&id).await["shadow_incomplete"] == true).then_some(())
    })
    .await;
    world.end_copying();
    world.until_moved(&id, 1).await;
    write(&world.clients["a"], &key, "last").await.unwrap();
    assert_eq!(world.apps["b"].entries(&key, false), ["last"]);
    eprintln!("half within {:?}, longest {:?}", took[200], took[399]);
}

// S1: nobody but a relay of the owner sends shadows, and no client can make a call look like one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_forge_shadows() {
    let world = World::start().await;
    let key = "k".to_owned();
    write(&world.clients["a"], &key, "first").await.unwrap();
    let id = world.begin(std::slice::from_ref(&key)).await;
    wait_for("the first shadow", LIMIT, async || {
        write(&world.clients["a"], &key, "real").await.unwrap();
        (!world.apps["b"].entries(&key, true).is_empty()).then_some(())
    })
    .await;
    let forged = Shadow {
        r#move: u64::from_str_radix(&id, 16).unwrap(),
        path: "/app.Ledger/Add".into(),
        grpc: true,
        keys: vec![ShadowKey {
            dimension: "cid".into(),
            key: key.clone().into(),
        }],
        source_geo: "geo".into(),
        source_unit: "a".into(),
        source_service: "strait.relay".into(),
        body: Bytes::from_static(b"\0\0\0\0\x06forged"),
        ..Shadow::default()
    };
    // Larger than what a shadow carries: it has none, and the move says so.
    write(&world.clients["c"], &key, &"x".repeat(20_000)).await.unwrap();
    assert_eq!(world.counted("a", "sent", "too_large").await, 1.0);
    wait_for("the move to say that it is incomplete", LIMIT, async || {
        (world.row(&id).await["shadow_incomplete"] == true).then_some(())
    })
    .await;
    for from in UNITS {
        let client = world.clients[from].clone().service("strait.v1.Shadow");
        let fields = [
            ("strait-unit", "b"),
            ("strait-source-unit", "a"),
            ("strait-source-service", "strait.relay"),
        ];
        let refused = client
            .unary("Deliver", request(forged.to_bytes(), &fields))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "from {from}: {refused}");
    }
    // A call with the fields of a shadow is a call.
    let fields = [
        ("strait-unit", "b"),
        ("x-key", "other"),
        ("strait-shadow", "true"),
        ("strait-shadow-move", id.as_str()),
    ];
    let asked = request(Bytes::from_static(b"dressed"), &fields);
    world.clients["c"].unary("Add", asked).await.unwrap();
    assert_eq!(world.apps["b"].entries("other", false), ["dressed"]);
    let seen = world.apps["b"].entries(&key, true);
    assert!(seen.iter().all(|entry| entry == "real"), "{seen:?}");
    assert!(world.counted("b", "received", "refused").await >= 3.0);
}
