//! Looks through the line for messages that must go though they are not sent: the oldest of a topic that is too full (M-E3), and
//! expired ones while the unit is away (M-E2).
//!
//! # Invariants
//! - W1. What is on its way is left alone: it may be there already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Outbox;
use super::backlog::SWEEP;
use super::ends::{End, Ending, From};
use super::reads::WISHES_MAX;
use super::send::Wake;
use super::topics::TopicId;
use crate::model::{GapReason, Message, Seq, UnixMillis};
use crate::queue::effects::{Effects, Now, ReadBack, Reader};

/// State of the search.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Topics that may have too much, and drop their oldest.
    pub(super) over: BTreeSet<TopicId>,
    /// All lower numbers of a topic were looked at since it was last emptied.
    looked: BTreeMap<TopicId, Seq>,
    /// The earliest deadline of a message that waits, as far as known.
    pub(super) earliest: Option<UnixMillis>,
    run: Option<Run>,
    rest_until: Duration,
    expiry_again: Duration,
}

/// A way through the line.
#[derive(Clone, Copy, Debug)]
struct Run {
    next: Seq,
    /// Expired messages are sought: it goes on to the end.
    expired: bool,
    /// The last number that a read under way can find.
    reading: Option<Seq>,
}

impl Sweep {
    /// A message with a deadline waits.
    pub(super) fn expect(&mut self, deadline: UnixMillis) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }
}

impl Outbox {
    /// Begins or goes on with a search.
    pub(super) fn sweep(&mut self, now: Now, fx: &mut Effects, wake: &mut Wake) {
        let topics = &self.topics;
        self.sweep.over.retain(|topic| topics.at(*topic).is_over());
        // Of interest only if a message may expire. The cursors know; to ask each of many topics each time would cost more than the
        // messages do.
        let waits = self.sweep.earliest.is_some() && self.cursors.values().any(|cursor| cursor.pending > cursor.flying);
        if !waits {
            // All that waits is in memory, and looked at before it is sent.
            self.sweep.earliest = self.sweep.earliest.filter(|_| self.live.waits());
        }
        if now.mono < self.sweep.rest_until {
            wake.at(self.sweep.rest_until);
            return;
        }
        let run = match self.sweep.run {
            Some(run) => run,
            None => match self.begin_sweep(now, waits, wake) {
                Some(run) => run,
                None => return,
            },
        };
        self.sweep.run = Some(run);
        if run.reading.is_some() || self.wished.len() > WISHES_MAX {
            return;
        }
        if run.next > self.last_stored || (!run.expired && self.sweep.over.is_empty()) {
            self.sweep.run = None;
            if run.next > self.last_stored && !self.sweep.over.is_empty() {
                // The rest of it is on its way, or waits for the disk: look again.
                self.sweep.looked.clear();
                self.sweep.rest_until = now.mono + REST;
                wake.at(self.sweep.rest_until);
            }
            return;
        }
        self.sweep.run = Some(Run {
            reading: Some(self.last_stored),
            ..run
        });
        let reader = Reader::Outbox {
            unit: self.unit.clone(),
            cursor: SWEEP,
        };
        fx.read(reader, self.line, run.next, MESSAGES_MAX, BYTES_MAX);
    }

    fn begin_sweep(&mut self, now: Now, waits: bool, wake: &mut Wake) -> Option<Run> {
        let due = self.sweep.earliest.filter(|_| waits);
        let low = self.ledger.done.next_open(1);
        if let Some(due) = due {
            let at = now.mono + Duration::from_millis(due.0.saturating_sub(now.wall.0));
            let at = at.max(self.sweep.expiry_again);
            if at <= now.mono {
                self.sweep.earliest = None;
                self.sweep.expiry_again = now.mono + EXPIRY_REST;
                self.sweep.looked.clear();
                return Some(Run {
                    next: low,
                    expired: true,
                    reading: None,
                });
            }
            wake.at(at);
        }
        let over = self.sweep.over.iter();
        let looked = |topic: &TopicId| self.sweep.looked.get(topic).copied().unwrap_or(low);
        Some(Run {
            next: over.map(looked).min()?.max(low),
            expired: false,
            reading: None,
        })
    }

    /// A part of the line was read.
    pub(super) fn on_swept(&mut self, now: Now, read: ReadBack) {
        let Some(run) = self.sweep.run.take() else { return };
        let Some(last) = run.reading.filter(|_| !read.failed && read.from == run.next) else {
            self.sweep.run = Some(Run { reading: None, ..run });
            self.sweep.rest_until = now.mono + REST;
            return;
        };
        let end = read.next.map_or(last + 1, |next| next.min(last + 1)).max(run.next);
        for (seq, message) in read.found {
            if seq >= run.next && seq < end {
                self.consider(now, seq, message);
            }
        }
        for topic in &self.sweep.over {
            if self.topics.at(*topic).is_over() {
                let looked = self.sweep.looked.entry(*topic).or_insert(end);
                *looked = (*looked).max(end);
            }
        }
        self.sweep.run = Some(Run {
            next: end,
            reading: None,
            ..run
        });
    }

    fn consider(&mut self, now: Now, seq: Seq, message: Message) {
        if !self.is_open(seq) || self.flying.contains(&seq) {
            return;
        }
        let from = match self.live.find(seq) {
            Some((_, true)) => return,
            Some((_, false)) => From::Window,
            None => From::Backlog,
        };
        let topic = self.known(&message.topic);
        let state = self.topics.at(topic);
        let ending = Ending {
            seq,
            topic,
            bytes: message.bytes(),
            hash: state.key_of(&message),
            home: self.home_key(topic, &message),
        };
        let ending = Ending {
            hash: if from == From::Window {
                super::keys::NO_KEY
            } else {
                ending.hash
            },
            ..ending
        };
        if message.is_expired(now.wall) {
            self.expire(now, ending, from, message);
        } else if state.is_over() {
            self.end(ending, from, End::Gap(GapReason::Dropped));
            self.sweep.looked.insert(topic, seq + 1);
        } else if let Some(deadline) = message.deadline {
            self.sweep.expect(deadline);
        }
    }
}

/// Messages of one read,
const MESSAGES_MAX: usize = 4096;
/// and bytes.
const BYTES_MAX: usize = 1 << 20;
/// After a way to the end that did not help, or a read that failed.
const REST: Duration = Duration::from_secs(1);
/// Between two searches for expired messages.
const EXPIRY_REST: Duration = Duration::from_secs(60);
