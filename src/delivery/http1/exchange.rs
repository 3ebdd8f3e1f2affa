//! One call over HTTP/1.1, from its first body byte to the last credit of its reply.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use slotmap::DefaultKey;

use super::{Pool, Post, Sender, translate};
use crate::delivery::dial;
use crate::model::{
    CallerRef, Code, Ending, Envelope, Metadata, MetadataBuilder, Part, Reason, RelayError, ReplyBody, ReplyEvent,
    Request, RequestBody, Retry, Timing, wants_credit,
};
use crate::wire::envelope::{self, EnvelopeError, UnaryStrip};

/// Reply bytes that are sent without having been credited, and the size of the chunks.
const PACE_BYTES: usize = 128 * 1024;
const CHUNK_BYTES: usize = 32 * 1024;

/// A whole answer.
struct Answer {
    status: u16,
    code: Code,
    text: Bytes,
    fields: Metadata,
    body: Bytes,
    service: Duration,
}

impl Pool {
    /// Carries the call to the service and its answer back; ends early if the caller gives up.
    pub(super) async fn carry(
        self: Rc<Self>,
        key: DefaultKey,
        request: Box<Request>,
        caller: CallerRef,
        post: Rc<Post>,
    ) {
        let envelope = request.envelope;
        let carried = async {
            match self.exchange(request, &caller, &post).await {
                Ok(answer) => reply(answer, envelope, &caller, &post).await,
                Err(error) => caller.send(ReplyEvent::Failed(Box::new(error))),
            }
        };
        tokio::select! {
            () = carried => {}
            // Dropping the exchange closes its connection: the service sees that nobody waits (C-D2).
            () = post.cancelled.cancelled() => {}
        }
        self.end(key);
    }

    async fn exchange(&self, mut call: Box<Request>, caller: &CallerRef, post: &Post) -> Result<Answer, RelayError> {
        let limit = self.settings.body_bytes_max.as_usize();
        let first = std::mem::take(&mut call.body);
        let message = message(first, call.envelope, limit, caller, post).await?;
        let now = clock();
        if translate::is_over(&call, now) {
            let detail = "the deadline passed before the call reached the service";
            return Err(RelayError::new(Reason::DeadlineExceeded, Retry::Safe, detail));
        }
        let request = translate::request(&call, &self.place.authority(), message, now)?;
        let (mut sender, response) = self.send(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            let detail = format!("the HTTP/1.1 service's reply broke off or is longer than {limit} bytes: {error}");
            RelayError::new(Reason::ServiceLost, Retry::Ambiguous, detail)
        })?;
        let (code, text, fields) = translate::answer(head.status, &head.headers);
        let answer = Answer {
            status: head.status.as_u16(),
            code,
            text,
            fields,
            body: body.to_bytes(),
            service: clock().saturating_duration_since(now),
        };
        if sender.ready().await.is_ok() {
            self.keep(sender);
        }
        Ok(answer)
    }

    /// Sends over a kept connection, or a new one if there is none or the service had just closed it.
    async fn send(
        &self,
        mut request: hyper::Request<Full<Bytes>>,
    ) -> Result<(Sender, hyper::Response<hyper::body::Incoming>), RelayError> {
        loop {
            let (mut sender, is_new) = match self.take_idle() {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    // Nothing of it was written (T2).
                    Some(unsent) if !is_new => request = unsent,
                    Some(_) => {
                        let detail = format!("the HTTP/1.1 service closed the connection: {}", error.error());
                        return Err(RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail));
                    }
                    None => {
                        let detail = format!("the HTTP/1.1 service broke off the call: {}", error.error());
                        return Err(RelayError::new(Reason::ServiceLost, Retry::Ambiguous, detail));
                    }
                },
            }
        }
    }

    async fn connect(&self) -> Result<Sender, RelayError> {
        let unreachable = |error: String| {
            self.broken.cancel();
            let detail = format!("the HTTP/1.1 endpoint cannot be reached: {error}");
            RelayError::new(Reason::ServiceUnavailable, Retry::Safe, detail)
        };
        let io = dial::connect(&self.place)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        self.shake(io).await.map_err(|error| unreachable(error.to_string()))
    }
}

/// Collects the request body and takes the framing off. It is credited as it comes: it is held here.
async fn message(
    first: RequestBody,
    envelope: Envelope,
    limit: usize,
    caller: &CallerRef,
    post: &Post,
) -> Result<Bytes, RelayError> {
    let mut strip = (envelope == Envelope::Grpc).then(|| UnaryStrip::new(limit));
    let mut held = BytesMut::new();
    let mut body = first;
    loop {
        let (bytes, end) = (body.chunk.len(), body.end);
        let kept = match &mut strip {
            Some(strip) => strip.push(body.chunk).map_err(|error| untranslatable(&error))?,
            None => body.chunk,
        };
        if held.len() + kept.len() > limit {
            let size = held.len() + kept.len();
            return Err(untranslatable(&EnvelopeError::TooLong { size, limit }));
        }
        if end && held.is_empty() {
            check_end(strip.as_ref())?;
            return Ok(kept);
        }
        held.extend_from_slice(&kept);
        if wants_credit(bytes, end) {
            caller.send(ReplyEvent::Credit(bytes));
        }
        if end {
            check_end(strip.as_ref())?;
            return Ok(held.freeze());
        }
        post.body.some().await;
        body = post.body.pop().unwrap_or_default();
    }
}

fn check_end(strip: Option<&UnaryStrip>) -> Result<(), RelayError> {
    strip.map_or(Ok(()), |strip| strip.end().map_err(|error| untranslatable(&error)))
}

fn untranslatable(error: &EnvelopeError) -> RelayError {
    let reason = match error {
        EnvelopeError::TooLong { .. } => Reason::TooLarge,
        _ => Reason::BadInput,
    };
    RelayError::new(reason, Retry::Never, error.to_string())
}

/// Sends the answer in the caller's envelope: at once if it is small, else in chunks under credit.
async fn reply(answer: Answer, envelope: Envelope, caller: &CallerRef, post: &Post) {
    let ending = Ending {
        status: answer.code,
        message: answer.text,
        trailers: Metadata::default(),
        timing: Timing {
            service: answer.service,
            ..Timing::default()
        },
    };
    let (head, mut body, ending) = match envelope {
        Envelope::Framed => ((answer.status, answer.fields), answer.body, ending),
        Envelope::Grpc => grpc(&answer.fields, &answer.body, ending),
    };
    let mut head = Some(head);
    let mut open_bytes = 0;
    while body.len() > CHUNK_BYTES {
        let chunk = body.split_to(CHUNK_BYTES);
        open_bytes += chunk.len();
        let body = ReplyBody(chunk);
        let (head, end) = (head.take(), None);
        caller.send(ReplyEvent::Part(Part { head, body, end }));
        while open_bytes > PACE_BYTES {
            post.credit.some().await;
            open_bytes = open_bytes.saturating_sub(post.credit.pop().unwrap_or(0));
        }
    }
    caller.send(ReplyEvent::Part(Part {
        head,
        body: ReplyBody(body),
        end: Some(ending),
    }));
}

/// The reply for a gRPC caller: always HTTP 200, the message in its framing, the status in the trailers.
fn grpc(fields: &Metadata, message: &[u8], mut ending: Ending) -> ((u16, Metadata), Bytes, Ending) {
    let mut head = MetadataBuilder::new();
    let _ = head.push(b"content-type", b"application/grpc"); // a legal constant
    for (name, value) in fields.iter() {
        let _ = head.push(name, value); // was legal in the block it came from
    }
    let mut body = BytesMut::new();
    // An error without a body has no message either.
    if ending.status == Code::Ok || !message.is_empty() {
        body.reserve(message.len() + envelope::PREFIX_BYTES);
        body.extend_from_slice(&envelope::grpc_prefix(message.len()));
        body.extend_from_slice(message);
    }
    ending.trailers = envelope::grpc_trailers(&ending);
    ((200, head.build()), body.freeze(), ending)
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
