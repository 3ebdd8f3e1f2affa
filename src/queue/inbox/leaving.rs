//! Messages that leave a group though no consumer had them: the oldest of a topic that is too full (M-E3), and what an operator
//! removes (M-H2).
//!
//! # Invariants
//! - V1. A restart does not decide the same again: it finds the end of a message in the log, or has the message once more, and
//!   drops others perhaps, for nothing is with consumers then. So on an ordered topic nothing behind one is handed out before the
//!   record of its end is on disk; otherwise it could come after all, and behind later ones of its key (M-C1).
//! - V2. None is dropped while the record of others is on its way there: if drops never ended, nothing would be handed out.

use super::group::{Group, Open, Place, Scene};
use crate::model::{GapReason, Seq};
use crate::queue::Overflow;
use crate::queue::effects::Effects;

impl Group {
    /// Messages go for another reason than a consumer, and that is written down. Returns how many there were.
    pub(super) fn remove(&mut self, scene: &Scene<'_>, seqs: &[Seq], reason: GapReason, fx: &mut Effects) -> usize {
        let there = seqs.iter().filter(|seq| **seq <= scene.topic.stored);
        let gone = there.filter(|seq| self.gone(scene, **seq, reason)).count();
        if gone > 0 {
            self.save(&scene.topic.name, fx);
        }
        self.go_on(scene, fx);
        gone
    }

    /// Drops the oldest messages if the topic says so and is too full (M-E3); says whether there were any. Not while records are
    /// read after a start: what had ended may be found in later ones.
    pub(super) fn make_room(&mut self, scene: &Scene<'_>, fx: &mut Effects) -> bool {
        let bounds = scene.topic.rules.bounds;
        if bounds.overflow != Overflow::DropOldest || !self.leaving.is_empty() {
            return false;
        }
        let mut any = false;
        while bounds.exceeded(self.books.pending(), self.books.bytes) {
            let Some(oldest) = self.oldest_unused(scene.topic.stored.saturating_sub(1)) else {
                break;
            };
            any |= self.gone(scene, oldest, GapReason::Dropped);
        }
        if !self.leaving.is_empty() {
            self.save(&scene.topic.name, fx);
        }
        self.go_on(scene, fx);
        any
    }

    /// The record of ends like these is on disk.
    pub(super) fn on_left(&mut self, seqs: &[(Seq, Seq)]) {
        for (from, to) in seqs {
            let mut above = self.leaving.split_off(from);
            self.leaving.append(&mut above.split_off(&to.saturating_add(1)));
        }
    }

    /// Whether a message may be handed out: nothing before it can come back (V1).
    pub(super) fn may_go(&self, seq: Seq) -> bool {
        self.leaving.first().is_none_or(|leaving| seq < *leaving)
    }

    /// A message goes for another reason. What is being given up stays: it leaves as a dead letter.
    fn gone(&mut self, scene: &Scene<'_>, seq: Seq, reason: GapReason) -> bool {
        if self.done.contains(seq) || self.is_doomed(seq) {
            return false;
        }
        if scene.topic.rules.ordered {
            self.leaving.insert(seq);
        }
        let Some(Open { facts, place }) = self.open.remove(&seq) else {
            self.end((seq, None), Some(reason), None);
            return true;
        };
        match place {
            Place::Flight { consumer, .. } => _ = self.consumers.free(consumer, facts.bytes),
            Place::Later(at) | Place::Blocked(Some(at)) => _ = self.retries.later.remove(&(at, seq)),
            Place::Wanted => _ = self.retries.wanted.remove(&seq),
            Place::Blocked(None) | Place::Dying | Place::Reading => {}
        }
        let bytes = Some(facts.bytes).filter(|bytes| *bytes > 0);
        self.end((seq, facts.key), Some(reason), bytes);
        true
    }

    /// The oldest message up to a number that no consumer has and that is not given up.
    fn oldest_unused(&self, last: Seq) -> Option<Seq> {
        let mut seq = self.done.next_open(1);
        for _ in 0..DROP_LOOKS {
            if seq > last {
                return None;
            }
            match self.open.get(&seq).map(|open| open.place) {
                Some(Place::Flight { .. } | Place::Dying) => seq = self.done.next_open(seq + 1),
                _ => return Some(seq),
            }
        }
        None
    }
}

/// Messages in flight that are passed over in search of one to drop.
const DROP_LOOKS: usize = 1024;
