//! What a session knows beside the library: its streams, the batch being read, what waits to go out.
//!
//! Safe code only. The library calls in here through `session`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::batch::{RawEvent, RawHead, RawPart};
use super::fields::{self, Block, Kind};
use super::outgoing::Room;
use super::resets::Resets;
use super::{Event, Limits, Side, StreamRef};
use crate::model::Metadata;
use crate::wire::pace::Progress;

/// State of one session; the library's user pointer points at it.
pub(super) struct State {
    pub(super) side: Side,
    pub(super) limits: Limits,
    pub(super) block: Block,
    pub(super) slots: Vec<Slot>,
    free: Vec<u32>,
    arena: BytesMut,
    raw: VecDeque<RawEvent>,
    /// Events taken from the front of `raw` since the batch began.
    taken: usize,
    frozen: Option<Bytes>,
    batch: u64,
    /// Where `send_data` and the session's loop write.
    pub(super) out: BytesMut,
    /// Streams that answered before their request was complete.
    pub(super) answered_early: Vec<StreamRef>,
    /// Streams that went over their share of this write.
    pub(super) over_share: Vec<StreamRef>,
    /// Body bytes that wait to go out, over all streams.
    pub(super) backlog: usize,
    /// What the peer's windows leave to long bodies.
    pub(super) room: Room,
    /// Received bytes not given back to the connection's window yet.
    pub(super) owed: usize,
    /// Received bytes not passed on yet.
    pub(super) held: usize,
    pub(super) open: usize,
    resets: Resets,
    /// Time of the batch.
    now: Option<Instant>,
    idle_frames: u32,
    idle_since: Option<Instant>,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something that is independent of the others"
)]
pub(super) struct Slot {
    pub(super) id: u32,
    pub(super) token: u64,
    /// Time of the batch in which the peer opened it.
    opened: Option<Instant>,
    pub(super) out: VecDeque<OutChunk>,
    pub(super) out_bytes: usize,
    pub(super) trailers: Option<Metadata>,
    /// Nothing more will be submitted.
    pub(super) is_finished: bool,
    /// The library asked for data when there was none.
    pub(super) is_deferred: bool,
    /// The application no longer wants events of it.
    pub(super) is_done: bool,
    pub(super) has_head: bool,
    pub(super) remote_end: bool,
    pub(super) held: usize,
    pub(super) share: usize,
    /// Body bytes that went out.
    pub(super) sent: usize,
    /// Since when there is always something that waits to go out.
    pub(super) waits: Option<Progress>,
    pub(super) event: usize,
    pub(super) batch: u64,
}

pub(super) struct OutChunk {
    pub(super) bytes: Bytes,
    pub(super) credit: bool,
}

impl State {
    pub(super) fn new(side: Side, limits: Limits) -> Self {
        let resets = Resets::new(limits.resets);
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
            resets,
            now: None,
            room: Room::default(),
            backlog: 0,
            idle_frames: 0,
            idle_since: None,
        }
    }

    // ---- reading

    /// A read of `len` bytes follows.
    pub(super) fn begin_batch(&mut self, len: usize, now: Instant) {
        self.now = Some(now);
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

    /// Whether the peer sent more frames without effect than [`Limits::idle_frames_max`], or floods with resets.
    pub(super) fn is_flooded(&self) -> bool {
        self.idle_frames > self.limits.idle_frames_max || self.resets.is_flooding()
    }

    pub(super) fn on_idle_frame(&mut self) {
        self.idle_frames = self.idle_frames.saturating_add(1);
    }

    /// The peer opened a stream; says where it is kept.
    pub(super) fn on_opened(&mut self, id: u32) -> usize {
        self.allot(id, 0)
    }

    pub(super) fn on_data(&mut self, index: usize, bytes: &[u8]) {
        self.owed += bytes.len();
        let Some(slot) = self.slots.get_mut(index) else { return };
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
                let is_cut = self.block.is_too_large;
                if let Some(part) = self.part_or_new(index) {
                    part.trailers = Some(range);
                    part.is_cut = is_cut;
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
        self.backlog = self.backlog.saturating_sub(slot.out_bytes);
        self.open = self.open.saturating_sub(1);
        let stream = StreamRef {
            index: to_u32(index),
            id: slot.id,
        };
        let token = slot.token;
        let is_done = slot.is_done;
        let opened = slot.opened;
        // A request whose block was not accepted; a client hears of its own streams in any case.
        let is_unheard = self.side == Side::Server && !slot.has_head;
        let event = (slot.batch == self.batch).then_some(slot.event);
        slot.clear();
        self.free.push(to_u32(index));
        self.room.on_closed();
        match (self.side, self.now) {
            (Side::Client, _) if code != 0 && !is_done => self.on_idle_frame(),
            (Side::Server, _) if is_done => self.resets.on_answered(),
            (Side::Server, Some(now)) => self.resets.on_reset(opened, now),
            _ => {}
        }
        if is_done || is_unheard {
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
        let id = slot.id;
        match self.raw.get_mut(slot.event.checked_sub(self.taken)?)? {
            RawEvent::Part(part) if part.stream.id == id => Some(part),
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
            is_cut: false,
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
            slot.opened = self.now;
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

    pub(super) fn slot(&mut self, stream: StreamRef) -> Option<&mut Slot> {
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
}

impl Slot {
    /// Ready for the next stream; keeps its memory.
    fn clear(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        *self = Self { out, ..Self::default() };
    }
}

pub(super) fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What a batch's memory is allotted in: small, because one small body that waits keeps all of it.
const ARENA_BYTES: usize = 16 * 1024;
