//! Several relays of several units, each trusting the others' Geos, with routes by unit name.
//!
//! Keys of the dimension `uid` belong to the unit they start with: `b:42` is a key of unit `b`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::relay::{Ports, SHARDS};
use super::{Authority, Directory, Impairer, Impairment, Leaf, Relay, wait_for};

/// Trust domain of all certificates.
pub const DOMAIN: &str = "strait.test";

/// Running relays. Field order is drop order: processes end before their files go.
pub struct Cluster {
    relays: Vec<Relay>,
    paths: BTreeMap<(String, String), Impairer>,
    authorities: BTreeMap<String, Authority>,
    /// Pairs of units of which the first dials the second.
    dialling: Vec<(String, String)>,
    directory: Directory,
}

/// What to start.
#[derive(Default)]
pub struct ClusterBuilder {
    units: Vec<Unit>,
    services: Vec<Service>,
    settings: Vec<(String, String, Value)>,
    /// The relay that has the routes.
    routes: Option<String>,
    waiting: Vec<(String, String)>,
    impaired: Option<u64>,
}

struct Unit {
    name: String,
    geo: String,
    relays: usize,
}

struct Service {
    unit: String,
    name: String,
    endpoints: Vec<String>,
}

impl ClusterBuilder {
    /// A unit with this many relays, named `<unit>-1` and so on. The Geo is `geo-<unit>`.
    pub fn unit(mut self, name: &str, relays: usize) -> Self {
        self.units.push(Unit {
            name: name.to_owned(),
            geo: format!("geo-{name}"),
            relays,
        });
        self
    }

    /// A unit with this many relays, in this Geo.
    pub fn unit_in(mut self, geo: &str, name: &str, relays: usize) -> Self {
        self.units.push(Unit {
            name: name.to_owned(),
            geo: geo.to_owned(),
            relays,
        });
        self
    }

    /// All relays use the embedded route store of this one.
    pub fn routes_at(mut self, relay: &str) -> Self {
        self.routes = Some(relay.to_owned());
        self
    }

    /// A local service of a unit.
    pub fn service(mut self, unit: &str, name: &str, endpoints: &[String]) -> Self {
        self.services.push(Service {
            unit: unit.to_owned(),
            name: name.to_owned(),
            endpoints: endpoints.to_vec(),
        });
        self
    }

    /// Any further setting of the relays of a unit, such as `ingress.grpc.headers_max`. A part with dots
    /// in it is quoted as in TOML: `services."im.Echo".timeout`.
    pub fn set(mut self, unit: &str, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((unit.to_owned(), key.to_owned(), value.into()));
        self
    }

    /// `from` never dials `to`, it waits for connections of `to` (C-L5).
    pub fn waits_for(mut self, from: &str, to: &str) -> Self {
        self.waiting.push((from.to_owned(), to.to_owned()));
        self
    }

    /// All paths between units lead through impairers with seeds derived from this one.
    pub fn impaired(mut self, seed: u64) -> Self {
        self.impaired = Some(seed);
        self
    }

    /// Writes certificates and configurations, starts the processes, waits until all are ready and linked.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        for relay in &mut cluster.relays {
            relay.spawn();
        }
        for relay in &mut cluster.relays {
            relay.until_ready().await;
        }
        cluster.until_all_linked().await;
        cluster
    }

    /// Writes all files without starting a process.
    pub fn prepare(self) -> Cluster {
        let directory = Directory::new();
        let mut cluster = Cluster {
            relays: Vec::new(),
            paths: BTreeMap::new(),
            authorities: BTreeMap::new(),
            dialling: self.dialling(),
            directory,
        };
        let mut ports = Vec::new();
        for unit in &self.units {
            let authorities = &mut cluster.authorities;
            authorities
                .entry(unit.geo.clone())
                .or_insert_with(|| Authority::new(&unit.geo));
            for number in 1..=unit.relays {
                let name = format!("{}-{number}", unit.name);
                let home = cluster.directory.path().join(&name);
                fs::create_dir_all(home.join("data")).unwrap();
                let own = Ports::free();
                ports.push(own);
                cluster.relays.push(Relay::new(&unit.name, &name, home, own));
            }
        }
        self.make_paths(&mut cluster, &ports);
        for relay in &cluster.relays {
            self.write_files(relay, &cluster);
        }
        cluster
    }

    fn dialling(&self) -> Vec<(String, String)> {
        let names: Vec<&String> = self.units.iter().map(|unit| &unit.name).collect();
        let pairs = names
            .iter()
            .flat_map(|from| names.iter().map(|to| ((*from).clone(), (*to).clone())));
        pairs
            .filter(|(from, to)| from != to && !self.waiting.contains(&(from.clone(), to.clone())))
            .collect()
    }

    fn make_paths(&self, cluster: &mut Cluster, ports: &[Ports]) {
        let Some(mut seed) = self.impaired else { return };
        for from in &cluster.relays {
            for (to, to_ports) in cluster.relays.iter().zip(ports) {
                if from.unit != to.unit {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let path = Impairer::start(([127, 0, 0, 1], to_ports.peer).into(), seed);
                    cluster.paths.insert((from.name.clone(), to.name.clone()), path);
                }
            }
        }
    }

    fn write_files(&self, relay: &Relay, cluster: &Cluster) {
        let unit = self.units.iter().find(|unit| unit.name == relay.unit).unwrap();
        let home = relay.directory();
        let leaf = Leaf::relay(DOMAIN, &unit.geo, &unit.name, &relay.name);
        cluster.authorities[&unit.geo].issue(&leaf, home, "relay");
        let mut config = relay.base_config(&unit.geo, DOMAIN);
        for (geo, authority) in &cluster.authorities {
            let file = format!("ca-{geo}.pem");
            authority.write_bundle(&home.join(&file));
            put(&mut config, &format!("peer.trust.{geo}"), file);
        }
        for other in self.units.iter().filter(|other| other.name != unit.name) {
            put(
                &mut config,
                &format!("units.{}", other.name),
                self.link(relay, other, cluster),
            );
        }
        for service in self.services.iter().filter(|service| service.unit == unit.name) {
            let endpoints: Vec<Value> = service.endpoints.iter().map(|e| Value::from(e.as_str())).collect();
            put(
                &mut config,
                &format!("services.\"{}\".endpoints", service.name),
                endpoints,
            );
        }
        put(&mut config, "routing", self.routing());
        if let Some(authority) = self.routes.as_ref().map(|name| cluster.relay(name)) {
            put(&mut config, "routes.store", "embedded");
            put(
                &mut config,
                "routes.authority",
                format!("{}/{}", authority.unit, authority.name),
            );
            let path = cluster.paths.get(&(relay.name.clone(), authority.name.clone()));
            let address = path.map_or_else(|| authority.peer(), |path| path.address().to_string());
            put(&mut config, "routes.authority_addresses", vec![Value::from(address)]);
        }
        for (_, key, value) in self.settings.iter().filter(|(name, _, _)| *name == unit.name) {
            put(&mut config, key, value.clone());
        }
        fs::write(relay.config(), config.to_string()).unwrap();
    }

    /// What a relay says about another unit.
    fn link(&self, from: &Relay, to: &Unit, cluster: &Cluster) -> Table {
        let mut relays = Vec::new();
        for peer in cluster.relays.iter().filter(|peer| peer.unit == to.name) {
            let path = cluster.paths.get(&(from.name.clone(), peer.name.clone()));
            let address = path.map_or_else(|| peer.peer(), |path| path.address().to_string());
            let mut table = Table::new();
            put(&mut table, "name", peer.name.as_str());
            put(&mut table, "addresses", vec![Value::from(address)]);
            relays.push(Value::Table(table));
        }
        let waits = self.waiting.iter().any(|(f, t)| *f == from.unit && *t == to.name);
        let mut table = Table::new();
        put(&mut table, "geo", to.geo.as_str());
        put(&mut table, "dial", !waits);
        put(&mut table, "relays", relays);
        table
    }

    fn routing(&self) -> Table {
        let rule = |unit: &Unit| {
            let mut rule = Table::new();
            put(&mut rule, "dimension", "uid");
            put(&mut rule, "prefix", format!("{}:", unit.name));
            put(&mut rule, "unit", unit.name.as_str());
            Value::Table(rule)
        };
        let mut table = Table::new();
        put(&mut table, "dimensions", vec![Value::from("uid")]);
        put(&mut table, "rules", self.units.iter().map(rule).collect::<Vec<_>>());
        table
    }
}

impl Cluster {
    /// Says what to start.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// Units `a` and `b` with one relay each; `b` serves `im.Echo` at this endpoint, and `a` knows the
    /// service without serving it.
    pub fn pair(endpoint: &str) -> ClusterBuilder {
        Self::builder()
            .unit("a", 1)
            .unit("b", 1)
            .service("b", "im.Echo", &[endpoint.to_owned()])
    }

    /// A relay by its name.
    pub fn relay(&self, name: &str) -> &Relay {
        self.relays
            .iter()
            .find(|relay| relay.name == name)
            .expect("no such relay")
    }

    /// A relay by its name, to start or stop it.
    pub fn relay_mut(&mut self, name: &str) -> &mut Relay {
        self.relays
            .iter_mut()
            .find(|relay| relay.name == name)
            .expect("no such relay")
    }

    /// All relays.
    pub fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// The authority of a unit's Geo.
    pub fn authority(&self, unit: &str) -> &Authority {
        &self.authorities[&format!("geo-{unit}")]
    }

    /// The directory of the whole cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path that connections dialled by one relay to another take; needs `impaired`.
    pub fn path(&self, from: &str, to: &str) -> &Impairer {
        &self.paths[&(from.to_owned(), to.to_owned())]
    }

    /// Makes all paths equally bad.
    pub fn impair(&self, wrong: Impairment) {
        for path in self.paths.values() {
            path.set_both(wrong);
        }
    }

    /// Cuts or mends all paths.
    pub fn partition(&self, partitioned: bool) {
        for path in self.paths.values() {
            path.partition_both(partitioned);
        }
    }

    /// Waits until each relay has all its links to each other unit.
    pub async fn until_all_linked(&self) {
        for relay in &self.relays {
            let units: BTreeSet<&String> = self.relays.iter().map(|peer| &peer.unit).collect();
            for unit in units.into_iter().filter(|unit| **unit != relay.unit) {
                self.until_linked(&relay.name, unit).await;
            }
        }
    }

    /// Waits until a relay has a link on each of its shards to each relay of a unit, and those the unit
    /// opened.
    pub async fn until_linked(&self, from: &str, unit: &str) {
        let own = &self.relay(from).unit;
        let peers = self.relays.iter().filter(|peer| peer.unit == unit).count();
        let dials = |pair: (&String, &str)| self.dialling.iter().any(|(from, to)| from == pair.0 && to == pair.1);
        let directions = usize::from(dials((own, unit))) + usize::from(dials((&unit.to_owned(), own)));
        let wanted = (SHARDS * peers * directions) as f64;
        self.until_links(from, unit, &format!("{wanted} links"), |links| links >= wanted)
            .await;
    }

    /// Waits until a relay has no link to a unit left.
    pub async fn until_unlinked(&self, from: &str, unit: &str) {
        self.until_links(from, unit, "no link", |links| links == 0.0).await;
    }

    async fn until_links(&self, from: &str, unit: &str, what: &str, enough: impl Fn(f64) -> bool) {
        let relay = self.relay(from);
        wait_for(
            &format!("{what} from {from} to {unit}"),
            Duration::from_secs(40),
            async || {
                let metrics = relay.metrics().await;
                enough(metrics.sum("strait_peer_links_up", &[("dst_unit", unit)])).then_some(())
            },
        )
        .await;
    }
}

/// Sets a value deep in a table; makes the tables on the way.
fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    let mut parts = split(key);
    let last = parts.pop().unwrap();
    let mut place = table;
    for part in parts {
        place = place
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .expect("a part of the key is no table");
    }
    place.insert(last, value.into());
}

/// Splits a dotted TOML key; quoted parts keep their dots.
fn split(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for character in key.chars() {
        match character {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            other => parts.last_mut().unwrap().push(other),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_files_that_name_each_other() {
        let cluster = Cluster::pair("http://127.0.0.1:1")
            .set("a", "services.\"im.Echo\".missing_key", "unit:b")
            .impaired(1)
            .prepare();
        let text = fs::read_to_string(cluster.relay("a-1").config()).unwrap();
        let config: Table = text.parse().unwrap();
        let address = config["units"]["b"]["relays"][0]["addresses"][0].as_str().unwrap();
        assert_eq!(address, cluster.path("a-1", "b-1").address().to_string());
        assert_eq!(config["services"]["im.Echo"]["missing_key"].as_str(), Some("unit:b"));
        assert_eq!(config["routing"]["rules"][1]["prefix"].as_str(), Some("b:"));
        assert!(cluster.relay("a-1").directory().join("ca-geo-b.pem").exists());
    }

    #[test]
    fn the_settings_accept_what_is_written() {
        let cluster = Cluster::pair("http://127.0.0.1:1").waits_for("a", "b").prepare();
        for relay in cluster.relays() {
            let source = strait::settings::Source {
                file: Some(relay.config()),
                ..Default::default()
            };
            let loaded = source.load().unwrap_or_else(|problems| panic!("{problems}"));
            loaded
                .check(source.base())
                .unwrap_or_else(|problems| panic!("{problems}"));
        }
    }
}
