//! Where services publish and receive messages, over real sockets: the relay's own API in gRPC and framed, consumers that
//! are called, the Rust client. Behind them is a queue in memory that says what a test wants.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "a test that cannot go on fails, and owns the tasks and the clock of its process"
)]

mod client;
#[path = "../it/services/codec.rs"]
mod codec;
mod grpc;
mod publish;
mod push;
mod queue;
mod relay;
mod subscribe;
