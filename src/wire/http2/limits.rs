//! What a session allows its peer.

use std::time::Duration;

/// Limits of one session. Each is enforced before memory is spent on what exceeds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Streams the peer may have open.
    pub streams_max: u32,
    /// Fields of a header block.
    pub fields_max: usize,
    /// Bytes of a header block, with 32 per field as HTTP/2 counts.
    pub fields_bytes_max: usize,
    /// Receive window of a stream in bytes.
    pub stream_window: u32,
    /// Receive window of the connection in bytes.
    pub connection_window: u32,
    /// Received bytes that may wait to be passed on, over all streams; the connection's window stays shut above it.
    pub held_bytes_max: usize,
    /// What a client may reset.
    pub resets: ResetLimits,
    /// Suspicious frames at once, and per second after that.
    pub glitches: (u64, u64),
    /// Frames without effect per second: empty DATA, SETTINGS, PRIORITY, and streams that a server ends in an error.
    pub idle_frames_max: u32,
    /// CONTINUATION frames of one header block.
    pub continuations_max: usize,
    /// Entries of one SETTINGS frame.
    pub settings_max: usize,
    /// PING and SETTINGS acknowledgements that may wait to be written.
    pub acks_max: usize,
}

/// Streams that a client may reset early, beyond as many as it let this side answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResetLimits {
    /// At once.
    pub burst: u64,
    /// And per second after that.
    pub per_second: u64,
    /// Later than this after the stream was opened a reset is not counted.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            fields_max: 64,
            fields_bytes_max: 16 * 1024,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            held_bytes_max: 16 * 1024 * 1024,
            resets: ResetLimits {
                burst: 1000,
                per_second: 200,
                within: Duration::from_millis(20),
            },
            glitches: (1000, 33),
            idle_frames_max: 2000,
            continuations_max: 8,
            settings_max: 32,
            acks_max: 1000,
        }
    }
}
