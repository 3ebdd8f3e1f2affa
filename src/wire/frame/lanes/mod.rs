//! Frames of lanes for messages: what the relay that sends says, and what comes back.
//!
//! ```text
//! stream    3 | frames from the side that opened it, frames back
//!
//! kind              id     attributes                body
//! 16 LANE_OPEN      epoch  lane (0 backlog, 1 live), base
//! 17 MESSAGES       batch                            items: number | flags u8 (1 tell) | length u32 | `wire::message`
//! 18 GAP            batch  first, last, reason
//! 19 LANE_OPENED    0      frontier, highest         runs: first - last of the run before | last - first
//! 20 LANE_DENIED    0                                text for a person
//! 21 ACK            batch                            refused: number | word | text
//! 22 BUSY           0      pushback; none = no longer
//! 23 DELIVERED      0                                numbers
//! 24 ENDED          0                                ended: number | word | text
//! ```
//! A number is the difference to the one before in its frame, the first one to 0, as a zigzag varint. A word or text is
//! its length as varint, then its bytes; runs are varints. The text of the word `moved` is an epoch in decimal, a space and a unit.
//!
//! # Invariants
//! - F4. What a frame makes a reader allocate is bounded by the bytes of the frame, and these by [`FRAME_BYTES_MAX`].
//!
//! # Not here
//! What the frames mean (`model::lanes`); who may open a lane (`peer`, `inbound`).

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use self::decode::LaneDecoder;
pub use self::encode::{put_to_receiver, put_to_sender};

/// Longest frame of a lane: what the lengths in its header can say. How long a message may be is the receiver's setting;
/// a longer one is refused by name and holds up nothing.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// First byte of the stream of a lane.
pub const PREFACE: u8 = 3;
/// Runs that one frame tells about; a sender that is not told of a run sends it again.
pub const RUNS_MAX: usize = 16_384;
/// Numbers and refusals in one frame; there are further frames for more.
pub const NUMBERS_MAX: usize = 16_384;

const LEN_BYTES: usize = 4;
const TELL_DELIVERED: u8 = 1;
/// Longest text for a person.
const TEXT_BYTES_MAX: usize = 512;
