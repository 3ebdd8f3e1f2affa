//! Reading the backlog, and keeping its cursors in order.

use std::collections::BTreeSet;
use std::time::Duration;

use super::backlog::{AHEAD_BYTES, Cursor, GENERAL, MOVING, SWEEP, WINDOW_OPEN, Waiting};
use super::ends::{Ending, From};
use super::pace::is_limited;
use super::send::Wake;
use super::topics::{Rules, TopicId};
use super::{Outbox, topics};
use crate::model::{Message, Seq};
use crate::queue::effects::{Effects, Now, ReadBack, Reader};

impl Outbox {
    /// A read came back.
    pub fn on_read(&mut self, now: Now, cursor: u32, read: ReadBack, fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        if cursor == SWEEP {
            self.on_swept(now, read);
        } else if cursor == MOVING {
            self.on_moving_read(now, read);
        } else {
            self.on_backlog_read(now, cursor, read);
        }
        self.settle(now.mono, fx);
    }

    fn on_backlog_read(&mut self, now: Now, number: u32, read: ReadBack) {
        let Some(cursor) = self.cursors.get_mut(&number) else {
            return;
        };
        if read.failed {
            cursor.rest_until = now.mono + READ_AGAIN;
        }
        let down = cursor.is_down();
        let Some((from, to)) = cursor.arrived(read.from, read.next, read.failed) else {
            return;
        };
        // Going down, some ranges may be read twice.
        let mut held = BTreeSet::new();
        if down {
            held.extend(cursor.buffer().iter().map(|waiting| waiting.seq));
        }
        let mut next = from;
        let mut waiting = Vec::new();
        for (seq, message) in read.found {
            if seq < next || seq > to {
                continue;
            }
            if seq > next {
                self.corrupt(next, seq - 1);
            }
            next = seq + 1;
            if !held.contains(&seq) {
                waiting.extend(self.wanted(now, number, seq, message));
            }
        }
        if next <= to {
            self.corrupt(next, to);
        }
        if down {
            waiting.reverse();
        }
        if let Some(cursor) = self.cursors.get_mut(&number) {
            for waiting in waiting {
                cursor.push(waiting);
            }
        }
    }

    /// Whether a message that was read is one of this cursor.
    fn wanted(&mut self, now: Now, number: u32, seq: Seq, message: Message) -> Option<Waiting> {
        if !self.is_open(seq) || self.flying.contains(&seq) || self.live.find(seq).is_some() {
            return None;
        }
        let topic = self.known(&message.topic);
        let state = self.topics.at(topic);
        if state.cursor != number {
            return None;
        }
        let waiting = Waiting {
            seq,
            topic,
            bytes: message.bytes(),
            hash: state.key_of(&message),
            void: false,
            message,
        };
        if waiting.message.is_expired(now.wall) {
            self.expire(now, Ending::of(&waiting), From::Backlog, waiting.message);
            return None;
        }
        Some(waiting)
    }

    pub(super) fn read_ahead(&mut self, now: Duration, fx: &mut Effects, wake: &mut Wake) {
        if self.paused().is_some() || !self.open_backlog_lane() || self.wished.len() > WISHES_MAX {
            return;
        }
        for (number, cursor) in &mut self.cursors {
            if cursor.paused {
                continue;
            }
            if let Some(wanted) = cursor.wants(now, self.last_stored) {
                let reader = Reader::Outbox {
                    unit: self.unit.clone(),
                    cursor: *number,
                };
                fx.read(reader, self.line, wanted.from, wanted.messages_max, AHEAD_BYTES / 2);
            }
            if cursor.rest_until > now {
                wake.at(cursor.rest_until);
            }
        }
    }

    /// Cursors that have nothing left begin anew or go.
    pub(super) fn tidy(&mut self) {
        let is_empty = || self.topics.iter().all(|topic| topic.waiting() == 0);
        if self.homes.wants_clear() && self.assigned == self.last_stored && is_empty() {
            self.homes.clear();
        }
        let numbers: Vec<u32> = self.cursors.keys().copied().collect();
        for number in numbers {
            let room = self.config.keys_max;
            let last = self.last_stored;
            let Some(cursor) = self.cursors.get_mut(&number) else {
                continue;
            };
            let is_through = cursor.pending > 0 && cursor.is_through(last);
            let wants_recount = cursor.keys.wants_recount() && cursor.is_at_hand() && cursor.pending > 0;
            if is_through && !self.stops_on(number) {
                self.write_off(number);
            } else if wants_recount {
                self.recount(number, room);
            }
            let Some(cursor) = self.cursors.get_mut(&number) else {
                continue;
            };
            if cursor.pending > 0 || cursor.ending > 0 {
                continue;
            }
            if !cursor.keys.is_empty() || cursor.keys.wants_recount() {
                cursor.keys.clear();
            }
            if cursor.topic.is_none_or(|topic| !self.topics.at(topic).rests) {
                cursor.window = WINDOW_OPEN;
            }
            if let Some(topic) = cursor.topic.filter(|_| cursor.retiring) {
                self.cursors.remove(&number);
                self.topics.at_mut(topic).cursor = GENERAL;
            }
        }
    }

    /// Everything was looked at: what is still counted was damaged, and ended under the name of an unknown topic.
    fn write_off(&mut self, number: u32) {
        for state in self.topics.iter_mut().filter(|state| state.cursor == number) {
            state.backlog = 0;
            if state.waiting() == 0 {
                state.bytes = 0;
            }
        }
        if let Some(cursor) = self.cursors.get_mut(&number) {
            cursor.pending = 0;
        }
    }

    /// All of the backlog is in memory: which keys are in it can be told exactly again.
    fn recount(&mut self, number: u32, keys_max: usize) {
        let of_cursor = |topic: TopicId| self.topics.at(topic).cursor == number;
        let lanes = self.backlog_lane.iter().flat_map(super::Lane::waiting);
        let flying = lanes.filter(|waiting| self.flying.contains(&waiting.seq) && of_cursor(waiting.topic));
        let wished = self.wished.values().filter(|wish| of_cursor(wish.topic));
        let mut hashes: Vec<u64> = flying
            .map(|waiting| waiting.hash)
            .chain(wished.map(|wish| wish.hash))
            .collect();
        let Some(cursor) = self.cursors.get_mut(&number) else {
            return;
        };
        let held = cursor.buffer().iter().filter(|waiting| !waiting.void);
        hashes.extend(held.map(|waiting| waiting.hash));
        if hashes.len() > keys_max {
            return;
        }
        cursor.keys.clear();
        for hash in hashes {
            cursor.keys.add(hash, true);
        }
    }

    /// Settings, limits or a pause of a topic have changed, or it is new: which cursor reads it?
    pub(super) fn place(&mut self, topic: TopicId) {
        let name = self.topics.at(topic).name.clone();
        let rules = Rules::of(&self.config.topics, &name);
        let limits = self.topic_limits.get(&name).or(self.config.topic_limits.get(&name));
        let limits = limits.copied().unwrap_or_default();
        let state = self.topics.at_mut(topic);
        let unsorted = rules.ordered && !state.rules.ordered && state.backlog > 0;
        state.rules = rules;
        let wants_own = topic != topics::UNKNOWN && (state.stops() || rules.newest_first || is_limited(&limits));
        let (number, paused) = (state.cursor, state.stops());
        let fits = match self.cursors.get(&number) {
            Some(cursor) if number != GENERAL => cursor.is_down() == rules.newest_first,
            _ => !wants_own,
        };
        if !fits {
            self.give_cursor(topic, rules.newest_first);
        }
        let clock = self.clock;
        let cursor = self.cursor_of(topic);
        if unsorted {
            cursor.keys.set_coarse();
        }
        if cursor.topic == Some(topic) {
            cursor.paused = paused;
            cursor.retiring = !wants_own;
            cursor.pace.set(clock, limits);
        }
    }

    /// A topic gets a cursor for itself. What is on its way stays there.
    fn give_cursor(&mut self, topic: TopicId, newest_first: bool) {
        let low = self.ledger.done.next_open(1);
        let mut cursor = Cursor::new(Some(topic), newest_first, low, self.last_stored);
        let flying = self.backlog_lane.iter().flat_map(super::Lane::waiting);
        let flying = flying.filter(|waiting| waiting.topic == topic && self.flying.contains(&waiting.seq));
        let bytes: usize = flying.map(|waiting| waiting.bytes).sum();
        let number = self.next_cursor;
        self.next_cursor += 1;
        let state = self.topics.at_mut(topic);
        let before = std::mem::replace(&mut state.cursor, number);
        cursor.pending = state.backlog;
        cursor.flying = state.flying;
        cursor.flying_bytes = bytes;
        cursor.ending = state.ending;
        if cursor.pending > 0 || cursor.ending > 0 {
            cursor.keys.set_coarse();
        }
        if let Some(old) = self.cursors.get_mut(&before) {
            cursor.oldest = old.oldest;
            old.pending = old.pending.saturating_sub(cursor.pending);
            old.flying -= cursor.flying;
            old.flying_bytes -= bytes;
            old.ending = old.ending.saturating_sub(cursor.ending);
            old.drop_topic(topic);
            old.keys.remove_some();
        }
        if before != GENERAL {
            self.cursors.remove(&before);
        }
        self.cursors.insert(number, cursor);
    }
}

/// A read that failed is made again after this.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// So many messages may end without their records being on disk; beyond, nothing is looked for.
pub(super) const WISHES_MAX: usize = 4096;
