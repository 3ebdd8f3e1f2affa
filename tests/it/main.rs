//! Tests of whole relays: real processes, real sockets, real certificates.
//!
//! `harness` starts relays and makes paths between them bad, `services` are what stands behind and in
//! front of them, the other modules are the tests, by subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "a test that cannot go on fails, and owns the clock, the tasks and the output of its process"
)]

mod abuse;
mod access_list;
mod api;
mod canaries;
mod dashboards;
mod deadlines;
mod disk;
mod durability;
mod edges;
mod endings;
mod endurance;
mod fidelity;
mod flow;
mod harness;
mod hooks;
mod links;
mod lives;
mod local;
mod local_mode;
mod logs;
mod message_moves;
mod messages;
mod moves;
mod operate;
mod owners;
mod provisional;
mod publish_waits;
mod quorum;
mod reads;
mod relays;
mod reload;
mod retries;
mod routing;
mod services;
mod shadows;
mod tokens;
mod trace;
mod units;
mod watches;
