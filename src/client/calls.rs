//! Calls this client has made on one connection and that have not ended.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Pending;
use super::call::{CallError, Reply};
use super::sending::Sending;
use crate::model::{CancelReason, Metadata, Part, Reason, RelayError, Retry, wants_credit};
use crate::wire::frame::{self, Encoder};

/// Open calls by index; the number on the wire adds a generation.
#[derive(Default)]
pub(super) struct Calls {
    slots: Vec<Option<Open>>,
    free: Vec<usize>,
    generation: u32,
    open: usize,
}

struct Open {
    id: u64,
    pending: Pending,
    sending: Sending,
    /// How many bytes had been put out on this connection before the request.
    starts_at: u64,
    head: Metadata,
    body: Received,
}

/// A body that comes in chunks.
#[derive(Default)]
pub(super) struct Received {
    first: Bytes,
    rest: BytesMut,
}

/// Limits of one connection.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Calls the relay takes at a time.
    pub(super) calls_max: usize,
    /// Un-credited bytes the relay takes per call.
    pub(super) window: usize,
    /// Longest message that is put together here.
    pub(super) message_bytes_max: usize,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Sends a call. The caller has checked that there is room.
    pub(super) fn start(
        &mut self,
        mut pending: Pending,
        encoder: &mut Encoder,
        out: &mut BytesMut,
        put_before: u64,
        (limits, now): (Limits, Instant),
    ) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.generation = self.generation.wrapping_add(1);
        let id = u64::from(self.generation) << 32 | u64::try_from(index).unwrap_or(u64::MAX);
        // The whole body stays with the call in case it must be sent again.
        let body = pending.request.body.chunk.clone();
        let mut sending = Sending::new(body.clone());
        if let Some((chunk, end)) = sending.next(limits.window) {
            pending.request.body.chunk = chunk;
            pending.request.body.end = end;
        }
        encoder.request(out, id, &pending.request, false, now);
        pending.request.body.chunk = body;
        pending.request.body.end = true;
        let mut open = Open {
            id,
            pending,
            sending,
            starts_at: put_before,
            head: Metadata::default(),
            body: Received::default(),
        };
        open.pump(out, limits);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(open);
            self.open += 1;
        }
    }

    /// The relay has passed on request bytes.
    pub(super) fn on_credit(&mut self, id: u64, bytes: usize, out: &mut BytesMut, limits: Limits) {
        if let Some(open) = self.get(id) {
            open.sending.on_credit(bytes);
            open.pump(out, limits);
        }
    }

    /// Some of a reply.
    pub(super) fn on_reply(&mut self, id: u64, part: Part, out: &mut BytesMut, limits: Limits) {
        let Some(open) = self.get(id) else { return };
        if let Some((_, metadata)) = part.head {
            open.head = metadata;
        }
        let (len, end) = (part.body.0.len(), part.end.is_some());
        if !open.body.push(part.body.0, limits.message_bytes_max) {
            frame::put_cancel(out, id, CancelReason::Caller);
            let limit = limits.message_bytes_max;
            self.end(id, Err(CallError::TooLarge { limit }));
            return;
        }
        if wants_credit(len, end) && !end {
            frame::put_credit(out, id, len, true);
        }
        if let Some(end) = part.end {
            let outcome = Reply::from_wire(std::mem::take(&mut open.head), open.body.take(), end);
            self.end(id, outcome);
        }
    }

    /// A relay ended the call. Gives it back if it should be sent again on another connection.
    pub(super) fn on_failed(&mut self, id: u64, error: Box<RelayError>) -> Option<Pending> {
        if error.reason == Reason::Draining && error.retry == Retry::Safe {
            return self.take(id).map(|open| open.pending);
        }
        self.end(id, Err(CallError::Relay(error)));
        None
    }

    /// Cancels calls whose deadline passed and those nobody waits for; tells the earliest deadline left.
    pub(super) fn sweep(&mut self, now: Instant, out: &mut BytesMut) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for index in 0..self.slots.len() {
            let Some(Some(open)) = self.slots.get(index) else {
                continue;
            };
            let (id, deadline) = (open.id, open.pending.deadline);
            if open.pending.reply.is_closed() {
                frame::put_cancel(out, id, CancelReason::Caller);
                self.take(id);
            } else if deadline <= now {
                frame::put_cancel(out, id, CancelReason::Deadline);
                self.end(id, Err(CallError::Deadline { sent: true }));
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        next
    }

    /// The connection broke after `written` bytes. Calls of which nothing was written come back, the
    /// others fail.
    pub(super) fn lose(&mut self, written: u64, why: &str) -> Vec<Pending> {
        let mut unsent: Vec<Open> = Vec::new();
        for open in std::mem::take(self).slots.into_iter().flatten() {
            if open.starts_at >= written {
                unsent.push(open);
            } else {
                let _ = open.pending.reply.send(Err(CallError::Lost(why.to_owned()))); // nobody waits: fine
            }
        }
        unsent.sort_by_key(|open| open.starts_at);
        unsent.into_iter().map(|open| open.pending).collect()
    }

    fn get(&mut self, id: u64) -> Option<&mut Open> {
        let open = self.slots.get_mut(index(id))?.as_mut()?;
        (open.id == id).then_some(open)
    }

    fn take(&mut self, id: u64) -> Option<Open> {
        self.get(id)?;
        let open = self.slots.get_mut(index(id))?.take()?;
        self.free.push(index(id));
        self.open -= 1;
        Some(open)
    }

    fn end(&mut self, id: u64, outcome: Result<Reply, CallError>) {
        if let Some(open) = self.take(id) {
            let _ = open.pending.reply.send(outcome); // whoever dropped the future does not want it
        }
    }
}

impl Open {
    fn pump(&mut self, out: &mut BytesMut, limits: Limits) {
        while let Some((chunk, end)) = self.sending.next(limits.window) {
            frame::put_request_body(out, self.id, &chunk, end, false);
        }
    }
}

impl Received {
    /// `false` if that would be more than `limit` bytes.
    #[must_use]
    pub(super) fn push(&mut self, chunk: Bytes, limit: usize) -> bool {
        if self.first.len() + self.rest.len() + chunk.len() > limit {
            return false;
        }
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = chunk;
        } else {
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.rest.extend_from_slice(&chunk);
        }
        true
    }

    pub(super) fn take(&mut self) -> Bytes {
        if self.rest.is_empty() {
            std::mem::take(&mut self.first)
        } else {
            self.rest.split().freeze()
        }
    }
}

/// The index part of a number.
pub(super) fn index(id: u64) -> usize {
    usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}
