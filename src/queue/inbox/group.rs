//! A group of consumers: hands out messages and hears what became of them.
//!
//! # Path
//! `take` (from the [`feed`](super::feed)) -> behind its key, or `open_up` -> parked, given up, or ready -> `hand_out` and
//! `settle` ([`hand_over`](super::hand_over)) -> ended ([`endings`](super::endings)), or parked and read back from the log
//! when its time has come ([`retries`](super::retries)).
//!
//! # Invariants
//! - G1. A number that was looked at is done, ready, `open`, or behind an open or ready one of its key.
//! - G2. Only messages with consumers use the room of consumers (M-B4).
//! - G3. Without consumers nothing but what is being given up is remembered: the group begins again at its frontier.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::books::Books;
use super::consumers::Consumers;
use super::feed::{Feed, Ready};
use super::keys::{self, Keys, Next};
use super::retries::{Doom, Failure, Retries, millis};
use super::topic::TopicState;
use crate::model::{GapReason, GroupName, Message, Seq, UnixMillis};
use crate::queue::api::ConsumerId;
use crate::queue::effects::{Effects, Now, Why};
use crate::queue::line::Settled;
use crate::queue::planted::{Bug, planted};
use crate::queue::record::Pause;

pub(super) struct Group {
    pub name: GroupName,
    /// Its topic, as a place in `Inbox::topics`.
    pub topic: usize,
    pub done: Settled,
    pub books: Books,
    pub pause: Option<Pause>,
    /// Dead letters of it find no room: nothing is handed out until they do. Not kept: a restart finds out anew.
    pub held: Option<Pause>,
    pub consumers: Consumers,
    pub failures: BTreeMap<Seq, Failure>,
    /// Ended in memory, not yet in a record.
    pub unsaved: Vec<(Seq, Option<GapReason>)>,
    /// Dropped or purged, and the record of it is not on disk yet (V1 of [`leaving`](super::leaving)); only on ordered topics.
    pub leaving: BTreeSet<Seq>,
    /// Ended otherwise than by a consumer, since the inbox looked last.
    pub given_up: Vec<(Seq, Why)>,
    pub(super) feed: Feed,
    pub(super) keys: Keys,
    /// Ordered: what comes and goes is at its ends, near in memory however much is in flight.
    pub(super) open: BTreeMap<Seq, Open>,
    pub(super) retries: Retries,
    pub(super) dooms: BTreeMap<Seq, Doom>,
    /// Keys whose open message has just ended.
    pub(super) freed: Vec<u64>,
    /// Ends of visibility timeouts; those that do not match an open message are void.
    pub(super) overdue: VecDeque<(Duration, Seq)>,
    pub(super) stamp: u64,
}

/// What all methods of a group get to see.
pub(super) struct Scene<'a> {
    pub now: Now,
    /// The group's place in the inbox, which no other group ever has.
    pub place: usize,
    pub topic: &'a TopicState,
    pub parked_max: usize,
}

/// What is known of a message that is not in memory.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts {
    pub key: Option<u64>,
    pub deadline: Option<UnixMillis>,
    pub accepted_at: UnixMillis,
    pub bytes: usize,
}

/// A message that is neither done nor waiting for its turn.
pub(super) struct Open {
    pub facts: Facts,
    pub place: Place,
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Its key waits for an operator; looked at again at its deadline.
    Blocked(Option<Duration>),
    /// Given up; see `dooms`.
    Dying,
    /// With a consumer.
    Flight {
        consumer: ConsumerId,
        stamp: u64,
        until: Duration,
    },
    /// Waits for a time.
    Later(Duration),
    /// Being read.
    Reading,
    /// To be read.
    Wanted,
}

impl Scene<'_> {
    /// When the calendar will say this.
    pub(super) fn mono(&self, at: UnixMillis) -> Duration {
        let left = Duration::from_millis(at.0.saturating_sub(self.now.wall.0));
        self.now.mono.saturating_add(left)
    }

    /// What the key of a message is known by, if its topic is ordered.
    pub(super) fn key_of(&self, message: &Message) -> Option<u64> {
        let key = message.key.as_ref().filter(|_| self.topic.rules.ordered);
        key.map(keys::hash)
    }

    /// Not paused.
    fn goes(&self, pause: Option<&Pause>) -> bool {
        let over = |pause: &Pause| pause.is_over(self.now.wall);
        pause.is_none_or(over) && self.topic.pause.as_ref().is_none_or(over)
    }
}

impl Facts {
    pub(super) fn of(key: Option<u64>, message: &Message) -> Self {
        Self {
            key,
            deadline: message.deadline,
            accepted_at: message.accepted_at,
            bytes: message.bytes(),
        }
    }
}

impl Group {
    /// A group that is done with what `done` says. `sweep`: some of what it is not done with may have expired.
    pub(super) fn new(name: GroupName, topic: usize, (done, books): (Settled, Books), sweep: bool) -> Self {
        let mut feed = Feed::default();
        feed.begin(done.frontier() + 1, sweep.then_some(Duration::ZERO));
        Self {
            name,
            topic,
            done,
            books,
            pause: None,
            held: None,
            consumers: Consumers::default(),
            failures: BTreeMap::new(),
            unsaved: Vec::new(),
            leaving: BTreeSet::new(),
            given_up: Vec::new(),
            feed,
            keys: Keys::default(),
            open: BTreeMap::new(),
            retries: Retries::default(),
            dooms: BTreeMap::new(),
            freed: Vec::new(),
            overdue: VecDeque::new(),
            stamp: 0,
        }
    }

    /// Does what has become possible or due. Returns when there will be more to do.
    pub(super) fn step(&mut self, scene: &Scene<'_>, dice: &mut fastrand::Rng, fx: &mut Effects) -> Option<Duration> {
        self.consumers.wake(scene.now.mono);
        self.take_overdue(scene, dice, fx);
        self.call_due(scene.now.mono);
        self.go_on(scene, fx);
        // First out, then away: what consumers have room for is not dropped, and nothing is dropped again before that (V2).
        self.serve(scene, fx);
        if self.make_room(scene, fx) {
            self.serve(scene, fx);
        }
        self.read_wanted(scene, fx);
        self.next_wake(scene)
    }

    /// Hands out what can be.
    fn serve(&mut self, scene: &Scene<'_>, fx: &mut Effects) {
        if self.consumers.is_empty() {
            return self.sweep(scene, fx);
        }
        self.fill(scene, fx);
        while self.hand_out(scene, fx) {
            self.fill(scene, fx);
        }
    }

    /// Whether messages are handed out.
    pub(super) fn is_active(&self, scene: &Scene<'_>) -> bool {
        !self.consumers.is_empty() && self.held.is_none() && scene.goes(self.pause.as_ref())
    }

    /// Messages that wait for a time, for a read, for an operator, or behind another one.
    pub(super) fn parked(&self) -> usize {
        self.keys.behind() + self.waiting()
    }

    /// Those of them that do not wait behind another one.
    pub(super) fn waiting(&self) -> usize {
        self.open.len() - self.consumers.in_flight() - self.dooms.len()
    }

    /// A message of the line is looked at for the first time since the group began.
    pub(super) fn take(&mut self, scene: &Scene<'_>, seq: Seq, message: Message, fx: &mut Effects) {
        if let Some((facts, message)) = self.meet(scene, seq, message) {
            self.open_up(scene, seq, facts, message, fx);
        }
    }

    /// A message that the group is not done with joins those of its key; it comes back if it is the first of them.
    pub(super) fn meet(&mut self, scene: &Scene<'_>, seq: Seq, message: Message) -> Option<(Facts, Message)> {
        if self.done.contains(seq) || self.is_doomed(seq) {
            return None;
        }
        let key = scene.key_of(&message);
        let facts = Facts::of(key, &message);
        let first = match key {
            Some(key) => self.keys.enter(key, seq, message),
            None => Some(message),
        };
        first.map(|message| (facts, message))
    }

    /// Lets the next message of each key go whose open one has ended.
    pub(super) fn go_on(&mut self, scene: &Scene<'_>, fx: &mut Effects) {
        while let Some(key) = self.freed.pop() {
            let Some(Next { seq, message }) = self.keys.leave(key, &self.done) else {
                continue;
            };
            if let Some(message) = message {
                let facts = Facts::of(Some(key), &message);
                self.open_up(scene, seq, facts, message, fx);
            } else {
                let key = Some(key);
                self.want(
                    seq,
                    Facts {
                        key,
                        ..Facts::default()
                    },
                );
            }
        }
    }

    /// It is the turn of a message, but it may have failed before a restart.
    fn open_up(&mut self, scene: &Scene<'_>, seq: Seq, facts: Facts, message: Message, fx: &mut Effects) {
        if let Some(failure) = self.failures.get_mut(&seq) {
            failure.key = facts.key;
            let Failure { failed, not_before, .. } = *failure;
            if failed < scene.topic.rules.attempts() && not_before > scene.now.wall {
                return self.park(scene, seq, facts, scene.mono(not_before));
            }
        }
        self.prepare(scene, seq, facts, message, fx);
    }

    /// It is the turn of a message now.
    pub(super) fn prepare(&mut self, scene: &Scene<'_>, seq: Seq, facts: Facts, message: Message, fx: &mut Effects) {
        if message.is_expired(scene.now.wall) && !planted(Bug::DeliveredLate) {
            self.expire(scene, seq, facts, message, fx);
        } else if facts.key.is_some_and(|key| self.keys.rest.contains(&key)) {
            let doom = self.doom_of(scene, seq, "rest_of_key", String::new());
            self.kill(scene, (seq, facts), message, doom, fx);
        } else if self.failed(seq) >= scene.topic.rules.attempts() {
            let error = "the attempts had run out".to_owned();
            self.exhaust(scene, (seq, facts), Some(message), error, fx);
        } else {
            self.feed.push_ready(Ready { seq, facts, message });
        }
    }

    /// A consumer has gone: what it has goes to others at once, or is forgotten until one comes.
    pub(super) fn remove_consumer(&mut self, scene: &Scene<'_>, id: ConsumerId) {
        let theirs = |open: &Open| matches!(open.place, Place::Flight { consumer, .. } if consumer == id);
        let flights = self.open.iter().filter(|(_, open)| theirs(open));
        let flights: Vec<_> = flights.map(|(seq, open)| (*seq, open.facts)).collect();
        if !self.consumers.remove(id) {
            return;
        }
        for (seq, facts) in flights {
            self.want(seq, facts);
        }
        if self.consumers.is_empty() {
            self.rewind(scene);
        }
    }

    /// Begins again at the frontier (G3).
    fn rewind(&mut self, scene: &Scene<'_>) {
        self.open.retain(|_, open| matches!(open.place, Place::Dying));
        let dying: BTreeSet<u64> = self.open.values().filter_map(|open| open.facts.key).collect();
        self.keys.rewind(&dying);
        self.retries.wanted.clear();
        self.retries.later.retain(|(_, seq)| self.dooms.contains_key(seq));
        self.overdue.clear();
        let sweep_at = scene.topic.deadlines.then_some(scene.now.mono);
        self.feed.begin(self.done.frontier() + 1, sweep_at);
    }

    fn next_wake(&self, scene: &Scene<'_>) -> Option<Duration> {
        let resumes = |pause: Option<&Pause>| Some(scene.mono(UnixMillis(pause?.until?)));
        let times = [
            self.retries.later.first().map(|(at, _)| *at),
            self.overdue.front().map(|(at, _)| *at),
            self.consumers.next_wake(),
            self.feed.next_wake(scene.now.mono),
            self.feed.sweep_at.filter(|_| self.consumers.is_empty()),
            resumes(self.pause.as_ref()),
            resumes(scene.topic.pause.as_ref()),
        ];
        // What is due and was not done waits for something else than time.
        times.into_iter().flatten().filter(|at| *at > scene.now.mono).min()
    }

    /// Attempts of a message that failed.
    pub(super) fn failed(&self, seq: Seq) -> u32 {
        self.failures.get(&seq).map_or(0, |failure| failure.failed)
    }

    /// What became of a number, in the words of `operator::Peeked`, and how often it failed.
    pub(super) fn look(&self, scene: &Scene<'_>, seq: Seq) -> (&'static str, u32) {
        let failed = self.failed(seq);
        let word = match self.open.get(&seq).map(|open| open.place) {
            _ if self.done.contains(seq) => "done",
            Some(Place::Flight { .. } | Place::Dying) => "in_flight",
            Some(Place::Blocked(_)) => "blocked",
            _ if failed >= scene.topic.rules.attempts() => "blocked",
            _ if failed > 0 => "retrying",
            _ => "waiting",
        };
        (word, failed)
    }

    /// Milliseconds since about when the oldest message was accepted that is not done.
    pub(super) fn oldest(&self, scene: &Scene<'_>) -> Option<u64> {
        let oldest = self.done.frontier() + 1;
        let pending = oldest <= scene.topic.stored;
        pending.then(|| scene.topic.ages.age(oldest, scene.now.wall)).flatten()
    }

    /// When a pause of so long from now on ends, by the calendar.
    pub(super) fn not_before(scene: &Scene<'_>, pause: Duration) -> UnixMillis {
        UnixMillis(scene.now.wall.0.saturating_add(millis(pause)))
    }
}
