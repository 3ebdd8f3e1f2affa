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
use super::{DemoError, scrape};
use crate::model::Name;
use crate::peer::dev_ca::{self, Ca};
use crate::peer::identity::TrustDomain;

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

/// All of them; the last one goes away and comes back.
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

/// The unit that goes away.
pub(super) const AWAY: &str = "c";

/// Running relays and their files. Field order is drop order: processes end before their files go.
pub(super) struct World {
    relays: Vec<Relay>,
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
        for relay in &mut world.relays {
            relay.spawn()?;
        }
        for relay in &mut world.relays {
            relay.until_ready().await?;
        }
        Ok(world)
    }

    fn prepare(services: &Services, usual_ports: bool) -> Result<Self, DemoError> {
        let folder = Folder::new().map_err(DemoError::Files)?;
        let mut ports = Vec::new();
        for unit in UNITS {
            ports.push((
                unit,
                Ports::free(usual_ports && unit.name == "a").map_err(DemoError::Ports)?,
            ));
        }
        let world = Self {
            relays: ports
                .iter()
                .map(|(unit, ports)| Relay {
                    unit: *unit,
                    ports: *ports,
                    home: folder.path().join(unit.name),
                    child: None,
                })
                .collect(),
            folder,
        };
        world.make_certificates()?;
        for relay in &world.relays {
            let text = relay.config(&ports, services.grpc_port(relay.unit));
            fs::create_dir(&relay.home)
                .and_then(|()| fs::write(relay.home.join("relay.toml"), text))
                .map_err(DemoError::Files)?;
        }
        Ok(world)
    }

    /// One CA for each Geo, one certificate for each relay, as `strait cert dev` makes them.
    fn make_certificates(&self) -> Result<(), DemoError> {
        let dir = self.folder.path().join("certs");
        let now = OffsetDateTime::now_utc();
        let name = |text| Name::new(text).map_err(|error| DemoError::Files(io::Error::other(error)));
        for relay in &self.relays {
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

    /// The relay that goes away.
    pub(super) fn away(&mut self) -> Option<&mut Relay> {
        self.relays.iter_mut().find(|relay| relay.unit.name == AWAY)
    }

    /// Where the files are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Relay {
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

    /// Waits until it is ready: its listeners are open and its links up.
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
            if matches!(scrape::get(&admin, "/readyz", None).await, Ok((200, _))) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
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

    fn config(&self, all: &[(Unit, Ports)], service_port: u16) -> String {
        let Unit { name, geo, relay, .. } = self.unit;
        let Ports {
            grpc,
            framed,
            admin,
            peer,
        } = self.ports;
        let mut text = format!(
            r#"# A relay of `strait demo`.
[relay]
geo = "{geo}"
unit = "{name}"
name = "{relay}"
data_dir = "data"
shards = 2

[ingress.grpc]
listen = ["127.0.0.1:{grpc}"]
[ingress.framed]
listen = ["127.0.0.1:{framed}"]
[admin]
listen = "127.0.0.1:{admin}"

[peer]
listen = "127.0.0.1:{peer}"
certificate = "../certs/{relay}.pem"
key = "../certs/{relay}.key"
# On one machine silence is noticed sooner than the defaults allow for long ways.
keep_alive = "250ms"
idle_timeout = "1s"
[peer.trust]
cn-east = "../certs/cn-east-ca.pem"
sg = "../certs/sg-ca.pem"

# A gRPC service at its own address, and one that registers itself over the framed protocol.
[services."im.Echo"]
endpoints = ["http://127.0.0.1:{service_port}"]
[services."im.Presence"]
endpoints = []

[routing]
dimensions = ["im.conversation"]
"#
        );
        for (other, ports) in all {
            text += &other.rule();
            if other.name != name {
                text += &other.link(ports.peer);
            }
        }
        text
    }
}

impl Unit {
    /// Its keys, in the configuration of any relay.
    fn rule(self) -> String {
        let Self { name, prefix, .. } = self;
        format!("[[routing.rules]]\ndimension = \"im.conversation\"\nprefix = \"{prefix}\"\nunit = \"{name}\"\n")
    }

    /// Where it is, in the configuration of a relay of another unit.
    fn link(self, port: u16) -> String {
        let Self { name, geo, relay, .. } = self;
        format!(
            "[units.{name}]\ngeo = \"{geo}\"\n[[units.{name}.relays]]\nname = \"{relay}\"\naddresses = \
             [\"127.0.0.1:{port}\"]\n"
        )
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
    }
}

const ATTEMPTS: u8 = 3;
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
        for relay in world.relays() {
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
