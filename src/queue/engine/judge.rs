//! Decides what becomes of messages of peers (M-G3, M-G4, M-E5).
//!
//! # Invariants
//! - V1. What is denied is refused by name, and nothing of it touches the disk (M-G4).
//! - V2. A message goes on only to a unit that it has not visited, and through `hops_max` units at most (M-G3). No message
//!   names more units than can be read back.
//! - V3. A full topic holds up no other: its messages come again (M-C3).
//! - V4. A message of an `owner` topic is taken only while its key is this unit's and not about to move. It is said to have moved
//!   only if that is news for its sender, else it comes again: so what two relays say of each other leads to no circle (W1 of
//!   `ownership`). Senders that know nothing of moves have their messages sent on, as where the settings say who owns a key.
//! - V5. A message whose time is over when it comes is refused as `expired`: its origin counts it, or makes it a dead letter.

use std::time::Duration;

use super::places::Places;
use super::publish::check_size;
use super::upkeep::Level;
use crate::model::{Geo, Message, UnitId};
use crate::queue::arrivals::{Judge, Verdict};
use crate::queue::effects::Now;
use crate::queue::lanes::EXPIRED;
use crate::queue::planted::{Bug, planted};
use crate::queue::{Owner, Setup, TopicRule, TopicSettings};
use crate::wire::message::VISITED_MAX;

/// See the module.
pub(super) struct Bench<'a> {
    setup: &'a Setup,
    places: &'a mut Places,
    level: Level,
}

/// Where a message is to be.
struct Goal {
    on_to: Option<UnitId>,
    here: bool,
}

impl<'a> Bench<'a> {
    pub(super) fn new(setup: &'a Setup, places: &'a mut Places, level: Level) -> Self {
        Self { setup, places, level }
    }

    fn goal(&self, message: &Message, settings: &TopicSettings) -> Result<Goal, Verdict> {
        let own = &self.setup.place.unit;
        let here = Goal {
            on_to: None,
            here: true,
        };
        if settings.rule != TopicRule::Owner {
            return Ok(here);
        }
        let owner = self.setup.neighbours.owner(message);
        if let Some(verdict) = not_here(&owner, message, settings.ordered) {
            return Err(verdict);
        }
        let owner = match owner {
            Owner::Other { unit, .. } | Owner::Settings(unit) if unit != *own => unit,
            _ => return Ok(here),
        };
        let visited = message.visited.contains(&owner) && !planted(Bug::LoopGuardOff);
        if visited || message.visited.len() >= self.setup.neighbours.hops_max {
            let detail = format!(
                "the key belongs to unit {owner}, but the message has been there or has passed {} units",
                message.visited.len()
            );
            return Err(refuse("loop", detail));
        }
        Ok(Goal {
            on_to: Some(owner),
            here: false,
        })
    }
}

impl Bench<'_> {
    /// How a message goes in a circle, if it does (V2).
    fn goes_round(&self, message: &Message) -> Option<String> {
        let unit = &self.setup.place.unit;
        if message.visited.contains(unit) && !planted(Bug::LoopGuardOff) {
            return Some(format!("the message was in unit {unit} before"));
        }
        let passed = message.visited.len();
        (passed >= VISITED_MAX).then(|| format!("the message has passed {passed} units"))
    }
}

impl Judge for Bench<'_> {
    fn elsewhere(&self, message: &Message) -> Option<Verdict> {
        let topic = &message.topic;
        let settings = TopicSettings::of(&self.setup.topics, topic).filter(|topic| topic.rule == TopicRule::Owner)?;
        not_here(&self.setup.neighbours.owner(message), message, settings.ordered)
    }

    fn judge(&mut self, now: Now, from: &UnitId, geo: &Geo, message: &Message) -> Verdict {
        if self.level == Level::Full {
            return Verdict::Busy { pushback: PUSHBACK };
        }
        let topic = &message.topic;
        let Some(settings) = TopicSettings::of(&self.setup.topics, topic) else {
            let detail = format!("unit {} has no [topics.{topic:?}]", self.setup.place.unit);
            return refuse("unknown_topic", detail);
        };
        let allowed = match &settings.from {
            Some(units) => units.contains(from),
            None => settings.rule != TopicRule::Local,
        };
        if !allowed {
            let why = match &settings.from {
                Some(_) => format!("add \"{from}\" to its `from`"),
                None => format!("its rule is \"local\": give it from = [\"{from}\"], or another rule"),
            };
            let unit = &self.setup.place.unit;
            let detail =
                format!("topic {topic} at unit {unit} takes no messages of unit {from}; to allow them there, {why}");
            return refuse("not_allowed", detail);
        }
        if let Err(error) = check_size(self.setup, message, settings) {
            return refuse("too_large", error.detail);
        }
        if message.is_expired(now.wall) {
            return refuse(EXPIRED, String::new());
        }
        if let Some(detail) = self.goes_round(message) {
            return refuse("loop", detail);
        }
        if let Err(detail) = self.places.check_topic(topic, self.setup) {
            return refuse("limited", detail);
        }
        let goal = match self.goal(message, settings) {
            Ok(goal) => goal,
            Err(verdict) => return verdict,
        };
        let bytes = message.bytes();
        let full = match &goal.on_to {
            Some(unit) => {
                let outbox = self.places.outboxes.get_mut(unit);
                outbox.is_some_and(|outbox| outbox.admit(topic, settings, bytes).is_err())
            }
            None => self.places.inbox.admit(topic, settings, bytes).is_err(),
        };
        if full {
            return Verdict::Later {
                detail: format!("topic {topic} is full in unit {}", self.setup.place.unit),
                ordered: settings.ordered,
            };
        }
        self.places.know_topic(topic);
        let abroad = *geo != self.setup.geo || goal.on_to.as_ref().is_some_and(|unit| self.setup.is_abroad(unit));
        let outs = goal.on_to.map(|unit| {
            let seq = self.places.outbox(&unit, self.setup).assign();
            (unit, seq)
        });
        Verdict::Store {
            outs: outs.into_iter().collect(),
            inbox: goal.here.then(|| self.places.inbox.assign(topic)),
            mirror: (settings.mirror && abroad).then(|| self.places.mirrors.assign(topic)),
        }
    }
}

/// What follows if a key is not this unit's to take now (V4).
fn not_here(owner: &Owner, message: &Message, ordered: bool) -> Option<Verdict> {
    match owner {
        // A sender that names no epoch knows nothing of moves: for it the topic is full for a moment.
        Owner::Frozen if message.routed == 0 => {
            let detail = "the key of the message is about to move".to_owned();
            Some(Verdict::Later { detail, ordered })
        }
        Owner::Frozen => {
            let detail = "its key is about to move".to_owned();
            Some(Verdict::Frozen { detail, ordered })
        }
        Owner::Other { unit, epoch } if *epoch > message.routed && message.routed > 0 => Some(Verdict::Moved {
            unit: unit.clone(),
            epoch: *epoch,
            ordered,
        }),
        Owner::Other { unit, epoch } if message.routed > 0 => {
            let newer = message.routed;
            let detail = format!("here the key is unit {unit}'s since epoch {epoch}, epoch {newer} is not known yet");
            Some(Verdict::Frozen { detail, ordered })
        }
        Owner::Other { .. } | Owner::Ours | Owner::Settings(_) | Owner::Unknown => None,
    }
}

fn refuse(reason: &str, detail: String) -> Verdict {
    Verdict::Refuse {
        reason: reason.to_owned(),
        detail,
    }
}

const PUSHBACK: Duration = Duration::from_millis(500);
