//! How messages of a group fail, wait for another attempt, and end.
//!
//! # Invariants
//! - E1. Each number ends once, and is counted once (M-G8): `Settled` says whether it had ended.
//! - E2. A message that is given up holds its key until the dead letter is on disk: the move is one commit (M-E4, M-C1).
//! - E3. Ends are in the log before the dead letters that come after them.

use std::time::Duration;

use super::group::{Facts, Group, Open, Place, Scene};
use super::retries::{Doom, Failure, back_off};
use crate::model::{DeadPlace, GapReason, Message, Seq, Topic, UnixMillis};
use crate::queue::effects::{DeadWish, Effects, Why};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{DeadSource, Kept, Record};
use crate::queue::{Exhausted, OnExpiry};

/// An attempt that failed.
pub(super) struct Failed {
    pub seq: Seq,
    pub facts: Facts,
    pub error: String,
    /// The pause that the consumer wishes.
    pub delay: Option<Duration>,
}

impl Group {
    /// A message ended, other than by a dead letter. `bytes`: if known.
    pub(super) fn end(&mut self, (seq, key): (Seq, Option<u64>), reason: Option<GapReason>, bytes: Option<usize>) {
        if self.done.insert(seq) {
            self.books.end(reason, 1, bytes);
            self.unsaved.push((seq, reason));
            self.given_up.extend(reason.map(|reason| (seq, Why::of_gap(reason))));
        }
        self.forget(seq, key);
    }

    /// Nothing is to be known of a message any more, and its key is free.
    pub(super) fn forget(&mut self, seq: Seq, key: Option<u64>) {
        if !self.failures.is_empty() {
            self.failures.remove(&seq);
        }
        self.freed.extend(key);
    }

    /// An attempt failed: another one later, or none.
    pub(super) fn fail(&mut self, scene: &Scene<'_>, failed: Failed, dice: &mut fastrand::Rng, fx: &mut Effects) {
        let Failed {
            seq,
            facts,
            error,
            delay,
        } = failed;
        let now = scene.now.wall;
        let failure = self.failures.entry(seq).or_insert(Failure {
            first: now,
            ..Failure::default()
        });
        failure.failed += 1;
        failure.key = facts.key;
        failure.not_before = now;
        let attempts = failure.failed;
        if attempts >= scene.topic.rules.attempts() {
            return self.exhaust(scene, (seq, facts), None, error, fx);
        }
        let pause = delay.map_or_else(
            || back_off(&scene.topic.rules.retry, attempts, dice),
            |delay| delay.min(DELAY_MAX),
        );
        let not_before = Self::not_before(scene, pause);
        failure.not_before = not_before;
        self.save_attempt(scene.topic.name.clone(), seq, fx);
        self.park(scene, seq, facts, scene.now.mono.saturating_add(pause));
        if planted(Bug::OvertakenByNext) {
            self.freed.extend(facts.key);
        }
    }

    fn save_attempt(&self, topic: Topic, seq: Seq, fx: &mut Effects) {
        let failure = self.failures.get(&seq).copied().unwrap_or_default();
        fx.record(Record::Attempt {
            topic,
            group: self.name.clone(),
            seq,
            failed: failure.failed,
            not_before: failure.not_before,
            key: failure.key,
        });
    }

    /// The attempts have run out (M-C3).
    pub(super) fn exhaust(
        &mut self,
        scene: &Scene<'_>,
        (seq, facts): (Seq, Facts),
        message: Option<Message>,
        error: String,
        fx: &mut Effects,
    ) {
        match (facts.key, scene.topic.rules.exhausted) {
            (Some(key), Exhausted::DlqRestOfKey) if self.keys.rest.len() < scene.parked_max => {
                self.set_rest(&scene.topic.name, key, true, fx);
            }
            (Some(_), Exhausted::BlockKey | Exhausted::DlqRestOfKey) => {
                // One that was read again had failed before; that is on disk.
                if message.is_none() {
                    self.save_attempt(scene.topic.name.clone(), seq, fx);
                }
                return self.block(scene, seq, facts);
            }
            _ => {}
        }
        let doom = self.doom_of(scene, seq, "attempts", error);
        match message {
            Some(message) => self.kill(scene, (seq, facts), message, doom, fx),
            None => self.doom(seq, facts, doom),
        }
    }

    fn set_rest(&mut self, topic: &Topic, key: u64, on: bool, fx: &mut Effects) {
        let changed = if on {
            self.keys.rest.insert(key)
        } else {
            self.keys.rest.remove(&key)
        };
        if changed {
            let (topic, group) = (topic.clone(), self.name.clone());
            fx.record(Record::Kept(Box::new(Kept::RestOfKey { topic, group, key, on })));
        }
    }

    fn block(&mut self, scene: &Scene<'_>, seq: Seq, facts: Facts) {
        let ends = facts.deadline.map(|deadline| scene.mono(deadline));
        if let Some(ends) = ends {
            self.retries.later.insert((ends, seq));
        }
        self.place(seq, facts, Place::Blocked(ends));
    }

    /// Lets blocked keys go on, or one of them. Returns how many.
    pub(super) fn unblock(&mut self, scene: &Scene<'_>, key: Option<u64>, fx: &mut Effects) -> u64 {
        let attempts = scene.topic.rules.attempts();
        let fits = |of: Option<u64>| key.is_none() || of == key;
        let blocked = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.failed >= attempts && fits(failure.key));
        let blocked: Vec<Seq> = blocked
            .map(|(seq, _)| *seq)
            .filter(|seq| !self.is_doomed(*seq))
            .collect();
        let rest: Vec<u64> = self.keys.rest.iter().copied().filter(|of| fits(Some(*of))).collect();
        for seq in &blocked {
            let Some(failure) = self.failures.get_mut(seq) else {
                continue;
            };
            failure.failed = 0;
            failure.not_before = UnixMillis(scene.now.wall.0.max(failure.not_before.0 + 1));
            self.save_attempt(scene.topic.name.clone(), *seq, fx);
            if let Some(Open {
                facts,
                place: Place::Blocked(ends),
            }) = self.open.get(seq)
            {
                let (facts, ends) = (*facts, *ends);
                self.retries.later.remove(&(ends.unwrap_or_default(), *seq));
                self.want(*seq, facts);
            }
        }
        for key in &rest {
            self.set_rest(&scene.topic.name, *key, false, fx);
        }
        u64::try_from(blocked.len() + rest.len()).unwrap_or(u64::MAX)
    }

    /// The time of a message is over (M-E2).
    pub(super) fn expire(&mut self, scene: &Scene<'_>, seq: Seq, facts: Facts, message: Message, fx: &mut Effects) {
        match scene.topic.rules.on_expiry {
            OnExpiry::DeadLetter if !planted(Bug::ExpiredForgotten) => {
                let doom = self.doom_of(scene, seq, "expired", String::new());
                self.kill(scene, (seq, facts), message, doom, fx);
            }
            OnExpiry::Drop | OnExpiry::DeadLetter => {
                self.end((seq, facts.key), Some(GapReason::Expired), Some(facts.bytes));
            }
        }
    }

    pub(super) fn doom_of(&self, scene: &Scene<'_>, seq: Seq, reason: &'static str, mut error: String) -> Doom {
        while error.len() > ERROR_BYTES {
            error.pop();
        }
        let failure = self.failures.get(&seq);
        Doom {
            reason,
            error,
            attempts: failure.map_or(0, |failure| failure.failed),
            first: failure.map_or(scene.now.wall, |failure| failure.first),
            last: scene.now.wall,
            written: false,
        }
    }

    /// A message that is not in memory is given up: it is read for its dead letter.
    pub(super) fn doom(&mut self, seq: Seq, facts: Facts, doom: Doom) {
        self.place(seq, facts, Place::Dying);
        self.dooms.insert(seq, doom);
        self.retries.doomed.insert(seq);
    }

    /// A message is given up. It is done when [`on_dead`](Self::on_dead) says so (E2).
    pub(super) fn kill(
        &mut self,
        scene: &Scene<'_>,
        (seq, facts): (Seq, Facts),
        message: Message,
        mut doom: Doom,
        fx: &mut Effects,
    ) {
        self.save(&scene.topic.name, fx);
        fx.dead(DeadWish {
            message,
            place: DeadPlace::Delivery,
            reason: doom.reason.to_owned(),
            at: DeadSource::Group(self.name.clone(), seq),
            attempts: doom.attempts,
            first_failure: doom.first,
            last_failure: doom.last,
            error: doom.error.clone(),
        });
        doom.written = true;
        self.place(seq, facts, Place::Dying);
        self.dooms.insert(seq, doom);
    }

    pub(super) fn is_doomed(&self, seq: Seq) -> bool {
        !self.dooms.is_empty() && self.dooms.contains_key(&seq)
    }

    /// Messages whose dead letters are on their way to the disk.
    pub(super) fn written_dooms(&self) -> impl Iterator<Item = Seq> {
        let written = self.dooms.iter().filter(|(_, doom)| doom.written);
        written.map(|(seq, _)| *seq)
    }

    /// Dead letters wait for the disk, or for room there: nothing more is risked meanwhile.
    pub(super) fn dies_too_much(&self) -> bool {
        self.dooms.len() >= DOOMS_MAX
    }

    /// The dead letter of a message is on disk.
    pub(super) fn on_dead(&mut self, scene: &Scene<'_>, seq: Seq, fx: &mut Effects) {
        let doom = self.dooms.remove(&seq);
        let facts = self.open.remove(&seq).map(|open| open.facts);
        if self.done.insert(seq) {
            let bytes = facts.map(|facts| facts.bytes);
            self.books.end(Some(GapReason::DeadLettered), 1, bytes);
            let why = doom.map(|doom| Why::of_dead(doom.reason, &doom.error));
            self.given_up.extend(why.map(|why| (seq, why)));
        }
        self.forget(seq, facts.and_then(|facts| facts.key));
        if self.feed.sweep_at.is_some() {
            self.feed.sweep_at = Some(scene.now.mono);
        }
        self.go_on(scene, fx);
    }

    /// The disk failed: what was on its way there has to be written again.
    pub(super) fn rollback(&mut self) {
        for (seq, doom) in &mut self.dooms {
            if doom.written {
                doom.written = false;
                self.retries.doomed.insert(*seq);
            }
        }
    }
}

/// A consumer may wish no longer pause than this.
const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Messages of a group on their way to the dead letters.
const DOOMS_MAX: usize = 64;
/// Bytes of an error text that are kept.
const ERROR_BYTES: usize = 1024;
