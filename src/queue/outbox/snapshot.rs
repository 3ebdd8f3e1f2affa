//! The outbox as a checkpoint holds it, and what records change in it after a restart.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::Outbox;
use super::backlog::{Cursor, GENERAL};
use super::books::Books;
use super::homes::{Home, Homes};
use super::ledger::Ledger;
use super::stops::{Leaving, State, Stop};
use crate::model::{Seq, Topic, UnixMillis};
use crate::queue::line::Settled;
use crate::queue::operator::LimitValues;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::Pause;

/// State of an outbox. Records that were wanted before are in it; applied again, they change nothing (R2).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct OutboxSnapshot {
    epoch: u64,
    last_stored: Seq,
    done: Vec<u8>,
    /// What the peer must be told, by code of the reason.
    untold: Vec<(u8, Vec<u8>)>,
    topics: Vec<TopicSnapshot>,
    pause: Option<Pause>,
    limits: Option<LimitValues>,
    topic_limits: BTreeMap<Topic, LimitValues>,
    earliest_deadline: Option<u64>,
    oldest: Option<u64>,
    /// Keys with messages in the line, and whether they were too many.
    homes: (Vec<(u64, Home)>, bool),
    /// Keys on their way into other lines: hash, topic, first number, and where to.
    leaving: Vec<(u64, Topic, Seq, Leaving)>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct TopicSnapshot {
    name: Topic,
    books: Books,
    bytes: u64,
    paused: bool,
}

impl Outbox {
    /// Its state.
    pub fn snapshot(&self) -> OutboxSnapshot {
        let untold = self.ledger.all_untold().into_iter().map(|(code, seqs)| {
            let mut bytes = Vec::new();
            // Writing to a vector cannot fail.
            let _ = seqs.serialize_into(&mut bytes);
            (code, bytes)
        });
        let topics = self.topics.iter().map(|topic| TopicSnapshot {
            name: topic.name.clone(),
            books: topic.books,
            bytes: topic.bytes,
            paused: topic.paused,
        });
        OutboxSnapshot {
            epoch: self.epoch,
            last_stored: self.last_stored,
            done: self.ledger.done.to_bytes(),
            untold: untold.collect(),
            topics: topics.collect(),
            pause: self.pause.clone(),
            limits: self.limits,
            topic_limits: self.topic_limits.clone(),
            earliest_deadline: self.sweep.earliest.map(|earliest| earliest.0),
            oldest: self.oldest().map(|oldest| oldest.0),
            homes: self.homes.all(),
            leaving: self.all_leaving(),
        }
    }

    /// Takes the state of a snapshot; for an outbox that is new. Returns whether it could be read.
    pub fn restore(&mut self, snapshot: OutboxSnapshot) -> bool {
        let Some(done) = Settled::from_bytes(&snapshot.done) else {
            return false;
        };
        let mut untold = BTreeMap::new();
        for (code, bytes) in &snapshot.untold {
            let Ok(seqs) = RoaringTreemap::deserialize_from(bytes.as_slice()) else {
                return false;
            };
            untold.insert(*code, seqs);
        }
        self.epoch = snapshot.epoch;
        self.last_stored = snapshot.last_stored;
        self.assigned = snapshot.last_stored;
        self.ledger = Ledger::restored(done, untold);
        self.pause = snapshot.pause;
        self.limits = snapshot.limits;
        self.topic_limits = snapshot.topic_limits;
        self.sweep.earliest = snapshot.earliest_deadline.map(UnixMillis);
        let low = self.ledger.done.next_open(1);
        let mut general = Cursor::new(None, false, low, self.last_stored);
        general.oldest = UnixMillis(snapshot.oldest.unwrap_or_default());
        self.cursors = BTreeMap::from([(GENERAL, general)]);
        for topic in &snapshot.topics {
            self.restore_topic(topic);
        }
        self.put_limits();
        if !planted(Bug::MovesForgotten) {
            self.homes = Homes::restored(snapshot.homes.0, snapshot.homes.1);
            for (id, topic, first, leaving) in snapshot.leaving {
                let (topic, _) = self.topics.place(&topic);
                self.stops.insert(id, Stop::leaving(first, topic, leaving));
            }
        }
        true
    }

    fn all_leaving(&self) -> Vec<(u64, Topic, Seq, Leaving)> {
        let leaving = |(id, stop): (&u64, &Stop)| match &stop.state {
            State::Leaves(leaving) if leaving.begun => {
                let low = self.ledger.done.next_open(1);
                Some((*id, self.topics.at(stop.topic).name.clone(), low, leaving.clone()))
            }
            State::Leaves(_) | State::Tries | State::Waits(_) => None,
        };
        self.stops.iter().filter_map(leaving).collect()
    }

    fn restore_topic(&mut self, snapshot: &TopicSnapshot) {
        let (id, _) = self.topics.place(&snapshot.name);
        let state = self.topics.at_mut(id);
        state.books = snapshot.books;
        state.backlog = snapshot.books.open();
        state.bytes = if state.backlog == 0 { 0 } else { snapshot.bytes };
        state.paused = snapshot.paused;
        let backlog = state.backlog;
        if let Some(general) = self.cursors.get_mut(&GENERAL) {
            general.pending += backlog;
        }
        // Which keys the backlog has is not known: an ordered topic makes them wait.
        self.place(id);
    }

    /// A restart reads that a relay of the unit has these.
    pub fn on_relayed(&mut self, seqs: &[(Seq, Seq)], counts: &[(Topic, u64)]) {
        let mut new = 0;
        for (from, to) in seqs {
            self.on_given(*to);
            new += self.ledger.done.insert_range(*from, *to);
        }
        if new == 0 {
            return;
        }
        for (topic, count) in counts {
            let topic = self.known(topic);
            self.topics.at_mut(topic).books.relayed += count;
            self.forget_some(topic, *count);
        }
    }
}
