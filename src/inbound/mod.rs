//! Stories of what other units send to local services.

mod rpc;

pub use rpc::{Parts, Rpc};
