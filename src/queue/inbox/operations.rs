//! What operators do to the inbox and see of it, what the log asks, and what records say after a restart.

use super::Inbox;
use super::group::{Group, Scene};
use super::keys;
use crate::model::{GapReason, GroupName, Key, Seq, Topic, UnixMillis};
use crate::queue::effects::{Effects, Now};
use crate::queue::line::Settled;
use crate::queue::operator::{AuditRow, GroupStatus};
use crate::queue::record::{Pausable, Pause};

impl Inbox {
    /// Stops deliveries of a group or a topic, or lets them go on (M-H3). What consumers have they may still settle.
    pub fn pause(&mut self, what: &Pausable, pause: Option<Pause>) {
        match what {
            Pausable::Group { topic, group } => {
                let at = self.find(topic, group);
                let Some((at, Some(Some(group)))) = at.map(|at| (at, self.groups.get_mut(at))) else {
                    return;
                };
                group.pause = pause;
                self.schedule(at);
            }
            Pausable::Topic { topic } => {
                let at = self.topic_at(topic);
                let Some(topic) = self.topics.get_mut(at) else {
                    return;
                };
                topic.pause = pause;
                for at in topic.groups.clone() {
                    self.schedule(at);
                }
            }
            Pausable::Calls { .. } | Pausable::Redrive { .. } | Pausable::Unit { .. } => {}
        }
    }

    /// Holds a group back whose dead letters find no room, or lets it go on (M-E4).
    pub fn hold(&mut self, topic: &Topic, group: &GroupName, held: Option<Pause>) {
        if let Some(at) = self.find(topic, group)
            && let Some(Some(group)) = self.groups.get_mut(at)
        {
            group.held = held;
            self.schedule(at);
        }
    }

    /// Lets blocked keys of a group go on, or one of them: their first message is tried again, the others follow in their
    /// order (M-C1). Returns how many.
    pub fn unblock(&mut self, now: Now, topic: &Topic, group: &GroupName, key: Option<&Key>, fx: &mut Effects) -> u64 {
        let key = key.map(keys::hash);
        let at = self.find(topic, group);
        let unblocked = at.and_then(|at| self.act(at, now, |group, scene| group.unblock(scene, key, fx)));
        unblocked.unwrap_or(0)
    }

    /// Messages go for another reason than a consumer, for one group or for all (M-H2). What is on its way to the dead
    /// letters stays. Returns how many a group had, summed over the groups.
    pub fn gone(
        &mut self,
        now: Now,
        (topic, group): (&Topic, Option<&GroupName>),
        seqs: &[Seq],
        reason: GapReason,
        fx: &mut Effects,
    ) -> u64 {
        let Some(topic) = self.by_name.get(topic).and_then(|at| self.topics.get(*at)) else {
            return 0;
        };
        let members = topic.groups.clone();
        let mut count = 0;
        for at in members {
            let gone = self.act(at, now, |member, scene| {
                if group.is_some_and(|group| *group != member.name) {
                    return 0;
                }
                member.remove(scene, seqs, reason, fx)
            });
            count += u64::try_from(gone.unwrap_or(0)).unwrap_or(u64::MAX);
        }
        count
    }

    /// Whether all groups of a topic are done with a number (I4).
    pub fn is_done(&self, topic: &Topic, seq: Seq) -> bool {
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        topic.is_some_and(|topic| self.all_done(topic, seq))
    }

    /// Whether a group has failed with a number and will be given it again.
    pub fn is_tried_again(&self, topic: &Topic, seq: Seq) -> bool {
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        let groups = topic.into_iter().flat_map(|topic| &topic.groups);
        let mut groups = groups.filter_map(|at| self.groups.get(*at)?.as_ref());
        groups.any(|group| group.failures.contains_key(&seq))
    }

    /// How many of these numbers all groups of a topic are done with: exact if it is all of them or if there is one group,
    /// else rather too many.
    pub fn done_between(&self, topic: &Topic, from: Seq, to: Seq) -> u64 {
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        let groups = topic.into_iter().flat_map(|topic| &topic.groups);
        let groups = groups.filter_map(|at| self.groups.get(*at)?.as_ref());
        groups.map(|group| group.done.done_between(from, to)).min().unwrap_or(0)
    }

    /// The highest number of a topic that is on disk.
    pub fn last_stored(&self, topic: &Topic) -> Seq {
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        topic.map_or(0, |topic| topic.stored)
    }

    /// The lowest number of a topic that some group is not done with, and the highest that was given.
    pub fn span(&self, topic: &Topic) -> (Seq, Seq) {
        let Some(topic) = self.by_name.get(topic).and_then(|at| self.topics.get(*at)) else {
            return (1, 0);
        };
        let groups = topic.groups.iter().filter_map(|at| self.groups.get(*at)?.as_ref());
        let done = groups.map(|group| group.done.frontier()).min().unwrap_or_default();
        (done + 1, topic.next - 1)
    }

    /// Whether a group is there; `false` for the one that stands for none.
    pub fn has_group(&self, topic: &Topic, group: &GroupName) -> bool {
        *group != super::membership::nobody() && self.find(topic, group).is_some()
    }

    /// How many consumers a group has, and how many messages it is not done with.
    pub fn size(&self, topic: &Topic, group: &GroupName) -> Option<(usize, u64)> {
        let at = self.find(topic, group)?;
        self.look_at(Now::default(), at, |group, _| {
            (group.consumers.len(), group.books.pending())
        })
    }

    /// What became of a number in a group, in the words of `operator::Peeked`, and how often it failed.
    pub fn look(&self, now: Now, topic: &Topic, group: &GroupName, seq: Seq) -> (&'static str, u32) {
        let at = self.find(topic, group);
        let seen = at.and_then(|at| self.look_at(now, at, |group, scene| group.look(scene, seq)));
        seen.unwrap_or(("waiting", 0))
    }

    /// All groups, by topic and name.
    pub fn status(&self, now: Now) -> Vec<GroupStatus> {
        let groups = self.in_order();
        groups.filter_map(|at| self.look_at(now, at, Group::status)).collect()
    }

    /// The books of all groups, by topic and name; without what is pending.
    pub fn books(&self) -> Vec<AuditRow> {
        let groups = self.in_order();
        let row = |at| {
            self.look_at(Now::default(), at, |group, scene| {
                group.books.row(&scene.topic.name, &group.name)
            })
        };
        groups.filter_map(row).collect()
    }

    /// How many messages the books of groups and the numbers that they are not done with disagree about (M-G8). Looks at
    /// memory only.
    pub fn imbalance(&self) -> u64 {
        let groups = self.groups.iter().flatten();
        let off = groups.filter_map(|group| {
            let stored = self.topics.get(group.topic)?.stored;
            let open = stored - group.done.done_between(1, stored);
            Some(group.books.balance().abs_diff(i64::try_from(open).unwrap_or(i64::MAX)))
        });
        off.fold(0, u64::saturating_add)
    }

    /// Places of all groups, by topic and name.
    pub(super) fn in_order(&self) -> impl Iterator<Item = usize> {
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics.into_iter().flat_map(|topic| topic.groups.iter().copied())
    }

    /// A group was done with messages before a restart.
    pub fn on_settled(&mut self, topic: &Topic, group: &GroupName, seqs: &[(Seq, Seq)], reason: Option<GapReason>) {
        let highest = seqs.iter().map(|(_, to)| *to).max();
        if let Some(at) = self.find_named(topic, group, highest.unwrap_or_default())
            && let Some(Some(group)) = self.groups.get_mut(at)
        {
            group.on_settled(seqs, reason);
        }
    }

    /// The record of ends is on disk, just now: what was dropped or purged cannot come back any more.
    pub fn on_left(&mut self, now: Now, topic: &Topic, group: &GroupName, seqs: &[(Seq, Seq)]) {
        if let Some(at) = self.find(topic, group) {
            self.act(at, now, |group, _| group.on_left(seqs));
        }
    }

    /// A group had failed a message before a restart.
    pub fn on_attempt(
        &mut self,
        (topic, group): (&Topic, &GroupName),
        (seq, key): (Seq, Option<u64>),
        failed: u32,
        not_before: UnixMillis,
    ) {
        if let Some(at) = self.find_named(topic, group, seq)
            && let Some(Some(group)) = self.groups.get_mut(at)
        {
            group.on_attempt((seq, key), failed, not_before);
        }
    }
}

impl Group {
    fn status(&self, scene: &Scene<'_>) -> GroupStatus {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let attempts = scene.topic.rules.attempts();
        let blocked = self
            .failures
            .values()
            .filter(|failure| failure.failed >= attempts)
            .count();
        let retrying = if self.consumers.is_empty() {
            self.failures.len()
        } else {
            self.waiting()
        };
        let mut paused = [&self.pause, &scene.topic.pause, &self.held].into_iter().flatten();
        GroupStatus {
            topic: scene.topic.name.to_string(),
            group: self.name.to_string(),
            consumers: count(self.consumers.len()),
            pending: self.books.pending(),
            in_flight: count(self.consumers.in_flight()),
            retrying: count(retrying.saturating_sub(blocked)),
            behind: count(self.keys.behind()),
            blocked_keys: count(blocked + self.keys.rest.len()),
            oldest_ms: self.oldest(scene),
            pause: paused.find(|pause| !pause.is_over(scene.now.wall)).cloned(),
        }
    }
}

impl Inbox {
    /// What each group of a topic is done with, by name.
    pub fn done(&self, topic: &Topic) -> Vec<(GroupName, Settled)> {
        let topic = self.by_name.get(topic).and_then(|at| self.topics.get(*at));
        let groups = topic.into_iter().flat_map(|topic| &topic.groups);
        let groups = groups.filter_map(|at| self.groups.get(*at)?.as_ref());
        groups.map(|group| (group.name.clone(), group.done.clone())).collect()
    }

    /// What all groups of a topic are done with.
    pub fn done_by_all_groups(&self, topic: &Topic) -> Settled {
        self.by_name
            .get(topic)
            .map_or_else(Settled::default, |at| self.done_by_all(*at))
    }
}
