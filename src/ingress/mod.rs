//! Local services talk to us.

pub mod access;
pub mod api;
pub mod framed;
pub mod grpc;
pub mod messages;
mod routes;
mod updates;
