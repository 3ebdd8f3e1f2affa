//! Long work for operators, in slices of one read each, so that the queue goes on meanwhile.
//!
//! A job reads a line from a first to a last number; what the last one is was fixed when it began, so it ends.

pub(crate) mod audit;
pub(crate) mod filter;
pub(crate) mod peek;

use std::collections::BTreeMap;

use self::audit::Audit;
use self::filter::Matcher;
use super::api::Ticket;
use super::line::LineId;
use super::log::Scan;
use super::operator::{Line, Peeked};
use crate::model::Seq;

/// Jobs under way.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<u64, Job>,
    last: u64,
}

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    /// Who waits for the answer.
    pub(crate) ticket: Ticket,
    /// What it does.
    pub(crate) work: Work,
    /// Slices that were done.
    pub(crate) slices: u64,
}

/// What a job does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Counts all messages.
    Audit(Box<Audit>),
    /// Looks at messages.
    Peek {
        /// What is read.
        course: Course,
        /// How many are wanted.
        limit: usize,
        /// With bodies.
        bodies: bool,
        /// What was found.
        found: Vec<Peeked>,
    },
    /// Removes messages.
    Purge {
        /// What is read.
        course: Course,
        /// Only count.
        dry_run: bool,
        /// Messages it concerned.
        messages: u64,
    },
}

/// A way through a line.
#[derive(Debug)]
pub(crate) struct Course {
    /// The line, as the operator said.
    pub(crate) line: Line,
    /// And in the log.
    pub(crate) id: LineId,
    /// What is looked for.
    pub(crate) matcher: Matcher,
    /// Where it began.
    pub(crate) first: Seq,
    /// The next number to read.
    pub(crate) next: Seq,
    /// The last number to read.
    pub(crate) end: Seq,
}

impl Jobs {
    /// The number of the next one.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Takes a job out; put it back if it goes on.
    pub(crate) fn take(&mut self, number: u64) -> Option<Job> {
        self.jobs.remove(&number)
    }

    /// The job goes on.
    pub(crate) fn put(&mut self, number: u64, job: Job) {
        self.jobs.insert(number, job);
    }

    /// Whether one more may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.jobs.len() < JOBS_MAX
    }

    /// Whether the log must keep what it has.
    pub(crate) fn needs_log(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.work, Work::Audit(_)))
    }
}

impl Course {
    /// Through a line up to its last number, as far as the filter says.
    pub(crate) fn new(line: Line, id: LineId, matcher: Matcher, (first, last): (Seq, Seq)) -> Self {
        let first = matcher.first().max(first);
        Self {
            line,
            id,
            first,
            next: first,
            end: matcher.last().map_or(last, |to| to.min(last)),
            matcher,
        }
    }

    /// The next read, if it is not through.
    pub(crate) fn scan(&self) -> Option<Scan> {
        (self.next <= self.end).then(|| slice(self.id, self.next))
    }

    /// How far it is, and of how many.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let of = (self.end + 1).saturating_sub(self.first);
        (self.next.saturating_sub(self.first).min(of), of)
    }
}

/// A slice of a line.
pub(crate) fn slice(line: LineId, from: Seq) -> Scan {
    Scan {
        line,
        from,
        messages_max: SLICE_MESSAGES,
        bytes_max: SLICE_BYTES,
    }
}

/// Jobs at a time.
const JOBS_MAX: usize = 32;
const SLICE_MESSAGES: usize = 1024;
const SLICE_BYTES: usize = 1024 * 1024;
