//! Process-wide plumbing: logging, the access log, metrics, error chains.
//!
//! # Invariants
//! - T1. Keys, payloads and secrets never become labels or fields; label values come from settings or
//!   from closed enums.
//! - T2. What is counted for each call is counted without shared memory; shards add it up ten times a second. Retries are
//!   counted where they happen.
//! - T3. Logs go to standard error. Standard output belongs to the commands.
//!
//! # Not here
//! The metrics of a component (its own `metrics.rs`), the address they are read from (`admin`).

pub mod access;
pub mod calls;
mod chain;
pub mod kept;
mod logging;
mod openmetrics;
mod registry;
mod repeats;
pub mod retries;
mod settings;
pub mod span;

pub use chain::Chain;
pub use logging::{LogError, LogHandle, init};
pub use openmetrics::OPENMETRICS;
pub use registry::{LATENCY_BUCKETS, Registry, SIZE_BUCKETS};
pub use repeats::Repeats;
pub use settings::{Format, Settings};
