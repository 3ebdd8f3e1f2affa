//! R-I5: keys that nobody decided about belong to whoever claims them first, and calls go on without the store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use toml::{Table, Value};
use tonic::Status;

use crate::harness::{Cluster, ClusterBuilder, Etcd, http_get, wait_for};
use crate::services::{Client, Echo, request};

pub const UNITS: [&str; 3] = ["a", "b", "c"];
const LIMIT: Duration = Duration::from_secs(30);

/// Relays of units `a`, `b` and `c` of one Geo with an echo service each. Relay `a-1` has the routes, `a-2` asks for them as those
/// of other units do; conversations are claimed.
pub struct World {
    pub cluster: Cluster,
    clients: BTreeMap<&'static str, Client>,
    echoes: BTreeMap<&'static str, Echo>,
}

impl World {
    pub async fn start(settings: &[(&str, Value)]) -> Self {
        Self::start_with(Cluster::builder().routes_at("a-1"), settings).await
    }

    /// The same, with the routes in etcd.
    pub async fn start_below(etcd: &Etcd, settings: &[(&str, Value)]) -> Self {
        let endpoints: Vec<_> = etcd.addresses().into_iter().map(Value::from).collect();
        let store = [
            ("routes.store", "etcd".into()),
            ("routes.etcd.endpoints", endpoints.into()),
        ];
        Self::start_with(Cluster::builder(), &[&store, settings].concat()).await
    }

    async fn start_with(builder: ClusterBuilder, settings: &[(&str, Value)]) -> Self {
        let all = |unit: &str, builder: ClusterBuilder| {
            let set = |builder: ClusterBuilder, (key, value): &(&str, Value)| builder.set(unit, key, value.clone());
            settings.iter().fold(builder, set)
        };
        Self::start_each(builder, all).await
    }

    /// The same, with settings that differ from unit to unit.
    pub async fn start_with_units(settings: impl Fn(&str, ClusterBuilder) -> ClusterBuilder) -> Self {
        Self::start_each(Cluster::builder().routes_at("a-1"), settings).await
    }

    async fn start_each(
        mut builder: ClusterBuilder,
        settings: impl Fn(&str, ClusterBuilder) -> ClusterBuilder,
    ) -> Self {
        let mut echoes = BTreeMap::new();
        for unit in UNITS {
            let echo = Echo::start();
            builder = builder
                .unit_in("geo", unit, if unit == "a" { 2 } else { 1 })
                .service(unit, "im.Echo", &[echo.endpoint()])
                .set(unit, "routing.dimensions", vec![Value::from("uid"), Value::from("cid")])
                .set(unit, "routes.dimension", vec![conversations()])
                .set(unit, "peer.keep_alive", "500ms")
                .set(unit, "peer.idle_timeout", "3s");
            builder = settings(unit, builder);
            echoes.insert(unit, echo);
        }
        let cluster = builder.start().await;
        let mut clients = BTreeMap::new();
        for unit in UNITS {
            let address = cluster.relay(&format!("{unit}-1")).grpc();
            clients.insert(unit, Client::connect(&address).await);
        }
        Self {
            cluster,
            clients,
            echoes,
        }
    }

    /// A client of the relay of a unit.
    pub fn client(&self, unit: &str) -> Client {
        self.clients[unit].clone()
    }

    /// Calls that services have served.
    pub fn served(&self) -> u64 {
        UNITS.iter().map(|unit| self.served_by(unit)).sum()
    }

    /// Calls that the service of a unit has served.
    pub fn served_by(&self, unit: &str) -> u64 {
        self.echoes[unit].seen.get(|seen| &seen.opened)
    }

    /// Connects to the relay of a unit anew, after it was started anew.
    pub async fn reconnect(&mut self, unit: &'static str) {
        let client = Client::connect(&self.cluster.relay(&format!("{unit}-1")).grpc()).await;
        self.clients.insert(unit, client);
    }

    /// Calls with a key at the relay of a unit; answers which unit served it.
    pub async fn call(&self, from: &str, key: &str) -> Result<String, Status> {
        call(self.clients[from].clone(), key.to_owned()).await
    }
}

pub async fn call(client: Client, key: String) -> Result<String, Status> {
    let mut asked = request(Bytes::from_static(b"m"), &[("strait-key", key.as_str())]);
    asked.set_timeout(Duration::from_secs(10));
    let answer = client.unary("Unary", asked).await?;
    let unit = answer.metadata().get("strait-unit").expect("who served it");
    Ok(unit.to_str().unwrap().to_owned())
}

/// All units want these keys at once; each key has one owner, be it the one it had. Who is told that the store is away asks again.
async fn claim_at_once(world: &World, numbers: Range<u32>, owners: &mut BTreeMap<u32, String>) {
    let mut calls = JoinSet::new();
    for number in numbers {
        // Each unit is the first to ask for every third key, or the first in the list would win them all.
        let turn = number as usize % UNITS.len();
        let (later, first) = UNITS.split_at(turn);
        for &unit in first.iter().chain(later) {
            let client = world.clients[unit].clone();
            let key = format!("cid={number}");
            calls.spawn(async move {
                let until = Instant::now() + LIMIT;
                loop {
                    let status = match call(client.clone(), key.clone()).await {
                        Ok(served) => return (number, served),
                        Err(status) => status,
                    };
                    let said = status
                        .metadata()
                        .get("strait-error")
                        .and_then(|said| said.to_str().ok());
                    let is_away = said.is_some_and(|said| said.starts_with("routes_away"));
                    assert!(is_away && Instant::now() < until, "{key} from {unit}: {status}");
                }
            });
        }
    }
    while let Some(ended) = calls.join_next().await {
        let (number, served) = ended.unwrap();
        let owner = owners.entry(number).or_insert_with(|| served.clone());
        assert_eq!(*owner, served, "two owners of key {number}");
    }
}

/// The first writer claims a conversation.
fn conversations() -> Value {
    let mut table = Table::new();
    table.insert("name".to_owned(), "cid".into());
    table.insert("placement".to_owned(), "claim".into());
    Value::Table(table)
}

// a relay that knows no more that its unit owns a key says so, and does not keep the caller until its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_lease_says_so_before_the_caller_gives_up() {
    let mut table = Table::new();
    for (key, value) in [("name", "cid"), ("placement", "claim"), ("owner_lease", "7s")] {
        table.insert(key.to_owned(), value.into());
    }
    let mut world = World::start(&[("routes.dimension", vec![Value::Table(table)].into())]).await;
    assert_eq!(world.call("b", "cid=1").await.unwrap(), "b");
    world.cluster.relay_mut("a-1").kill();
    let refused = wait_for("the lease to end", LIMIT, async || world.call("b", "cid=1").await.err()).await;
    let said = refused
        .metadata()
        .get("strait-error")
        .and_then(|said| said.to_str().ok());
    assert!(said.is_some_and(|said| said.starts_with("no_lease")), "{refused}");
}

// R-I5: all units want the same new keys at once; each key has one owner, all agree on it, and it stays after restarts.
#[tokio::test(flavor = "multi_thread")]
async fn new_keys_belong_to_one_unit_whoever_asks() {
    let mut world = World::start(&[]).await;
    // Whoever asks alone has it.
    let mut owners: BTreeMap<u32, String> = BTreeMap::new();
    for (number, unit) in (0..6).zip(UNITS.iter().cycle()) {
        let served = world.call(unit, &format!("cid={number}")).await.unwrap();
        assert_eq!(served, *unit);
        owners.insert(number, served);
    }
    claim_at_once(&world, 0..40, &mut owners).await;
    // Rules go on as before.
    assert_eq!(world.call("a", "uid=c:1").await.unwrap(), "c");

    // the relay with the routes is away: keys with owners are served, by relays that remember and by one that starts
    // anew from the copy that it kept; new keys are refused, and nobody makes one up.
    let known: Vec<_> = owners.iter().filter(|(_, owner)| *owner != "a").collect();
    world.cluster.relay_mut("a-1").kill();
    for (number, owner) in &known {
        let served = world.call("b", &format!("cid={number}")).await;
        assert_eq!(served.unwrap(), **owner);
    }
    let refused = world.call("b", "cid=new").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    let said = refused.metadata().get("strait-error").unwrap().to_str().unwrap();
    assert!(said.starts_with("routes_away"), "{said}");

    world.cluster.relay_mut("a-1").start().await;
    world.cluster.until_all_linked().await;
    world.reconnect("a").await;
    for (number, owner) in &owners {
        for unit in UNITS {
            let served = world.call(unit, &format!("cid={number}")).await;
            assert_eq!(served.unwrap(), *owner, "key {number} from {unit}");
        }
    }
    wait_for("the new key to have an owner", LIMIT, async || {
        world.call("c", "cid=new").await.ok()
    })
    .await;
}

// R-I5, below three members of etcd: also while the one that leads is killed, each key has one owner; those that have one are
// served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn new_keys_belong_to_one_unit_below_etcd_whoever_is_killed() {
    let mut etcd = Etcd::start().await;
    let world = World::start_below(&etcd, &[]).await;
    let mut owners = BTreeMap::new();
    claim_at_once(&world, 0..40, &mut owners).await;
    let killed = etcd.kill_leader().await;
    for (number, owner) in &owners {
        let served = world.call("b", &format!("cid={number}")).await;
        assert_eq!(served.unwrap(), *owner, "key {number}");
    }
    claim_at_once(&world, 40..80, &mut owners).await;
    etcd.restart(killed);
    etcd.until_whole().await;
    claim_at_once(&world, 0..100, &mut owners).await;
    // Whether units have raced is for chance: more keys are asked for until a second unit has won one.
    let raced = |owners: &BTreeMap<u32, String>| owners.values().any(|owner| *owner != owners[&0]);
    let mut next = 100;
    let until = Instant::now() + LIMIT;
    while !raced(&owners) {
        assert!(
            Instant::now() < until,
            "one unit has been faster every time: {owners:?}"
        );
        claim_at_once(&world, next..next + 30, &mut owners).await;
        next += 30;
    }
}

// O-S2: a relay that has no routes takes no lines; who asks it is told what is wrong, and is not ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_routes_refuses_those_who_ask_for_them() {
    let builder = Cluster::builder()
        .routes_at("a-1")
        .unit_in("geo", "a", 1)
        .unit_in("geo", "b", 1)
        .set("a", "routes.store", "none");
    let mut cluster = builder.prepare();
    cluster.relay_mut("a-1").start().await;
    cluster.relay_mut("b-1").spawn();
    let asked = cluster.relay("b-1").admin();
    wait_for("the relay to say what it waits for", LIMIT, async || {
        let (status, body) = http_get(&asked, "/readyz").await.ok()?;
        (status == 503 && body.contains("waiting for the route store")).then_some(())
    })
    .await;
    let metrics = cluster.relay("a-1").metrics().await;
    let refused = [("direction", "accepted"), ("reason", "wrong_alpn")];
    assert!(metrics.sum("strait_peer_refused_total", &refused) > 0.0);
    let log = cluster.relay("b-1").log();
    assert!(log.contains("does not have the routes"), "{log}");
}
