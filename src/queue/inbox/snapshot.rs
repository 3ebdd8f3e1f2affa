//! The state of the inbox as a restart needs it. What is in flight, ready or behind a key is not part of it: a group
//! begins again at its frontier.

use serde::{Deserialize, Serialize};

use super::Inbox;
use super::books::Books;
use super::group::Group;
use super::retries::Failure;
use super::topic::{Ages, Rules, TopicState};
use crate::model::{GroupName, Seq, Topic, UnixMillis};
use crate::queue::TopicSettings;
use crate::queue::line::Settled;
use crate::queue::record::Pause;

/// State of the inbox.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct InboxSnapshot {
    topics: Vec<TopicPart>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct TopicPart {
    name: Topic,
    stored: Seq,
    ages: Ages,
    deadlines: bool,
    pause: Option<Pause>,
    groups: Vec<GroupPart>,
    heir: Option<GroupName>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct GroupPart {
    name: GroupName,
    /// `Settled::to_bytes`.
    done: Vec<u8>,
    books: Books,
    failures: Vec<FailurePart>,
    rest: Vec<u64>,
    pause: Option<Pause>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct FailurePart {
    seq: Seq,
    failed: u32,
    first: u64,
    not_before: u64,
    key: Option<u64>,
}

impl Inbox {
    /// The state as far as it is decided; records of it may still be on their way to the disk.
    pub fn snapshot(&mut self) -> InboxSnapshot {
        for topic in &mut self.topics {
            let groups = topic.groups.iter().filter_map(|at| self.groups.get(*at)?.as_ref());
            let frontier = groups.map(|group| group.done.frontier()).min();
            topic.ages.forget_below(frontier.unwrap_or(0) + 1);
        }
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let part = |topic: &TopicState| TopicPart {
            name: topic.name.clone(),
            stored: topic.stored,
            ages: topic.ages.clone(),
            deadlines: topic.deadlines,
            pause: topic.pause.clone(),
            groups: topic
                .groups
                .iter()
                .filter_map(|at| Some(self.groups.get(*at)?.as_ref()?.part()))
                .collect(),
            heir: topic
                .heir
                .and_then(|at| Some(self.groups.get(at)?.as_ref()?.name.clone())),
        };
        InboxSnapshot {
            topics: topics.into_iter().map(part).collect(),
        }
    }

    /// Takes over a state, before any message. `false` if it is broken.
    pub fn restore(&mut self, snapshot: InboxSnapshot) -> bool {
        for part in snapshot.topics {
            let rules = TopicSettings::of(&self.settings, &part.name);
            let rules = rules.map_or_else(|| Rules::of(&TopicSettings::default()), Rules::of);
            let mut topic = TopicState::new(&part.name, rules);
            topic.stored = part.stored;
            topic.next = part.stored + 1;
            topic.ages = part.ages;
            topic.deadlines = part.deadlines;
            topic.pause = part.pause;
            let at = self.topics.len();
            self.add_topic(topic);
            self.undeclared.insert(at);
            for group in part.groups {
                let Some(group) = group.group(at, part.deadlines) else {
                    return false;
                };
                let heir = part.heir.as_ref() == Some(&group.name);
                let place = self.add_group(at, group);
                if let Some(topic) = self.topics.get_mut(at).filter(|_| heir) {
                    topic.heir = Some(place);
                }
            }
        }
        true
    }
}

impl Group {
    fn part(&self) -> GroupPart {
        let failure = |(seq, failure): (&Seq, &Failure)| FailurePart {
            seq: *seq,
            failed: failure.failed,
            first: failure.first.0,
            not_before: failure.not_before.0,
            key: failure.key,
        };
        GroupPart {
            name: self.name.clone(),
            done: self.done.to_bytes(),
            books: self.books,
            failures: self.failures.iter().map(failure).collect(),
            rest: self.keys.rest.iter().copied().collect(),
            pause: self.pause.clone(),
        }
    }
}

impl GroupPart {
    fn group(self, topic: usize, sweep: bool) -> Option<Group> {
        let done = Settled::from_bytes(&self.done)?;
        let mut group = Group::new(self.name, topic, (done, self.books), sweep);
        group.pause = self.pause;
        group.keys.rest = self.rest.into_iter().collect();
        for part in self.failures {
            let failure = Failure {
                failed: part.failed,
                first: UnixMillis(part.first),
                not_before: UnixMillis(part.not_before),
                key: part.key,
            };
            group.failures.insert(part.seq, failure);
        }
        Some(group)
    }
}
