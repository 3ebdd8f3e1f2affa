//! Routes with real stores and real relays, on this machine: what a claim costs against a write of the store itself, and how
//! long callers of a key wait while it moves.
//!
//! ```text
//! tests/run prepare                           once: etcd
//! cargo bench --bench routes                  everything; about three minutes
//! cargo bench --bench routes -- --quick       short rounds, to see that it works
//! cargo bench --bench routes -- claims moves --rounds 5
//! ```
//! Figures: `claims` (a key that nobody has, at the desk of a relay, in turns with a bare write of the same store), `moves` (one
//! key that all relays write to goes from unit to unit; what its callers wait, beside the time that the store takes for a read
//! and a write). Read ratios of one run, never figures of two. What counts is looked at: every write that was acknowledged must
//! have been done once, and none under an old epoch. Look-ups are in `benches/parts` (`overrides`).
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
    unused_imports,
    unreachable_pub,
    reason = "a benchmark that cannot go on stops, and owns its output, its tasks and the clock; it shares files with the tests"
)]

mod bare;
mod claims;
#[path = "../../tests/it/services/client.rs"]
mod client;
#[path = "../../tests/it/services/codec.rs"]
mod codec;
#[path = "../../tests/it/harness/mod.rs"]
mod harness;
#[path = "../../tests/moves/judge.rs"]
mod judge;
#[path = "../../tests/moves/ledger.rs"]
mod ledger;
mod moves;
#[path = "../../tests/moves/plan.rs"]
mod plan;
#[path = "../../tests/moves/shop.rs"]
mod shop;
#[path = "../relay/spread.rs"]
mod spread;
#[path = "../../tests/moves/stage.rs"]
mod stage;
mod table;
#[path = "../../tests/moves/writers.rs"]
mod writers;

use std::fs;
use std::path::Path;

use clap::{Parser, ValueEnum};

use stage::Kept;
use table::{Effort, Figure};

/// The allocator of the product, for the load as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures routes.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if nothing is named.
    figure: Vec<Name>,
    /// Rounds of each.
    #[arg(long)]
    rounds: Option<usize>,
    /// Short rounds, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Name {
    Claims,
    Moves,
}

fn main() {
    let arguments = Arguments::parse();
    let quick = arguments.quick;
    let effort = Effort {
        rounds: arguments.rounds.unwrap_or(if quick { 1 } else { 5 }),
        claims: if quick { 20 } else { 300 },
        moves: if quick { 3 } else { 20 },
    };
    let mut names = arguments.figure;
    if names.is_empty() {
        names.extend_from_slice(Name::value_variants());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut figures: Vec<Figure> = Vec::new();
    for name in names {
        for kept in [Kept::Etcd, Kept::Embedded] {
            let figure = runtime.block_on(async {
                match name {
                    Name::Claims => claims::measure(kept, &effort).await,
                    Name::Moves => moves::measure(kept, &effort).await,
                }
            });
            eprintln!("{}", figure.markdown());
            figures.push(figure);
        }
    }
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let text: String = figures.iter().map(Figure::markdown).collect();
    println!("{cpus} CPUs; strait {}\n{text}", env!("CARGO_PKG_VERSION"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("routes.json");
    let json = serde_json::json!({ "cpus": cpus, "figures": figures });
    fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("written to {}", path.display());
}
