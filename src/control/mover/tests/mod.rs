//! Movers and a ledger: whatever is lost, late or repeated, and whoever dies.

mod driver;
mod history;
mod hooks;
mod rules;
mod scripted;
mod terms;
mod world;
