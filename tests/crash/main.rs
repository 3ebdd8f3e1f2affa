//! The crash campaign: relays are killed at random moments while messages pass through them, and a ledger in another
//! process knows what was acknowledged (M-A4, M-B1 to M-B3, M-C1).
//!
//! ```text
//! producers -> relay A -> relay B -> consumers        the ledger, the producers and the consumers are this process
//! ```
//! A, B or both are killed or stopped for a while; each restart has other settings. A round with too few
//! acknowledgements is not counted: what nobody uses breaks nowhere.
//!
//! ```text
//! cargo test --test crash                                                         50 kills
//! STRAIT_SEED=7 cargo test --test crash fifty                                     the same with another seed
//! STRAIT_KILLS=1000 STRAIT_MESSAGES=10000000 cargo test --release --test crash -- --ignored --nocapture
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::float_cmp,
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "a test that cannot go on fails, and owns the clock, the tasks and the output of its process; it shares the \
              harness with tests/it"
)]

mod campaign;
mod content;
mod edge;
#[path = "../it/harness/mod.rs"]
mod harness;
mod ledger;
mod plan;

use campaign::Campaign;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

// M-A4, M-B1, M-B2, M-B3, M-C1
#[test]
fn what_was_acknowledged_survives_fifty_kills_of_either_relay() {
    let campaign = Campaign {
        seed: number("STRAIT_SEED", 1),
        kills: number("STRAIT_KILLS", 50),
        messages: 0,
        life_ms: 50..700,
        load_min: 100.0,
    };
    campaign.run();
}

// M-A4, M-B1, M-B2, M-B3, M-C1
#[test]
#[ignore = "the long form; takes most of an hour with a release build"]
fn what_was_acknowledged_survives_a_thousand_kills() {
    let campaign = Campaign {
        seed: number("STRAIT_SEED", 1),
        kills: number("STRAIT_KILLS", 1_000),
        messages: number("STRAIT_MESSAGES", 10_000_000),
        life_ms: 50..2_000,
        load_min: 2_000.0,
    };
    campaign.run();
}
