//! What the inbound story does with routes: the real gate, and services that take their time.

use std::time::Duration;

use super::calls::{Reply, Request, Said};
use super::net::Spot;
use super::planted::Planted;
use super::relay::{Input, Life, SHARDS};
use super::{Event, World};
use crate::model::{ANY_KEY, UnitId};
use crate::routing::gate::{Closed, Drain, Knock, Registered};
use crate::routing::record::Rev;
use crate::routing::{Decision, RouteError, Standing, Trail};

/// Longest time a write may run.
pub(super) const IN_FLIGHT_MAX: Duration = Duration::from_secs(10);

/// Planted: a call that was let through and is registered later.
#[derive(Clone, Debug)]
pub(super) struct Late {
    request: Request,
    shard: usize,
    trail: Trail,
    since: u64,
}

impl World {
    pub(super) fn on_request(&mut self, life: Life, request: &Request) {
        let said = match self.accept(life, request) {
            Ok(()) => return,
            Err(said) => said,
        };
        self.reply(life, request, said);
    }

    fn accept(&mut self, life: Life, request: &Request) -> Result<(), Said> {
        let shard = self.dice.usize(..SHARDS);
        let subject = request.subject;
        let hints = self.subjects[subject].hints();
        let evidence = self.evidence(life, subject, request.token);
        let unit = self.relays[life.relay].unit().clone();
        let table = self.at(life).table.clone();
        let resolved = table.resolve_with_trail(&hints, &ANY_KEY, &unit, &evidence);
        let (decision, trail) = match resolved {
            Ok(resolved) => resolved,
            Err(RouteError::Unclaimed { .. }) if table.routes().is_some() => {
                self.look_up(life, subject);
                return Err(Said::Later);
            }
            Err(_) => return Err(Said::Later),
        };
        let at = table.routes().unwrap().rev();
        self.witness.on_resolved(life, subject, &decision, at);
        let decision = self.as_seen(decision, at);
        let late = self.has(Planted::RegistersLate);
        let registered = if late {
            None
        } else {
            Some(self.at(life).gates[shard].register(trail, false).ok_or(Said::Later)?)
        };
        let admitted = self.knock(life, shard, &decision, request, &unit);
        if let Err(closed) = admitted {
            if let Some(registered) = registered {
                self.release(life, shard, registered);
            }
            return Err(match closed {
                Closed::NotOwner => Said::WrongUnit(decision.unit.clone(), decision.epoch),
                Closed::Behind | Closed::Frozen | Closed::NoLease => Said::Later,
            });
        }
        self.issue_token(life, subject, &decision, request.token);
        let request = request.clone();
        let newest = self.has(Planted::EpochOfAnyRecord);
        let since = if newest { decision.epoch } else { decision.since };
        if let Some(registered) = registered {
            self.serve(life, shard, registered, &request, (at, since));
        } else {
            let time = self.dice.u64(100..100_000);
            let late = Late {
                request,
                shard,
                trail,
                since,
            };
            self.plan_for(life, time, Input::Register(Box::new(late)));
        }
        Ok(())
    }

    fn knock(
        &mut self,
        life: Life,
        shard: usize,
        decision: &Decision<'_>,
        request: &Request,
        unit: &UnitId,
    ) -> Result<(), Closed> {
        let now = self.relays[life.relay].clock(self.now);
        let running = self.at(life);
        let knock = Knock {
            unit,
            reads: request.reads,
            is_waited_for: false,
            min_epoch: request.min_epoch,
            lease: &running.lease,
            now,
        };
        running.gates[shard].admit(&running.table, decision, &knock)
    }

    /// Planted: a relay that loses patience.
    fn as_seen<'a>(&self, decision: Decision<'a>, _: Rev) -> Decision<'a> {
        match decision.standing {
            Standing::Frozen { rev, .. }
                if self.has(Planted::UnfreezesAlone) && self.witness.is_older(rev, self.now, 2_000_000) =>
            {
                Decision {
                    standing: Standing::Open,
                    ..decision
                }
            }
            _ => decision,
        }
    }

    /// The service has the call; it ends at its limit at the latest.
    fn serve(&mut self, life: Life, shard: usize, registered: Registered, request: &Request, by: (Rev, u64)) {
        let limit = self.relays[life.relay].really(IN_FLIGHT_MAX);
        let time = request.takes.min(limit);
        self.plan_for(life, time, Input::Ended(shard, registered));
        if !request.reads {
            let running = self.witness.on_accepted(life, request.subject, by, self.now);
            let done = Event::Done {
                subject: request.subject,
                running,
            };
            self.plan_in(time, done);
        }
        let reply = Event::To(
            request.origin,
            Input::Reply(
                request.call,
                Box::new(Reply {
                    attempt: request.attempt,
                    said: Said::Done,
                }),
            ),
        );
        self.plan_in(time + 500, reply);
    }

    pub(super) fn on_late(&mut self, life: Life, late: Late) {
        let Late {
            request,
            shard,
            trail,
            since,
        } = late;
        if let Some(registered) = self.at(life).gates[shard].register(trail, false) {
            self.serve(life, shard, registered, &request, (trail.at(), since));
        }
    }

    fn reply(&mut self, life: Life, request: &Request, said: Said) {
        let reply = Reply {
            attempt: request.attempt,
            said,
        };
        let event = Event::To(request.origin, Input::Reply(request.call, Box::new(reply)));
        if life == request.origin {
            return self.plan_in(1, event);
        }
        self.send(Spot::Relay(life.relay), Spot::Relay(request.origin.relay), event);
    }

    pub(super) fn on_ended(&mut self, life: Life, shard: usize, call: Registered) {
        self.release(life, shard, call);
    }

    fn release(&mut self, life: Life, shard: usize, call: Registered) {
        let running = self.at(life);
        let drained = running.gates[shard].release(call, || &running.table);
        self.tell_keeper(life, shard, drained);
    }

    pub(super) fn on_drain(&mut self, life: Life, shard: usize, drain: Drain) {
        let running = self.at(life);
        let drained = running.gates[shard].drain(drain, &running.table);
        self.tell_keeper(life, shard, drained);
    }

    fn tell_keeper(&mut self, life: Life, shard: usize, drained: Vec<Drain>) {
        use crate::control::keeper::GateId;
        for drain in drained {
            self.at(life).keeper.on_drained(GateId::Shard(shard), &drain);
        }
    }

    /// R-I3: who would let a write through now.
    pub(super) fn look_at_gates(&mut self) {
        for subject in 0..self.subjects.len() {
            let mut open: Vec<UnitId> = Vec::new();
            for relay in 0..self.relays.len() {
                let Some(number) = self.relays[relay].life() else {
                    continue;
                };
                if !self.relays[relay].is_paused && self.would_admit(Life { relay, number }, subject) {
                    open.push(self.relays[relay].unit().clone());
                }
            }
            open.dedup();
            if open.len() > 1 {
                let text = format!("R-I3: {open:?} admit writes of {:?}", self.subjects[subject]);
                self.witness.blame(text);
            }
        }
    }

    pub(super) fn would_admit(&mut self, life: Life, subject: usize) -> bool {
        let hints = self.subjects[subject].hints();
        let evidence = self.evidence(life, subject, None);
        let unit = self.relays[life.relay].unit().clone();
        let table = self.at(life).table.clone();
        let Ok(decision) = table.resolve(&hints, &ANY_KEY, &unit, &evidence) else {
            return false;
        };
        let Some(routes) = table.routes() else { return false };
        let decision = self.as_seen(decision, routes.rev());
        let now = self.relays[life.relay].clock(self.now);
        let running = self.at(life);
        let knock = Knock {
            unit: &unit,
            reads: false,
            is_waited_for: false,
            min_epoch: 0,
            lease: &running.lease,
            now,
        };
        running.gates[0].admit(&table, &decision, &knock).is_ok()
    }
}
