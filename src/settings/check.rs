//! Whether settings fit together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Ingress, Loaded, Problems, Settings, path};
use crate::control::StoreKind;
use crate::ingress::access::AccessError;
use crate::ingress::{self, access};
use crate::model::{Geo, MissingKey, Place, RelayName, RoutePolicy, UnitId};
use crate::queue;
use crate::routing::RouteTable;

/// Settings that fit together, with what can be worked out of them.
#[derive(Debug)]
pub struct Checked {
    /// The settings, with paths that no longer depend on the folder of the file.
    pub settings: Settings,
    /// This relay's Geo.
    pub geo: Geo,
    /// This relay's unit.
    pub unit: UnitId,
    /// This relay's name.
    pub relay: RelayName,
    /// `relay.data_dir`, to be created if it does not exist.
    pub data_dir: PathBuf,
    /// The first route table.
    pub routes: RouteTable,
    /// Where the admin address listens.
    pub admin: Option<SocketAddr>,
    /// What is odd, though nothing forbids it.
    pub warnings: Problems,
}

impl Checked {
    /// This relay, as errors and answers name it.
    pub fn place(&self) -> Place {
        Place {
            unit: self.unit.clone(),
            relay: self.relay.clone(),
        }
    }

    /// Says in the log what is odd.
    pub fn warn(&self) {
        for odd in &self.warnings.0 {
            tracing::warn!(settings = %odd.key, place = odd.place, "{}", odd.text);
        }
    }

    /// Threads that carry calls: `relay.shards`, or one for each core.
    pub fn shards(&self) -> usize {
        match self.settings.relay.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            shards => shards,
        }
    }

    /// How calls of a method are routed; `None` is a service nobody named.
    pub fn route_policy(&self, service: Option<&str>, method: Option<&str>) -> RoutePolicy {
        let (services, calls) = (&self.settings.services, &self.settings.calls);
        let settings = service.and_then(|service| services.get(service));
        let is_own = || ingress::api::own_services(services).any(|own| Some(own.as_str()) == service);
        let missing_key = match settings {
            Some(settings) => settings.missing_key.clone(),
            None if is_own() => MissingKey::Local,
            None => calls.missing_key.clone(),
        };
        let by_key = RoutePolicy {
            missing_key,
            ..RoutePolicy::default()
        };
        let Some(route) = service.and_then(|service| calls.route.get(service)) else {
            return by_key;
        };
        let mut methods = route.methods_of(&by_key);
        let named = method.and_then(|method| methods.remove(method));
        named.unwrap_or_else(|| route.policy(&by_key))
    }
}

impl Loaded {
    /// [`Settings::check`], with the place of each problem.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn check(&self, base: &Path) -> Result<Checked, Problems> {
        let placed = |mut problems: Problems| {
            for problem in &mut problems.0 {
                problem.place = self.origins.nearest(&problem.key);
            }
            problems
        };
        let mut checked = self.settings.check(base).map_err(placed)?;
        checked.warnings = placed(checked.warnings);
        Ok(checked)
    }
}

impl Settings {
    /// Checks that the values fit together. Relative paths start at `base`.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn check(&self, base: &Path) -> Result<Checked, Problems> {
        let (mut problems, mut warnings) = (Problems::default(), Problems::default());
        let identity = self.identity(&mut problems);
        self.check_ingress(&mut problems);
        self.check_units(&mut problems);
        self.check_services(&mut problems);
        self.check_call_routes(&mut problems);
        self.check_kept_calls(&mut problems, &mut warnings);
        self.check_retry(&mut problems);
        self.check_log(&mut problems);
        self.check_messages(&mut problems, &mut warnings);
        self.check_routes(&mut problems, &mut warnings);
        self.check_access(&mut problems, &mut warnings);
        if self.routing.hops_max < 2 {
            problems.add(
                None,
                "routing.hops_max",
                "a call passes two units at least; use 2 or more",
            );
        }
        if let Err(error) = self.peer.check() {
            problems.add(None, "peer", error.to_string());
        }
        let admin = self.admin.address().unwrap_or_else(|error| {
            problems.add(None, "admin.listen", error.to_string());
            None
        });
        if let Err(error) = self.peer.check() {
            problems.add(None, path::join("peer", error.key()), error.to_string());
        }
        let Some((geo, unit, relay)) = identity else {
            return Err(problems);
        };
        let routes = match RouteTable::build(&self.routing, &unit, self.units.keys()) {
            Ok(routes) => routes,
            Err(errors) => {
                for error in errors {
                    problems.add(None, error.path(), error.problem.to_string());
                }
                return Err(problems);
            }
        };
        let routes = match self.routes.store {
            StoreKind::None => routes,
            StoreKind::Embedded | StoreKind::Etcd => routes.awaiting_routes(),
        };
        let mut settings = self.clone();
        settings.peer.resolve_paths(base);
        settings.ingress.token_file = access::resolved(base, &self.ingress.token_file);
        settings.admin.resolve_paths(base);
        settings.routes.resolve_paths(base);
        settings.add_journal();
        let data_dir = base.join(&self.relay.data_dir);
        problems.or(Checked {
            settings,
            geo,
            unit,
            relay,
            data_dir,
            routes,
            admin,
            warnings,
        })
    }

    /// Calls that are kept for their unit are messages of a topic, and each relay may get some.
    fn add_journal(&mut self) {
        if !self.routing.dimensions.is_empty() {
            let topic = self.topics.entry(queue::CALLS_TOPIC.to_owned());
            let topic = topic.or_insert_with(queue::calls_topic);
            topic
                .groups
                .insert(queue::calls_group(), queue::GroupSettings::default());
        }
    }

    fn identity(&self, problems: &mut Problems) -> Option<(Geo, UnitId, RelayName)> {
        let mut required = |key: &str, value: &Option<crate::model::Name>| {
            if value.is_none() {
                let text = "required; a relay needs geo, unit and name".to_owned();
                problems.add(None, path::join("relay", key), text);
            }
            value.clone()
        };
        let geo = required("geo", &self.relay.geo);
        let unit = required("unit", &self.relay.unit);
        let name = required("name", &self.relay.name);
        Some((geo?, unit?, name?))
    }

    fn check_ingress(&self, problems: &mut Problems) {
        if let Err(error) = self.ingress.framed.limits() {
            problems.add(None, "ingress.framed", error.to_string());
        }
        let Ingress {
            grpc,
            token_file,
            identities,
            ..
        } = &self.ingress;
        if let Err(error) = self.ingress.socket_files() {
            let key = match error {
                AccessError::Group(_) => "ingress.socket_group",
                _ => "ingress.socket_mode",
            };
            problems.add(None, key, error.to_string());
        }
        if let Err(error) = access::check_identities(identities) {
            problems.add(None, "ingress.identities", error.to_string());
        }
        let has_token = !token_file.as_os_str().is_empty();
        for address in grpc
            .listen
            .iter()
            .filter(|address| !address.ip().is_loopback() && !has_token)
        {
            let text = format!(
                "{address} is not a loopback address; other machines may call only with a token, see ingress.token_file"
            );
            problems.add(None, "ingress.grpc.listen", text);
        }
    }

    fn check_units(&self, problems: &mut Problems) {
        for (unit, settings) in &self.units {
            let key = path::join("units", unit.as_str());
            if Some(unit) == self.relay.unit.as_ref() {
                let text = "is this relay's own unit; [units] lists the other ones".to_owned();
                problems.add(None, key.clone(), text);
            }
            if !self.peer.trust.contains_key(&settings.geo) {
                let text = format!(
                    "no CA vouches for Geo {}; add the file of its CA certificates as peer.trust.{}",
                    settings.geo, settings.geo
                );
                problems.add(None, path::join(&key, "geo"), text);
            }
            for (index, relay) in settings.relays.iter().enumerate() {
                let key = path::element(&path::join(&key, "relays"), index);
                let earlier = settings.relays.iter().take(index);
                if earlier.clone().any(|earlier| earlier.name == relay.name) {
                    let text = format!("relay {} is listed twice", relay.name);
                    problems.add(None, path::join(&key, "name"), text);
                }
                for address in relay.addresses.iter().filter(|address| !is_host_port(address)) {
                    let text = format!("expected host:port, such as \"relay.example:7443\", not {address:?}");
                    problems.add(None, path::join(&key, "addresses"), text);
                }
            }
        }
        if !self.units.is_empty() {
            for (key, value) in [("certificate", &self.peer.certificate), ("key", &self.peer.key)] {
                if value.is_none() {
                    let text = "required when there are [units]: links need a certificate; `strait cert dev` makes one";
                    problems.add(None, path::join("peer", key), text);
                }
            }
        }
    }

    fn check_services(&self, problems: &mut Problems) {
        for (service, settings) in &self.services {
            if let Err(error) = settings.check(service) {
                problems.add(None, path::join("services", service.as_str()), error.to_string());
            }
            let key = path::join(&path::join("services", service.as_str()), "missing_key");
            self.check_missing_key(&key, &settings.missing_key, problems);
        }
        self.check_missing_key("calls.missing_key", &self.calls.missing_key, problems);
    }

    fn check_missing_key(&self, key: &str, missing_key: &MissingKey, problems: &mut Problems) {
        if let MissingKey::Unit(unit) = missing_key {
            self.check_known(key, unit, problems);
        }
    }

    fn check_retry(&self, problems: &mut Problems) {
        for unit in self.retry.units.keys() {
            self.check_known(&path::join("retry.units", unit.as_str()), unit, problems);
        }
    }

    pub(super) fn check_known(&self, key: &str, unit: &UnitId, problems: &mut Problems) {
        if !self.units.contains_key(unit) && Some(unit) != self.relay.unit.as_ref() {
            let text = format!("unit {unit} is neither in [units] nor this relay's own");
            problems.add(None, key, text);
        }
    }

    fn check_log(&self, problems: &mut Problems) {
        if !(0.0..=1.0).contains(&self.log.access) {
            problems.add(None, "log.access", "expected a share from 0.0 to 1.0");
        }
        if let Err(error) = crate::telemetry::LogHandle::detached().set_levels(&self.log.level) {
            problems.add(None, "log.level", error.to_string());
        }
    }
}

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
