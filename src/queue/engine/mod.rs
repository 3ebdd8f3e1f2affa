//! The state of the queue and all that happens to it, without threads, clock, disk and network.
//!
//! # Path
//! `on_input` and `on_disk` give what happened to the parts (`outbox`, `inbox`, `arrivals`, `dead`, `dedup`); their wishes go
//! to the `journal`, to the outputs or to the disk; what is on disk is applied (`apply`). The owner takes outputs and
//! requests out after each `poll`.
//!
//! # Invariants
//! - E1. A publisher is answered, a message is sent and a peer is acknowledged only behind the records that say so (M-A2, A2).
//! - E2. Records take effect when they are on disk, in their order, at run time and in a restart by the same code (R1). What
//!   parts have decided at once (`Relayed`, `Settled`, `Attempt`, `Kept`) is applied in a restart only; the inbox hears when what it
//!   dropped or purged is on disk.
//! - E3. No order of a hash map decides anything: the same inputs and dice lead to the same outputs.
//! - E4. Nothing here waits: long work is done in slices, each of which ends with a read (`jobs`).

mod apply;
mod checkpoint;
mod disk;
mod journal;
mod judge;
mod long;
mod mirror;
mod operate;
mod parking;
mod places;
mod publish;
mod recovery;
mod redrive;
mod report;
mod reroute;
#[cfg(test)]
mod tests;
mod undelivered;
mod upkeep;
mod waits;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::journal::Journal;
use self::parking::Parking;
use self::places::Places;
use self::publish::Publishing;
use self::redrive::Moves;
use self::report::Report;
use self::reroute::Rerouting;
use self::undelivered::Questions;
use self::upkeep::Upkeep;
use self::waits::Waits;
use super::api::{Input, Output};
use super::arrivals::Arrivals;
use super::dead::DeadLetters;
use super::dead::redrive::Tasks;
use super::dedup::Dedup;
use super::effects::{DeadWish, Effects, Now, Told, Write};
use super::jobs::Jobs;
use super::log::disk::Request;
use super::planted::{Bug, planted};
use super::record::{DeadLetter, Kept, Pausable, Pause, Record};
use super::{Metrics, Setup};
use crate::model::{Topic, UnitId};

pub use self::parking::{ParkedEnd, ParkingLimits};
pub use self::recovery::Recovered;

/// See the module.
pub struct Engine {
    setup: Setup,
    metrics: Metrics,
    dice: fastrand::Rng,
    places: Places,
    arrivals: Arrivals,
    dead: DeadLetters,
    dedup: Dedup,
    tasks: Tasks,
    jobs: Jobs,
    moves: Moves,
    journal: Journal,
    publishing: Publishing,
    parking: Parking,
    waits: Waits,
    upkeep: Upkeep,
    report: Report,
    /// Dead letters for which there is no room yet; what they come from is paused (M-E4).
    held: VecDeque<DeadWish>,
    rerouting: Rerouting,
    questions: Questions,
    pauses: BTreeMap<Pausable, Pause>,
    limits: BTreeMap<(UnitId, Option<Topic>), (f64, u64, u32)>,
    damaged: Vec<String>,
    /// Syncs were buffered when the state was saved that this one began with.
    was_buffered: bool,
    fx: Effects,
    outputs: VecDeque<Output>,
    requests: Vec<Request>,
}

impl Engine {
    /// Something came in.
    pub fn on_input(&mut self, now: Now, input: Input) {
        match input {
            Input::Publish(publish) => self.on_publish(now, *publish),
            Input::Forget(ticket) => self.forget(ticket),
            Input::LaneUp {
                lane,
                unit,
                relay,
                kind,
            } => {
                let outbox = self.places.outbox(&unit, &self.setup);
                outbox.on_lane_up(now, lane, relay, kind, &mut self.fx);
                self.places.lanes.insert(lane, unit);
            }
            Input::LaneAccepted { lane, geo, unit, relay } => self.arrivals.on_accepted(lane, geo, unit, relay),
            Input::FromSender { lane, frame, bytes } => {
                let mut judge = judge::Bench::new(&self.setup, &mut self.places, self.upkeep.level());
                self.arrivals
                    .on_frame(now, lane, (frame, bytes), &mut judge, &mut self.fx);
            }
            Input::FromReceiver { lane, frame } => {
                if let Some(outbox) = self.places.outbox_of(lane) {
                    outbox.on_frame(now, lane, frame, &mut self.fx);
                }
            }
            Input::LaneDown(lane) => match self.places.outbox_of(lane) {
                Some(outbox) => {
                    outbox.on_lane_down(now, lane, &mut self.fx);
                    self.places.lanes.remove(&lane);
                }
                None => self.arrivals.on_lane_down(lane),
            },
            Input::Subscribe(subscribe) => self.places.subscribe(now, *subscribe, &self.setup, &mut self.fx),
            Input::Unsubscribe(consumer) => self.places.inbox.unsubscribe(now, consumer),
            Input::Settle {
                consumer,
                delivery,
                outcome,
            } => {
                let settled = (consumer, delivery);
                self.places
                    .inbox
                    .settle(now, settled, outcome, &mut self.dice, &mut self.fx);
            }
            Input::Operate(ticket, command) => self.operate(now, ticket, *command),
            Input::Ask(question) => self.ask(question),
            Input::Withdraw(ticket) => self.questions.withdraw(ticket),
            // All others are asked by `poll`.
            Input::Routes => {
                self.parking.on_news();
                self.look_at_units();
            }
            Input::Reload(setup) => self.reload(*setup),
        }
        self.absorb();
    }

    /// Does what has become possible or due. Says when there will be more to do, unless something happens before.
    pub fn poll(&mut self, now: Now) -> Option<Duration> {
        self.keep_up(now);
        self.report(now);
        let mut wakes = Vec::new();
        for outbox in self.places.outboxes.values_mut() {
            wakes.extend(outbox.poll(now, &mut self.fx));
        }
        wakes.extend(self.places.inbox.poll(now, &mut self.dice, &mut self.fx));
        let mut judge = judge::Bench::new(&self.setup, &mut self.places, self.upkeep.level());
        wakes.extend(self.arrivals.poll(now, &mut judge, &mut self.fx));
        wakes.extend(self.move_out(now));
        self.absorb();
        wakes.extend(self.reroute_all(now));
        wakes.extend(self.release_parked(now));
        self.answer_questions();
        wakes.extend(self.run_tasks(now));
        self.absorb();
        self.journal.seal(now.mono, &mut self.requests);
        wakes.extend(self.journal.wake_at(now.mono));
        wakes.extend(self.upkeep.wake_at());
        wakes.into_iter().min()
    }

    /// Takes what is to go out, in its order.
    pub fn take_outputs(&mut self) -> impl Iterator<Item = Output> {
        self.outputs.drain(..)
    }

    /// Takes what the disk is to do, in its order.
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// Bytes of publishers that were answered since the last time; for `Inlet::on_answered`.
    pub fn take_answered(&mut self) -> usize {
        self.publishing.take_answered()
    }

    /// For each peer: how far what it sent is here without a hole, and the highest number of it.
    #[cfg(test)]
    pub(crate) fn frontiers(&self) -> Vec<(super::line::StreamId, u64, u64)> {
        self.arrivals.frontiers()
    }

    /// Whether all that was decided is on disk.
    pub fn is_idle(&self) -> bool {
        self.journal.is_empty() && !self.upkeep.is_saving()
    }

    /// The queue is about to end: what the parts have not written down yet is written now.
    pub fn close(&mut self, now: Now) {
        for outbox in self.places.outboxes.values_mut() {
            outbox.flush(&mut self.fx);
        }
        self.places.inbox.save(&mut self.fx);
        self.absorb();
        if self.setup.queue.sync == super::Sync::Buffered {
            self.journal.push(Record::Kept(Box::new(Kept::Closed)));
        }
        self.journal.seal(now.mono, &mut self.requests);
    }

    /// Tells outboxes whose unit was evacuated.
    fn look_at_units(&mut self) {
        let Some(owners) = &self.setup.neighbours.owners else {
            return;
        };
        for (unit, outbox) in &mut self.places.outboxes {
            outbox.on_routes(owners.is_evacuated(unit));
        }
    }

    fn reload(&mut self, setup: Setup) {
        self.setup = setup;
        self.configure();
        self.look_at_units();
        self.parking.on_news();
        self.release_held();
    }

    fn configure(&mut self) {
        self.places.configure(&self.setup);
        self.arrivals.configure(&self.setup);
        self.dead.configure(&self.setup.queue.dead_letters);
        self.dedup.configure(&self.setup.queue.dedup);
        self.upkeep.configure(&self.setup.queue);
        self.metrics.configure(&self.setup);
    }

    /// Takes over what the parts wish.
    fn absorb(&mut self) {
        loop {
            for write in std::mem::take(&mut self.fx.writes) {
                match write {
                    Write::Dead(wish) => self.bury(*wish),
                    Write::Record(Record::Attempt { .. }) if planted(Bug::AttemptsForgotten) => {}
                    Write::Record(Record::Settled { reason: None, .. }) if planted(Bug::SettledForgotten) => {}
                    Write::Record(record) => self.journal.push(record),
                    Write::Reroute(wish) => self.rerouting.add(*wish),
                    Write::Then(output) => self.outputs.extend(self.journal.then(output)),
                }
            }
            for (reader, scan) in self.fx.reads.drain(..) {
                self.requests.push(Request::Read { reader, scan });
            }
            self.outputs.extend(self.fx.outputs.drain(..));
            for seen in self.fx.seen.drain(..) {
                self.metrics.on_seen(&seen);
            }
            let told = std::mem::take(&mut self.fx.told);
            for told in &told {
                self.waits.on_told(told, &mut self.outputs);
                match told {
                    Told::Done { topic, seq } => self.arrivals.on_done(topic, *seq, &mut self.fx),
                    Told::GivenUp { topic, seq, why } => self.arrivals.on_given_up(topic, *seq, why, &mut self.fx),
                    Told::Delivered { .. } | Told::Gone { .. } | Told::Relayed { .. } => {}
                }
            }
            if self.fx.writes.is_empty() && self.fx.outputs.is_empty() {
                return;
            }
        }
    }

    /// A message is given up (M-E4). If there is no room among the dead letters, it stays where it is and its source pauses.
    fn bury(&mut self, wish: DeadWish) {
        if self.dead.is_full() {
            self.places.hold(&wish, true);
            self.held.push_back(wish);
            return;
        }
        let bytes = wish.message.bytes() + wish.error.len() + super::dead::LETTER_BYTES;
        let letter = DeadLetter {
            seq: self.dead.assign(bytes),
            message: wish.message,
            place: wish.place,
            reason: wish.reason,
            at: wish.at,
            attempts: wish.attempts,
            first_failure: wish.first_failure,
            last_failure: wish.last_failure,
            error: wish.error,
        };
        if planted(Bug::DoneBeforeDead) {
            self.leave(Now::default(), &letter);
        }
        self.journal.push(Record::Dead(Box::new(letter)));
    }

    /// There may be room among the dead letters again.
    fn release_held(&mut self) {
        if self.held.is_empty() || self.dead.is_full() {
            return;
        }
        for wish in self.take_held() {
            self.bury(wish);
        }
    }

    /// Takes the dead letters that found no room; where they come from goes on.
    fn take_held(&mut self) -> VecDeque<DeadWish> {
        for wish in &self.held {
            self.places.hold(wish, false);
        }
        std::mem::take(&mut self.held)
    }
}
