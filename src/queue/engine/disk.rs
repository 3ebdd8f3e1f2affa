//! What the disk answers.

use std::time::Duration;

use super::Engine;
use super::apply::When;
use super::journal::Item;
use crate::model::{GapReason, Message, Seq};
use crate::queue::effects::{Now, ReadBack, Reader};
use crate::queue::log::disk::Event;
use crate::queue::log::{AppendError, Damage, Found, Position, Scan, Scanned};
use crate::queue::outbox::STRANDED;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::Record;
use crate::queue::{Route, codec};

impl Engine {
    /// The disk did something.
    pub fn on_disk(&mut self, now: Now, event: Event) {
        match event {
            Event::Appended { number, result, sync } => match result {
                Ok(positions) => self.on_appended(now, (number, sync), &positions),
                Err(error) => self.on_append_failed(now, number, &error),
            },
            Event::Checkpointed(result) => self.on_checkpointed(result),
            Event::Damaged(damage) => self.on_damaged(&damage),
            Event::Fetched {
                reader, seq, result, ..
            } => {
                let found = result.map(|found| Scanned {
                    found: found.map(|found| (seq, found)).into_iter().collect(),
                    next: Some(seq + 1),
                });
                self.on_read(now, &reader, seq, found);
            }
            Event::Merged(result) => self.on_merged(now, result),
            Event::Read { reader, scan, result } => self.on_scanned(now, &reader, scan, result),
            Event::Released(freed) => self.on_released(now, freed),
            Event::Space(space) => self.on_space(now, space),
        }
        self.absorb();
    }

    fn on_appended(&mut self, now: Now, (number, sync): (u64, Option<Duration>), positions: &[Position]) {
        if self.journal.is_failing() {
            tracing::info!("the disk takes messages again");
        }
        let waited = self.journal.since(number, now.mono);
        let items = self.journal.on_appended(number);
        let bytes: usize = items
            .iter()
            .map(|item| item.record().map_or(0, super::journal::bytes_of))
            .sum();
        self.metrics.on_appended((positions.len(), bytes), waited, sync);
        self.upkeep.on_appended(positions.last().copied(), bytes);
        for item in items {
            match item {
                Item::Record(record) => {
                    self.metrics.on_record(&record);
                    self.tell_losses(&record);
                    self.apply(now, record, When::Written);
                }
                Item::Then(output) => self.outputs.push_back(output),
            }
        }
        if let Some(chunk) = self.dedup.take_chunk() {
            self.journal.push(Record::Remembered(Box::new(chunk)));
        }
        self.release_held();
    }

    /// All that is not on disk is taken back (J3).
    fn on_append_failed(&mut self, now: Now, number: u64, error: &AppendError) {
        let was_failing = self.journal.is_failing();
        if !self.journal.on_failed(number, now.mono) {
            return;
        }
        if !was_failing {
            tracing::error!(%error, "the disk takes no messages; new ones are refused until it does");
        }
        self.upkeep.on_append_failed(matches!(error, AppendError::Full));
        self.refuse_coming();
        if !planted(Bug::NoRollback) {
            self.places.rollback();
        }
        self.dead.rollback();
        // Their parts wish them again.
        self.take_held();
        self.rerouting.clear();
        self.dedup.rollback();
        self.arrivals.rollback(&mut self.fx);
        self.forget_moves();
    }

    pub(super) fn on_damaged(&mut self, damage: &Damage) {
        tracing::error!(%damage, "records of the queue are damaged; the messages in them are lost");
        self.keep_damage(damage.to_string());
    }

    /// Messages that were missed on disk are told by their numbers (M-A4): where they were says nothing to those who sent them.
    fn tell_losses(&mut self, record: &Record) {
        let (whose, runs) = match record {
            Record::Gap {
                unit,
                seqs,
                reason: GapReason::Corrupted,
                ..
            } => (format!("for unit {unit}"), std::slice::from_ref(seqs)),
            Record::Settled {
                topic,
                group,
                seqs,
                reason: Some(GapReason::Corrupted),
            } => (format!("of topic {topic} for group {group}"), seqs.as_slice()),
            _ => return,
        };
        for (from, to) in runs {
            tracing::error!(from, to, whose, "messages are lost to damage on disk");
            self.keep_damage(format!("messages {from} to {to} {whose}"));
        }
    }

    fn keep_damage(&mut self, text: String) {
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.push(text);
        }
    }

    fn on_scanned(&mut self, now: Now, reader: &Reader, scan: Scan, result: Result<Scanned, String>) {
        self.on_read(now, reader, scan.from, result);
    }

    fn on_read(&mut self, now: Now, reader: &Reader, from: Seq, result: Result<Scanned, String>) {
        if let Err(error) = &result {
            tracing::warn!(error, "messages cannot be read from the disk; the relay tries again");
        }
        match reader {
            Reader::Job(job) => self.on_job_read(now, *job, result),
            Reader::Outbox { unit, cursor } => {
                let back = read_back(from, result);
                let neighbours = &self.setup.neighbours;
                let owner = |message: &Message| match neighbours.route(message) {
                    Route::To(unit, epoch) => Some((epoch, unit)),
                    Route::Later | Route::Nowhere => None,
                };
                if let Some(outbox) = self.places.outboxes.get_mut(unit) {
                    if *cursor == STRANDED {
                        return outbox.on_stranded_read(now, back, owner);
                    }
                    outbox.on_read(now, *cursor, back, &mut self.fx);
                }
            }
            Reader::Group { .. } | Reader::Retry { .. } => {
                let back = read_back(from, result);
                self.places.inbox.on_read(now, reader, back, &mut self.fx);
            }
        }
    }
}

fn read_back(from: Seq, result: Result<Scanned, String>) -> ReadBack {
    let Ok(scanned) = result else {
        return ReadBack {
            from,
            failed: true,
            ..ReadBack::default()
        };
    };
    let message = |(seq, found): (Seq, Found)| Some((seq, message_of(found)?));
    ReadBack {
        from,
        found: scanned.found.into_iter().filter_map(message).collect(),
        next: scanned.next,
        failed: false,
    }
}

/// The message of a record. One that cannot be read is as one that is not there.
fn message_of(found: Found) -> Option<Message> {
    match codec::decode_message(found.kind, found.content) {
        Ok(message) => message,
        Err(error) => {
            tracing::error!(%error, position = ?found.position, "a record of the queue cannot be read");
            None
        }
    }
}

/// Places of damage that are remembered for the status.
const DAMAGED_MAX: usize = 100;
