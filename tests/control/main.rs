//! Route stores, each held to the same: the embedded one, one over a stream, and etcd with three members.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test ends where it finds something unexpected; it shares the members of etcd with tests/it"
)]

mod conformance;
mod embedded;
mod etcd;
mod make;
mod remote;
