//! Stories of what other units send to local services.

mod abandoned;
mod consumers;
mod freezes;
mod gate;
mod message;
mod mirrored;
mod push;
mod queue_gate;
mod rpc;
mod shadow;
#[cfg(test)]
mod tests;

pub use consumers::{Consumer, Consumers};
pub use gate::{GateParts, GateTokens, OwnerGate};
pub use message::{MessageParts, Messages};
pub use push::{IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX, Notice, Notices, Push, PushParts, ToldFn};
pub use queue_gate::{KeyOwners, QueueGate, QueueGateParts};
pub use rpc::{Parts, Rpc};
pub use shadow::ShadowParts;
