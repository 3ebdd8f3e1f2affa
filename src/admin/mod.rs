//! Operators talk to us, on a thread and runtime of its own.
//!
//! # Path
//! The app starts [`Admin`] with what there is to see ([`Parts`]); components report named conditions to
//! [`Health`].
//!
//! # Invariants
//! - A1. A busy data plane never makes this address silent, and the other way round.
//! - A2. `GET` changes nothing.
//! - A3. A web page in an operator's browser can neither read nor change anything here.
//! - A4. Where there are tokens, reading and changing are two permissions (O-S3).
//!
//! # Not here
//! The series of a component (its `metrics.rs`), draining (`app`).

mod acts;
mod desk;
mod guard;
mod health;
mod messages;
mod pages;
mod routes;
mod server;
mod settings;
#[cfg(test)]
mod tests;

pub use desk::Desk;
pub use guard::Access;
pub use health::{Condition, Health};
pub use routes::RouteDesk;
pub use server::{Admin, Parts, RoutePolicies, ServerError, StatusSource};
pub use settings::{Settings, SettingsError};
