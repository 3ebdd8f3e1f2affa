//! What is on its way to the disk: the batch that is gathered, and those that are written.
//!
//! # Invariants
//! - J1. What was pushed is on disk in the order it was pushed, or not at all; a later batch is never on disk without the
//!   earlier ones (D2 of `log::disk`).
//! - J2. While the disk writes, the next batch is gathered: a few batches at most are under way.
//! - J3. After a failure, records that carry new numbers are gone, and what waited for them with them; the rest is written
//!   again, in its order.
//! - J4. After a failure nothing is said that waits for the disk before a later write came there: until then a crash may bring back
//!   what failed, though nobody was told of it (L3 of `log::writer`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::queue::api::Output;
use crate::queue::codec;
use crate::queue::log::disk::{Batch, Request};
use crate::queue::record::Record;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Journal {
    open: Vec<Item>,
    open_bytes: usize,
    under_way: VecDeque<Written>,
    next: u64,
    era: u64,
    /// Nothing is written before: the disk has failed.
    again_at: Option<Duration>,
    failures: u32,
}

/// Something that is to be on disk, or to be said when all before it is.
#[derive(Debug)]
pub(super) enum Item {
    Record(Record),
    Then(Output),
}

#[derive(Debug)]
struct Written {
    number: u64,
    items: Vec<Item>,
    /// When it was given to the disk.
    at: Duration,
}

impl Journal {
    /// Adds a record.
    pub(super) fn push(&mut self, record: Record) {
        self.open_bytes += bytes_of(&record);
        self.open.push(Item::Record(record));
    }

    /// Adds something to be said; at once, if nothing is before it and the disk has not failed (J4).
    pub(super) fn then(&mut self, output: Output) -> Option<Output> {
        let is_failing = self.is_failing();
        let items = match self.under_way.back_mut() {
            Some(last) if self.open.is_empty() => &mut last.items,
            None if self.open.is_empty() && !is_failing => return Some(output),
            _ => &mut self.open,
        };
        items.push(Item::Then(output));
        None
    }

    /// Batches for the disk, as many as may be under way.
    pub(super) fn seal(&mut self, now: Duration, requests: &mut Vec<Request>) {
        if self.again_at.is_some_and(|at| now < at) {
            return;
        }
        while !self.open.is_empty() && self.under_way.len() < UNDER_WAY_MAX {
            let items = self.cut();
            let records = || items.iter().filter_map(Item::record);
            let batch = Batch {
                number: self.next,
                era: self.era,
                entries: records().map(codec::encode).collect(),
                essential: records().all(is_essential),
            };
            requests.push(Request::Append(batch));
            self.under_way.push_back(Written {
                number: self.next,
                items,
                at: now,
            });
            self.next += 1;
        }
    }

    /// How long the disk has had a batch.
    pub(super) fn since(&self, number: u64, now: Duration) -> Duration {
        let written = self.under_way.front().filter(|written| written.number == number);
        written.map_or(Duration::ZERO, |written| now.saturating_sub(written.at))
    }

    /// A batch is on disk: what it holds, in its order.
    pub(super) fn on_appended(&mut self, number: u64) -> Vec<Item> {
        self.again_at = None;
        self.failures = 0;
        match self.under_way.pop_front() {
            Some(written) if written.number == number => written.items,
            // The log answers in order; anything else is an answer for an era that is over.
            other => {
                self.under_way.extend(other);
                Vec::new()
            }
        }
    }

    /// A batch is not on disk. `false`: that was known, it was behind one that failed before.
    pub(super) fn on_failed(&mut self, number: u64, now: Duration) -> bool {
        if !self.under_way.iter().any(|written| written.number == number) {
            return false;
        }
        self.era += 1;
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.again_at = Some(now + pause);
        let written = self.under_way.drain(..).flat_map(|written| written.items);
        let open = std::mem::take(&mut self.open);
        self.open = written.chain(open).filter(Item::survives).collect();
        self.open_bytes = self.open.iter().filter_map(Item::record).map(bytes_of).sum();
        true
    }

    /// Whether the disk has failed and has not written since.
    pub(super) fn is_failing(&self) -> bool {
        self.again_at.is_some()
    }

    /// Whether the disk may be asked again after a failure.
    pub(super) fn may_try(&self, now: Duration) -> bool {
        self.again_at.is_none_or(|at| at <= now)
    }

    /// When the disk is asked again after a failure.
    pub(super) fn wake_at(&self, now: Duration) -> Option<Duration> {
        self.again_at.filter(|at| *at > now)
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.under_way.is_empty()
    }

    /// Some of what is gathered: all, if it is not too much for one write.
    fn cut(&mut self) -> Vec<Item> {
        if self.open_bytes <= BATCH_BYTES {
            self.open_bytes = 0;
            return std::mem::take(&mut self.open);
        }
        let mut bytes = 0;
        let fitting = self.open.iter().take_while(|item| {
            bytes += item.record().map_or(0, bytes_of);
            bytes <= BATCH_BYTES
        });
        let count = fitting.count().max(1);
        let rest = self.open.split_off(count.min(self.open.len()));
        let items = std::mem::replace(&mut self.open, rest);
        self.open_bytes = self.open.iter().filter_map(Item::record).map(bytes_of).sum();
        items
    }
}

impl Item {
    pub(super) fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Then(_) => None,
        }
    }

    /// Whether it still holds after the disk failed (J3). What was to be said to peers spoke for messages that are gone;
    /// their lanes are closed.
    fn survives(&self) -> bool {
        match self {
            Self::Record(record) => survives(record),
            Self::Then(output) => !matches!(output, Output::ToSender { .. }),
        }
    }
}

/// Whether a record may use what is kept free on a full disk: what ends messages, so that there is space again (M-G6).
fn is_essential(record: &Record) -> bool {
    !matches!(record, Record::Stored(_) | Record::Remembered(_))
}

/// Whether a record carries no new number and nobody will want it again: it may be written at any later time.
pub(super) fn survives(record: &Record) -> bool {
    match record {
        Record::Attempt { .. }
        | Record::DeadGone { .. }
        | Record::Epoch(_)
        | Record::Kept(_)
        | Record::Relayed { .. }
        | Record::Settled { .. } => true,
        // The parts want these again.
        Record::Dead(_) | Record::Gap { .. } | Record::Remembered(_) | Record::Skipped { .. } | Record::Stored(_) => {
            false
        }
    }
}

pub(super) fn bytes_of(record: &Record) -> usize {
    RECORD_BYTES
        + match record {
            Record::Stored(stored) => stored.message.bytes(),
            Record::Dead(letter) => letter.message.bytes(),
            Record::Remembered(chunk) => chunk.entries.len() * 20,
            _ => 0,
        }
}

/// One is written, one waits behind it.
const UNDER_WAY_MAX: usize = 2;
/// Bytes of one write.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
const RECORD_BYTES: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
