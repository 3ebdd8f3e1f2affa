//! What is counted about framed connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Ended;
use crate::model::Name;
use crate::telemetry::Repeats;

/// Series of all framed connections of a relay.
#[derive(Clone)]
pub struct Metrics {
    connections: IntGaugeVec,
    ended: IntCounterVec,
    refused: IntCounterVec,
    slow: IntCounterVec,
    registrations: Arc<Mutex<Repeats>>,
}

/// Series of the connections of one side: those that services made, or those that relays made.
#[derive(Clone)]
pub struct Side {
    name: &'static str,
    connections: IntGauge,
    ended: IntCounterVec,
    refused: IntCounter,
    slow: IntCounter,
    registrations: Arc<Mutex<Repeats>>,
}

impl Metrics {
    /// Makes the series.
    ///
    /// # Errors
    /// If a series of the same name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::new()?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.ended.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.slow.clone()))?;
        Ok(metrics)
    }

    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            connections: IntGaugeVec::new(
                Opts::new("strait_framed_connections", "Framed connections that are open."),
                &["side"],
            )?,
            ended: IntCounterVec::new(
                Opts::new("strait_framed_ended_total", "Framed connections that ended, by reason."),
                &["side", "reason"],
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "strait_framed_calls_refused_total",
                    "Calls refused on a framed connection before any story saw them.",
                ),
                &["side"],
            )?,
            slow: IntCounterVec::new(
                Opts::new(
                    "strait_framed_calls_slow_total",
                    "Calls on framed connections that were ended because the caller sent or read a body too slowly.",
                ),
                &["side"],
            )?,
            registrations: Arc::new(Mutex::new(Repeats::new(LINES_PER_SECOND, Duration::from_secs(1)))),
        })
    }

    /// Series of connections that services made.
    pub fn ingress(&self) -> Side {
        self.side("ingress")
    }

    /// Series of connections that were made to `framed://` endpoints.
    pub fn delivery(&self) -> Side {
        self.side("delivery")
    }

    fn side(&self, name: &'static str) -> Side {
        for reason in Ended::ALL {
            self.ended.with_label_values(&[name, reason]);
        }
        Side {
            name,
            connections: self.connections.with_label_values(&[name]),
            ended: self.ended.clone(),
            refused: self.refused.with_label_values(&[name]),
            slow: self.slow.with_label_values(&[name]),
            registrations: Arc::clone(&self.registrations),
        }
    }
}

impl Side {
    /// A connection was made.
    pub(super) fn on_open(&self) {
        self.connections.inc();
    }

    /// A connection ended.
    pub(super) fn on_end(&self, ended: &Ended) {
        self.connections.dec();
        self.ended.with_label_values(&[self.name, ended.as_str()]).inc();
        if let Ended::Failed(error) = ended {
            tracing::debug!(side = self.name, %error, "framed connection ended");
        }
    }

    /// A call was too slow.
    pub(super) fn on_slow(&self) {
        self.slow.inc();
    }

    /// A service may not register. Clients that try again and again write a bounded number of lines.
    pub(super) fn on_registration_refused(&self, service: &str, reason: &str, now: Instant) {
        let line = self
            .registrations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(now);
        if let Some(skipped) = line {
            // What is no name may be anything, in any length.
            let service = Name::new(service).map_or("?", |_| service);
            tracing::warn!(local.service = service, reason, skipped, "registration refused");
        }
    }

    /// A call was refused here.
    pub(super) fn on_refused(&self) {
        self.refused.inc();
    }
}

/// Lines per second about refused registrations.
const LINES_PER_SECOND: u32 = 10;
