//! Keys whose messages do not go on for now, while all others do (M-C3): the unit says that a key is about to move, or that it has
//! moved.
//!
//! # How
//! What the unit did not take is the backlog again. Cursors leave out messages of a key that stops, and remember the lowest number
//! they left out. When the key goes on, they go back to it. What has moved is taken out of the line (`moving`).
//!
//! # Invariants
//! - S1. From the first message of a key that the unit did not take until the key goes on, nothing of it is sent; its live messages
//!   join the backlog. So it goes on in its order (M-C1).
//! - S2. A key that has moved goes on here only when nothing of it is left in the line (`moving`).
//! - S3. What counts as a key on a topic without order is a single message.
//! - S4. Waiting is no attempt: it never makes a dead letter (M-E1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Outbox;
use super::backlog::Waiting;
use super::keys::NO_KEY;
use super::later::Later;
use super::live::Entry;
use super::send::Wake;
use super::topics::TopicId;
use crate::model::{Message, Seq, UnitId};
use crate::queue::lanes::{FROZEN, FULL, LaneKind, MOVED, Refused};

/// Keys that stop, by [`id_of`].
pub(super) type Stops = BTreeMap<u64, Stop>;

/// A key that stops.
#[derive(Debug)]
pub(super) struct Stop {
    /// No lower number of it is to be sent or taken out.
    pub(super) first: Seq,
    pub(super) topic: TopicId,
    tries: u32,
    pub(super) state: State,
}

/// What becomes of it.
#[derive(Debug)]
pub(super) enum State {
    /// It has moved: its messages go into another line.
    Leaves(Leaving),
    /// It is tried again.
    Tries,
    /// It waits.
    Waits(Duration),
}

/// A key on its way into the line of another unit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Leaving {
    /// That unit,
    pub(super) to: UnitId,
    /// which owns it since this epoch.
    pub(super) epoch: u64,
    /// No higher number of the line is of the key.
    pub(super) last: Seq,
    /// Messages may leave: nothing of the key was on its way, and the key leaves no other line.
    pub(super) begun: bool,
    /// Messages that leave as soon as that is on disk.
    #[serde(skip)]
    pub(super) open: u64,
    /// All numbers up to the last one were looked at.
    #[serde(skip)]
    pub(super) through: bool,
}

impl Stop {
    /// One that has moved, of which numbers below `first` are done.
    pub(super) fn leaving(first: Seq, topic: TopicId, leaving: Leaving) -> Self {
        Self {
            first,
            topic,
            tries: 0,
            state: State::Leaves(leaving),
        }
    }
}

/// Messages of a landed batch that stop.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    live: Vec<Entry>,
    ids: BTreeSet<u64>,
    /// Those that rest with their topic.
    later: Later,
}

/// What a key is known by here: its hash, or a number for the one message whose order does not matter (S3).
pub(super) fn id_of(hash: u64, seq: Seq) -> u64 {
    if hash == NO_KEY {
        xxh3_64(&seq.to_be_bytes())
    } else {
        hash
    }
}

impl Stopped {
    /// A key stops.
    pub(super) fn add(&mut self, id: u64) {
        self.ids.insert(id);
    }
}

impl Outbox {
    /// Whether messages of a key are left out now. Remembers which one was.
    pub(super) fn leaves_out(&mut self, hash: u64, seq: Seq) -> bool {
        let Some(stop) = self.stops.get_mut(&id_of(hash, seq)) else {
            return false;
        };
        if matches!(stop.state, State::Tries) {
            return false;
        }
        stop.first = stop.first.min(seq);
        true
    }

    /// A live message was not taken. It goes on in time, but for those of which the unit has said that it will never take them.
    pub(super) fn stop_live(&mut self, now: Duration, entry: Entry, refused: &Refused, stopped: &mut Stopped) {
        let hash = self.topics.at(entry.topic).key_of(&entry.message);
        match self.stop(
            now,
            (id_of(hash, entry.seq), entry.seq),
            entry.topic,
            refused,
            &entry.message,
        ) {
            Some(id) => {
                stopped.ids.insert(id);
                stopped.live.push(entry);
            }
            None => stopped.later.live(entry),
        }
    }

    /// A message of the backlog was not taken; it is not on its way any more.
    pub(super) fn stop_backlog(&mut self, now: Duration, waiting: Waiting, refused: &Refused, stopped: &mut Stopped) {
        let id = id_of(waiting.hash, waiting.seq);
        match self.stop(now, (id, waiting.seq), waiting.topic, refused, &waiting.message) {
            Some(id) => _ = stopped.ids.insert(id),
            None => stopped.later.backlog(waiting),
        }
    }

    /// Whether a word of the unit says that a message is to come again, or goes elsewhere.
    pub(super) fn is_for_now(refused: &Refused) -> bool {
        matches!(refused.reason.as_str(), FROZEN | FULL | MOVED)
    }

    fn stop(
        &mut self,
        now: Duration,
        (id, seq): (u64, Seq),
        topic: TopicId,
        refused: &Refused,
        message: &Message,
    ) -> Option<u64> {
        if refused.reason == FULL {
            return None;
        }
        // Only what is news leads elsewhere (W1 of `ownership`).
        let owner = refused
            .owner()
            .filter(|(epoch, unit)| *epoch > message.routed && *unit != self.unit);
        self.stop_for(now, (id, seq), topic, owner).then_some(id)
    }

    /// A key stops: it leaves for its owner if one is named, by epoch and unit, else it waits. `false`: as many keys stop as may.
    pub(super) fn stop_for(
        &mut self,
        now: Duration,
        (id, seq): (u64, Seq),
        topic: TopicId,
        owner: Option<(u64, UnitId)>,
    ) -> bool {
        if !self.stops.contains_key(&id) && self.stops.len() >= STOPS_MAX {
            return false;
        }
        let last = self.assigned;
        let stop = self.stops.entry(id).or_insert(Stop {
            first: seq,
            topic,
            tries: 0,
            state: State::Tries,
        });
        stop.first = stop.first.min(seq);
        match (&stop.state, owner) {
            (State::Leaves(_), _) | (State::Waits(_), None) => {}
            (_, Some((epoch, to))) => {
                stop.state = State::Leaves(Leaving {
                    to,
                    epoch,
                    last,
                    begun: false,
                    open: 0,
                    through: false,
                });
            }
            (State::Tries, None) => {
                stop.state = State::Waits(now + (PAUSE * 2_u32.saturating_pow(stop.tries.min(5))).min(PAUSE_MAX));
                stop.tries += 1;
            }
        }
        true
    }

    /// All of a batch was looked at: live messages of keys that stop are the backlog now (S1).
    pub(super) fn put_stopped(&mut self, now: Duration, stopped: Stopped) {
        let Stopped { live, ids, later } = stopped;
        self.put_off(now, later);
        if ids.is_empty() {
            return;
        }
        self.join_backlog(live);
        let topics = &self.topics;
        let entries = self.live.take_unsent(|entry| {
            let hash = topics.at(entry.topic).key_of(&entry.message);
            hash != NO_KEY && ids.contains(&hash)
        });
        self.join_backlog(entries);
    }

    /// Keys that have waited long enough are tried again.
    pub(super) fn end_stops(&mut self, now: Duration, wake: &mut Wake) {
        if self.stops.is_empty() {
            return;
        }
        let mut again: Vec<(TopicId, Seq)> = Vec::new();
        for stop in self.stops.values_mut() {
            match stop.state {
                State::Waits(until) if until <= now => {
                    stop.state = State::Tries;
                    again.push((stop.topic, stop.first));
                }
                State::Waits(until) => wake.at(until),
                State::Leaves(_) | State::Tries => {}
            }
        }
        for (topic, first) in again {
            self.take_up(topic, first);
        }
    }

    /// A message was taken: its key goes on.
    pub(super) fn on_taken(&mut self, topic: TopicId, seq: Seq, message: &Message) {
        if message.routed == 0 {
            return;
        }
        let hash = self.topics.at(topic).key_of(message);
        self.homes.remove(self.home_key(topic, message));
        let id = id_of(hash, seq);
        if self
            .stops
            .get(&id)
            .is_some_and(|stop| matches!(stop.state, State::Tries))
        {
            self.stops.remove(&id);
        }
    }

    /// Cursors go back to what they left out.
    pub(super) fn take_up(&mut self, topic: TopicId, first: Seq) {
        let last = self.last_stored;
        self.cursor_of(topic).go_back(first, last);
    }

    /// Whether a cursor has left out something.
    pub(super) fn stops_on(&self, cursor: u32) -> bool {
        self.stops
            .values()
            .any(|stop| self.topics.at(stop.topic).cursor == cursor)
    }

    /// Keys on lanes.
    pub(super) fn flying_ids(&self) -> BTreeSet<u64> {
        let live = self.live.sent().map(|entry| {
            let hash = self.topics.at(entry.topic).key_of(&entry.message);
            id_of(hash, entry.seq)
        });
        let lanes = self.lanes().filter(|lane| lane.kind == LaneKind::Backlog);
        let backlog = lanes
            .flat_map(super::Lane::waiting)
            .map(|waiting| id_of(waiting.hash, waiting.seq));
        live.chain(backlog).collect()
    }
}

/// A key that is about to move is tried again after this, then after twice as long and so on,
const PAUSE: Duration = Duration::from_millis(100);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Keys that stop at a time; with more of them, the topics of the others rest as a whole.
pub(super) const STOPS_MAX: usize = 16_384;
