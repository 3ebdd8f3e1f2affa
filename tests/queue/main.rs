//! What operators of messages see and do: the admin address and the command line, before a queue that answers from a
//! script. Real relays are in `tests/it/operate.rs`.

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
mod texts;
