//! What must hold in a world.

use std::collections::{BTreeMap, BTreeSet};

use super::super::backlog::WINDOW_OPEN;
use super::world::{Pending, World};
use crate::model::{Message, Seq, Topic};
use crate::queue::TopicSettings;

impl World {
    /// Whether a message should go live at once (M-C2); `None`: it may, but need not.
    pub(super) fn expects_live(&self, message: &Message) -> Option<bool> {
        let outbox = &self.outbox;
        let id = outbox.topics.find(&message.topic)?;
        let topic = outbox.topics.at(id);
        let room = outbox.live.len() == 0
            || outbox.live.bytes() + message.bytes() <= self.setup.queue.live_bytes_max.as_usize();
        if !outbox.open_live_lane() || outbox.pause.is_some() || topic.stops() || !room {
            return Some(false);
        }
        // Its topic was full there, and has a backlog.
        if outbox.cursors[&topic.cursor].window != WINDOW_OPEN {
            return Some(false);
        }
        if message.key.is_none() || !topic.rules.ordered {
            return Some(true);
        }
        if outbox.stops.contains_key(&topic.key_of(message)) {
            return None;
        }
        let same_key = |other: &Message| other.topic == message.topic && other.key == message.key;
        let earlier = self.accepted.iter().filter(|(_, other)| same_key(other));
        let waits = |seq: Seq| outbox.is_open(seq) && outbox.live.find(seq).is_none();
        if earlier.clone().any(|(seq, _)| waits(*seq)) {
            return Some(false);
        }
        let undecided = earlier.clone().any(|(seq, _)| outbox.wished.contains_key(seq));
        let keys = &outbox.cursors[&topic.cursor].keys;
        (!keys.wants_recount() && !undecided).then_some(true)
    }

    /// First arrivals of each key are in the order of its numbers (M-C1).
    pub(super) fn check_order(&self) {
        let mut last: BTreeMap<(Topic, Vec<u8>), Seq> = BTreeMap::new();
        for (seq, lane) in &self.receiver.arrivals {
            let message = &self.accepted[seq];
            let rules = TopicSettings::of(&self.setup.topics, &message.topic);
            if let Some(key) = &message.key
                && rules.is_none_or(|rules| rules.ordered)
            {
                let before = last.insert((message.topic.clone(), key.key.to_vec()), *seq);
                assert!(
                    before < Some(*seq),
                    "{seq} came behind {before:?}, on the lane {lane:?}"
                );
            }
        }
    }

    /// Everything has an end, and is counted as that (M-G8).
    pub(super) fn check_books(&self) {
        let mut ends: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        let mut count = |topic: &Topic, what: &'static str, count: u64| {
            *ends
                .entry(topic.as_str().to_owned())
                .or_default()
                .entry(what)
                .or_default() += count;
        };
        let mut ended = BTreeSet::new();
        for record in &self.log {
            let (seqs, what) = match record {
                Pending::Gap(seqs, reason, _) => (*seqs, reason.as_str()),
                Pending::Dead(seq, _) => ((*seq, *seq), "dead_lettered"),
                Pending::Elsewhere(Some(seq), _) => ((*seq, *seq), "rerouted"),
                Pending::Elsewhere(None, _) | Pending::Relayed(..) | Pending::Stored(..) => continue,
            };
            for seq in seqs.0..=seqs.1 {
                assert!(ended.insert(seq), "{seq} ended twice");
                count(&self.accepted[&seq].topic, what, 1);
            }
        }
        let arrived: BTreeSet<Seq> = self.receiver.arrivals.iter().map(|(seq, _)| *seq).collect();
        for (seq, message) in &self.accepted {
            count(&message.topic, "accepted", 1);
            if !ended.contains(seq) {
                assert!(arrived.contains(seq), "{seq} is lost");
                count(&message.topic, "relayed", 1);
            }
        }
        for (topic, counts) in ends {
            let row = self.row(&topic);
            let of = |what: &str| counts.get(what).copied().unwrap_or_default();
            assert_eq!(row.accepted, of("accepted"), "{topic} {row:?}");
            assert_eq!(row.relayed, of("relayed"), "{topic} {row:?} {counts:?}");
            assert_eq!(row.expired, of("expired"), "{topic} {row:?}");
            assert_eq!(row.dropped, of("dropped"), "{topic} {row:?}");
            assert_eq!(row.purged, of("purged"), "{topic} {row:?}");
            assert_eq!(row.rerouted, of("rerouted"), "{topic} {row:?}");
            assert_eq!(row.dead_lettered, of("dead_lettered"), "{topic} {row:?}");
            assert_eq!(row.corrupted, of("corrupted"), "{topic} {row:?}");
        }
    }

    /// Nothing is left anywhere.
    pub(super) fn check_empty(&self) {
        let status = self.outbox.status(self.now);
        assert_eq!((status.live, status.backlog, status.bytes), (0, 0, 0), "{status:?}");
        assert_eq!((status.keys_behind, status.keys_coarse), (0, false));
        assert_eq!(self.undone(), 0);
        assert!(self.outbox.void.is_empty() && self.outbox.wished.is_empty() && self.outbox.flying.is_empty());
        for topic in self.outbox.topics.iter() {
            assert_eq!(
                (topic.live, topic.backlog, topic.flying, topic.ending),
                (0, 0, 0, 0),
                "{topic:?}"
            );
        }
        for cursor in self.outbox.cursors.values() {
            assert_eq!(
                (cursor.pending, cursor.flying, cursor.flying_bytes, cursor.ending),
                (0, 0, 0, 0)
            );
        }
        assert_eq!(
            self.receiver.seen.frontier(),
            self.outbox.last_stored(),
            "every number is told (M-G2)"
        );
    }
}
