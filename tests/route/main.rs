//! What operators of routes see and do: the admin address and the command line, before a script, and before a store of their
//! own. Real relays are in `tests/it`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests"
)]

mod admin;
mod commands;
mod fake;
mod store;
mod texts;
mod units;
