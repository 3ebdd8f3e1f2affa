//! The access log: one line per call and relay, for a share of the calls (C-O2).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::calls::Direction;
use super::retries::RetryOutcome;
use crate::model::{Outcome, Reason, UnitId};

/// What a line says. Names and numbers only: no key, no payload, no metadata.
pub struct Access<'a> {
    /// Which way the call passed this relay.
    pub direction: Direction,
    /// Same id at every relay.
    pub request_id: u64,
    /// `/package.Service/Method`.
    pub path: &'a [u8],
    /// Unit of the caller.
    pub src_unit: &'a UnitId,
    /// Unit that owns the key; the caller's own while that is not known.
    pub dst_unit: &'a UnitId,
    /// Version of the route table.
    pub epoch: u64,
    /// Attempts before this one.
    pub attempt: u8,
    /// What the caller said about the call, see [`flags`].
    pub flags: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why a relay ended it.
    pub reason: Option<Reason>,
    /// Why it was not tried again, if that was asked.
    pub retry: Option<RetryOutcome>,
    /// From its first byte until its end.
    pub total: Duration,
    /// Of that, waiting in this relay.
    pub queue: Duration,
    /// Of that, travelling and in other relays.
    pub wire: Duration,
    /// Of that, in the service.
    pub service: Duration,
    /// Body bytes of the request.
    pub request_bytes: usize,
    /// Body bytes of the reply.
    pub reply_bytes: usize,
}

/// Calls whose mixed id is below this get a line. Process-wide, as the log itself is.
static THRESHOLD: AtomicU64 = AtomicU64::new(0);

/// Sets the share of calls that get a line, from 0.0 to 1.0.
pub fn set_share(share: f64) {
    THRESHOLD.store(threshold(share), Ordering::Relaxed);
}

/// Whether a call gets a line. The same at each relay, because it depends on the id alone.
pub fn is_sampled(request_id: u64) -> bool {
    match THRESHOLD.load(Ordering::Relaxed) {
        0 => false,
        threshold => is_below(request_id, threshold),
    }
}

/// Words for the marks of a call: whether it may be executed twice, and came over the framed protocol.
pub fn flags(idempotent: bool, framed: bool) -> &'static str {
    match (idempotent, framed) {
        (false, false) => "",
        (false, true) => "framed",
        (true, false) => "idempotent",
        (true, true) => "idempotent,framed",
    }
}

/// Writes the line.
pub fn log(access: &Access<'_>) {
    let (service, method) = split_path(access.path);
    tracing::info!(
        target: "strait::access",
        request_id = %format_args!("{:016x}", access.request_id),
        direction = access.direction.as_str(),
        service = %service,
        method = %method,
        src_unit = %access.src_unit,
        dst_unit = %access.dst_unit,
        epoch = access.epoch,
        attempt = access.attempt,
        flags = access.flags,
        outcome = access.outcome.as_str(),
        reason = access.reason.map(Reason::as_str),
        retry = access.retry.map(RetryOutcome::as_str),
        total_ms = millis(access.total),
        queue_ms = millis(access.queue),
        wire_ms = millis(access.wire),
        service_ms = millis(access.service),
        request_bytes = access.request_bytes,
        reply_bytes = access.reply_bytes,
        "call ended"
    );
}

/// Shares of 2^64.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of the number range; the cast saturates"
)]
fn threshold(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * u64::MAX as f64) as u64
}

/// Ids count up, so they are mixed before they are compared.
fn is_below(request_id: u64, threshold: u64) -> bool {
    let mut id = request_id;
    id = (id ^ (id >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    id = (id ^ (id >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    id ^= id >> 33;
    id <= threshold
}

fn split_path(path: &[u8]) -> (String, String) {
    // A path is the caller's text: only what a name may hold reaches the log as it is, and nothing of a
    // query, which in HTTP is where tokens are put.
    let path = path.iter().take_while(|byte| **byte != b'?');
    let text: String = path.take(512).map(|byte| printable(*byte)).collect();
    let text = text.strip_prefix('/').unwrap_or(&text);
    match text.rsplit_once('/') {
        Some((service, method)) => (service.to_owned(), method.to_owned()),
        None => (text.to_owned(), String::new()),
    }
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() { char::from(byte) } else { '?' }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_sampled_calls_is_the_one_that_was_set() {
        // C-O2. Ids that count up must not fall on one side of the threshold.
        for (share, low, high) in [(0.0, 0, 1), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            let threshold = threshold(share);
            let sampled = (1..=10_000).filter(|id| is_below(*id, threshold)).count();
            assert!((low..=high).contains(&sampled), "{sampled} of 10000 at {share}");
        }
    }

    #[test]
    fn a_path_cannot_break_a_line() {
        assert_eq!(split_path(b"/im.Echo/Say"), ("im.Echo".into(), "Say".into()));
        assert_eq!(split_path(b"/a\nb\x1b[0m/c"), ("a?b?[0m".into(), "c".into()));
        assert_eq!(split_path(b"x"), ("x".into(), String::new()));
        assert_eq!(split_path(b"/a/b?token=c/d"), ("a".into(), "b".into()));
    }
}
