//! The control group: where routes are kept, and how each relay keeps its copy of them.
//!
//! # Path
//! A [`Store`](store::Store) keeps the records of [`routing::record`](crate::routing::record). Each relay reads its feed into a copy
//! that look-ups use, tells it that it is alive, and reports when it has applied a freeze. Moves are driven by any relay.
//!
//! # Not here
//! Which unit owns a key by a given copy (`routing`), and what becomes of a call (`outbound`, `inbound`).

pub mod access;
pub mod authority;
pub mod book;
pub mod claims;
pub mod clock;
pub mod embedded;
pub mod etcd;
pub mod heard;
pub mod keeper;
pub mod keys;
pub mod ledger;
pub mod mover;
pub mod operator;
pub mod provisional;
mod question;
pub mod remote;
mod settings;
pub mod shadows;
#[cfg(test)]
mod sim;
pub mod store;
pub mod tokens;
pub mod worker;

pub use settings::{DimensionSettings, EtcdSettings, PlacementKind, Settings, StoreKind, TokenSettings, TokensOf};
