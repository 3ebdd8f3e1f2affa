//! What a group is fed with: from memory while it keeps up, else read back from the log.
//!
//! # Invariants
//! - F1. All numbers below `cursor` were looked at: they are done, open, or behind an open one of their key. So a group
//!   that begins again at its frontier loses nothing.
//! - F2. One read is under way at a time; what it brings is used only if the cursor is still where it was, and only of numbers
//!   that were on disk when it was asked for: of later ones it may have some and not others.
//! - F3. Memory is bounded in messages and bytes, whatever waits (M-G7).

use std::collections::VecDeque;
use std::time::Duration;

use super::group::{Facts, Group, Scene};
use super::retries::READ_AGAIN;
use crate::model::{GapReason, Message, Seq};
use crate::queue::effects::{Effects, ReadBack, Reader, Why};
use crate::queue::planted::{Bug, planted};

#[derive(Default)]
pub(super) struct Feed {
    /// The next number to look at.
    pub cursor: Seq,
    /// A read is under way; it was asked for when the line went to this number.
    reading: Option<Seq>,
    /// Not before; a read failed.
    not_before: Duration,
    /// The newest messages of the line, without holes, for when the cursor gets there.
    near: VecDeque<(Seq, Message)>,
    near_bytes: usize,
    /// Messages that a consumer can have now.
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    /// Nobody takes messages: when to look for expired ones.
    pub sweep_at: Option<Duration>,
}

/// A message that a consumer can have.
pub(super) struct Ready {
    pub seq: Seq,
    pub facts: Facts,
    pub message: Message,
}

impl Feed {
    /// Begins at a number.
    pub(super) fn begin(&mut self, cursor: Seq, sweep_at: Option<Duration>) {
        self.cursor = cursor;
        self.sweep_at = sweep_at;
        self.near.clear();
        self.near_bytes = 0;
        self.ready.clear();
        self.ready_bytes = 0;
    }

    pub(super) fn push_ready(&mut self, ready: Ready) {
        self.ready_bytes += ready.facts.bytes;
        self.ready.push_back(ready);
    }

    /// The number that [`pop_ready`](Self::pop_ready) would give.
    pub(super) fn first_ready(&self) -> Option<Seq> {
        self.ready.front().map(|ready| ready.seq)
    }

    pub(super) fn pop_ready(&mut self) -> Option<Ready> {
        let ready = self.ready.pop_front()?;
        self.ready_bytes -= ready.facts.bytes;
        Some(ready)
    }

    pub(super) fn has_space(&self) -> bool {
        self.ready.len() < READY_MESSAGES && self.ready_bytes < READY_BYTES
    }

    /// So that most of what a read brings finds room.
    fn has_space_for_a_read(&self) -> bool {
        self.ready.len() <= READY_MESSAGES / 2 && self.ready_bytes <= READY_BYTES / 2
    }

    /// When a read that failed is worth another try.
    pub(super) fn next_wake(&self, now: Duration) -> Option<Duration> {
        Some(self.not_before).filter(|at| *at > now)
    }

    /// Keeps a message that was just stored, if the cursor will come to it soon.
    fn keep_near(&mut self, seq: Seq, message: &Message) {
        let follows = self.near.back().is_none_or(|(last, _)| last + 1 == seq);
        let soon = seq.saturating_sub(self.cursor) < 2 * u64::try_from(NEAR_MESSAGES).unwrap_or(u64::MAX);
        if !follows || !soon {
            self.near.clear();
            self.near_bytes = 0;
        }
        if !soon {
            return;
        }
        self.near_bytes += message.bytes();
        self.near.push_back((seq, message.clone()));
        while self.near.len() > NEAR_MESSAGES || self.near_bytes > NEAR_BYTES {
            self.pop_near();
        }
    }

    /// The message at the cursor, if it is in memory.
    fn next_near(&mut self) -> Option<(Seq, Message)> {
        while self.near.front()?.0 < self.cursor {
            self.pop_near();
        }
        if self.near.front()?.0 == self.cursor {
            return self.pop_near();
        }
        None
    }

    fn pop_near(&mut self) -> Option<(Seq, Message)> {
        let (seq, message) = self.near.pop_front()?;
        self.near_bytes -= message.bytes();
        Some((seq, message))
    }
}

impl Group {
    /// A message of the topic is on disk, and this group is to have it.
    pub(super) fn on_stored(&mut self, scene: &Scene<'_>, seq: Seq, message: &Message, fx: &mut Effects) {
        self.books.accept(message.bytes());
        if self.feed.cursor == seq && self.wants(scene) {
            self.feed.cursor = seq + 1;
            self.take(scene, seq, message.clone(), fx);
            self.go_on(scene, fx);
        } else if !self.consumers.is_empty() {
            self.feed.keep_near(seq, message);
        } else if let Some(deadline) = message.deadline
            && self.feed.sweep_at.is_none()
        {
            self.feed.sweep_at = Some(scene.mono(deadline));
        }
    }

    /// Whether the group takes further messages of the line.
    fn wants(&self, scene: &Scene<'_>) -> bool {
        self.is_active(scene) && self.feed.has_space() && self.parked() < scene.parked_max && !self.dies_too_much()
    }

    /// Takes what is in memory, and has more read if that is not enough.
    pub(super) fn fill(&mut self, scene: &Scene<'_>, fx: &mut Effects) {
        while self.wants(scene) {
            if let Some((seq, message)) = self.feed.next_near() {
                self.feed.cursor = seq + 1;
                self.take(scene, seq, message, fx);
                self.go_on(scene, fx);
            } else if !self.worth_a_read(scene) || !self.read_on(scene, READ_MESSAGES, fx) {
                return;
            }
        }
    }

    /// Whether there is room for what a read brings, not just for a message or two of it.
    fn worth_a_read(&self, scene: &Scene<'_>) -> bool {
        let parked = self.parked() + READ_MESSAGES.min(scene.parked_max / 2);
        self.feed.has_space_for_a_read() && parked <= scene.parked_max
    }

    /// Looks for expired messages that nobody reads.
    pub(super) fn sweep(&mut self, scene: &Scene<'_>, fx: &mut Effects) {
        if self.feed.sweep_at.is_some_and(|at| at <= scene.now.mono) {
            while self.read_on(scene, SWEEP_MESSAGES, fx) {}
            if self.feed.cursor > scene.topic.stored {
                self.feed.sweep_at = None;
            }
        }
    }

    /// Has messages read from the cursor on. `true`: none have to be, the cursor has moved over done ones.
    fn read_on(&mut self, scene: &Scene<'_>, messages_max: usize, fx: &mut Effects) -> bool {
        let cursor = self.done.next_open(self.feed.cursor);
        if cursor != self.feed.cursor && self.feed.reading.is_none() {
            self.feed.cursor = cursor;
            return true;
        }
        let stored = scene.topic.stored;
        if self.feed.reading.is_some() || cursor > stored || self.feed.not_before > scene.now.mono {
            return false;
        }
        let gap = self.feed.near.front().map(|(first, _)| first - cursor);
        let wanted = gap.map_or(messages_max, |gap| {
            usize::try_from(gap).map_or(messages_max, |gap| gap.min(messages_max))
        });
        self.feed.reading = Some(stored);
        let reader = Reader::Group { place: scene.place };
        fx.read(reader, scene.topic.line, cursor, wanted.max(1), READ_BYTES);
        false
    }

    /// A read of the line is answered.
    pub(super) fn on_read_line(&mut self, scene: &Scene<'_>, back: ReadBack, fx: &mut Effects) {
        let Some(stored_then) = self.feed.reading.take() else {
            return;
        };
        if back.failed {
            self.feed.not_before = scene.now.mono + READ_AGAIN;
            return;
        }
        if back.from != self.feed.cursor {
            return;
        }
        for (seq, message) in back.found {
            // Later ones come by themselves, or with the next read (F2).
            if seq > stored_then {
                break;
            }
            let swept = self.consumers.is_empty();
            if !swept && !self.wants(scene) || swept && !self.expires_unread(scene, seq, &message) {
                return;
            }
            self.lose(self.feed.cursor, seq.saturating_sub(1));
            self.feed.cursor = seq + 1;
            if swept {
                self.expire_unread(scene, seq, message, fx);
            } else {
                self.take(scene, seq, message, fx);
                self.go_on(scene, fx);
            }
        }
        let end = back.next.map_or(stored_then, |next| (next - 1).min(stored_then));
        self.lose(self.feed.cursor, end);
        self.feed.cursor = self.feed.cursor.max(end + 1);
    }

    /// These are not on disk any more though this group is not done with them.
    pub(super) fn lose(&mut self, from: Seq, to: Seq) {
        let mut seq = self.done.next_open(from);
        while seq <= to {
            // What is on its way to the dead letters is not lost.
            if !self.is_doomed(seq) {
                let reason = Some(GapReason::Corrupted);
                self.done.insert(seq);
                self.books.end(reason, 1, None);
                self.unsaved.push((seq, reason));
                self.given_up.push((seq, Why::of_gap(GapReason::Corrupted)));
            }
            seq = self.done.next_open(seq + 1);
        }
    }

    /// Whether a message that nobody reads is of no use any more; if it is, the next look is when its time is over.
    fn expires_unread(&mut self, scene: &Scene<'_>, seq: Seq, message: &Message) -> bool {
        if self.done.contains(seq) || self.is_doomed(seq) {
            return true;
        }
        if message.is_expired(scene.now.wall) && !planted(Bug::DeliveredLate) {
            let waits = scene.key_of(message).is_some_and(|key| self.keys.is_busy(key));
            if waits || self.dies_too_much() {
                self.feed.sweep_at = Some(scene.now.mono + READ_AGAIN);
                return false;
            }
            return true;
        }
        self.feed.sweep_at = message.deadline.map(|deadline| scene.mono(deadline));
        false
    }

    fn expire_unread(&mut self, scene: &Scene<'_>, seq: Seq, message: Message, fx: &mut Effects) {
        if let Some((facts, message)) = self.meet(scene, seq, message) {
            self.expire(scene, seq, facts, message, fx);
            self.go_on(scene, fx);
        }
    }
}

/// Messages that wait for a consumer with room, per group.
const READY_MESSAGES: usize = 512;
/// And their bytes.
const READY_BYTES: usize = 1 << 20;
/// Newest messages kept for a group that is nearly there.
const NEAR_MESSAGES: usize = 512;
/// And their bytes.
const NEAR_BYTES: usize = 1 << 20;
/// Messages of one read.
const READ_MESSAGES: usize = 256;
/// And their bytes.
const READ_BYTES: usize = 256 << 10;
/// Messages of one read that only looks for expired ones.
const SWEEP_MESSAGES: usize = 64;
