//! May a call pass, and how fast: today, may it be sent again.
//!
//! # Path
//! [`RetryBudgets`] is made once and shared; each shard takes its [`ShardBudgets`], counts its calls there and asks for
//! a [`Permit`] before it sends one again. `budget` decides, `retries` has the counters and the lock.
//!
//! # Not here
//! Which failures may be tried again, and when (`outbound`).

mod budget;
mod retries;
mod settings;

pub use retries::{Active, Granted, Permit, RetryBudgets, ShardBudget, ShardBudgets, Ticket};
pub use settings::RetrySettings;
