//! The gRPC edges over real sockets: `ingress::grpc` against the h2 client and hostile frames,
//! `delivery::grpc` against the h2 server, and both in a row.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(unreachable_pub, missing_docs, reason = "tests")]

mod delivery;
mod hostile;
mod ingress;
mod slow;
mod support;
mod windows;
