//! Where messages are: the outbox of each unit, the inbox, and copies; and which line of the log is whose.

use std::collections::BTreeMap;

use super::mirror::Mirrors;
use crate::model::{Map, Reason, RelayError, Retry, Seq, Topic, UnitId};
use crate::queue::api::{Output, Subscribe};
use crate::queue::effects::{DeadWish, Effects, Now};
use crate::queue::inbox::Inbox;
use crate::queue::lanes::LaneId;
use crate::queue::line::{LineId, Settled};
use crate::queue::outbox::Outbox;
use crate::queue::record::{DeadSource, Pause};
use crate::queue::{CALLS_TOPIC, Setup, TopicSettings};

/// See the module.
pub(super) struct Places {
    /// Life of the log.
    pub(super) epoch: u64,
    pub(super) outboxes: BTreeMap<UnitId, Outbox>,
    pub(super) inbox: Inbox,
    pub(super) mirrors: Mirrors,
    /// Lanes that we opened.
    pub(super) lanes: BTreeMap<LaneId, UnitId>,
    /// Asked for each message; nothing depends on its order (E3).
    owners: Map<LineId, Owner>,
    /// Highest numbers of damaged records in lines that nobody knows yet.
    pub(super) floors: BTreeMap<LineId, Seq>,
    /// Topics that are known, without that of the relays.
    topics: usize,
    /// The last one that was asked for: most messages are of the topic of the one before.
    recent: Option<Topic>,
}

/// Whose a line is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    Dead,
    Inbox(Topic),
    Mirror(Topic),
    Outbox(UnitId),
    Remembered,
}

impl Places {
    pub(super) fn new(epoch: u64) -> Self {
        let owners = [
            (LineId::dead_letters(), Owner::Dead),
            (LineId::remembered(), Owner::Remembered),
        ];
        Self {
            epoch,
            outboxes: BTreeMap::new(),
            inbox: Inbox::new(),
            mirrors: Mirrors::default(),
            lanes: BTreeMap::new(),
            owners: owners.into_iter().collect(),
            floors: BTreeMap::new(),
            topics: 0,
            recent: None,
        }
    }

    pub(super) fn configure(&mut self, setup: &Setup) {
        for outbox in self.outboxes.values_mut() {
            outbox.configure(setup);
        }
        self.inbox.configure(setup);
    }

    /// The outbox of a unit; it is made if there was none.
    pub(super) fn outbox(&mut self, unit: &UnitId, setup: &Setup) -> &mut Outbox {
        if !self.outboxes.contains_key(unit) {
            let mut outbox = Outbox::new(unit.clone(), self.epoch);
            outbox.configure(setup);
            let line = LineId::outbox(unit);
            outbox.on_given(self.floors.remove(&line).unwrap_or_default());
            self.outboxes.insert(unit.clone(), outbox);
            self.owners.insert(line, Owner::Outbox(unit.clone()));
        }
        let epoch = self.epoch;
        self.outboxes
            .entry(unit.clone())
            .or_insert_with(|| Outbox::new(unit.clone(), epoch))
    }

    /// The outbox that a lane belongs to.
    pub(super) fn outbox_of(&mut self, lane: LaneId) -> Option<&mut Outbox> {
        self.outboxes.get_mut(self.lanes.get(&lane)?)
    }

    /// Why a topic that is not known must not come to be: memory is bounded (M-G7).
    ///
    /// # Errors
    /// A text for a person.
    pub(super) fn check_topic(&self, topic: &Topic, setup: &Setup) -> Result<(), String> {
        let max = setup.queue.topics_max;
        if self.topics < max || is_own(topic) || self.owners.contains_key(&LineId::inbox(topic)) {
            return Ok(());
        }
        Err(format!(
            "relay {} knows {max} topics, as many as queue.topics_max allows, and {topic} is not among them: use keys in place of \
             further topics, or raise queue.topics_max",
            setup.place.relay
        ))
    }

    /// There are messages of a topic: in the inbox, on their way to units, or copies.
    pub(super) fn know_topic(&mut self, topic: &Topic) {
        if self.recent.as_ref() == Some(topic) {
            return;
        }
        self.recent = Some(topic.clone());
        let line = LineId::inbox(topic);
        if !self.owners.contains_key(&line) {
            self.topics += usize::from(!is_own(topic));
            self.owners.insert(line, Owner::Inbox(topic.clone()));
            self.owners.insert(LineId::mirror(topic), Owner::Mirror(topic.clone()));
            if let Some(seq) = self.floors.remove(&line) {
                self.inbox.on_given(topic, seq);
            }
        }
    }

    /// A restart found a damaged record with this number: it was given, and is not given again. Of the other lines only we
    /// ourselves know numbers, so theirs can be.
    pub(super) fn on_damaged(&mut self, line: LineId, seq: Seq) {
        match self.owners.get(&line) {
            Some(Owner::Outbox(unit)) => {
                if let Some(outbox) = self.outboxes.get_mut(unit) {
                    outbox.on_given(seq);
                }
            }
            Some(Owner::Inbox(topic)) => self.inbox.on_given(topic, seq),
            Some(Owner::Dead | Owner::Mirror(_) | Owner::Remembered) => {}
            None => {
                let floor = self.floors.entry(line).or_default();
                *floor = seq.max(*floor);
            }
        }
    }

    /// Topics that are known, in the order of their names.
    pub(super) fn topics(&self) -> Vec<Topic> {
        let topic = |owner: &Owner| match owner {
            Owner::Inbox(topic) => Some(topic.clone()),
            _ => None,
        };
        let mut topics: Vec<Topic> = self.owners.values().filter_map(topic).collect();
        topics.sort();
        topics
    }

    /// Whose a line is.
    pub(super) fn owner(&self, line: LineId) -> Option<&Owner> {
        self.owners.get(&line)
    }

    pub(super) fn subscribe(&mut self, now: Now, subscribe: Subscribe, setup: &Setup, fx: &mut Effects) {
        if TopicSettings::of(&setup.topics, &subscribe.topic).is_none() {
            let output = Output::Subscribed {
                ticket: subscribe.ticket,
                result: Err(Box::new(unknown_topic(&subscribe.topic))),
            };
            return fx.output(output);
        }
        if let Err(detail) = self.check_topic(&subscribe.topic, setup) {
            let error = RelayError::new(Reason::Limited, Retry::Never, detail);
            return fx.output(Output::Subscribed {
                ticket: subscribe.ticket,
                result: Err(Box::new(error)),
            });
        }
        self.know_topic(&subscribe.topic);
        self.inbox.subscribe(now, subscribe, fx);
    }

    /// All numbers that are not on disk are taken back.
    pub(super) fn rollback(&mut self) {
        for outbox in self.outboxes.values_mut() {
            outbox.rollback();
        }
        self.inbox.rollback();
        self.mirrors.rollback();
    }

    /// What is done of each line.
    pub(super) fn done_lines(&self) -> BTreeMap<LineId, Settled> {
        let done = |(line, owner): (&LineId, &Owner)| {
            let done = match owner {
                Owner::Dead | Owner::Remembered => return None,
                Owner::Inbox(topic) => self.inbox.done_by_all_groups(topic),
                Owner::Mirror(topic) => Settled::up_to(self.mirrors.span(topic).0 - 1),
                Owner::Outbox(unit) => self.outboxes.get(unit)?.done().clone(),
            };
            Some((*line, done))
        };
        self.owners.iter().filter_map(done).collect()
    }

    /// The source of a dead letter that finds no room waits, so that no more come; or it goes on (M-E4).
    pub(super) fn hold(&mut self, wish: &DeadWish, on: bool) {
        let held = on.then(|| Pause {
            reason: "the dead letters are full (queue.dead_letters.bytes_max)".to_owned(),
            until: None,
        });
        match &wish.at {
            DeadSource::Group(group, _) => self.inbox.hold(&wish.message.topic, group, held),
            DeadSource::Outbox(unit, _) => {
                if let Some(outbox) = self.outboxes.get_mut(unit) {
                    outbox.hold(held);
                }
            }
            DeadSource::None => {}
        }
    }
}

/// The topic of the relays is there at each of them: it takes no place of the user's topics.
fn is_own(topic: &Topic) -> bool {
    topic.as_str() == CALLS_TOPIC
}

/// Nobody has said what is to become of messages of a topic.
pub(super) fn unknown_topic(topic: &Topic) -> RelayError {
    let detail =
        format!("the topic {topic} is not configured here; add [topics.{topic:?}] to the settings of this relay");
    RelayError::new(Reason::UnknownTopic, Retry::Never, detail)
}
