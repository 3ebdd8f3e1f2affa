//! Units that go away and are evacuated, as the control group would have it: all their keys get other owners in one step,
//! whatever their relays still have. Some are dead, some cannot be reached only. They come back later.
//!
//! # Invariants
//! - V1. A relay that is away acts no more for its unit from that step on, until it has heard of it.
//! - V2. While all is well and nobody of the unit is there, nothing waits for it whose key another unit has.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::ledger::Ledger;
use super::moves::Step;
use super::publishers::Published;
use super::relay::unit;
use super::{Event as WorldEvent, World};
use crate::queue::TopicRule;
use crate::queue::operator::{Answer, Command, Filter, Line};

#[derive(Default)]
pub(super) struct Evacuations {
    /// Units that are away, or were evacuated and are not back as owners.
    gone: BTreeSet<usize>,
    /// Those of them whose relay does not run.
    down: BTreeSet<usize>,
    pub done: usize,
}

#[derive(Debug)]
pub(super) enum Event {
    Begin,
    /// A unit is evacuated.
    Commit(usize),
    /// Its relay is there again.
    Back(usize),
    /// It may have keys again.
    Return(usize),
}

impl Evacuations {
    /// Whether a unit gets no keys.
    pub(super) fn is_gone(&self, unit: usize) -> bool {
        self.gone.contains(&unit)
    }

    /// Whether the relay of a unit does not start for now.
    pub(super) fn keeps_down(&self, unit: usize) -> bool {
        self.down.contains(&unit)
    }
}

impl Ledger {
    /// A unit has lost keys, and perhaps still has messages of them.
    pub(super) fn on_evacuated(&mut self, keys: Vec<String>, unit: usize, now: u64) {
        self.evacuations.push((unit, now));
        for key in keys {
            self.evacuated.entry(key).or_default().push((unit, now));
        }
    }

    /// Whether a unit may have had an event when it was evacuated.
    pub(super) fn was_left_at(&self, relay: usize, of: &Published) -> bool {
        let all = of.key.as_ref().and_then(|key| self.evacuated.get(key));
        of.moves && all.is_some_and(|all| all.iter().any(|(unit, at)| *unit == relay && *at >= of.at))
    }

    /// Whether a unit was evacuated that may have taken an event without a word, or whose word was forgotten: then the event may come
    /// once more elsewhere, and from there to that unit.
    pub(super) fn may_come_again(&self, unit: usize, of: &Published) -> bool {
        let is_known = |at: u64| {
            of.relayed
                .is_some_and(|told| told < at && !self.may_be_lost(of.relay, told))
        };
        let without_a_word = |(other, at): &(usize, u64)| *other == unit && *at >= of.at && !is_known(*at);
        of.moves && unit != of.relay && self.evacuations.iter().any(without_a_word)
    }
}

impl World {
    pub(super) fn on_evacuation(&mut self, event: &Event) {
        match *event {
            Event::Begin => self.lose_unit(),
            Event::Commit(unit) => self.evacuate(unit),
            Event::Back(unit) if !self.calm => self.bring_back(unit),
            Event::Back(_) => {}
            Event::Return(unit) => self.give_back(unit),
        }
    }

    fn lose_unit(&mut self) {
        if self.calm {
            return;
        }
        let time = self.dice.u64(1_000_000..6_000_000);
        self.plan_in(time, WorldEvent::Evacuation(Event::Begin));
        let unit = self.dice.usize(..self.relays.len());
        let left = self.relays.len() - self.evacuations.gone.len();
        if self.evacuations.is_gone(unit) || left < 2 {
            return;
        }
        self.note(&("away", unit));
        self.evacuations.gone.insert(unit);
        if self.dice.u8(..3) == 0 {
            self.relays[unit].view.set_deaf(true);
            let others = (0..self.relays.len()).filter(|other| *other != unit);
            let ways: Vec<_> = others.flat_map(|other| [(unit, other), (other, unit)]).collect();
            self.cut(&ways);
        } else {
            self.evacuations.down.insert(unit);
            self.crash(unit);
        }
        let time = self.dice.u64(10_000..1_500_000);
        self.plan_in(time, WorldEvent::Evacuation(Event::Commit(unit)));
    }

    fn evacuate(&mut self, unit: usize) {
        let heirs = (0..self.relays.len()).filter(|other| !self.evacuations.is_gone(*other));
        let heirs: Vec<usize> = heirs.collect();
        if heirs.is_empty() {
            // The others are away as well: it is given up.
            return self.plan_in(1, WorldEvent::Evacuation(Event::Back(unit)));
        }
        self.evacuations.done += 1;
        let keys = self.take_keys(unit, &heirs);
        // Some go on at once: what waits for them is looked for while they are about to move.
        let some = self.dice.usize(..5).min(keys.len());
        for key in &keys[..some] {
            self.begin_move_of(key.clone());
        }
        self.ledger.on_evacuated(keys, unit, self.now);
        self.relays[unit].view.fence(self.steps());
        let time = self.dice.u64(300_000..7_000_000);
        self.plan_in(time, WorldEvent::Evacuation(Event::Back(unit)));
    }

    fn bring_back(&mut self, unit: usize) {
        self.evacuations.down.remove(&unit);
        self.relays[unit].view.set_deaf(false);
        self.start_relay(unit);
        self.hear_again(unit);
        let time = self.dice.u64(100_000..4_000_000);
        self.plan_in(time, WorldEvent::Evacuation(Event::Return(unit)));
    }

    fn give_back(&mut self, unit: usize) {
        if self.evacuations.keeps_down(unit) || !self.evacuations.gone.remove(&unit) {
            return;
        }
        self.take_steps(vec![Step::Unit(unit, false)]);
    }

    /// All is well, but for those who are away. What waits for them goes to others (V2); then they come back.
    pub(super) fn end_evacuations(&mut self) -> Result<(), String> {
        let until = self.now + 2_000_000;
        self.run_until(until);
        let end = self.now + PATIENCE_MICROS;
        while !self.evacuations.down.is_empty() {
            let left = self.stranded();
            if left.is_empty() {
                break;
            }
            if self.now >= end {
                return Err(format!(
                    "for units that are away and were evacuated wait: {left} (R-3.10)"
                ));
            }
            let next = self.now + 1_000_000;
            self.run_until(next);
            self.calm_down();
        }
        for unit in self.evacuations.gone.clone() {
            self.bring_back(unit);
        }
        Ok(())
    }

    /// What still waits for units that are down and were evacuated.
    fn stranded(&mut self) -> String {
        let mut text = String::new();
        for of in self.evacuations.down.clone() {
            for relay in 0..self.relays.len() {
                for key in self.waiting(relay, of) {
                    let _ = write!(text, "{key} at relay {relay} for unit {of}; ");
                }
            }
        }
        text
    }

    fn waiting(&mut self, relay: usize, of: usize) -> Vec<String> {
        if self.relays[relay].life.is_none() || self.relays[relay].view.is_deaf() {
            return Vec::new();
        }
        let command = Command::Peek {
            line: Line::Outbox { unit: unit(of) },
            filter: Filter::default(),
            limit: 1000,
            bodies: false,
        };
        let Answer::Messages { messages, .. } = self.ask(relay, command) else {
            return Vec::new();
        };
        let setup = &self.relays[relay].setup;
        let moves = messages.into_iter().filter(|message| {
            let by_owner = setup.topics.get(&message.topic).map(|topic| topic.rule) == Some(TopicRule::Owner);
            by_owner && message.redrives == 0
        });
        let keys = moves.filter_map(|message| message.key);
        keys.filter(|key| !key.contains("odd")).collect()
    }
}

/// So long after all is well something may wait for a unit that was evacuated.
const PATIENCE_MICROS: u64 = 120_000_000;
