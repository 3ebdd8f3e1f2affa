//! Messages for this unit: topics, and groups of consumers that each get every message of a topic.
//!
//! Knows no clock, no disk and no network: methods get the moment, the dice and a place for their wishes. Call
//! [`poll`](Inbox::poll) after each batch of inputs: it hands out messages, reads, and writes down what has ended.
//!
//! # Path
//! `on_stored` -> `group` (`feed`, `keys`) -> `Output::Deliver` -> `settle` -> ended, or parked (`retries`) and back.
//!
//! # Invariants
//! - I1. Each message ends exactly once for each group of its topic: acknowledged, expired, dropped, purged, corrupted, or
//!   a dead letter; until then it is pending (M-G8).
//! - I2. On ordered topics a group has one message of a key open at a time, in the order of their numbers (M-C1).
//! - I3. A topic has a group at any time: one by the name `-`, which nobody can join, as long as there is no other. It
//!   becomes the first one that comes, its heir, which so gets all that the topic still has and what was under way.
//! - I4. Only a snapshot or the records make an end durable. What is released from the log must be done in a snapshot or
//!   in records that are on disk, not only in memory ([`Inbox::is_done`]).
//! - I5. Memory is bounded by consumers, keys that are open, and `queue.parked_max` for each group, not by what waits
//!   (M-G7). A group with that many parked messages takes no further ones.

mod books;
mod consumers;
mod endings;
mod feed;
mod group;
mod hand_over;
mod keys;
mod leaving;
mod membership;
mod operations;
mod retries;
mod snapshot;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use group::{Group, Scene};
pub use snapshot::InboxSnapshot;
pub use topic::Full;
use topic::{Bounds, Rules, TopicState};

use super::api::{ConsumerId, DeliveryId, Settlement};
use super::effects::{Effects, Now, ReadBack, Reader, Told};
use super::{Overflow, Settings, Setup, TopicSettings, Topics};
use crate::model::{GroupName, Map, Message, Seq, Topic};

/// All topics with messages for this unit.
pub struct Inbox {
    topics: Vec<TopicState>,
    by_name: Map<Topic, usize>,
    groups: Vec<Option<Group>>,
    /// Where consumers are.
    homes: Map<ConsumerId, usize>,
    /// Groups with something to do, and whether each is in it.
    work: VecDeque<usize>,
    queued: Vec<bool>,
    /// When groups have something to do, and what of it is in the set.
    wakes: BTreeSet<(Duration, usize)>,
    wake_of: Vec<Option<Duration>>,
    /// Groups with ends that are in no record yet.
    unsaved: BTreeSet<usize>,
    unsaved_count: usize,
    save_at: Option<Duration>,
    /// Topics whose groups in the settings may not be there yet.
    undeclared: BTreeSet<usize>,
    parked_max: usize,
    settings: std::sync::Arc<Topics>,
    /// What groups gave up, for those who wait for its delivery.
    given_up: Vec<Told>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// Without topics.
    pub fn new() -> Self {
        Self {
            topics: Vec::new(),
            by_name: Map::default(),
            groups: Vec::new(),
            homes: Map::default(),
            work: VecDeque::new(),
            queued: Vec::new(),
            wakes: BTreeSet::new(),
            wake_of: Vec::new(),
            unsaved: BTreeSet::new(),
            unsaved_count: 0,
            save_at: None,
            undeclared: BTreeSet::new(),
            parked_max: Settings::default().parked_max,
            settings: std::sync::Arc::default(),
            given_up: Vec::new(),
        }
    }

    /// Other settings are in force. Groups they declare come with the next [`poll`](Self::poll).
    pub fn configure(&mut self, setup: &Setup) {
        self.parked_max = setup.queue.parked_max.max(1);
        self.settings = std::sync::Arc::clone(&setup.topics);
        for topic in &mut self.topics {
            if let Some(settings) = TopicSettings::of(&self.settings, &topic.name) {
                topic.rules = Rules::of(settings);
            }
        }
        self.undeclared = (0..self.topics.len()).collect();
        for at in 0..self.groups.len() {
            self.schedule(at);
        }
    }

    /// The number of the next message of a topic.
    pub fn assign(&mut self, topic: &Topic) -> Seq {
        let at = self.topic_at(topic);
        let Some(topic) = self.topics.get_mut(at) else {
            return 1;
        };
        topic.next += 1;
        topic.next - 1
    }

    /// The disk failed: numbers that are not on it are given again, and dead letters are written again.
    pub fn rollback(&mut self) {
        for topic in &mut self.topics {
            topic.next = topic.stored + 1;
        }
        for at in 0..self.groups.len() {
            if let Some(Some(group)) = self.groups.get_mut(at) {
                group.rollback();
            }
            self.schedule(at);
        }
    }

    /// Whether a topic takes another message (M-E3): as full as it is for the group that has most to do.
    ///
    /// # Errors
    /// [`Full`], for topics that refuse new messages then.
    pub fn admit(&self, topic: &Topic, settings: &TopicSettings, bytes: usize) -> Result<(), Full> {
        let bounds = Bounds::of(settings);
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        let Some(topic) = topic.filter(|_| bounds.overflow == Overflow::RejectNew) else {
            return Ok(());
        };
        let coming = topic.next - topic.stored;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let groups = topic.groups.iter().filter_map(|at| self.groups.get(*at)?.as_ref());
        for group in groups {
            let messages = group.books.pending() + coming;
            if bounds.exceeded(messages, group.books.bytes.saturating_add(bytes)) {
                return Err(Full);
            }
        }
        Ok(())
    }

    /// A message is on disk. `only`: other groups are done with it.
    pub fn on_stored(&mut self, now: Now, seq: Seq, message: &Message, only: Option<&GroupName>, fx: &mut Effects) {
        let at = self.topic_at(&message.topic);
        if self.topics.get(at).is_none_or(|topic| seq <= topic.stored) {
            return;
        }
        let only = only.and_then(|only| self.receiver(at, only, seq));
        self.on_given_at(at, seq - 1);
        let Some(topic) = self.topics.get_mut(at) else {
            return;
        };
        topic.stored = seq;
        topic.next = topic.next.max(seq + 1);
        topic.ages.note(seq, message.accepted_at);
        topic.deadlines |= message.deadline.is_some();
        let members = topic.groups.len();
        for member in 0..members {
            let Some(at) = self.topics.get(at).and_then(|topic| topic.groups.get(member)).copied() else {
                break;
            };
            self.on_stored_for(at, now, seq, (message, only), fx);
        }
    }

    /// Numbers of a topic up to this one were given. Those that are not known are of messages whose records are damaged;
    /// later records may say that they had ended, else reading will find out.
    pub fn on_given(&mut self, topic: &Topic, seq: Seq) {
        let at = self.topic_at(topic);
        self.on_given_at(at, seq);
    }

    /// The dead letter of a message of a group is on disk.
    pub fn on_dead(&mut self, now: Now, topic: &Topic, group: &GroupName, seq: Seq, fx: &mut Effects) {
        if let Some(at) = self.find_named(topic, group, seq) {
            self.act(at, now, |group, scene| group.on_dead(scene, seq, fx));
        }
    }

    /// A consumer says how a hand-over ended. One that is not its any more is ignored.
    pub fn settle(
        &mut self,
        now: Now,
        (consumer, delivery): (ConsumerId, DeliveryId),
        outcome: Settlement,
        dice: &mut fastrand::Rng,
        fx: &mut Effects,
    ) {
        let Some(at) = self.homes.get(&consumer).copied() else {
            return;
        };
        let done = self.act(at, now, |group, scene| {
            let done = group.settle(scene, (consumer, delivery), outcome, dice, fx);
            (done, group.topic)
        });
        if let Some((true, topic)) = done {
            self.tell_done(topic, delivery.seq, fx);
        }
    }

    /// What was to be read is there.
    pub fn on_read(&mut self, now: Now, reader: &Reader, back: ReadBack, fx: &mut Effects) {
        match reader {
            Reader::Group { place } => {
                self.act(*place, now, |group, scene| group.on_read_line(scene, back, fx));
            }
            Reader::Retry { place, seq } => {
                self.act(*place, now, |group, scene| group.on_read_one(scene, *seq, back, fx));
            }
            Reader::Outbox { .. } | Reader::Job(_) => {}
        }
    }

    /// Does what has become possible or due. Returns when there will be more to do.
    pub fn poll(&mut self, now: Now, dice: &mut fastrand::Rng, fx: &mut Effects) -> Option<Duration> {
        self.declare_groups(fx);
        while let Some(&(time, at)) = self.wakes.first().filter(|(time, _)| *time <= now.mono) {
            self.wakes.remove(&(time, at));
            if let Some(wake) = self.wake_of.get_mut(at) {
                *wake = None;
            }
            self.schedule(at);
        }
        while let Some(at) = self.work.pop_front() {
            let wake = self.act(at, now, |group, scene| group.step(scene, dice, fx)).flatten();
            if let Some(queued) = self.queued.get_mut(at) {
                *queued = false;
            }
            self.wake(at, wake);
        }
        fx.told.append(&mut self.given_up);
        if self.unsaved_count >= UNSAVED_MAX || self.save_at.is_some_and(|at| at <= now.mono) {
            self.save(fx);
        }
        let wake = self.wakes.first().map(|(time, _)| *time);
        wake.into_iter().chain(self.save_at).min()
    }

    /// Writes down all that has ended, now.
    pub fn save(&mut self, fx: &mut Effects) {
        for at in std::mem::take(&mut self.unsaved) {
            if let Some(Some(group)) = self.groups.get_mut(at)
                && let Some(topic) = self.topics.get(group.topic)
            {
                group.save(&topic.name, fx);
            }
        }
        self.unsaved_count = 0;
        self.save_at = None;
    }

    fn on_given_at(&mut self, at: usize, seq: Seq) {
        let Some(topic) = self.topics.get_mut(at).filter(|topic| topic.stored < seq) else {
            return;
        };
        let damaged = seq - topic.stored;
        topic.stored = seq;
        topic.next = topic.next.max(seq + 1);
        for at in &topic.groups {
            if let Some(Some(group)) = self.groups.get_mut(*at) {
                group.books.accepted += damaged;
            }
        }
    }

    fn on_stored_for(
        &mut self,
        at: usize,
        now: Now,
        seq: Seq,
        (message, only): (&Message, Option<usize>),
        fx: &mut Effects,
    ) {
        self.act(at, now, |group, scene| {
            if only.is_some_and(|only| only != at) {
                group.done.insert(seq);
                return;
            }
            group.on_stored(scene, seq, message, fx);
        });
    }

    /// Publishers may wait for the last group to acknowledge a message.
    fn tell_done(&self, topic: usize, seq: Seq, fx: &mut Effects) {
        let Some(topic) = self.topics.get(topic) else {
            return;
        };
        if self.is_given_up(&topic.name, seq) {
            return;
        }
        if self.all_done(topic, seq) {
            let topic = topic.name.clone();
            fx.told.push(Told::Done { topic, seq });
        }
    }

    fn all_done(&self, topic: &TopicState, seq: Seq) -> bool {
        let mut groups = topic.groups.iter().filter_map(|at| self.groups.get(*at)?.as_ref());
        groups.all(|group| group.done.contains(seq))
    }

    /// Whether a group has given a message up and nobody was told yet: what is told of it later is of no account.
    fn is_given_up(&self, topic: &Topic, seq: Seq) -> bool {
        let mut told = self.given_up.iter();
        told.any(|told| matches!(told, Told::GivenUp { topic: of, seq: number, .. } if of == topic && *number == seq))
    }

    /// Has a group do something, and sees what comes of it.
    fn act<T>(&mut self, at: usize, now: Now, act: impl FnOnce(&mut Group, &Scene<'_>) -> T) -> Option<T> {
        let group = self.groups.get_mut(at)?.as_mut()?;
        let topic = self.topics.get(group.topic)?;
        let parked_max = self.parked_max;
        let before = group.unsaved.len();
        let scene = Scene {
            now,
            place: at,
            topic,
            parked_max,
        };
        let result = act(group, &scene);
        if !group.given_up.is_empty() {
            let topic = &topic.name;
            let told = group.given_up.drain(..).map(|(seq, why)| Told::GivenUp {
                topic: topic.clone(),
                seq,
                why,
            });
            self.given_up.extend(told);
        }
        let after = group.unsaved.len();
        if after > before {
            self.unsaved_count += after - before;
            if before == 0 {
                self.unsaved.insert(at);
                self.save_at.get_or_insert(now.mono + SAVE_AFTER);
            }
        }
        self.schedule(at);
        Some(result)
    }

    fn schedule(&mut self, at: usize) {
        if let Some(queued) = self.queued.get_mut(at)
            && !*queued
        {
            *queued = true;
            self.work.push_back(at);
        }
    }

    /// A group has something to do then. An earlier time that is known already stays: the group says again what is next.
    fn wake(&mut self, at: usize, time: Option<Duration>) {
        let (Some(time), Some(known)) = (time, self.wake_of.get_mut(at)) else {
            return;
        };
        if known.is_some_and(|known| known <= time) {
            return;
        }
        if let Some(known) = known.replace(time) {
            self.wakes.remove(&(known, at));
        }
        self.wakes.insert((time, at));
    }
}

/// Ends are written down after so many,
const UNSAVED_MAX: usize = 1000;
/// or so long after the first of them.
const SAVE_AFTER: Duration = Duration::from_millis(100);
