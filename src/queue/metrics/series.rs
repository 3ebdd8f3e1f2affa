//! The series of the queue, as they are registered.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use crate::telemetry::{LATENCY_BUCKETS, SIZE_BUCKETS};

/// Counters and histograms: events.
#[derive(Clone)]
pub(super) struct Events {
    pub(super) accepted: IntCounterVec,
    pub(super) accepted_bytes: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) parked: IntCounterVec,
    pub(super) unparked: IntCounterVec,
    pub(super) duplicates: IntCounterVec,
    pub(super) dedup_evicted: IntCounter,
    pub(super) received: IntCounterVec,
    pub(super) received_again: IntCounterVec,
    pub(super) received_gaps: IntCounterVec,
    pub(super) not_owned: IntCounterVec,
    pub(super) rerouted: IntCounterVec,
    pub(super) relayed: IntCounterVec,
    pub(super) relay_duration: HistogramVec,
    pub(super) delivered: IntCounterVec,
    pub(super) delivery_duration: HistogramVec,
    pub(super) redelivered: IntCounterVec,
    pub(super) attempts_failed: IntCounterVec,
    pub(super) removed: IntCounterVec,
    pub(super) dead_added: IntCounterVec,
    pub(super) dead_removed: IntCounterVec,
    pub(super) redriven: IntCounter,
    pub(super) throttled: CounterVec,
}

/// Gauges: how things stand.
#[derive(Clone)]
pub(super) struct Gauges {
    pub(super) parked: IntGauge,
    pub(super) live: IntGaugeVec,
    pub(super) backlog: IntGaugeVec,
    pub(super) waiting_bytes: IntGaugeVec,
    pub(super) oldest: GaugeVec,
    pub(super) keys_behind: IntGaugeVec,
    pub(super) link_state: IntGaugeVec,
    pub(super) replay_rate: GaugeVec,
    pub(super) replay_limit: GaugeVec,
    pub(super) replay_limit_bytes: IntGaugeVec,
    pub(super) replay_eta: IntGaugeVec,
    pub(super) group_messages: IntGaugeVec,
    pub(super) group_blocked: IntGaugeVec,
    pub(super) group_consumers: IntGaugeVec,
    pub(super) group_oldest: GaugeVec,
    pub(super) group_paused: IntGaugeVec,
    pub(super) away: IntGaugeVec,
    pub(super) dead: IntGaugeVec,
    pub(super) dead_bytes: IntGauge,
    pub(super) dead_limit: IntGauge,
    pub(super) used: IntGauge,
    pub(super) limit: IntGauge,
    pub(super) segments: IntGauge,
    pub(super) level: IntGaugeVec,
    pub(super) buffered: IntGauge,
    pub(super) damaged: IntGauge,
    pub(super) redrive_remaining: IntGauge,
    pub(super) redrives: IntGaugeVec,
    pub(super) difference: IntGauge,
}

/// What the disk takes.
#[derive(Clone)]
pub(super) struct DiskSeries {
    pub(super) append: Histogram,
    pub(super) sync: Histogram,
    pub(super) batch: Histogram,
    pub(super) batch_bytes: Histogram,
}

struct Maker<'a>(&'a Registry);

/// Name and what it says.
type Series = (&'static str, &'static str);

type Made<T> = Result<T, prometheus::Error>;

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: Made<C>) -> Made<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(&self, series: Series, labels: &[&str]) -> Made<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(series.0, series.1), labels))
    }

    fn gauges(&self, series: Series, labels: &[&str]) -> Made<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(series.0, series.1), labels))
    }

    fn reals(&self, series: Series, labels: &[&str]) -> Made<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(series.0, series.1), labels))
    }

    fn gauge(&self, series: Series) -> Made<IntGauge> {
        self.add(IntGauge::new(series.0, series.1))
    }

    fn histogram(&self, series: Series, buckets: &[f64]) -> Made<Histogram> {
        let opts = HistogramOpts::new(series.0, series.1).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts))
    }

    fn ages(&self, series: Series, labels: &[&str]) -> Made<HistogramVec> {
        let opts = HistogramOpts::new(series.0, series.1).buckets(AGE_BUCKETS.to_vec());
        self.add(HistogramVec::new(opts, labels))
    }
}

impl Events {
    pub(super) fn register(registry: &Registry) -> Made<Self> {
        let make = Maker(registry);
        let (topic, group) = (["topic"], ["topic", "group"]);
        let pair = ["src_unit", "dst_unit"];
        let reasons = ["src_unit", "dst_unit", "reason"];
        let (way, lane) = (
            ["src_unit", "dst_unit", "topic", "lane"],
            ["src_unit", "dst_unit", "lane"],
        );
        let (ended, dead) = (["topic", "place", "reason"], ["topic", "place", "reason"]);
        Ok(Self {
            accepted: make.counters(ACCEPTED, &topic)?,
            accepted_bytes: make.counters(ACCEPTED_BYTES, &topic)?,
            refused: make.counters(REFUSED, &["reason"])?,
            parked: make.counters(PUBLISH_WAITS, &["reason"])?,
            unparked: make.counters(PUBLISH_WAITS_ENDED, &["end"])?,
            duplicates: make.counters(DUPLICATES, &topic)?,
            dedup_evicted: make.add(IntCounter::new(DEDUP_EVICTED.0, DEDUP_EVICTED.1))?,
            received: make.counters(RECEIVED, &["src_unit", "dst_unit", "topic"])?,
            received_again: make.counters(RECEIVED_DUPLICATES, &pair)?,
            received_gaps: make.counters(RECEIVED_GAPS, &reasons)?,
            not_owned: make.counters(RECEIVED_ELSEWHERE, &reasons)?,
            rerouted: make.counters(REROUTED, &["topic", "from_unit", "to_unit"])?,
            relayed: make.counters(RELAYED, &way)?,
            relay_duration: make.ages(RELAY_DURATION_SECONDS, &lane)?,
            delivered: make.counters(DELIVERED, &group)?,
            delivery_duration: make.ages(DELIVERY_DURATION_SECONDS, &group)?,
            redelivered: make.counters(REDELIVERED, &group)?,
            attempts_failed: make.counters(ATTEMPTS_FAILED, &group)?,
            removed: make.counters(REMOVED, &ended)?,
            dead_added: make.counters(DEAD_LETTERS_ADDED, &dead)?,
            dead_removed: make.counters(DEAD_LETTERS_REMOVED, &["reason"])?,
            redriven: make.add(IntCounter::new(REDRIVE_MOVED.0, REDRIVE_MOVED.1))?,
            throttled: make.add(CounterVec::new(
                Opts::new(REPLAY_THROTTLED_SECONDS.0, REPLAY_THROTTLED_SECONDS.1),
                &pair,
            ))?,
        })
    }
}

impl Gauges {
    pub(super) fn register(registry: &Registry) -> Made<Self> {
        let make = Maker(registry);
        let (pair, group) = (["src_unit", "dst_unit"], ["topic", "group"]);
        let state = ["src_unit", "dst_unit", "state"];
        Ok(Self {
            parked: make.gauge(PUBLICATIONS_WAITING)?,
            live: make.gauges(LIVE_MESSAGES, &pair)?,
            backlog: make.gauges(BACKLOG_MESSAGES, &pair)?,
            waiting_bytes: make.gauges(WAITING_BYTES, &pair)?,
            oldest: make.reals(OLDEST_AGE_SECONDS, &pair)?,
            keys_behind: make.gauges(KEYS_BEHIND, &pair)?,
            link_state: make.gauges(LINK_STATE, &state)?,
            replay_rate: make.reals(REPLAY_MESSAGES_PER_SECOND, &pair)?,
            replay_limit: make.reals(REPLAY_LIMIT_MESSAGES_PER_SECOND, &pair)?,
            replay_limit_bytes: make.gauges(REPLAY_LIMIT_BYTES_PER_SECOND, &pair)?,
            replay_eta: make.gauges(REPLAY_ETA_SECONDS, &pair)?,
            group_messages: make.gauges(GROUP_MESSAGES, &["topic", "group", "state"])?,
            group_blocked: make.gauges(GROUP_BLOCKED_KEYS, &group)?,
            group_consumers: make.gauges(GROUP_CONSUMERS, &group)?,
            group_oldest: make.reals(GROUP_OLDEST_AGE_SECONDS, &group)?,
            group_paused: make.gauges(GROUP_PAUSED, &group)?,
            away: make.gauges(LOCAL_MODE_BY_OPERATOR, &pair)?,
            dead: make.gauges(DEAD_LETTERS_MESSAGES, &["reason"])?,
            dead_bytes: make.gauge(DEAD_LETTERS_BYTES)?,
            dead_limit: make.gauge(DEAD_LETTERS_LIMIT_BYTES)?,
            used: make.gauge(USED_BYTES)?,
            limit: make.gauge(LIMIT_BYTES)?,
            segments: make.gauge(SEGMENTS)?,
            level: make.gauges(DISK_LEVEL, &["level"])?,
            buffered: make.gauge(DURABILITY_BUFFERED)?,
            damaged: make.gauge(DAMAGED_RANGES)?,
            redrive_remaining: make.gauge(REDRIVE_REMAINING_MESSAGES)?,
            redrives: make.gauges(REDRIVE_TASKS, &["state"])?,
            difference: make.gauge(AUDIT_DIFFERENCE_MESSAGES)?,
        })
    }
}

impl DiskSeries {
    pub(super) fn register(registry: &Registry) -> Made<Self> {
        let make = Maker(registry);
        Ok(Self {
            append: make.histogram(APPEND_DURATION_SECONDS, &LATENCY_BUCKETS)?,
            sync: make.histogram(SYNC_DURATION_SECONDS, &LATENCY_BUCKETS)?,
            batch: make.histogram(BATCH_RECORDS, &BATCH_BUCKETS)?,
            batch_bytes: make.histogram(BATCH_BYTES, &SIZE_BUCKETS)?,
        })
    }
}

/// Bounds for the time from acceptance on, in seconds: up to two days, because a backlog may wait that long.
const AGE_BUCKETS: [f64; 20] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
    3_600.0, 21_600.0, 172_800.0,
];

const BATCH_BUCKETS: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 4_096.0, 16_384.0,
];

const ACCEPTED: Series = ("strait_queue_accepted_total", "Messages of local services taken in.");
const ACCEPTED_BYTES: Series = (
    "strait_queue_accepted_bytes_total",
    "Bytes of messages of local services taken in.",
);
const REFUSED: Series = (
    "strait_queue_refused_total",
    "Messages of local services refused, by why.",
);
const PUBLISH_WAITS: Series = (
    "strait_queue_publish_waits_total",
    "Publications that began to wait until it is known where they go, by how they end if that stays unknown.",
);
const PUBLISH_WAITS_ENDED: Series = (
    "strait_queue_publish_waits_ended_total",
    "Publications that wait no longer until it is known where they go, by how that ended.",
);
const DUPLICATES: Series = (
    "strait_queue_duplicates_total",
    "Messages whose source and id had been accepted before.",
);
const DEDUP_EVICTED: Series = (
    "strait_queue_dedup_evicted_total",
    "Messages forgotten before queue.dedup.window because there were too many.",
);
const RECEIVED: Series = ("strait_queue_received_total", "Messages of other units taken in.");
const RECEIVED_DUPLICATES: Series = (
    "strait_queue_received_duplicates_total",
    "Messages of other units that were here already.",
);
const RECEIVED_ELSEWHERE: Series = (
    "strait_queue_received_elsewhere_total",
    "Messages that another unit sent and that were not taken because their key is about to move, or has moved.",
);
const REROUTED: Series = (
    "strait_messages_rerouted_total",
    "Messages that were taken out of the line of a unit and put into that of another, which owns their key by now.",
);
const RECEIVED_GAPS: Series = (
    "strait_queue_received_gaps_total",
    "Messages that another unit said will not come, by why.",
);
const RELAYED: Series = (
    "strait_queue_relayed_total",
    "Messages that a relay of the other unit has on disk.",
);
const RELAY_DURATION_SECONDS: Series = (
    "strait_queue_relay_duration_seconds",
    "From acceptance until a relay of the other unit has a message on disk.",
);
const DELIVERED: Series = ("strait_queue_delivered_total", "Messages that a consumer acknowledged.");
const DELIVERY_DURATION_SECONDS: Series = (
    "strait_queue_delivery_duration_seconds",
    "From acceptance, in whichever unit, until a consumer acknowledged a message.",
);
const REDELIVERED: Series = (
    "strait_queue_redelivered_total",
    "Messages handed to a consumer another time.",
);
const ATTEMPTS_FAILED: Series = (
    "strait_queue_attempts_failed_total",
    "Deliveries that failed and will be tried again.",
);
const REMOVED: Series = (
    "strait_queue_removed_total",
    "Messages that ended without being relayed (place link) or delivered, by why.",
);
const DEAD_LETTERS_ADDED: Series = ("strait_dead_letters_added_total", "Messages that were given up.");
const DEAD_LETTERS_REMOVED: Series = (
    "strait_dead_letters_removed_total",
    "Dead letters removed by operators or by age.",
);
const REDRIVE_MOVED: Series = ("strait_redrive_moved_total", "Dead letters taken back into the queue.");
const REPLAY_THROTTLED_SECONDS: Series = (
    "strait_replay_throttled_seconds_total",
    "Time for which a backlog waited for its limit.",
);
const PUBLICATIONS_WAITING: Series = (
    "strait_queue_publications_waiting",
    "Publications that wait until it is known where they go.",
);
const LIVE_MESSAGES: Series = (
    "strait_queue_live_messages",
    "Live messages that the other unit does not have yet.",
);
const BACKLOG_MESSAGES: Series = (
    "strait_queue_backlog_messages",
    "Messages of the backlog for another unit.",
);
const WAITING_BYTES: Series = (
    "strait_queue_waiting_bytes",
    "Bytes of messages that another unit does not have yet.",
);
const OLDEST_AGE_SECONDS: Series = (
    "strait_queue_oldest_age_seconds",
    "Age of the oldest message that another unit does not have yet.",
);
const KEYS_BEHIND: Series = (
    "strait_queue_keys_behind",
    "Keys whose messages wait behind their backlog.",
);
const LINK_STATE: Series = (
    "strait_queue_link_state",
    "1 for the state that messages to another unit are in.",
);
const REPLAY_MESSAGES_PER_SECOND: Series = (
    "strait_replay_messages_per_second",
    "Backlog messages per second over the last seconds.",
);
const REPLAY_LIMIT_MESSAGES_PER_SECOND: Series =
    ("strait_replay_limit_messages_per_second", "Limit of that; 0 is none.");
const REPLAY_LIMIT_BYTES_PER_SECOND: Series = (
    "strait_replay_limit_bytes_per_second",
    "Limit of the bytes of a backlog per second; 0 is none.",
);
const REPLAY_ETA_SECONDS: Series = (
    "strait_replay_eta_seconds",
    "Time until the backlog is empty at this rate; 0 if there is none, -1 if it is not known.",
);
const GROUP_MESSAGES: Series = (
    "strait_queue_group_messages",
    "Messages a group is not done with, by what they wait for.",
);
const GROUP_BLOCKED_KEYS: Series = (
    "strait_queue_group_blocked_keys",
    "Keys that wait until an operator acts.",
);
const GROUP_CONSUMERS: Series = ("strait_queue_group_consumers", "Consumers of a group.");
const GROUP_OLDEST_AGE_SECONDS: Series = (
    "strait_queue_group_oldest_age_seconds",
    "Age of the oldest message a group is not done with.",
);
const GROUP_PAUSED: Series = ("strait_queue_group_paused", "1 if delivery to the group is paused.");
const LOCAL_MODE_BY_OPERATOR: Series = (
    "strait_local_mode_by_operator",
    "1 if the other unit counts as away for calls of methods with on_failure because an operator says so.",
);
const DEAD_LETTERS_MESSAGES: Series = (
    "strait_dead_letters_messages",
    "Dead letters, by why they were given up.",
);
const DEAD_LETTERS_BYTES: Series = ("strait_dead_letters_bytes", "Bytes of dead letters.");
const DEAD_LETTERS_LIMIT_BYTES: Series = (
    "strait_dead_letters_limit_bytes",
    "Bytes that dead letters may take (queue.dead_letters.bytes_max).",
);
const USED_BYTES: Series = ("strait_queue_used_bytes", "Disk space of the queue.");
const LIMIT_BYTES: Series = (
    "strait_queue_limit_bytes",
    "Disk space that the queue may take (queue.bytes_max).",
);
const SEGMENTS: Series = ("strait_queue_segments", "Segment files of the queue.");
const DISK_LEVEL: Series = (
    "strait_queue_disk_level",
    "1 for the level that holds: at low, topics of low priority are refused, at full and failing all.",
);
const DURABILITY_BUFFERED: Series = (
    "strait_queue_durability_buffered",
    "1 if acknowledged messages can be lost in a power cut (queue.sync = buffered).",
);
const DAMAGED_RANGES: Series = (
    "strait_queue_damaged_ranges",
    "Ranges of damaged records found on disk.",
);
const REDRIVE_REMAINING_MESSAGES: Series = (
    "strait_redrive_remaining_messages",
    "Dead letters that running redrives have still to move, about.",
);
const REDRIVE_TASKS: Series = ("strait_redrive_tasks", "Redrives by state.");
const AUDIT_DIFFERENCE_MESSAGES: Series = (
    "strait_queue_audit_difference_messages",
    "Messages that the books and the log disagree about (M-G8), by the last audit or by the relay's own look each minute; 0, or something is wrong.",
);
const APPEND_DURATION_SECONDS: Series = (
    "strait_queue_append_duration_seconds",
    "From when a batch of records was given to the disk until it was safe.",
);
const SYNC_DURATION_SECONDS: Series = (
    "strait_queue_sync_duration_seconds",
    "Time the disk took to say that what was written is safe.",
);
const BATCH_RECORDS: Series = ("strait_queue_batch_records", "Records that were written together.");
const BATCH_BYTES: Series = ("strait_queue_batch_bytes", "Bytes that were written together.");
