//! The frame: what lanes between relays and the framed protocol of local services are made of.
//!
//! ```text
//!  0        1        2                          5                          8
//! +--------+--------+--------------------------+--------------------------+
//! | kind   | flags  | attributes len           | body len                 |
//! +--------+--------+--------------------------+--------------------------+
//! | id                                                                    |
//! +-----------------------------------------------------------------------+ 16
//! | attributes (`wire::attributes`) ...                                   |
//! +-----------------------------------------------------------------------+
//! | body ...                                                              |
//! +-----------------------------------------------------------------------+
//! ```
//! All numbers are big endian. `id` is the number the caller gave the call; replies carry it back. Its
//! lower 32 bits are an index below the number of calls the callee allows (`Hello.calls_max`), its upper
//! 32 bits a generation, so that neither side needs a hash map.
//!
//! # Invariants
//! - F1. A frame longer than the limit is refused from its header alone (W1).
//! - F2. Names are defined (`NAME`) before they are used; a reference to an unknown one is an error.
//! - F3. Deadlines travel as remaining time.
//!
//! # Not here
//! Who may send which frame when: `peer` and `ingress` decide that.

mod decode;
mod encode;
pub mod lanes;
mod raw;
mod sightings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

pub use self::decode::Decoder;
pub use self::encode::{
    Encoder, put_cancel, put_credit, put_drain, put_failed, put_hello, put_ping, put_pong, put_register,
    put_registered, put_renew, put_reply, put_request_body, put_retire, put_route,
};
pub use self::sightings::put_sightings;
use super::attributes::AttributeError;
use super::message::MessageError;
use crate::model::{CancelReason, MetadataError, Part, RelayError, Request, RequestBody, RoutePush, Sighting, UnitId};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;
/// Names one side may define on a connection.
pub const NAMES_MAX: usize = 4096;
/// Longest name that is defined; longer paths travel as text.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest attribute block: metadata and trailers of 64 KiB each, and the rest.
pub const ATTRIBUTES_BYTES_MAX: usize = 192 * 1024;
/// Keys, or units passed, that one request may carry; units that one frame of sightings may name.
pub const LIST_MAX: usize = 64;
/// In place of a call's id: the frame is about the whole connection. `FAILED` with it is the last frame
/// before the sender closes.
pub const CONNECTION: u64 = u64::MAX;

/// One frame, decoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Frame {
    /// The caller gave up.
    Cancel {
        /// Call.
        id: u64,
        /// Why.
        reason: CancelReason,
    },
    /// Body bytes of the call were passed on. `reply` tells whose body.
    Credit {
        /// Call.
        id: u64,
        /// How many bytes.
        bytes: usize,
        /// Of the reply; else of the request.
        reply: bool,
    },
    /// The sender takes no new calls; open ones go on.
    Drain,
    /// A relay ended the call.
    Failed {
        /// Call.
        id: u64,
        /// How.
        error: Box<RelayError>,
    },
    /// First frame of each side; the body is a protobuf `Hello`.
    Hello(Bytes),
    /// Liveness probe; answered by `Pong` with the same number.
    Ping(u64),
    /// Answer to `Ping`.
    Pong(u64),
    /// Body is a protobuf `Register`: a local service says what it serves.
    Register {
        /// Number to answer to.
        id: u64,
        /// The message.
        body: Bytes,
    },
    /// Body is a protobuf `Registered`.
    Registered {
        /// Number of the `Register`.
        id: u64,
        /// The message.
        body: Bytes,
    },
    /// The accepting side of a link asks the dialling side to put another link in its place.
    Renew,
    /// Another link has taken the place of this one: the sender opens calls here only if it has no other
    /// way. With `done` it opens none at all and has none open.
    Retire {
        /// The sender is done with the link.
        done: bool,
    },
    /// Some of a reply. With `large`, further body bytes come on a stream of their own.
    Reply {
        /// Call.
        id: u64,
        /// Content.
        part: Part,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
        /// With `large` and an end: how many bytes that stream carries in all.
        large_bytes: u64,
    },
    /// A call. With `large`, body bytes come on a stream of their own.
    Request {
        /// Call.
        id: u64,
        /// Content; `received` is the time the decoder was given, `deadline` counts from it.
        request: Box<Request>,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
    },
    /// A relay tells a local service that a key it used has another owner.
    Route(RoutePush),
    /// More of a request body.
    RequestBody {
        /// Call.
        id: u64,
        /// Content.
        body: RequestBody,
        /// From here on body bytes travel on their own stream (between relays).
        large: bool,
    },
    /// What the sender sees of other units, as far as that is new (between relays).
    Sightings(Vec<(UnitId, Sighting)>),
    /// A kind this version does not know, without a mandatory bit: skipped.
    Unknown(u8),
}

/// Why bytes are not a frame. All of these end the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Attributes are broken.
    #[error("frame kind {kind}: {source}")]
    Attributes {
        /// Kind of frame.
        kind: u8,
        /// What is wrong.
        source: AttributeError,
    },
    /// An attribute that this kind needs is missing.
    #[error("frame kind {kind} lacks {what}")]
    Missing {
        /// Kind of frame.
        kind: u8,
        /// What is missing.
        what: &'static str,
    },
    /// A list in the body ends too early or holds what it must not.
    #[error("the list of frame kind {0} is broken")]
    List(u8),
    /// A frame kind of 128 or more that this version does not know.
    #[error("frame kind {0} is mandatory and unknown to this version; upgrade this side")]
    Mandatory(u8),
    /// One of the messages is broken.
    #[error("a message of a batch cannot be read")]
    Message(#[from] MessageError),
    /// Metadata is broken.
    #[error("frame kind {kind}: {source}")]
    Metadata {
        /// Kind of frame.
        kind: u8,
        /// What is wrong.
        source: MetadataError,
    },
    /// A name id was used before it was defined, defined twice, or out of range.
    #[error("name {0} is not defined, defined twice, or out of range")]
    NameId(u64),
    /// More keys, units passed or sightings than [`LIST_MAX`], or an attribute block beyond [`ATTRIBUTES_BYTES_MAX`].
    #[error("frame kind {0} carries more attributes than the protocol allows")]
    TooMany(u8),
    /// The frame is longer than the limit of this connection.
    #[error("frame of {size} bytes exceeds the limit of {limit}")]
    TooLong {
        /// As its header says.
        size: usize,
        /// As the settings say.
        limit: usize,
    },
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const REQUEST_BODY: u8 = 4;
    pub(super) const CANCEL: u8 = 5;
    pub(super) const REPLY: u8 = 6;
    pub(super) const FAILED: u8 = 7;
    pub(super) const CREDIT: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
    pub(super) const DRAIN: u8 = 11;
    pub(super) const REGISTER: u8 = 12;
    pub(super) const REGISTERED: u8 = 13;
    pub(super) const RENEW: u8 = 14;
    pub(super) const RETIRE: u8 = 15;
    pub(super) const LANE_OPEN: u8 = 16;
    pub(super) const MESSAGES: u8 = 17;
    pub(super) const GAP: u8 = 18;
    pub(super) const LANE_OPENED: u8 = 19;
    pub(super) const LANE_DENIED: u8 = 20;
    pub(super) const ACK: u8 = 21;
    pub(super) const BUSY: u8 = 22;
    pub(super) const DELIVERED: u8 = 23;
    pub(super) const ENDED: u8 = 24;
    pub(super) const ROUTE: u8 = 25;
    pub(super) const SIGHTINGS: u8 = 26;
}

mod flag {
    /// Last body bytes (request), end of the reply, or no call left (retire).
    pub(super) const END: u8 = 0x01;
    /// Further body bytes travel on a stream of their own.
    pub(super) const LARGE: u8 = 0x02;
    /// The body is in gRPC framing; else it is one message.
    pub(super) const GRPC: u8 = 0x04;
    /// The reply part carries status and initial metadata.
    pub(super) const HEAD: u8 = 0x08;
    /// Credit is for the reply; else for the request.
    pub(super) const REPLY: u8 = 0x10;
}

mod tag {
    pub(super) const PATH: u8 = 1;
    pub(super) const PATH_TEXT: u8 = 2;
    pub(super) const TIMEOUT_US: u8 = 3;
    pub(super) const KEY: u8 = 4;
    pub(super) const KEY_TEXT: u8 = 5;
    pub(super) const UNIT: u8 = 6;
    pub(super) const CLASS: u8 = 7;
    pub(super) const TOKEN: u8 = 8;
    pub(super) const MARKS: u8 = 9;
    pub(super) const METADATA: u8 = 10;
    pub(super) const AUTHORITY: u8 = 11;
    pub(super) const VISITED: u8 = 12;
    pub(super) const EPOCH: u8 = 13;
    pub(super) const SOURCE_SERVICE: u8 = 14;
    pub(super) const REQUEST_ID: u8 = 15;
    pub(super) const ATTEMPT: u8 = 16;
    pub(super) const HTTP_STATUS: u8 = 17;
    pub(super) const TRAILERS: u8 = 18;
    pub(super) const STATUS: u8 = 19;
    pub(super) const MESSAGE: u8 = 20;
    pub(super) const SERVICE_US: u8 = 21;
    pub(super) const RELAY_US: u8 = 22;
    pub(super) const REASON: u8 = 23;
    pub(super) const RETRY: u8 = 24;
    pub(super) const PUSHBACK_MS: u8 = 25;
    pub(super) const OWNER: u8 = 26;
    pub(super) const PLACE_UNIT: u8 = 27;
    pub(super) const PLACE_RELAY: u8 = 28;
    pub(super) const CREDIT: u8 = 29;
    pub(super) const LARGE_BYTES: u8 = 30;
    pub(super) const SOURCE_GEO: u8 = 31;
    pub(super) const SOURCE_UNIT: u8 = 32;
    pub(super) const LANE: u8 = 33;
    pub(super) const BASE: u8 = 34;
    pub(super) const FIRST: u8 = 35;
    pub(super) const LAST: u8 = 36;
    pub(super) const FRONTIER: u8 = 37;
    pub(super) const HIGHEST: u8 = 38;
    pub(super) const CAUSE: u8 = 39;
    pub(super) const ROUTED_BY: u8 = 40;
    pub(super) const TICKET: u8 = 41;
    pub(super) const UNIT_REACHED: u8 = 42;
    pub(super) const UNIT_AWAY: u8 = 43;
    pub(super) const UNIT_UNKNOWN: u8 = 44;
}

const MARK_IDEMPOTENT: u64 = 1;
const MARK_PARK: u64 = 2;
const MARK_LOCAL: u64 = 4;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn clip(bytes: &[u8], max: usize) -> &[u8] {
    bytes.get(..max).unwrap_or(bytes)
}
