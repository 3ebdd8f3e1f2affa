//! Asks gRPC endpoints whether they serve: `grpc.health.v1.Health/Check` over the connections that carry
//! the calls.
//!
//! # Invariants
//! - H1. An endpoint that does not implement the service, or does not know the name, is healthy: whether it
//!   can be reached is seen from its connection.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::settings::HealthSettings;
use super::slot::{Link, Slot};
use crate::model::{
    CallId, Caller, CallerRef, CancelReason, Code, Envelope, Facts, Metadata, ReplyEvent, Request, RequestBody,
    RequestEvent, RouteHints,
};
use crate::wire::attributes::put_varint;

/// Longest answer that is read; a real one has two bytes.
const ANSWER_BYTES_MAX: usize = 64;

/// Asks again and again until `retired`, and at once on each new connection.
pub(super) async fn watch(slot: Rc<Slot>, settings: HealthSettings, retired: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let wait = settings.interval.mul_f64(0.9 + fastrand::f64() * 0.2);
        tokio::select! {
            () = retired.cancelled() => return,
            () = slot.connected.notified() => {}
            () = sleep(wait) => {}
        }
        let Some(link) = slot.any_link() else {
            continue;
        };
        let verdict = tokio::select! {
            () = retired.cancelled() => return,
            verdict = ask(&link, &settings) => verdict,
        };
        failures = match verdict {
            Verdict::Serving => 0,
            Verdict::NotServing => settings.failures,
            Verdict::Silent => failures.saturating_add(1),
        };
        let healthy = failures < settings.failures;
        if healthy != slot.is_healthy() {
            tracing::info!(healthy, "health of an endpoint changed");
        }
        slot.on_health(healthy);
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    NotServing,
    Serving,
    /// No answer, or none that tells.
    Silent,
}

async fn ask(link: &Link, settings: &HealthSettings) -> Verdict {
    let (answer, answered) = oneshot::channel();
    let question = Rc::new(Question {
        answer: RefCell::new(Some(answer)),
        body: RefCell::default(),
    });
    let caller = CallerRef {
        port: question,
        id: CallId(0),
    };
    let Ok(id) = link.endpoint.open(Box::new(request(settings)), caller) else {
        return Verdict::Silent;
    };
    if let Ok(Ok(verdict)) = timeout(settings.timeout, answered).await {
        verdict
    } else {
        let cancel = RequestEvent::Cancel(CancelReason::Deadline);
        link.endpoint.on_request(id, cancel);
        Verdict::Silent
    }
}

fn request(settings: &HealthSettings) -> Request {
    let now = Instant::now().into_std();
    let mut message = BytesMut::new();
    if !settings.service.is_empty() {
        message.put_u8(0x0a); // field 1, a string
        put_varint(&mut message, u64::try_from(settings.service.len()).unwrap_or(0));
        message.put_slice(settings.service.as_bytes());
    }
    Request {
        path: Bytes::from_static(b"/grpc.health.v1.Health/Check"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: now,
        deadline: now.checked_add(settings.timeout),
        body: RequestBody {
            chunk: message.freeze(),
            end: true,
        },
    }
}

/// The caller of one check.
struct Question {
    answer: RefCell<Option<oneshot::Sender<Verdict>>>,
    body: RefCell<BytesMut>,
}

impl Caller for Question {
    fn on_reply(&self, _: CallId, event: ReplyEvent) {
        let verdict = match event {
            ReplyEvent::Credit(_) => return,
            ReplyEvent::Failed(_) => Verdict::Silent,
            ReplyEvent::Part(part) => {
                let mut body = self.body.borrow_mut();
                let room = ANSWER_BYTES_MAX.saturating_sub(body.len());
                body.extend(part.body.0.iter().take(room));
                match part.end {
                    None => return,
                    Some(end) => verdict(end.status, &body),
                }
            }
        };
        if let Some(answer) = self.answer.borrow_mut().take() {
            let _ = answer.send(verdict); // nobody waits any more after the timeout
        }
    }
}

fn verdict(status: Code, body: &[u8]) -> Verdict {
    match (status, body) {
        // HealthCheckResponse { status = 1: SERVING = 1 }; an enum of 0 is not on the wire.
        (Code::Ok, [0x08, 1, ..]) | (Code::Unimplemented | Code::NotFound, _) => Verdict::Serving,
        (Code::Ok, _) => Verdict::NotServing,
        _ => Verdict::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // C-E1
    #[test]
    fn only_a_clear_no_takes_an_endpoint_out_at_once() {
        assert_eq!(verdict(Code::Ok, &[8, 1]), Verdict::Serving);
        assert_eq!(verdict(Code::Ok, &[8, 2]), Verdict::NotServing);
        assert_eq!(verdict(Code::Ok, &[]), Verdict::NotServing);
        assert_eq!(verdict(Code::Unimplemented, &[]), Verdict::Serving);
        assert_eq!(verdict(Code::NotFound, &[]), Verdict::Serving);
        assert_eq!(verdict(Code::Internal, &[]), Verdict::Silent);
    }
}
