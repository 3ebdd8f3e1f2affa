//! Figures of the relay that compare it with nothing bought: with bare QUIC, with itself under growth, and with nothing
//! to do. Each is a ratio of one run, interleaved A B A B, with a median and the lowest and highest round.
//!
//! ```text
//! cargo bench --bench figures -- bodies        large bodies on a link against one plain quinn connection
//! cargo bench --bench figures -- loss          small calls on a bad path against a stream per call
//! cargo bench --bench figures -- floor         framed calls through two relays against bare forwarders
//! cargo bench --bench figures -- units         cost of a call with 1, 100 and 1,000 other units
//! cargo bench --bench figures -- connections   cost of a call with 10 and 10,000 local connections
//! cargo bench --bench figures -- shards        calls/s with one and two threads of the data plane
//! cargo bench --bench figures -- idle          memory, CPU, scrape and size of a relay with nothing to do
//! ```
//! Without a name all of them run, one after the other, in about ten minutes; `--quick` makes each a matter of
//! seconds, to see that it works. `--rounds` and `--seconds` change the rest.
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
mod bare;
mod bodies;
#[path = "../../tests/it/harness/certs.rs"]
mod certs;
mod crowd;
mod floor;
mod growth;
mod idle;
#[path = "../../tests/it/harness/impairer.rs"]
mod impairer;
mod lean;
mod link;
mod loss;
mod pace;
mod plain;
#[path = "../../tests/it/harness/ports.rs"]
mod ports;
#[path = "../relay/process.rs"]
mod process;
mod speech;
#[path = "../relay/spread.rs"]
mod spread;
mod stage;
#[path = "../../tests/it/harness/usage.rs"]
mod usage;

use std::time::Duration;

use clap::{Parser, ValueEnum};

use stage::Stage;

/// The allocator of the product, for what it is compared with as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the relay against bare QUIC, under growth, and idle.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if nothing is named.
    #[arg(value_enum)]
    figure: Vec<Figure>,
    /// Rounds of each side.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of a round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Short rounds, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Figure {
    Bodies,
    Loss,
    Floor,
    Units,
    Connections,
    Shards,
    Idle,
}

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Rounds of each side.
    pub rounds: usize,
    /// Of a round.
    pub time: Duration,
    /// Whether this is only to see that it works.
    pub quick: bool,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The benchmark runs itself for the processes it needs.
    if let Some((role, rest)) = words.split_first() {
        match role.as_str() {
            bare::ROLE => return bare::main(rest),
            crowd::ROLE => return crowd::main(rest),
            lean::ECHO => return lean::echo_main(rest),
            lean::LOAD => return lean::load_main(rest),
            _ => {}
        }
    }
    run(&Arguments::parse());
}

fn run(arguments: &Arguments) {
    let (rounds, seconds) = if arguments.quick { (2, 0.5) } else { (5, 2.0) };
    let effort = Effort {
        rounds: arguments.rounds.unwrap_or(rounds).max(1),
        time: Duration::from_secs_f64(arguments.seconds.unwrap_or(seconds)),
        quick: arguments.quick,
    };
    let figures = if arguments.figure.is_empty() {
        Figure::value_variants()
    } else {
        &arguments.figure
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cpus} CPUs; {} rounds of {:?}; median [lowest..highest]",
        effort.rounds, effort.time
    );
    for figure in figures {
        let stage = Stage::new(&format!("{figure:?}").to_lowercase());
        println!();
        match figure {
            Figure::Bodies => bodies::measure(&stage, effort),
            Figure::Loss => loss::measure(&stage, effort),
            Figure::Floor => floor::measure(&stage, effort),
            Figure::Units => growth::units(&stage, effort),
            Figure::Connections => growth::connections(&stage, effort),
            Figure::Shards => growth::shards(&stage, effort),
            Figure::Idle => idle::measure(&stage, effort),
        }
    }
}

/// A ratio of two medians, and whether it is what we want.
pub fn ratio(what: &str, value: f64, wanted: Wanted) -> String {
    let (met, text) = match wanted {
        Wanted::AtLeast(limit) => (value >= limit, format!(">= {limit}")),
        Wanted::AtMost(limit) => (value <= limit, format!("<= {limit}")),
    };
    format!(
        "{what}: {value:.2} (wanted {text}: {})",
        if met { "met" } else { "NOT met" }
    )
}

/// What a ratio should be.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}
