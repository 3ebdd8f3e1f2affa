//! Series of calls (C-O1): how many, how they ended, and where their time went.
//!
//! # Invariants
//! - S1. Every series carries `src_unit` and `dst_unit`.
//! - S2. A call that started is counted in flight until it ended, once each.
//! - S3. Counting touches memory of the shard only. [`CallMetrics::flush`] adds it to the shared series.

use std::cell::{Cell, OnceCell, RefCell};

use std::rc::Rc;
use std::time::Duration;

use prometheus::core::{AtomicU64, GenericLocalCounter};
use prometheus::local::LocalHistogram;
use prometheus::{Error, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::LATENCY_BUCKETS;
use super::retries::RetrySeries;
use crate::model::{Map, Outcome, Reason, UnitId};

/// Which way a call passes a relay.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From a peer to a local service.
    Inbound,
    /// From a local service to the owner of its key.
    Outbound,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a call ended and where its time went.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, if a relay ended it.
    pub reason: Option<Reason>,
    /// From its first byte to its end.
    pub total: Duration,
    /// Of that, waiting in this relay.
    pub queue: Duration,
    /// Of that, travelling and in other relays.
    pub wire: Duration,
    /// Of that, in the service.
    pub service: Duration,
    /// Whether [`PairMetrics::on_started`] was called for it.
    pub started: bool,
}

/// The shared series.
#[derive(Clone)]
pub struct CallSeries {
    calls: IntCounterVec,
    errors: IntCounterVec,
    in_flight: IntGaugeVec,
    retries: RetrySeries,
    total: HistogramVec,
    queue: HistogramVec,
    wire: HistogramVec,
    service: HistogramVec,
}

impl CallSeries {
    /// Creates the series.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let series = Self::new()?;
        registry.register(Box::new(series.calls.clone()))?;
        registry.register(Box::new(series.errors.clone()))?;
        registry.register(Box::new(series.in_flight.clone()))?;
        series.retries.register(registry)?;
        for histograms in [&series.total, &series.queue, &series.wire, &series.service] {
            registry.register(Box::new(histograms.clone()))?;
        }
        Ok(series)
    }

    /// The side of one shard.
    pub fn on_shard(&self) -> CallMetrics {
        CallMetrics(Rc::new(Shard {
            series: self.clone(),
            pairs: RefCell::default(),
        }))
    }

    fn new() -> Result<Self, Error> {
        Ok(Self {
            calls: IntCounterVec::new(
                Opts::new("strait_calls_total", "Calls that ended, by outcome."),
                &["direction", "src_unit", "dst_unit", "outcome"],
            )?,
            errors: IntCounterVec::new(
                Opts::new("strait_call_errors_total", "Calls that a relay ended, by reason."),
                &["direction", "src_unit", "dst_unit", "reason"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("strait_calls_in_flight", "Calls that were routed and have not ended."),
                &PAIR,
            )?,
            retries: RetrySeries::new()?,
            total: histograms(
                "strait_call_duration_seconds",
                "From the first byte of a call to its end.",
            )?,
            queue: histograms(
                "strait_call_queue_seconds",
                "Time that ended calls waited in this relay.",
            )?,
            wire: histograms(
                "strait_call_wire_seconds",
                "Time that answered calls travelled and spent in other relays.",
            )?,
            service: histograms(
                "strait_call_service_seconds",
                "Time that answered calls spent in the service.",
            )?,
        })
    }

    fn pair(&self, direction: Direction, src: &UnitId, dst: &UnitId) -> PairMetrics {
        let labels = [direction.as_str(), src.as_str(), dst.as_str()];
        let [direction, src, dst] = labels;
        let ended = Outcome::ALL.map(|outcome| {
            let labels = [direction, src, dst, outcome.as_str()];
            (outcome, self.calls.with_label_values(&labels).local())
        });
        PairMetrics {
            ended,
            errors: std::array::from_fn(|_| OnceCell::new()),
            error_series: self.errors.clone(),
            labels: labels.map(str::to_owned),
            in_flight: self.in_flight.with_label_values(&labels),
            in_flight_change: Cell::new(0),
            total: self.total.with_label_values(&labels).local(),
            queue: self.queue.with_label_values(&labels).local(),
            wire: self.wire.with_label_values(&labels).local(),
            service: self.service.with_label_values(&labels).local(),
        }
    }
}

const PAIR: [&str; 3] = ["direction", "src_unit", "dst_unit"];

fn histograms(name: &str, help: &str) -> Result<HistogramVec, Error> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec()), &PAIR)
}

/// The side of one shard. Clones share it.
#[derive(Clone)]
pub struct CallMetrics(Rc<Shard>);

struct Shard {
    series: CallSeries,
    /// By direction, source and destination; nested, so that a look-up copies no name.
    pairs: RefCell<[BySource; 2]>,
}

type BySource = Map<UnitId, Map<UnitId, Rc<PairMetrics>>>;

impl CallMetrics {
    /// Series that nobody reads; for tests of stories.
    ///
    /// # Errors
    /// Never in practice: names are constants.
    pub fn detached() -> Result<Self, Error> {
        Ok(CallSeries::new()?.on_shard())
    }

    /// The counters of one path. Looked up once and kept by whoever calls often.
    ///
    /// `src` and `dst` must be units of the settings or of a verified certificate (T1).
    pub fn pair(&self, direction: Direction, src: &UnitId, dst: &UnitId) -> Rc<PairMetrics> {
        let mut pairs = self.0.pairs.borrow_mut();
        let [inbound, outbound] = &mut *pairs;
        let sources = match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        };
        if let Some(pair) = sources.get(src).and_then(|destinations| destinations.get(dst)) {
            return Rc::clone(pair);
        }
        let pair = Rc::new(self.0.series.pair(direction, src, dst));
        let destinations = sources.entry(src.clone()).or_default();
        destinations.insert(dst.clone(), Rc::clone(&pair));
        pair
    }

    /// What becomes of retries.
    pub fn retries(&self) -> &RetrySeries {
        &self.0.series.retries
    }

    /// Adds what was counted since the last time to the shared series.
    pub fn flush(&self) {
        let pairs = self.0.pairs.borrow();
        for pair in pairs.iter().flat_map(Map::values).flat_map(Map::values) {
            pair.flush();
        }
    }

    /// Flushes ten times a second, as long as the shard runs. Cancel safe.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.flush();
        }
    }
}

/// The counters of calls from one unit to another, on one shard.
pub struct PairMetrics {
    ended: [(Outcome, LocalCounter); Outcome::ALL.len()],
    /// By reason, in the order of [`Reason::ALL`]; a series appears with the first error.
    errors: [OnceCell<LocalCounter>; Reason::ALL.len()],
    error_series: IntCounterVec,
    labels: [String; 3],
    in_flight: IntGauge,
    in_flight_change: Cell<i64>,
    total: LocalHistogram,
    queue: LocalHistogram,
    wire: LocalHistogram,
    service: LocalHistogram,
}

type LocalCounter = GenericLocalCounter<AtomicU64>;

impl PairMetrics {
    /// A call was routed.
    pub fn on_started(&self) {
        self.in_flight_change.set(self.in_flight_change.get() + 1);
    }

    /// A call ended.
    pub fn on_ended(&self, ended: &Ended) {
        if ended.started {
            self.in_flight_change.set(self.in_flight_change.get() - 1);
        }
        if let Some((_, count)) = self.ended.iter().find(|(outcome, _)| *outcome == ended.outcome) {
            count.inc();
        }
        if let Some(reason) = ended.reason {
            self.on_error(reason);
        }
        self.total.observe(ended.total.as_secs_f64());
        self.queue.observe(ended.queue.as_secs_f64());
        if matches!(ended.outcome, Outcome::Ok | Outcome::AppError) {
            self.wire.observe(ended.wire.as_secs_f64());
            self.service.observe(ended.service.as_secs_f64());
        }
    }

    fn on_error(&self, reason: Reason) {
        let Some(index) = Reason::ALL.iter().position(|candidate| *candidate == reason) else {
            return;
        };
        if let Some(cell) = self.errors.get(index) {
            cell.get_or_init(|| {
                let [direction, src, dst] = self.labels.each_ref().map(String::as_str);
                let labels = [direction, src, dst, reason.as_str()];
                self.error_series.with_label_values(&labels).local()
            })
            .inc();
        }
    }

    fn flush(&self) {
        for (_, counter) in &self.ended {
            counter.flush();
        }
        for counter in self.errors.iter().filter_map(OnceCell::get) {
            counter.flush();
        }
        self.in_flight.add(self.in_flight_change.take());
        for histogram in [&self.total, &self.queue, &self.wire, &self.service] {
            histogram.flush();
        }
    }
}

impl Drop for PairMetrics {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn ended(outcome: Outcome, reason: Option<Reason>) -> Ended {
        Ended {
            outcome,
            reason,
            total: Duration::from_micros(120),
            queue: Duration::from_micros(8),
            wire: Duration::from_micros(60),
            service: Duration::from_micros(52),
            started: true,
        }
    }

    fn text(registry: &super::super::Registry) -> String {
        String::from_utf8(registry.to_text().unwrap()).unwrap()
    }

    #[test]
    fn every_call_is_counted_once_with_its_units_outcome_and_reason() {
        // C-O1
        let registry = super::super::Registry::new().unwrap();
        let metrics = CallSeries::register(registry.series()).unwrap().on_shard();
        let pair = metrics.pair(Direction::Outbound, &Name::new("a").unwrap(), &Name::new("b").unwrap());
        for _ in 0..3 {
            pair.on_started();
        }
        pair.on_ended(&ended(Outcome::Ok, None));
        pair.on_ended(&ended(Outcome::Failed, Some(Reason::UnitAway)));
        let labels = r#"direction="outbound",dst_unit="b""#;
        assert!(
            !text(&registry).contains(r#"outcome="ok",src_unit="a"} 1"#),
            "counted before the flush"
        );
        metrics.flush();
        metrics.flush();
        let text = text(&registry);
        for line in [
            format!(r#"strait_calls_total{{{labels},outcome="ok",src_unit="a"}} 1"#),
            format!(r#"strait_calls_total{{{labels},outcome="failed",src_unit="a"}} 1"#),
            format!(r#"strait_calls_total{{{labels},outcome="shed",src_unit="a"}} 0"#),
            format!(r#"strait_call_errors_total{{{labels},reason="unit_away",src_unit="a"}} 1"#),
            format!(r#"strait_calls_in_flight{{{labels},src_unit="a"}} 1"#),
            format!(r#"strait_call_duration_seconds_count{{{labels},src_unit="a"}} 2"#),
            format!(r#"strait_call_service_seconds_count{{{labels},src_unit="a"}} 1"#),
            format!(r#"strait_call_queue_seconds_bucket{{{labels},src_unit="a",le="0.00001"}} 2"#),
            format!(r#"strait_call_duration_seconds_bucket{{{labels},src_unit="a",le="0.0001"}} 0"#),
        ] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert_eq!(
            text.matches("strait_call_errors_total{").count(),
            1,
            "series of errors that never happened"
        );
    }

    #[test]
    fn a_shard_that_ends_loses_no_count() {
        let registry = super::super::Registry::new().unwrap();
        let series = CallSeries::register(registry.series()).unwrap();
        let metrics = series.on_shard();
        let unit = Name::new("a").unwrap();
        let pair = metrics.pair(Direction::Inbound, &unit, &unit);
        pair.on_started();
        pair.on_ended(&ended(Outcome::Ok, None));
        drop((metrics, pair));
        assert!(text(&registry).contains(r#"outcome="ok",src_unit="a"} 1"#));
    }
}
