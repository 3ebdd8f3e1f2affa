//! Topics and groups come to be, consumers join and leave.

use super::books::Books;
use super::group::{Group, Scene};
use super::topic::{Rules, TopicState};
use super::{Inbox, TopicSettings};
use crate::model::{GroupName, Name, Reason, RelayError, Retry, Seq, Topic};
use crate::queue::api::{ConsumerId, Output, Subscribe};
use crate::queue::effects::{Effects, Now};
use crate::queue::line::Settled;
use crate::queue::record::{Kept, Record};

impl Inbox {
    /// A consumer wants messages of a group; the group is made if it is not there.
    pub fn subscribe(&mut self, now: Now, subscribe: Subscribe, fx: &mut Effects) {
        let Subscribe {
            consumer,
            shard,
            ticket,
            topic,
            group,
            in_flight_max,
        } = subscribe;
        self.unsubscribe(now, consumer);
        let topic = self.topic_at(&topic);
        if let Err(error) = self.may_join(topic, &group) {
            let result = Err(Box::new(error));
            return fx.output(Output::Subscribed { ticket, result });
        }
        let answer = Output::Subscribed { ticket, result: Ok(()) };
        let at = if let Some(at) = self.member(topic, &group) {
            fx.output(answer);
            at
        } else {
            let at = self.make_group(topic, &group, fx);
            fx.then(answer);
            at
        };
        self.homes.insert(consumer, at);
        self.act(at, now, |group, _| group.consumers.add(consumer, shard, in_flight_max));
    }

    /// A consumer goes; what it has is handed to others and does not count as an attempt.
    pub fn unsubscribe(&mut self, now: Now, consumer: ConsumerId) {
        if let Some(at) = self.homes.remove(&consumer) {
            self.act(at, now, |group, scene| group.remove_consumer(scene, consumer));
        }
    }

    /// A group was made or removed, as a record says after a restart. Other things that are kept are not for the inbox,
    /// but for pauses of it and keys of groups.
    pub fn on_kept(&mut self, now: Now, kept: &Kept) {
        match kept {
            Kept::Group { topic, group, first } => {
                let topic = self.topic_at(topic);
                self.ensure_group(topic, group, *first);
            }
            Kept::GroupGone { topic, group } => self.remove_group(topic, group),
            Kept::Pause { what, pause } => self.pause(what, pause.clone()),
            Kept::RestOfKey { topic, group, key, on } => {
                if let Some(at) = self.find(topic, group) {
                    self.act(at, now, |group, _| match on {
                        true => group.keys.rest.insert(*key),
                        false => group.keys.rest.remove(key),
                    });
                }
            }
            Kept::Closed | Kept::Limits { .. } | Kept::Stays { .. } | Kept::Task(_) => {}
        }
    }

    /// The place of a topic, which is made if it is new.
    pub(super) fn topic_at(&mut self, topic: &Topic) -> usize {
        if let Some(at) = self.by_name.get(topic) {
            return *at;
        }
        let at = self.topics.len();
        let rules =
            TopicSettings::of(&self.settings, topic).map_or_else(|| Rules::of(&TopicSettings::default()), Rules::of);
        self.add_topic(TopicState::new(topic, rules));
        self.add_group(
            at,
            Group::new(nobody(), at, (Settled::default(), Books::default()), false),
        );
        self.undeclared.insert(at);
        at
    }

    pub(super) fn add_topic(&mut self, topic: TopicState) {
        self.by_name.insert(topic.name.clone(), self.topics.len());
        self.topics.push(topic);
    }

    pub(super) fn add_group(&mut self, topic: usize, group: Group) -> usize {
        let at = self.groups.len();
        self.groups.push(Some(group));
        self.queued.push(false);
        self.wake_of.push(None);
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.groups.push(at);
        }
        self.sort_groups(topic);
        self.schedule(at);
        at
    }

    /// The place of a group, or of the heir of the one that stands for none.
    pub(super) fn find(&self, topic: &Topic, group: &GroupName) -> Option<usize> {
        self.member_or_heir(*self.by_name.get(topic)?, group)
    }

    /// The same, for a record that says what became of a number. So that was given, even if the record of its message is
    /// damaged and nothing else is known of the topic yet: nobody may take it for lost later, or give it again.
    pub(super) fn find_named(&mut self, topic: &Topic, group: &GroupName, seq: Seq) -> Option<usize> {
        let at = self.topic_at(topic);
        self.on_given_at(at, seq);
        self.member_or_heir(at, group)
    }

    /// The only group that is to have a message; it is made if it was removed. `None`: all are to have it.
    pub(super) fn receiver(&mut self, topic: usize, group: &GroupName, first: Seq) -> Option<usize> {
        let known = self.member_or_heir(topic, group);
        if group.as_str() == NOBODY {
            return known;
        }
        known.or_else(|| Some(self.ensure_group(topic, group, first)))
    }

    fn member_or_heir(&self, topic: usize, group: &GroupName) -> Option<usize> {
        let heir = || self.topics.get(topic).filter(|_| group.as_str() == NOBODY)?.heir;
        self.member(topic, group).or_else(heir)
    }

    fn member(&self, topic: usize, group: &GroupName) -> Option<usize> {
        let groups = &self.topics.get(topic)?.groups;
        let named = |at: &&usize| {
            self.groups
                .get(**at)
                .is_some_and(|slot| slot.as_ref().is_some_and(|it| it.name == *group))
        };
        groups.iter().find(named).copied()
    }

    fn may_join(&self, topic: usize, group: &GroupName) -> Result<(), RelayError> {
        if group.as_str() == NOBODY {
            let detail = "no group can have the name \"-\"; choose another one";
            return Err(RelayError::new(Reason::BadInput, Retry::Never, detail));
        }
        let members = self.topics.get(topic).map_or(0, |topic| topic.groups.len());
        if members >= GROUPS_MAX && self.member(topic, group).is_none() {
            let detail = "the topic has as many groups as a relay allows (1000); use one of them";
            return Err(RelayError::new(Reason::Limited, Retry::Never, detail));
        }
        Ok(())
    }

    /// Makes groups that the settings declare.
    pub(super) fn declare_groups(&mut self, fx: &mut Effects) {
        for at in std::mem::take(&mut self.undeclared) {
            let Some(topic) = self.topics.get(at) else {
                continue;
            };
            let settings = std::sync::Arc::clone(&self.settings);
            let Some(settings) = TopicSettings::of(&settings, &topic.name) else {
                continue;
            };
            for group in settings.groups.keys() {
                if self.member(at, group).is_none() && self.may_join(at, group).is_ok() {
                    self.make_group(at, group, fx);
                }
            }
        }
    }

    /// Makes a group that gets all that the topic still has, and writes that down. What other groups have ended goes into
    /// the log before, so that the same comes out of it.
    fn make_group(&mut self, topic: usize, group: &GroupName, fx: &mut Effects) -> usize {
        self.save(fx);
        let at = self.ensure_group(topic, group, 1);
        let made = self.groups.get(at).and_then(Option::as_ref);
        if let (Some(topic), Some(made)) = (self.topics.get(topic), made) {
            fx.record(Record::Kept(Box::new(Kept::Group {
                topic: topic.name.clone(),
                group: group.clone(),
                first: made.done.frontier() + 1,
            })));
        }
        at
    }

    /// Makes a group if it is not there, done with all numbers below `first` and with those that all others are done with.
    pub(super) fn ensure_group(&mut self, topic: usize, group: &GroupName, first: Seq) -> usize {
        if let Some(at) = self.member(topic, group) {
            return at;
        }
        if let Some(at) = self.member(topic, &nobody())
            && let Some(Some(waiting)) = self.groups.get_mut(at)
        {
            waiting.name = group.clone();
            if let Some(topic) = self.topics.get_mut(topic) {
                topic.heir = Some(at);
            }
            self.sort_groups(topic);
            self.schedule(at);
            return at;
        }
        let mut done = self.ended_by_all(topic);
        done.insert_range(1, first.saturating_sub(1));
        let state = self.topics.get(topic);
        let stored = state.map_or(0, |topic| topic.stored);
        let mut books = Books {
            accepted: stored.saturating_sub(done.done_between(1, stored)),
            ..Books::default()
        };
        let others = state.into_iter().flat_map(|topic| &topic.groups);
        let others = others.filter_map(|at| self.groups.get(*at)?.as_ref());
        let mean = others
            .map(|other| other.books.bytes / other.books.pending().max(1))
            .max();
        books.bytes = books.accepted.saturating_mul(mean.unwrap_or(0));
        let sweep = state.is_some_and(|topic| topic.deadlines);
        self.add_group(topic, Group::new(group.clone(), topic, (done, books), sweep))
    }

    /// Numbers that all groups of a topic are done with.
    pub(super) fn done_by_all(&self, topic: usize) -> Settled {
        self.common(topic, |group| group.done.clone())
    }

    /// The same, with those that records on their way to the disk will end: they come before the record of a new group.
    fn ended_by_all(&self, topic: usize) -> Settled {
        self.common(topic, |group| {
            let mut ended = group.done.clone();
            for seq in group.written_dooms() {
                ended.insert(seq);
            }
            ended
        })
    }

    /// Numbers that all groups agree on.
    fn common(&self, topic: usize, of: impl Fn(&Group) -> Settled) -> Settled {
        let groups = self.topics.get(topic).into_iter().flat_map(|topic| &topic.groups);
        let all = groups.filter_map(|at| self.groups.get(*at)?.as_ref());
        let common = all.map(of).reduce(|common, of| common.common(&of));
        common.unwrap_or_default()
    }

    /// An operator removes a group.
    pub fn forget_group(&mut self, topic: &Topic, group: &GroupName, fx: &mut Effects) {
        self.save(fx);
        self.remove_group(topic, group);
        let (topic, group) = (topic.clone(), group.clone());
        fx.record(Record::Kept(Box::new(Kept::GroupGone { topic, group })));
    }

    /// What a removed group is not done with nobody will get.
    fn remove_group(&mut self, topic: &Topic, group: &GroupName) {
        let Some(at) = self.find(topic, group) else {
            return;
        };
        self.homes.retain(|_, home| *home != at);
        self.unsaved.remove(&at);
        let Some(group) = self.groups.get_mut(at).and_then(Option::take) else {
            return;
        };
        let Some(topic) = self.topics.get_mut(group.topic) else {
            return;
        };
        topic.groups.retain(|member| *member != at);
        topic.heir = topic.heir.filter(|heir| *heir != at);
        if topic.groups.is_empty() {
            let done = Settled::up_to(topic.stored);
            let nobody = Group::new(nobody(), group.topic, (done, Books::default()), false);
            self.add_group(group.topic, nobody);
        }
    }

    /// By name, so that nothing depends on which came first.
    fn sort_groups(&mut self, topic: usize) {
        let groups = &self.groups;
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.groups.sort_by(|a, b| {
                let name = |at: &usize| groups.get(*at).and_then(Option::as_ref).map(|group| &group.name);
                name(a).cmp(&name(b))
            });
        }
    }

    /// Looks at a group.
    pub(super) fn look_at<T>(&self, now: Now, at: usize, look: impl FnOnce(&Group, &Scene<'_>) -> T) -> Option<T> {
        let group = self.groups.get(at)?.as_ref()?;
        let topic = self.topics.get(group.topic)?;
        let parked_max = self.parked_max;
        let scene = Scene {
            now,
            place: at,
            topic,
            parked_max,
        };
        Some(look(group, &scene))
    }
}

#[expect(clippy::expect_used, reason = "a constant that fits the rule")]
pub(super) fn nobody() -> GroupName {
    Name::new(NOBODY).expect("a constant name is valid")
}

/// The group of a topic that has none.
const NOBODY: &str = "-";
/// Groups of a topic.
const GROUPS_MAX: usize = 1000;
