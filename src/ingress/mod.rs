//! Local services talk to us.

pub mod access;
mod access_list;
pub mod api;
pub mod framed;
pub mod grpc;
pub mod messages;
mod routes;
mod updates;
