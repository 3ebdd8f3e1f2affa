//! Relays below etcd, each with a service of its own, and what can be done to them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::client::Client;
use crate::harness::{Cluster, Etcd, http_post_body, wait_for};
use crate::ledger::Ledger;
use crate::plan::{Blow, Target};
use crate::shop::{self, Shop};

/// Unit and name of each relay. A unit with two: a move waits for both.
pub const RELAYS: [(&str, &str); 4] = [("a", "a-1"), ("a", "a-2"), ("b", "b-1"), ("c", "c-1")];
/// Units of one Geo.
pub const UNITS: [&str; 3] = ["a", "b", "c"];
/// The lease of orders; that of conversations never ends.
pub const LEASE: Duration = Duration::from_secs(7);
/// How long a call of an order may run.
pub const IN_FLIGHT_MAX: Duration = Duration::from_secs(2);
/// Until something that must come has come.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where the routes are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// In three members of etcd.
    Etcd,
    /// In a file of relay `a-1`.
    Embedded,
}

impl Kept {
    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd with three members",
            Self::Embedded => "embedded",
        }
    }
}

/// Everything that runs.
pub struct Stage {
    /// Relays.
    pub cluster: Cluster,
    etcd: Option<Etcd>,
    /// What services do.
    pub ledger: Ledger,
    /// Keys, as `(dimension, key)`.
    pub keys: Vec<(&'static str, String)>,
    _shops: Vec<Shop>,
}

impl Stage {
    /// Starts all of it, with the routes in etcd.
    pub async fn start(keys: usize) -> Self {
        Self::start_with(Kept::Etcd, keys).await
    }

    /// Starts all of it.
    pub async fn start_with(kept: Kept, keys: usize) -> Self {
        let mut builder = Cluster::builder();
        let mut etcd = None;
        match kept {
            Kept::Etcd => {
                let members = Etcd::start().await;
                let endpoints: Vec<_> = members.addresses().into_iter().map(Value::from).collect();
                for unit in UNITS {
                    builder =
                        builder
                            .set(unit, "routes.store", "etcd")
                            .set(unit, "routes.etcd.endpoints", endpoints.clone());
                }
                etcd = Some(members);
            }
            Kept::Embedded => builder = builder.routes_at(RELAYS[0].1),
        }
        for unit in UNITS {
            builder = builder
                .unit_in("geo", unit, if unit == "a" { 2 } else { 1 })
                .set(
                    unit,
                    "routing.dimensions",
                    ["uid", "cid", "oid"].map(Value::from).to_vec(),
                )
                .set(unit, "routes.in_flight_max", "2s")
                .set(
                    unit,
                    "routes.dimension",
                    vec![claimed("cid", "infinite"), claimed("oid", "7s")],
                )
                .set(unit, "peer.keep_alive", "500ms")
                .set(unit, "peer.idle_timeout", "3s");
        }
        let mut cluster = builder.prepare();
        let ledger = Ledger::default();
        let mut shops = Vec::new();
        for (at, (_, name)) in RELAYS.iter().enumerate() {
            let shop = Shop::start(at, ledger.clone());
            serve_at(cluster.relay(name), &shop.endpoint());
            shops.push(shop);
        }
        for (_, name) in RELAYS {
            cluster.relay_mut(name).spawn();
        }
        for (_, name) in RELAYS {
            cluster.relay_mut(name).until_ready().await;
        }
        cluster.until_all_linked().await;
        let key = |at: usize| (if at.is_multiple_of(2) { "cid" } else { "oid" }, format!("m{at}"));
        Self {
            cluster,
            etcd,
            ledger,
            keys: (0..keys).map(key).collect(),
            _shops: shops,
        }
    }

    /// The members of etcd.
    pub fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().expect("the routes are in etcd")
    }

    fn etcd_mut(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the routes are in etcd")
    }

    /// A client of a relay.
    pub async fn client(&self, relay: usize) -> Client {
        Client::connect(&self.cluster.relay(RELAYS[relay].1).grpc())
            .await
            .service(shop::NAME)
    }

    /// Whether the lease of a key ends.
    pub fn is_finite(&self, key: usize) -> bool {
        self.keys[key].0 == "oid"
    }

    /// Operators' addresses, by relay.
    pub fn admins(&self) -> Vec<String> {
        RELAYS
            .iter()
            .map(|(_, name)| self.cluster.relay(name).admin())
            .collect()
    }

    /// Asks an operators' address until it answers.
    pub async fn insist(&self, relay: usize, command: &Json) -> Json {
        let admin = self.cluster.relay(RELAYS[relay].1).admin();
        wait_for(&format!("an answer to {command}"), LIMIT, async || {
            ask(&admin, command).await.ok().filter(|(status, _)| *status != 503)
        })
        .await
        .1
    }

    /// Hits somebody. Answers who it was, if that was to be found out.
    pub async fn hit(&mut self, target: Target, blow: Blow) -> Target {
        match target {
            Target::Relay(at) => {
                let relay = self.cluster.relay_mut(RELAYS[at].1);
                match blow {
                    Blow::Kill(_) => relay.kill(),
                    Blow::Stop(_) => relay.signal("STOP"),
                }
                target
            }
            Target::Member(at) => {
                match blow {
                    Blow::Kill(_) => self.etcd_mut().kill(at),
                    Blow::Stop(_) => self.etcd().signal(at, "STOP"),
                }
                target
            }
            Target::Leader => {
                let leader = Target::Member(self.etcd().leader().await);
                Box::pin(self.hit(leader, blow)).await
            }
        }
    }

    /// Undoes it.
    pub fn mend(&mut self, target: Target, blow: Blow) {
        match (target, blow) {
            (Target::Relay(at), Blow::Kill(_)) => self.cluster.relay_mut(RELAYS[at].1).spawn(),
            (Target::Relay(at), Blow::Stop(_)) => self.cluster.relay(RELAYS[at].1).signal("CONT"),
            (Target::Member(at), Blow::Kill(_)) => self.etcd_mut().restart(at),
            (Target::Member(at), Blow::Stop(_)) => self.etcd().signal(at, "CONT"),
            (Target::Leader, _) => {}
        }
    }

    /// Waits until every relay is ready.
    pub async fn until_ready(&mut self) {
        for (_, name) in RELAYS {
            self.cluster.relay_mut(name).until_ready().await;
        }
    }

    /// Who owns each key, by the store, as one relay says; nothing is under way.
    pub async fn owners(&self, relay: usize) -> Vec<(String, u64)> {
        let mut owners = Vec::with_capacity(self.keys.len());
        for (dimension, key) in &self.keys {
            let answer = self
                .insist(relay, &json!({ "ask": "get", "dimension": dimension, "key": key }))
                .await;
            let found = &answer["key"]["explanation"];
            assert!(found["frozen"].is_null(), "{dimension}={key} is frozen: {answer}");
            let state = answer["key"]["node"]["state"].as_str();
            assert!(
                state.is_none_or(|state| state == "active"),
                "{dimension}={key}: {answer}"
            );
            let owner = found["owner"].as_str().map(ToOwned::to_owned);
            owners.push((owner.expect("an owner"), found["epoch"].as_u64().unwrap()));
        }
        owners
    }

    /// R-I11: waits until every move has ended, and nothing is under way.
    pub async fn until_moves_end(&self, relay: usize) -> Vec<Json> {
        wait_for("all moves to end", LIMIT, async || {
            let answer = self.insist(relay, &json!({ "ask": "moves", "id": null })).await;
            let rows = answer["moves"].as_array().expect("moves").clone();
            let is_over = |row: &Json| {
                row["left"] == 0 && row["under_way"].as_array().is_some_and(Vec::is_empty) && row["state"] != "running"
            };
            rows.iter().all(is_over).then_some(rows)
        })
        .await
    }
}

/// Asks once; status and answer.
pub async fn ask(admin: &str, command: &Json) -> Result<(u16, Json), String> {
    let text = command.to_string();
    let asked = tokio::time::timeout(ASK_LIMIT, http_post_body(admin, "/routes", &text)).await;
    let (status, body) = asked
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let answer = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    Ok((status, answer))
}

/// A relay that was stopped says nothing.
const ASK_LIMIT: Duration = Duration::from_secs(8);

/// Keys belong to the unit that writes first.
fn claimed(name: &str, lease: &str) -> Value {
    let mut table = Table::new();
    for (key, value) in [("name", name), ("placement", "claim"), ("owner_lease", lease)] {
        table.insert(key.to_owned(), value.into());
    }
    Value::Table(table)
}

/// Gives a relay the service.
fn serve_at(relay: &crate::harness::Relay, endpoint: &str) {
    let mut config: Table = fs::read_to_string(relay.config()).unwrap().parse().unwrap();
    let text = format!("[\"{}\"]\nendpoints = [\"{endpoint}\"]\n", shop::NAME);
    config.insert("services".to_owned(), Value::Table(text.parse().unwrap()));
    fs::write(relay.config(), config.to_string()).unwrap();
}

/// Seconds for people.
pub fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10.0).round() / 10.0
}
