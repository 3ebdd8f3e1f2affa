//! Calls of the peer: they come in on lanes and go to the handler.

use std::rc::Rc;

use super::{InCall, LaneItem, Link, in_index};
use crate::model::{
    CallId, CallerRef, CancelReason, Part, Reason, RelayError, Request, RequestBody, RequestEvent, Retry,
    SMALL_BODY_BYTES, Source, wants_credit,
};
use crate::peer::bodies::{BodySide, Outflow};

impl Link {
    pub(super) fn on_call(&self, lane: usize, id: u64, mut request: Box<Request>, large: bool) {
        let index = in_index(id);
        if index > self.limits.calls_in_max {
            let detail = format!(
                "call index {index} is beyond the {} calls this relay allows",
                self.limits.calls_in_max
            );
            return self.refuse(lane, id, RelayError::new(Reason::Limited, Retry::Safe, detail));
        }
        if self.we_drain.is_cancelled() {
            return self.refuse(
                lane,
                id,
                RelayError::new(Reason::Draining, Retry::Safe, "the relay is shutting down"),
            );
        }
        // The index is in use again: the peer has ended the older call, its cancel is on another lane.
        self.drop_in(index);
        let service = request.facts.source.take().and_then(|source| source.service);
        request.facts.source = Some(Source {
            geo: self.peer.geo.clone(),
            unit: self.peer.unit.clone(),
            service,
        });
        // Names of ours are set by relays in frames, never taken from fields (C-E2).
        request.metadata = std::mem::take(&mut request.metadata).distrusted();
        let Some(me) = self.me.upgrade() else { return };
        match self.handler.open(
            request,
            CallerRef {
                port: me,
                id: CallId(id),
            },
        ) {
            Ok(callee_id) => {
                let call = InCall {
                    id,
                    callee_id,
                    lane,
                    on_lane: 0,
                    request_body: None,
                    reply_body: None,
                };
                let mut inn = self.inn.borrow_mut();
                if inn.len() <= index {
                    inn.resize_with(index + 1, || None);
                }
                if let Some(slot) = inn.get_mut(index) {
                    *slot = Some(call);
                }
                self.in_open.set(self.in_open.get() + 1);
            }
            Err(refused) => return self.refuse(lane, id, *refused.error),
        }
        if large {
            self.expect_body(BodySide::Request, id);
        }
    }

    pub(super) fn on_call_body(&self, id: u64, body: RequestBody, large: bool) {
        if large {
            return self.expect_body(BodySide::Request, id);
        }
        if let Some(callee_id) = self.with_in(id, |call| call.callee_id) {
            self.handler.on_request(callee_id, RequestEvent::Body(body));
        }
    }

    pub(super) fn on_call_cancelled(&self, id: u64, reason: CancelReason) {
        if let Some(call) = self.take_in(id) {
            self.handler.on_request(call.callee_id, RequestEvent::Cancel(reason));
            call.abort();
        }
    }

    pub(super) fn drop_in(&self, index: usize) {
        let call = self.inn.borrow_mut().get_mut(index).and_then(Option::take);
        if let Some(call) = call {
            self.in_open.set(self.in_open.get().saturating_sub(1));
            self.handler
                .on_request(call.callee_id, RequestEvent::Cancel(CancelReason::Caller));
            call.abort();
        }
    }

    pub(super) fn refuse(&self, lane: usize, id: u64, error: RelayError) {
        self.to_lane(
            lane,
            LaneItem::Failed {
                id,
                error: Box::new(error),
            },
        );
    }

    pub(super) fn with_in<T>(&self, id: u64, with: impl FnOnce(&mut InCall) -> T) -> Option<T> {
        let mut inn = self.inn.borrow_mut();
        inn.get_mut(in_index(id))?
            .as_mut()
            .filter(|call| call.id == id)
            .map(with)
    }

    pub(super) fn take_in(&self, id: u64) -> Option<InCall> {
        let mut inn = self.inn.borrow_mut();
        let call = inn.get_mut(in_index(id))?.take_if(|call| call.id == id);
        if call.is_some() {
            self.in_open.set(self.in_open.get().saturating_sub(1));
        }
        call
    }

    /// Sends a part of the reply to a call of the peer, on the lane while it is small.
    pub(super) fn send_part(&self, id: u64, mut part: Part) {
        enum Way {
            Lane {
                lane: usize,
                credit: Option<CallId>,
            },
            Stream {
                lane: usize,
                flow: Rc<Outflow>,
                opened: bool,
            },
        }
        let size = part.body.0.len();
        let ends = part.end.is_some();
        let way = self.with_in(id, |call| {
            if let Some(flow) = &call.reply_body {
                return Way::Stream {
                    lane: call.lane,
                    flow: flow.clone(),
                    opened: false,
                };
            }
            if call.on_lane + size > SMALL_BODY_BYTES {
                let flow = Rc::new(Outflow::new());
                call.reply_body = Some(flow.clone());
                return Way::Stream {
                    lane: call.lane,
                    flow,
                    opened: true,
                };
            }
            call.on_lane += size;
            Way::Lane {
                lane: call.lane,
                credit: wants_credit(size, ends).then_some(call.callee_id),
            }
        });
        match way {
            None => {}
            Some(Way::Lane { lane, credit }) => {
                if ends {
                    drop(self.take_in(id));
                }
                self.to_lane(lane, reply_item(id, part, false));
                if let Some(callee_id) = credit {
                    self.handler.on_request(callee_id, RequestEvent::Credit(size));
                }
            }
            Some(Way::Stream { lane, flow, opened }) => {
                let body = std::mem::take(&mut part.body.0);
                let end = part.end.take();
                if opened || part.head.is_some() {
                    self.to_lane(lane, reply_item(id, part, true));
                }
                flow.push_body(body, ends, end);
                if opened {
                    self.spawn_sender(BodySide::Reply, id, flow);
                }
            }
        }
    }
}

fn reply_item(id: u64, part: Part, large: bool) -> LaneItem {
    LaneItem::Reply {
        id,
        part,
        large,
        large_bytes: 0,
    }
}
