//! A pair of relays: topics `m0`, `m1`, ... go to the owner of the key, which is unit B for all of them, topics `l0`, ...
//! stay where they are published.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use crate::load::Target;
use crate::ports::free_port;
use crate::process::Process;
use crate::speech::Speech;
use crate::stage::{DOMAIN, Side, Stage, http, until};
use crate::strait_speech::{Framed, Wish};

/// A running pair. The relays end when it is dropped.
pub struct Pair {
    directories: [PathBuf; 2],
    ports: [Ports; 2],
    processes: [Option<Process>; 2],
}

/// Where a relay listens.
#[derive(Clone, Copy)]
struct Ports {
    framed: u16,
    admin: u16,
    peer: u16,
}

impl Pair {
    /// Starts both, with further settings for A.
    pub fn start(stage: &Stage, name: &str, more: &str) -> Self {
        let directories = Side::BOTH.map(|side| stage.directory.join(format!("{name}-{}", side.unit())));
        let ports = Side::BOTH.map(|_| Ports {
            framed: free_port(),
            admin: free_port(),
            peer: free_port(),
        });
        for side in Side::BOTH {
            let directory = &directories[side as usize];
            fs::create_dir_all(directory).unwrap();
            let text = config(stage, side, &ports) + if side == Side::A { more } else { "" };
            fs::write(directory.join("relay.toml"), text).unwrap();
        }
        let mut pair = Self {
            directories,
            ports,
            processes: [None, None],
        };
        pair.start_side(Side::B);
        pair.start_side(Side::A);
        until("the relays to be linked", || {
            pair.metric(Side::A, "strait_peer_links_up") > 0.0
        });
        pair
    }

    /// Starts one side, on the files it has, and waits until it is ready.
    pub fn start_side(&mut self, side: Side) {
        self.start_side_until(side, "/readyz");
    }

    /// The same, until it answers at a path of its admin endpoint: on `/livez` before it has links.
    pub fn start_side_until(&mut self, side: Side, path: &str) {
        let directory = &self.directories[side as usize];
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.arg("run").arg("--config").arg(directory.join("relay.toml"));
        let mut process = Process::start(&mut command, &directory.join("log"));
        until("a relay to be ready", || {
            process.check().unwrap();
            http(self.admin(side), "GET", path).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        self.processes[side as usize] = Some(process);
    }

    /// Ends one side.
    pub fn stop_side(&mut self, side: Side) {
        self.processes[side as usize] = None;
    }

    /// Ends one side as a loss of power would.
    pub fn kill_side(&mut self, side: Side) {
        if let Some(process) = self.processes[side as usize].take() {
            process.kill();
        }
    }

    /// The process of a side, if it runs.
    pub fn process(&self, side: Side) -> Option<&Process> {
        self.processes[side as usize].as_ref()
    }

    /// Port of the framed endpoint.
    pub fn port(&self, side: Side) -> u16 {
        self.ports[side as usize].framed
    }

    /// Address of the admin endpoint.
    pub fn admin(&self, side: Side) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[side as usize].admin))
    }

    /// Publishers with this wish.
    pub fn target(&self, side: Side, wish: Wish) -> Target {
        Target {
            port: self.port(side),
            speech: Rc::new(move |_| -> Box<dyn Speech> { Box::new(Framed::publisher(wish)) }),
        }
    }

    /// Segments of the queue.
    pub fn files(&self, side: Side) -> PathBuf {
        self.directories[side as usize].join("data/queue")
    }

    /// Messages stored at a side so far.
    pub fn stored(&self, side: Side) -> u64 {
        let name = ["strait_queue_accepted_total", "strait_queue_received_total"][side as usize];
        self.metric(side, name) as u64
    }

    /// Sum of all series of a metric.
    pub fn metric(&self, side: Side, name: &str) -> f64 {
        let text = http(self.admin(side), "GET", "/metrics").unwrap_or_default();
        let series = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        series
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

fn config(stage: &Stage, side: Side, ports: &[Ports; 2]) -> String {
    let unit = side.unit();
    let Ports { framed, admin, peer } = ports[side as usize];
    let pair = stage.certificate(side);
    let (certificate, key, authority) = (pair.certificate.display(), pair.key.display(), stage.bundle());
    let authority = authority.display();
    let mut text = format!(
        "[relay]\ngeo = \"geo-{unit}\"\nunit = \"{unit}\"\nname = \"{unit}-1\"\ndata_dir = \"data\"\nshards = 1\n\
         [ingress.grpc]\nlisten = []\nsocket = \"grpc.sock\"\n\
         [ingress.framed]\nlisten = [\"127.0.0.1:{framed}\"]\nsocket = \"strait.sock\"\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [peer]\nlisten = \"127.0.0.1:{peer}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
         trust_domain = \"{DOMAIN}\"\n[peer.trust]\ngeo-a = \"{authority}\"\ngeo-b = \"{authority}\"\n\
         [topics.\"m*\"]\nrule = \"owner\"\n[topics.\"l*\"]\nrule = \"local\"\n\
         [routing]\ndimensions = [\"uid\"]\n\
         [[routing.rules]]\ndimension = \"uid\"\nprefix = \"b:\"\nunit = \"b\"\n"
    );
    if side == Side::A {
        let _ = write!(
            text,
            "[units.b]\ngeo = \"geo-b\"\n[[units.b.relays]]\nname = \"b-1\"\naddresses = [\"127.0.0.1:{}\"]\n",
            ports[Side::B as usize].peer
        );
    } else {
        text.push_str("[units.a]\ngeo = \"geo-a\"\ndial = false\n");
    }
    text
}
