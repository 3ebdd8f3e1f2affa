//! `[delivery.grpc]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ByteSize;
use crate::wire::http2::{Limits, Pace};
use crate::wire::pace::LeastPace;

/// `[delivery.grpc]`: how local services are called over cleartext HTTP/2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Calls under way on one connection, if the service does not allow fewer. Default 1024.
    pub streams_max: usize,
    /// Calls that may wait on a connection for the service to allow another stream; more wait for any connection
    /// (`services.<name>.waiting_max`). Default 256.
    pub pending_max: usize,
    /// Fields of a reply's header block. A larger one fails the call as `too_large`. Default 64.
    pub header_fields_max: usize,
    /// Bytes of a reply's header block, with 32 for each field. Default 16 KiB.
    pub header_bytes_max: ByteSize,
    /// Reply bytes a service may send ahead of what was passed on, per call. Default 256 KiB.
    pub stream_window: ByteSize,
    /// The same for a connection. Default 4 MiB.
    pub connection_window: ByteSize,
    /// Reply bytes of a connection that may wait in this relay; more are not read. Default 16 MiB.
    pub held_bytes_max: ByteSize,
    /// Longest message that is translated between framed and gRPC. Default 4 MiB.
    pub translated_bytes_max: ByteSize,
    /// Time for the service's settings after connecting. Default 5 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub preface_timeout: Duration,
    /// Time for a header block to arrive. Default 10 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// A service that takes nothing for so long while there is something to write is disconnected. Default 30 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub write_timeout: Duration,
    /// Silence after which a service is asked for a sign of life. Default 0s = never: health checks notice a
    /// dead service, and servers that count pings (grpc-go allows one in 5 min) disconnect those who ask often.
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
            streams_max: 1024,
            pending_max: 256,
            header_fields_max: 64,
            header_bytes_max: ByteSize::kib(16),
            stream_window: ByteSize::kib(256),
            connection_window: ByteSize::mib(4),
            held_bytes_max: ByteSize::mib(16),
            translated_bytes_max: ByteSize::mib(4),
            preface_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            keepalive: Duration::ZERO,
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            streams_max: 0,
            fields_max: self.header_fields_max,
            fields_bytes_max: self.header_bytes_max.as_usize(),
            stream_window: u32::try_from(self.stream_window.as_u64()).unwrap_or(u32::MAX >> 1),
            connection_window: u32::try_from(self.connection_window.as_u64()).unwrap_or(u32::MAX >> 1),
            held_bytes_max: self.held_bytes_max.as_usize(),
            // A service that ends many calls in errors is not an attacker.
            idle_frames_max: 100_000,
            ..Limits::default()
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace {
            settings: self.preface_timeout,
            headers: self.header_timeout,
            write: LeastPace {
                bytes_per_second: 0,
                time: self.write_timeout,
            },
            keepalive: self.keepalive,
            keepalive_answer: self.keepalive_timeout,
        }
    }
}
