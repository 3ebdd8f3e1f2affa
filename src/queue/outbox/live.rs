//! The live window: messages that were just accepted, in memory until the unit has them.
//!
//! # Invariants
//! - V1. Entries are in the order of their numbers; the first `sent` of them are on the live lane, in its order.
//! - V2. Messages of the window are in no backlog.

use std::collections::VecDeque;
use std::time::Duration;

use super::topics::TopicId;
use crate::model::{Message, Seq};

/// A live message.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) topic: TopicId,
    pub(super) bytes: usize,
    /// Somebody waits until it is delivered.
    pub(super) tell: bool,
    /// When it was stored.
    pub(super) since: Duration,
    pub(super) message: Message,
}

/// Live messages.
#[derive(Debug, Default)]
pub(super) struct Live {
    entries: VecDeque<Entry>,
    sent: usize,
    bytes: usize,
}

impl Live {
    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The lowest number.
    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether some wait to be sent.
    pub(super) fn waits(&self) -> bool {
        self.sent < self.entries.len()
    }

    /// Those that are on the lane.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take(self.sent)
    }

    /// The next one to be sent.
    pub(super) fn next(&self) -> Option<&Entry> {
        self.entries.get(self.sent)
    }

    /// It is sent.
    pub(super) fn advance(&mut self) {
        self.sent += 1;
    }

    /// A new one; its number is the highest.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
    }

    /// The first one was acknowledged.
    pub(super) fn pop_sent(&mut self) -> Option<Entry> {
        self.sent = self.sent.checked_sub(1)?;
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// The next one will not be sent.
    pub(super) fn take_next(&mut self) -> Option<Entry> {
        let entry = self.entries.remove(self.sent)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// The lane is gone: all are to be sent again.
    pub(super) fn unsend(&mut self) {
        self.sent = 0;
    }

    /// A message by its number, and whether it is sent.
    pub(super) fn find(&self, seq: Seq) -> Option<(&Entry, bool)> {
        let index = self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        Some((self.entries.get(index)?, index < self.sent))
    }

    /// Takes those that were not sent and fit out of it, in their order.
    pub(super) fn take_unsent(&mut self, mut fits: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for entry in self.entries.split_off(self.sent) {
            if fits(&entry) {
                self.bytes -= entry.bytes;
                taken.push(entry);
            } else {
                self.entries.push_back(entry);
            }
        }
        taken
    }
}
