//! Large bodies: what lanes announce and streams carry.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::{CODE_UNWANTED, EARLY_STREAM_WAIT, EARLY_STREAMS_MAX, LaneItem, Link};
use crate::model::{
    CancelReason, Ending, Part, Reason, RelayError, ReplyBody, ReplyEvent, RequestBody, RequestEvent, Retry,
};
use crate::peer::bodies::{self, BodySide, Inflow, Outflow};

impl Link {
    pub(super) fn spawn_sender(&self, side: BodySide, id: u64, flow: Rc<Outflow>) {
        if let Some(me) = self.me.upgrade() {
            self.spawn_body(bodies::send(me, side, id, flow));
        }
    }

    pub(super) fn spawn_body(&self, body: impl Future<Output = ()> + 'static) {
        let me = self.me.clone();
        let count = move |change: fn(u64) -> u64| {
            if let Some(link) = me.upgrade() {
                link.body_streams.set(change(link.body_streams.get()));
            }
        };
        count(|open| open + 1);
        self.tracker.spawn_local(async move {
            body.await;
            count(|open| open.saturating_sub(1));
        });
    }

    /// The lane says that the rest of a body comes on its own stream.
    pub(super) fn expect_body(&self, side: BodySide, id: u64) {
        let flow = Rc::new(Inflow::new());
        let known = match side {
            BodySide::Request => self
                .with_in(id, |call| call.request_body = Some(flow.clone()))
                .is_some(),
            BodySide::Reply => {
                let mut out = self.out.borrow_mut();
                out.by_wire_mut(id)
                    .map(|call| call.reply_body = Some(flow.clone()))
                    .is_some()
            }
        };
        let early = self.early.borrow_mut().remove(&(side, id));
        if let (true, Some((stream, _))) = (known, early) {
            self.spawn_receiver(side, id, stream, flow);
        }
    }

    /// A body stream has named its call.
    pub(in crate::peer) fn on_body_stream(&self, side: BodySide, id: u64, mut stream: quinn::RecvStream, now: Instant) {
        let flow = match side {
            BodySide::Request => self.with_in(id, |call| call.request_body.clone()).flatten(),
            BodySide::Reply => {
                let out = self.out.borrow();
                out.by_wire(id).and_then(|call| call.reply_body.clone())
            }
        };
        match flow {
            Some(flow) => self.spawn_receiver(side, id, stream, flow),
            None if self.early.borrow().len() < EARLY_STREAMS_MAX => {
                self.early.borrow_mut().insert((side, id), (stream, now));
            }
            None => drop(stream.stop(CODE_UNWANTED)),
        }
    }

    /// Gives up on body streams whose call never came (L4).
    pub(in crate::peer) fn forget_early(&self, now: Instant) {
        self.early
            .borrow_mut()
            .retain(|_, (_, since)| now.saturating_duration_since(*since) < EARLY_STREAM_WAIT);
    }

    pub(super) fn spawn_receiver(&self, side: BodySide, id: u64, stream: quinn::RecvStream, flow: Rc<Inflow>) {
        if let Some(me) = self.me.upgrade() {
            self.spawn_body(bodies::receive(me, side, id, stream, flow));
        }
    }

    /// Body bytes of a stream, handed on. The receiver keeps the budget.
    pub(in crate::peer) fn on_body_bytes(&self, side: BodySide, id: u64, chunk: Bytes) {
        match side {
            BodySide::Request => {
                if let Some(callee_id) = self.with_in(id, |call| call.callee_id) {
                    self.handler
                        .on_request(callee_id, RequestEvent::Body(RequestBody { chunk, end: false }));
                }
            }
            BodySide::Reply => {
                let caller = self.out.borrow().by_wire(id).map(|call| call.caller.clone());
                if let Some(caller) = caller {
                    caller.send(ReplyEvent::Part(Part {
                        body: ReplyBody(chunk),
                        ..Part::default()
                    }));
                }
            }
        }
    }

    /// A body stream has ended well.
    pub(in crate::peer) fn on_body_end(&self, side: BodySide, id: u64) {
        match side {
            BodySide::Request => {
                if let Some(callee_id) = self.with_in(id, |call| call.callee_id) {
                    let body = RequestBody {
                        chunk: Bytes::new(),
                        end: true,
                    };
                    self.handler.on_request(callee_id, RequestEvent::Body(body));
                }
            }
            BodySide::Reply => {
                let ending = {
                    let mut out = self.out.borrow_mut();
                    let Some(call) = out.by_wire_mut(id) else { return };
                    if let Some(flow) = &call.reply_body {
                        flow.set_done();
                    }
                    call.ending.take()
                };
                if let Some(ending) = ending {
                    self.end_out(
                        id,
                        ReplyEvent::Part(Part {
                            end: Some(ending),
                            ..Part::default()
                        }),
                    );
                }
            }
        }
    }

    /// A body stream broke while the link lives.
    pub(in crate::peer) fn on_body_broken(&self, side: BodySide, id: u64) {
        match side {
            // The origin resets the stream when it cancels; the cancel itself is on the lane.
            BodySide::Request => self.on_call_cancelled(id, CancelReason::Caller),
            BodySide::Reply => {
                let error = RelayError::new(Reason::LinkLost, Retry::Ambiguous, "the reply broke off on its way");
                self.end_out(id, ReplyEvent::Failed(Box::new(error)));
            }
        }
    }

    /// A body sender has passed on bytes.
    pub(in crate::peer) fn on_body_sent(&self, side: BodySide, id: u64, bytes: usize) {
        match side {
            BodySide::Request => {
                let caller = self.out.borrow().by_wire(id).map(|call| call.caller.clone());
                if let Some(caller) = caller {
                    caller.send(ReplyEvent::Credit(bytes));
                }
            }
            BodySide::Reply => {
                if let Some(callee_id) = self.with_in(id, |call| call.callee_id) {
                    self.handler.on_request(callee_id, RequestEvent::Credit(bytes));
                }
            }
        }
    }

    /// A large reply is out; its end goes on the lane and says how long the body was.
    pub(in crate::peer) fn on_reply_sent(&self, id: u64, ending: Ending, large_bytes: u64) {
        if let Some(call) = self.take_in(id) {
            let part = Part {
                end: Some(ending),
                ..Part::default()
            };
            self.to_lane(
                call.lane,
                LaneItem::Reply {
                    id,
                    part,
                    large: true,
                    large_bytes,
                },
            );
        }
    }
}
