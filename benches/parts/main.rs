//! What the parts of a call and of a message cost, without sockets and without threads.
//!
//! ```text
//! cargo bench --bench parts                   all; about three minutes
//! cargo bench --bench parts -- --quick        a few seconds
//! cargo bench --bench parts -- frame/         those whose name has this in it
//! cargo bench --bench parts -- overrides      look-ups among 10 million moved keys, with percentiles; not among all; a minute
//! cargo bench --bench parts -- overrides --quick    the same among 100,000, to see that it works
//! cargo bench --bench parts -- share          how many calls need the route store; not among all
//! ```
//! Each prints the time of one operation: bounds of the confidence interval around the estimate, and what changed since
//! the last run on this machine. Where a part works in batches, one iteration is one call of a full batch.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark that cannot go on stops, and owns the clock"
)]

mod counting;
mod engine;
mod frames;
mod http2;
mod inbox;
mod log;
mod look_ups;
mod outbox;
mod routes;
mod token_share;
mod tokens;

use criterion::{Criterion, criterion_group};

/// The allocator of the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(
    parts,
    counting::bench,
    engine::bench,
    frames::bench,
    http2::bench,
    inbox::bench,
    log::bench,
    look_ups::bench,
    outbox::bench,
    tokens::bench,
);

fn main() {
    let is_asked = |what: &str| std::env::args().any(|argument| argument == what);
    // They print what they find themselves, and what the others set up would only keep them waiting.
    if is_asked("overrides") {
        return routes::print(is_asked("--quick"));
    }
    if is_asked("share") {
        return token_share::print();
    }
    parts();
    Criterion::default().configure_from_args().final_summary();
}
