//! `[ingress.grpc]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ByteSize;
use crate::wire::http2::{Limits, Pace, ResetLimits};
use crate::wire::pace::LeastPace;

/// `[ingress.grpc]`: local services call us over cleartext HTTP/2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// TCP addresses to listen on; loopback unless access is controlled otherwise. `[]` switches TCP off.
    /// Default `["127.0.0.1:7400"]`.
    pub listen: Vec<SocketAddr>,
    /// Unix socket to listen on, relative to the data directory; cheaper than TCP. `""` switches it off.
    /// Default `grpc.sock`.
    pub socket: PathBuf,
    /// Calls a connection may have under way; more are refused as not processed, so clients may send them
    /// again. Default 1024.
    pub streams_max: u32,
    /// Fields of a header block. Larger blocks are answered `too_large`. Default 64.
    pub header_fields_max: usize,
    /// Bytes of a header block, with 32 for each field. Larger ones are answered `too_large`. Default 16 KiB.
    pub header_bytes_max: ByteSize,
    /// Request bytes a stream may send ahead of what was passed on. Default 256 KiB.
    pub stream_window: ByteSize,
    /// The same for a connection. Default 4 MiB.
    pub connection_window: ByteSize,
    /// Request bytes of a connection that may wait in this relay; more are not read. Default 16 MiB.
    pub held_bytes_max: ByteSize,
    /// Calls a client may cancel within `resets_within` before it counts as an attack and is disconnected, beyond
    /// as many as it lets this relay answer. Default 1000.
    pub resets_burst: u64,
    /// How many more of them it may cancel per second. Default 200.
    pub resets_per_second: u64,
    /// A call that is cancelled later than this after it began does not count: however many calls of a gateway
    /// reach their deadline at once, it stays connected. Default 20ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub resets_within: Duration,
    /// Time for the client's preface and settings. Default 5 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub preface_timeout: Duration,
    /// Time for a header block to arrive. Default 10 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// Bytes per second at which a body moves at least: a request message that has begun and not ended, while this
    /// relay takes it, and a reply that waits for the client to give room. A slower call is ended; silence between
    /// messages never counts. Default 1KiB. 0: any byte will do.
    pub body_rate_min: ByteSize,
    /// Time over which that is measured. Default 10 s; 0s switches it off.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub body_rate_time: Duration,
    /// A client that reads nothing, or less than `body_rate_min`, for so long while there is something to write is
    /// disconnected. Default 30 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub write_timeout: Duration,
    /// Silence after which a client is asked for a sign of life. Default 30 s; 0s = never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keepalive: Duration,
    /// Time for the answer to that. Default 10 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keepalive_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 7400))],
            socket: PathBuf::from("grpc.sock"),
            streams_max: 1024,
            header_fields_max: 64,
            header_bytes_max: ByteSize::kib(16),
            stream_window: ByteSize::kib(256),
            connection_window: ByteSize::mib(4),
            held_bytes_max: ByteSize::mib(16),
            resets_burst: 1000,
            resets_per_second: 200,
            resets_within: Duration::from_millis(20),
            preface_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            body_rate_min: ByteSize::kib(1),
            body_rate_time: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            streams_max: self.streams_max,
            fields_max: self.header_fields_max,
            fields_bytes_max: self.header_bytes_max.as_usize(),
            stream_window: u32::try_from(self.stream_window.as_u64()).unwrap_or(u32::MAX >> 1),
            connection_window: u32::try_from(self.connection_window.as_u64()).unwrap_or(u32::MAX >> 1),
            held_bytes_max: self.held_bytes_max.as_usize(),
            resets: ResetLimits {
                burst: self.resets_burst,
                per_second: self.resets_per_second,
                within: self.resets_within,
            },
            ..Limits::default()
        }
    }

    /// The least pace of bodies.
    pub(super) fn body_pace(&self) -> LeastPace {
        LeastPace {
            bytes_per_second: self.body_rate_min.as_u64(),
            time: self.body_rate_time,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace {
            settings: self.preface_timeout,
            headers: self.header_timeout,
            write: LeastPace {
                bytes_per_second: self.body_rate_min.as_u64(),
                time: self.write_timeout,
            },
            keepalive: self.keepalive,
            keepalive_answer: self.keepalive_timeout,
        }
    }
}
