//! Movers and a ledger: whatever is lost, late or repeated, and whoever dies.

mod cleanup;
mod driver;
mod evacuations;
mod history;
mod hooks;
mod rules;
mod scripted;
mod terms;
mod undelivered;
mod world;
