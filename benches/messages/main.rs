//! Messages with real processes, side by side with NATS `JetStream`: publisher -> A -> mutual TLS -> B -> consumer, all on this
//! machine, each server with its files on the same disk.
//!
//! ```text
//! benches/messages/install                    once: NATS 2.15
//! cargo bench --bench messages                everything; about half an hour
//! cargo bench --bench messages -- --quick     short rounds, to see that it works
//! cargo bench --bench messages -- accepted travel --peer strait --peer nats-always --rounds 5
//! ```
//! Figures: `accepted` (publish until A's disk has it), `travel` (publisher to consumer), `relayed` (publish until B's disk
//! has it), `drain` (a backlog), `replay` (a backlog at a set rate beside live traffic), `hoard` (memory and restart with many
//! messages), `growth` (many keys and topics). Peers take turns; read ratios of one run, never figures of two. What
//! counts is looked at: every message that was acknowledged must reach the consumer, by its number.
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
    dead_code,
    unreachable_pub,
    reason = "a benchmark that cannot go on stops, and owns its output, its tasks and the clock; it shares files with the tests"
)]

#[path = "../../tests/it/harness/background.rs"]
mod background;
#[path = "../../tests/it/harness/certs.rs"]
mod certs;
mod drain;
mod growth;
mod hoard;
mod ledger;
#[path = "../figures/link.rs"]
mod link;
mod load;
mod nats;
mod nats_speech;
mod peers;
#[path = "../figures/plain.rs"]
mod plain;
#[path = "../../tests/it/harness/ports.rs"]
mod ports;
mod probe;
#[path = "../relay/process.rs"]
mod process;
mod publish;
mod relayed;
mod replay;
mod rows;
mod speech;
mod speed;
#[path = "../relay/spread.rs"]
mod spread;
mod stage;
mod strait;
mod strait_speech;
#[path = "../../tests/it/harness/usage.rs"]
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use peers::Peer;
use rows::{Effort, Figure};
use stage::Stage;

/// The allocator of the product, for the load as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures messages.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if nothing is named.
    #[arg(value_enum)]
    figure: Vec<Name>,
    /// Peers to measure; all that are installed if none is given.
    #[arg(long, value_enum)]
    peer: Vec<Peer>,
    /// Messages in flight: 1, 64 or 1024.
    #[arg(long)]
    in_flight: Vec<usize>,
    /// Rounds of each peer.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Messages for `hoard`; default 10,000,000, of 100 bytes.
    #[arg(long)]
    messages: Option<u64>,
    /// Where the servers have their files: on the disk that is to be measured.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Short rounds, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Name {
    Accepted,
    Travel,
    Relayed,
    Drain,
    Replay,
    Hoard,
    Growth,
}

fn main() {
    let arguments = Arguments::parse();
    let quick = arguments.quick;
    let effort = Effort {
        peers: choose(&arguments.peer),
        rounds: arguments.rounds.unwrap_or(if quick { 1 } else { 3 }),
        time: Duration::from_secs_f64(arguments.seconds.unwrap_or(if quick { 0.5 } else { 3.0 })),
        hoard: arguments.messages.unwrap_or(if quick { 100_000 } else { 10_000_000 }),
        quick,
    };
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/messages");
    let directory = arguments.directory.clone().unwrap_or(default);
    let stage = Stage::new(&directory.join("run"));
    let mut names = arguments.figure.clone();
    if names.is_empty() {
        names.extend_from_slice(Name::value_variants());
    }
    let mut in_flight = arguments.in_flight.clone();
    if in_flight.is_empty() {
        in_flight.extend_from_slice(&[1, 64, 1024]);
    }
    let with_strait = effort.peers.contains(&Peer::Strait);
    let mut figures: Vec<Figure> = Vec::new();
    for name in names {
        match name {
            Name::Accepted => {
                figures.extend(in_flight.iter().map(|count| publish::accepted(&stage, &effort, *count)));
            }
            Name::Travel => figures.push(publish::travel(&stage, &effort)),
            Name::Drain => figures.push(drain::drain(&stage, &effort)),
            Name::Relayed if with_strait => figures.push(relayed::relayed(&stage, &effort)),
            Name::Replay if with_strait => figures.push(replay::replay(&stage, &effort)),
            Name::Hoard if with_strait => figures.push(hoard::hoard(&stage, &effort)),
            Name::Growth if with_strait => figures.extend(growth::growth(&stage, &effort)),
            // These compare Strait with itself.
            Name::Relayed | Name::Replay | Name::Hoard | Name::Growth => {}
        }
    }
    write(&directory, &figures);
    let _ = fs::remove_dir_all(&stage.directory);
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

fn write(directory: &Path, figures: &[Figure]) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let text: String = figures.iter().map(Figure::markdown).collect();
    println!(
        "{cpus} CPUs; nats-server 2.15; strait {}\n{text}",
        env!("CARGO_PKG_VERSION")
    );
    let json = serde_json::json!({ "cpus": cpus, "figures": figures });
    let path = directory.join("messages.json");
    fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("written to {}", path.display());
}
