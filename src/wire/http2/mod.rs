//! HTTP/2 sessions: bytes to header blocks and body chunks, and back, over libnghttp2.
//!
//! # Path
//! [`Link`] moves bytes between a socket and a [`Session`]; `ingress::grpc` and `delivery::grpc` turn
//! [`Event`]s into calls. One batch = all bytes of one read: its events come out combined, so a small
//! request is one [`Event::Part`] with head, body and end.
//!
//! # Invariants
//! - H1. Only `session` holds `unsafe`; everything it calls back is safe code in `state`, and a panic there
//!   ends the session, never the process.
//! - H2. A [`StreamRef`] of a stream that is gone is recognised and ignored.
//! - H3. Header blocks, open streams, bytes held and frames without effect are bounded by [`Limits`].
//! - H4. A stream that is reset in the batch that opened it is never seen outside (rapid reset), nor is one
//!   whose header block was not accepted.
//! - H5. A body that the peer does not read leaves half of the connection's window to others.
//!
//! # Not here
//! What a call is: this module knows streams, header blocks and body chunks.

mod batch;
mod fields;
mod limits;
mod link;
mod outgoing;
mod resets;
mod session;
mod state;

use std::fmt;

use bytes::Bytes;

pub use limits::{Limits, ResetLimits};
pub use link::{Link, LinkEnd, Pace};
pub use session::{RequestHead, Session, SessionError};

use crate::model::Metadata;

/// Error codes of RFC 9113 that relays use.
pub mod code {
    /// Nothing is wrong.
    pub const NO_ERROR: u32 = 0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A fault of this side.
    pub const INTERNAL_ERROR: u32 = 2;
    /// The stream was not processed; it may be sent again.
    pub const REFUSED_STREAM: u32 = 7;
    /// The stream is no longer wanted.
    pub const CANCEL: u32 = 8;
    /// The peer causes too much work.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Sends requests.
    Client,
    /// Answers them.
    Server,
}

/// A stream of a session: its number, and where the session keeps it. Numbers are never used twice
/// on a connection, so a stale one is recognised.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StreamRef {
    /// Slot in the session's table; small and reused.
    pub index: u32,
    /// HTTP/2 stream number.
    pub id: u32,
}

impl StreamRef {
    /// Both numbers in one.
    pub fn pack(self) -> u64 {
        (u64::from(self.index) << 32) | u64::from(self.id)
    }

    /// The reverse of [`StreamRef::pack`].
    pub fn unpack(packed: u64) -> Self {
        let low = packed & u64::from(u32::MAX);
        Self {
            index: u32::try_from(packed >> 32).unwrap_or(u32::MAX),
            id: u32::try_from(low).unwrap_or(u32::MAX),
        }
    }
}

/// What happened on a session.
#[derive(Debug)]
pub enum Event {
    /// A stream ended before both sides were done with it.
    Closed {
        /// Which.
        stream: StreamRef,
        /// What [`Session::request`] was given; 0 on servers.
        token: u64,
        /// Error code of RFC 9113.
        code: u32,
    },
    /// The peer takes no stream above this one.
    Goaway {
        /// The last stream it has processed or will.
        last: u32,
        /// Error code of RFC 9113.
        code: u32,
    },
    /// Something of a message.
    Part(Part),
    /// The answer to [`Session::ping`].
    Pong,
    /// Bytes that were submitted with `credit` went out.
    Sent {
        /// Which stream.
        stream: StreamRef,
        /// What [`Session::request`] was given; 0 on servers.
        token: u64,
        /// How many.
        bytes: usize,
    },
    /// The peer's settings arrived.
    Settings,
}

/// Whatever of a message arrived in one batch.
pub struct Part {
    /// Which stream.
    pub stream: StreamRef,
    /// What [`Session::request`] was given; 0 on servers.
    pub token: u64,
    /// The head, in the first part.
    pub head: Option<Head>,
    /// Body bytes; may be empty. Must be given back with [`Session::consume`].
    pub chunk: Bytes,
    /// The trailing fields, if there are any.
    pub trailers: Option<Metadata>,
    /// The trailing fields went over [`Limits`]; what did is missing.
    pub is_cut: bool,
    /// No more follows.
    pub end: bool,
}

impl fmt::Debug for Part {
    /// No payload (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("stream", &self.stream)
            .field("token", &self.token)
            .field("head", &self.head)
            .field("bytes", &self.chunk.len())
            .field("trailers", &self.trailers)
            .field("is_cut", &self.is_cut)
            .field("end", &self.end)
            .finish()
    }
}

/// The head of a request or a response.
pub struct Head {
    /// `:path`; empty in responses.
    pub path: Bytes,
    /// `:authority`, or `host` where that is absent; empty in responses.
    pub authority: Bytes,
    /// Fields to pass on, in order.
    pub fields: Metadata,
    /// Fields that concern this hop: `strait-*`, `grpc-timeout`, `te`.
    pub apart: Metadata,
    /// `:status`; 0 in requests.
    pub status: u16,
    /// Whether the method is POST.
    pub is_post: bool,
    /// The block went over [`Limits`]; what did is missing.
    pub is_too_large: bool,
}

impl fmt::Debug for Head {
    /// Names of fields, and no address or path: what stands behind a `?` may be a secret (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("fields", &self.fields)
            .field("apart", &self.apart)
            .field("status", &self.status)
            .field("is_post", &self.is_post)
            .field("is_too_large", &self.is_too_large)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
