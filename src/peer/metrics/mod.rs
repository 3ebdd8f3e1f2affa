//! What operators see of links.

mod lanes;

use std::cell::Cell;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use self::lanes::LaneSeries;
pub use self::lanes::{LaneMetrics, LaneRefusal};
use super::session::Ended;
use crate::model::lanes::LaneKind;
use crate::model::{Name, UnitId};

/// Series of all links of this relay.
#[derive(Clone)]
pub struct Metrics {
    bytes: IntCounterVec,
    calls_open: IntGaugeVec,
    calls_pending: IntGaugeVec,
    credit_bytes: IntGaugeVec,
    cwnd: IntGaugeVec,
    lane_writes: IntCounterVec,
    links_ended: IntCounterVec,
    links_retiring: IntGaugeVec,
    links_up: IntGaugeVec,
    lost: IntCounterVec,
    message_lanes: IntGaugeVec,
    message_lanes_refused: IntCounterVec,
    observers: IntGaugeVec,
    packets: IntCounterVec,
    reconnects: IntCounterVec,
    connect_failures: IntCounterVec,
    rtt: GaugeVec,
    streams: IntGaugeVec,
    local: UnitId,
}

/// Series of one link, resolved once.
///
/// Gauges are sums over the shards and relays of a pair of units: each link adds and takes back its part.
pub(super) struct LinkMetrics {
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    lane_writes: IntCounter,
    lost: IntCounter,
    packets: IntCounter,
    calls_out: Share,
    calls_in: Share,
    pending: Share,
    credit: Share,
    cwnd: Share,
    streams: Share,
    retiring: Share,
    up: Share,
    rtt: Gauge,
    lanes: LaneSeries,
}

/// This link's part in a gauge that many links add to.
struct Share {
    gauge: IntGauge,
    part: Cell<i64>,
}

/// A reading of one link, taken once a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub(super) calls_out: usize,
    pub(super) calls_in: usize,
    pub(super) pending: usize,
    pub(super) credit_bytes: usize,
    pub(super) cwnd: u64,
    pub(super) lost_packets: u64,
    pub(super) sent_packets: u64,
    pub(super) body_streams: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) rtt: std::time::Duration,
}

impl Metrics {
    /// Registers the series.
    ///
    /// # Errors
    /// If one of the names is taken.
    #[expect(clippy::too_many_lines, reason = "a list of series")]
    pub fn register(registry: &Registry, local: &UnitId) -> Result<Self, prometheus::Error> {
        let pair = ["src_unit", "dst_unit"];
        let directed = ["src_unit", "dst_unit", "direction"];
        let gauges =
            |name: &str, help: &str, labels: &[&str]| added(registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            added(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        Ok(Self {
            bytes: counters("strait_peer_bytes_total", "UDP payload bytes of links.", &directed)?,
            calls_open: gauges("strait_peer_calls_open", "Calls open on links.", &directed)?,
            calls_pending: gauges(
                "strait_peer_calls_pending",
                "Calls that wait for credit of the peer.",
                &pair,
            )?,
            credit_bytes: gauges(
                "strait_peer_credit_used_bytes",
                "Bytes of lane credit that open calls hold.",
                &pair,
            )?,
            cwnd: gauges(
                "strait_peer_congestion_window_bytes",
                "Congestion windows of the lane connections.",
                &pair,
            )?,
            lane_writes: counters(
                "strait_peer_lane_writes_total",
                "Writes to lanes; calls per write tell how well they batch.",
                &pair,
            )?,
            links_ended: counters(
                "strait_peer_links_ended_total",
                "Links that ended, by why: lost and age, expired and refused cut calls off; replaced and shutdown do not.",
                &["src_unit", "dst_unit", "reason"],
            )?,
            links_retiring: gauges(
                "strait_peer_links_retiring",
                "Links whose place another one has taken, and which end with their last call.",
                &pair,
            )?,
            links_up: gauges(
                "strait_peer_links_up",
                "Established links, one per shard, relay and direction of dialling.",
                &pair,
            )?,
            lost: counters("strait_peer_packets_lost_total", "Packets QUIC declared lost.", &pair)?,
            message_lanes: gauges(
                "strait_peer_message_lanes",
                "Lanes for messages: out are those this relay sends on; at most one live and one backlog lane to a unit.",
                &["src_unit", "dst_unit", "direction", "lane"],
            )?,
            message_lanes_refused: counters(
                "strait_peer_message_lanes_refused_total",
                "Lanes for messages that a peer opened and that were refused or cut off, by why.",
                &["src_unit", "dst_unit", "reason"],
            )?,
            observers: gauges(
                "strait_peer_observers",
                "Units that say whether they reach the other unit, this one among them, by what they say. Methods with on_failure count it as away if \
                 more than half say so.",
                &["src_unit", "dst_unit", "sighting"],
            )?,
            packets: counters("strait_peer_packets_sent_total", "Packets QUIC sent.", &pair)?,
            reconnects: counters("strait_peer_connects_total", "Links established.", &directed)?,
            connect_failures: counters(
                "strait_peer_connect_failures_total",
                "Attempts to establish a link that failed.",
                &pair,
            )?,
            rtt: added(
                registry,
                GaugeVec::new(
                    Opts::new("strait_peer_rtt_seconds", "Smoothed round-trip time of a link."),
                    &pair,
                ),
            )?,
            streams: gauges(
                "strait_peer_body_streams",
                "Streams of large bodies that QUIC counts as open.",
                &pair,
            )?,
            local: local.clone(),
        })
    }

    /// Makes the series of a unit exist at zero, so that a link that never came up is seen as down.
    pub(super) fn expect(&self, unit: &UnitId) {
        self.links_up
            .with_label_values(&[self.local.as_str(), unit.as_str()])
            .add(0);
        let (own, unit) = (self.local.as_str(), unit.as_str());
        for why in Ended::ALL {
            self.links_ended.with_label_values(&[own, unit, why.as_str()]);
        }
        for why in LaneRefusal::ALL {
            self.message_lanes_refused.with_label_values(&[own, unit, why.as_str()]);
        }
        for lane in [LaneKind::Live, LaneKind::Backlog] {
            for direction in ["in", "out"] {
                self.message_lanes
                    .with_label_values(&[own, unit, direction, lane.as_str()]);
            }
        }
    }

    /// So many units, this one among them, say that they reach another one, and so many that they do not.
    pub(super) fn on_observed(&self, unit: &UnitId, reached: usize, away: usize) {
        for (sighting, units) in [("reached", reached), ("away", away)] {
            self.observers
                .with_label_values(&[self.local.as_str(), unit.as_str(), sighting])
                .set(signed(units));
        }
    }

    /// A link has ended.
    pub(super) fn on_ended(&self, unit: &Name, why: Ended) {
        self.links_ended
            .with_label_values(&[self.local.as_str(), unit.as_str(), why.as_str()])
            .inc();
    }

    /// One link has been established.
    pub(super) fn on_connected(&self, unit: &Name, dialled: bool) -> LinkMetrics {
        let pair = [self.local.as_str(), unit.as_str()];
        let directed = |direction| [self.local.as_str(), unit.as_str(), direction];
        self.reconnects
            .with_label_values(&directed(if dialled { "dialled" } else { "accepted" }))
            .inc();
        let share = |gauge: IntGauge| Share {
            gauge,
            part: Cell::new(0),
        };
        let metrics = LinkMetrics {
            bytes_in: self.bytes.with_label_values(&directed("in")),
            bytes_out: self.bytes.with_label_values(&directed("out")),
            lane_writes: self.lane_writes.with_label_values(&pair),
            lost: self.lost.with_label_values(&pair),
            packets: self.packets.with_label_values(&pair),
            calls_out: share(self.calls_open.with_label_values(&directed("out"))),
            calls_in: share(self.calls_open.with_label_values(&directed("in"))),
            pending: share(self.calls_pending.with_label_values(&pair)),
            credit: share(self.credit_bytes.with_label_values(&pair)),
            cwnd: share(self.cwnd.with_label_values(&pair)),
            streams: share(self.streams.with_label_values(&pair)),
            retiring: share(self.links_retiring.with_label_values(&pair)),
            up: share(self.links_up.with_label_values(&pair)),
            rtt: self.rtt.with_label_values(&pair),
            lanes: LaneSeries::new(
                (self.message_lanes.clone(), self.message_lanes_refused.clone()),
                (self.local.clone(), unit.clone()),
            ),
        };
        metrics.up.set(1);
        metrics
    }

    /// An attempt to establish a link failed.
    pub(super) fn on_connect_failed(&self, unit: &UnitId) {
        self.connect_failures
            .with_label_values(&[self.local.as_str(), unit.as_str()])
            .inc();
    }
}

impl LinkMetrics {
    /// Another link has taken the place of this one.
    pub(super) fn on_retired(&self) {
        self.retiring.set(1);
    }

    pub(super) fn on_lane_write(&self) {
        self.lane_writes.inc();
    }

    /// Takes over a reading; counters grow by what is new since the one before.
    pub(super) fn on_reading(&self, before: &Reading, now: &Reading) {
        self.calls_out.set(signed(now.calls_out));
        self.calls_in.set(signed(now.calls_in));
        self.pending.set(signed(now.pending));
        self.credit.set(signed(now.credit_bytes));
        self.cwnd.set(i64::try_from(now.cwnd).unwrap_or(i64::MAX));
        self.streams.set(i64::try_from(now.body_streams).unwrap_or(i64::MAX));
        self.rtt.set(now.rtt.as_secs_f64());
        self.lost.inc_by(now.lost_packets.saturating_sub(before.lost_packets));
        self.packets
            .inc_by(now.sent_packets.saturating_sub(before.sent_packets));
        self.bytes_in.inc_by(now.bytes_in.saturating_sub(before.bytes_in));
        self.bytes_out.inc_by(now.bytes_out.saturating_sub(before.bytes_out));
    }
}

impl Share {
    fn set(&self, part: i64) {
        self.gauge.add(part - self.part.replace(part));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn added<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
