//! The framed protocol over real sockets: `ingress::framed` and delivery to framed services on one side,
//! the Rust client or hand-made frames on the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "a test that cannot go on fails, and owns the tasks and the clock of its process"
)]

mod client;
mod endpoint;
mod raw;
mod relay;
mod socket;
