//! Bytes to values and back. No clock and no task; `io` and `http2::Link` move bytes, nothing else does I/O.
//!
//! # Invariants
//! - W1. Every length is checked against a limit before anything is allocated for it.
//! - W2. A decoder never panics and never loops without consuming input, whatever the bytes are.

pub mod access;
pub mod attributes;
pub mod authority;
pub mod envelope;
pub mod etcd;
pub mod frame;
pub mod hello;
pub mod http2;
pub mod io;
pub mod kept;
pub mod message;
pub mod messages;
pub mod names;
pub mod owner_control;
pub mod pace;
pub mod routes;
pub mod service;
pub mod shadow;
pub mod status;
pub mod trace;
