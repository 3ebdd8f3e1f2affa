//! Local services talk to us.

pub mod framed;
pub mod grpc;
