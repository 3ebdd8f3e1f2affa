//! What operators see of delivery.
//!
//! Labels: `service` from the settings, or the name of a service that is part of the relay; `endpoint` is
//! its position in `services.<name>.endpoints` or `registered`, `kind` its scheme. All are resolved once per
//! service or endpoint, never per call.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::model::{CancelReason, Code, Outcome, Reason, RelayError};

/// Series of all shards. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    calls: IntCounterVec,
    connects: IntCounterVec,
    ejections: IntCounterVec,
    endpoints: IntGaugeVec,
    in_flight: IntGaugeVec,
    limited: IntCounterVec,
    waiting: IntGaugeVec,
    waited: IntCounterVec,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// If a name is taken in this registry.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        Ok(Self {
            calls: counters(
                "strait_delivery_calls_total",
                "Calls for local services, by how they ended",
                &["service", "outcome"],
            )?,
            connects: counters(
                "strait_delivery_connects_total",
                "Attempts to connect to endpoints of local services, by outcome",
                &["service", "endpoint", "kind", "outcome"],
            )?,
            ejections: counters(
                "strait_delivery_ejections_total",
                "Times an endpoint was left out because it kept breaking calls",
                &["service", "endpoint", "kind"],
            )?,
            endpoints: gauges(
                "strait_delivery_endpoints",
                "Endpoints of local services by state, counted once per data-plane thread",
                &["service", "endpoint", "kind", "state"],
            )?,
            in_flight: gauges(
                "strait_delivery_in_flight_calls",
                "Calls under way at a local service",
                &["service"],
            )?,
            limited: counters(
                "strait_delivery_limited_total",
                "Calls refused because the service has as many as its settings allow",
                &["service"],
            )?,
            waiting: gauges(
                "strait_delivery_waiting_calls",
                "Calls that wait for an endpoint of a local service with room",
                &["service"],
            )?,
            waited: counters(
                "strait_delivery_waited_total",
                "Calls that had to wait for an endpoint of a local service with room",
                &["service"],
            )?,
        })
    }

    pub(super) fn service(&self, service: &str) -> ServiceMetrics {
        ServiceMetrics {
            calls: Outcome::ALL.map(|outcome| self.calls.with_label_values(&[service, outcome.as_str()])),
            in_flight: self.in_flight.with_label_values(&[service]),
            limited: self.limited.with_label_values(&[service]),
            waiting: self.waiting.with_label_values(&[service]),
            waited: self.waited.with_label_values(&[service]),
        }
    }

    pub(super) fn endpoint(&self, service: &str, endpoint: &str, kind: &str) -> EndpointMetrics {
        let connect = |outcome| self.connects.with_label_values(&[service, endpoint, kind, outcome]);
        EndpointMetrics {
            connected: connect("ok"),
            connect_failed: connect("failed"),
            ejections: self.ejections.with_label_values(&[service, endpoint, kind]),
            states: EndpointState::ALL.map(|state| {
                self.endpoints
                    .with_label_values(&[service, endpoint, kind, state.as_str()])
            }),
        }
    }
}

/// Series of one service.
pub(super) struct ServiceMetrics {
    calls: [IntCounter; 7],
    in_flight: IntGauge,
    limited: IntCounter,
    waiting: IntGauge,
    waited: IntCounter,
}

impl ServiceMetrics {
    pub(super) fn on_ended(&self, outcome: Outcome) {
        let position = Outcome::ALL.iter().position(|candidate| *candidate == outcome);
        if let Some(counter) = position.and_then(|position| self.calls.get(position)) {
            counter.inc();
        }
    }

    pub(super) fn on_limited(&self) {
        self.limited.inc();
        self.on_ended(Outcome::Shed);
    }

    /// A call begins to wait.
    pub(super) fn on_waiting(&self) {
        self.waiting.inc();
        self.waited.inc();
    }

    /// It waits no longer, for whatever reason.
    pub(super) fn on_waited(&self) {
        self.waiting.dec();
    }

    pub(super) fn set_in_flight(&self, calls: usize) {
        self.in_flight.set(i64::try_from(calls).unwrap_or(i64::MAX));
    }
}

/// Series of one endpoint.
pub(super) struct EndpointMetrics {
    connected: IntCounter,
    connect_failed: IntCounter,
    ejections: IntCounter,
    states: [IntGauge; 4],
}

/// What an endpoint can do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EndpointState {
    /// No connection.
    Down,
    /// Left out for breaking calls.
    Ejected,
    /// Takes calls.
    Ready,
    /// Its health check says no.
    Unhealthy,
}

impl EndpointState {
    const ALL: [Self; 4] = [Self::Down, Self::Ejected, Self::Ready, Self::Unhealthy];

    fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl EndpointMetrics {
    pub(super) fn on_connected(&self) {
        self.connected.inc();
    }

    pub(super) fn on_connect_failed(&self) {
        self.connect_failed.inc();
    }

    pub(super) fn on_ejected(&self) {
        self.ejections.inc();
    }

    /// The endpoint left one state for another; `None` is "does not exist".
    pub(super) fn on_state(&self, from: Option<EndpointState>, to: Option<EndpointState>) {
        let series = |state: EndpointState| {
            let position = EndpointState::ALL.iter().position(|candidate| *candidate == state);
            position.and_then(|position| self.states.get(position))
        };
        if let Some(gauge) = from.and_then(series) {
            gauge.dec();
        }
        if let Some(gauge) = to.and_then(series) {
            gauge.inc();
        }
    }
}

/// The outcome of a call that its service answered.
pub(super) fn outcome_of_status(status: Code) -> Outcome {
    if status == Code::Ok {
        Outcome::Ok
    } else {
        Outcome::AppError
    }
}

/// The outcome of a call that its caller gave up.
pub(super) fn outcome_of_cancel(reason: CancelReason) -> Outcome {
    match reason {
        CancelReason::Deadline => Outcome::Expired,
        CancelReason::Caller | CancelReason::Protocol => Outcome::Cancelled,
    }
}

/// The outcome of a call that a relay ended.
pub(super) fn outcome_of_error(error: &RelayError) -> Outcome {
    match error.reason {
        Reason::DeadlineExceeded => Outcome::Expired,
        Reason::Limited | Reason::Shed => Outcome::Shed,
        Reason::BadInput
        | Reason::Loop
        | Reason::NoRoute
        | Reason::Policy
        | Reason::TooLarge
        | Reason::UnknownUnit
        | Reason::UnknownService
        | Reason::UnknownTopic
        | Reason::WrongUnit => Outcome::Rejected,
        Reason::Draining
        | Reason::Internal
        | Reason::LinkLost
        | Reason::Moving
        | Reason::NoLease
        | Reason::RoutesAway
        | Reason::ServiceLost
        | Reason::ServiceUnavailable
        | Reason::Undelivered
        | Reason::Parked
        | Reason::UnitAway => Outcome::Failed,
    }
}
