//! Messages that the unit does not take now because their topic is full there: they go back to the backlog, and the topic rests.
//!
//! # Invariants
//! - Z1. A topic that rests goes on no lane, all others do (M-C3). What it has in the live window joins the backlog, so that
//!   keys keep their order (O2, M-C1).
//! - Z2. So many topics that there are [`CURSORS_MAX`] cursors cost more: further ones rest together with the whole general
//!   backlog; the live lane goes on all the same.
//! - Z3. After a rest one message is tried, and each one that is taken lets one more go: a topic that stays full costs the
//!   link little.

use std::collections::BTreeSet;
use std::time::Duration;

use super::backlog::{GENERAL, WINDOW_OPEN, Waiting};
use super::keys::NO_KEY;
use super::live::Entry;
use super::send::Wake;
use super::topics::{State, TopicId, UNKNOWN};
use super::{Cursor, Outbox};

/// Messages of a batch that are to be sent again.
#[derive(Debug, Default)]
pub(super) struct Later {
    live: Vec<Entry>,
    backlog: Vec<Waiting>,
}

impl Later {
    /// One of the live window, in which it is no more.
    pub(super) fn live(&mut self, entry: Entry) {
        self.live.push(entry);
    }

    /// One of the backlog, which is not on its way any more.
    pub(super) fn backlog(&mut self, waiting: Waiting) {
        self.backlog.push(waiting);
    }
}

impl Outbox {
    /// The unit does not take these now.
    pub(super) fn put_off(&mut self, now: Duration, later: Later) {
        let live = later.live.iter().map(|entry| entry.topic);
        let backlog = later.backlog.iter().map(|waiting| waiting.topic);
        let topics: BTreeSet<TopicId> = live.chain(backlog).collect();
        for topic in topics {
            self.rest(now, topic);
        }
        self.join_backlog(later.live);
        for waiting in later.backlog {
            let (rests, last) = (self.resting.contains_key(&waiting.topic), self.last_stored);
            let cursor = self.cursor_of(waiting.topic);
            if rests {
                cursor.take_back(waiting, last);
            } else {
                cursor.go_back(waiting.seq, last);
            }
        }
    }

    fn rest(&mut self, now: Duration, topic: TopicId) {
        let until = now + REST;
        let shares = self.topics.at(topic).cursor == GENERAL;
        if topic == UNKNOWN || (shares && self.cursors.len() >= CURSORS_MAX) {
            // The others of its cursor, which are read on after the rest, wait with it.
            self.cursor_of(topic).rest_until = until;
        } else {
            self.resting.insert(topic, until);
            self.topics.at_mut(topic).rests = true;
            self.place(topic);
            self.cursor_of(topic).window = 1;
        }
        let entries = self.live.take_unsent(|entry| entry.topic == topic);
        self.join_backlog(entries);
    }

    /// Topics that have rested long enough go on.
    pub(super) fn end_rests(&mut self, now: Duration, wake: &mut Wake) {
        let over = self.resting.iter().filter(|(_, until)| **until <= now);
        let over: Vec<TopicId> = over.map(|(topic, _)| *topic).collect();
        for topic in over {
            self.resting.remove(&topic);
            self.topics.at_mut(topic).rests = false;
            self.place(topic);
        }
        wake.at(self.resting.values().min().copied());
    }

    /// The live lane is gone: what has become later than something in the backlog joins it.
    pub(super) fn follow_keys(&mut self) {
        let (topics, cursors) = (&self.topics, &self.cursors);
        let behind = |state: &State, cursor: &Cursor, entry: &Entry| {
            let hash = state.key_of(&entry.message);
            state.rests || cursor.window != WINDOW_OPEN || (hash != NO_KEY && cursor.keys.is_behind(hash))
        };
        let entries = self.live.take_unsent(|entry| {
            let state = topics.at(entry.topic);
            let cursor = cursors.get(&state.cursor);
            cursor.is_some_and(|cursor| behind(state, cursor, entry))
        });
        self.join_backlog(entries);
    }

    /// What keeps messages waiting though the link is up, for a person; empty if nothing does.
    pub(super) fn full_there(&self) -> String {
        let topics: Vec<&str> = self
            .topics
            .iter()
            .filter(|state| state.rests)
            .map(|state| state.name.as_str())
            .take(NAMES_MAX)
            .collect();
        if topics.is_empty() {
            return String::new();
        }
        format!("full there: {}", topics.join(", "))
    }
}

/// A topic that was full is tried again after this.
const REST: Duration = Duration::from_millis(500);
/// Cursors, each of which reads the whole line, that topics get by being full.
const CURSORS_MAX: usize = 16;
/// Topics that are named.
const NAMES_MAX: usize = 5;
