//! What a session knows beside the library: its streams, the batch being read, what waits to go out.
//!
//! Safe code only. The library calls in here through `session`.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::fields::{self, Block, Kind};
use super::{Event, Head, Limits, Part, Side, StreamRef};
use crate::model::Metadata;

/// State of one session; the library's user pointer points at it.
#[derive(Debug)]
pub(super) struct State {
    side: Side,
    pub(super) limits: Limits,
    pub(super) block: Block,
    slots: Vec<Slot>,
    free: Vec<u32>,
    arena: BytesMut,
    raw: VecDeque<RawEvent>,
    /// Events taken from the front of `raw` since the batch began.
    taken: usize,
    frozen: Option<Bytes>,
    batch: u32,
    /// Where `send_data` and the session's loop write.
    pub(super) out: BytesMut,
    /// Streams that answered before their request was complete.
    pub(super) answered_early: Vec<StreamRef>,
    /// Streams that went over their share of this write.
    pub(super) over_share: Vec<StreamRef>,
    /// Received bytes not given back to the connection's window yet.
    pub(super) owed: usize,
    /// Received bytes not passed on yet.
    pub(super) held: usize,
    pub(super) open: usize,
    idle_frames: u32,
    idle_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slot {
    id: u32,
    token: u64,
    out: VecDeque<OutChunk>,
    out_bytes: usize,
    trailers: Option<Metadata>,
    /// Nothing more will be submitted.
    is_finished: bool,
    /// The library asked for data when there was none.
    is_deferred: bool,
    /// The application no longer wants events of it.
    is_done: bool,
    has_head: bool,
    remote_end: bool,
    held: usize,
    share: usize,
    event: usize,
    batch: u32,
}

#[derive(Debug)]
struct OutChunk {
    bytes: Bytes,
    credit: bool,
}

#[derive(Debug)]
enum RawEvent {
    Dead,
    Other(Event),
    Part(RawPart),
}

#[derive(Debug)]
struct RawPart {
    stream: StreamRef,
    token: u64,
    head: Option<RawHead>,
    chunk: Range<usize>,
    trailers: Option<Range<usize>>,
    end: bool,
}

#[derive(Debug)]
struct RawHead {
    path: Range<usize>,
    authority: Range<usize>,
    fields: Range<usize>,
    apart: Range<usize>,
    status: u16,
    is_post: bool,
    is_too_large: bool,
}

/// What the library gets when it asks for data of a stream.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Supply {
    Data { len: usize, end: bool },
    Deferred,
}

impl State {
    pub(super) fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            block: Block::default(),
            slots: Vec::new(),
            free: Vec::new(),
            arena: BytesMut::new(),
            raw: VecDeque::new(),
            taken: 0,
            frozen: None,
            batch: 1,
            out: BytesMut::new(),
            answered_early: Vec::new(),
            over_share: Vec::new(),
            owed: 0,
            held: 0,
            open: 0,
            idle_frames: 0,
            idle_since: None,
        }
    }

    // ---- reading

    /// A read of `len` bytes follows.
    pub(super) fn begin_batch(&mut self, len: usize, now: Instant) {
        if self.arena.capacity() - self.arena.len() < len {
            self.arena.reserve(len.max(ARENA_BYTES));
        }
        if self
            .idle_since
            .is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1))
        {
            self.idle_since = Some(now);
            self.idle_frames = 0;
        }
    }

    /// Whether the peer sent more frames without effect than [`Limits::idle_frames_max`].
    pub(super) fn is_flooded(&self) -> bool {
        self.idle_frames > self.limits.idle_frames_max
    }

    pub(super) fn on_idle_frame(&mut self) {
        self.idle_frames = self.idle_frames.saturating_add(1);
    }

    /// The peer opened a stream; says where it is kept.
    pub(super) fn on_opened(&mut self, id: u32) -> usize {
        self.allot(id, 0)
    }

    pub(super) fn on_data(&mut self, index: usize, bytes: &[u8]) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        self.owed += bytes.len();
        if slot.is_done {
            return;
        }
        slot.held += bytes.len();
        self.held += bytes.len();
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        let end = self.arena.len();
        let part = self.part(index);
        if let Some(part) = part {
            if part.chunk.is_empty() {
                part.chunk = start..end;
                return;
            }
            if part.chunk.end == start {
                part.chunk.end = end;
                return;
            }
        }
        if let Some(part) = self.new_part(index) {
            part.chunk = start..end;
        }
    }

    /// The block of a stream is complete.
    pub(super) fn on_block(&mut self, index: usize) {
        self.block.end();
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.is_done {
            return;
        }
        let is_first = !slot.has_head;
        match self.block.kind(self.side, is_first) {
            Kind::Head => {
                slot.has_head = true;
                let block = &self.block;
                let head = RawHead {
                    path: fields::keep(&mut self.arena, &block.path),
                    authority: fields::keep(&mut self.arena, &block.authority),
                    fields: fields::keep(&mut self.arena, &block.fields),
                    apart: fields::keep(&mut self.arena, &block.apart),
                    status: block.status,
                    is_post: block.is_post,
                    is_too_large: block.is_too_large,
                };
                if let Some(part) = self.new_part(index) {
                    part.head = Some(head);
                }
            }
            Kind::Interim => {}
            Kind::Trailers => {
                let range = fields::keep(&mut self.arena, &self.block.fields);
                if let Some(part) = self.part_or_new(index) {
                    part.trailers = Some(range);
                }
            }
        }
    }

    /// The peer sends no more on a stream.
    pub(super) fn on_end(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.remote_end = true;
        if slot.is_done {
            return;
        }
        let stream = StreamRef {
            index: to_u32(index),
            id: slot.id,
        };
        let is_early = self.side == Side::Client && (!slot.is_finished || slot.out_bytes > 0);
        if self.side == Side::Client {
            // The answer is complete: what is left of the request is of no use.
            slot.is_done = true;
        }
        if is_early {
            self.answered_early.push(stream);
        }
        if let Some(part) = self.part_or_new(index) {
            part.end = true;
        }
    }

    /// A stream is gone.
    pub(super) fn on_closed(&mut self, index: usize, code: u32) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        self.held = self.held.saturating_sub(slot.held);
        self.open = self.open.saturating_sub(1);
        let stream = StreamRef {
            index: to_u32(index),
            id: slot.id,
        };
        let token = slot.token;
        let is_done = slot.is_done;
        let event = (slot.batch == self.batch).then_some(slot.event);
        slot.clear();
        self.free.push(to_u32(index));
        if code != 0 && !is_done {
            self.idle_frames = self.idle_frames.saturating_add(1);
        }
        if is_done {
            return;
        }
        let unseen = event.and_then(|event| self.raw.get_mut(event.checked_sub(self.taken)?));
        match unseen {
            // H4. Opened and reset in one batch: nobody has heard of it.
            Some(raw @ RawEvent::Part(RawPart { head: Some(_), .. })) if self.side == Side::Server => {
                *raw = RawEvent::Dead;
            }
            _ => self
                .raw
                .push_back(RawEvent::Other(Event::Closed { stream, token, code })),
        }
    }

    pub(super) fn push_event(&mut self, event: Event) {
        self.raw.push_back(RawEvent::Other(event));
    }

    /// The next event; the batch ends with the last one.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        loop {
            let Some(raw) = self.raw.pop_front() else {
                if self.frozen.take().is_none() {
                    self.arena.clear();
                }
                self.taken = 0;
                self.batch = self.batch.wrapping_add(1);
                return None;
            };
            self.taken += 1;
            match raw {
                RawEvent::Dead => {}
                RawEvent::Other(event) => return Some(event),
                RawEvent::Part(part) => {
                    let arena = &mut self.arena;
                    let bytes = self.frozen.get_or_insert_with(|| arena.split().freeze());
                    return Some(Event::Part(part.cut(bytes)));
                }
            }
        }
    }

    fn part(&mut self, index: usize) -> Option<&mut RawPart> {
        let slot = self.slots.get(index)?;
        if slot.batch != self.batch {
            return None;
        }
        match self.raw.get_mut(slot.event.checked_sub(self.taken)?)? {
            RawEvent::Part(part) => Some(part),
            _ => None,
        }
    }

    fn new_part(&mut self, index: usize) -> Option<&mut RawPart> {
        let slot = self.slots.get_mut(index)?;
        slot.batch = self.batch;
        slot.event = self.raw.len() + self.taken;
        self.raw.push_back(RawEvent::Part(RawPart {
            stream: StreamRef {
                index: to_u32(index),
                id: slot.id,
            },
            token: slot.token,
            head: None,
            chunk: 0..0,
            trailers: None,
            end: false,
        }));
        match self.raw.back_mut()? {
            RawEvent::Part(part) => Some(part),
            _ => None,
        }
    }

    fn part_or_new(&mut self, index: usize) -> Option<&mut RawPart> {
        if self.part(index).is_some() {
            self.part(index)
        } else {
            self.new_part(index)
        }
    }

    // ---- streams

    /// Room for a stream.
    pub(super) fn allot(&mut self, id: u32, token: u64) -> usize {
        self.open += 1;
        let index = self.free.pop().map_or(self.slots.len(), to_usize);
        if index == self.slots.len() {
            self.slots.push(Slot::default());
        }
        if let Some(slot) = self.slots.get_mut(index) {
            slot.id = id;
            slot.token = token;
        }
        index
    }

    /// Gives a stream its number once it has one.
    pub(super) fn name(&mut self, index: usize, id: u32) -> StreamRef {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.id = id;
        }
        StreamRef {
            index: to_u32(index),
            id,
        }
    }

    /// Takes back room that was never used.
    pub(super) fn release(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.clear();
            self.free.push(to_u32(index));
            self.open = self.open.saturating_sub(1);
        }
    }

    fn slot(&mut self, stream: StreamRef) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(to_usize(stream.index))?;
        (slot.id == stream.id && stream.id != 0).then_some(slot)
    }

    pub(super) fn is_live(&mut self, stream: StreamRef) -> bool {
        self.slot(stream).is_some()
    }

    /// The application has passed on bytes. `Some` if the stream's window should grow by them.
    pub(super) fn on_consumed(&mut self, stream: StreamRef, bytes: usize) -> Option<usize> {
        let slot = self.slot(stream)?;
        let bytes = bytes.min(slot.held);
        slot.held -= bytes;
        let grows = !slot.remote_end && bytes > 0;
        self.held -= bytes;
        grows.then_some(bytes)
    }

    /// What may go back to the connection's window now.
    pub(super) fn take_owed(&mut self) -> usize {
        if self.held > self.limits.held_bytes_max {
            return 0;
        }
        std::mem::take(&mut self.owed)
    }

    // ---- writing

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

impl Slot {
    /// Ready for the next stream; keeps its memory.
    fn clear(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        *self = Self { out, ..Self::default() };
    }
}

impl RawPart {
    fn cut(self, batch: &Bytes) -> Part {
        let cut = |range: Range<usize>| {
            if range.end <= batch.len() {
                batch.slice(range)
            } else {
                Bytes::new()
            }
        };
        Part {
            stream: self.stream,
            token: self.token,
            head: self.head.map(|head| Head {
                path: cut(head.path),
                authority: cut(head.authority),
                fields: Metadata::from_checked(cut(head.fields)),
                apart: Metadata::from_checked(cut(head.apart)),
                status: head.status,
                is_post: head.is_post,
                is_too_large: head.is_too_large,
            }),
            chunk: cut(self.chunk),
            trailers: self.trailers.map(|range| Metadata::from_checked(cut(range))),
            end: self.end,
        }
    }
}

pub(super) fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What a batch's memory is allotted in: small, because one small body that waits keeps all of it.
const ARENA_BYTES: usize = 16 * 1024;

/// Bytes of one stream in one write while other streams wait.
const SHARE_BYTES: usize = 128 * 1024;
