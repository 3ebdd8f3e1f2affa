//! What waits to go out: bodies by reference until the library has room for them.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};

use super::state::{OutChunk, State, to_u32};
use super::{Event, Side, StreamRef};
use crate::model::{Metadata, SMALL_BODY_BYTES};
use crate::wire::pace::{LeastPace, Progress};

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
        let len = bytes.len();
        slot.out_bytes += len;
        slot.out.push_back(OutChunk { bytes, credit });
        let is_deferred = std::mem::take(&mut slot.is_deferred);
        self.backlog += len;
        is_deferred
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
        let waits = std::mem::take(&mut slot.out_bytes);
        slot.trailers = None;
        let held = std::mem::take(&mut slot.held);
        self.backlog = self.backlog.saturating_sub(waits);
        self.held = self.held.saturating_sub(held);
        true
    }

    /// The library has room for `max` bytes of a stream. `windows` tells the peer's.
    pub(super) fn supply(&mut self, index: usize, max: usize, windows: impl FnOnce() -> Windows) -> Supply {
        let Some(slot) = self.slots.get_mut(index) else {
            return Supply::Deferred;
        };
        let mut max = max;
        if slot.sent >= SMALL_BODY_BYTES && slot.out_bytes > 0 {
            max = max.min(self.room.for_long_body(&windows()));
            if max == 0 {
                self.room.held_back.push(StreamRef {
                    index: to_u32(index),
                    id: slot.id,
                });
                return Supply::Deferred;
            }
        }
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
        slot.sent += len;
        if slot.out_bytes == 0 {
            slot.waits = None;
        }
        self.backlog = self.backlog.saturating_sub(len);
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

    /// Streams whose bytes wait for a peer that gives room at less than `least`; `ahead` tells how much of a stream
    /// the peer has and has not given room for.
    pub(super) fn slow(&mut self, now: Instant, least: &LeastPace, ahead: impl Fn(u32) -> u64) -> Vec<StreamRef> {
        let mut slow = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.out_bytes == 0 {
                continue;
            }
            let sent = u64::try_from(slot.sent).unwrap_or(u64::MAX);
            let progress = slot.waits.get_or_insert(Progress::new(now, sent));
            if progress.is_slow(now, sent, ahead(slot.id), least) {
                slow.push(StreamRef {
                    index: to_u32(index),
                    id: slot.id,
                });
            }
        }
        slow
    }

    /// A new write begins: every stream that went over its share, or waited for room, may go on.
    pub(super) fn begin_write(&mut self) -> Vec<StreamRef> {
        let mut streams = std::mem::take(&mut self.over_share);
        if std::mem::take(&mut self.room.has_changed) {
            streams.append(&mut self.room.held_back);
        }
        for stream in &streams {
            if let Some(slot) = self.slot(*stream) {
                slot.share = 0;
            }
        }
        streams
    }
}

/// What the peer lets this side send now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// On the connection.
    pub(super) connection: usize,
    /// On the stream.
    pub(super) stream: usize,
    /// On a stream that has just begun.
    pub(super) stream_max: usize,
}

/// Keeps a long body that the peer does not read from using up the connection's window (H5).
///
/// A peer gives room back when half of a window has been read, so a stream of which more than half of the window
/// is out may be stalled, and one of which less is out may need the rest to hear from the peer at all. Therefore
/// a stream of the first kind stops when half of the connection's window is left. That is as much as can be
/// told from here: where a stream's window is as large as the connection's, two stalled streams use it up.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Largest window of the connection that was seen.
    connection_max: usize,
    /// Streams that wait for the peer to give room.
    pub(super) held_back: Vec<StreamRef>,
    /// The peer has, or a stream has ended.
    pub(super) has_changed: bool,
}

impl Room {
    /// How much of a long body may go.
    fn for_long_body(&mut self, windows: &Windows) -> usize {
        self.connection_max = self.connection_max.max(windows.connection);
        let of_connection = windows.connection.saturating_sub(self.connection_max / 2);
        let of_stream = windows.stream.saturating_sub(windows.stream_max / 2);
        of_connection.max(of_stream)
    }

    /// The peer's windows have grown.
    pub(super) fn on_grown(&mut self, connection: usize) {
        self.connection_max = self.connection_max.max(connection);
        self.has_changed = true;
    }

    /// A stream has ended: what it had of the window comes back, and those that wait are looked at again.
    pub(super) fn on_closed(&mut self) {
        self.has_changed |= !self.held_back.is_empty();
    }
}

/// Bytes of one stream in one write while other streams wait.
const SHARE_BYTES: usize = 128 * 1024;
