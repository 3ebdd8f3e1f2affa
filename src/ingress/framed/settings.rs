//! `[ingress.framed]` of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::delivery::framed::Limits;
use crate::model::ByteSize;
use crate::wire::envelope::MESSAGE_BYTES_DEFAULT;
use crate::wire::hello::{
    CALL_BYTES_DEFAULT, CALL_BYTES_MIN, FRAME_BYTES_DEFAULT, FRAME_BYTES_HARD_MAX, FRAME_BYTES_MIN,
};
use crate::wire::pace::LeastPace;

/// `[ingress.framed]`: where local services reach this relay with the framed protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// TCP addresses to listen on; loopback only, as there is no authentication. Default
    /// `["127.0.0.1:7401"]`; `[]` = no TCP.
    pub listen: Vec<SocketAddr>,
    /// Unix socket, relative to `relay.data_dir`. Costs a third less CPU than TCP. Default
    /// `strait.sock`; empty = no Unix socket.
    pub socket: PathBuf,
    /// Calls one connection may have open at a time; more are answered `limited`. Default 4096.
    pub calls_max: u32,
    /// Body bytes of one call that may wait here for the service or peer that takes them; a larger
    /// value moves large bodies faster over long distances and costs memory. Default 256KiB, at least
    /// 64KiB.
    pub call_bytes_max: ByteSize,
    /// Longest frame that is accepted; a longer one ends the connection. Default 1MiB, 256KiB to 16MiB.
    pub frame_bytes_max: ByteSize,
    /// Longest message that is translated between gRPC and framed; a longer one fails the call.
    /// Default 4MiB.
    pub message_bytes_max: ByteSize,
    /// Services one connection may register. Default 256.
    pub services_max: usize,
    /// Time for the first frame; then the connection is closed. Default 5s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub hello_timeout: Duration,
    /// Time from the first to the last byte of a frame; then the connection is closed. Default 10s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub frame_timeout: Duration,
    /// Bytes per second at which a body moves at least: a request body that has begun and not ended, while this relay
    /// gives credit for it, and a reply that waits for the client's credit. A slower call is ended. Default 1KiB.
    /// 0: any byte will do.
    pub body_rate_min: ByteSize,
    /// Time over which that is measured. Default 10s; 0s switches it off.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub body_rate_time: Duration,
    /// Time for which a client may read nothing, or less than `body_rate_min`, while replies wait for it; then the
    /// connection is closed. Default 30s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub write_timeout: Duration,
    /// A connection without a frame and without an open call for so long is closed. Default 0s = never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value the protocol does not allow.
    #[error("ingress.framed.{key} is {value}, it must be between {min} and {max}")]
    Range {
        /// Key within the section.
        key: &'static str,
        /// What it says.
        value: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// An address other machines can reach.
    #[error(
        "ingress.framed.listen has {0}, which is not a loopback address; the framed protocol has no authentication"
    )]
    NotLoopback(SocketAddr),
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 7401))],
            socket: PathBuf::from("strait.sock"),
            calls_max: limits.calls_max,
            call_bytes_max: size(CALL_BYTES_DEFAULT),
            frame_bytes_max: size(FRAME_BYTES_DEFAULT),
            message_bytes_max: size(MESSAGE_BYTES_DEFAULT),
            services_max: limits.services_max,
            hello_timeout: limits.hello_timeout,
            frame_timeout: limits.frame_timeout,
            body_rate_min: ByteSize::bytes(limits.body_pace.bytes_per_second),
            body_rate_time: limits.body_pace.time,
            write_timeout: limits.write_timeout,
            idle_timeout: limits.idle_timeout,
        }
    }
}

impl Settings {
    /// Checks the values and gives the limits of a connection.
    ///
    /// # Errors
    /// [`SettingsError`] names the key and what it may be.
    pub fn limits(&self) -> Result<Limits, SettingsError> {
        if let Some(open) = self.listen.iter().find(|address| !address.ip().is_loopback()) {
            return Err(SettingsError::NotLoopback(*open));
        }
        within("calls_max", self.calls_max.into(), 1, 1 << 20)?;
        let call_bytes = self.call_bytes_max.as_u64();
        within(
            "call_bytes_max",
            call_bytes,
            size(CALL_BYTES_MIN).as_u64(),
            u32::MAX.into(),
        )?;
        let (min, max) = (size(FRAME_BYTES_MIN).as_u64(), size(FRAME_BYTES_HARD_MAX).as_u64());
        within("frame_bytes_max", self.frame_bytes_max.as_u64(), min, max)?;
        within("message_bytes_max", self.message_bytes_max.as_u64(), 1, u32::MAX.into())?;
        Ok(Limits {
            calls_max: self.calls_max,
            call_bytes_max: self.call_bytes_max.as_usize(),
            frame_bytes_max: self.frame_bytes_max.as_usize(),
            message_bytes_max: self.message_bytes_max.as_usize(),
            services_max: self.services_max,
            hello_timeout: self.hello_timeout,
            frame_timeout: self.frame_timeout,
            write_timeout: self.write_timeout,
            body_pace: LeastPace {
                bytes_per_second: self.body_rate_min.as_u64(),
                time: self.body_rate_time,
            },
            idle_timeout: self.idle_timeout,
        })
    }
}

fn size(bytes: usize) -> ByteSize {
    ByteSize::bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SettingsError::Range { key, value, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_defaults_of_the_connection_and_legal() {
        assert_eq!(Settings::default().limits().unwrap(), Limits::default());
    }

    // O-S4
    #[test]
    fn a_frame_limit_above_the_hard_one_is_refused_by_name() {
        let settings = Settings {
            frame_bytes_max: ByteSize::mib(17),
            ..Settings::default()
        };
        let error = settings.limits().unwrap_err();
        assert!(
            error.to_string().starts_with("ingress.framed.frame_bytes_max"),
            "{error}"
        );
    }
}
