//! Copies of what crossed a Geo's border (M-G5): a line for each topic, never delivered, gone by time or size.
//!
//! A copy is a number on the record of the message, so it costs nothing to write. Copies go a bucket at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Message, Seq, Topic, UnixMillis};
use crate::queue::MirrorSettings;

/// Copies of all topics.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    lines: BTreeMap<Topic, Line>,
}

/// What a checkpoint keeps.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct MirrorsSnapshot(Vec<(Topic, Line)>);

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Line {
    #[serde(skip)]
    coming: Seq,
    stored: Seq,
    gone: Seq,
    buckets: VecDeque<Bucket>,
}

/// Copies that go together.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Bucket {
    first_at: u64,
    last_at: u64,
    to: Seq,
    bytes: u64,
}

impl Mirrors {
    /// The number of the next copy of a topic.
    pub(super) fn assign(&mut self, topic: &Topic) -> Seq {
        if !self.lines.contains_key(topic) {
            self.lines.insert(topic.clone(), Line::default());
        }
        let line = self.lines.entry(topic.clone()).or_default();
        line.coming += 1;
        line.stored + line.coming
    }

    /// The disk failed: numbers that are not on it are given again.
    pub(super) fn rollback(&mut self) {
        for line in self.lines.values_mut() {
            line.coming = 0;
        }
    }

    /// A copy is on disk.
    pub(super) fn on_stored(&mut self, now: UnixMillis, seq: Seq, message: &Message) {
        let line = self.lines.entry(message.topic.clone()).or_default();
        if seq <= line.stored {
            return;
        }
        line.coming = line.coming.saturating_sub(seq - line.stored);
        line.stored = seq;
        let bytes = u64::try_from(message.bytes()).unwrap_or(u64::MAX);
        let fits =
            |bucket: &&mut Bucket| now.0 < bucket.first_at.saturating_add(BUCKET_MILLIS) && bucket.bytes < BUCKET_BYTES;
        match line.buckets.back_mut().filter(fits) {
            Some(bucket) => {
                bucket.last_at = bucket.last_at.max(now.0);
                bucket.to = seq;
                bucket.bytes = bucket.bytes.saturating_add(bytes);
            }
            None => line.buckets.push_back(Bucket {
                first_at: now.0,
                last_at: now.0,
                to: seq,
                bytes,
            }),
        }
    }

    /// Copies go whose time is over, and the oldest if there are too many.
    pub(super) fn expire(&mut self, now: UnixMillis, settings: &MirrorSettings) {
        let retention = millis(settings.retention);
        for line in self.lines.values_mut() {
            let mut bytes: u64 = line.buckets.iter().map(|bucket| bucket.bytes).sum();
            let is_over = |bucket: &Bucket, bytes: u64| {
                bucket.last_at.saturating_add(retention) <= now.0 || bytes > settings.bytes_max.as_u64()
            };
            while let Some(bucket) = line.buckets.front().copied().filter(|bucket| is_over(bucket, bytes)) {
                bytes = bytes.saturating_sub(bucket.bytes);
                line.gone = bucket.to;
                line.buckets.pop_front();
            }
        }
    }

    /// How many copies from `from` to `to`, both included, are gone.
    pub(super) fn done_between(&self, topic: &Topic, from: Seq, to: Seq) -> u64 {
        let gone = self.lines.get(topic).map_or(0, |line| line.gone);
        (to.min(gone) + 1).saturating_sub(from)
    }

    /// Whether a copy is gone.
    pub(super) fn is_done(&self, topic: &Topic, seq: Seq) -> bool {
        self.lines.get(topic).is_some_and(|line| seq <= line.gone)
    }

    /// The first copy of a topic that is there, and the last one.
    pub(super) fn span(&self, topic: &Topic) -> (Seq, Seq) {
        self.lines
            .get(topic)
            .map_or((1, 0), |line| (line.gone + 1, line.stored))
    }

    /// For a checkpoint.
    pub(super) fn snapshot(&self) -> MirrorsSnapshot {
        MirrorsSnapshot(
            self.lines
                .iter()
                .map(|(topic, line)| (topic.clone(), line.clone()))
                .collect(),
        )
    }

    /// From a checkpoint.
    pub(super) fn restore(&mut self, snapshot: MirrorsSnapshot) {
        self.lines = snapshot.0.into_iter().collect();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const BUCKET_MILLIS: u64 = 600_000;
const BUCKET_BYTES: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{ByteSize, Metadata, Name};

    #[test]
    fn copies_go_by_age_and_by_size() {
        // M-G5
        let topic = Name::new("t").unwrap();
        let message = Message {
            id: "a/r/0000000000000001/1".parse().unwrap(),
            topic: topic.clone(),
            key: None,
            accepted_at: UnixMillis(0),
            deadline: None,
            visited: Vec::new(),
            redrives: 0,
            routed: 0,
            attributes: Metadata::default(),
            body: Bytes::from(vec![0; 1 << 20]),
        };
        let settings = MirrorSettings {
            retention: Duration::from_secs(3600),
            bytes_max: ByteSize::mib(64),
        };
        let mut mirrors = Mirrors::default();
        for n in 1..=100 {
            assert_eq!(mirrors.assign(&topic), n);
            mirrors.on_stored(UnixMillis(n * 1000), n, &message);
        }
        mirrors.expire(UnixMillis(100_000), &settings);
        let gone = mirrors.done_between(&topic, 1, 100);
        assert!((36..60).contains(&gone), "{gone}");
        mirrors.expire(UnixMillis(3_700_000), &settings);
        assert_eq!(mirrors.done_between(&topic, 1, 100), 100);
        assert!(mirrors.is_done(&topic, 100) && !mirrors.is_done(&topic, 101));
    }
}
