//! Stories of what other units send to local services.

mod message;
mod rpc;

pub use message::{MessageParts, Messages};
pub use rpc::{Parts, Rpc};
