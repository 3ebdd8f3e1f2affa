//! May a call pass, and how fast.

mod budget;

pub use budget::RetryBudget;
