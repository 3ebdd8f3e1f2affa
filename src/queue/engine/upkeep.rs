//! What is done from time to time: how full the disk is, checkpoints, segments that are done with, retention.
//!
//! # Invariants
//! - K1. Segments are released by what was done when a checkpoint was made, after it is on disk: what a restart would want
//!   again is never gone (I4 of the inbox).
//! - K2. While an audit reads the log nothing is released.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Engine;
use super::places::Owner;
use crate::model::{GapReason, Seq};
use crate::queue::effects::Now;
use crate::queue::line::{LineId, Settled};
use crate::queue::log::disk::{Freed, Request};
use crate::queue::log::{Position, Space};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::Record;

/// Calls a function with each line of each segment, and says which segments should be one (`Disk::sparse`).
pub(super) type Sparse<'a> = &'a mut dyn FnMut(&mut dyn FnMut(LineId, Seq, Seq) -> u64) -> Option<Vec<u64>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    space: Space,
    low_at: u8,
    full_at: u8,
    /// The disk refused new records because it is full.
    refused: bool,
    space_at: Duration,
    expire_at: Duration,
    checkpoint_at: Duration,
    /// Bytes written since the last checkpoint.
    bytes: usize,
    /// Bytes of the last checkpoint.
    state_bytes: usize,
    /// Behind the last record that is applied.
    pub(super) covers: Position,
    saving: Option<Tidying>,
    merging: bool,
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Level {
    Ok,
    Low,
    Full,
}

/// What can go when the checkpoint is on disk.
#[derive(Default)]
struct Tidying {
    done: BTreeSet<(LineId, Seq, Seq)>,
    merge: Option<(Vec<u64>, BTreeMap<LineId, Settled>)>,
}

impl std::fmt::Debug for Tidying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tidying")
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}

impl Upkeep {
    pub(super) fn level(&self) -> Level {
        let percent = self.space.percent();
        if self.refused || percent >= self.full_at {
            Level::Full
        } else if percent >= self.low_at {
            Level::Low
        } else {
            Level::Ok
        }
    }

    /// Bytes after which the next checkpoint is made before its time. One of many topics takes long to make, so it has to be worth
    /// more; not where it makes room on a disk that fills.
    fn checkpoint_bytes(&self) -> usize {
        if self.level() != Level::Ok {
            return CHECKPOINT_BYTES;
        }
        let worth = self.state_bytes.saturating_mul(STATE_WORTH);
        worth.clamp(CHECKPOINT_BYTES, CHECKPOINT_BYTES_MAX)
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    pub(super) fn configure(&mut self, settings: &crate::queue::Settings) {
        self.low_at = settings.refuse_low_at;
        self.full_at = settings.refuse_all_at;
    }

    pub(super) fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    pub(super) fn on_appended(&mut self, last: Option<Position>, bytes: usize) {
        if let Some(last) = last {
            self.covers = last.after();
        }
        self.bytes = self.bytes.saturating_add(bytes);
        // The disk may have taken what is essential only; whether it takes more says its space.
    }

    pub(super) fn on_append_failed(&mut self, full: bool) {
        self.refused |= full;
        self.space_at = Duration::ZERO;
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let checkpoint = (self.bytes > 0 && self.saving.is_none()).then_some(self.checkpoint_at);
        [Some(self.space_at), Some(self.expire_at), checkpoint]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Engine {
    /// What is due by time.
    pub(super) fn keep_up(&mut self, now: Now) {
        let busy = self.upkeep.level() == Level::Full || !self.journal.may_try(now.mono);
        self.arrivals.set_busy(busy.then_some(SPACE_INTERVAL), &mut self.fx);
        if now.mono >= self.upkeep.space_at {
            self.upkeep.space_at = now.mono + SPACE_PATIENCE;
            self.requests.push(Request::Space);
        }
        if now.mono < self.upkeep.expire_at {
            return;
        }
        self.upkeep.expire_at = now.mono + EXPIRE_INTERVAL;
        self.dedup.expire(now.wall);
        self.places.mirrors.expire(now.wall, &self.setup.queue.mirror);
        self.end_pauses(now);
        if let Some(run) = self.dead.expired(now.wall).filter(|_| !self.journal.is_failing()) {
            self.journal.push(Record::DeadGone {
                seqs: vec![run],
                reason: GapReason::Expired,
            });
        }
        self.renew_epoch(now);
    }

    /// A relay has seen numbers of ours that we do not know: the log is an old copy, and begins a new life (M-A1).
    fn renew_epoch(&mut self, now: Now) {
        let wanted = self
            .places
            .outboxes
            .values()
            .any(super::super::outbox::Outbox::wants_new_epoch);
        if wanted && self.publishing.may_renew() {
            tracing::warn!("a peer has messages of this relay that are not in its log: the log begins a new life");
            self.begin_life(now);
        }
    }

    /// Ids are given anew from now on.
    pub(super) fn begin_life(&mut self, now: Now) -> u64 {
        let epoch = now.wall.0 << EPOCH_DICE_BITS | self.dice.u64(..1 << EPOCH_DICE_BITS);
        self.publishing.renew(epoch);
        self.journal.push(Record::Epoch(epoch));
        epoch
    }

    pub(super) fn on_space(&mut self, now: Now, space: Space) {
        let before = self.upkeep.level();
        let upkeep = &mut self.upkeep;
        upkeep.space = space;
        upkeep.space_at = now.mono + SPACE_INTERVAL;
        if space.percent() < upkeep.full_at {
            upkeep.refused = false;
        }
        let level = upkeep.level();
        if level != before {
            tracing::warn!(
                percent = space.percent(),
                ?level,
                "the disk of the queue is filled otherwise than before"
            );
        }
    }

    /// Whether it is time for a checkpoint.
    pub fn wants_checkpoint(&self, now: Now) -> bool {
        let upkeep = &self.upkeep;
        let due = now.mono >= upkeep.checkpoint_at || upkeep.bytes >= upkeep.checkpoint_bytes();
        upkeep.saving.is_none() && upkeep.bytes > 0 && due
    }

    /// Makes a checkpoint, and finds out what can go when it is on disk.
    pub fn checkpoint(&mut self, now: Now, sparse: Sparse<'_>) {
        for outbox in self.places.outboxes.values_mut() {
            outbox.flush(&mut self.fx);
        }
        self.places.inbox.save(&mut self.fx);
        self.absorb();
        let mut done = BTreeSet::new();
        let segments = sparse(&mut |line, from, to| {
            let wanted = self.wanted(line, from, to);
            if wanted == 0 {
                done.insert((line, from, to));
            }
            wanted
        });
        let keep_all = self.jobs.needs_log();
        let merge = segments.filter(|_| !keep_all && !self.upkeep.merging);
        let merge = merge.map(|segments| (segments, self.done_lines()));
        if keep_all {
            done.clear();
        }
        let state = self.snapshot();
        let mut covers = self.upkeep.covers;
        if planted(Bug::CheckpointAhead) {
            covers.offset += 4096;
        }
        self.upkeep.bytes = 0;
        self.upkeep.state_bytes = state.len();
        self.upkeep.checkpoint_at = now.mono + self.setup.queue.checkpoint_interval;
        self.upkeep.saving = Some(Tidying { done, merge });
        self.requests.push(Request::Checkpoint { state, covers });
    }

    pub(super) fn on_checkpointed(&mut self, result: Result<(), String>) {
        let Some(tidying) = self.upkeep.saving.take() else {
            return;
        };
        if let Err(error) = result {
            tracing::warn!(
                error,
                "the state of the queue was not saved; a restart will read more of the log"
            );
            self.upkeep.bytes = self.upkeep.bytes.max(1);
            return;
        }
        if self.jobs.needs_log() {
            return;
        }
        let done = tidying.done;
        if planted(Bug::ReleaseLive) {
            self.requests.push(Request::Release(Box::new(|_, _, _| true)));
        }
        self.requests.push(Request::Release(Box::new(move |line, from, to| {
            done.contains(&(line, from, to))
        })));
        if let Some((segments, done)) = tidying.merge {
            self.upkeep.merging = true;
            let keep = move |line: LineId, seq: Seq| done.get(&line).is_none_or(|done| !done.contains(seq));
            self.requests.push(Request::Merge {
                segments,
                keep: Box::new(keep),
            });
        }
    }

    pub(super) fn on_merged(&mut self, now: Now, result: Result<Freed, String>) {
        self.upkeep.merging = false;
        match result {
            Ok(freed) => self.on_released(now, freed),
            Err(error) => tracing::warn!(error, "segments of the queue were not merged; the relay tries again"),
        }
    }

    pub(super) fn on_released(&mut self, now: Now, freed: Freed) {
        if freed.segments > 0 {
            tracing::debug!(
                segments = freed.segments,
                bytes = freed.bytes,
                "disk space of the queue is free again"
            );
            self.upkeep.space_at = now.mono;
        }
    }

    /// How many numbers of a line are not done with; all, if nobody knows the line.
    fn wanted(&self, line: LineId, from: Seq, to: Seq) -> u64 {
        let all = to - from + 1;
        match self.places.owner(line) {
            None => all,
            Some(Owner::Dead) => all.saturating_sub(self.dead.done_between(from, to)),
            Some(Owner::Remembered) => all.saturating_sub(self.dedup.done_between(from, to)),
            Some(owner) => self.places.wanted(owner, from, to).unwrap_or(all),
        }
    }

    /// What is done of each line.
    fn done_lines(&self) -> BTreeMap<LineId, Settled> {
        let mut lines = self.places.done_lines();
        lines.insert(LineId::dead_letters(), self.dead.gone().clone());
        lines.insert(LineId::remembered(), Settled::up_to(self.dedup.forgotten()));
        lines
    }
}

const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// The file system did not answer: it is asked again.
const SPACE_PATIENCE: Duration = Duration::from_secs(10);
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes after which a checkpoint is made before its time, at least: a restart reads them again.
const CHECKPOINT_BYTES: usize = 64 * 1024 * 1024;
/// The same at most.
const CHECKPOINT_BYTES_MAX: usize = 4 * CHECKPOINT_BYTES;
/// So many times its own bytes are written between two checkpoints before their time.
const STATE_WORTH: usize = 128;
/// Of an epoch, so many bits are dice and the others the time: later lives have larger ones.
const EPOCH_DICE_BITS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_checkpoint_has_to_be_worth_more_unless_the_disk_fills() {
        let after = |state_bytes, used| {
            let space = Space {
                used,
                used_max: 100,
                total: 100,
                free: 50,
                ..Space::default()
            };
            let upkeep = Upkeep {
                state_bytes,
                space,
                low_at: 80,
                full_at: 95,
                ..Upkeep::default()
            };
            upkeep.checkpoint_bytes() >> 20
        };
        assert_eq!(
            [0, 1 << 19, 1 << 20, 3 << 19, 1 << 30].map(|state| after(state, 50)),
            [64, 64, 128, 192, 256]
        );
        assert_eq!([4 << 20, 1 << 30].map(|state| after(state, 85)), [64, 64]);
    }
}
