//! What goes wrong, and what has not come to rest.

use std::fmt::Write;

use super::net::Spot;
use super::relay::{Life, Relay};
use super::store::Store;
use super::{Event, World};
use crate::routing::record::{MoveState, Record, RecordId};

/// A trouble that is over some time later.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    Cut(Spot, Spot),
    Leader,
    Pause(usize),
    Stall(usize),
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.pauses.on_trouble(self.now);
        let relay = self.dice.usize(..self.relays.len());
        let other = self.dice.usize(..self.relays.len());
        let here = Spot::Relay(relay);
        match self.dice.u8(..20) {
            0..4 => self.crash(relay),
            4..8 => self.pause(relay),
            8 | 9 => self.cut(&[(here, Spot::Store)]),
            10 | 11 => self.cut(&[(Spot::Store, here)]),
            12 | 13 => self.cut(&[(here, Spot::Store), (Spot::Store, here)]),
            14 => self.cut(&[(here, Spot::Relay(other))]),
            15 | 16 if !self.store.is_away => self.lose_leader(),
            17..20 => {
                self.store.stalled.insert(relay);
                let time = self.some_time();
                self.plan_in(time, Event::Heal(Trouble::Stall(relay)));
            }
            _ => {}
        }
        let time = self.dice.u64(100_000..3_000_000);
        self.plan_in(time, Event::Fault);
    }

    /// Mostly short, sometimes longer than every lease.
    fn some_time(&mut self) -> u64 {
        match self.dice.u8(..6) {
            0 => self.dice.u64(10_000_000..60_000_000),
            _ => self.dice.u64(100_000..6_000_000),
        }
    }

    fn crash(&mut self, relay: usize) {
        let Some(number) = self.relays[relay].life() else {
            return;
        };
        let life = Life { relay, number };
        self.note(&(life, "ends"));
        self.relays[relay].running = None;
        self.relays[relay].held.clear();
        let time = self.some_time() / 3;
        self.plan_in(time, Event::Restart(relay));
    }

    /// The process stops, or the machine sleeps; its clock goes on.
    fn pause(&mut self, relay: usize) {
        if self.relays[relay].is_paused {
            return;
        }
        self.note(&(relay, "stops for a while"));
        self.relays[relay].is_paused = true;
        let time = self.some_time();
        self.plan_in(time, Event::Heal(Trouble::Pause(relay)));
    }

    fn cut(&mut self, directions: &[(Spot, Spot)]) {
        self.note(&("cut", directions));
        for (from, to) in directions {
            self.net.cut.insert((*from, *to));
            let time = self.some_time();
            self.plan_in(time, Event::Heal(Trouble::Cut(*from, *to)));
        }
    }

    /// Whether something is wrong now.
    pub(super) fn is_troubled(&self) -> bool {
        let away = |relay: &Relay| relay.is_paused || relay.running.is_none();
        !self.net.cut.is_empty() || !self.store.stalled.is_empty() || self.store.is_away || self.relays.iter().any(away)
    }

    pub(super) fn heal(&mut self, trouble: &Trouble) {
        self.pauses.on_trouble(self.now);
        match *trouble {
            Trouble::Cut(from, to) => _ = self.net.cut.remove(&(from, to)),
            Trouble::Leader => self.elect_leader(),
            Trouble::Pause(relay) => {
                self.relays[relay].is_paused = false;
                for (life, input) in std::mem::take(&mut self.relays[relay].held) {
                    self.on_input(life, input);
                }
            }
            Trouble::Stall(relay) => _ = self.store.stalled.remove(&relay),
        }
    }

    /// All is well from now on.
    pub(super) fn heal_all(&mut self) {
        self.note(&"calm");
        self.calm = true;
        self.net.cut.clear();
        self.store.stalled.clear();
        self.elect_leader();
        for relay in 0..self.relays.len() {
            self.heal(&Trouble::Pause(relay));
            self.start_relay(relay);
        }
    }

    pub(super) fn is_settling(&self) -> bool {
        self.calm && self.plan.faults || self.now > self.plan.millis * 1000
    }

    /// What has not come to rest: moves, and copies that are behind (R-I11, R-I13).
    pub(super) fn restless(&self) -> String {
        let mut text = String::new();
        let moving = self.store.moving();
        if !moving.is_empty() {
            let _ = write!(text, "{moving:?} are being moved; ");
        }
        for (number, relay) in self.relays.iter().enumerate() {
            let running = relay.running.as_ref();
            let at = running.and_then(|running| running.table.routes().map(|routes| routes.rev()));
            if at != Some(self.store.rev()) {
                let _ = write!(text, "relay {number} is at {at:?} of {}; ", self.store.rev());
            }
        }
        text
    }
}

impl Store {
    /// Moves that have not ended, and nodes that are on their way.
    pub(super) fn moving(&self) -> Vec<RecordId> {
        let records = self.snapshot().changes.into_iter().filter_map(|change| change.record);
        let moving = records.filter(|record| match record {
            Record::Node(node) => node.state.work().is_some(),
            Record::Move(work) => work.state != MoveState::Finished,
            _ => false,
        });
        moving.map(|record| record.id()).collect()
    }
}
