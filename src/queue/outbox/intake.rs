//! What comes in: room for it, its number, and whether it is live.

use std::time::Duration;

use super::backlog::{WINDOW_OPEN, Waiting};
use super::ends::NO_BYTES;
use super::keys::NO_KEY;
use super::live::Entry;
use super::topics::{TopicId, UNKNOWN};
use super::{GENERAL, Outbox};
use crate::model::{Message, Seq, Topic};
use crate::queue::effects::{Effects, Now};
use crate::queue::planted::{Bug, planted};
use crate::queue::{Overflow, TopicSettings};

/// A topic is full (M-E3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Full {
    /// What is used up.
    pub detail: String,
    /// Not again before.
    pub pushback: Duration,
}

impl Outbox {
    /// Whether a message of a topic may come in. Call [`assign`](Self::assign) next if it does.
    ///
    /// # Errors
    /// [`Full`] if the topic has used up what it may, and makes no room by itself.
    pub fn admit(&mut self, topic: &Topic, settings: &TopicSettings, bytes: usize) -> Result<(), Full> {
        self.granted = None;
        let (bytes_max, messages_max) = (settings.bytes_max.as_u64(), settings.messages_max);
        if bytes_max == 0 && messages_max == 0 {
            return Ok(());
        }
        let id = self.known(topic);
        let state = self.topics.at(id);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let messages = state.waiting() + state.promised.0 + 1;
        let all_bytes = (state.bytes + state.promised.1).saturating_add(bytes);
        // Room is made after the new message is stored; how far that may lag behind is bounded too.
        let slack = |max: u64, least: u64| match settings.overflow {
            Overflow::DropOldest => max.saturating_add((max / 4).max(least)),
            Overflow::RejectNew => max,
        };
        let full = |what: &str, max: u64| Full {
            detail: format!("topic {topic} has used up its {what} ({max}) for unit {}", self.unit),
            pushback: PUSHBACK,
        };
        if messages_max > 0 && messages > slack(messages_max, SLACK_MESSAGES) {
            return Err(full("messages_max", messages_max));
        }
        if bytes_max > 0 && all_bytes > slack(bytes_max, SLACK_BYTES) {
            return Err(full("bytes_max", bytes_max));
        }
        self.granted = Some((id, bytes));
        Ok(())
    }

    /// The number of the next message. It counts once `on_stored` is called with it.
    pub fn assign(&mut self) -> Seq {
        self.assigned += 1;
        if let Some((topic, bytes)) = self.granted.take() {
            let promised = &mut self.topics.at_mut(topic).promised;
            *promised = (promised.0 + 1, promised.1 + bytes);
            self.promised.push_back((self.assigned, topic, bytes));
        }
        self.assigned
    }

    /// The disk failed: numbers that are not on it are taken back, and what was to be written about messages is lost.
    pub fn rollback(&mut self) {
        self.assigned = self.last_stored;
        self.granted = None;
        for (_, topic, _) in self.promised.drain(..) {
            self.topics.at_mut(topic).promised = (0, 0);
        }
        self.unwritten = self.wished.keys().copied().collect();
        self.homes.rollback();
        self.clamp_moves();
    }

    /// A message is on disk.
    pub fn on_stored(&mut self, now: Now, seq: Seq, message: &Message, tell_delivered: bool, _fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        if seq <= self.last_stored {
            return;
        }
        self.on_given(seq - 1);
        self.last_stored = seq;
        self.assigned = self.assigned.max(seq);
        self.keep_promise(seq);
        let topic = self.known(&message.topic);
        let bytes = message.bytes();
        if let Some(deadline) = message.deadline {
            self.sweep.expect(deadline);
        }
        let home = self.home_key(topic, message);
        if home != NO_KEY {
            self.homes.on_stored(seq, home, message.routed, self.config.keys_max);
        }
        if !self.stops.is_empty() {
            self.on_key_stored(seq, self.topics.at(topic).key_of(message), message);
        }
        let state = self.topics.at_mut(topic);
        state.books.accepted += 1;
        state.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.may_go_live(topic, message, bytes) {
            self.topics.at_mut(topic).live += 1;
            self.live.push(Entry {
                seq,
                topic,
                bytes,
                tell: tell_delivered,
                since: now.mono,
                message: message.clone(),
            });
        } else {
            self.store_backlog(seq, topic, message);
            if tell_delivered && self.tell.len() < TELL_MAX {
                self.tell.insert(seq);
            }
        }
        if self.topics.at(topic).is_over() {
            self.sweep.over.insert(topic);
        }
    }

    /// The place of a topic, with all that is known about it.
    pub(super) fn known(&mut self, topic: &Topic) -> TopicId {
        let (id, new) = self.topics.place(topic);
        if new {
            self.place(id);
        }
        id
    }

    /// What a message counts as in `homes`. One that was redriven has lost its place among the others of its key (M-C4).
    pub(super) fn home_key(&self, topic: TopicId, message: &Message) -> u64 {
        if message.routed > 0 && message.redrives == 0 {
            self.topics.at(topic).key_of(message)
        } else {
            NO_KEY
        }
    }

    fn may_go_live(&self, topic: TopicId, message: &Message, bytes: usize) -> bool {
        let state = self.topics.at(topic);
        let room = self.live.len() == 0 || self.live.bytes() + bytes <= self.config.live_bytes_max;
        // What was redriven goes with the backlog, so that its limits hold for it (M-F3).
        if !room
            || message.redrives > 0
            || state.stops()
            || self.paused().is_some()
            || self.foreign
            || !self.open_live_lane()
            || (!self.stops.is_empty() && self.stops.contains_key(&state.key_of(message)))
        {
            return false;
        }
        let cursor = self.cursors.get(&state.cursor);
        if cursor.is_some_and(|cursor| cursor.window != WINDOW_OPEN) {
            return false;
        }
        cursor.map(|cursor| &cursor.keys).is_none_or(|keys| {
            keys.is_empty() || planted(Bug::KeyLaneForgotten) || {
                let hash = state.key_of(message);
                hash == NO_KEY || !keys.is_behind(hash)
            }
        })
    }

    fn store_backlog(&mut self, seq: Seq, topic: TopicId, message: &Message) {
        let room = self.has_room_for_keys();
        let open = self.open_backlog_lane();
        let state = self.topics.at_mut(topic);
        state.backlog += 1;
        let hash = state.key_of(message);
        let cursor = self.cursor_of(topic);
        if cursor.pending == 0 {
            cursor.oldest = message.accepted_at;
        }
        cursor.keys.add(hash, room);
        let caught_up = cursor.grow(seq);
        // It need not be read back if it will be wanted soon.
        if caught_up && open && !cursor.paused && cursor.wants_more() {
            cursor.pass(Waiting {
                seq,
                topic,
                bytes: message.bytes(),
                hash,
                void: false,
                message: message.clone(),
            });
        }
    }

    /// Numbers up to this one were given. Those that are not known are of messages whose records are damaged: reading them
    /// back will find nothing. They are not given again, for a peer may have them.
    pub fn on_given(&mut self, seq: Seq) {
        if seq <= self.last_stored {
            return;
        }
        let from = self.last_stored + 1;
        let count = seq - self.last_stored;
        self.last_stored = seq;
        self.assigned = self.assigned.max(seq);
        let state = self.topics.at_mut(UNKNOWN);
        state.books.accepted += count;
        state.backlog += count;
        if let Some(general) = self.cursors.get_mut(&GENERAL) {
            general.grow(from);
            general.pending += count - 1;
        }
    }

    fn keep_promise(&mut self, seq: Seq) {
        while let Some((number, topic, bytes)) = self.promised.front().copied()
            && number <= seq
        {
            self.promised.pop_front();
            let promised = &mut self.topics.at_mut(topic).promised;
            *promised = (promised.0.saturating_sub(1), promised.1.saturating_sub(bytes));
        }
    }

    /// Live messages join the backlog: those that have not been sent for too long, and all later ones of their keys.
    pub(super) fn demote(&mut self, now: Duration) {
        let after = self.config.backlog_after;
        let old = |entry: &Entry| entry.since + after <= now;
        if !self.live.next().is_some_and(old) {
            return;
        }
        let mut keys = std::collections::BTreeSet::new();
        let topics = &self.topics;
        let entries = self.live.take_unsent(|entry| {
            let hash = topics.at(entry.topic).key_of(&entry.message);
            let goes = old(entry) || (hash != NO_KEY && keys.contains(&hash));
            if goes && hash != NO_KEY {
                keys.insert(hash);
            }
            goes
        });
        self.join_backlog(entries);
    }

    /// These were live and are not any more.
    pub(super) fn join_backlog(&mut self, entries: Vec<Entry>) {
        let mut first = std::collections::BTreeMap::new();
        for entry in entries {
            if self.void.remove(&entry.seq) {
                continue;
            }
            if let Some(deadline) = entry.message.deadline {
                self.sweep.expect(deadline);
            }
            let room = self.has_room_for_keys();
            let state = self.topics.at_mut(entry.topic);
            state.live -= 1;
            state.backlog += 1;
            let hash = state.key_of(&entry.message);
            first.entry(state.cursor).or_insert(entry.seq);
            let cursor = self.cursor_of(entry.topic);
            if cursor.pending == 0 {
                cursor.oldest = entry.message.accepted_at;
            }
            cursor.keys.add(hash, room);
            cursor.pending += 1;
            if entry.tell && self.tell.len() < TELL_MAX {
                self.tell.insert(entry.seq);
            }
        }
        for (number, seq) in first {
            if let Some(cursor) = self.cursors.get_mut(&number) {
                cursor.go_back(seq, self.last_stored);
            }
        }
    }

    /// Bytes of a message leave a topic.
    pub(super) fn lighten(&mut self, topic: TopicId, bytes: usize) {
        let state = self.topics.at_mut(topic);
        state.bytes = match state.waiting() {
            0 => NO_BYTES,
            _ => state.bytes.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX)),
        };
    }
}

/// Pushback of a publisher whose topic is full.
const PUSHBACK: Duration = Duration::from_millis(500);
/// A topic that drops its oldest messages may have so many more for a moment, at least,
const SLACK_MESSAGES: u64 = 1024;
/// and so many bytes.
const SLACK_BYTES: u64 = 4 << 20;
/// Messages of the backlog whose publishers wait until they are delivered; the others learn it from the deadline.
const TELL_MAX: usize = 100_000;
