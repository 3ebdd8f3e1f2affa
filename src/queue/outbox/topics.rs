//! The topics that messages to a unit have had, and what is known about each.

use xxhash_rust::xxh3::xxh3_64;

use super::books::Books;
use super::keys::{self, NO_KEY};
use crate::model::{Map, Message, Topic};
use crate::queue::{OnExpiry, Overflow, ReplayOrder, TopicSettings, Topics};

/// Place of a topic in the [`Table`].
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct TopicId(usize);

/// A topic, as its messages to one unit see it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: Topic,
    hash: u64,
    pub(super) rules: Rules,
    pub(super) books: Books,
    /// Bytes of all messages that are not done.
    pub(super) bytes: u64,
    /// Messages in the live window.
    pub(super) live: u64,
    /// Messages in the backlog, those on their way included.
    pub(super) backlog: u64,
    /// Those of the backlog that are on their way.
    pub(super) flying: u64,
    /// Messages that will not be sent, as soon as that is on disk.
    pub(super) ending: u64,
    /// Messages that have a number and are not on disk yet, and their bytes; only of topics with a limit.
    pub(super) promised: (u64, u64),
    /// The cursor that reads its backlog.
    pub(super) cursor: u32,
    /// An operator stopped it.
    pub(super) paused: bool,
    /// It is full there, and rests.
    pub(super) rests: bool,
}

/// What the settings say about a topic.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are four settings")]
pub(super) struct Rules {
    pub(super) ordered: bool,
    pub(super) newest_first: bool,
    pub(super) dead_letter: bool,
    pub(super) drop_oldest: bool,
    pub(super) bytes_max: u64,
    pub(super) messages_max: u64,
}

/// All topics. One that was seen stays: there are few.
#[derive(Debug)]
pub(super) struct Table {
    list: Vec<State>,
    by_name: Map<Topic, TopicId>,
    last: TopicId,
}

impl State {
    fn new(name: Topic) -> Self {
        Self {
            hash: xxh3_64(name.as_str().as_bytes()),
            name,
            rules: Rules::default(),
            books: Books::default(),
            bytes: 0,
            live: 0,
            backlog: 0,
            flying: 0,
            ending: 0,
            promised: (0, 0),
            cursor: 0,
            paused: false,
            rests: false,
        }
    }

    /// Messages that are not done.
    pub(super) fn waiting(&self) -> u64 {
        self.live + self.backlog + self.ending
    }

    /// Whether nothing of it may go.
    pub(super) fn stops(&self) -> bool {
        self.paused || self.rests
    }

    /// Bytes of one message, on average.
    pub(super) fn mean_bytes(&self) -> u64 {
        self.bytes / self.waiting().max(1)
    }

    /// The key of a message as a number; [`NO_KEY`] if its order does not matter.
    pub(super) fn key_of(&self, message: &Message) -> u64 {
        match &message.key {
            Some(key) if self.rules.ordered => keys::hash_of(self.hash, key),
            _ => NO_KEY,
        }
    }

    /// How many messages, and how many bytes, are beyond its limits.
    pub(super) fn excess(&self) -> (u64, u64) {
        let beyond = |number: u64, max: u64| if max == 0 { 0 } else { number.saturating_sub(max) };
        let messages = self.live + self.backlog;
        let bytes = self.bytes.saturating_sub(self.ending * self.mean_bytes());
        (
            beyond(messages, self.rules.messages_max),
            beyond(bytes, self.rules.bytes_max),
        )
    }

    /// Whether some of its messages must make room for others.
    pub(super) fn is_over(&self) -> bool {
        self.rules.drop_oldest && self.excess() != (0, 0)
    }
}

impl Rules {
    /// The rules of a topic.
    pub(super) fn of(topics: &Topics, topic: &Topic) -> Self {
        let defaults = TopicSettings::default();
        let settings = TopicSettings::of(topics, topic).unwrap_or(&defaults);
        Self {
            ordered: settings.ordered,
            newest_first: !settings.ordered && settings.replay_order == ReplayOrder::NewestFirst,
            dead_letter: settings.on_expiry == OnExpiry::DeadLetter,
            drop_oldest: settings.overflow == Overflow::DropOldest,
            bytes_max: settings.bytes_max.as_u64(),
            messages_max: settings.messages_max,
        }
    }
}

impl Table {
    /// One with only the topic that stands for those of damaged records.
    pub(super) fn new() -> Self {
        let mut table = Self {
            list: Vec::new(),
            by_name: Map::default(),
            last: TopicId::default(),
        };
        table.list.push(State::new(unknown()));
        table.by_name.insert(unknown(), UNKNOWN);
        table
    }

    /// The place of a topic; `true` if it is new.
    pub(super) fn place(&mut self, name: &Topic) -> (TopicId, bool) {
        if self.list.get(self.last.0).is_some_and(|state| state.name == *name) {
            return (self.last, false);
        }
        let known = self.by_name.get(name).copied();
        let id = known.unwrap_or(TopicId(self.list.len()));
        if known.is_none() {
            self.list.push(State::new(name.clone()));
            self.by_name.insert(name.clone(), id);
        }
        self.last = id;
        (id, known.is_none())
    }

    /// The place of a topic that was seen.
    pub(super) fn find(&self, name: &Topic) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// A topic. Places come from this table only, so it is there.
    #[expect(
        clippy::indexing_slicing,
        reason = "places come from this table, which never shrinks"
    )]
    pub(super) fn at(&self, id: TopicId) -> &State {
        &self.list[id.0]
    }

    /// A topic.
    #[expect(
        clippy::indexing_slicing,
        reason = "places come from this table, which never shrinks"
    )]
    pub(super) fn at_mut(&mut self, id: TopicId) -> &mut State {
        &mut self.list[id.0]
    }

    /// All topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = &State> {
        self.list.iter()
    }

    /// All topics.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut State> {
        self.list.iter_mut()
    }

    /// All places.
    pub(super) fn places(&self) -> impl Iterator<Item = TopicId> + use<> {
        (0..self.list.len()).map(TopicId)
    }
}

/// Place of the topic that stands for those of damaged records.
pub(super) const UNKNOWN: TopicId = TopicId(0);

/// Its name.
#[expect(clippy::expect_used, reason = "a constant that fits the rule")]
pub(super) fn unknown() -> Topic {
    Topic::new("unknown").expect("a constant name is valid")
}
