//! Movers and a ledger: whatever is lost, late or repeated, and whoever dies.

mod history;
mod scripted;
mod world;
