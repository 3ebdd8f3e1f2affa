//! Publishers whose messages are on their way to the disk, and the numbers that their messages have.

use std::collections::VecDeque;

use super::candidate::Candidate;
use crate::model::{AckLevel, Map};
use crate::queue::dedup::Print;
use crate::queue::engine::waits::Waiter;

/// Publishers whose messages are on their way to the disk.
#[derive(Debug, Default)]
pub(in crate::queue::engine) struct Publishing {
    /// Life of the log that messages are accepted in.
    pub(super) epoch: u64,
    /// The record of that life is on its way to the disk.
    renewing: bool,
    /// How many messages this life of the log has given numbers to, and how many of them are on disk.
    pub(in crate::queue::engine) last: u64,
    pub(in crate::queue::engine) stored: u64,
    pub(super) coming: UnderWay,
    /// Places among them.
    pub(super) prints: Map<Print, u64>,
    pub(super) answered: usize,
}

/// In the order in which they are written, so that the first one is the next to be on disk.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    pub(super) messages: VecDeque<Coming>,
    /// Place of the first one; places are never given again.
    first: u64,
}

#[derive(Debug)]
pub(super) struct Coming {
    /// Life and number: messages of the last life are still under way when the next one gives its first numbers.
    pub(super) number: (u64, u64),
    pub(super) bytes: usize,
    pub(super) print: Option<Print>,
    pub(super) waiter: Waiter,
    /// Publishers of its duplicates.
    pub(super) others: Vec<Waiter>,
}

impl UnderWay {
    /// Adds the last one; its place.
    pub(super) fn push(&mut self, coming: Coming) -> u64 {
        self.messages.push_back(coming);
        self.first + u64::try_from(self.messages.len()).unwrap_or(u64::MAX) - 1
    }

    pub(super) fn at_mut(&mut self, place: u64) -> Option<&mut Coming> {
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.messages.get_mut(index)
    }

    /// The first one, if it is this message.
    fn first_if(&self, number: (u64, u64)) -> Option<&Coming> {
        self.messages.front().filter(|coming| coming.number == number)
    }

    /// Takes the first one, if it is this message.
    pub(super) fn pop_if(&mut self, number: (u64, u64)) -> Option<Coming> {
        self.first_if(number)?;
        self.first += 1;
        self.messages.pop_front()
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> VecDeque<Coming> {
        self.first += u64::try_from(self.messages.len()).unwrap_or(u64::MAX);
        std::mem::take(&mut self.messages)
    }
}

impl Coming {
    pub(super) fn waiters_mut(&mut self) -> impl Iterator<Item = &mut Waiter> {
        std::iter::once(&mut self.waiter).chain(&mut self.others)
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        std::iter::once(&self.waiter).chain(&self.others)
    }
}

impl Publishing {
    /// As a checkpoint says.
    pub(in crate::queue::engine) fn restore(&mut self, epoch: u64, stored: u64) {
        (self.epoch, self.stored, self.last) = (epoch, stored, stored);
    }

    /// All records were read.
    pub(in crate::queue::engine) fn recovered(&mut self) {
        self.last = self.stored;
        self.coming.take_all();
        self.prints.clear();
        self.answered = 0;
    }

    /// The log will begin a new life; a message that comes now is of that one.
    pub(in crate::queue::engine) fn renew(&mut self, epoch: u64) {
        (self.epoch, self.renewing, self.last) = (epoch, true, 0);
    }

    /// Whether no new life is on its way to the disk.
    pub(in crate::queue::engine) fn may_renew(&self) -> bool {
        !self.renewing
    }

    /// A new life has begun on disk.
    pub(in crate::queue::engine) fn on_epoch(&mut self, epoch: u64) {
        if self.epoch == epoch {
            self.renewing = false;
        } else {
            (self.epoch, self.last) = (epoch, 0);
        }
        self.stored = 0;
    }

    /// Numbers of messages that are not on disk are given again.
    pub(super) fn take_back(&mut self) {
        self.last = if self.renewing { 0 } else { self.stored };
    }

    /// A publication does not count as on its way to the disk any more.
    pub(in crate::queue::engine) fn give_back(&mut self, candidate: &mut Candidate) {
        self.answered += std::mem::take(&mut candidate.bytes);
    }

    pub(in crate::queue::engine) fn take_answered(&mut self) -> usize {
        std::mem::take(&mut self.answered)
    }

    /// Whether somebody waits until a message is delivered.
    pub(super) fn awaits_delivery(&self, number: (u64, u64)) -> bool {
        let coming = self.coming.first_if(number);
        coming.is_some_and(|coming| coming.waiters().any(|waiter| waiter.level == AckLevel::Delivered))
    }
}
