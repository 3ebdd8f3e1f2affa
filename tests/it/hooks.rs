//! R-3.9, R-D11: keys move with their data. The application is `examples/python/owner_control.py`, a process in units a and b.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::{Cluster, free_port, wait_for, within};
use crate::moves::ask;
use crate::services::{Client, request};

const LIMIT: Duration = Duration::from_secs(60);
const UNITS: [&str; 3] = ["a", "b", "c"];

/// The application of one unit.
struct App {
    child: Child,
    folder: PathBuf,
    /// What it was asked, in order: `Hook move from to`.
    asked: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn start(port: u16, relay: &str, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let interpreter =
            std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
        let mut child = Command::new(interpreter)
            .arg(root.join("examples/python/owner_control.py"))
            .args([&format!("127.0.0.1:{port}"), relay])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "listening");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let written = asked.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            folder: folder.to_owned(),
            asked,
        }
    }

    /// What it was asked about a move, each once, in order.
    fn asked(&self, id: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for line in self.asked.lock().unwrap().iter().filter(|line| line.contains(id)) {
            let hook = line.split(' ').next().unwrap().to_owned();
            if !seen.contains(&hook) {
                seen.push(hook);
            }
        }
        seen
    }

    /// Puts a file into its folder that changes what it does.
    fn put(&self, name: &str) {
        std::fs::write(self.folder.join(name), "").unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.join(name)).unwrap();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Units a, b and c, the routes at `a-1`; conversations are claimed, and move with the application of a and b.
struct World {
    cluster: Cluster,
    apps: BTreeMap<&'static str, App>,
    clients: BTreeMap<&'static str, Client>,
}

impl World {
    async fn start(settings: &[(&str, toml::Value)]) -> Self {
        let ports = ["a", "b"].map(|unit| (unit, free_port()));
        let mut builder = Cluster::builder().routes_at("a-1");
        for unit in UNITS {
            let dimensions = ["uid", "cid"].map(toml::Value::from).to_vec();
            builder = builder
                .unit_in("geo", unit, if unit == "a" { 2 } else { 1 })
                .set(unit, "routing.dimensions", dimensions)
                .set(unit, "routes.dimension", vec![conversations()]);
            for (key, value) in settings {
                builder = builder.set(unit, key, value.clone());
            }
        }
        for (unit, port) in ports {
            for service in ["app.Ledger", "app.LedgerCopy", "app.OwnerControl"] {
                builder = builder.service(unit, service, &[format!("http://127.0.0.1:{port}")]);
            }
        }
        let mut cluster = builder.prepare();
        let apps = ports.map(|(unit, port)| {
            let relay = cluster.relay(&format!("{unit}-1")).grpc();
            let folder = cluster.directory().join(format!("app-{unit}"));
            (unit, App::start(port, &relay, &folder))
        });
        let names: Vec<_> = cluster.relays().iter().map(|relay| relay.name.clone()).collect();
        for name in &names {
            cluster.relay_mut(name).spawn();
        }
        for name in &names {
            cluster.relay_mut(name).until_ready().await;
        }
        cluster.until_all_linked().await;
        let mut clients = BTreeMap::new();
        for unit in UNITS {
            let address = cluster.relay(&format!("{unit}-1")).grpc();
            clients.insert(unit, Client::connect(&address).await.service("app.Ledger"));
        }
        Self {
            cluster,
            apps: apps.into_iter().collect(),
            clients,
        }
    }

    /// Adds an entry to a key, from a unit.
    async fn add(&self, from: &str, key: &str, entry: &str) -> Result<(), Status> {
        add(&self.clients[from], key, entry, None).await
    }

    /// The entries of a key at its owner, or at a unit.
    async fn entries(&self, key: &str, unit: Option<&str>) -> Vec<String> {
        let named = format!("cid={key}");
        let place = unit.map_or(("strait-key", named.as_str()), |unit| ("strait-unit", unit));
        let mut asked = request(Bytes::new(), &[place, ("x-key", key)]);
        asked.set_timeout(LIMIT);
        let answer = self.clients["c"].unary("Entries", asked).await.unwrap();
        serde_json::from_slice(answer.get_ref()).unwrap()
    }

    /// Begins the move of a key at a relay.
    async fn begin(&self, at: &str, key: &str, to: &str, options: &Value) -> String {
        let what = json!([{ "node": { "key": { "dimension": "cid", "key": key } } }]);
        let command = json!({ "ask": "move", "what": what, "to": to, "options": options });
        let plan = ask(self.cluster.relay(at), &command).await;
        plan["plan"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{plan}"))
            .to_owned()
    }

    async fn row(&self, at: &str, id: &str) -> Value {
        let answer = ask(self.cluster.relay(at), &json!({ "ask": "moves", "id": id })).await;
        answer["moves"][0].clone()
    }

    /// Waits until each node of a move is where it stays.
    async fn until_over(&self, at: &str, id: &str) -> Value {
        wait_for("the move to be over", LIMIT, async || {
            let row = self.row(at, id).await;
            (row["state"] == "trailing" || row["state"] == "finished").then_some(row)
        })
        .await
    }
}

async fn add(client: &Client, key: &str, entry: &str, slow: Option<(Duration, &str)>) -> Result<(), Status> {
    let named = format!("cid={key}");
    let mut fields = vec![("strait-key", named.as_str()), ("x-key", key)];
    let (timeout, delay) = slow.unwrap_or((Duration::from_secs(30), "0"));
    fields.push(("x-delay-ms", delay));
    let mut asked = request(Bytes::copy_from_slice(entry.as_bytes()), &fields);
    asked.set_timeout(timeout);
    client.unary("Add", asked).await.map(drop)
}

/// The first writer claims a conversation; the application is asked when it moves.
fn conversations() -> toml::Value {
    let text = r#"
        name = "cid"
        placement = "claim"
        hooks = { service = "app.OwnerControl", lag_changes_max = 100 }
    "#;
    toml::Value::Table(text.parse().unwrap())
}

/// Adds entries to all keys until it is stopped, some of them by calls whose callers give up long before the service is done.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(usize, String)>>>,
    gave_up: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn start(world: &World, keys: usize) -> Self {
        let mut writers = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            gave_up: Arc::default(),
            tasks: JoinSet::new(),
        };
        for (number, unit) in UNITS.into_iter().enumerate() {
            for key in 0..keys {
                let client = world.clients[unit].clone();
                let (stop, acknowledged) = (writers.stop.clone(), writers.acknowledged.clone());
                let gave_up = writers.gave_up.clone();
                writers.tasks.spawn(async move {
                    let name = format!("k{key}");
                    for count in 0_u32.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let entry = format!("{unit}-{count}");
                        // Those of one unit are slow.
                        let slow = (number == 2).then_some((Duration::from_millis(150), "400"));
                        match add(&client, &name, &entry, slow).await {
                            Ok(()) => acknowledged.lock().unwrap().push((key, entry)),
                            Err(status)
                                if slow.is_some()
                                    && matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) =>
                            {
                                gave_up.fetch_add(1, Ordering::SeqCst);
                            }
                            // Its time was too short to wait for the new owner.
                            Err(status) if slow.is_some() && status.code() == Code::Unavailable => {}
                            Err(status) => panic!("{name} {entry}: {status}"),
                        }
                    }
                });
            }
        }
        writers
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn until_more(&self, more: usize) {
        let target = self.count() + more;
        wait_for("more writes", LIMIT, async || (self.count() >= target).then_some(())).await;
    }

    async fn end(self) -> Vec<(usize, String)> {
        self.stop.store(true, Ordering::SeqCst);
        within("the writers to end", LIMIT, self.tasks.join_all()).await;
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.clone()
    }
}

const KEYS: usize = 3;

// L1: what was acknowledged is at the new owner once, also what calls wrote after their callers had given up; and nothing was
// written at the old owner that the new one does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_move_with_all_that_was_ever_written() {
    let world = World::start(&[]).await;
    for key in 0..KEYS {
        world.add("a", &format!("k{key}"), "first").await.unwrap();
    }
    let writers = Writers::start(&world, KEYS);
    writers.until_more(60).await;
    let options = json!({ "freeze_budget": "20s" });
    for key in 0..KEYS {
        let at = ["b-1", "c-1", "a-2"][key % 3];
        let id = world.begin(at, &format!("k{key}"), "b", &options).await;
        let row = world.until_over(at, &id).await;
        assert_eq!((&row["moved"], &row["aborted"]), (&json!(1), &json!(0)), "{row}");
        assert_eq!(
            world.apps["b"].asked(&id),
            ["Prepare", "Copy", "Lag", "FinalSync", "Activate"]
        );
        assert_eq!(world.apps["a"].asked(&id), ["Quiesce"]);
        writers.until_more(20).await;
    }
    let gave_up = writers.gave_up.load(Ordering::SeqCst);
    let acknowledged = writers.end().await;
    assert!(gave_up > 10, "few calls outlived their callers: {gave_up}");
    // Whatever still ran at a service has had its time.
    add(&world.clients["b"], "k0", "last", Some((LIMIT, "1000")))
        .await
        .unwrap();
    for key in 0..KEYS {
        let name = format!("k{key}");
        let (old, new) = (world.entries(&name, Some("a")).await, world.entries(&name, None).await);
        assert!(
            old.len() > 10 && new.len() > old.len(),
            "{} of {}",
            old.len(),
            new.len()
        );
        assert_eq!(
            new[..old.len()],
            old[..],
            "{name}: something was written behind the back of the move"
        );
        let different: BTreeSet<_> = new.iter().collect();
        assert_eq!(different.len(), new.len(), "{name}: an entry came twice");
        let lost = acknowledged
            .iter()
            .filter(|(of, entry)| *of == key && !different.contains(entry));
        assert_eq!(lost.count(), 0, "{name}: acknowledged and not there");
    }
    let metrics = world.cluster.relay("b-1").metrics().await;
    assert!(metrics.sum("strait_moves_nodes_total", &[("end", "moved")]) >= 1.0);
    assert!(metrics.sum("strait_moves_pause_seconds_count", &[]) >= 1.0);
    assert!(metrics.sum("strait_moves_hooks_total", &[("hook", "quiesce")]) >= 1.0);
    eprintln!("{} acknowledged, {gave_up} outlived their callers", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_refuses_keeps_its_key_and_only_relays_may_ask_it() {
    let world = World::start(&[]).await;
    world.add("a", "k0", "first").await.unwrap();
    world.apps["b"].put("full");
    let id = world.begin("c-1", "k0", "b", &json!({})).await;
    let row = world.until_over("b-1", &id).await;
    assert_eq!((&row["moved"], &row["aborted"]), (&json!(0), &json!(1)), "{row}");
    let said = row["note"]["said"].as_str().unwrap_or_default();
    assert!(said.starts_with("refused: ") && said.contains("no room"), "{row}");
    let history = ask(
        world.cluster.relay("a-1"),
        &json!({ "ask": "history", "dimension": "cid", "key": "k0", "limit": 1 }),
    )
    .await;
    let reason = history["history"]["nodes"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("prepare at unit b refused") && reason.contains("no room"),
        "{reason}"
    );
    assert_eq!(world.apps["b"].asked(&id), ["Prepare", "Cleanup"]);
    assert_eq!(world.apps["a"].asked(&id), ["Activate"]);
    world.add("b", "k0", "second").await.unwrap();
    assert_eq!(world.entries("k0", Some("a")).await, ["first", "second"]);
    let metrics = world.cluster.relay("c-1").metrics().await;
    assert_eq!(metrics.sum("strait_moves_nodes_total", &[("end", "hook")]), 1.0);
    assert_eq!(metrics.sum("strait_moves_ended_total", &[("end", "none_moved")]), 1.0);

    // Whoever is no relay is refused by one, of its own unit and of another.
    for (from, to) in [("a", "a"), ("c", "b")] {
        let client = world.clients[from].clone().service("app.OwnerControl");
        let forged = [("strait-unit", to), ("strait-source-service", "strait.relay")];
        let refused = client
            .unary("Prepare", request(Bytes::new(), &forged))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let asked_by_id = world.apps["b"].asked.lock().unwrap().len();
    assert_eq!(asked_by_id, 2, "nothing else reached the application");

    // When there is room it moves.
    world.apps["b"].remove("full");
    let id = world.begin("c-1", "k0", "b", &json!({ "freeze_budget": "20s" })).await;
    assert_eq!(world.until_over("c-1", &id).await["moved"], 1);
    assert_eq!(world.entries("k0", None).await, ["first", "second"]);
}

// R-I11: the relay that drives is killed while the application copies; another one asks again and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_relay_goes_on_when_the_one_that_asks_is_killed() {
    let mut world = World::start(&[]).await;
    for count in 0..50 {
        world.add("a", "k0", &count.to_string()).await.unwrap();
    }
    world.apps["b"].put("pause");
    let id = world.begin("c-1", "k0", "b", &json!({ "freeze_budget": "20s" })).await;
    wait_for("the application to be asked how far it is", LIMIT, async || {
        world.apps["b"].asked(&id).contains(&"Lag".to_owned()).then_some(())
    })
    .await;
    let said = wait_for("operators to see it", LIMIT, async || {
        let row = world.row("b-1", &id).await;
        row["note"]["said"].as_str().map(ToOwned::to_owned)
    })
    .await;
    assert_eq!(said, "the copy has not come round once");
    world.cluster.relay_mut("c-1").kill();
    let driver = wait_for("another relay to drive", LIMIT, async || {
        let row = world.row("b-1", &id).await;
        (row["driver"]["unit"] != "c").then(|| row["driver"].clone())
    })
    .await;
    world.add("a", "k0", "50").await.unwrap();
    world.apps["b"].remove("pause");
    let row = world.until_over("b-1", &id).await;
    assert_eq!((&row["moved"], &row["driver"]), (&json!(1), &driver), "{row}");
    world.cluster.relay_mut("c-1").start().await;
    world.cluster.until_all_linked().await;
    world.clients.insert(
        "c",
        Client::connect(&world.cluster.relay("c-1").grpc())
            .await
            .service("app.Ledger"),
    );
    let expected: Vec<_> = (0..=50).map(|count| count.to_string()).collect();
    assert_eq!(world.entries("k0", None).await, expected);
    assert_eq!(world.entries("k0", Some("b")).await, expected);
}

// R-I2, L0: a relay is killed while a service writes for it, and starts again at once. It does not say that nothing is under way
// before that write has had its time, and the key is not frozen before, so the move comes through with the usual freeze budget (R-3.9 S3,
// R-I12). After an orderly end it does so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_starts_again_waits_for_what_it_had_let_through() {
    let mut world = World::start(&[("routes.in_flight_max", "12s".into())]).await;
    let options = json!({ "hooks": false });
    for key in ["k0", "k1"] {
        world.add("a", key, "first").await.unwrap();
    }
    let began = tokio::time::Instant::now();
    world.cluster.relay_mut("a-2").terminate().await;
    world.cluster.relay_mut("a-2").start().await;
    let id = world.begin("b-1", "k1", "b", &options).await;
    assert_eq!(world.until_over("b-1", &id).await["moved"], 1);
    let orderly = began.elapsed();

    let own = Client::connect(&world.cluster.relay("a-2").grpc())
        .await
        .service("app.Ledger");
    let mut write = Box::pin(add(&own, "k0", "slow", Some((LIMIT, "6000"))));
    // It is at the service when a question about its key has to wait for it.
    let running = async {
        wait_for("the write to be under way", LIMIT, async || {
            let metrics = world.cluster.relay("a-2").metrics().await;
            (metrics.sum("strait_delivery_in_flight_calls", &[("service", "app.Ledger")]) > 0.0).then_some(())
        })
        .await;
    };
    tokio::select! {
        ended = &mut write => panic!("{ended:?}"),
        () = running => {}
    }
    world.cluster.relay_mut("a-2").kill();
    assert!(write.await.is_err());
    world.cluster.relay_mut("a-2").start().await;
    let began = tokio::time::Instant::now();
    let id = world.begin("b-1", "k0", "b", &options).await;
    wait_for("the move to say whom it waits for", LIMIT, async || {
        let row = world.row("b-1", &id).await;
        assert!(
            row["under_way"].to_string().contains("migrating") || row["under_way"] == json!([]),
            "{row}"
        );
        (row["waits_for"] == json!({ "unit": "a", "relay": "a-2" })).then_some(())
    })
    .await;
    let row = world.until_over("b-1", &id).await;
    assert_eq!((&row["moved"], &row["waits_for"]), (&json!(1), &Value::Null));
    let took = began.elapsed();
    // Nothing was copied, for nobody was asked; what counts is that the old owner had ended before the new one began.
    assert_eq!(world.entries("k0", Some("a")).await, ["first", "slow"]);
    assert!(
        orderly < took,
        "after an orderly end {orderly:?}, after a crash {took:?}"
    );
    eprintln!("after an orderly end {orderly:?}, after a crash {took:?}");
}
