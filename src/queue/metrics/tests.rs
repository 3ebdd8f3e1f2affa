//! Counters follow the log, gauges the status; labels are bounded.

use bytes::Bytes;
use prometheus::TextEncoder;

use super::resolved::RESOLVED_MAX;
use super::*;
use crate::model::{MessageId, Metadata, Name, Place, UnixMillis};
use crate::queue::line::StreamId;
use crate::queue::operator::{AuditRow, GroupStatus, LimitValues, RedriveStatus, Status, UnitStatus};
use crate::queue::record::DeadSource;
use crate::queue::{GroupSettings, Neighbours, ReplaySettings, Settings, TopicSettings};

struct World {
    registry: Registry,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        let registry = Registry::new();
        let mut metrics = Metrics::register(&registry, &name("a")).unwrap();
        let mut chat = TopicSettings::default();
        chat.groups.insert(name("archive"), GroupSettings::default());
        metrics.configure(&Setup {
            place: Place {
                unit: name("a"),
                relay: name("a-1"),
            },
            geo: name("cn"),
            queue: Settings::default(),
            replay: ReplaySettings::default(),
            topics: Arc::new([("chat.*".to_owned(), chat)].into()),
            neighbours: Neighbours::default(),
        });
        Self { registry, metrics }
    }

    /// The series with these words, without comments.
    fn series(&self, words: &str) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(words));
        lines.map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(&self, series: &str) {
        let name = series.split_once('}').map_or(series, |(name, _)| name);
        assert!(
            self.series("").iter().any(|line| line == series),
            "{series}: {:#?}",
            self.series(name)
        );
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn message(topic: &str) -> Message {
    Message {
        id: MessageId {
            unit: name("a"),
            relay: name("a-1"),
            epoch: 1,
            number: 1,
        },
        topic: name(topic),
        key: None,
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: Vec::new(),
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from_static(b"four"),
    }
}

fn stored(topic: &str, from: Option<(StreamId, u64)>, redriven: Option<u64>) -> Record {
    Record::Stored(Box::new(Stored {
        message: message(topic),
        from,
        outs: Vec::new(),
        inbox: Some(1),
        only: None,
        redriven,
        rerouted: None,
        mirror: None,
    }))
}

fn dead(place: DeadPlace, reason: &str) -> Record {
    Record::Dead(Box::new(DeadLetter {
        seq: 1,
        message: message("chat.a"),
        place,
        reason: reason.to_owned(),
        at: DeadSource::None,
        attempts: 1,
        first_failure: UnixMillis(1),
        last_failure: UnixMillis(1),
        error: String::new(),
    }))
}

// O-M1, M-G8
#[test]
fn each_record_is_counted_under_the_settings_of_its_topic() {
    let mut world = World::new();
    let stream = StreamId {
        unit: name("b"),
        relay: name("b-1"),
        epoch: 7,
    };
    let (topic, group) = (name("chat.a"), name("archive"));
    for record in [
        stored("chat.a", None, None),
        stored("chat.b", None, None),
        stored("chat.a", Some((stream.clone(), 1)), None),
        stored("chat.a", None, Some(3)),
        Record::Gap {
            unit: name("b"),
            seqs: (1, 5),
            reason: GapReason::Purged,
            counts: vec![(topic.clone(), 3)],
        },
        Record::Settled {
            topic: topic.clone(),
            group: group.clone(),
            seqs: vec![(1, 2), (4, 4)],
            reason: Some(GapReason::Expired),
        },
        Record::Settled {
            topic: topic.clone(),
            group: group.clone(),
            seqs: vec![(5, 6)],
            reason: None,
        },
        Record::Skipped {
            stream,
            seqs: (2, 4),
            reason: GapReason::Dropped,
        },
        Record::Attempt {
            topic: topic.clone(),
            group,
            seq: 9,
            failed: 1,
            not_before: UnixMillis(5),
            key: None,
        },
        dead(DeadPlace::Delivery, "attempts"),
        dead(DeadPlace::Link, "whatever a peer says"),
        Record::DeadGone {
            seqs: vec![(1, 2)],
            reason: GapReason::Expired,
        },
    ] {
        world.metrics.on_record(&record);
    }
    for series in [
        "strait_queue_accepted_total{topic=\"chat.*\"} 2",
        "strait_queue_accepted_bytes_total{topic=\"chat.*\"} 8",
        "strait_queue_received_total{dst_unit=\"a\",src_unit=\"b\",topic=\"chat.*\"} 1",
        "strait_redrive_moved_total 1",
        "strait_queue_removed_total{place=\"link\",reason=\"purged\",topic=\"chat.*\"} 3",
        "strait_queue_removed_total{place=\"delivery\",reason=\"expired\",topic=\"chat.*\"} 3",
        "strait_queue_removed_total{place=\"delivery\",reason=\"dead_lettered\",topic=\"chat.*\"} 1",
        "strait_queue_received_gaps_total{dst_unit=\"a\",reason=\"dropped\",src_unit=\"b\"} 3",
        "strait_queue_attempts_failed_total{group=\"archive\",topic=\"chat.*\"} 1",
        "strait_dead_letters_added_total{place=\"delivery\",reason=\"attempts\",topic=\"chat.*\"} 1",
        "strait_dead_letters_added_total{place=\"link\",reason=\"other\",topic=\"chat.*\"} 1",
        "strait_dead_letters_removed_total{reason=\"expired\"} 2",
    ] {
        world.check(series);
    }
}

// O-M1: what services and peers choose makes no new series.
#[test]
fn names_that_no_settings_know_share_one_series() {
    let mut world = World::new();
    for number in 0..10_000 {
        let (topic, group) = (name(&format!("chat.{number}")), name(&format!("g{number}")));
        world.metrics.on_duplicate(&topic);
        let age = Duration::from_secs(1);
        world.metrics.on_seen(&Seen::Delivered { topic, group, age });
    }
    world.check("strait_queue_duplicates_total{topic=\"chat.*\"} 10000");
    world.check("strait_queue_delivered_total{group=\"other\",topic=\"chat.*\"} 10000");
    let (topics, groups) = (&world.metrics.by_topic, &world.metrics.by_group);
    assert!(topics.places.len() <= RESOLVED_MAX && groups.places.len() <= RESOLVED_MAX);
    assert_eq!((topics.all.len(), groups.all.len()), (1, 1));
    world.metrics.on_duplicate(&name("elsewhere"));
    world.check("strait_queue_duplicates_total{topic=\"other\"} 1");
}

#[test]
fn what_the_parts_notice_is_counted_by_lane_unit_and_group() {
    let mut world = World::new();
    let (unit, topic, group) = (name("b"), name("chat.a"), name("archive"));
    let age = Duration::from_millis(20);
    for lane in [LaneKind::Live, LaneKind::Live, LaneKind::Backlog] {
        let (unit, topic) = (unit.clone(), topic.clone());
        world.metrics.on_seen(&Seen::Relayed { unit, topic, lane, age });
    }
    world.metrics.on_seen(&Seen::Redelivered { topic, group });
    world.metrics.on_seen(&Seen::Again { unit: unit.clone() });
    let time = Duration::from_millis(1500);
    world.metrics.on_seen(&Seen::Throttled { unit, time });
    for series in [
        "strait_queue_relayed_total{dst_unit=\"b\",lane=\"live\",src_unit=\"a\",topic=\"chat.*\"} 2",
        "strait_queue_relayed_total{dst_unit=\"b\",lane=\"backlog\",src_unit=\"a\",topic=\"chat.*\"} 1",
        "strait_queue_relay_duration_seconds_count{dst_unit=\"b\",lane=\"live\",src_unit=\"a\"} 2",
        "strait_queue_redelivered_total{group=\"archive\",topic=\"chat.*\"} 1",
        "strait_queue_received_duplicates_total{dst_unit=\"a\",src_unit=\"b\"} 1",
        "strait_replay_throttled_seconds_total{dst_unit=\"b\",src_unit=\"a\"} 1.5",
    ] {
        world.check(series);
    }
}

fn status() -> Status {
    Status {
        durability: "buffered".to_owned(),
        bytes_used: 5,
        bytes_max: 10,
        segments: 2,
        disk: "low".to_owned(),
        units: vec![UnitStatus {
            unit: "b".to_owned(),
            state: "stalled".to_owned(),
            live: 1,
            backlog: 7,
            oldest_ms: Some(2500),
            limits: LimitValues {
                messages_per_second: 50.0,
                ..LimitValues::default()
            },
            ..UnitStatus::default()
        }],
        groups: ["archive", "x", "y"].map(group).into(),
        dead_by_reason: vec![("loop".to_owned(), 2), ("odd".to_owned(), 1), ("odder".to_owned(), 3)],
        damaged: vec!["segment 3".to_owned()],
        ..Status::default()
    }
}

fn group(group: &str) -> GroupStatus {
    GroupStatus {
        topic: "chat.a".to_owned(),
        group: group.to_owned(),
        pending: 4,
        blocked_keys: 1,
        ..GroupStatus::default()
    }
}

// M-G1, M-A5, O-M1
#[test]
fn the_status_is_shown_and_what_is_gone_disappears() {
    let mut world = World::new();
    world.metrics.on_status(&status());
    world.metrics.on_groups(&status().groups);
    for series in [
        "strait_queue_link_state{dst_unit=\"b\",src_unit=\"a\",state=\"stalled\"} 1",
        "strait_queue_link_state{dst_unit=\"b\",src_unit=\"a\",state=\"live\"} 0",
        "strait_queue_backlog_messages{dst_unit=\"b\",src_unit=\"a\"} 7",
        "strait_queue_oldest_age_seconds{dst_unit=\"b\",src_unit=\"a\"} 2.5",
        "strait_replay_limit_messages_per_second{dst_unit=\"b\",src_unit=\"a\"} 50",
        "strait_replay_eta_seconds{dst_unit=\"b\",src_unit=\"a\"} -1",
        "strait_queue_group_messages{group=\"archive\",state=\"pending\",topic=\"chat.*\"} 4",
        "strait_queue_group_messages{group=\"other\",state=\"pending\",topic=\"chat.*\"} 8",
        "strait_queue_group_blocked_keys{group=\"other\",topic=\"chat.*\"} 2",
        "strait_dead_letters_messages{reason=\"loop\"} 2",
        "strait_dead_letters_messages{reason=\"other\"} 4",
        "strait_queue_disk_level{level=\"low\"} 1",
        "strait_queue_disk_level{level=\"ok\"} 0",
        "strait_queue_durability_buffered 1",
        "strait_queue_damaged_ranges 1",
        "strait_queue_used_bytes 5",
    ] {
        world.check(series);
    }
    let mut later = status();
    later.units.clear();
    later.groups.truncate(1);
    later.dead_by_reason.clear();
    world.metrics.on_status(&later);
    world.metrics.on_groups(&later.groups);
    assert_eq!(world.series("dst_unit=\"b\""), Vec::<String>::new());
    assert_eq!(world.series("strait_queue_group_blocked_keys").len(), 1);
    world.check("strait_dead_letters_messages{reason=\"loop\"} 0");
}

// M-F2, M-G8
#[test]
fn redrives_and_audits_are_summed_up() {
    let mut world = World::new();
    let task = |state: &str, remaining| RedriveStatus {
        state: state.to_owned(),
        remaining,
        ..RedriveStatus::default()
    };
    world
        .metrics
        .on_redrives(&[task("running", 5), task("paused", 2), task("done", 9)]);
    world.check("strait_redrive_remaining_messages 7");
    world.check("strait_redrive_tasks{state=\"running\"} 1");
    let row = |difference| AuditRow {
        difference,
        ..AuditRow::default()
    };
    world.metrics.on_audit(&[row(-2), row(0), row(3)]);
    world.check("strait_queue_audit_difference_messages 5");
    // What the log showed is not forgotten because memory is right.
    world.metrics.on_books(0);
    world.check("strait_queue_audit_difference_messages 5");
    world.metrics.on_audit(&[row(0)]);
    world.metrics.on_books(2);
    world.check("strait_queue_audit_difference_messages 2");
}

// M-A5: what shares a sync is one batch.
#[test]
fn records_that_share_a_sync_are_counted_together() {
    let mut world = World::new();
    let time = Duration::from_millis(3);
    world.metrics.on_appended((5, 500), time, None);
    world.metrics.on_appended((3, 300), time, Some(time));
    for series in [
        "strait_queue_append_duration_seconds_count 2",
        "strait_queue_sync_duration_seconds_count 1",
        "strait_queue_batch_records_sum 8",
        "strait_queue_batch_records_count 1",
        "strait_queue_batch_bytes_sum 800",
    ] {
        world.check(series);
    }
}
