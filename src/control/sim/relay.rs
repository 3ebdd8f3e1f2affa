//! A relay: the real keeper, gates and claim desk, and the worker around them in small.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::calls::{Call, Reply, Request};
use super::coordinator::Driver;
use super::desks::Heard;
use super::keys::{UNITS, name, unit};
use super::net::Spot;
use super::owner::IN_FLIGHT_MAX;
use super::planted::Planted;
use super::store::{Answer, Ask, Question};
use super::{Event, World};
use crate::control::claims::{BatchId, ClaimKey, Desk, Known, Limits};
use crate::control::keeper::{GateId, Keeper, RoutesRef, TICK, Wish};
use crate::control::mover::HookCall;
use crate::control::store::{Opened, StoreError};
use crate::model::UnitId;
use crate::routing::gate::{Drain, Gate, Registered};
use crate::routing::lease::LeaseState;
use crate::routing::record::{Batch, Epoch, MoveId, OpId, RelayId, Rev, SessionId};
use crate::routing::{RouteTable, Routes, Settings};

/// Which life of which relay.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Life {
    pub relay: usize,
    pub number: u64,
}

/// What comes to a relay.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Answer(u64, Box<Answer>),
    Batch(u64, Box<Batch>),
    Desk,
    Drain(usize, Drain),
    /// The mover looks again.
    Drive,
    /// A call that was let through is over.
    Ended(usize, Registered),
    /// An application answers a mover.
    Hook(Box<HookCall>),
    /// A call that waits looks whether it can go on.
    Look(u64),
    /// The time for an answer is over.
    Overdue(u64),
    /// Planted: the call is registered only now.
    Register(Box<super::owner::Late>),
    Reply(u64, Box<Reply>),
    Request(Box<Request>),
    Tick,
    /// The time of a call is over.
    TimeOver(u64),
}

pub(super) struct Relay {
    pub id: RelayId,
    /// How fast its clock goes, and what it showed at the start.
    rate: f64,
    offset: Duration,
    /// It is stopped; what comes waits.
    pub is_paused: bool,
    pub held: VecDeque<(Life, Input)>,
    pub lives: u64,
    saved: Option<Vec<u8>>,
    pub running: Option<Running>,
}

/// A life.
pub(super) struct Running {
    pub number: u64,
    pub keeper: Keeper,
    pub table: RouteTable,
    pub lease: LeaseState,
    pub gates: Vec<Gate>,
    pub desk: Desk,
    pub heard: Heard,
    pending: BTreeMap<u64, Asked>,
    questions: u64,
    /// The feed that is read, and when it last said something.
    feed: Option<(u64, Duration)>,
    pub calls: BTreeMap<u64, Call>,
    pub driver: Driver,
}

/// What an answer is for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Batch(BatchId),
    Claims(MoveId, Vec<ClaimKey>, Epoch),
    Commit(OpId),
    Feed,
    /// Nobody waits for it.
    Nothing,
    Open,
    Renew(SessionId),
    Report,
    Standing(Rev),
}

pub(super) const SHARDS: usize = 2;

impl Relay {
    /// Two of the first unit, two of the second, one of the third.
    pub(super) fn all(dice: &mut fastrand::Rng) -> Vec<Self> {
        let relays = [0, 0, 1, 1, 2].into_iter().enumerate();
        let relays = relays.map(|(number, of)| Self {
            id: RelayId {
                unit: unit(of),
                relay: name(&format!("r{number}")),
            },
            rate: 0.95 + 0.1 * dice.f64(),
            offset: Duration::from_secs(dice.u64(..1_000_000)),
            is_paused: false,
            held: VecDeque::new(),
            lives: 0,
            saved: None,
            running: None,
        });
        relays.collect()
    }

    pub(super) fn unit(&self) -> &UnitId {
        &self.id.unit
    }

    /// What its clock shows; it goes on while the relay is stopped.
    pub(super) fn clock(&self, now: u64) -> Duration {
        self.offset + Duration::from_micros(now).mul_f64(self.rate)
    }

    /// How long a time on its clock really is.
    pub(super) fn really(&self, time: Duration) -> u64 {
        u64::try_from(time.div_f64(self.rate).as_micros()).unwrap()
    }

    pub(super) fn life(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.number)
    }
}

impl World {
    pub(super) fn start_relay(&mut self, number: usize) {
        if self.relays[number].running.is_some() {
            return;
        }
        let keeps = self.dice.bool();
        let relay = &mut self.relays[number];
        let now = relay.clock(self.now);
        relay.lives += 1;
        let saved = relay.saved.take().filter(|_| keeps);
        let saved = saved.map(|bytes| Routes::load(&bytes).unwrap());
        let shards = (0..SHARDS).map(GateId::Shard);
        let gates = shards.chain([GateId::Queue]).collect::<BTreeSet<_>>();
        let units: Vec<_> = UNITS.map(name).to_vec();
        let table = RouteTable::build(&Settings::default(), relay.unit(), &units).unwrap();
        let known = Known::new(1000, self.store.snapshot().seed);
        relay.running = Some(Running {
            number: relay.lives,
            keeper: Keeper::new(relay.unit().clone(), gates, saved, IN_FLIGHT_MAX, now),
            table,
            lease: LeaseState::default(),
            gates: (0..SHARDS).map(|_| Gate::default()).collect(),
            desk: Desk::new(Limits::default(), known),
            heard: Heard::default(),
            pending: BTreeMap::new(),
            questions: 0,
            feed: None,
            calls: BTreeMap::new(),
            driver: Driver::new(relay.id.clone(), self.plan.planted),
        });
        let life = Life {
            relay: number,
            number: relay.lives,
        };
        self.note(&(life, "starts"));
        self.on_input(life, Input::Tick);
    }

    /// Something comes to a life; if the relay is stopped it waits, and if the life is over it is lost.
    pub(super) fn on_input(&mut self, life: Life, input: Input) {
        let relay = &mut self.relays[life.relay];
        if relay.life() != Some(life.number) {
            return;
        }
        if relay.is_paused {
            return relay.held.push_back((life, input));
        }
        match input {
            Input::Tick => self.on_tick(life),
            Input::Answer(question, answer) => self.on_answer(life, question, *answer),
            Input::Batch(question, batch) => self.on_batch(life, question, &batch),
            Input::Desk => self.on_desk(life),
            Input::Drain(shard, drain) => self.on_drain(life, shard, drain),
            Input::Drive => self.drive(life),
            Input::Ended(shard, call) => self.on_ended(life, shard, call),
            Input::Hook(call) => self.on_hook(life, &call),
            Input::Look(call) => self.on_look(life, call),
            Input::Overdue(question) => {
                let away = Answer::Failed(StoreError::Away("no answer".to_owned()));
                self.on_answer(life, question, away);
            }
            Input::Register(late) => self.on_late(life, *late),
            Input::Reply(call, reply) => self.on_reply(life, call, &reply),
            Input::Request(request) => self.on_request(life, &request),
            Input::TimeOver(call) => self.end_call(life, call, "its time is over"),
        }
        self.do_wishes(life);
    }

    pub(super) fn plan_for(&mut self, life: Life, micros: u64, input: Input) {
        self.plan_in(micros, Event::To(life, input));
    }

    /// The life, which is there.
    pub(super) fn at(&mut self, life: Life) -> &mut Running {
        let running = self.relays[life.relay].running.as_mut();
        running.filter(|running| running.number == life.number).unwrap()
    }

    fn on_tick(&mut self, life: Life) {
        let now = self.relays[life.relay].clock(self.now);
        let running = self.at(life);
        // The transport notices that the other end is silent.
        if running.feed.is_some_and(|(_, heard)| now >= heard + SILENCE_MAX) {
            self.end_feed(life);
        }
        self.at(life).keeper.tick(now);
        self.on_desk(life);
        let again = self.relays[life.relay].really(TICK);
        self.plan_for(life, again, Input::Tick);
    }

    fn end_feed(&mut self, life: Life) {
        let (now, dice) = (self.relays[life.relay].clock(self.now), self.dice.f64());
        let running = self.at(life);
        running.feed = None;
        let away = StoreError::Away("silence".to_owned());
        running.keeper.on_feed_ended(&away, now, dice);
    }

    /// A question to the store; its answer comes in time, or that there is none.
    pub(super) fn ask_store(&mut self, life: Life, asked: Asked, ask: Ask) -> u64 {
        let running = self.at(life);
        running.questions += 1;
        let number = running.questions;
        running.pending.insert(number, asked);
        let question = Question { life, number, ask };
        self.send(Spot::Relay(life.relay), Spot::Store, Event::Store(Box::new(question)));
        self.plan_for(life, ANSWER_WITHIN, Input::Overdue(number));
        number
    }

    fn on_answer(&mut self, life: Life, question: u64, answer: Answer) {
        let (now, dice) = (self.relays[life.relay].clock(self.now), self.dice.f64());
        let (hasty, forgets) = (self.has(Planted::NotCaughtUp), self.has(Planted::ForgetsWhatRan));
        let running = self.at(life);
        let Some(asked) = running.pending.remove(&question) else {
            return;
        };
        let keeper = &mut running.keeper;
        match (asked, answer) {
            (Asked::Feed, Answer::Snapshot(snapshot)) => keeper.on_snapshot(&snapshot, now),
            (Asked::Feed, Answer::Failed(error)) => {
                if running.feed.is_some_and(|(feed, _)| feed == question) {
                    running.feed = None;
                }
                keeper.on_feed_ended(&error, now, dice);
            }
            (Asked::Open, Answer::Opened(opened)) => {
                let epoch = if hasty { Epoch::default() } else { opened.epoch };
                let succeeds = opened.succeeds && !forgets;
                keeper.on_opened(
                    &Ok(Opened {
                        epoch,
                        succeeds,
                        ..opened
                    }),
                    now,
                    dice,
                );
                let session = (life, opened.session, opened.epoch.rev());
                self.witness.on_opened(session);
            }
            (Asked::Open, Answer::Failed(error)) => keeper.on_opened(&Err(error), now, dice),
            (Asked::Renew(session), Answer::Failed(error)) => keeper.on_renewed(session, &Err(error), now),
            (Asked::Renew(session), _) => keeper.on_renewed(session, &Ok(()), now),
            (Asked::Report, Answer::Failed(error)) => keeper.on_reported(&Err(error), now),
            (Asked::Batch(batch), answer) => self.on_desk_answer(life, batch, answer),
            (Asked::Open | Asked::Feed | Asked::Nothing | Asked::Report, _) => {}
            (asked, answer) => self.on_driver_answer(life, asked, answer),
        }
    }

    fn on_batch(&mut self, life: Life, question: u64, batch: &Batch) {
        let now = self.relays[life.relay].clock(self.now);
        let running = self.at(life);
        if let Some((feed, heard)) = &mut running.feed
            && *feed == question
        {
            *heard = now;
            running.pending.remove(&question);
            running.keeper.on_batch(batch, now);
        }
    }

    /// What the keeper wants.
    pub(super) fn do_wishes(&mut self, life: Life) {
        let is_there = |relay: &Relay| relay.life() == Some(life.number);
        if !is_there(&self.relays[life.relay]) {
            return;
        }
        for wish in self.at(life).keeper.take_wishes() {
            match wish {
                Wish::Snapshot => {
                    self.at(life).feed = None;
                    self.ask_store(life, Asked::Feed, Ask::Snapshot);
                }
                Wish::Watch(rev) => self.watch_feed(life, rev),
                Wish::Open => {
                    let id = self.relays[life.relay].id.clone();
                    self.ask_store(life, Asked::Open, Ask::Open(id));
                }
                Wish::Renew(session) => {
                    self.ask_store(life, Asked::Renew(session), Ask::Renew(session));
                }
                Wish::Publish(routes) => self.publish(life, &routes),
                Wish::Lease(lease) => self.at(life).lease = lease,
                Wish::Drain(GateId::Shard(shard), drain) => {
                    let time = self.dice.u64(10..2_000);
                    self.plan_for(life, time, Input::Drain(shard, drain));
                }
                Wish::Report(acks) => {
                    self.ask_store(life, Asked::Report, Ask::Report(acks));
                }
                Wish::Drain(GateId::Queue, drain) => self.ask_queue(life, drain),
                Wish::Stale(_) => {}
            }
        }
    }

    fn watch_feed(&mut self, life: Life, rev: Rev) {
        let now = self.relays[life.relay].clock(self.now);
        let question = self.ask_store(life, Asked::Feed, Ask::Watch(rev));
        self.at(life).feed = Some((question, now));
    }

    fn publish(&mut self, life: Life, routes: &RoutesRef) {
        let saves = self.dice.u8(..4) == 0;
        let relay = &mut self.relays[life.relay];
        if saves {
            relay.saved = Some(routes.0.save());
        }
        self.witness.on_published(life, &routes.0);
        let running = self.at(life);
        running.table = running.table.with_routes(Arc::clone(&routes.0));
        let waiting: Vec<_> = running.calls.iter().filter(|(_, call)| call.waits).collect();
        let waiting: Vec<u64> = waiting.into_iter().map(|(id, _)| *id).collect();
        for call in waiting {
            self.on_look(life, call);
        }
        self.drive(life);
    }
}

/// So long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Microseconds until a question counts as not answered.
const ANSWER_WITHIN: u64 = 2_000_000;
