//! What happens on the gRPC edge, counted.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::model::Reason;
use crate::wire::http2::LinkEnd;

/// Series of the gRPC edge. Clones share the series.
#[derive(Clone, Debug)]
pub struct Metrics {
    connections: IntGauge,
    ended: Vec<(&'static str, IntCounter)>,
    calls: IntCounter,
    cancelled: IntCounter,
    refused: Vec<(Reason, IntCounter)>,
    slow: [IntCounter; 2],
}

/// What of a call was too slow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Slow {
    /// The client dripped it.
    Request,
    /// The client hardly read it.
    Reply,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGauge::new("strait_ingress_grpc_connections", "Open connections of gRPC clients")?;
        let ended = IntCounterVec::new(
            Opts::new(
                "strait_ingress_grpc_connections_ended_total",
                "Connections of gRPC clients that ended, by cause",
            ),
            &["cause"],
        )?;
        let calls = IntCounter::new("strait_ingress_grpc_calls_total", "Calls that gRPC clients began")?;
        let cancelled = IntCounter::new(
            "strait_ingress_grpc_cancelled_total",
            "Calls that gRPC clients broke off before the reply ended",
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "strait_ingress_grpc_refused_total",
                "Calls of gRPC clients that were never started, by reason",
            ),
            &["reason"],
        )?;
        let slow = IntCounterVec::new(
            Opts::new(
                "strait_ingress_grpc_slow_total",
                "Calls of gRPC clients that were ended because the client sent or read a body too slowly",
            ),
            &["part"],
        )?;
        registry.register(Box::new(slow.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(cancelled.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            connections,
            ended: LinkEnd::WORDS
                .map(|word| (word, ended.with_label_values(&[word])))
                .into(),
            calls,
            cancelled,
            refused: Reason::ALL
                .map(|reason| (reason, refused.with_label_values(&[reason.as_str()])))
                .into(),
            slow: ["request", "reply"].map(|part| slow.with_label_values(&[part])),
        })
    }

    /// A call ends because its client is too slow.
    pub(super) fn on_slow(&self, what: Slow) {
        let [request, reply] = &self.slow;
        match what {
            Slow::Request => request.inc(),
            Slow::Reply => reply.inc(),
        }
    }

    pub(super) fn on_connected(&self) {
        self.connections.inc();
    }

    /// The connection's task is gone, however it went.
    pub(super) fn on_disconnected(&self) {
        self.connections.dec();
    }

    pub(super) fn on_ended(&self, end: &LinkEnd) {
        if let Some((_, counter)) = self.ended.iter().find(|(word, _)| *word == end.word()) {
            counter.inc();
        }
    }

    pub(super) fn on_call(&self) {
        self.calls.inc();
    }

    pub(super) fn on_cancelled(&self) {
        self.cancelled.inc();
    }

    pub(super) fn on_refused(&self, reason: Reason) {
        if let Some((_, counter)) = self.refused.iter().find(|(known, _)| *known == reason) {
            counter.inc();
        }
    }
}
