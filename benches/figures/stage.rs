//! Certificates, configurations and processes of a pair of relays, and the settings of both sides for what does without
//! relays.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::certs::{Authority, Leaf, Pair};
use crate::ports::free_port;
use crate::process::Process;

/// Trust domain of all certificates.
pub const DOMAIN: &str = "strait.bench";

/// A directory with an authority.
pub struct Stage {
    /// Where everything goes.
    pub directory: PathBuf,
    authority: Authority,
}

/// A running pair: unit `a`, where calls go in, and unit `b` with the service.
pub struct Relays {
    /// Side A and side B.
    pub processes: [Process; 2],
    /// Their admin addresses.
    pub admin: [SocketAddr; 2],
    /// Where A waits for other relays.
    pub peer: SocketAddr,
    directories: [PathBuf; 2],
}

/// What differs between pairs.
#[derive(Clone, Default)]
pub struct Shape {
    /// Name of its files.
    pub name: String,
    /// Threads of the data plane; 0 as many as there are CPUs.
    pub shards: usize,
    /// Units that A knows besides `b`, each with a rule of its own: `u0`, `u1`, ...
    pub other_units: usize,
}

impl Stage {
    /// An empty directory below `target/bench`.
    pub fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench").join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let authority = Authority::new("bench");
        authority.write_bundle(&directory.join("ca.pem"));
        Self { directory, authority }
    }

    /// PEM of the authority.
    pub fn bundle(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for relay `<unit>-1`.
    pub fn issue(&self, unit: &str) -> Pair {
        let leaf = Leaf::relay(DOMAIN, &geo(unit), unit, &format!("{unit}-1"));
        self.authority.issue(&leaf, &self.directory, unit)
    }

    /// Starts both relays, B first.
    pub fn start(&self, shape: &Shape) -> Relays {
        let ports: [[u16; 2]; 2] = [[free_port(), free_port()], [free_port(), free_port()]];
        let directories = ["a", "b"].map(|side| self.directory.join(format!("{}-{side}", shape.name)));
        let start = |side: usize| {
            let directory = &directories[side];
            fs::create_dir_all(directory).unwrap();
            let file = directory.join("relay.toml");
            fs::write(&file, self.config(shape, side, ports)).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
            command.arg("run").arg("--config").arg(file);
            Process::start(&mut command, &directory.join("log"))
        };
        let b = start(1);
        let a = start(0);
        let mut relays = Relays {
            processes: [a, b],
            admin: ports.map(|[admin, _]| loopback(admin)),
            peer: loopback(ports[0][1]),
            directories,
        };
        relays.until_ready();
        relays
    }

    fn config(&self, shape: &Shape, side: usize, ports: [[u16; 2]; 2]) -> String {
        let unit = ["a", "b"][side];
        let [admin, peer] = ports[side];
        let pair = self.issue(unit);
        let (certificate, key, authority) = (pair.certificate.display(), pair.key.display(), self.bundle());
        let authority = authority.display();
        let mut text = format!(
            "[relay]\ngeo = \"geo-{unit}\"\nunit = \"{unit}\"\nname = \"{unit}-1\"\ndata_dir = \"data\"\n\
             shards = {}\n\
             [ingress.grpc]\nlisten = []\nsocket = \"grpc.sock\"\n\
             [ingress.framed]\nlisten = []\nsocket = \"strait.sock\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [peer]\nlisten = \"127.0.0.1:{peer}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             trust_domain = \"{DOMAIN}\"\n[peer.trust]\ngeo-a = \"{authority}\"\ngeo-b = \"{authority}\"\n",
            shape.shards
        );
        let units = if side == 0 { shape.other_units } else { 0 };
        let _ = writeln!(text, "geo-u = \"{authority}\"");
        if side == 0 {
            let _ = write!(
                text,
                "[units.b]\ngeo = \"geo-b\"\n[[units.b.relays]]\nname = \"b-1\"\naddresses = [\"127.0.0.1:{}\"]\n",
                ports[1][1]
            );
        } else {
            text.push_str("[units.a]\ngeo = \"geo-a\"\ndial = false\n[services.\"im.Echo\"]\nendpoints = []\n");
        }
        for n in 0..units {
            let _ = writeln!(text, "[units.u{n}]\ngeo = \"geo-u\"\ndial = false");
        }
        let mut rule = |unit: &str| {
            let _ = writeln!(
                text,
                "[[routing.rules]]\ndimension = \"uid\"\nprefix = \"{unit}:\"\nunit = \"{unit}\""
            );
        };
        (0..units).for_each(|n| rule(&format!("u{n}")));
        rule("b");
        text + "[routing]\ndimensions = [\"uid\"]\n"
    }
}

impl Relays {
    /// The Unix socket of one protocol (`strait` or `grpc`) at one side.
    pub fn socket(&self, side: usize, protocol: &str) -> PathBuf {
        self.directories[side].join("data").join(format!("{protocol}.sock"))
    }

    /// Processor time of both.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    /// Resident memory of one side in MiB.
    pub fn mib(&self, side: usize) -> f64 {
        self.processes[side].rss() as f64 / 1_048_576.0
    }

    /// Ready means: the link is up.
    fn until_ready(&mut self) {
        for side in [0, 1] {
            until("a relay to be ready", || {
                self.processes[side].check().unwrap();
                get(self.admin[side], "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            });
        }
    }
}

/// The Geo of a unit: `a` and `b` have one each, `u0`, `u1`, ... share one.
pub fn geo(unit: &str) -> String {
    format!("geo-{}", if unit.starts_with('u') { "u" } else { unit })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits for a state, with a limit.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited 60 s in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An HTTP GET; the whole answer as text.
pub fn get(at: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(at).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// This program again, in another role.
pub fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(name);
    command
}
