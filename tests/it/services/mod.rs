//! What stands behind and in front of relays in tests.

mod client;
mod codec;
mod echo;
mod prometheus;
mod python;
mod raw;

pub use client::{Client, channel, request, stream_of, to_b};
pub use codec::BytesCodec;
pub use echo::Echo;
pub use prometheus::{Prometheus, promtool_complaints, promtool_rules};
pub use python::{PythonEcho, python_client};
pub use raw::{RawClient, RawReply, RawService, grpc_message, read_all, reset, trailers_only};
