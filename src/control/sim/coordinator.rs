//! Moves: the real mover at each relay, its driver in small, and operators who begin, stop and repeat work.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{UNITS, name};
use super::planted::Planted;
use super::relay::{Asked, Input, Life};
use super::store::{Answer, Ask};
use super::{Event, World};
use crate::control::mover::{Act, HookCall, Hooked, Limits, Mover, Sight, Standing, units};
use crate::control::store::StoreError;
use crate::model::UnitId;
use crate::routing::Routes;
use crate::routing::record::{
    Commit, Hook, Lag, Move, MoveId, MoveKind, MoveOptions, MoveState, NodeId, OpId, Record, RecordId, RelayId, Rev,
    State,
};

/// The mover of one life, and what its driver remembers.
pub(super) struct Driver {
    mover: Mover,
    standing: Option<Standing>,
    asks_standing: bool,
    /// When it looks again.
    look_at: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Coordinators {
    begun: u64,
    last: u64,
    /// Applications that are being asked to forget a node: by what, and since when.
    cleaning: BTreeMap<(NodeId, UnitId), (MoveId, u64)>,
}

impl Driver {
    pub(super) fn new(relay: RelayId, planted: Option<Planted>) -> Self {
        let mut limits = Limits::default();
        if planted == Some(Planted::ExpiryIgnoresCalls) {
            limits.in_flight_max = Duration::ZERO;
        }
        Self {
            mover: Mover::new(relay, limits),
            standing: None,
            asks_standing: false,
            look_at: None,
        }
    }
}

impl Coordinators {
    pub(super) fn stats(&self) -> String {
        format!("{} moves begun", self.begun)
    }
}

impl World {
    /// An operator at some relay begins work, or stops some.
    pub(super) fn work(&mut self) {
        let time = self.dice.u64(50_000..1_500_000);
        self.plan_in(time, Event::Work);
        let relay = self.dice.usize(..self.relays.len());
        let Some(number) = self.relays[relay].life() else {
            return;
        };
        let life = Life { relay, number };
        let routes = self.at(life).table.routes().cloned();
        let Some(routes) = routes.filter(|_| !self.is_settling()) else {
            return;
        };
        let commit = match self.dice.u8(..20) {
            0 => self.some_evacuation(life, &routes),
            1 => self.some_return(life, &routes),
            2..5 => self.some_stop(&routes),
            _ => Some(self.some_move(life, &routes)),
        };
        if let Some(commit) = commit {
            self.coordinators.begun += 1;
            self.ask_store(life, Asked::Nothing, Ask::Commit(Box::new(commit)));
        }
    }

    fn some_options(&mut self) -> MoveOptions {
        let budget = match self.dice.u8(..3) {
            0 => self.dice.u64(10_000..25_000),
            _ => self.dice.u64(200..4_000),
        };
        MoveOptions {
            hooks: self.dice.u8(..3) == 0,
            freeze_budget: Duration::from_millis(budget),
            copy_limit: Duration::from_secs(self.dice.u64(1..20)),
            trail: Duration::from_secs(self.dice.u64(1..10)),
            ..MoveOptions::default()
        }
    }

    fn some_move(&mut self, life: Life, routes: &Routes) -> Commit {
        let count = self.dice.usize(1..4);
        let mut nodes: Vec<NodeId> = Vec::new();
        for _ in 0..count {
            let subject = self.dice.choice(&self.subjects).unwrap();
            let (alone, wider) = (subject.node(), subject.wider_node());
            nodes.push(if self.dice.u8(..3) == 0 { wider } else { alone });
        }
        nodes.sort();
        nodes.dedup();
        self.coordinators.last += 1;
        let work = Move {
            id: MoveId(self.coordinators.last),
            kind: MoveKind::Nodes,
            of: None,
            nodes,
            to: name(self.dice.choice(UNITS).unwrap()),
            since: routes.rev(),
            options: self.some_options(),
            state: MoveState::Running,
            driver: self.relays[life.relay].id.clone(),
            next: 0,
            moved: 0,
            aborted: 0,
            asked_at: self.now / 1_000_000,
            reason: String::new(),
            note: None,
            waits_for: None,
            undelivered_at: None,
            shadow_incomplete: false,
        };
        Commit {
            op: OpId(self.dice.u128(..)),
            compares: vec![(RecordId::Move(work.id), Rev::ZERO)],
            puts: vec![Record::Move(work)],
            removes: Vec::new(),
        }
    }

    fn asked(&mut self, life: Life) -> units::Asked {
        units::Asked {
            op: OpId(self.dice.u128(..)),
            driver: self.relays[life.relay].id.clone(),
            at: self.now / 1_000_000,
            reason: String::new(),
        }
    }

    fn some_evacuation(&mut self, life: Life, routes: &Routes) -> Option<Commit> {
        let unit = self.dice.usize(..UNITS.len());
        let heirs = UNITS.iter().enumerate().filter(|(number, _)| *number != unit);
        let heirs: Vec<_> = heirs
            .map(|(number, unit)| (name(unit), u16::try_from(number).unwrap() + 1))
            .collect();
        let heirs: Vec<_> = heirs.into_iter().filter(|(unit, _)| routes.is_active(unit)).collect();
        let asked = self.asked(life);
        let begun = units::evacuate(routes, &name(UNITS[unit]), &heirs, false, &asked).ok()?;
        begun.commits.into_iter().next()
    }

    fn some_return(&mut self, life: Life, routes: &Routes) -> Option<Commit> {
        let mut all = routes.units();
        let (unit, _) = all.find(|(_, state)| matches!(state, State::Evacuated { .. }))?;
        let (asked, options) = (self.asked(life), self.some_options());
        let begun = units::give_back(routes, unit, options, &asked).ok()?;
        begun.commits.into_iter().next()
    }

    fn some_stop(&mut self, routes: &Routes) -> Option<Commit> {
        let running: Vec<_> = routes.moves().filter(|work| work.state == MoveState::Running).collect();
        let work = *self.dice.choice(&running)?;
        let id = RecordId::Move(work.id);
        let rev = routes.rev_of(&id);
        let work = Move {
            state: MoveState::Aborting,
            ..work.clone()
        };
        Some(Commit {
            op: OpId(self.dice.u128(..)),
            compares: vec![(id, rev)],
            puts: vec![Record::Move(work)],
            removes: Vec::new(),
        })
    }

    /// The mover says what is to be done; it is done.
    pub(super) fn drive(&mut self, life: Life) {
        let (now, mistake) = (self.relays[life.relay].clock(self.now), self.plan.planted);
        let running = self.at(life);
        let Some(routes) = running.table.routes().cloned() else {
            return;
        };
        let driver = &mut running.driver;
        let standing = driver.standing.take();
        let sight = Sight {
            routes: &routes,
            standing: standing.as_ref(),
            now,
        };
        let plan = driver.mover.look(&sight);
        let is_late = mistake == Some(Planted::AsksLate) && !routes.moving().any(|node| node.state.is_frozen());
        let asks =
            plan.wants_standing && !is_late && !driver.asks_standing && driver.look_at.is_none_or(|at| at <= now);
        if asks {
            driver.asks_standing = true;
        }
        if let Some(again) = plan.again {
            let again = again.max(LOOK_LEAST);
            let is_sooner = driver.look_at.is_none_or(|at| at <= now || now + again < at);
            if is_sooner {
                driver.look_at = Some(now + again);
                let time = self.relays[life.relay].really(again) + 1;
                self.plan_for(life, time, Input::Drive);
            }
        }
        if asks {
            self.ask_store(life, Asked::Standing(routes.rev()), Ask::Standing(None));
        }
        for act in plan.acts {
            match act {
                Act::Commit(planned) => {
                    self.note(&(life, planned.by, planned.step, &planned.about));
                    let op = planned.commit.op;
                    self.ask_store(life, Asked::Commit(op), Ask::Commit(Box::new(planned.commit)));
                }
                Act::Hook(call) => {
                    self.check_asked(&call);
                    let time = self.dice.u64(1_000..200_000);
                    self.plan_for(life, time, Input::Hook(Box::new(call)));
                }
                Act::Claims(by, keys) => {
                    let ask = Ask::Claims(keys.clone());
                    self.ask_store(life, Asked::Claims(by, keys, routes.epoch()), ask);
                }
            }
        }
    }

    /// S8: nothing is copied to where the application may still be asked to forget it. Looked at while nothing is wrong: nobody knows
    /// what a relay that is gone had asked.
    fn check_asked(&mut self, call: &HookCall) {
        let at = (call.node.clone(), call.unit.clone());
        match call.hook {
            Hook::Cleanup => _ = self.coordinators.cleaning.insert(at, (call.by, self.now)),
            Hook::Prepare | Hook::Copy => {
                let cleaning = self.coordinators.cleaning.get(&at);
                if let Some((by, since)) = cleaning.filter(|(_, since)| self.pauses.is_quiet_since(*since)) {
                    let text = format!("R-3.9 S8: {call:?} while {by} has it forgotten there since {since}");
                    self.witness.blame(text);
                }
            }
            _ => {}
        }
    }

    /// An application has answered.
    pub(super) fn on_hook(&mut self, life: Life, call: &HookCall) {
        if call.hook == Hook::Cleanup {
            self.coordinators
                .cleaning
                .remove(&(call.node.clone(), call.unit.clone()));
        }
        let hooked = match self.dice.u8(..20) {
            0 if !self.calm => Hooked::Refused("no".to_owned()),
            0..6 if call.hook == Hook::Lag => Hooked::Lag(Lag {
                changes: 1_000_000,
                ..Lag::default()
            }),
            0..6 => Hooked::NotYet("wait".to_owned()),
            _ => Hooked::Done,
        };
        let now = self.relays[life.relay].clock(self.now);
        self.at(life).driver.mover.on_hook(call, hooked, now);
        self.drive(life);
    }

    pub(super) fn on_driver_answer(&mut self, life: Life, asked: Asked, answer: Answer) {
        let now = self.relays[life.relay].clock(self.now);
        let driver = &mut self.at(life).driver;
        let other = || StoreError::Broken("another answer".to_owned());
        match (asked, answer) {
            (Asked::Commit(op), Answer::Committed(committed)) => driver.mover.on_committed(op, &Ok(committed), now),
            (Asked::Commit(op), Answer::Failed(error)) => driver.mover.on_committed(op, &Err(error), now),
            (Asked::Claims(by, keys, epoch), answer) => {
                let found = match answer {
                    Answer::Found(found) => Ok((epoch.rev(), found)),
                    Answer::Failed(error) => Err(error),
                    _ => Err(other()),
                };
                driver.mover.on_claims(by, &keys, epoch, &found);
            }
            (Asked::Standing(at), answer) => {
                driver.asks_standing = false;
                if let Answer::Standing(relays) = answer {
                    driver.standing = Some(Standing { at, relays });
                }
            }
            _ => {}
        }
        self.drive(life);
    }
}

/// Between two looks; the real driver looks more often, which costs time here.
const LOOK_LEAST: Duration = Duration::from_millis(20);
