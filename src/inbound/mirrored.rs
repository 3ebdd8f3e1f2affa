//! At the owner of a key that moves with a mirror: calls that become shadows at the other unit once they are answered (R-3.9 S1).
//!
//! Mirrored is every call of a method that may write, whose request is one message, and whose service answers OK.

use bytes::Bytes;

use super::gate::Admission;
use crate::control::shadows::{LineId, Sent, Shadows, Ticket};
use crate::model::{Code, Request, RequestBody, SMALL_BODY_BYTES};
use crate::routing::{RouteTable, Trail};
use crate::wire::shadow::Shadow;

/// What is kept of a call until its service has answered.
pub(super) struct Mirrored {
    ticket: Ticket,
    shadow: Shadow,
    /// The whole body is in the shadow.
    is_whole: bool,
    is_too_large: bool,
}

impl Mirrored {
    /// A call was admitted; `None` if it has no shadow.
    pub(super) fn begin(shadows: &Shadows, table: &RouteTable, trail: &Trail, request: &Request) -> Option<Box<Self>> {
        let mirrored = table.routes()?.mirrored(trail)?;
        let shadow = Shadow::of(request, mirrored.by.0, table.version())?;
        let ticket = shadows.admit(LineId {
            by: mirrored.by,
            to: mirrored.to.clone(),
            key: trail.key()?,
        })?;
        Some(Box::new(Self {
            ticket,
            is_too_large: shadow.body.len() > SMALL_BODY_BYTES,
            shadow,
            is_whole: request.body.end,
        }))
    }

    fn on_body(&mut self, more: &RequestBody) {
        self.is_whole |= more.end;
        if self.is_too_large || more.chunk.is_empty() {
            return;
        }
        if self.shadow.body.len() + more.chunk.len() > SMALL_BODY_BYTES {
            self.is_too_large = true;
            self.shadow.body = Bytes::new();
        } else if self.shadow.body.is_empty() {
            self.shadow.body = more.chunk.clone();
        } else {
            self.shadow.body = [&self.shadow.body[..], &more.chunk[..]].concat().into();
        }
    }

    fn on_answered(self) {
        if !self.is_whole {
            // Answered before the request had ended: a stream.
            return self.ticket.miss(Sent::Stream);
        }
        if self.is_too_large || !self.shadow.is_small() {
            return self.ticket.miss(Sent::TooLarge);
        }
        if !self.shadow.is_one_message() {
            return self.ticket.miss(Sent::Stream);
        }
        let now = tokio::time::Instant::now().into_std();
        self.ticket.keep(self.shadow, now);
    }
}

impl Admission {
    /// More of the request came.
    pub(super) fn on_body(&mut self, body: &RequestBody) {
        if let Some(mirrored) = &mut self.mirrored {
            mirrored.on_body(body);
        }
    }

    /// The service has answered; its caller has not heard it yet.
    pub(super) fn on_answered(&mut self, status: Code) {
        // What failed has no shadow.
        if let Some(mirrored) = self.mirrored.take().filter(|_| status == Code::Ok) {
            mirrored.on_answered();
        }
    }
}
