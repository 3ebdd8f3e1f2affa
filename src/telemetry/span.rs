//! Spans of this relay as structured log lines (C-O3).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::calls::Direction;
use crate::model::Outcome;

/// Whether spans are written. Process-wide, as the log itself is.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Switches spans on or off.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// Whether spans are written; if not, `traceparent` is to pass unchanged.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// This relay's part of a trace.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Id of the trace.
    pub trace_id: u128,
    /// Id of this relay's span.
    pub span_id: u64,
    /// Id of the span that made the call.
    pub parent_id: u64,
    /// Which way the call passed this relay.
    pub direction: Direction,
    /// How it ended here.
    pub outcome: Outcome,
    /// From its first byte until its end.
    pub duration: Duration,
}

/// The time of day. Only spans need it: collectors put spans of several machines side by side.
#[expect(clippy::disallowed_methods, reason = "read where a span is written, which is seldom")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Writes one span that ended at `end`.
pub fn log(span: &Span, end: SystemTime) {
    let start = end.checked_sub(span.duration).unwrap_or(UNIX_EPOCH);
    let start = start.duration_since(UNIX_EPOCH).unwrap_or_default();
    tracing::info!(
        target: "strait::span",
        trace_id = %format_args!("{:032x}", span.trace_id),
        span_id = %format_args!("{:016x}", span.span_id),
        parent_id = %format_args!("{:016x}", span.parent_id),
        direction = span.direction.as_str(),
        outcome = span.outcome.as_str(),
        start_unix_seconds = start.as_secs_f64(),
        duration_ms = span.duration.as_secs_f64() * 1000.0,
        "span ended"
    );
}
