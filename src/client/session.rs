//! One connection of a client: frames in, frames out. No I/O.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tokio_util::task::TaskTracker;

use super::calls::{Calls, Limits};
use super::served::Served;
use super::{Pending, Reply, Shared, Status, Wanted};
use crate::wire::frame::{self, CONNECTION, Encoder, Frame};
use crate::wire::hello::{self, Agreed, Register, Registered, Subscription};

/// State of one connection.
pub(super) struct Session {
    /// Frames to write.
    pub(super) out: BytesMut,
    /// Bytes written so far.
    pub(super) written: u64,
    calls: Calls,
    served: Served,
    encoder: Encoder,
    limits: Limits,
    shared: Arc<Shared>,
    registers: u64,
    /// The relay takes no new calls.
    pub(super) draining: bool,
}

/// What a frame brings for the worker.
pub(super) enum Event {
    /// Nothing.
    None,
    /// A call that must be sent on another connection.
    Again(Pending),
    /// Answer to a registration.
    Registered(Registered),
}

impl Session {
    pub(super) fn new(
        number: u64,
        agreed: &Agreed,
        (serving_max, message_bytes_max): (u32, usize),
        shared: Arc<Shared>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            out: BytesMut::new(),
            written: 0,
            calls: Calls::default(),
            served: Served::new(number, serving_max, Arc::clone(&shared), tasks),
            encoder: Encoder::new(),
            limits: Limits {
                calls_max: agreed.calls_max,
                window: agreed.bytes_max,
                message_bytes_max,
            },
            shared,
            registers: 0,
            draining: false,
        }
    }

    /// Whether another call may be sent now.
    pub(super) fn has_room(&self) -> bool {
        !self.draining && self.calls.len() < self.limits.calls_max
    }

    /// Whether the relay drains and no call of ours is left.
    pub(super) fn is_drained(&self) -> bool {
        self.draining && self.calls.len() == 0
    }

    /// Sends a call; only with [`Session::has_room`].
    pub(super) fn start(&mut self, pending: Pending, now: Instant) {
        let put_before = self.written + u64::try_from(self.out.len()).unwrap_or(u64::MAX);
        let by = (self.limits, now);
        self.calls
            .start(pending, &mut self.encoder, &mut self.out, put_before, by);
    }

    /// Registers services and subscriptions.
    pub(super) fn register(&mut self, wanted: &[Wanted], instance: &str) {
        let services = wanted.iter().filter_map(|wanted| match wanted {
            Wanted::Service(name) => Some(name.to_string()),
            Wanted::Group { .. } => None,
        });
        let subscriptions = wanted.iter().filter_map(|wanted| match wanted {
            Wanted::Service(_) => None,
            Wanted::Group { topic, group } => Some(Subscription {
                topic: topic.to_string(),
                group: group.to_string(),
                in_flight_max: self.shared.in_flight_of(wanted),
            }),
        });
        let message = Register {
            services: services.collect(),
            instance: instance.to_owned(),
            max_in_flight: 0,
            subscriptions: subscriptions.collect(),
        };
        self.registers += 1;
        frame::put_register(&mut self.out, self.registers, &hello::encode(&message));
    }

    /// A handler is done.
    pub(super) fn on_answer(&mut self, session: u64, id: u64, result: Result<Reply, Status>) {
        self.served.on_answer(session, id, result, &mut self.out, self.limits);
    }

    /// The socket brought a frame.
    ///
    /// # Errors
    /// The connection must end; says why.
    pub(super) fn on_frame(&mut self, frame: Frame) -> Result<Event, String> {
        let (out, limits) = (&mut self.out, self.limits);
        match frame {
            Frame::Reply { id, part, .. } => self.calls.on_reply(id, part, out, limits),
            Frame::Failed { id: CONNECTION, error } => return Err(error.detail),
            Frame::Failed { id, error } => {
                if let Some(pending) = self.calls.on_failed(id, error) {
                    return Ok(Event::Again(pending));
                }
            }
            Frame::Credit { id, bytes, reply: true } => self.served.on_credit(id, bytes, out, limits),
            Frame::Credit { id, bytes, .. } => self.calls.on_credit(id, bytes, out, limits),
            Frame::Request { id, request, .. } => self.served.on_request(id, *request, out, limits),
            Frame::RequestBody { id, body, .. } => self.served.on_body(id, body, out, limits),
            Frame::Cancel { id, .. } => self.served.on_cancel(id),
            Frame::Ping(number) => frame::put_pong(out, number),
            Frame::Drain => self.draining = true,
            Frame::Registered { body, .. } => {
                let registered = hello::decode(&body).map_err(|error| error.to_string())?;
                return Ok(Event::Registered(registered));
            }
            Frame::Route(push) => self.shared.tokens().on_route(&push),
            Frame::Pong(_) | Frame::Renew | Frame::Retire { .. } | Frame::Sightings(_) | Frame::Unknown(_) => {}
            Frame::Hello(_) | Frame::Register { .. } => return Err("the relay broke the protocol".to_owned()),
        }
        Ok(Event::None)
    }

    /// Ends calls that are late or not waited for; tells when to look again.
    pub(super) fn sweep(&mut self, now: Instant) -> Option<Instant> {
        self.calls.sweep(now, &mut self.out)
    }

    /// The connection is gone. Calls of which nothing was written come back.
    pub(super) fn lose(mut self, why: &str) -> Vec<Pending> {
        self.served.close();
        self.calls.lose(self.written, why)
    }
}
