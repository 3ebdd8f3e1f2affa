//! The campaign of moves: keys migrate back and forth between three units while everybody writes to them, and while relays and
//! members of etcd are killed and stopped (R-I1 to R-I5, R-I11, R-I14, R-3.12).
//!
//! ```text
//! writers at all relays -> relays a-1 a-2 b-1 c-1 -> services that record each write       all but the relays is this process
//!                               |
//!                  three members of etcd
//! ```
//! Conversations (`cid`) have an infinite lease, orders (`oid`) one of 7 s; both are claimed by whoever writes first. The ledger
//! knows when each write was begun and done, where, and under which epoch, and what its caller was told.
//!
//! ```text
//! cargo test --test moves short                                the short form
//! STRAIT_SEED=7 cargo test --test moves short -- --nocapture   the same with another seed
//! STRAIT_KEYS=200 STRAIT_FAULTS=200 cargo test --release --test moves long -- --ignored --nocapture
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
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
#[path = "../it/services/client.rs"]
mod client;
#[path = "../it/services/codec.rs"]
mod codec;
mod figures;
#[path = "../it/harness/mod.rs"]
mod harness;
mod judge;
mod ledger;
mod mover;
mod plan;
mod shop;
mod stage;
mod store_away;
mod writers;

use campaign::Campaign;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

// R-I1 to R-I5, R-I11, R-I14, R-3.12, R-3.8, R-3.9
#[test]
fn the_short_form_every_acknowledged_write_is_at_one_owner_per_epoch() {
    let campaign = Campaign {
        seed: number("STRAIT_SEED", 1),
        keys: 36,
        faults: 6,
        writers: 6,
        phases: 1,
        long_pauses: false,
    };
    campaign.run();
}

// R-I1 to R-I5, R-I11, R-I14, R-3.12, R-3.8, R-3.9
#[test]
#[ignore = "the long form; takes about as many times three seconds as there are faults"]
fn the_long_form_every_acknowledged_write_is_at_one_owner_per_epoch() {
    let campaign = Campaign {
        seed: number("STRAIT_SEED", 1),
        keys: number("STRAIT_KEYS", 200) as usize,
        faults: number("STRAIT_FAULTS", 200) as usize,
        writers: 12,
        phases: 4,
        long_pauses: true,
    };
    campaign.run();
}
