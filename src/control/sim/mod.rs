//! Relays, a route store, coordinators and callers in one process, on simulated clocks and links: whole moves in
//! milliseconds, the same each time for the same seed.
//!
//! Faults come for a while, then all is healed, and every move must come to its end. What must hold is looked at all the time
//! ([`witness`]): R-I1 to R-I5, R-I7 to R-I15.
//!
//! # Invariants
//! - S1. Nothing but the seed decides: one source of dice for the world, no time but that of the world.
//! - S2. Relays, store and coordinators are the real ones; of the stories of calls only what they do with routes is here, in
//!   small (`calls`, `owner`).
//! - S3. A mistake is planted in what stands between the real parts ([`planted`]).
//!
//! # Not here
//! What becomes of messages (`queue::sim`): here they wait and are taken (`backlogs`). Disks, the applications' own stores.

mod backlogs;
mod calls;
mod coordinator;
mod desks;
mod faults;
mod keys;
mod net;
mod owner;
mod pauses;
mod planted;
mod relay;
mod store;
mod tests;
mod tokens;
mod truth;
mod witness;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hasher;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use self::backlogs::Backlogs;
use self::coordinator::Coordinators;
use self::keys::Subject;
use self::net::Net;
use self::pauses::Pauses;
use self::planted::Planted;
use self::relay::Relay;
use self::store::{Question, Store};
use self::tokens::Tokens;
use self::witness::Witness;

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    /// Milliseconds with faults.
    pub millis: u64,
    pub faults: bool,
    /// Services take long for many calls, and all leases are as short as they can be.
    pub slow: bool,
    pub planted: Option<Planted>,
    /// What happens is written down, for the hash of the run.
    pub traced: bool,
}

pub(super) struct World {
    plan: Plan,
    /// Microseconds since the start.
    now: u64,
    dice: fastrand::Rng,
    agenda: BTreeMap<(u64, u64), Event>,
    planned: u64,
    subjects: Vec<Subject>,
    net: Net,
    store: Store,
    relays: Vec<Relay>,
    coordinators: Coordinators,
    pauses: Pauses,
    backlogs: Backlogs,
    tokens: Tokens,
    witness: Witness,
    last_call: u64,
    calm: bool,
    trace: Xxh3,
    verbose: bool,
}

/// What will happen.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody makes a call.
    Call,
    /// A call that a service has is over.
    Done {
        subject: usize,
        running: u64,
    },
    Fault,
    Heal(faults::Trouble),
    /// The witness looks at all gates.
    Look,
    /// Messages are published and delivered.
    Messages,
    /// The store tells all its readers that it is there.
    Progress,
    Restart(usize),
    /// A relay or a coordinator that runs at one asks the store.
    Store(Box<Question>),
    /// Something comes to a life of a relay.
    To(relay::Life, relay::Input),
    /// An operator does something.
    Work,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut dice = fastrand::Rng::with_seed(plan.seed);
        let store = Store::new(&mut dice, plan.slow);
        let relays = Relay::all(&mut dice);
        let mut world = Self {
            plan,
            now: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            subjects: keys::subjects(),
            net: Net::new(),
            tokens: Tokens::new(),
            witness: Witness::new(&store.snapshot(), keys::subjects()),
            store,
            relays,
            coordinators: Coordinators::default(),
            pauses: Pauses::default(),
            backlogs: Backlogs::default(),
            last_call: 0,
            calm: !plan.faults,
            trace: Xxh3::new(),
            verbose: std::env::var("SIM_TRACE").is_ok(),
            dice,
        };
        for relay in 0..world.relays.len() {
            world.start_relay(relay);
        }
        for (time, event) in [
            (100_000, Event::Call),
            (1_000_000, Event::Work),
            (100_000, Event::Progress),
            (200_000, Event::Look),
            (150_000, Event::Messages),
        ] {
            world.plan_in(time, event);
        }
        if plan.faults {
            world.plan_in(2_000_000, Event::Fault);
        }
        world
    }

    /// All of it; the hash of what happened, or what is wrong.
    pub(super) fn run(mut self) -> Result<u64, String> {
        self.run_until(self.plan.millis * 1000);
        self.heal_all();
        let end = self.now + PATIENCE_MICROS;
        while self.witness.wrong().is_none() && !self.restless().is_empty() {
            if self.now >= end {
                return Err(format!("it does not come to rest: {}", self.restless()));
            }
            let next = self.now + 1_000_000;
            self.run_until(next);
        }
        if std::env::var("SIM_STATS").is_ok() {
            println!("seed {}: {}", self.plan.seed, self.stats());
        }
        match self.witness.wrong() {
            Some(wrong) => Err(wrong),
            None => Ok(self.trace.digest()),
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > end || self.witness.wrong().is_some() {
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
            Event::Call => self.call_some(),
            Event::Done { subject, running } => self.witness.on_done(subject, running),
            Event::Fault => self.fault(),
            Event::Heal(trouble) => self.heal(&trouble),
            Event::Look => {
                self.look_at_gates();
                self.plan_in(LOOK_EVERY, Event::Look);
            }
            Event::Messages => self.look_at_messages(),
            Event::Progress => {
                self.tell_readers(true);
                self.plan_in(PROGRESS_EVERY, Event::Progress);
            }
            Event::Restart(relay) => {
                self.start_relay(relay);
                self.pauses.on_trouble(self.now);
            }
            Event::Store(question) => self.on_question(*question),
            Event::To(life, input) => self.on_input(life, input),
            Event::Work => self.work(),
        }
    }

    fn plan_in(&mut self, micros: u64, event: Event) {
        self.planned += 1;
        self.agenda.insert((self.now + micros, self.planned), event);
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn has(&self, planted: Planted) -> bool {
        self.plan.planted == Some(planted)
    }

    fn stats(&self) -> String {
        let lives: u64 = self.relays.iter().map(|relay| relay.lives).sum();
        let (witness, moves) = (self.witness.stats(), self.coordinators.stats());
        let rev = self.store.rev();
        let seconds = self.now / 1_000_000;
        let pause = Duration::from_micros(self.pauses.longest());
        let most = self.backlogs.most();
        format!(
            "{witness}, {moves}, {lives} lives, revision {rev}, {seconds} s, {most} messages of a key at most, frozen for {pause:?} at most in quiet times"
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

const PROGRESS_EVERY: u64 = 200_000;
const LOOK_EVERY: u64 = 250_000;
/// So long it may take until all has come to rest after the last fault.
const PATIENCE_MICROS: u64 = 300_000_000;
