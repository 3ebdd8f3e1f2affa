//! `[delivery]` and `[services."<name>"]` of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EndpointAddress, grpc, http1};
use crate::model::{MissingKey, ServiceName};

/// `[delivery]`: what all local services share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Calls that one data-plane thread may have under way at a service registered on another thread.
    /// More wait (`services.<name>.waiting_max`). Default 16384.
    pub crossing_in_flight_max: usize,
    /// Calls to gRPC endpoints.
    pub grpc: grpc::Settings,
    /// Calls to HTTP/1.1 endpoints.
    pub http1: http1::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            crossing_in_flight_max: 16_384,
            grpc: grpc::Settings::default(),
            http1: http1::Settings::default(),
        }
    }
}

/// All `[services."<name>"]` tables.
pub type Services = BTreeMap<ServiceName, ServiceSettings>;

/// `[services."<name>"]`: a service of this unit, by its gRPC name (`package.Service`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSettings {
    /// Where the service listens. Forms: `http://host:port` (gRPC), `unix:/path` (gRPC),
    /// `dns://host:port` (gRPC, every address of the name), `framed://host:port`, `framed+unix:/path`,
    /// `http1://host:port`. Default none: only what registers itself over the framed socket serves.
    pub endpoints: Vec<EndpointAddress>,
    /// How long a call without a deadline may take until its first sign of being a stream. Default 30 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// What becomes of calls without a key: `reject`, `local` or `unit:<name>`. Default `reject`.
    pub missing_key: MissingKey,
    /// A stream on which nothing moves for so long is ended. Default 5 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// Longest life of a stream without a deadline, however busy. Default 24 h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub duration_max: Duration,
    /// Calls that may be under way at this service, all endpoints and threads together. More are
    /// answered `limited` with a pushback. Default 65536.
    pub in_flight_max: usize,
    /// The same for each endpoint, but the others take what one cannot, and then calls wait. Default 0: no limit of
    /// its own.
    pub endpoint_in_flight_max: usize,
    /// Time to establish a connection to an endpoint. Default 2 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Calls per data-plane thread that may wait for an endpoint with room, each no longer than its time;
    /// more are answered `limited`. 0: none waits. Default 1024.
    pub waiting_max: usize,
    /// Connections to one endpoint per data-plane thread. One is kept; more are opened when those
    /// there are have no stream left, and to keep calls with long bodies apart from small ones on gRPC endpoints:
    /// with 1 they share, and a body that the service does not read can hold up all calls. Default 4.
    pub connections_max: usize,
    /// How often the name of a `dns://` endpoint is looked up. Default 10 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub resolve_interval: Duration,
    /// Connections that may register themselves for this service, on all threads. Default 1024.
    pub registered_max: usize,
    /// Active health checks.
    pub health: HealthSettings,
    /// When an endpoint that breaks calls is left out.
    pub outlier: OutlierSettings,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(30),
            missing_key: MissingKey::Reject,
            idle_timeout: Duration::from_secs(5 * 60),
            duration_max: Duration::from_secs(24 * 60 * 60),
            in_flight_max: 65_536,
            endpoint_in_flight_max: 0,
            connect_timeout: Duration::from_secs(2),
            waiting_max: 1024,
            connections_max: 4,
            resolve_interval: Duration::from_secs(10),
            registered_max: 1024,
            health: HealthSettings::default(),
            outlier: OutlierSettings::default(),
        }
    }
}

/// `[services."<name>".health]`: gRPC endpoints are asked with `grpc.health.v1.Health/Check` over the
/// connection that carries the calls. One that does not implement it counts as healthy while connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Whether to ask. Default true. If false, connected means healthy.
    pub enabled: bool,
    /// Time between two questions, with jitter. Default 5 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// An answer later than this counts as a failure. Default 2 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Failures in a row after which the endpoint gets no calls; an answer `NOT_SERVING` counts at
    /// once. Default 2.
    pub failures: u32,
    /// Name sent in the question. Default empty: the server as a whole.
    pub service: String,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failures: 2,
            service: String::new(),
        }
    }
}

/// `[services."<name>".outlier]`: connections and streams that break under calls count, statuses that the
/// application gave never do (C-F8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierSettings {
    /// Failures in a row after which an endpoint is left out. 0 switches this off. Default 5.
    pub failures: u32,
    /// How long it is left out the first time; the n-th time in a row n times as long. Default 10 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ejection: Duration,
    /// Upper bound of that. Default 2 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ejection_max: Duration,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            ejection: Duration::from_secs(10),
            ejection_max: Duration::from_secs(120),
        }
    }
}

/// Why the table of a service cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The same endpoint twice would get twice its share.
    #[error("services.{service:?}.endpoints lists {endpoint} twice; remove one")]
    Duplicate {
        /// Which service.
        service: ServiceName,
        /// Which endpoint.
        endpoint: String,
    },
    /// A key that must not be 0.
    #[error("services.{service:?}.{key} must be more than 0")]
    Zero {
        /// Which service.
        service: ServiceName,
        /// Which key.
        key: &'static str,
    },
}

impl ServiceSettings {
    /// Checks what the form of single values cannot say. `service` is the table's name, for the message.
    ///
    /// # Errors
    /// [`SettingsError`] names the service and the key.
    pub fn check(&self, service: &ServiceName) -> Result<(), SettingsError> {
        let positive = [
            ("timeout", !self.timeout.is_zero()),
            ("idle_timeout", !self.idle_timeout.is_zero()),
            ("duration_max", !self.duration_max.is_zero()),
            ("in_flight_max", self.in_flight_max > 0),
            ("connect_timeout", !self.connect_timeout.is_zero()),
            ("connections_max", self.connections_max > 0),
            ("resolve_interval", !self.resolve_interval.is_zero()),
            ("health.interval", !self.health.interval.is_zero()),
            ("health.timeout", !self.health.timeout.is_zero()),
            ("health.failures", self.health.failures > 0),
            ("outlier.ejection", !self.outlier.ejection.is_zero()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, ok)| !ok) {
            let service = service.clone();
            return Err(SettingsError::Zero { service, key });
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if self.endpoints.iter().take(index).any(|earlier| earlier == endpoint) {
                return Err(SettingsError::Duplicate {
                    service: service.clone(),
                    endpoint: endpoint.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn read(text: &str) -> Result<ServiceSettings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn name() -> ServiceName {
        Name::new("im.Echo").unwrap()
    }

    fn check(text: &str, expected: &str) {
        let error = match read(text) {
            Err(error) => error,
            Ok(settings) => settings.check(&name()).unwrap_err().to_string(),
        };
        assert!(error.contains(expected), "{error}");
    }

    // C-D3, C-E1, C-R3
    #[test]
    fn a_service_is_read_with_defaults_and_written_back_equal() {
        let text = "endpoints = [\"http://127.0.0.1:9000\", \"unix:/run/e.sock\"]\nmissing_key = \"unit:b\"\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.missing_key, MissingKey::Unit(Name::new("b").unwrap()));
        assert_eq!(settings.timeout, Duration::from_secs(30));
        settings.check(&name()).unwrap();
        let again = read(&toml::to_string(&settings).unwrap()).unwrap();
        assert_eq!(again, settings);
        assert_eq!(read("").unwrap(), ServiceSettings::default());
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        check("missing_key = \"x\"", "unit:<name>");
        check("endpoints = [\"tcp://a:1\"]", "framed+unix:/path");
        check("endpoint = 1", "unknown field `endpoint`");
        check(
            "in_flight_max = 0",
            "services.\"im.Echo\".in_flight_max must be more than 0",
        );
        check(
            "endpoints = [\"http://a:1\", \"http://a:1/\"]",
            "services.\"im.Echo\".endpoints lists http://a:1 twice",
        );
        check("[health]\ninterval = \"0s\"", "health.interval");
    }
}
