//! One call at a service: what becomes of its reply. Pure.

use std::time::Instant;

use bytes::Bytes;

use crate::model::{
    CallId, CallerRef, Code, Ending, Envelope, Metadata, Part, Reason, RelayError, ReplyBody, Request, Retry, Timing,
};
use crate::wire::envelope::{self, EnvelopeError, UnaryStrip, UnaryWrap};
use crate::wire::http2::{self, StreamRef};

/// A call under way.
pub(super) struct Call {
    pub(super) id: CallId,
    pub(super) caller: CallerRef,
    pub(super) stream: Option<StreamRef>,
    /// The request body was not whole at once.
    pub(super) is_streaming: bool,
    /// Waits for a stream.
    pub(super) waiting: Option<Box<Request>>,
    /// Set while a Framed request is collected.
    pub(super) wrap: Option<UnaryWrap>,
    strip: Option<UnaryStrip>,
    started: Instant,
    http_status: u16,
    head_status: Option<(Code, Bytes)>,
    is_grpc: bool,
}

impl Call {
    pub(super) fn new(id: CallId, caller: CallerRef, request: &Request, limit: usize, now: Instant) -> Self {
        let is_framed = request.envelope == Envelope::Framed;
        Self {
            id,
            caller,
            stream: None,
            is_streaming: request.body.is_partial(),
            waiting: None,
            wrap: is_framed.then(|| UnaryWrap::new(limit)),
            strip: is_framed.then(|| UnaryStrip::new(limit)),
            started: now,
            http_status: 0,
            head_status: None,
            is_grpc: false,
        }
    }

    /// Starts the clock of the service.
    pub(super) fn on_sent(&mut self, stream: StreamRef, now: Instant) {
        self.stream = Some(stream);
        self.started = now;
    }

    /// Turns a part of a reply into what the caller gets.
    pub(super) fn reply(&mut self, part: http2::Part, now: Instant) -> Result<Part, Box<RelayError>> {
        let mut reply = Part::default();
        if part.is_cut {
            return Err(Box::new(too_large("the reply's trailers are over this relay's limit")));
        }
        if let Some(head) = part.head {
            if head.is_too_large {
                return Err(Box::new(too_large("the reply's metadata is over this relay's limit")));
            }
            self.http_status = head.status;
            self.is_grpc = head
                .fields
                .value("content-type")
                .is_some_and(|kind| kind.starts_with(b"application/grpc"));
            self.head_status = envelope::status_of(&head.fields);
            reply.head = Some((head.status, self.carried(head.fields)));
        }
        let body = match &mut self.strip {
            Some(strip) if self.is_grpc => strip.push(part.chunk).map_err(|error| Box::new(translation(&error)))?,
            _ => part.chunk,
        };
        reply.body = ReplyBody(body);
        if part.end {
            reply.end = Some(self.ending(part.trailers, now)?);
        }
        Ok(reply)
    }

    fn ending(&mut self, trailers: Option<Metadata>, now: Instant) -> Result<Ending, Box<RelayError>> {
        let trailers = trailers.unwrap_or_default();
        // C-T6: in the trailers or, trailers-only, in the head.
        let (status, message) = envelope::status_of(&trailers)
            .or_else(|| self.head_status.take())
            .unwrap_or_else(|| (self.status_of_http(), Bytes::new()));
        if let Some(strip) = &self.strip
            && status == Code::Ok
        {
            strip.end().map_err(|error| Box::new(translation(&error)))?;
        }
        let timing = Timing {
            service: now.saturating_duration_since(self.started),
            ..Timing::default()
        };
        Ok(Ending {
            status,
            message,
            trailers: self.carried(trailers),
            timing,
        })
    }

    /// The fields of a reply that concern the caller.
    fn carried(&self, fields: Metadata) -> Metadata {
        if self.strip.is_some() {
            envelope::carried(&fields)
        } else {
            fields
        }
    }

    /// What gRPC makes of a reply without `grpc-status`.
    fn status_of_http(&self) -> Code {
        match self.http_status {
            200..300 if !self.is_grpc => Code::Ok,
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        }
    }
}

/// A message that cannot be put into the other envelope. The service may have acted.
pub(super) fn translation(error: &EnvelopeError) -> RelayError {
    match error {
        EnvelopeError::TooLong { .. } => too_large(error.to_string()),
        _ => RelayError::new(Reason::BadInput, Retry::Never, error.to_string()),
    }
}

fn too_large(detail: impl Into<String>) -> RelayError {
    RelayError::new(Reason::TooLarge, Retry::Never, detail)
}
