//! What records do to the state, once they are on disk (E2).

use super::Engine;
use super::places::Places;
use crate::model::{GapReason, Seq};
use crate::queue::api::Output;
use crate::queue::dedup::{First, Print};
use crate::queue::effects::Now;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{DeadLetter, DeadSource, Kept, Record, Stored};

/// Whether a record is applied at run time or again after a restart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum When {
    /// It was just written.
    Written,
    /// It is read in a restart.
    Replayed,
}

impl Engine {
    /// A record is on disk.
    pub(super) fn apply(&mut self, now: Now, record: Record, when: When) {
        match record {
            Record::Stored(stored) => self.apply_stored(now, &stored),
            Record::Dead(letter) => self.apply_dead(now, &letter),
            Record::DeadGone { seqs, .. } => {
                self.dead.on_gone(&seqs);
            }
            Record::Epoch(epoch) => self.apply_epoch(epoch),
            Record::Gap {
                unit,
                seqs,
                reason,
                counts,
            } => {
                let outbox = self.places.outbox(&unit, &self.setup);
                outbox.on_gap(now, seqs, reason, &counts, &mut self.fx);
            }
            Record::Skipped { stream, seqs, .. } => {
                self.arrivals.on_skipped(&stream, seqs);
            }
            Record::Remembered(chunk) => {
                self.dedup.on_chunk(&chunk);
                if when == When::Replayed {
                    self.dedup.on_chunk_read(&chunk);
                }
            }
            Record::Settled {
                topic,
                group,
                seqs,
                reason: Some(GapReason::Dropped | GapReason::Purged),
            } if when == When::Written => self.places.inbox.on_left(now, &topic, &group, &seqs),
            Record::Kept(kept) if when == When::Written => self.apply_written(&kept),
            Record::Attempt { .. } | Record::Kept(_) | Record::Relayed { .. } | Record::Settled { .. } => {
                if when == When::Replayed {
                    self.apply_decided(now, record);
                }
            }
        }
    }

    fn apply_stored(&mut self, now: Now, stored: &Stored) {
        let message = &stored.message;
        let own = message.id.unit == self.setup.place.unit && message.id.relay == self.setup.place.relay;
        let mut tell_delivered = false;
        if let Some((stream, seq)) = &stored.from {
            self.arrivals.on_stored(stream, *seq);
        } else if let Some((unit, seq)) = &stored.rerouted {
            tell_delivered = self.apply_rerouted(now, stored, (unit, *seq));
        } else if own && stored.redriven.is_none() {
            let first = First {
                epoch: message.id.epoch,
                number: message.id.number,
            };
            if message.id.epoch == self.places.epoch {
                tell_delivered = self.on_accepted(stored);
            }
            if let Some(print) = Print::of(message) {
                self.dedup.on_stored(print, first, message.accepted_at);
            }
        }
        if let Some(seq) = stored.redriven
            && !planted(Bug::RedriveKeepsLetter)
        {
            self.dead.on_gone(&[(seq, seq)]);
            self.on_letter_moved(seq);
        }
        self.places
            .on_stored(now, &self.setup, stored, tell_delivered, &mut self.fx);
    }

    fn apply_dead(&mut self, now: Now, letter: &DeadLetter) {
        self.dead.on_dead(letter);
        self.leave(now, letter);
    }

    /// A message leaves where it was: it is a dead letter.
    pub(super) fn leave(&mut self, now: Now, letter: &DeadLetter) {
        let topic = &letter.message.topic;
        match &letter.at {
            DeadSource::None => {}
            DeadSource::Outbox(unit, seq) => {
                let outbox = self.places.outbox(unit, &self.setup);
                outbox.on_dead(now, *seq, topic, &mut self.fx);
            }
            DeadSource::Group(group, seq) => {
                self.places.know_topic(topic);
                let inbox = &mut self.places.inbox;
                inbox.on_dead(now, topic, group, *seq, &mut self.fx);
            }
        }
    }

    fn apply_epoch(&mut self, epoch: u64) {
        self.publishing.on_epoch(epoch);
        if self.places.epoch == epoch {
            return;
        }
        self.places.set_epoch(epoch);
        // They were opened in the old life; their edges open others.
        for lane in std::mem::take(&mut self.places.lanes).into_keys() {
            let why = "the log of this relay has begun a new life".to_owned();
            self.outputs.push_back(Output::CloseLane { lane, why });
        }
    }

    /// What the parts had decided before the restart.
    fn apply_decided(&mut self, now: Now, record: Record) {
        if let Record::Settled { topic, .. } | Record::Attempt { topic, .. } = &record {
            self.places.know_topic(topic);
        }
        let inbox = &mut self.places.inbox;
        match record {
            Record::Relayed { unit, seqs, counts } => {
                self.places.outbox(&unit, &self.setup).on_relayed(&seqs, &counts);
            }
            Record::Settled {
                topic,
                group,
                seqs,
                reason,
            } => inbox.on_settled(&topic, &group, &seqs, reason),
            Record::Attempt {
                topic,
                group,
                seq,
                failed,
                not_before,
                key,
            } => inbox.on_attempt((&topic, &group), (seq, key), failed, not_before),
            Record::Kept(kept) => self.apply_kept(now, &kept),
            _ => {}
        }
    }

    /// What operators and consumers set up before the restart.
    pub(super) fn apply_kept(&mut self, now: Now, kept: &Kept) {
        match kept {
            Kept::Group { topic, .. } | Kept::GroupGone { topic, .. } | Kept::RestOfKey { topic, .. } => {
                self.places.know_topic(topic);
                self.places.inbox.on_kept(now, kept);
            }
            Kept::Pause { what, pause } => self.set_pause(what, pause.clone()),
            Kept::Limits { unit, topic, limits } => self.set_limits(unit, topic.as_ref(), *limits),
            Kept::Task(bytes) => self.tasks.on_kept(bytes),
            Kept::Stays { unit, key } => self.apply_stays(unit, *key),
            Kept::Closed => {}
        }
    }

    /// All else of its kind was in force when it was decided.
    fn apply_written(&mut self, kept: &Kept) {
        if let Kept::Stays { unit, key } = kept {
            self.apply_stays(unit, *key);
        }
    }
}

impl Places {
    /// A message is on disk.
    pub(super) fn on_stored(
        &mut self,
        now: Now,
        setup: &crate::queue::Setup,
        stored: &Stored,
        tell_delivered: bool,
        fx: &mut crate::queue::effects::Effects,
    ) {
        let message = &stored.message;
        self.know_topic(&message.topic);
        for (unit, seq) in &stored.outs {
            let outbox = self.outbox(unit, setup);
            outbox.on_stored(now, *seq, message, tell_delivered, fx);
        }
        if let Some(seq) = stored.inbox {
            self.inbox.on_stored(now, seq, message, stored.only.as_ref(), fx);
        }
        if let Some(seq) = stored.mirror {
            self.mirrors.on_stored(now.wall, seq, message);
        }
    }

    /// The log begins a new life.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        for outbox in self.outboxes.values_mut() {
            outbox.set_epoch(epoch);
        }
    }

    /// How many numbers of a line from `from` to `to`, both included, are not done with.
    pub(super) fn wanted(&self, owner: &super::places::Owner, from: Seq, to: Seq) -> Option<u64> {
        use super::places::Owner;
        let done = match owner {
            Owner::Inbox(topic) => self.inbox.done_between(topic, from, to),
            Owner::Mirror(topic) => self.mirrors.done_between(topic, from, to),
            Owner::Outbox(unit) => self.outboxes.get(unit)?.done_between(from, to),
            Owner::Dead | Owner::Remembered => return None,
        };
        Some((to - from + 1).saturating_sub(done))
    }
}
