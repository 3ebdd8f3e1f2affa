//! A restart: the last checkpoint, then what the log has behind it.
//!
//! # Invariants
//! - Y1. Nothing reads the backlog: a restart takes as long as the records since the last checkpoint.
//! - Y2. A log of which something acknowledged is lost, or may be, or that was never used, begins a new life (M-A1): with
//!   buffered syncs, any that was not closed.

use std::io;

use super::Engine;
use super::apply::When;
use super::journal::Journal;
use super::parking::Parking;
use super::places::Places;
use super::publish::Publishing;
use super::redrive::Moves;
use super::report::Report;
use super::reroute::Rerouting;
use super::undelivered::Questions;
use super::upkeep::Upkeep;
use super::waits::Waits;
use crate::model::Seq;
use crate::queue::arrivals::Arrivals;
use crate::queue::codec;
use crate::queue::dead::DeadLetters;
use crate::queue::dead::redrive::Tasks;
use crate::queue::dedup::Dedup;
use crate::queue::effects::{Effects, Now, Write};
use crate::queue::jobs::Jobs;
use crate::queue::line::LineId;
use crate::queue::log::{Damage, Log, PATIENCE, Position, Recovery, Scan, Storage};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{Kept, Record};
use crate::queue::{Metrics, Setup, Sync};

/// What a restart read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovered {
    /// Records behind the checkpoint.
    pub records: u64,
    /// A new life of the log has begun.
    pub new_life: bool,
}

impl Engine {
    /// The engine as the log says. `seed` makes it another one each time, but in simulations.
    ///
    /// # Errors
    /// If the disk does not give what it has. Damage is no error.
    pub fn recover<S: Storage>(
        (setup, metrics): (Setup, Metrics),
        seed: u64,
        now: Now,
        log: &mut Log<S>,
        recovery: &Recovery,
    ) -> io::Result<(Self, Recovered)> {
        let mut engine = Self::empty(setup, metrics, seed);
        let mut recovered = Recovered::default();
        let mut from = recovery.replay_from;
        let mut lost = recovery.state_lost;
        let mut closed = false;
        if let Some(state) = &recovery.state
            && engine.restore(now, state).is_none()
        {
            tracing::error!("the saved state of the queue cannot be read; all of its log is read instead");
            let (setup, metrics) = (engine.setup, engine.metrics);
            engine = Self::empty(setup, metrics, seed);
            from = Position::default();
            lost = true;
        }
        engine.remember(log)?;
        log.replay(from, |found| {
            recovered.records += 1;
            engine.upkeep.covers = engine.upkeep.covers.max(found.position.after());
            match codec::decode(found.kind, found.content) {
                Ok(record) => {
                    closed = matches!(&record, Record::Kept(kept) if **kept == Kept::Closed);
                    engine.replay(now, record);
                }
                Err(error) => {
                    lost = true;
                    tracing::error!(%error, position = ?found.position, "a record of the queue cannot be read");
                }
            }
        })?;
        // What lies before that was counted in the state; reading what is remembered may have met it.
        let counts = |damage: &Damage| (damage.segment, damage.bytes.1) > (from.segment, u64::from(from.offset));
        let replayed = log.take_damage();
        let mut damage = recovery
            .damage
            .iter()
            .chain(replayed.iter().filter(|damage| counts(damage)));
        lost |= damage.any(|damage| !damage.unfinished);
        lost |= !closed && (engine.was_buffered || engine.setup.queue.sync == Sync::Buffered);
        for damage in recovery.damage.iter().chain(&replayed) {
            engine.on_damaged(damage);
            for (line, seq) in &damage.lines {
                engine.places.on_damaged(*line, *seq);
            }
        }
        engine.finish_recovery(now, lost, &mut recovered);
        Ok((engine, recovered))
    }

    fn empty(setup: Setup, metrics: Metrics, seed: u64) -> Self {
        let mut engine = Self {
            dice: fastrand::Rng::with_seed(seed),
            places: Places::new(0),
            arrivals: Arrivals::new(),
            dead: DeadLetters::new(&setup.queue.dead_letters),
            dedup: Dedup::new(&setup.queue.dedup),
            tasks: Tasks::default(),
            jobs: Jobs::default(),
            moves: Moves::default(),
            journal: Journal::default(),
            parking: Parking::default(),
            publishing: Publishing::default(),
            waits: Waits::default(),
            upkeep: Upkeep::default(),
            report: Report::default(),
            held: std::collections::VecDeque::new(),
            rerouting: Rerouting::default(),
            questions: Questions::default(),
            pauses: std::collections::BTreeMap::new(),
            limits: std::collections::BTreeMap::new(),
            damaged: Vec::new(),
            was_buffered: false,
            fx: Effects::default(),
            outputs: std::collections::VecDeque::new(),
            requests: Vec::new(),
            setup,
            metrics,
        };
        engine.configure();
        engine
    }

    /// Reads what publishers had sent, as far as it is worth something.
    fn remember<S: Storage>(&mut self, log: &mut Log<S>) -> io::Result<()> {
        let mut next: Option<Seq> = self.dedup.first_chunk();
        while let Some(from) = next {
            let scan = Scan {
                line: LineId::remembered(),
                from,
                messages_max: 64,
                bytes_max: 8 * 1024 * 1024,
            };
            // What cannot be read of a segment counts as damaged after so many times.
            let mut tries = 0..PATIENCE.saturating_mul(BAD_SEGMENTS);
            let scanned = loop {
                match log.scan(scan) {
                    Err(_) if tries.next().is_some() => {}
                    scanned => break scanned?,
                }
            };
            for (_, found) in scanned.found {
                if let Ok(Record::Remembered(chunk)) = codec::decode(found.kind, found.content) {
                    self.dedup.on_chunk_read(&chunk);
                }
            }
            next = scanned.next;
        }
        self.dedup.on_all_read();
        Ok(())
    }

    fn replay(&mut self, now: Now, record: Record) {
        self.apply(now, record, When::Replayed);
        // What parts decide once more while they see it again is written again; what was wished of the dead letters is
        // wished again after all (`rollback`).
        for write in std::mem::take(&mut self.fx.writes) {
            match write {
                Write::Record(record) if super::journal::survives(&record) => self.journal.push(record),
                Write::Record(_) | Write::Dead(_) | Write::Reroute(_) | Write::Then(_) => {}
            }
        }
        self.fx.outputs.clear();
        self.fx.told.clear();
        self.outputs.clear();
    }

    fn finish_recovery(&mut self, now: Now, lost: bool, recovered: &mut Recovered) {
        self.places.rollback();
        for outbox in self.places.outboxes.values_mut() {
            outbox.recovered();
        }
        self.publishing.recovered();
        self.look_at_units();
        self.dedup.expire(now.wall);
        if planted(Bug::DedupForgotten) {
            self.dedup = Dedup::new(&self.setup.queue.dedup);
        }
        if planted(Bug::NumbersFromOne) {
            self.publishing.last = 0;
        }
        if self.places.epoch == 0 || lost {
            let epoch = self.begin_life(now);
            // Nothing was sent yet: the first lane says so already.
            self.places.set_epoch(epoch);
            recovered.new_life = true;
        }
        self.absorb();
    }
}

/// Segments with bytes that cannot be read, among those of what publishers had sent.
const BAD_SEGMENTS: u32 = 100;
