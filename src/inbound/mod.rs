//! Stories of what other units send to local services.

mod consumers;
mod push;
mod rpc;

pub use consumers::{Consumer, Consumers};
pub use push::{IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX, Push, PushParts};
pub use rpc::{Parts, Rpc};
