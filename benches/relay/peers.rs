//! Pairs of relays on the same work: load -> A -> mutual TLS 1.3 -> B -> echo. One worker thread each
//! unless said otherwise, access logs off, limits on concurrency lifted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::certs::Pair;
use crate::configs;
use crate::framed;
use crate::load::{Load, Sample, serves};
use crate::ports::free_port;
use crate::process::Process;

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Peer {
    /// No relay at all.
    Direct,
    /// Strait, QUIC between.
    Strait,
    /// Strait with the framed protocol on both ends instead of gRPC.
    StraitFramed,
    /// Debian's `haproxy`, HTTP/2 between.
    Haproxy,
    /// Envoy with HTTP/2 between.
    EnvoyH2,
    /// Envoy with HTTP/3 between.
    EnvoyH3,
    /// Debian's nginx, HTTP/2 between.
    Nginx,
}

/// Files and ports that all peers share.
pub struct Stage {
    /// Where configurations, logs and sockets go.
    pub directory: PathBuf,
    /// Certificate authority, PEM.
    pub authority: PathBuf,
    /// Certificate and key of each side.
    pub certificates: [Pair; 2],
    /// Port of the echo service.
    pub echo: u16,
    /// Threads of the data plane of each relay.
    pub threads: usize,
}

/// A running pair.
pub struct Running {
    /// Where load goes in.
    pub port: u16,
    /// Side A and side B; empty without relays.
    pub relays: Vec<Process>,
    /// The service, if it is another than the echo of all.
    pub service: Option<Process>,
}

impl Running {
    /// Puts load on the pair.
    pub fn load(&self, load: &Load, stage: &Stage) -> Sample {
        match self.service {
            None => load.run(self.port, &stage.directory),
            Some(_) => framed::run(load, stage),
        }
    }

    /// Whether a call on a new connection passes.
    pub fn serves(&self, stage: &Stage) -> bool {
        match self.service {
            None => serves(self.port, &stage.directory),
            Some(_) => framed::serves(stage),
        }
    }
}

impl Peer {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Strait => "strait",
            Self::StraitFramed => "strait-framed",
            Self::Haproxy => "haproxy",
            Self::EnvoyH2 => "envoy-h2",
            Self::EnvoyH3 => "envoy-h3",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it is installed; if not, what to do.
    pub fn installed(self) -> Result<(), String> {
        if self == Self::StraitFramed && !framed::installed() {
            return Err("strait-framed needs the examples: cargo build --release --examples".to_owned());
        }
        let there = match self {
            Self::Direct | Self::Strait | Self::StraitFramed => true,
            Self::Haproxy => Path::new(HAPROXY).exists(),
            Self::EnvoyH2 | Self::EnvoyH3 => envoy().is_some(),
            Self::Nginx => Path::new(NGINX).exists(),
        };
        if there {
            Ok(())
        } else {
            Err(format!("{} is not installed: run benches/relay/install", self.name()))
        }
    }

    /// Starts both sides, B first.
    pub fn start(self, stage: &Stage) -> Running {
        let (port, link) = (free_port(), free_port());
        let relays = match self {
            Self::Direct => {
                return Running {
                    port: stage.echo,
                    relays: Vec::new(),
                    service: None,
                };
            }
            Self::Haproxy => haproxy(stage, port, link),
            Self::EnvoyH2 => envoy_pair(stage, port, link, false),
            Self::EnvoyH3 => envoy_pair(stage, port, link, true),
            Self::Nginx => nginx(stage, port, link),
            Self::Strait | Self::StraitFramed => strait(stage, port, link, self.name()),
        };
        let service = (self == Self::StraitFramed).then(|| framed::service(stage));
        Running { port, relays, service }
    }
}

const HAPROXY: &str = "/usr/sbin/haproxy";
const NGINX: &str = "/usr/sbin/nginx";

/// Starts B, then A, with a configuration each; gives A, then B.
fn pair(stage: &Stage, name: &str, configs: &[String; 2], start: impl Fn(&Path, usize) -> Command) -> Vec<Process> {
    let mut processes: Vec<Process> = [1, 0]
        .into_iter()
        .map(|side| {
            let letter = ["a", "b"][side];
            let file = stage.directory.join(format!("{name}-{letter}.conf"));
            fs::write(&file, &configs[side]).unwrap();
            let log = stage.directory.join(format!("{name}-{letter}.log"));
            Process::start(&mut start(&file, side), &log)
        })
        .collect();
    processes.reverse();
    processes
}

fn haproxy(stage: &Stage, port: u16, link: u16) -> Vec<Process> {
    // HAProxy wants certificate and key in one file.
    for pair in &stage.certificates {
        let both = fs::read_to_string(&pair.certificate).unwrap() + &fs::read_to_string(&pair.key).unwrap();
        fs::write(configs::both(pair), both).unwrap();
    }
    pair(stage, "haproxy", &configs::haproxy(stage, port, link), |file, _| {
        let mut command = Command::new(HAPROXY);
        command.arg("-f").arg(file).arg("-db");
        command
    })
}

fn nginx(stage: &Stage, port: u16, link: u16) -> Vec<Process> {
    pair(stage, "nginx", &configs::nginx(stage, port, link), |file, _| {
        let mut command = Command::new(NGINX);
        command.arg("-c").arg(file).arg("-p").arg(&stage.directory);
        command
    })
}

fn envoy_pair(stage: &Stage, port: u16, link: u16, http3: bool) -> Vec<Process> {
    let binary = envoy().expect("checked by `installed`");
    let configs = configs::envoy(stage, port, link, http3);
    pair(
        stage,
        if http3 { "envoy-h3" } else { "envoy-h2" },
        &configs,
        |file, side| {
            let mut command = Command::new(&binary);
            // Envoy tells the format of a file by its name.
            let yaml = file.with_extension("yaml");
            fs::rename(file, &yaml).unwrap();
            command.arg("-c").arg(yaml).args(["--log-level", "warning"]);
            command.args(["--concurrency", &stage.threads.to_string()]);
            // Each needs its own shared memory region.
            command.args(["--base-id", &(u32::from(link) * 2 + side as u32).to_string()]);
            command
        },
    )
}

/// The binary inside the wheel; its Python wrapper would be one process more.
fn envoy() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/venv/lib");
    fs::read_dir(root).ok()?.find_map(|entry| {
        let binary = entry.ok()?.path().join("site-packages/envoy/_bin/envoy");
        binary.exists().then_some(binary)
    })
}

/// The gRPC pair and the framed pair may run at the same time, so each has directories of its own.
fn strait(stage: &Stage, port: u16, link: u16, name: &str) -> Vec<Process> {
    for side in ["a", "b"] {
        fs::create_dir_all(stage.directory.join(format!("{name}-{side}"))).unwrap();
    }
    pair(stage, name, &configs::strait(stage, port, link, name), |file, _| {
        let toml = file.with_extension("toml");
        fs::rename(file, &toml).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.arg("run").arg("--config").arg(toml);
        command
    })
}
