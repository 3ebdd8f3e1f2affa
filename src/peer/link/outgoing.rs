//! Calls of ours: started within the credit, answered by the peer.

use std::rc::Rc;

use slotmap::{DefaultKey, Key};

use super::{LaneItem, Link, OutCall, share_of, slot};
use crate::mailbox::Mailbox;
use crate::model::{Part, ReplyEvent, Request, RequestBody, SMALL_BODY_BYTES, wants_credit};
use crate::peer::bodies::{BodySide, Outflow};

impl Link {
    /// The lane of the next call.
    pub(super) fn lane_for_call(&self) -> usize {
        let last = self.last_lane.get();
        let waiting = self.lanes.get(last).map_or(0, Mailbox::len);
        let lane = next_lane(last, waiting, self.lanes.len());
        self.last_lane.set(lane);
        lane
    }

    pub(super) fn start(&self, key: DefaultKey, mut request: Box<Request>) {
        let size = request.body.chunk.len();
        let large = size > SMALL_BODY_BYTES;
        let (id, lane, flow) = {
            let mut out = self.out.borrow_mut();
            let id = out.wires.insert(key).data().as_ffi();
            let Some(call) = out.calls.get_mut(key) else { return };
            call.wire = id;
            let flow = large.then(|| Rc::new(Outflow::new()));
            call.request_body.clone_from(&flow);
            if !large {
                call.on_lane = size;
            }
            (id, call.lane, flow)
        };
        if let Some(flow) = &flow {
            let body = std::mem::take(&mut request.body);
            flow.push_body(body.chunk, body.end, None);
        }
        self.to_lane(lane, LaneItem::Request { id, request, large });
        if let Some(flow) = flow {
            self.spawn_sender(BodySide::Request, id, flow);
        }
    }

    pub(super) fn send_body(&self, key: DefaultKey, body: RequestBody) {
        enum Way {
            Waits,
            Lane(usize),
            Stream {
                lane: usize,
                flow: Rc<Outflow>,
                opened: bool,
            },
        }
        let mut body = Some(body);
        let (id, way) = {
            let mut out = self.out.borrow_mut();
            let Some(call) = out.calls.get_mut(key) else { return };
            let size = body.as_ref().map_or(0, |body| body.chunk.len());
            let way = if let Some(waiting) = &mut call.waiting {
                waiting.more.extend(body.take());
                Way::Waits
            } else if let Some(flow) = &call.request_body {
                Way::Stream {
                    lane: call.lane,
                    flow: flow.clone(),
                    opened: false,
                }
            } else if call.on_lane + size > SMALL_BODY_BYTES {
                let flow = Rc::new(Outflow::new());
                call.request_body = Some(flow.clone());
                Way::Stream {
                    lane: call.lane,
                    flow,
                    opened: true,
                }
            } else {
                call.on_lane += size;
                Way::Lane(call.lane)
            };
            (call.wire, way)
        };
        let Some(body) = body else { return };
        match way {
            Way::Waits => {}
            Way::Lane(lane) => self.to_lane(lane, LaneItem::RequestBody { id, body, large: false }),
            Way::Stream { lane, flow, opened } => {
                if opened {
                    self.to_lane(
                        lane,
                        LaneItem::RequestBody {
                            id,
                            body: RequestBody::default(),
                            large: true,
                        },
                    );
                }
                flow.push_body(body.chunk, body.end, None);
                if opened {
                    self.spawn_sender(BodySide::Request, id, flow);
                }
            }
        }
    }

    /// Starts waiting calls while there is credit.
    pub(super) fn start_waiting(&self) {
        loop {
            let started = {
                let mut out = self.out.borrow_mut();
                let out = &mut *out;
                let Some(key) = out.pending.front().copied() else {
                    return;
                };
                let Some(call) = out.calls.get_mut(key) else {
                    out.pending.pop_front();
                    continue;
                };
                let share = call.waiting.as_ref().map_or(0, |waiting| share_of(&waiting.request));
                if !out.credit.take(share) {
                    return;
                }
                out.pending.pop_front();
                call.share = Some(share);
                call.waiting.take().map(|waiting| (key, waiting))
            };
            if let Some((key, waiting)) = started {
                self.start(key, waiting.request);
                for body in waiting.more {
                    self.send_body(key, body);
                }
            }
        }
    }

    /// A lane writer has put a request body into a write: it may be with the service from now on.
    pub(in crate::peer) fn on_written(&self, id: u64, body_bytes: usize, end: bool) {
        let caller = {
            let mut out = self.out.borrow_mut();
            let Some(call) = out.by_wire_mut(id) else { return };
            call.written = true;
            wants_credit(body_bytes, end).then(|| call.caller.clone())
        };
        if let Some(caller) = caller {
            caller.send(ReplyEvent::Credit(body_bytes));
        }
    }

    pub(super) fn on_part(&self, id: u64, mut part: Part, large: bool, large_bytes: u64) {
        let caller = {
            let mut out = self.out.borrow_mut();
            let Some(call) = out.by_wire_mut(id) else { return };
            if large_bytes > 0 && part.end.is_some() && !call.reply_body.as_ref().is_some_and(|flow| flow.is_done()) {
                call.ending = part.end.take();
            }
            call.caller.clone()
        };
        if large && large_bytes == 0 {
            self.expect_body(BodySide::Reply, id);
        }
        if part.end.is_some() {
            self.end_out(id, ReplyEvent::Part(part));
        } else if part.head.is_some() || !part.body.0.is_empty() {
            caller.send(ReplyEvent::Part(part));
        }
    }

    /// Ends a call of ours towards its caller.
    pub(super) fn end_out(&self, id: u64, event: ReplyEvent) {
        let key = self.out.borrow().wires.get(slot(id)).copied();
        if let Some(call) = key.and_then(|key| self.take_out(key)) {
            call.caller.send(event);
            call.abort();
        }
    }

    pub(super) fn take_out(&self, key: DefaultKey) -> Option<OutCall> {
        let call = {
            let mut out = self.out.borrow_mut();
            let call = out.calls.remove(key)?;
            out.wires.remove(slot(call.wire));
            if let Some(share) = call.share {
                out.credit.give(share);
            }
            call
        };
        if !self.out.borrow().pending.is_empty() {
            self.start_waiting();
        }
        Some(call)
    }
}

/// The lane after `last`, on which so many frames wait. Calls that start together share a lane: their frames leave in the
/// same datagrams, and a datagram that is lost holds up every lane it carries something of. A lane on which more wait
/// than leave together is behind, and gets no more.
fn next_lane(last: usize, waiting: usize, lanes: usize) -> usize {
    if (1..TOGETHER_MAX).contains(&waiting) {
        last
    } else {
        (last + 1) % lanes.max(1)
    }
}

/// Calls that share a lane because they start together, at most.
const TOGETHER_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_take_turns_on_lanes_but_stay_with_those_that_have_not_left() {
        assert_eq!([0, 1, 2].map(|last| next_lane(last, 0, 3)), [1, 2, 0], "nothing waits");
        assert_eq!(next_lane(1, 1, 3), 1, "one waits and is joined");
        assert_eq!(next_lane(1, TOGETHER_MAX, 3), 2, "a lane that is behind is left");
        assert_eq!([0, 1].map(|waiting| next_lane(0, waiting, 1)), [0, 0], "one lane");
    }
}
