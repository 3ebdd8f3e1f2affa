//! What is known of one call at one relay, written down once when it ends (C-O1, C-O2, I1).

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::trace::CallSpan;
use crate::model::{Code, Envelope, Outcome, Reason, RelayError, Request, Timing, UnitId};
use crate::telemetry::access::{self, Access};
use crate::telemetry::calls::{CallMetrics, Direction, Ended, PairMetrics};
use crate::telemetry::retries::RetryOutcome;
use crate::telemetry::span::{self, Span};

/// The record of one call.
pub struct CallRecord {
    direction: Direction,
    path: Bytes,
    request_id: u64,
    epoch: u64,
    attempt: u8,
    flags: &'static str,
    retry: Option<RetryOutcome>,
    source: UnitId,
    unit: UnitId,
    received: Instant,
    sent: Option<Instant>,
    request_bytes: usize,
    reply_bytes: usize,
    pair: Option<Rc<PairMetrics>>,
    /// Boxed, because few calls have one.
    span: Option<Box<CallSpan>>,
}

impl CallRecord {
    /// The path that the caller named.
    pub fn path(&self) -> &Bytes {
        &self.path
    }

    /// A call that has just come in. Until it is routed, its unit is the source unit.
    ///
    /// If spans are written and the call is part of a trace, this relay's span takes the caller's place in
    /// the request.
    pub fn new(direction: Direction, source: UnitId, request: &mut Request) -> Self {
        let span = if span::is_enabled() { join_trace(request) } else { None };
        Self {
            direction,
            path: request.path.clone(),
            request_id: request.facts.request_id,
            epoch: request.facts.epoch,
            attempt: request.facts.attempt,
            flags: access::flags(request.hints.idempotent, request.envelope == Envelope::Framed),
            retry: None,
            unit: source.clone(),
            source,
            received: request.received,
            sent: None,
            request_bytes: request.body.chunk.len(),
            reply_bytes: 0,
            pair: None,
            span,
        }
    }

    /// The unit that should serve it is known.
    pub fn on_routed(&mut self, unit: &UnitId, epoch: u64) {
        self.unit = unit.clone();
        self.epoch = epoch;
    }

    /// It goes out now.
    pub fn on_sent(&mut self, now: Instant, metrics: &CallMetrics) {
        self.sent.get_or_insert(now);
        if self.pair.is_none() {
            let pair = metrics.pair(self.direction, &self.source, &self.unit);
            pair.on_started();
            self.pair = Some(pair);
        }
    }

    /// It goes out once more.
    pub fn on_attempt(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }

    /// Something happened to a retry of it, or there will be none (C-T5).
    pub fn on_retry(&mut self, outcome: RetryOutcome, metrics: &CallMetrics) {
        self.retry = outcome.is_final().then_some(outcome);
        let retries = metrics.retries();
        retries.on_retry(self.request_id, &self.source, &self.unit, outcome);
    }

    /// More of the request came.
    pub fn on_request_bytes(&mut self, bytes: usize) {
        self.request_bytes = self.request_bytes.saturating_add(bytes);
    }

    /// Some of the reply came.
    pub fn on_reply_bytes(&mut self, bytes: usize) {
        self.reply_bytes = self.reply_bytes.saturating_add(bytes);
    }

    /// The unit that serves the call.
    pub fn unit(&self) -> &UnitId {
        &self.unit
    }

    /// Since when the destination has the call.
    pub fn sent(&self) -> Option<Instant> {
        self.sent
    }

    /// When its first byte was read.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The service answered.
    pub fn answered(self, status: Code, timing: Timing, now: Instant, metrics: &CallMetrics) {
        let outcome = if status == Code::Ok {
            Outcome::Ok
        } else {
            Outcome::AppError
        };
        self.end(outcome, None, timing, now, metrics);
    }

    /// A relay ended the call.
    pub fn failed(self, error: &RelayError, now: Instant, metrics: &CallMetrics) {
        self.end(
            outcome_of(error.reason),
            Some(error.reason),
            Timing::default(),
            now,
            metrics,
        );
    }

    /// The caller gave up.
    pub fn cancelled(self, now: Instant, metrics: &CallMetrics) {
        self.end(Outcome::Cancelled, None, Timing::default(), now, metrics);
    }

    fn end(mut self, outcome: Outcome, reason: Option<Reason>, timing: Timing, now: Instant, metrics: &CallMetrics) {
        let total = now.saturating_duration_since(self.received);
        let queue = self
            .sent
            .map_or(total, |sent| sent.saturating_duration_since(self.received));
        let wire = match outcome {
            Outcome::Ok | Outcome::AppError => total.saturating_sub(queue).saturating_sub(timing.service),
            _ => Duration::ZERO,
        };
        let started = self.pair.is_some();
        let pair = self
            .pair
            .take()
            .unwrap_or_else(|| metrics.pair(self.direction, &self.source, &self.unit));
        pair.on_ended(&Ended {
            outcome,
            reason,
            total,
            queue,
            wire,
            service: timing.service,
            started,
        });
        if access::is_sampled(self.request_id) {
            self.log(outcome, reason, &[total, queue, wire, timing.service]);
        }
        if let Some(span) = &self.span {
            self.log_span(span, outcome, total);
        }
    }

    fn log_span(&self, span: &CallSpan, outcome: Outcome, duration: Duration) {
        let span = Span {
            trace_id: span.context.trace_id,
            span_id: span.context.span_id,
            parent_id: span.parent_id,
            direction: self.direction,
            outcome,
            duration,
        };
        span::log(&span, span::wall_clock());
    }

    fn log(&self, outcome: Outcome, reason: Option<Reason>, times: &[Duration; 4]) {
        let [total, queue, wire, service] = *times;
        access::log(&Access {
            direction: self.direction,
            request_id: self.request_id,
            path: &self.path,
            src_unit: &self.source,
            dst_unit: &self.unit,
            epoch: self.epoch,
            attempt: self.attempt,
            flags: self.flags,
            outcome,
            reason,
            retry: self.retry,
            total,
            queue,
            wire,
            service,
            request_bytes: self.request_bytes,
            reply_bytes: self.reply_bytes,
        });
    }
}

fn join_trace(request: &mut Request) -> Option<Box<CallSpan>> {
    let (span, metadata) = CallSpan::below(&request.metadata, || fastrand::u64(..))?;
    request.metadata = metadata;
    Some(Box::new(span))
}

/// The outcome that an error of a relay stands for.
fn outcome_of(reason: Reason) -> Outcome {
    match reason {
        Reason::DeadlineExceeded => Outcome::Expired,
        Reason::Limited | Reason::Shed => Outcome::Shed,
        Reason::Draining
        | Reason::Internal
        | Reason::LinkLost
        | Reason::Moving
        | Reason::NoLease
        | Reason::Parked
        | Reason::RoutesAway
        | Reason::ServiceLost
        | Reason::ServiceUnavailable
        | Reason::Undelivered
        | Reason::UnitAway => Outcome::Failed,
        Reason::BadInput
        | Reason::Loop
        | Reason::NoRoute
        | Reason::Policy
        | Reason::TooLarge
        | Reason::UnknownUnit
        | Reason::UnknownService
        | Reason::UnknownTopic
        | Reason::WrongUnit => Outcome::Rejected,
    }
}
