//! Stories of what local services send to other units.

mod rpc;

pub use rpc::{Parts, Rpc};
