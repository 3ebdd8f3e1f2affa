//! Series of shadows.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// How a shadow ended, at the relay that sends it; or why a call has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// The other unit's service took it.
    Delivered,
    /// The other unit's service answered with an error.
    AppError,
    /// The other unit was away, or did not answer in time.
    Failed,
    /// Too much waited already.
    Full,
    /// The other unit's relay refused it: the key is there already, or the service is not.
    Refused,
    /// The call's request was more than one message.
    Stream,
    /// The call's request was larger than what a shadow carries.
    TooLarge,
}

/// How a shadow ended, at the relay that gets it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// The service took it.
    Delivered,
    /// The service answered with an error.
    AppError,
    /// It could not be handed over, or its sender gave up.
    Failed,
    /// Its sender may not send it, or this relay has not heard yet that it may.
    Refused,
}

/// Series of shadows. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: IntCounterVec,
    waiting: IntGauge,
    lag: Histogram,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = Opts::new(
            "strait_shadow_calls_total",
            "Shadows of calls of keys that move with a mirror, by direction and by how they ended. Sent shadows other than \
             delivered and app_error are missing at the other unit.",
        );
        let waiting = Opts::new(
            "strait_shadow_waiting",
            "Calls whose shadow waits: for the service to answer, or for its turn.",
        );
        let lag = HistogramOpts::new(
            "strait_shadow_lag_seconds",
            "Time from the answer of the owner's service until the other unit's service had its shadow.",
        );
        let metrics = Self {
            calls: IntCounterVec::new(calls, &["direction", "outcome"])?,
            waiting: IntGauge::with_opts(waiting)?,
            lag: Histogram::with_opts(lag.buckets(LAGS.to_vec()))?,
        };
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        for outcome in Sent::ALL {
            metrics.calls.with_label_values(&["sent", outcome.label()]);
        }
        for outcome in Received::ALL {
            metrics.calls.with_label_values(&["received", outcome.label()]);
        }
        Ok(metrics)
    }

    pub(super) fn on_sent(&self, outcome: Sent) {
        self.calls.with_label_values(&["sent", outcome.label()]).inc();
    }

    pub(super) fn on_delivered(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    pub(super) fn on_received(&self, outcome: Received) {
        self.calls.with_label_values(&["received", outcome.label()]).inc();
    }

    pub(super) fn set_waiting(&self, waiting: usize) {
        self.waiting.set(waiting.try_into().unwrap_or(i64::MAX));
    }
}

impl Sent {
    const ALL: [Self; 7] = [
        Self::Delivered,
        Self::AppError,
        Self::Failed,
        Self::Full,
        Self::Refused,
        Self::Stream,
        Self::TooLarge,
    ];

    /// Whether the other unit's service has not seen it.
    pub(super) fn is_missed(self) -> bool {
        !matches!(self, Self::Delivered | Self::AppError)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::AppError => "app_error",
            Self::Failed => "failed",
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Stream => "stream",
            Self::TooLarge => "too_large",
        }
    }
}

impl Received {
    const ALL: [Self; 4] = [Self::Delivered, Self::AppError, Self::Failed, Self::Refused];

    fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::AppError => "app_error",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

const LAGS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
