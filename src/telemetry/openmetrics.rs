//! The series in the `OpenMetrics` text format 1.0 (O-M1), made of the older one.
//!
//! The formats share the lines of samples. They differ in three places: a counter's family is named without
//! `_total`, bounds of buckets are always written with a point, and a last line says that nothing is missing.
//!
//! Not here: exemplars, units, creation times; all are optional.

use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Error, TextEncoder};

/// The content type that announces the format.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes all families.
///
/// # Errors
/// If a series breaks the format.
pub(super) fn encode(families: &[MetricFamily]) -> Result<String, Error> {
    let encoder = TextEncoder::new();
    let (mut text, mut older) = (String::with_capacity(64 * 1024), String::new());
    for family in families {
        older.clear();
        encoder.encode_utf8(std::slice::from_ref(family), &mut older)?;
        for line in older.lines() {
            append(&mut text, line, family);
            text.push('\n');
        }
    }
    text.push_str("# EOF\n");
    Ok(text)
}

fn append(text: &mut String, line: &str, family: &MetricFamily) {
    let name = family.name();
    let is_counter = family.get_field_type() == MetricType::COUNTER;
    let is_histogram = family.get_field_type() == MetricType::HISTOGRAM;
    match line.strip_prefix("# ") {
        Some(about) if is_counter => {
            let (keyword, rest) = about.split_once(' ').unwrap_or((about, ""));
            let rest = rest.strip_prefix(name).unwrap_or(rest);
            let name = name.strip_suffix("_total").unwrap_or(name);
            text.extend(["# ", keyword, " ", name, rest]);
        }
        None if is_histogram => append_bucket(text, line),
        _ => text.push_str(line),
    }
}

/// A bound such as `le="1"` becomes `le="1.0"`.
fn append_bucket(text: &mut String, line: &str) {
    let Some((before, bound, after)) = bound(line) else {
        text.push_str(line);
        return;
    };
    text.extend([before, bound]);
    if bound.bytes().all(|byte| byte.is_ascii_digit()) {
        text.push_str(".0");
    }
    text.push_str(after);
}

/// The line cut around its bound. The bound is its last label.
fn bound(line: &str) -> Option<(&str, &str, &str)> {
    let start = line.rfind("le=\"")?.checked_add(4)?;
    let (before, rest) = line.split_at_checked(start)?;
    let (bound, after) = rest.split_at_checked(rest.find('"')?)?;
    Some((before, bound, after))
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn families_samples_and_bounds_are_written_as_the_format_wants() {
        // O-M1
        let registry = Registry::new();
        let calls = IntCounterVec::new(Opts::new("x_calls_total", "Calls of x_calls_total."), &["le"]).unwrap();
        calls.with_label_values(&["7"]).inc();
        let open = IntGauge::new("x_open", "Open.").unwrap();
        let options = HistogramOpts::new("x_seconds", "Time.").buckets(vec![0.5, 1.0]);
        let seconds = HistogramVec::new(options, &["unit"]).unwrap();
        seconds.with_label_values(&["a"]).observe(0.7);
        registry.register(Box::new(calls)).unwrap();
        registry.register(Box::new(open)).unwrap();
        registry.register(Box::new(seconds)).unwrap();
        let expected = "\
# HELP x_calls Calls of x_calls_total.
# TYPE x_calls counter
x_calls_total{le=\"7\"} 1
# HELP x_open Open.
# TYPE x_open gauge
x_open 0
# HELP x_seconds Time.
# TYPE x_seconds histogram
x_seconds_bucket{unit=\"a\",le=\"0.5\"} 0
x_seconds_bucket{unit=\"a\",le=\"1.0\"} 1
x_seconds_bucket{unit=\"a\",le=\"+Inf\"} 1
x_seconds_sum{unit=\"a\"} 0.7
x_seconds_count{unit=\"a\"} 1
# EOF
";
        assert_eq!(encode(&registry.gather()).unwrap(), expected);
    }
}
