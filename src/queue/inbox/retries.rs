//! Messages of a group that wait for their time, and those to be read back from the log.
//!
//! # Invariants
//! - T1. A pause is random between zero and a bound that doubles with each failure (M-E1), unless the consumer wished one.
//! - T2. A waiting message is a number; few are read at a time (M-G7).

use std::collections::BTreeSet;
use std::time::Duration;

use super::group::{Facts, Group, Open, Place, Scene};
use crate::model::{Seq, UnixMillis};
use crate::queue::RetrySettings;
use crate::queue::effects::{Effects, ReadBack, Reader};

#[derive(Default)]
pub(super) struct Retries {
    /// By the time from which they are wanted.
    pub later: BTreeSet<(Duration, Seq)>,
    /// To be read, for a consumer.
    pub wanted: BTreeSet<Seq>,
    /// To be read, to become dead letters.
    pub doomed: BTreeSet<Seq>,
    /// Reads under way.
    pub reading: usize,
}

/// What is known of a message that failed; survives restarts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Failure {
    /// Attempts that failed.
    pub failed: u32,
    /// When the first did.
    pub first: UnixMillis,
    /// Not again before.
    pub not_before: UnixMillis,
    /// Its key, once it is known.
    pub key: Option<u64>,
}

/// Why and how a message is given up; kept until it is a dead letter on disk.
#[derive(Debug)]
pub(super) struct Doom {
    pub reason: &'static str,
    pub error: String,
    pub attempts: u32,
    pub first: UnixMillis,
    pub last: UnixMillis,
    /// Its record is on its way to the disk.
    pub written: bool,
}

/// The pause after so many failures: full jitter, whole milliseconds.
pub(super) fn back_off(retry: &RetrySettings, failed: u32, dice: &mut fastrand::Rng) -> Duration {
    let doublings = failed.saturating_sub(1).min(30);
    let bound = retry.first.saturating_mul(1 << doublings).min(retry.longest);
    Duration::from_millis(dice.u64(0..=millis(bound)))
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Retries {
    /// The next number to be read, if one may be read now. `wanted`: those for consumers too.
    pub(super) fn next_read(&mut self, wanted: bool) -> Option<Seq> {
        if self.reading >= READS_MAX {
            return None;
        }
        let next = self.doomed.pop_first();
        let seq = next.or_else(|| if wanted { self.wanted.pop_first() } else { None })?;
        self.reading += 1;
        Some(seq)
    }
}

impl Group {
    /// A message waits until then, and its key with it.
    pub(super) fn park(&mut self, scene: &Scene<'_>, seq: Seq, facts: Facts, until: Duration) {
        let ends = facts.deadline.map(|deadline| scene.mono(deadline));
        let until = ends.map_or(until, |ends| until.min(ends));
        self.retries.later.insert((until, seq));
        self.place(seq, facts, Place::Later(until));
    }

    /// A message is to be read for a consumer.
    pub(super) fn want(&mut self, seq: Seq, facts: Facts) {
        self.open.insert(
            seq,
            Open {
                facts,
                place: Place::Wanted,
            },
        );
        self.retries.wanted.insert(seq);
    }

    pub(super) fn place(&mut self, seq: Seq, facts: Facts, place: Place) {
        self.open.insert(seq, Open { facts, place });
        if let Some(key) = facts.key {
            self.keys.park(key);
        }
    }

    /// Those whose time has come are to be read.
    pub(super) fn call_due(&mut self, now: Duration) {
        while let Some(&(at, seq)) = self.retries.later.first().filter(|(at, _)| *at <= now) {
            self.retries.later.remove(&(at, seq));
            match self.open.get(&seq) {
                Some(Open {
                    place: Place::Dying, ..
                }) => _ = self.retries.doomed.insert(seq),
                Some(Open {
                    facts,
                    place: Place::Later(_) | Place::Blocked(_),
                }) => self.want(seq, *facts),
                _ => {}
            }
        }
    }

    /// Has messages read back: first those to be given up, then those for consumers.
    pub(super) fn read_wanted(&mut self, scene: &Scene<'_>, fx: &mut Effects) {
        let wanted = self.is_active(scene) && self.feed.has_space();
        while let Some(seq) = self.retries.next_read(wanted) {
            let Some(open) = self.open.get_mut(&seq) else {
                self.retries.reading -= 1;
                continue;
            };
            let mut span = 1;
            if !matches!(open.place, Place::Dying) {
                open.place = Place::Reading;
                span = open.facts.key.map_or(1, |key| self.keys.span(key, seq));
            }
            let reader = Reader::Retry {
                place: scene.place,
                seq,
            };
            fx.read(reader, scene.topic.line, seq, span, RETRY_BYTES);
        }
    }

    /// A message was read back, or is not there.
    pub(super) fn on_read_one(&mut self, scene: &Scene<'_>, seq: Seq, back: ReadBack, fx: &mut Effects) {
        self.retries.reading = self.retries.reading.saturating_sub(1);
        let Some(Open { facts, place }) = self.open.get(&seq) else {
            return;
        };
        let (facts, dying) = (*facts, matches!(place, Place::Dying));
        // By now it may be with a consumer, parked, or on its way to the dead letters.
        let wanted = matches!(place, Place::Reading | Place::Wanted);
        if !wanted && self.dooms.get(&seq).is_none_or(|doom| doom.written) {
            return;
        }
        let looked = !back.found.is_empty() || back.next.is_none_or(|next| next > seq);
        let mut found = back.found.into_iter().peekable();
        let message = found.next_if(|(number, _)| *number == seq);
        match message {
            _ if back.failed || !looked => {
                let at = scene.now.mono + READ_AGAIN;
                self.retries.later.insert((at, seq));
                if !dying {
                    self.open.insert(
                        seq,
                        Open {
                            facts,
                            place: Place::Later(at),
                        },
                    );
                }
            }
            None => {
                self.open.remove(&seq);
                self.dooms.remove(&seq);
                self.lose(seq, seq);
                self.forget(seq, facts.key);
            }
            Some((_, message)) if dying => {
                if let Some(doom) = self.dooms.remove(&seq) {
                    self.kill(scene, (seq, facts), message, doom, fx);
                }
            }
            Some((_, message)) => {
                self.retries.wanted.remove(&seq);
                self.open.remove(&seq);
                let facts = Facts::of(facts.key, &message);
                if let Some(key) = facts.key {
                    self.keys.unpark(key);
                    found.for_each(|(number, message)| self.keys.offer(key, number, message));
                }
                self.prepare(scene, seq, facts, message, fx);
            }
        }
        self.go_on(scene, fx);
    }
}

/// Reads of single messages under way at a time, per group.
const READS_MAX: usize = 16;
/// After a read that failed.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a read for one message and some behind it.
const RETRY_BYTES: usize = 128 << 10;
