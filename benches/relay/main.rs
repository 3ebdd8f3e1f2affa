//! The whole path with real processes, side by side with its peers:
//! h2load -> relay A -> mutual TLS -> relay B -> echo service, and back, all on this machine.
//!
//! ```text
//! benches/relay/install                       once: HAProxy, nginx, Envoy, h2load
//! cargo build --release --examples            for the rows of the framed protocol
//! cargo bench --bench relay                   everything; about half an hour
//! cargo bench --bench relay -- --quick        128 B and 1 KiB at 64 in flight; about two minutes
//! cargo bench --bench relay -- --peer strait --peer haproxy --size 128 --in-flight 64 --rounds 5
//! ```
//! Machines differ: read ratios of one run, never figures of two. Results go to `target/bench/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::struct_excessive_bools,
    dead_code,
    unreachable_pub,
    reason = "a benchmark that cannot go on stops, and owns its output and the clock; it shares files with the tests"
)]

#[path = "../../tests/it/harness/certs.rs"]
mod certs;
mod configs;
mod echo;
mod framed;
mod load;
mod measure;
mod peers;
#[path = "../../tests/it/harness/ports.rs"]
mod ports;
mod process;
mod report;
mod spread;
#[path = "../../tests/it/harness/usage.rs"]
mod usage;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use certs::{Authority, Leaf};
use load::Load;
use measure::{Row, measure};
use peers::{Peer, Stage};

/// Measures relays on the whole path.
#[derive(Parser)]
struct Arguments {
    /// Peers to measure; all that are installed if none is given.
    #[arg(long, value_enum)]
    peer: Vec<Peer>,
    /// Bytes of the messages.
    #[arg(long)]
    size: Vec<usize>,
    /// Calls in flight: 1, 64 or 1024.
    #[arg(long)]
    in_flight: Vec<usize>,
    /// Rounds per peer.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Small messages at 64 in flight only, short rounds.
    #[arg(long)]
    quick: bool,
    /// Also measure response times at equal offered load: half of what `envoy-h2` can do, or of the
    /// slowest peer if Envoy is not measured.
    #[arg(long)]
    offered: bool,
    /// The same, at this many calls per second.
    #[arg(long)]
    rate: Option<f64>,
    /// Threads of the data plane of Strait and workers of the others.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("echo") {
        let port = words.next().and_then(|port| port.parse().ok()).expect("echo <port>");
        return echo::serve(port);
    }
    run(Arguments::parse());
}

fn run(mut arguments: Arguments) {
    if arguments.quick {
        arguments.seconds = 1.0;
        set_default(&mut arguments.size, &[128, 1024]);
        set_default(&mut arguments.in_flight, &[64]);
    }
    set_default(&mut arguments.size, &[128, 1024, 65_536]);
    set_default(&mut arguments.in_flight, &[1, 64, 1024]);
    let peers = choose(&arguments.peer);
    let stage = stage(arguments.threads);
    let mut rows = Vec::new();
    for &size in &arguments.size {
        for &in_flight in &arguments.in_flight {
            let load = load(size, in_flight, &arguments);
            let measured = measure(&stage, &peers, &load, arguments.rounds);
            let rate = arguments
                .rate
                .or_else(|| arguments.offered.then(|| half_of_envoy(&measured)));
            rows.extend(measured);
            if let Some(rate) = rate.filter(|_| in_flight == 64) {
                let offered = Load {
                    rate: Some(rate),
                    ..load
                };
                // The load of the framed protocol has no rate to be held to.
                let held: Vec<Peer> = peers
                    .iter()
                    .copied()
                    .filter(|peer| *peer != Peer::StraitFramed)
                    .collect();
                rows.extend(measure(&stage, &held, &offered, arguments.rounds));
            }
        }
    }
    let text = report::versions() + &report::markdown(&rows) + &report::ratios(&rows);
    println!("{text}");
    report::write(&stage.directory, &rows, &text);
    println!("written to {}", stage.directory.join("relay.json").display());
}

fn set_default(values: &mut Vec<usize>, default: &[usize]) {
    if values.is_empty() {
        values.extend_from_slice(default);
    }
}

fn choose(wanted: &[Peer]) -> Vec<Peer> {
    let all = if wanted.is_empty() {
        Peer::value_variants()
    } else {
        wanted
    };
    let usable = |peer: &Peer| peer.installed().inspect_err(|why| eprintln!("left out: {why}")).is_ok();
    all.iter().copied().filter(usable).collect()
}

fn load(size: usize, in_flight: usize, arguments: &Arguments) -> Load {
    let connections = match in_flight {
        1 => 1,
        2..=64 => 8,
        _ => 16,
    };
    Load {
        size,
        connections,
        streams: in_flight.div_ceil(connections),
        duration: Duration::from_secs_f64(arguments.seconds),
        rate: None,
    }
}

fn half_of_envoy(rows: &[Row]) -> f64 {
    let envoy = rows.iter().find(|row| row.peer == "envoy-h2");
    let slowest = rows
        .iter()
        .map(|row| row.per_second.median)
        .fold(f64::INFINITY, f64::min);
    envoy.map_or(slowest, |row| row.per_second.median) / 2.0
}

fn stage(threads: usize) -> Stage {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/run");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let authority = Authority::new("bench");
    authority.write_bundle(&directory.join("ca.pem"));
    let issue = |unit: &str| {
        let leaf = Leaf::relay("strait.bench", &format!("geo-{unit}"), unit, &format!("{unit}-1"));
        authority.issue(&leaf, &directory, unit)
    };
    Stage {
        authority: directory.join("ca.pem"),
        certificates: [issue("a"), issue("b")],
        echo: ports::free_port(),
        threads,
        directory,
    }
}
