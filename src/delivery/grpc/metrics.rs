//! What happens on connections to local gRPC services, counted.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::wire::http2::LinkEnd;

/// Series of all connections to local gRPC services. Clones share the series.
#[derive(Clone, Debug)]
pub struct Metrics {
    connections: IntGauge,
    blocked: IntGauge,
    ended: Vec<(&'static str, IntCounter)>,
    calls: IntCounter,
    lost: IntCounter,
    waited: IntCounter,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGauge::new(
            "strait_delivery_grpc_connections",
            "Open connections to local gRPC services",
        )?;
        let blocked = IntGauge::new(
            "strait_delivery_grpc_blocked_connections",
            "Connections to local gRPC services whose window is used up by bodies that the service does not read",
        )?;
        let ended = IntCounterVec::new(
            Opts::new(
                "strait_delivery_grpc_connections_ended_total",
                "Connections to local gRPC services that ended, by cause",
            ),
            &["cause"],
        )?;
        let calls = IntCounter::new(
            "strait_delivery_grpc_calls_total",
            "Calls handed to local gRPC services",
        )?;
        let lost = IntCounter::new(
            "strait_delivery_grpc_lost_total",
            "Calls that a local gRPC service or its connection broke off after they were handed over",
        )?;
        let waited = IntCounter::new(
            "strait_delivery_grpc_waited_total",
            "Calls that waited because the service allowed no more streams",
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(blocked.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(lost.clone()))?;
        registry.register(Box::new(waited.clone()))?;
        Ok(Self {
            connections,
            blocked,
            ended: LinkEnd::WORDS
                .map(|word| (word, ended.with_label_values(&[word])))
                .into(),
            calls,
            lost,
            waited,
        })
    }

    pub(super) fn on_connected(&self) {
        self.connections.inc();
    }

    pub(super) fn on_blocked(&self, is_blocked: bool) {
        self.blocked.add(if is_blocked { 1 } else { -1 });
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

    pub(super) fn on_lost(&self) {
        self.lost.inc();
    }

    pub(super) fn on_waited(&self) {
        self.waited.inc();
    }
}
