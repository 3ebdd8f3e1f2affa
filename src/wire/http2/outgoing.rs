//! What waits to go out: bodies by reference until the library has room for them.

use bytes::{Buf, BufMut, Bytes};

use super::state::{OutChunk, State, to_u32};
use super::{Event, Side, StreamRef};
use crate::model::Metadata;

/// What the library gets when it asks for data of a stream.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Supply {
    Data { len: usize, end: bool },
    Deferred,
}

impl State {
    /// Adds body bytes. `true` if the library must be told that there is something again.
    pub(super) fn submit(&mut self, stream: StreamRef, bytes: Bytes, credit: bool) -> bool {
        let Some(slot) = self.slot(stream) else { return false };
        if slot.is_finished || bytes.is_empty() {
            return false;
        }
        slot.out_bytes += bytes.len();
        slot.out.push_back(OutChunk { bytes, credit });
        std::mem::take(&mut slot.is_deferred)
    }

    /// Ends this side of a stream. `true` if the library must be told.
    pub(super) fn finish(&mut self, stream: StreamRef, trailers: Option<Metadata>) -> bool {
        let side = self.side;
        let Some(slot) = self.slot(stream) else { return false };
        if slot.is_finished {
            return false;
        }
        slot.is_finished = true;
        slot.trailers = trailers.filter(|trailers| !trailers.is_empty());
        let is_deferred = std::mem::take(&mut slot.is_deferred);
        if side == Side::Server {
            slot.is_done = true;
            let is_early = !slot.remote_end;
            if is_early {
                self.answered_early.push(stream);
            }
        }
        is_deferred
    }

    /// The application wants no more events of a stream.
    pub(super) fn forget(&mut self, stream: StreamRef) -> bool {
        let Some(slot) = self.slot(stream) else { return false };
        slot.is_done = true;
        slot.is_finished = true;
        slot.out.clear();
        slot.out_bytes = 0;
        slot.trailers = None;
        let held = std::mem::take(&mut slot.held);
        self.held = self.held.saturating_sub(held);
        true
    }

    /// The library has room for `max` bytes of a stream.
    pub(super) fn supply(&mut self, index: usize, max: usize) -> Supply {
        let Some(slot) = self.slots.get_mut(index) else {
            return Supply::Deferred;
        };
        if slot.share >= SHARE_BYTES {
            // One stream must not keep the others from the socket.
            self.over_share.push(StreamRef {
                index: to_u32(index),
                id: slot.id,
            });
            return Supply::Deferred;
        }
        let len = slot.out_bytes.min(max);
        if len == 0 && !slot.is_finished {
            slot.is_deferred = true;
            return Supply::Deferred;
        }
        Supply::Data {
            len,
            end: slot.is_finished && len == slot.out_bytes,
        }
    }

    /// The trailers of a stream whose data ends now.
    pub(super) fn take_trailers(&mut self, index: usize) -> Option<Metadata> {
        self.slots.get_mut(index)?.trailers.take()
    }

    /// Writes the frame of data that was supplied. `false` if the bytes are not there.
    pub(super) fn put_data(&mut self, index: usize, frame_head: &[u8], mut len: usize) -> bool {
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        if slot.out_bytes < len {
            return false;
        }
        slot.out_bytes -= len;
        slot.share += len;
        self.out.reserve(frame_head.len() + len);
        self.out.put_slice(frame_head);
        let mut credited = 0;
        while len > 0 {
            let Some(front) = slot.out.front_mut() else {
                return false;
            };
            let piece = front.bytes.len().min(len);
            self.out.put_slice(front.bytes.get(..piece).unwrap_or_default());
            if front.credit {
                credited += piece;
            }
            len -= piece;
            if piece == front.bytes.len() {
                slot.out.pop_front();
            } else {
                front.bytes.advance(piece);
            }
        }
        if credited > 0 && !slot.is_done {
            let stream = StreamRef {
                index: to_u32(index),
                id: slot.id,
            };
            let token = slot.token;
            self.push_event(Event::Sent {
                stream,
                token,
                bytes: credited,
            });
        }
        true
    }

    /// A new write begins: every stream that went over its share may go on.
    pub(super) fn begin_write(&mut self) -> Vec<StreamRef> {
        let streams = std::mem::take(&mut self.over_share);
        for stream in &streams {
            if let Some(slot) = self.slot(*stream) {
                slot.share = 0;
            }
        }
        streams
    }
}

/// Bytes of one stream in one write while other streams wait.
const SHARE_BYTES: usize = 128 * 1024;
