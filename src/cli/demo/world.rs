//! Three units on one machine: files, ports and relay processes.
//!
//! # Invariants
//! - D1. Dropping the world ends its processes and removes its files, whatever happened before.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::machine::{Folder, Ports};
use super::services::Services;
use super::{DemoError, configuration, scrape};
use crate::cli::ask::At;
use crate::client::{Client, ConnectError};
use crate::control::operator as routes;
use crate::model::Name;
use crate::peer::dev_ca::{self, Ca};
use crate::peer::identity::TrustDomain;
use crate::queue::operator::{Answer, Command as Ask};

/// A unit of the demo.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Unit {
    /// Its name.
    pub(super) name: &'static str,
    /// Its Geo.
    pub(super) geo: &'static str,
    /// Its relay.
    pub(super) relay: &'static str,
    /// What the keys it owns begin with.
    pub(super) prefix: &'static str,
}

/// All of them.
pub(super) const UNITS: [Unit; 3] = [
    Unit {
        name: "a",
        geo: "cn-east",
        relay: "a-1",
        prefix: "cid:1",
    },
    Unit {
        name: "b",
        geo: "cn-east",
        relay: "b-1",
        prefix: "cid:2",
    },
    Unit {
        name: "c",
        geo: "sg",
        relay: "c-1",
        prefix: "cid:3",
    },
];

/// The relay that keeps the routes of Geo cn-east in a file, and carries no calls.
pub(super) const ROUTES: Unit = Unit {
    name: "a",
    geo: "cn-east",
    relay: "a-2",
    prefix: "",
};

/// The unit that publishes all the time.
pub(super) const PUBLISHING: Unit = UNITS[0];
/// The unit whose subscriber meets a message that it cannot read.
pub(super) const POISONED: Unit = UNITS[1];
/// The unit that goes away and comes back.
pub(super) const AWAY: Unit = UNITS[2];
/// The topic of the demo.
pub(super) const TOPIC: &str = "im.events";
/// The group of its subscribers.
pub(super) const GROUP: &str = "archive";
/// Messages a second of a unit's backlog, as the relays are configured.
pub(super) const RATE: u32 = 500;

/// Running relays and their files. Field order is drop order: processes end before their files go.
pub(super) struct World {
    relays: [Relay; 3],
    authority: Relay,
    folder: Folder,
}

/// One relay process.
pub(super) struct Relay {
    /// Whose it is.
    pub(super) unit: Unit,
    /// Where it listens.
    pub(super) ports: Ports,
    home: PathBuf,
    child: Option<Child>,
}

impl World {
    /// Makes certificates and configurations, starts the relays and waits until they have links to each other.
    ///
    /// `usual_ports`: unit `a` takes the default ports if they are free.
    ///
    /// # Errors
    /// A file cannot be written, or a relay does not start.
    pub(super) async fn start(services: &Services, usual_ports: bool) -> Result<Self, DemoError> {
        let mut usual = usual_ports;
        for _ in 1..ATTEMPTS {
            match Self::try_start(services, usual).await {
                // Somebody took a port between the look and the use, such as a second demo.
                Err(DemoError::Start { log, .. }) if log.contains("cannot listen on") => usual = false,
                result => return result,
            }
        }
        Self::try_start(services, false).await
    }

    async fn try_start(services: &Services, usual_ports: bool) -> Result<Self, DemoError> {
        let mut world = Self::prepare(services, usual_ports)?;
        let Self { relays, authority, .. } = &mut world;
        for relay in relays.iter_mut().chain([&mut *authority]) {
            relay.spawn()?;
        }
        for relay in relays.iter_mut().chain([authority]) {
            relay.until_ready().await?;
        }
        Ok(world)
    }

    fn prepare(services: &Services, usual_ports: bool) -> Result<Self, DemoError> {
        let folder = Folder::new().map_err(DemoError::Files)?;
        let with_ports = |unit: Unit| {
            let usual = usual_ports && unit == PUBLISHING;
            Ports::free(usual).map(|ports| (unit, ports)).map_err(DemoError::Ports)
        };
        let all = [with_ports(PUBLISHING)?, with_ports(POISONED)?, with_ports(AWAY)?];
        let relay = |home: &str, (unit, ports): (Unit, Ports)| Relay {
            unit,
            ports,
            home: folder.path().join(home),
            child: None,
        };
        let (routes, ports) = with_ports(ROUTES)?;
        let world = Self {
            relays: all.map(|(unit, ports)| relay(unit.name, (unit, ports))),
            authority: relay(routes.relay, (routes, ports)),
            folder,
        };
        world.make_certificates()?;
        let relay = |relay: &Relay| configuration::Own {
            unit: relay.unit,
            ports: relay.ports,
        };
        for own in &world.relays {
            let service = services.grpc_port(own.unit);
            own.configure(&configuration::text(relay(own), &all, service, ports.peer))?;
        }
        let own = &world.authority;
        own.configure(&configuration::authority(relay(own), &all))?;
        Ok(world)
    }

    /// One CA for each Geo, one certificate for each relay, as `strait cert dev` makes them.
    fn make_certificates(&self) -> Result<(), DemoError> {
        let dir = self.folder.path().join("certs");
        let now = OffsetDateTime::now_utc();
        let name = |text| Name::new(text).map_err(|error| DemoError::Files(io::Error::other(error)));
        for relay in self.relays.iter().chain([&self.authority]) {
            let ca = Ca::open(&dir, &name(relay.unit.geo)?, now)?;
            let pair = ca.relay(&dev_ca::Request {
                trust_domain: TrustDomain::default(),
                unit: name(relay.unit.name)?,
                relay: name(relay.unit.relay)?,
                now,
                validity: VALIDITY,
            })?;
            dev_ca::write_pair(&dir, relay.unit.relay, &pair, false)?;
        }
        Ok(())
    }

    /// All relays.
    pub(super) fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// The relay of the unit that publishes all the time.
    pub(super) fn publishing(&self) -> &Relay {
        let [relay, ..] = &self.relays;
        relay
    }

    /// The relay of the unit whose subscriber meets a message that it cannot read.
    pub(super) fn poisoned(&self) -> &Relay {
        let [_, relay, _] = &self.relays;
        relay
    }

    /// The relay that goes away.
    pub(super) fn away(&self) -> &Relay {
        let [.., relay] = &self.relays;
        relay
    }

    /// The same, to end and to start it.
    pub(super) fn away_mut(&mut self) -> &mut Relay {
        let [.., relay] = &mut self.relays;
        relay
    }

    /// The relay that keeps the routes.
    pub(super) fn authority(&self) -> &Relay {
        &self.authority
    }

    /// The same, to end and to start it.
    pub(super) fn authority_mut(&mut self) -> &mut Relay {
        &mut self.authority
    }

    /// Where the files are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Relay {
    fn configure(&self, text: &str) -> Result<(), DemoError> {
        let written = fs::create_dir(&self.home).and_then(|()| fs::write(self.home.join("relay.toml"), text));
        written.map_err(DemoError::Files)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub(super) fn spawn(&mut self) -> Result<(), DemoError> {
        let start = || {
            let log = File::options().create(true).append(true).open(self.log_path())?;
            Command::new(std::env::current_exe()?)
                .arg("run")
                .arg("--config")
                .arg(self.home.join("relay.toml"))
                .env_remove("STRAIT_CONFIG")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // Ctrl-C in a terminal is for the demo, which then ends its relays itself.
                .process_group(0)
                .spawn()
        };
        self.child = Some(start().map_err(DemoError::Process)?);
        Ok(())
    }

    /// Waits until it is ready: its listeners are open and its links up, and it admits calls of the keys that its unit owns.
    ///
    /// # Errors
    /// The process ended, or it takes too long.
    pub(super) async fn until_ready(&mut self) -> Result<(), DemoError> {
        let started = Instant::now();
        let admin = self.admin();
        loop {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || started.elapsed() > START_LIMIT {
                return Err(DemoError::Start {
                    relay: self.unit.relay,
                    log: self.log_tail(),
                });
            }
            let is_ready = matches!(scrape::get(&admin, "/readyz", None).await, Ok((200, _)));
            if is_ready && self.admits().await {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it has a lease for all kinds of keys; a relay without a route store needs none.
    async fn admits(&self) -> bool {
        match self.ask_routes(&routes::Command::Status).await {
            Some(routes::Answer::Status(status)) => status.dimensions.iter().all(|row| row.admits),
            _ => true,
        }
    }

    /// Ends the process at once, as a crash does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A connection of a service, which comes back as soon as the relay does.
    ///
    /// # Errors
    /// The relay does not listen.
    pub(super) async fn connect(&self) -> Result<Client, ConnectError> {
        let address = format!("tcp://{}", self.framed());
        let builder = Client::builder(&address).instance("demo").backoff_max(AGAIN);
        builder.connect().await
    }

    /// Asks its queue; `None` while it is away, or if it says no.
    pub(super) async fn ask(&self, command: &Ask) -> Option<Answer> {
        ask(&self.admin(), command).await
    }

    /// Asks it about routes; `None` while it is away, or if it says no.
    pub(super) async fn ask_routes(&self, command: &routes::Command) -> Option<routes::Answer> {
        let answer = At::local(&self.admin()).ask_quietly(command).await.ok()?;
        let is_told = !matches!(answer, routes::Answer::Refused { .. } | routes::Answer::Failed { .. });
        is_told.then_some(answer)
    }

    /// Process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `host:port` of gRPC.
    pub(super) fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.ports.grpc)
    }

    /// `host:port` of the framed protocol.
    pub(super) fn framed(&self) -> String {
        format!("127.0.0.1:{}", self.ports.framed)
    }

    /// `host:port` of the admin address.
    pub(super) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports.admin)
    }

    /// The metrics; empty while it is away.
    pub(super) async fn metrics(&self) -> String {
        match scrape::get(&self.admin(), "/metrics", None).await {
            Ok((200, body)) => body,
            _ => String::new(),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("relay.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(8)..)
            .unwrap_or_default()
            .join("\n")
    }
}

/// Asks the queue behind an admin address; `None` if nobody answers, or the answer is no.
pub(super) async fn ask(admin: &str, command: &Ask) -> Option<Answer> {
    let answer = At::local(admin).ask_quietly(command).await.ok()?;
    (!matches!(answer, Answer::Refused { .. })).then_some(answer)
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
    }
}

const ATTEMPTS: u8 = 3;
/// Longest pause of services before they connect again. On one machine nobody is hurt by a short one.
const AGAIN: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(20);
const START_LIMIT: Duration = Duration::from_secs(30);
const VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);
#[cfg(test)]
mod tests {
    use super::*;

    // A configuration with a mistake would be found by the first user instead.
    #[test]
    fn the_configurations_are_right_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let world = Relay::default_world();
        let mode = fs::metadata(world.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for relay in world.relays().iter().chain([world.authority()]) {
            let source = crate::settings::Source {
                file: Some(relay.home.join("relay.toml")),
                ..Default::default()
            };
            let checked = source.load().and_then(|loaded| loaded.check(source.base()));
            assert!(checked.is_ok(), "{}", checked.err().unwrap());
        }
        let folder = world.folder().to_owned();
        drop(world);
        assert!(!folder.exists(), "D1");
    }

    impl Relay {
        fn default_world() -> World {
            World::prepare(&Services::none(), false).unwrap()
        }
    }
}
