//! Local services talk to us.

pub mod api;
pub mod framed;
pub mod grpc;
