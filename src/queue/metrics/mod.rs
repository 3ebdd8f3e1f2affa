//! What operators see of the queue.
//!
//! # Path
//! The engine calls [`Metrics::on_record`] with each record that has taken effect on disk, so the counters say what
//! the log says; [`Metrics::on_seen`] with what the parts noticed; [`Metrics::on_status`] once a second with how things
//! stand. The disk threads measure with `DiskMetrics`.
//!
//! # Invariants
//! - E1. Labels are bounded: a topic is the settings it fell under, a group one that settings name or `other`, a
//!   reason one of a closed set or `other`; keys, ids and attributes are never labels.
//! - E2. Nothing here influences what the queue does.

mod labels;
mod resolved;
mod series;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Counter, Histogram, IntCounter, Registry};

use self::labels::{DEAD, DELIVERY, LANES, LINK, known_group, known_reason, lane_number, pattern};
use self::resolved::Resolved;
use self::series::{DiskSeries, Events, Gauges};
use super::engine::ParkedEnd;
use super::lanes::{FROZEN, LaneKind, MOVED};
use super::record::{DeadLetter, Record, Stored};
use super::{Setup, Sync, Topics};
use crate::model::{DeadPlace, GapReason, GroupName, Map, Message, Reason, Topic, UnitId};

/// Something to count that is no record of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// A unit sent a message that was here already.
    Again {
        /// The unit.
        unit: UnitId,
    },
    /// A consumer acknowledged a message.
    Delivered {
        /// Its topic.
        topic: Topic,
        /// The group.
        group: GroupName,
        /// Since it was accepted, in whichever unit.
        age: Duration,
    },
    /// A unit sent a message of a key that is not this unit's to take now.
    Elsewhere {
        /// The unit.
        unit: UnitId,
        /// [`FROZEN`] or [`MOVED`].
        reason: &'static str,
    },
    /// A message was handed to a consumer another time.
    Redelivered {
        /// Its topic.
        topic: Topic,
        /// The group.
        group: GroupName,
    },
    /// A relay of a unit has a message on its disk.
    Relayed {
        /// The unit.
        unit: UnitId,
        /// Its topic.
        topic: Topic,
        /// Which lane it went on.
        lane: LaneKind,
        /// Since it was accepted.
        age: Duration,
    },
    /// The backlog of a unit waited for its limit.
    Throttled {
        /// The unit.
        unit: UnitId,
        /// So long.
        time: Duration,
    },
}

/// Series of the queue; the engine owns them.
pub struct Metrics {
    events: Events,
    gauges: Gauges,
    disk: DiskSeries,
    /// Records and bytes that share a sync with what is still to come.
    group: (usize, usize),
    buffered: bool,
    local: UnitId,
    topics: Arc<Topics>,
    /// Resolved once for each topic, group and unit; forgotten when settings change.
    by_topic: Resolved<Topic, TopicSeries>,
    by_group: Resolved<(Topic, GroupName), GroupSeries>,
    by_unit: Map<UnitId, UnitSeries>,
    shown: status::Shown,
}

struct TopicSeries {
    accepted: IntCounter,
    accepted_bytes: IntCounter,
    duplicates: IntCounter,
}

struct GroupSeries {
    delivered: IntCounter,
    duration: Histogram,
    redelivered: IntCounter,
    failed: IntCounter,
}

struct UnitSeries {
    again: IntCounter,
    throttled: Counter,
    durations: [Histogram; 2],
    /// What came in, and what went on each lane.
    topics: Resolved<Topic, (IntCounter, [IntCounter; 2])>,
}

impl Metrics {
    /// Registers the series. `unit` is this relay's.
    ///
    /// # Errors
    /// If a name is taken in this registry.
    pub fn register(registry: &Registry, unit: &UnitId) -> Result<Self, prometheus::Error> {
        Ok(Self {
            events: Events::register(registry)?,
            gauges: Gauges::register(registry)?,
            disk: DiskSeries::register(registry)?,
            group: (0, 0),
            buffered: false,
            local: unit.clone(),
            topics: Arc::default(),
            by_topic: Resolved::default(),
            by_group: Resolved::default(),
            by_unit: Map::default(),
            shown: status::Shown::default(),
        })
    }

    /// Other settings are in force. What can be known begins at zero, so that the first event is seen as a rise.
    pub fn configure(&mut self, setup: &Setup) {
        self.topics = Arc::clone(&setup.topics);
        self.buffered = setup.queue.sync == Sync::Buffered;
        self.by_topic = Resolved::default();
        self.by_group = Resolved::default();
        self.by_unit.clear();
        for (pattern, settings) in self.topics.iter() {
            let _ = self.events.topic(pattern);
            for group in settings.groups.keys() {
                let _ = self.events.group(pattern, group.as_str());
            }
        }
        for reason in Reason::ALL {
            self.events.refused.with_label_values(&[reason.as_str()]);
        }
        for reason in PARKED {
            self.events.parked.with_label_values(&[reason.as_str()]);
        }
        for end in ParkedEnd::ALL {
            self.events.unparked.with_label_values(&[end.as_str()]);
        }
        for reason in GapReason::ALL {
            self.events.dead_removed.with_label_values(&[reason.as_str()]);
        }
        self.gauges
            .dead_limit
            .set(status::whole(setup.queue.dead_letters.bytes_max.as_u64()));
    }

    /// A record has taken effect on disk.
    pub fn on_record(&mut self, record: &Record) {
        match record {
            Record::Stored(stored) => self.on_stored(stored),
            Record::Dead(dead) => self.on_dead(dead),
            Record::DeadGone { seqs, reason } => {
                self.events
                    .dead_removed
                    .with_label_values(&[reason.as_str()])
                    .inc_by(count(seqs));
            }
            Record::Gap { reason, counts, .. } => {
                for (topic, count) in counts {
                    self.on_removed(topic, LINK, *reason, *count);
                }
            }
            Record::Settled {
                topic,
                seqs,
                reason: Some(reason),
                ..
            } => {
                self.on_removed(topic, DELIVERY, *reason, count(seqs));
            }
            Record::Skipped { stream, seqs, reason } => {
                let labels = [stream.unit.as_str(), self.local.as_str(), reason.as_str()];
                self.events
                    .received_gaps
                    .with_label_values(&labels)
                    .inc_by(count(&[*seqs]));
            }
            Record::Attempt { topic, group, .. } => self.group(topic, group).failed.inc(),
            Record::Epoch(_)
            | Record::Kept(_)
            | Record::Relayed { .. }
            | Record::Remembered(_)
            | Record::Settled { .. } => {}
        }
    }

    /// A batch of so many records and bytes is safe, so long after the disk was given it. `sync` is how long the sync took;
    /// only the last batch that shares one has it.
    pub fn on_appended(&mut self, (records, bytes): (usize, usize), waited: Duration, sync: Option<Duration>) {
        self.disk.append.observe(waited.as_secs_f64());
        self.group = (self.group.0 + records, self.group.1 + bytes);
        if let Some(sync) = sync {
            self.disk.sync.observe(sync.as_secs_f64());
        }
        if sync.is_some() || self.buffered {
            let (records, bytes) = std::mem::take(&mut self.group);
            self.disk.batch.observe(real(records));
            self.disk.batch_bytes.observe(real(bytes));
        }
    }

    /// A message of a local service was refused.
    pub fn on_refused(&self, reason: Reason) {
        self.events.refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// A publication waits until it is known where it goes; so it ends if that does not become known.
    pub fn on_parked(&self, reason: Reason) {
        self.events.parked.with_label_values(&[reason.as_str()]).inc();
    }

    /// A publication waits for that no longer.
    pub fn on_unparked(&self, end: ParkedEnd) {
        self.events.unparked.with_label_values(&[end.as_str()]).inc();
    }

    /// Of both: by reason (`moving`, `routes_away`), and by end.
    #[cfg(test)]
    pub fn parked_counts(&self) -> ([u64; 2], [u64; 3]) {
        let begun = PARKED.map(|reason| self.events.parked.with_label_values(&[reason.as_str()]).get());
        let ended = ParkedEnd::ALL.map(|end| self.events.unparked.with_label_values(&[end.as_str()]).get());
        (begun, ended)
    }

    /// So many wait for that.
    pub fn on_parking(&self, publications: usize) {
        self.gauges.parked.set(i64::try_from(publications).unwrap_or(i64::MAX));
    }

    /// A message of a local service was answered with an earlier one of the same source and id.
    pub fn on_duplicate(&mut self, topic: &Topic) {
        self.topic(topic).duplicates.inc();
    }

    /// So many were forgotten before their time, because `queue.dedup.messages_max` were remembered.
    pub fn on_dedup_evicted(&self, messages: u64) {
        self.events.dedup_evicted.inc_by(messages);
    }

    /// A part noticed something.
    pub fn on_seen(&mut self, seen: &Seen) {
        match seen {
            Seen::Again { unit } => self.unit(unit).again.inc(),
            Seen::Elsewhere { unit, reason } => {
                let labels = [unit.as_str(), self.local.as_str(), *reason];
                self.events.not_owned.with_label_values(&labels).inc();
            }
            Seen::Throttled { unit, time } => self.unit(unit).throttled.inc_by(time.as_secs_f64()),
            Seen::Delivered { topic, group, age } => {
                let series = self.group(topic, group);
                series.delivered.inc();
                series.duration.observe(age.as_secs_f64());
            }
            Seen::Redelivered { topic, group } => self.group(topic, group).redelivered.inc(),
            Seen::Relayed { unit, topic, lane, age } => self.on_relayed(unit, topic, *lane, *age),
        }
    }

    fn on_stored(&mut self, stored: &Stored) {
        let Message { topic, .. } = &stored.message;
        if stored.redriven.is_some() {
            self.events.redriven.inc();
        } else if let Some((from, _)) = &stored.rerouted {
            let to = stored.outs.first().map_or(&self.local, |(to, _)| to);
            let labels = [pattern(&self.topics, topic), from.as_str(), to.as_str()];
            self.events.rerouted.with_label_values(&labels).inc();
            self.on_removed(topic, LINK, GapReason::Rerouted, 1);
        } else if let Some((stream, _)) = &stored.from {
            let unit = stream.unit.clone();
            self.lanes(&unit, topic).0.inc();
        } else {
            let bytes = stored.message.attributes.as_bytes().len() + stored.message.body.len();
            let series = self.topic(topic);
            series.accepted.inc();
            series.accepted_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    fn on_relayed(&mut self, unit: &UnitId, topic: &Topic, lane: LaneKind, age: Duration) {
        let lane = lane_number(lane);
        let (_, relayed) = self.lanes(unit, topic);
        if let Some(counter) = relayed.get(lane) {
            counter.inc();
        }
        if let Some(duration) = self.unit(unit).durations.get(lane) {
            duration.observe(age.as_secs_f64());
        }
    }

    fn on_dead(&mut self, dead: &DeadLetter) {
        let topic = pattern(&self.topics, &dead.message.topic);
        let labels = [topic, dead.place.as_str(), known_reason(&dead.reason)];
        self.events.dead_added.with_label_values(&labels).inc();
        match dead.place {
            DeadPlace::Link => self.on_removed(&dead.message.topic, LINK, GapReason::DeadLettered, 1),
            DeadPlace::Delivery => self.on_removed(&dead.message.topic, DELIVERY, GapReason::DeadLettered, 1),
            // It never had a place in a line.
            DeadPlace::Policy => {}
        }
    }

    fn on_removed(&self, topic: &Topic, place: &str, reason: GapReason, count: u64) {
        let labels = [pattern(&self.topics, topic), place, reason.as_str()];
        self.events.removed.with_label_values(&labels).inc_by(count);
    }

    fn topic(&mut self, topic: &Topic) -> &TopicSeries {
        let (events, topics) = (&self.events, &self.topics);
        let labels = || pattern(topics, topic).to_owned();
        self.by_topic.of(topic, labels, || events.topic(pattern(topics, topic)))
    }

    fn group(&mut self, topic: &Topic, group: &GroupName) -> &GroupSeries {
        let (events, topics) = (&self.events, &self.topics);
        let (pattern, known) = (|| pattern(topics, topic), || known_group(topics, topic, group));
        // No name has a slash.
        let labels = || format!("{}/{}", pattern(), known());
        let key = (topic.clone(), group.clone());
        self.by_group.of(&key, labels, || events.group(pattern(), known()))
    }

    fn unit(&mut self, unit: &UnitId) -> &mut UnitSeries {
        let (events, local) = (&self.events, &self.local);
        self.by_unit
            .entry(unit.clone())
            .or_insert_with(|| events.unit(local.as_str(), unit.as_str()))
    }

    /// What came in from a unit, and what went to it on each lane.
    fn lanes(&mut self, unit: &UnitId, topic: &Topic) -> &(IntCounter, [IntCounter; 2]) {
        let Self {
            events,
            local,
            topics,
            by_unit,
            ..
        } = self;
        let (own, other) = (local.as_str(), unit.as_str());
        let series = by_unit.entry(unit.clone()).or_insert_with(|| events.unit(own, other));
        let labels = || pattern(topics, topic).to_owned();
        series.topics.of(topic, labels, || {
            let topic = pattern(topics, topic);
            let received = events.received.with_label_values(&[other, own, topic]);
            let relayed = LANES.map(|lane| events.relayed.with_label_values(&[own, other, topic, lane]));
            (received, relayed)
        })
    }
}

impl Events {
    fn topic(&self, topic: &str) -> TopicSeries {
        for place in [LINK, DELIVERY] {
            for reason in GapReason::ALL {
                self.removed.with_label_values(&[topic, place, reason.as_str()]);
            }
        }
        for (place, reason) in DEAD {
            self.dead_added.with_label_values(&[topic, place.as_str(), reason]);
        }
        TopicSeries {
            accepted: self.accepted.with_label_values(&[topic]),
            accepted_bytes: self.accepted_bytes.with_label_values(&[topic]),
            duplicates: self.duplicates.with_label_values(&[topic]),
        }
    }

    fn group(&self, topic: &str, group: &str) -> GroupSeries {
        let labels = [topic, group];
        GroupSeries {
            delivered: self.delivered.with_label_values(&labels),
            duration: self.delivery_duration.with_label_values(&labels),
            redelivered: self.redelivered.with_label_values(&labels),
            failed: self.attempts_failed.with_label_values(&labels),
        }
    }

    fn unit(&self, local: &str, unit: &str) -> UnitSeries {
        for reason in GapReason::ALL {
            self.received_gaps.with_label_values(&[unit, local, reason.as_str()]);
        }
        for reason in [FROZEN, MOVED] {
            self.not_owned.with_label_values(&[unit, local, reason]);
        }
        UnitSeries {
            again: self.received_again.with_label_values(&[unit, local]),
            throttled: self.throttled.with_label_values(&[local, unit]),
            durations: LANES.map(|lane| self.relay_duration.with_label_values(&[local, unit, lane])),
            topics: Resolved::default(),
        }
    }
}

/// Why publications wait.
const PARKED: [Reason; 2] = [Reason::Moving, Reason::RoutesAway];

/// How many numbers there are in runs of first and last.
fn count(runs: &[(u64, u64)]) -> u64 {
    let lengths = runs.iter().map(|(from, to)| to.saturating_sub(*from).saturating_add(1));
    lengths.fold(0, u64::saturating_add)
}

fn real(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
