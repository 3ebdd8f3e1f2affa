//! Several engines in one process, on simulated disks, network and clock: whole lives of relays in milliseconds, the same
//! each time for the same seed (I25).
//!
//! Faults come for a while, then all is healed and what must have become of each message is checked
//! ([`ledger`]): M-A4, M-B, M-C, M-E, M-G; and of calls that are kept for their unit, which are messages too ([`services`]): I16.
//!
//! # Invariants
//! - S1. Nothing but the seed decides: one source of dice for the world, no time but that of the world.
//! - S2. What the world knows of a relay is what goes in and comes out of its engine, and what operators can ask.

mod consumers;
mod evacuations;
mod faults;
mod ledger;
mod moves;
mod net;
mod publishers;
mod relay;
mod services;
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hasher;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use self::consumers::Consumers;
use self::evacuations::Evacuations;
use self::ledger::Ledger;
use self::moves::Moves;
use self::net::Net;
use self::publishers::Publishers;
use self::relay::Relay;
use self::services::Services;
use crate::model::UnixMillis;
use crate::queue::api::{Input, Output, Ticket};
use crate::queue::effects::Now;
use crate::queue::operator::{Answer, Command};

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a test, each set by name")]
pub(super) struct Plan {
    pub seed: u64,
    pub relays: usize,
    /// Milliseconds with faults.
    pub millis: u64,
    pub faults: bool,
    /// Keys move.
    pub moves: bool,
    /// Units go away and are evacuated; calls are kept for units.
    pub outages: bool,
    /// Troubles come twice as often, links repeat and delay more, disks are slow more often, and publishers send more at once.
    pub harsh: bool,
    /// What happens is written down, for the hash of the run; that costs more than the run.
    pub traced: bool,
}

pub(super) struct World {
    plan: Plan,
    /// Microseconds since the start.
    now: u64,
    dice: fastrand::Rng,
    relays: Vec<Relay>,
    agenda: BTreeMap<(u64, u64), Event>,
    planned: u64,
    net: Net,
    publishers: Publishers,
    consumers: Consumers,
    ledger: Ledger,
    moves: Moves,
    evacuations: Evacuations,
    services: Services,
    answers: BTreeMap<u64, Vec<Answer>>,
    tickets: u64,
    calm: bool,
    trace: Xxh3,
    pub verbose: bool,
}

/// What will happen.
#[derive(Debug)]
enum Event {
    Appended(usize, u64),
    Asked(usize, u64),
    Wake(usize, u64),
    Publish,
    Fault,
    Restart(usize),
    Heal(faults::Trouble),
    Move(moves::Event),
    Evacuation(evacuations::Event),
    Net(net::Event),
    Consumer(consumers::Event),
    Tidy,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let dice = fastrand::Rng::with_seed(plan.seed);
        let mut world = Self {
            plan,
            now: 0,
            dice,
            relays: Vec::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            net: Net::default(),
            publishers: Publishers::default(),
            consumers: Consumers::default(),
            ledger: Ledger::default(),
            moves: Moves::default(),
            evacuations: Evacuations::default(),
            services: Services::default(),
            answers: BTreeMap::new(),
            tickets: 0,
            calm: false,
            trace: Xxh3::new(),
            verbose: std::env::var("SIM_TRACE").is_ok(),
        };
        for number in 0..plan.relays {
            let relay = Relay::new(number, &plan, &mut world.dice);
            world.relays.push(relay);
        }
        for number in 0..plan.relays {
            world.start_relay(number);
        }
        world.plan_in(1_000, Event::Publish);
        world.plan_in(100_000, Event::Tidy);
        if plan.moves {
            world.plan_in(300_000, Event::Move(moves::Event::Begin));
        }
        if plan.outages {
            world.plan_in(1_500_000, Event::Evacuation(evacuations::Event::Begin));
        }
        if plan.faults {
            world.plan_in(500_000, Event::Fault);
        }
        world
    }

    /// All of it; the hash of what happened, or what is wrong.
    pub(super) fn run(mut self) -> Result<u64, String> {
        self.run_until(self.plan.millis * 1000);
        self.heal_all();
        self.end_evacuations()?;
        let end = self.now + PATIENCE_MICROS;
        while !self.is_quiet() {
            if self.now >= end {
                return Err(format!("it does not come to rest: {}", self.restless()));
            }
            let next = self.now + 1_000_000;
            self.run_until(next);
            self.calm_down();
        }
        let until = self.now + 3_000_000;
        self.run_until(until);
        self.check()?;
        if self.verbose || std::env::var("SIM_STATS").is_ok() {
            println!("seed {}: {}", self.plan.seed, self.stats());
        }
        Ok(self.trace.digest())
    }

    fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Appended(relay, life) => self.append(relay, life),
            Event::Asked(relay, life) => self.answer_request(relay, life),
            Event::Wake(relay, life) => {
                if self.relays[relay].life_number() == Some(life) {
                    self.turn(relay);
                }
            }
            Event::Publish => self.publish_some(),
            Event::Fault => self.fault(),
            Event::Restart(relay) => self.start_relay(relay),
            Event::Heal(trouble) => self.heal(&trouble),
            Event::Move(event) => self.on_move(event),
            Event::Evacuation(event) => self.on_evacuation(&event),
            Event::Net(event) => self.on_net(event),
            Event::Consumer(event) => self.on_consumer(event),
            Event::Tidy => {
                for relay in &mut self.relays {
                    relay.tidy();
                    let life = relay.life.as_ref();
                    let imbalance = life.map_or(0, |life| life.engine.imbalance());
                    if imbalance != 0 {
                        self.ledger
                            .blame(format!("{imbalance} messages are not in the books of memory (M-G8)"));
                    }
                }
                self.plan_in(100_000, Event::Tidy);
            }
        }
    }

    fn plan_in(&mut self, micros: u64, event: Event) {
        self.planned += 1;
        self.agenda.insert((self.now + micros, self.planned), event);
    }

    fn moment(&self) -> Now {
        Now {
            mono: Duration::from_micros(self.now),
            wall: UnixMillis(WALL_START + self.now / 1000),
        }
    }

    /// Something goes into an engine now.
    fn input(&mut self, relay: usize, life: u64, input: Input) {
        if self.relays[relay].life_number() != Some(life) {
            return;
        }
        self.note(&(relay, "in", &input));
        let now = self.moment();
        if let Some(life) = &mut self.relays[relay].life {
            life.engine.on_input(now, input);
        }
        self.turn(relay);
    }

    /// The engine decides, and what it decided is done.
    fn turn(&mut self, relay: usize) {
        let now = self.moment();
        let Some(life) = &mut self.relays[relay].life else {
            return;
        };
        let wake = life.turn(now);
        let outputs: Vec<Output> = life.engine.take_outputs().collect();
        life.engine.take_answered();
        let number = life.number;
        self.ask_disk(relay);
        if let Some(wake) = wake {
            let at = u64::try_from(wake.as_micros()).unwrap().max(self.now + 1);
            if self.relays[relay].woken(at) {
                self.plan_in(at - self.now, Event::Wake(relay, number));
            }
        }
        for output in outputs {
            self.note(&(relay, "out", &output));
            self.output(relay, output);
        }
    }

    fn output(&mut self, relay: usize, output: Output) {
        match output {
            Output::Published { ticket, result } => self.on_published(relay, ticket, result.ok()),
            Output::ToReceiver { .. } | Output::ToSender { .. } | Output::CloseLane { .. } => {
                self.on_lane_output(relay, output);
            }
            Output::Subscribed { ticket, result } => self.on_subscribed(ticket, result.is_ok()),
            Output::Deliver(deliver) => self.on_deliver(relay, &deliver),
            Output::Overdue { .. } => {}
            Output::Undelivered { ticket, messages } => self.on_none_left(ticket, messages),
            Output::Answer(ticket, answer) => {
                self.answers.entry(ticket.number).or_default().push(*answer);
            }
        }
    }

    /// An operator asks; the answers come in time.
    fn operate(&mut self, relay: usize, command: Command) -> u64 {
        self.tickets += 1;
        let ticket = Ticket {
            shard: Ticket::ADMIN,
            number: self.tickets,
        };
        if let Some(life) = self.relays[relay].life_number() {
            self.input(relay, life, Input::Operate(ticket, Box::new(command)));
        }
        ticket.number
    }

    /// An operator asks and waits.
    fn ask(&mut self, relay: usize, command: Command) -> Answer {
        let ticket = self.operate(relay, command);
        for _ in 0..1000 {
            let last = self.answers.get_mut(&ticket).and_then(|answers| {
                answers.retain(|answer| !matches!(answer, Answer::Progress { .. }));
                answers.pop()
            });
            if let Some(answer) = last {
                return answer;
            }
            let next = self.now + 10_000;
            self.run_until(next);
        }
        panic!("relay {relay} gives no answer");
    }

    fn stats(&self) -> String {
        let now = self.moment();
        let events = self.publishers.all.len();
        let accepted = self
            .publishers
            .all
            .iter()
            .filter(|event| event.accepted.is_some())
            .count();
        let lives: u64 = self.relays.iter().map(|relay| relay.lives).sum();
        let status = |relay: &Relay| relay.life.as_ref().map(|life| life.engine.status(now));
        let dead: u64 = self
            .relays
            .iter()
            .filter_map(status)
            .map(|status| status.dead_letters)
            .sum();
        let segments: u64 = self
            .relays
            .iter()
            .filter_map(status)
            .map(|status| status.segments)
            .sum();
        let seconds = self.now / 1_000_000;
        let deliveries = self.ledger.deliveries;
        let (moves, aborted) = (self.moves.done, self.moves.aborted);
        let rerouted = self.ledger.rerouted;
        let evacuations = self.evacuations.done;
        let applied = self.services.applied();
        format!(
            "{moves} moves, {aborted} aborted, {evacuations} evacuations, {rerouted} rerouted, {applied} calls applied, {events} events, {accepted} accepted, {deliveries} deliveries, {lives} lives, {dead} dead letters, {segments} segments, {seconds} s"
        )
    }

    fn note(&mut self, what: &impl Debug) {
        if !self.plan.traced && !self.verbose {
            return;
        }
        let text = format!("{} {what:?}", self.now);
        if self.verbose {
            println!("{text}");
        }
        self.trace.write(text.as_bytes());
    }
}

/// The wall clock at the start.
const WALL_START: u64 = 1_800_000_000_000;
/// So long it may take until all is where it should be after the last fault.
const PATIENCE_MICROS: u64 = 3_600_000_000;
