//! All series of the process.

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Error, IntGaugeVec, Opts, TextEncoder};

use super::openmetrics;

/// Bounds for latencies, in seconds: from 10 microseconds, because a call between two services through
/// two relays of one machine takes about a hundred.
pub const LATENCY_BUCKETS: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Bounds for sizes, in bytes: four times more each, from 256 bytes to 16 MiB.
pub const SIZE_BUCKETS: [f64; 9] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// All series of the process. Clones share them.
#[derive(Clone)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// A registry with `strait_build_info` and, on Linux, the `process_` series.
    ///
    /// # Errors
    /// Never in practice: names are constants.
    pub fn new() -> Result<Self, Error> {
        let registry = prometheus::Registry::new();
        let build = IntGaugeVec::new(
            Opts::new("strait_build_info", "Always 1; the labels say what is running."),
            &["version", "revision"],
        )?;
        let revision = option_env!("STRAIT_REVISION").unwrap_or("unreleased");
        build
            .get_metric_with_label_values(&[env!("CARGO_PKG_VERSION"), revision])?
            .set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self(registry))
    }

    /// Where components register their series.
    pub fn series(&self) -> &prometheus::Registry {
        &self.0
    }

    /// All series in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// If a series breaks the format.
    pub fn to_text(&self) -> Result<Vec<u8>, Error> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        Ok(text)
    }

    /// All series in the `OpenMetrics` text format 1.0, [`super::OPENMETRICS`].
    ///
    /// # Errors
    /// If a series breaks the format.
    pub fn to_openmetrics(&self) -> Result<Vec<u8>, Error> {
        openmetrics::encode(&self.0.gather()).map(String::into_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_process_series_are_there_from_the_start() {
        // O-M1
        let text = String::from_utf8(Registry::new().unwrap().to_text().unwrap()).unwrap();
        for name in [
            "strait_build_info{",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
