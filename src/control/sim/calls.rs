//! Callers, and what the outbound story does with routes: resolve, wait, send, follow redirects.

use super::net::Spot;
use super::owner::IN_FLIGHT_MAX;
use super::relay::{Input, Life};
use super::{Event, World};
use crate::model::{ANY_KEY, UnitId};
use crate::routing::record::OpId;
use crate::routing::token::Text;
use crate::routing::{RouteError, Standing};

/// A call of a caller next to a relay.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub subject: usize,
    pub reads: bool,
    /// What the service takes, in microseconds.
    pub takes: u64,
    pub token: Option<Text>,
    /// Of its claim, if it needs one.
    pub op: OpId,
    pub epoch: u64,
    redirects: u8,
    pub waits: bool,
    /// The claim desk has it.
    pub asked: bool,
    /// It counts up with each attempt.
    attempt: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub origin: Life,
    pub call: u64,
    pub attempt: u64,
    pub subject: usize,
    pub reads: bool,
    pub takes: u64,
    pub token: Option<Text>,
    pub min_epoch: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub attempt: u64,
    pub said: Said,
}

#[derive(Clone, Debug)]
pub(super) enum Said {
    Done,
    /// It is not known here, or not now, who has the key.
    Later,
    /// This unit has it, since this epoch.
    WrongUnit(UnitId, u64),
}

impl World {
    /// Somebody calls, at some relay.
    pub(super) fn call_some(&mut self) {
        let time = self.dice.u64(1_000..60_000);
        self.plan_in(time, Event::Call);
        let relay = self.dice.usize(..self.relays.len());
        let Some(number) = self.relays[relay].life() else {
            return;
        };
        let life = Life { relay, number };
        let subject = self.dice.usize(..self.subjects.len());
        let takes = match self.dice.u8(..50) {
            0..15 if self.plan.slow => self.dice.u64(5_000_000..15_000_000),
            0..2 => u64::try_from(IN_FLIGHT_MAX.as_micros()).unwrap() * 2,
            2..6 => self.dice.u64(200_000..3_000_000),
            _ => self.dice.u64(500..40_000),
        };
        let call = Call {
            subject,
            reads: self.dice.u8(..6) == 0,
            takes,
            token: self.some_token(subject),
            op: OpId(self.dice.u128(..)),
            epoch: 0,
            redirects: 0,
            waits: true,
            asked: false,
            attempt: 0,
        };
        self.last_call += 1;
        let id = self.last_call;
        self.at(life).calls.insert(id, call);
        self.plan_for(life, CALL_MICROS, Input::TimeOver(id));
        self.on_input(life, Input::Look(id));
    }

    /// A call that waits looks whether its route is known.
    pub(super) fn on_look(&mut self, life: Life, id: u64) {
        let Some(call) = self.at(life).calls.get(&id).filter(|call| call.waits).cloned() else {
            return;
        };
        let hints = self.subjects[call.subject].hints();
        let evidence = self.evidence(life, call.subject, call.token);
        let here = self.relays[life.relay].unit().clone();
        let table = self.at(life).table.clone();
        let decision = match table.resolve(&hints, &ANY_KEY, &here, &evidence) {
            Ok(decision) => decision,
            Err(RouteError::Unclaimed { .. }) if table.routes().is_some() => {
                self.claim_for(life, id);
                return self.look_later(life, id);
            }
            Err(_) => return self.look_later(life, id),
        };
        self.witness
            .on_resolved(life, call.subject, &decision, table.routes().unwrap().rev());
        if let (Standing::Frozen { .. }, false) = (decision.standing, call.reads) {
            return self.look_later(life, id);
        }
        let to = decision.unit.clone();
        let call = self.at(life).calls.get_mut(&id).unwrap();
        call.epoch = decision.epoch;
        self.send_call(life, id, &to);
    }

    fn look_later(&mut self, life: Life, id: u64) {
        self.plan_for(life, LOOK_AGAIN, Input::Look(id));
    }

    fn send_call(&mut self, life: Life, id: u64, unit: &UnitId) {
        let here = self.relays[life.relay].unit() == unit;
        let all = self.relays.iter().enumerate();
        let of_unit: Vec<_> = all
            .filter(|(_, relay)| relay.unit() == unit)
            .map(|(at, _)| at)
            .collect();
        let to = if here {
            life.relay
        } else {
            *self.dice.choice(&of_unit).unwrap()
        };
        let call = self.at(life).calls.get_mut(&id).unwrap();
        call.waits = false;
        call.attempt += 1;
        let request = Request {
            origin: life,
            call: id,
            attempt: call.attempt,
            subject: call.subject,
            reads: call.reads,
            takes: call.takes,
            token: call.token,
            min_epoch: call.epoch,
        };
        if here {
            return self.on_request(life, &request);
        }
        let Some(number) = self.relays[to].life() else {
            return self.wait(life, id);
        };
        let there = Life { relay: to, number };
        let event = Event::To(there, Input::Request(Box::new(request)));
        self.send(Spot::Relay(life.relay), Spot::Relay(to), event);
    }

    fn wait(&mut self, life: Life, id: u64) {
        self.at(life).calls.get_mut(&id).unwrap().waits = true;
        self.look_later(life, id);
    }

    pub(super) fn on_reply(&mut self, life: Life, id: u64, reply: &Reply) {
        let Some(call) = self.at(life).calls.get_mut(&id) else {
            return;
        };
        if call.attempt != reply.attempt || call.waits {
            return;
        }
        match &reply.said {
            Said::Done => self.end_call(life, id, "done"),
            Said::Later => self.wait(life, id),
            Said::WrongUnit(unit, epoch) => {
                // R-I8
                if *epoch <= call.epoch {
                    let text = format!("R-I8: a redirect to {epoch} of a call that knew of {}", call.epoch);
                    self.witness.blame(text);
                } else if call.redirects < REDIRECTS_MAX {
                    call.redirects += 1;
                    call.epoch = *epoch;
                    self.send_call(life, id, unit);
                } else {
                    call.redirects = 0;
                    self.wait(life, id);
                }
            }
        }
    }

    pub(super) fn end_call(&mut self, life: Life, id: u64, how: &'static str) {
        if self.at(life).calls.remove(&id).is_some() {
            self.note(&(life, id, how));
            self.witness.ended(how == "done");
        }
    }
}

/// A call has so long.
const CALL_MICROS: u64 = 12_000_000;
const LOOK_AGAIN: u64 = 250_000;
const REDIRECTS_MAX: u8 = 3;
