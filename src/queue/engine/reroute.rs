//! Messages whose key another unit owns now: which line they go into, and that they come there in their order (M-C1).
//!
//! # Invariants
//! - N1. A message of an ordered key is given a number in the line where earlier ones of its key are, if there are some: so no key is in
//!   two lines but while it leaves one for the other (M2 of `outbox::moving`).
//! - N2. Leaving a line and coming into another one is a single record; publishers that wait are told of the end in the new line.
//! - N3. What belongs to this unit by now comes into the inbox only while the routes here say so. It waits, and all later ones of its
//!   key wait behind it, until they do or name a further owner. One whose key is back at the unit of its line stays there. But where the
//!   first message of a key went that left a line, all others of it go that leave it then, whatever the routes say by now (M6 of
//!   `outbox::moving`).
//! - N4. Nothing of a key that stays is sent before that is on disk: a restart that knew only that the key was leaving would take out of
//!   the line what the unit has by then (M-B2).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::Engine;
use super::upkeep::Level;
use crate::model::{Message, Reason, RelayError, Retry, Seq, UnitId};
use crate::queue::effects::{Now, RerouteWish};
use crate::queue::outbox::{Stay, key_hash};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{Kept, Record, Stored};
use crate::queue::{Owner, TopicRule, TopicSettings};

/// Messages between two lines that are in no record yet.
#[derive(Debug, Default)]
pub(super) struct Rerouting {
    waiting: VecDeque<RerouteWish>,
    /// Keys that stay in the line of a unit as soon as that is on disk (N4).
    staying: BTreeSet<(UnitId, u64)>,
}

/// Where a message of a publisher goes.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) outs: Vec<UnitId>,
    pub(super) own: bool,
}

/// What becomes of a message that leaves a line.
enum Next {
    Goes(UnitId, u64),
    Stays,
    Waits,
}

impl Rerouting {
    /// A message leaves a line.
    pub(super) fn add(&mut self, wish: RerouteWish) {
        self.waiting.push_back(wish);
    }

    /// The disk failed: the lines wish again.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.staying.clear();
    }
}

impl Engine {
    /// Where a message goes (N1): `units` by its rule, but behind what is still on its way.
    ///
    /// # Errors
    /// If its key is this unit's and about to move, or it cannot be told which line has earlier messages of it.
    pub(super) fn way(
        &self,
        message: &mut Message,
        units: &[UnitId],
        settings: &TopicSettings,
    ) -> Result<Way, RelayError> {
        let own = &self.setup.place.unit;
        let (true, [unit]) = (message.routed > 0 && settings.rule == TopicRule::Owner, units) else {
            let outs = self.others(units);
            let own = units.contains(own);
            return Ok(Way { outs, own });
        };
        let mut unit = unit.clone();
        let home = if settings.ordered {
            self.home_of(message, &unit)?
        } else {
            None
        };
        if let Some((home, epoch)) = home {
            // Earlier than what the publisher knows: if that unit is not the owner, this is news that it can tell (V4 of `judge`).
            let before = if home == unit {
                message.routed
            } else {
                (message.routed - 1).max(1)
            };
            (unit, message.routed) = (home, before.min(epoch));
        } else if unit == *own {
            match self.setup.neighbours.owner(message) {
                Owner::Frozen => {
                    let detail = "the key of the message is about to move to another unit, or this relay may not act for its unit \
                                  now because it has lost the route store (strait route status); publish it again in a moment";
                    return Err(RelayError::new(Reason::Moving, Retry::Safe, detail).pushed_back(FROZEN_PUSHBACK));
                }
                Owner::Other { unit: other, epoch } => (unit, message.routed) = (other, epoch),
                Owner::Ours | Owner::Settings(_) | Owner::Unknown => {}
            }
        }
        let own = unit == *own;
        Ok(Way {
            outs: if own { Vec::new() } else { vec![unit] },
            own,
        })
    }

    /// The line that has earlier messages of a key, and the epoch they were routed by; `None`: no other than that of the unit it is
    /// for. A line that perhaps has some is as good, if it is the only one: then the message makes a detour at most.
    ///
    /// # Errors
    /// If it may be any of several: the wrong one would change the order.
    fn home_of(&self, message: &Message, unit: &UnitId) -> Result<Option<(UnitId, u64)>, RelayError> {
        let hash = key_hash(message).filter(|_| !planted(Bug::NewBeforeMoved));
        let Some(hash) = hash else { return Ok(None) };
        let (mut sure, mut perhaps, mut others) = (None, None, 0);
        for (name, outbox) in &self.places.outboxes {
            match outbox.home(hash) {
                Some((epoch, Stay::Leaves)) => return Ok(Some((name.clone(), epoch))),
                Some((epoch, Stay::Surely)) => sure = Some((name, epoch)),
                // By the lowest epoch go keys that have an owner for the time being only, while the store is away: they are nowhere
                // else, though keys may not be told apart there. All that a store decides has a higher one.
                Some((epoch, Stay::Perhaps)) if name == unit || message.routed > 1 => {
                    perhaps = Some((name, epoch));
                    others += 1;
                }
                Some(_) | None => {}
            }
        }
        if sure.is_none() && others > 1 {
            let detail = "the key of the message has moved, and earlier messages of it may wait for several units";
            return Err(RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(UNKNOWN_PUSHBACK));
        }
        let found = sure.or(perhaps).filter(|(name, _)| *name != unit);
        Ok(found.map(|(name, epoch)| (name.clone(), epoch)))
    }

    /// A message of a publisher has a number in the line of a unit.
    pub(super) fn at_home(&mut self, message: &Message, settings: &TopicSettings, outs: &[(UnitId, Seq)]) {
        if message.routed == 0 || message.redrives > 0 || !settings.ordered {
            return;
        }
        let Some(hash) = key_hash(message) else { return };
        for (unit, seq) in outs {
            if let Some(outbox) = self.places.outboxes.get_mut(unit) {
                outbox.at_home(*seq, hash, message.routed);
            }
        }
    }

    /// Takes what has moved out of the lines, unless the disk is full: it needs room first.
    pub(super) fn move_out(&mut self, now: Now) -> Option<Duration> {
        if self.upkeep.level() == Level::Full {
            return None;
        }
        let outboxes = self.places.outboxes.values();
        let mut begun: BTreeSet<u64> = outboxes.flat_map(crate::queue::outbox::Outbox::moves).collect();
        let outboxes = self.places.outboxes.values_mut();
        let wakes = outboxes.filter_map(|outbox| outbox.move_out(now, &mut begun, &mut self.fx));
        wakes.min()
    }

    /// Gives numbers to what has left its line. Returns when to try again.
    pub(super) fn reroute_all(&mut self, now: Now) -> Option<Duration> {
        let mut behind = BTreeSet::new();
        for wish in std::mem::take(&mut self.rerouting.waiting) {
            if self.rerouting.staying.contains(&(wish.from.0.clone(), wish.key)) {
                continue;
            }
            let key = key_hash(&wish.message);
            if key.is_some_and(|key| behind.contains(&key)) {
                self.rerouting.add(wish);
                continue;
            }
            match self.next_unit(&wish) {
                Next::Goes(unit, epoch) => self.reroute(wish, unit, epoch),
                Next::Stays => self.stay(wish.from.0, wish.key),
                Next::Waits => {
                    behind.extend(key);
                    self.rerouting.add(wish);
                }
            }
        }
        (!self.rerouting.waiting.is_empty()).then_some(now.mono + AGAIN)
    }

    /// A key is not to leave the line of a unit (N4).
    fn stay(&mut self, unit: UnitId, key: u64) {
        self.rerouting.staying.insert((unit.clone(), key));
        self.journal.push(Record::Kept(Box::new(Kept::Stays { unit, key })));
    }

    /// A key is not to leave the line of a unit; that is on disk.
    pub(super) fn apply_stays(&mut self, unit: &UnitId, key: u64) {
        let rerouting = &mut self.rerouting;
        rerouting.waiting.retain(|wish| wish.key != key || wish.from.0 != *unit);
        rerouting.staying.remove(&(unit.clone(), key));
        self.places.outbox(unit, &self.setup).on_stays(key);
    }

    fn next_unit(&self, wish: &RerouteWish) -> Next {
        let line = self.places.outboxes.get(&wish.from.0);
        let led = line.and_then(|line| line.leads_to(wish.key));
        let (to, since) = led.unwrap_or((&wish.to, wish.epoch));
        if *to != self.setup.place.unit {
            return Next::Goes(to.clone(), since);
        }
        match self.setup.neighbours.owner(&wish.message) {
            Owner::Other { unit, epoch } if epoch > since && unit == wish.from.0 => Next::Stays,
            Owner::Other { unit, epoch } if epoch > since => Next::Goes(unit, epoch),
            Owner::Frozen | Owner::Other { .. } => Next::Waits,
            Owner::Ours | Owner::Settings(_) | Owner::Unknown => Next::Goes(to.clone(), since),
        }
    }

    fn reroute(&mut self, wish: RerouteWish, unit: UnitId, epoch: u64) {
        if let Some(line) = self.places.outboxes.get_mut(&wish.from.0) {
            line.lead(wish.key, &unit, epoch);
        }
        let mut message = wish.message;
        message.routed = epoch;
        let defaults = TopicSettings::default();
        let topics = std::sync::Arc::clone(&self.setup.topics);
        let settings = TopicSettings::of(&topics, &message.topic).unwrap_or(&defaults);
        self.places.know_topic(&message.topic);
        let crosses = self.setup.is_abroad(&unit) && !self.setup.is_abroad(&wish.from.0);
        let mirror = (settings.mirror && crosses).then(|| self.places.mirrors.assign(&message.topic));
        let (mut outs, mut inbox) = (Vec::new(), None);
        if unit == self.setup.place.unit {
            inbox = Some(self.places.inbox.assign(&message.topic));
        } else {
            let seq = self.places.outbox(&unit, &self.setup).assign();
            outs.push((unit, seq));
            self.at_home(&message, settings, &outs);
        }
        if planted(Bug::MovedForgotten) {
            outs.clear();
        }
        self.journal.push(Record::Stored(Box::new(Stored {
            message,
            from: None,
            outs,
            inbox,
            only: None,
            redriven: None,
            rerouted: Some(wish.from),
            mirror,
        })));
    }

    /// A message is in another line; that is on disk. Says whether somebody waits until it is delivered.
    pub(super) fn apply_rerouted(&mut self, now: Now, stored: &Stored, (unit, seq): (&UnitId, Seq)) -> bool {
        let message = &stored.message;
        let inbox = stored.inbox.map(|seq| (message.topic.clone(), seq));
        let from = (unit.clone(), seq);
        let tell = self
            .waits
            .on_rerouted(&from, stored.outs.first(), inbox, &mut self.outputs);
        let to = stored.outs.first().map_or(&self.setup.place.unit, |(to, _)| to).clone();
        let outbox = self.places.outbox(unit, &self.setup);
        outbox.on_rerouted(now, seq, message, &to, &mut self.fx);
        tell
    }
}

/// What belongs to this unit by what others say is tried again with the next change of the routes, and after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Pushback of a publisher whose key is about to move.
const FROZEN_PUSHBACK: Duration = Duration::from_millis(200);
/// Pushback of a publisher whose key may be in several lines: one of them must get empty.
const UNKNOWN_PUSHBACK: Duration = Duration::from_secs(1);
