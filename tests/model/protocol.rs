//! One key, some relays of two units, a store and coordinators.
//!
//! What is left out because it changes nothing: `migrating` admits as `active` does, and a report of an earlier session is
//! ignored whichever session that was, so sessions need no number. [`Protocol::tidies`] forgets more of that kind.

use std::collections::HashSet;

use stateright::{Model, Property};

use crate::rules::{Lease, Rule};
use crate::world::{Record, State, World};
use crate::{A, B};

/// The bounds, and what is left out.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    /// The unit of each relay.
    pub(crate) relays: Vec<u8>,
    pub(crate) writes: u8,
    /// Commits of the store.
    pub(crate) revisions: u8,
    pub(crate) coordinators: usize,
    pub(crate) lease: Lease,
    pub(crate) without: Option<Rule>,
    /// Worlds that differ only in what nobody will ever look at again are the same: reports and barriers of revisions that are
    /// over. One world in hundreds is left; [`Protocol::is_same_tidied`] proves it.
    pub(crate) tidies: bool,
}

/// What may happen next. Numbers are those of relays, or of coordinators.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Abort,
    Apply(usize),
    Begin(usize),
    Claim(usize),
    Commit(usize),
    /// Which of the writes in flight.
    Complete(usize, usize),
    Decide(usize),
    Deliver(usize),
    Freeze,
    LocalExpire(usize),
    NewSession(usize),
    Observe(usize),
    Report(usize),
    StoreExpire(usize),
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.relays.len(), self.coordinators, self.writes)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let top = world.top();
        if world.rev() < self.revisions {
            match top.state {
                State::Active(_) => steps.push(Step::Freeze),
                State::Frozen(_) => steps.push(Step::Abort),
                State::Unbound => {}
            }
            for (coordinator, ready) in world.ready.iter().enumerate() {
                if ready.is_some_and(|rev| rev == world.rev() || !self.has(Rule::CompareAndSwap)) {
                    steps.push(Step::Commit(coordinator));
                }
            }
        }
        for (coordinator, ready) in world.ready.iter().enumerate() {
            if *ready != Some(world.rev()) && self.is_barrier_passed(world) {
                steps.push(Step::Observe(coordinator));
            }
        }
        for relay in 0..self.relays.len() {
            self.actions_of(world, relay, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        let top = world.top();
        match step {
            Step::Freeze => next.log.push(Record {
                state: State::Frozen(top.state.unit()?),
                ..top
            }),
            Step::Abort => next.log.push(Record {
                state: State::Active(top.state.unit()?),
                ..top
            }),
            Step::Observe(coordinator) => next.ready[coordinator] = Some(world.rev()),
            Step::Commit(coordinator) => {
                next.ready[coordinator] = None;
                let to = if top.state.unit()? == A { B } else { A };
                next.bind(to);
            }
            Step::Claim(relay) => next.bind(self.relays[relay]),
            _ => self.step_of_relay(&mut next, step),
        }
        if self.tidies {
            next.tidy();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1", |_, world: &World| !world.is_order_broken),
            Property::always("I2", |_, world: &World| !world.is_overlapped),
            Property::always("I3", |protocol: &Self, world: &World| protocol.owners(world) <= 1),
            Property::always("tidying hides nothing", |protocol: &Self, world: &World| {
                protocol.tidies || protocol.without.is_some() || protocol.is_same_tidied(world)
            }),
            Property::sometimes("move", |_, world: &World| world.owners_so_far().len() >= 2),
            Property::sometimes("abort", |_, world: &World| world.has_abort()),
            Property::sometimes("accept after a move", |_, world: &World| {
                let first = world.log.iter().find(|record| record.term > 0);
                world
                    .accepted
                    .zip(first)
                    .is_some_and(|((term, _), first)| term > first.term)
            }),
            Property::sometimes(
                "there and back",
                |_, world: &World| matches!(*world.owners_so_far(), [first, _, third, ..] if first == third),
            ),
        ]
    }
}

impl Protocol {
    /// Whether a world and the same one tidied have the same future: each step of one leads to what a step of the other leads
    /// to, or changes nothing.
    fn is_same_tidied(&self, world: &World) -> bool {
        let tidied = |world: &World| {
            let mut world = world.clone();
            world.tidy();
            world
        };
        let same = tidied(world);
        let future = |world: &World| -> HashSet<World> {
            let mut steps = Vec::new();
            self.actions(world, &mut steps);
            let next = steps.into_iter().filter_map(|step| self.next_state(world, step));
            next.map(|next| tidied(&next)).filter(|next| *next != same).collect()
        };
        future(world) == future(&same)
    }

    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn actions_of(&self, world: &World, at: usize, steps: &mut Vec<Step>) {
        let relay = &world.relays[at];
        let is_unbound = world.top().state == State::Unbound;
        if world.rev() < self.revisions && (is_unbound || !self.has(Rule::CreateIfAbsent)) {
            steps.push(Step::Claim(at));
        }
        if relay.applied < world.rev() {
            steps.push(Step::Apply(at));
        }
        if world.writes_left > 0 && (self.has(Rule::RegisterFirst) || self.admitted(world, at).is_some()) {
            steps.push(Step::Begin(at));
        }
        if relay.tentative > 0 || !relay.checked.is_empty() {
            steps.push(Step::Decide(at));
        }
        for write in 0..relay.in_flight.len() {
            steps.push(Step::Complete(at, write));
        }
        if relay.report != Some(world.report(at)) {
            steps.push(Step::Report(at));
        }
        if relay.report.is_some() {
            steps.push(Step::Deliver(at));
        }
        if relay.has_lease && self.lease == Lease::Ends {
            steps.push(Step::LocalExpire(at));
        }
        let is_quiet = relay.in_flight.is_empty() || !self.has(Rule::ExpiryWaitsForWrites);
        let is_over = match self.lease {
            Lease::Ends => !relay.has_lease && is_quiet,
            Lease::Endless => false,
            Lease::EndlessButTaken => true,
        };
        if relay.is_live && is_over {
            steps.push(Step::StoreExpire(at));
        }
        if !relay.is_live {
            steps.push(Step::NewSession(at));
        }
    }

    fn step_of_relay(&self, world: &mut World, step: Step) {
        match step {
            Step::Apply(at) => world.relays[at].applied += 1,
            Step::Begin(at) => {
                world.writes_left -= 1;
                match self.admitted(world, at) {
                    Some(term) if !self.has(Rule::RegisterFirst) => world.relays[at].checked.push(term),
                    _ => world.relays[at].tentative += 1,
                }
            }
            Step::Decide(at) => {
                let term = if self.has(Rule::RegisterFirst) {
                    world.relays[at].tentative -= 1;
                    self.admitted(world, at)
                } else {
                    world.relays[at].checked.pop()
                };
                if let Some(term) = term {
                    world.accept(at, term, self.relays[at]);
                }
            }
            Step::Complete(at, write) => drop(world.relays[at].in_flight.remove(write)),
            Step::Report(at) => world.relays[at].report = Some(world.report(at)),
            Step::Deliver(at) => world.relays[at].deliver(),
            Step::LocalExpire(at) => world.relays[at].has_lease = false,
            Step::StoreExpire(at) => world.relays[at].is_live = false,
            Step::NewSession(at) => {
                let rev = world.rev();
                let catches_up = self.has(Rule::CatchUp);
                world.relays[at].open(catches_up.then_some(rev));
            }
            Step::Abort | Step::Claim(_) | Step::Commit(_) | Step::Freeze | Step::Observe(_) => {}
        }
    }

    /// The term under which a relay's gate would accept a write now.
    fn admitted(&self, world: &World, at: usize) -> Option<u8> {
        let relay = &world.relays[at];
        let view = world.log[usize::from(relay.applied)];
        let owner = match view.state {
            State::Active(unit) => Some(unit),
            State::Frozen(unit) if !self.has(Rule::NoLocalUnfreeze) => Some(unit),
            _ => None,
        };
        (relay.has_lease && owner == Some(self.relays[at])).then_some(view.term)
    }

    /// How many units have gates that would accept a write now.
    fn owners(&self, world: &World) -> usize {
        let has_open_gate = |unit: &&u8| {
            let mut relays = self.relays.iter().enumerate();
            relays.any(|(at, of)| of == *unit && self.admitted(world, at).is_some())
        };
        [A, B].iter().filter(has_open_gate).count()
    }

    /// Whether a coordinator that looks at the store now may go on to the commit.
    fn is_barrier_passed(&self, world: &World) -> bool {
        let State::Frozen(source) = world.top().state else {
            return false;
        };
        let rev = world.rev();
        let mut relays = self.relays.iter().zip(&world.relays);
        relays.all(|(unit, relay)| {
            let is_done = if self.has(Rule::ReportNamesRevision) {
                relay.acked >= rev && (relay.drained_at >= rev || !self.has(Rule::Drain))
            } else {
                relay.drained_at > 0
            };
            *unit != source || !relay.is_live || is_done || !self.has(Rule::WaitForSessions)
        })
    }
}
