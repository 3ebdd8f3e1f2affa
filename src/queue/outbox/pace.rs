//! How fast a backlog may go: token buckets for messages and bytes (M-D2).
//!
//! # Invariants
//! - P1. What is taken in any time `t` is at most `rate * t + burst`, or the size of one message if that is more.
//! - P2. A message larger than the burst passes when the bucket is full, and is paid for afterwards: debt, not deadlock.

use std::time::Duration;

use crate::queue::operator::LimitValues;

/// Tokens that come at a steady rate, up to a burst.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

/// The limits of a unit or of a topic to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    limits: LimitValues,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Duration, rate: f64, burst: f64) -> Self {
        Self {
            rate,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Tokens per second.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Another rate from now on; what was saved up stays.
    pub(super) fn set(&mut self, now: Duration, rate: f64, burst: f64) {
        self.refill(now);
        self.rate = rate;
        self.burst = burst;
        self.tokens = self.tokens.min(burst);
    }

    /// Adds what has come since.
    pub(super) fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Whether so much may go now.
    pub(super) fn allows(&self, cost: f64) -> bool {
        self.tokens + ROUNDING >= cost.min(self.burst)
    }

    /// What there is.
    pub(super) fn worth(&self) -> u64 {
        whole(self.tokens.max(1.0))
    }

    /// It goes.
    pub(super) fn take(&mut self, cost: f64) {
        self.tokens -= cost;
    }

    /// When it is worth looking again: half a burst at once, so that a high rate needs few looks.
    pub(super) fn ready_at(&self, cost: f64) -> Duration {
        let wanted = cost.min(self.burst).max(self.burst / 2.0);
        let seconds = ((wanted - self.tokens) / self.rate).clamp(0.0, LOOK_MAX);
        self.at + Duration::from_secs_f64(seconds) + Duration::from_micros(1)
    }
}

impl Pace {
    /// The limits in force.
    pub(super) fn limits(&self) -> LimitValues {
        self.limits
    }

    /// Other limits are in force from now on.
    pub(super) fn set(&mut self, now: Duration, limits: LimitValues) {
        if limits == self.limits {
            return;
        }
        self.limits = limits;
        let rate = limits.messages_per_second;
        let burst = match limits.burst {
            0 => (rate * DEFAULT_BURST).max(1.0),
            burst => f64::from(burst),
        };
        let span = if limits.burst > 0 && rate > 0.0 {
            burst / rate
        } else {
            DEFAULT_BURST
        };
        let bytes = float(limits.bytes_per_second);
        update(&mut self.messages, now, rate, burst);
        update(&mut self.bytes, now, bytes, (bytes * span).max(1.0));
    }

    /// Adds what has come since.
    pub(super) fn refill(&mut self, now: Duration) {
        for bucket in self.messages.iter_mut().chain(&mut self.bytes) {
            bucket.refill(now);
        }
    }

    /// Whether a message of so many bytes may go, with so much under way without the peer's word. What is under way is
    /// bounded too, so that a delay on the way does not become a burst at the peer.
    pub(super) fn allows(&self, bytes: usize, under_way: (usize, usize), delay: Duration) -> bool {
        let span = UNDER_WAY + delay.as_secs_f64();
        let fits = |bucket: &Option<Bucket>, cost: f64, under_way: usize| {
            bucket.as_ref().is_none_or(|bucket| {
                bucket.allows(cost) && (under_way == 0 || float(under_way) + cost <= bucket.rate * span)
            })
        };
        fits(&self.messages, 1.0, under_way.0) && fits(&self.bytes, float(bytes), under_way.1)
    }

    /// It goes.
    pub(super) fn take(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.messages {
            bucket.take(1.0);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(float(bytes));
        }
    }

    /// When a message of so many bytes may go; `None`: as far as the rate is concerned, now.
    pub(super) fn ready_at(&self, bytes: usize) -> Option<Duration> {
        let late = |bucket: &Option<Bucket>, cost: f64| {
            let bucket = bucket.as_ref().filter(|bucket| !bucket.allows(cost))?;
            Some(bucket.ready_at(cost))
        };
        late(&self.messages, 1.0).max(late(&self.bytes, float(bytes)))
    }
}

/// Whether these limit anything.
pub(super) fn is_limited(limits: &LimitValues) -> bool {
    limits.messages_per_second > 0.0 || limits.bytes_per_second > 0
}

fn update(bucket: &mut Option<Bucket>, now: Duration, rate: f64, burst: f64) {
    match bucket {
        _ if rate <= 0.0 => *bucket = None,
        Some(bucket) => bucket.set(now, rate, burst),
        None => *bucket = Some(Bucket::new(now, rate, burst)),
    }
}

/// A count as a number that rates can be calculated with.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "rates need no more than 52 bits"
)]
pub(super) fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// The whole part; the nearest count if there is none.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates"
)]
pub(super) fn whole(number: f64) -> u64 {
    number as u64
}

/// Burst if none is set, as seconds of the rate.
const DEFAULT_BURST: f64 = 0.05;
/// What may be under way beyond the delay of the path, as seconds of the rate: with the burst less than 5 % of 10 s.
const UNDER_WAY: f64 = 0.4;
/// Seconds without a look, at most.
const LOOK_MAX: f64 = 3600.0;
/// Sums of fractions may be so much off.
const ROUNDING: f64 = 1e-6;
