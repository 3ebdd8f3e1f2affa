//! How many messages of some keys wait in the inbox: the queue's part of the barrier of a move (R-3.9, S2 and S4).
//!
//! # Invariants
//! - U1. All that was taken before a question counts, on disk or on its way there.
//! - U2. That none is left is said behind the records that say so: a restart does not deliver again what the answer spoke of.
//!   Nor does it bring back what a failed write left: while the disk fails there is no answer (J4 of `journal`). So when a key has
//!   moved, nothing of it comes to light here (M-G4).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::Engine;
use crate::model::{Seq, Topic};
use crate::queue::api::{Output, Question, Ticket};
use crate::queue::codec;
use crate::queue::jobs::slice;
use crate::queue::line::LineId;
use crate::queue::log::Scanned;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::Record;
use crate::queue::{Keys, TopicRule, TopicSettings};

/// Questions that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<u64, Search>,
    /// Reads name searches by numbers of their own: one that was withdrawn may be asked again while a read is under way.
    last: u64,
}

#[derive(Debug)]
struct Search {
    ticket: Ticket,
    keys: Arc<dyn Keys>,
    at_most: u64,
    /// Topics to be read: the next number and the last one.
    lines: VecDeque<(Topic, Seq, Seq)>,
    reading: bool,
    /// Messages that some group is not done with.
    left: BTreeMap<Topic, RoaringTreemap>,
}

impl Questions {
    /// Nobody wants to know any more.
    pub(super) fn withdraw(&mut self, ticket: Ticket) {
        self.open.retain(|_, search| search.ticket != ticket);
    }
}

impl Engine {
    pub(super) fn ask(&mut self, question: Question) {
        self.questions.withdraw(question.ticket);
        let topics = self.places.topics().into_iter();
        let owned = |topic: &Topic| {
            TopicSettings::of(&self.setup.topics, topic).is_some_and(|settings| settings.rule == TopicRule::Owner)
        };
        let inbox = &self.places.inbox;
        let lines = topics.filter(owned).map(|topic| {
            let (first, last) = inbox.span(&topic);
            (topic, first, last)
        });
        let search = Search {
            ticket: question.ticket,
            keys: question.keys,
            at_most: question.at_most,
            lines: if planted(Bug::BarrierOpen) {
                VecDeque::new()
            } else {
                lines.collect()
            },
            reading: false,
            left: BTreeMap::new(),
        };
        self.questions.last += 1;
        self.questions.open.insert(self.questions.last, search);
    }

    /// Goes on with all questions, and answers those that can be.
    pub(super) fn answer_questions(&mut self) {
        if self.questions.open.is_empty() {
            return;
        }
        let mut open = std::mem::take(&mut self.questions.open);
        open.retain(|number, search| !self.go_on_searching(*number, search));
        self.questions.open = open;
    }

    /// `true`: it is answered.
    fn go_on_searching(&mut self, number: u64, search: &mut Search) -> bool {
        if search.reading {
            return false;
        }
        while let Some((topic, next, last)) = search.lines.front() {
            let inbox = &self.places.inbox;
            // After a failure of the disk some numbers that were given are not any more.
            let last = (*last).min(inbox.span(topic).1);
            if *next > last {
                search.lines.pop_front();
            } else if inbox.last_stored(topic) < last {
                return false;
            } else {
                search.reading = true;
                let scan = slice(LineId::inbox(topic), *next);
                self.read_for(QUESTION_JOBS + number, scan);
                return false;
            }
        }
        let inbox = &self.places.inbox;
        search.left.retain(|topic, seqs| {
            if planted(Bug::BarrierForgetsParked) {
                let parked: Vec<Seq> = seqs.iter().filter(|seq| inbox.is_tried_again(topic, *seq)).collect();
                for seq in parked {
                    seqs.remove(seq);
                }
            }
            // Those behind the first one that is left count: it may hold them up.
            while let Some(seq) = seqs.min().filter(|seq| inbox.is_done(topic, *seq)) {
                seqs.remove(seq);
            }
            !seqs.is_empty()
        });
        let messages = search.left.values().map(RoaringTreemap::len).sum();
        if messages > search.at_most {
            return false;
        }
        if search.at_most == 0 {
            self.places.inbox.save(&mut self.fx);
        }
        let ticket = search.ticket;
        self.fx.then(Output::Undelivered { ticket, messages });
        self.absorb();
        true
    }

    /// A part of the inbox was read for a question.
    pub(super) fn on_question_read(&mut self, number: u64, result: Result<Scanned, String>) {
        let Some(search) = self.questions.open.get_mut(&number) else {
            return;
        };
        search.reading = false;
        // A read that failed is made again.
        let (Ok(scanned), Some((topic, next, last))) = (result, search.lines.front_mut()) else {
            return;
        };
        for (seq, found) in scanned.found {
            let Ok(Record::Stored(stored)) = codec::decode(found.kind, found.content) else {
                continue;
            };
            let counts = stored.message.key.as_ref().is_some_and(|key| search.keys.contains(key));
            if counts && seq <= *last && !self.places.inbox.is_done(topic, seq) {
                search.left.entry(topic.clone()).or_default().insert(seq);
            }
        }
        *next = scanned.next.unwrap_or(*last + 1);
    }
}

/// Jobs with such numbers are questions.
pub(super) const QUESTION_JOBS: u64 = 1 << 49;
