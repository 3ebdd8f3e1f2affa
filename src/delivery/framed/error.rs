//! Why a framed connection ended.

use std::io;
use std::time::Duration;

use crate::wire::frame::FrameError;
use crate::wire::hello::HelloError;

/// A framed connection cannot go on. The text is sent to the other side in a last `FAILED` frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The bytes are not frames.
    #[error("{0}")]
    Frame(FrameError),
    /// The two sides do not fit.
    #[error("{0}")]
    Hello(HelloError),
    /// The other side refused us, with its own words.
    #[error("the other side refused the connection: {0}")]
    Refused(String),
    /// A frame that must not be sent here or now.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// No hello in time.
    #[error("no HELLO within {0:?}")]
    HelloTimeout(Duration),
    /// A frame began and did not end in time.
    #[error("a frame was begun and not ended within {0:?}")]
    SlowFrame(Duration),
    /// The other side reads nothing.
    #[error("nothing was read by the other side for {0:?}")]
    SlowReader(Duration),
    /// Nothing happened for the idle time.
    #[error("nothing was sent for {0:?} and no call is open")]
    Idle(Duration),
    /// The socket broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
}

impl SessionError {
    /// The word for metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Frame(FrameError::TooLong { .. } | FrameError::TooMany(_)) => "oversize",
            Self::Frame(_) => "bad_frame",
            Self::Hello(_) | Self::Refused(_) => "hello_refused",
            Self::Violation(_) => "violation",
            Self::HelloTimeout(_) => "hello_timeout",
            Self::SlowFrame(_) => "slow_frame",
            Self::SlowReader(_) => "slow_reader",
            Self::Idle(_) => "idle",
            Self::Io(_) => "io",
        }
    }
}

/// How a framed connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The other side closed it between frames.
    Closed,
    /// It was drained.
    Drained,
    /// Something was wrong.
    Failed(SessionError),
}

impl Ended {
    /// All words of [`Ended::as_str`], for registering series.
    pub const ALL: [&'static str; 11] = [
        "bad_frame",
        "closed",
        "drained",
        "hello_refused",
        "hello_timeout",
        "idle",
        "io",
        "oversize",
        "slow_frame",
        "slow_reader",
        "violation",
    ];

    /// The word for metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Drained => "drained",
            Self::Failed(error) => error.as_str(),
        }
    }
}
