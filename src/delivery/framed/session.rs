//! State of one connection between its socket and its ports. No I/O, no clock.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::{Connection, Event, SessionError, Surroundings};
use crate::model::{CancelReason, Name, Registration, ServiceName, Subscription};
use crate::wire::frame::{self, CONNECTION, Encoder, Frame};
use crate::wire::hello::{self, Agreed, RefusedService, RefusedSubscription, Register, Registered};

/// Everything the task of a connection owns, apart from the socket.
pub(super) struct Session {
    pub(super) connection: Rc<Connection>,
    /// Frames to write.
    pub(super) out: BytesMut,
    surroundings: Surroundings,
    agreed: Agreed,
    encoder: Encoder,
    incoming: Incoming,
    outgoing: Outgoing,
    registrations: Vec<(ServiceName, Registration)>,
    subscriptions: Vec<((String, String), Registration)>,
    /// REGISTERs that the queue has not answered in full, and how many there were.
    answers: Vec<Answering>,
    registers: u64,
    draining: Drain,
}

/// A REGISTER that waits for the queue to say which subscriptions are in force.
struct Answering {
    number: u64,
    id: u64,
    waits: usize,
    answer: Registered,
}

/// How far the end of a connection in order is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Drain {
    /// Not begun.
    Not,
    /// The other side was told; calls it sent before it knew may still come.
    Told,
    /// It has answered the ping behind the `DRAIN`: all it sends from now on is sent knowingly.
    Known,
}

/// Number of the ping that follows a `DRAIN`.
const DRAIN_PING: u64 = u64::MAX;

/// What both directions need to write frames.
pub(super) struct Wire<'a> {
    pub(super) out: &'a mut BytesMut,
    pub(super) encoder: &'a mut Encoder,
    /// What the other side accepts.
    pub(super) agreed: &'a Agreed,
    pub(super) surroundings: &'a Surroundings,
    pub(super) now: Instant,
}

impl Session {
    pub(super) fn new(connection: Rc<Connection>, agreed: Agreed, surroundings: Surroundings) -> Self {
        Self {
            connection,
            out: BytesMut::new(),
            surroundings,
            agreed,
            encoder: Encoder::new(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            registrations: Vec::new(),
            subscriptions: Vec::new(),
            answers: Vec::new(),
            registers: 0,
            draining: Drain::Not,
        }
    }

    /// The socket brought a frame.
    ///
    /// # Errors
    /// [`SessionError`]: the connection must end.
    pub(super) fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), SessionError> {
        let draining = self.draining != Drain::Not;
        let connection = Rc::clone(&self.connection);
        let (incoming, outgoing, mut wire) = self.parts(now);
        match frame {
            Frame::Request { large: true, .. }
            | Frame::RequestBody { large: true, .. }
            | Frame::Reply { large: true, .. } => {
                return Err(SessionError::Violation("the LARGE flag is for links between relays"));
            }
            Frame::Request { id, request, .. } => {
                return incoming.on_open(id, request, &connection, draining, &mut wire);
            }
            Frame::RequestBody { id, body, .. } => incoming.on_body(id, body, &mut wire),
            Frame::Cancel { id, reason } => {
                incoming.on_cancel(id, reason);
            }
            Frame::Credit { id, bytes, reply: true } => incoming.on_credit(id, bytes, &mut wire),
            Frame::Credit { id, bytes, .. } => outgoing.on_request_credit(id, bytes, &mut wire),
            Frame::Reply { id, part, .. } => outgoing.on_reply(id, part, &connection, &mut wire),
            Frame::Failed { id: CONNECTION, error } => return Err(SessionError::Refused(error.detail)),
            Frame::Failed { id, error } => outgoing.on_failed(id, &error, &connection),
            Frame::Ping(number) => frame::put_pong(wire.out, number),
            Frame::Pong(DRAIN_PING) if draining => self.draining = Drain::Known,
            Frame::Pong(_)
            | Frame::Renew
            | Frame::Retire { .. }
            | Frame::Route(_)
            | Frame::Sightings(_)
            | Frame::Unknown(_) => {}
            Frame::Drain => connection.taking.set(false),
            Frame::Register { id, body } => return self.register(id, &body, now),
            Frame::Registered { .. } => return Err(SessionError::Violation("REGISTERED is for services, not relays")),
            Frame::Hello(_) => return Err(SessionError::Violation("HELLO was sent twice")),
        }
        Ok(())
    }

    /// A port brought an event.
    pub(super) fn on_event(&mut self, event: Event, now: Instant) {
        if let Event::Subscribed {
            register,
            wanted,
            result,
        } = event
        {
            return self.on_subscribed(register, wanted, result, now);
        }
        let connection = Rc::clone(&self.connection);
        let (incoming, outgoing, mut wire) = self.parts(now);
        match event {
            Event::Open { id, request, caller } => outgoing.on_open(id, request, caller, &connection, &mut wire),
            Event::Request { id, event } => outgoing.on_event(id, event, &connection, &mut wire),
            Event::Reply { id, event } => incoming.on_event(id, event, &mut wire),
            Event::Route(push) => {
                frame::put_route(wire.out, &push);
                let room = connection.routes_room.get().map(|room| room + 1);
                connection.routes_room.set(room);
            }
            Event::Subscribed { .. } => {}
        }
    }

    /// Takes no new calls from now on and says so.
    pub(super) fn drain(&mut self) {
        self.draining = Drain::Told;
        frame::put_drain(&mut self.out);
        frame::put_ping(&mut self.out, DRAIN_PING);
    }

    /// Whether the other side knows that it must not send new calls. Closing before would lose calls that
    /// are on their way, without a word on whether they were executed.
    pub(super) fn is_drain_known(&self) -> bool {
        self.draining == Drain::Known
    }

    /// Whether no call is open in either direction.
    pub(super) fn is_quiet(&self) -> bool {
        self.incoming.len() == 0 && self.connection.ids.borrow().in_use() == 0
    }

    /// Whether there are calls that the other side may hold up.
    pub(super) fn has_long_calls(&self) -> bool {
        self.incoming.watched() > 0
    }

    /// Ends calls whose caller drips or hardly reads (T13).
    pub(super) fn end_slow_calls(&mut self, now: Instant) {
        let (incoming, _, mut wire) = self.parts(now);
        incoming.end_slow(&mut wire);
    }

    /// The connection has ended: unregisters, cancels calls of the other side, ends calls to it (S2).
    pub(super) fn close(&mut self) {
        self.registrations.clear();
        self.subscriptions.clear();
        self.connection.mailbox.close();
        self.incoming.close(CancelReason::Caller);
        self.outgoing.close();
        while let Some(event) = self.connection.mailbox.pop() {
            if let Event::Open { caller, .. } = event {
                Outgoing::never_sent(&caller);
            }
        }
    }

    fn parts(&mut self, now: Instant) -> (&mut Incoming, &mut Outgoing, Wire<'_>) {
        let wire = Wire {
            out: &mut self.out,
            encoder: &mut self.encoder,
            agreed: &self.agreed,
            surroundings: &self.surroundings,
            now,
        };
        (&mut self.incoming, &mut self.outgoing, wire)
    }

    fn register(&mut self, id: u64, body: &[u8], now: Instant) -> Result<(), SessionError> {
        let request: Register = hello::decode(body).map_err(SessionError::Hello)?;
        let mut answer = Registered::default();
        let wanted = usize::try_from(request.max_in_flight).unwrap_or(usize::MAX);
        if wanted > 0 {
            self.connection.calls_max.set(wanted.min(self.agreed.calls_max));
        }
        for service in request.services {
            match self.register_one(&service) {
                Ok(()) => answer.accepted.push(service),
                Err(reason) => {
                    self.surroundings
                        .metrics
                        .on_registration_refused(&service, &reason, now);
                    answer.refused.push(RefusedService { service, reason });
                }
            }
        }
        self.registers += 1;
        let mut waits = 0;
        for wanted in request.subscriptions {
            match self.subscribe_one(&wanted) {
                Ok(true) => waits += 1,
                Ok(false) => answer.subscribed.push(wanted),
                Err(reason) => self.refuse(&mut answer, wanted, reason, now),
            }
        }
        if waits > 0 || !(answer.accepted.is_empty() && answer.subscribed.is_empty()) {
            self.connection.taking.set(true);
        }
        if waits == 0 {
            frame::put_registered(&mut self.out, id, &hello::encode(&answer));
        } else {
            let number = self.registers;
            self.answers.push(Answering {
                number,
                id,
                waits,
                answer,
            });
        }
        Ok(())
    }

    /// The queue has decided about a subscription.
    fn on_subscribed(&mut self, register: u64, wanted: hello::Subscription, result: Result<(), String>, now: Instant) {
        let Some(at) = self.answers.iter().position(|answering| answering.number == register) else {
            return;
        };
        let mut answering = self.answers.swap_remove(at);
        match result {
            Ok(()) => answering.answer.subscribed.push(wanted),
            Err(reason) => {
                self.subscriptions
                    .retain(|((topic, group), _)| (topic, group) != (&wanted.topic, &wanted.group));
                self.refuse(&mut answering.answer, wanted, reason, now);
            }
        }
        answering.waits -= 1;
        if answering.waits == 0 {
            frame::put_registered(&mut self.out, answering.id, &hello::encode(&answering.answer));
        } else {
            self.answers.push(answering);
        }
    }

    fn refuse(&self, answer: &mut Registered, wanted: hello::Subscription, reason: String, now: Instant) {
        let metrics = &self.surroundings.metrics;
        metrics.on_registration_refused(&wanted.topic, &reason, now);
        let hello::Subscription { topic, group, .. } = wanted;
        answer
            .refused_subscriptions
            .push(RefusedSubscription { topic, group, reason });
    }

    fn register_one(&mut self, service: &str) -> Result<(), String> {
        let name = Name::new(service).map_err(|error| error.to_string())?;
        if self.registrations.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let registry = self.surroundings.registry.as_ref();
        let registry = registry.ok_or("services cannot be registered on this connection")?;
        self.check_room()?;
        let endpoint = Rc::clone(&self.connection);
        let registration = registry.register(&name, endpoint).map_err(|error| error.to_string())?;
        self.registrations.push((name, registration));
        Ok(())
    }

    /// `true`: the queue decides, and says so with an event.
    fn subscribe_one(&mut self, wanted: &hello::Subscription) -> Result<bool, String> {
        let place = (wanted.topic.clone(), wanted.group.clone());
        if self.subscriptions.iter().any(|(known, _)| *known == place) {
            return Ok(false);
        }
        let subscriptions = self.surroundings.subscriptions.as_ref();
        let subscriptions = subscriptions.ok_or("messages cannot be subscribed to on this connection")?;
        self.check_room()?;
        let subscription = Subscription {
            topic: wanted.topic.clone(),
            group: wanted.group.clone(),
            in_flight_max: usize::try_from(wanted.in_flight_max).unwrap_or(usize::MAX),
        };
        let endpoint = Rc::clone(&self.connection);
        let (connection, register, wanted) = (Rc::downgrade(&self.connection), self.registers, wanted.clone());
        let told = move |result| {
            if let Some(connection) = connection.upgrade() {
                connection.mailbox.push(Event::Subscribed {
                    register,
                    wanted,
                    result,
                });
            }
        };
        let registration = subscriptions.subscribe(&subscription, endpoint, Box::new(told));
        let registration = registration.map_err(|error| error.to_string())?;
        self.subscriptions.push((place, registration));
        Ok(true)
    }

    /// Whether the connection takes calls and may register one more.
    fn check_room(&self) -> Result<(), String> {
        if self.connection.calls_max.get() == 0 {
            return Err("the HELLO of this connection accepts no calls (calls_max is 0)".to_owned());
        }
        let limit = self.surroundings.limits.services_max;
        if self.registrations.len() + self.subscriptions.len() >= limit {
            return Err(format!(
                "one connection may register {limit} services and subscriptions"
            ));
        }
        Ok(())
    }
}
