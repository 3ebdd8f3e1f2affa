//! Takes messages of keys that have moved out of the line: each goes into the line of the unit that owns its key now, in one record
//! that ends it here (R3).
//!
//! # How
//! The line is read from the first message of such a key on, whether the unit can be reached or not. What is found is wished
//! elsewhere in the order of its numbers. New messages of the key come behind it here, until nothing of it is left; then the
//! key goes straight to its new unit.
//!
//! # Invariants
//! - M1. Messages of a key leave in their order, and none before all that were on their way have been answered (M-C1).
//! - M2. A key leaves one line at a time: what the next unit says of it counts when nothing of it is left in the line before. So all
//!   that is in the line it goes to was accepted earlier than all that is in the line it leaves, wherever the key wanders.
//! - M3. A restart knows from records and snapshot which keys were leaving. It may take one for leaving that has left, until the
//!   line was read once more, but never one that has come back by a later epoch.
//! - M4. What the unit has taken of a key is on disk here before anything of it leaves: else a restart, which knows that the key was
//!   leaving, would take that out of the line, too.
//! - M5. A restart knows of each key that stayed in the line, and before any of it was sent again: what the unit took of it since is in
//!   no record perhaps (M-B2).
//! - M6. All messages of a key that leave at a time go to one unit: a later one that went elsewhere would overtake them (M-C1).

use std::collections::BTreeSet;
use std::time::Duration;

use super::backlog::MOVING;
use super::ends::{End, Ending, From, Wish};
use super::homes::Stay;
use super::keys::NO_KEY;
use super::reads::WISHES_MAX;
use super::send::Wake;
use super::stops::{Leaving, State, Stop, id_of};
use super::{Outbox, topics};
use crate::model::{GapReason, Message, Seq, UnitId};
use crate::queue::effects::{Effects, Now, ReadBack, Reader};
use crate::queue::planted::{Bug, planted};

/// State of the search.
#[derive(Debug, Default)]
pub(super) struct Moving {
    run: Option<Run>,
    rest_until: Duration,
}

/// A way through the line.
#[derive(Debug)]
struct Run {
    next: Seq,
    /// Keys that leave on this way.
    ids: BTreeSet<u64>,
    /// The last number that a read under way can find.
    reading: Option<Seq>,
}

impl Outbox {
    /// By which epoch messages of a key are in the line, if some are. What comes now belongs behind them.
    pub fn home(&self, hash: u64) -> Option<(u64, Stay)> {
        match self.leaving(hash).filter(|leaving| leaving.begun) {
            _ if self.is_passed_by() => None,
            // An earlier epoch than that of the next owner: should a crash undo the move, this unit says once more where to.
            Some(leaving) => Some((leaving.epoch.saturating_sub(1).max(1), Stay::Leaves)),
            None => self.homes.find(hash),
        }
    }

    /// The message with this number is of a key whose order counts, and was routed by an epoch. Call it with
    /// [`assign`](Self::assign).
    pub fn at_home(&mut self, seq: Seq, hash: u64, epoch: u64) {
        let room = self.config.keys_max;
        self.homes.on_assigned(seq, hash, epoch, room);
        if let Some(leaving) = self.leaving_mut(hash) {
            leaving.last = leaving.last.max(seq);
            leaving.through = false;
        }
    }

    /// Where messages of a key go that leave the line, and since when that unit owns it (M6).
    pub fn leads_to(&self, key: u64) -> Option<(&UnitId, u64)> {
        self.leaving(key).map(|leaving| (&leaving.to, leaving.epoch))
    }

    /// A message of a key goes there, and all behind it.
    pub fn lead(&mut self, key: u64, to: &UnitId, epoch: u64) {
        if let Some(leaving) = self.leaving_mut(key) {
            leaving.to.clone_from(to);
            leaving.epoch = epoch;
        }
    }

    /// Keys on their way into other lines.
    pub fn moves(&self) -> impl Iterator<Item = u64> {
        let begun = |stop: &Stop| matches!(&stop.state, State::Leaves(leaving) if leaving.begun);
        self.stops
            .iter()
            .filter(move |(_, stop)| begun(stop))
            .map(|(id, _)| *id)
    }

    /// Takes what has moved out of the line. `begun` are the keys on their way out of any line (M2). Call it after `poll`, unless
    /// the disk is full.
    pub fn move_out(&mut self, now: Now, begun: &mut BTreeSet<u64>, fx: &mut Effects) -> Option<Duration> {
        let mut wake = Wake::default();
        self.look_for_stranded(now.mono, fx, &mut wake);
        if !self.stops.is_empty() {
            self.end_moves(begun);
            self.begin_moves(now.mono, begun, fx);
            self.look_for_moved(now.mono, fx, &mut wake);
        }
        self.write_wishes(fx);
        wake.0
    }

    fn look_for_moved(&mut self, now: Duration, fx: &mut Effects, wake: &mut Wake) {
        if now < self.moving.rest_until {
            return wake.at(self.moving.rest_until);
        }
        if let Some(run) = self.moving.run.take_if(|run| run.reading.is_none()) {
            // The last number of a key may be lower by now: the disk failed.
            self.moving.run = self.looked(run);
        }
        if self.moving.run.is_none() {
            self.moving.run = self.next_run();
        }
        let Some(run) = &mut self.moving.run else { return };
        if run.reading.is_some() || run.next > self.last_stored || self.wished.len() > WISHES_MAX {
            return;
        }
        run.reading = Some(self.last_stored);
        let reader = Reader::Outbox {
            unit: self.unit.clone(),
            cursor: MOVING,
        };
        fx.read(reader, self.line, run.next, MESSAGES_MAX, BYTES_MAX);
    }

    /// Keys of which nothing is on its way any more may leave (M1), and the record of what the unit has is wanted first (M4).
    fn begin_moves(&mut self, now: Duration, begun: &mut BTreeSet<u64>, fx: &mut Effects) {
        let waits = |stop: &Stop| matches!(&stop.state, State::Leaves(leaving) if !leaving.begun);
        if !self.stops.values().any(waits) {
            return;
        }
        let (flying, last) = (self.flying_ids(), self.assigned);
        self.settle(now, fx);
        self.write_relayed(fx);
        for (id, stop) in &mut self.stops {
            if let State::Leaves(leaving) = &mut stop.state
                && !leaving.begun
                && (!flying.contains(id) || planted(Bug::StrandedWithLanes))
                && begun.insert(*id)
            {
                leaving.begun = true;
                leaving.last = last;
            }
        }
    }

    fn next_run(&self) -> Option<Run> {
        let leaves = |stop: &Stop| matches!(&stop.state, State::Leaves(leaving) if leaving.begun && !leaving.through);
        let ready = self.stops.iter().filter(|(_, stop)| leaves(stop));
        let next = ready.clone().map(|(_, stop)| stop.first).min()?;
        Some(Run {
            next: next.max(1),
            ids: ready.map(|(id, _)| *id).collect(),
            reading: None,
        })
    }

    /// A part of the line was read.
    pub(super) fn on_moving_read(&mut self, now: Now, read: ReadBack) {
        let Some(mut run) = self.moving.run.take() else { return };
        let Some(last) = run.reading.take().filter(|_| !read.failed && read.from == run.next) else {
            self.moving.rest_until = now.mono + REST;
            self.moving.run = Some(run);
            return;
        };
        let end = read.next.map_or(last + 1, |next| next.min(last + 1)).max(run.next);
        for (seq, message) in read.found {
            if seq >= run.next && seq < end {
                self.wish_elsewhere(&run.ids, seq, message);
            }
        }
        run.next = end;
        self.moving.run = self.looked(run);
    }

    /// Keys of which all numbers were looked at are taken out of a way; `None`: none is left.
    fn looked(&mut self, mut run: Run) -> Option<Run> {
        let end = run.next;
        let through = |stop: &Stop| match &stop.state {
            State::Leaves(leaving) => leaving.last < end,
            State::Tries | State::Waits(_) => true,
        };
        for id in std::mem::take(&mut run.ids) {
            let Some(stop) = self.stops.get_mut(&id) else { continue };
            let through = through(stop);
            if let State::Leaves(leaving) = &mut stop.state {
                leaving.through = through;
            }
            stop.first = stop.first.max(end);
            if !through {
                run.ids.insert(id);
            }
        }
        (!run.ids.is_empty()).then_some(run)
    }

    fn wish_elsewhere(&mut self, ids: &BTreeSet<u64>, seq: Seq, message: Message) {
        if !self.is_open(seq) || self.flying.contains(&seq) || self.live.find(seq).is_some() {
            return;
        }
        let topic = self.known(&message.topic);
        let hash = self.topics.at(topic).key_of(&message);
        let id = id_of(hash, seq);
        let Some(State::Leaves(leaving)) = self
            .stops
            .get_mut(&id)
            .filter(|_| ids.contains(&id))
            .map(|stop| &mut stop.state)
        else {
            return;
        };
        leaving.open += 1;
        let (to, epoch) = (leaving.to.clone(), leaving.epoch);
        let ending = Ending {
            seq,
            topic,
            bytes: message.bytes(),
            hash,
            home: self.home_key(topic, &message),
        };
        let end = End::Moved {
            message: Box::new(message),
            to,
            epoch,
        };
        self.end(ending, From::Backlog, end);
    }

    /// A message is in another line now; that is on disk.
    pub fn on_rerouted(&mut self, now: Now, seq: Seq, message: &Message, to: &UnitId, fx: &mut Effects) {
        let topic = self.known(&message.topic);
        let hash = self.topics.at(topic).key_of(message);
        let id = id_of(hash, seq);
        let wished = self.wished.contains_key(&seq);
        if wished {
            if let Some(leaving) = self.leaving_mut(id) {
                leaving.open = leaving.open.saturating_sub(1);
            }
        } else if hash != NO_KEY && !planted(Bug::MovesForgotten) {
            self.remember_move(id, topic, seq, message.routed, to);
        }
        let counts = [(message.topic.clone(), 1)];
        self.on_gap(now, (seq, seq), GapReason::Rerouted, &counts, fx);
    }

    /// A restart reads that a message of a key has left: there may be more of it (M3).
    fn remember_move(&mut self, id: u64, topic: topics::TopicId, seq: Seq, epoch: u64, to: &UnitId) {
        if self.ledger.done.contains(seq) {
            return;
        }
        let last = self.last_stored;
        let leaving = Leaving {
            to: to.clone(),
            epoch,
            last,
            begun: true,
            open: 0,
            through: false,
        };
        let stop = Stop::leaving(seq + 1, topic, leaving);
        self.stops.insert(id, stop);
    }

    /// A message of a key was stored here. A later epoch says that it has come back: after it had left, as a restart reads it, or
    /// before it began to.
    pub(super) fn on_key_stored(&mut self, seq: Seq, hash: u64, message: &Message) {
        let Some(leaving) = self.leaving_mut(hash) else { return };
        if message.routed > leaving.epoch && message.redrives == 0 {
            self.go_on(hash);
        } else {
            leaving.last = leaving.last.max(seq);
            leaving.through = false;
        }
    }

    /// Keys of which nothing is left go straight to their units from now on.
    fn end_moves(&mut self, begun: &mut BTreeSet<u64>) {
        let left = |stop: &Stop| matches!(&stop.state, State::Leaves(leaving) if leaving.through && leaving.open == 0);
        let ids: Vec<u64> = self
            .stops
            .iter()
            .filter(|(_, stop)| left(stop))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.stops.remove(&id);
            self.homes.forget(id);
            begun.remove(&id);
        }
    }

    /// A key that was to leave stays, because it has come back before it had left; that is on disk (M5).
    pub fn on_stays(&mut self, key: u64) {
        let leaves =
            |(seq, wish): &(&Seq, &Wish)| matches!(wish.end, End::Moved { .. }) && id_of(wish.hash, **seq) == key;
        let left: Vec<Seq> = self.wished.iter().filter(leaves).map(|(seq, _)| *seq).collect();
        for seq in left {
            let Some(wish) = self.wished.remove(&seq) else { continue };
            self.unwritten.remove(&seq);
            let state = self.topics.at_mut(wish.topic);
            state.ending -= 1;
            state.backlog += 1;
            let cursor = self.cursor_of(wish.topic);
            cursor.ending = cursor.ending.saturating_sub(1);
            cursor.pending += 1;
            self.take_up(wish.topic, seq);
        }
        self.go_on(key);
    }

    /// Numbers that are not on disk were taken back.
    pub(super) fn clamp_moves(&mut self) {
        let stored = self.last_stored;
        for stop in self.stops.values_mut() {
            if let State::Leaves(leaving) = &mut stop.state {
                leaving.last = leaving.last.min(stored);
            }
        }
    }

    /// A key does not leave after all. Should it have to once more, it is looked for from its first message on.
    fn go_on(&mut self, id: u64) {
        if let Some(run) = &mut self.moving.run {
            run.ids.remove(&id);
        }
        if let Some(stop) = self.stops.remove(&id) {
            self.take_up(stop.topic, stop.first);
        }
    }

    fn leaving(&self, id: u64) -> Option<&Leaving> {
        match &self.stops.get(&id)?.state {
            State::Leaves(leaving) => Some(leaving),
            State::Tries | State::Waits(_) => None,
        }
    }

    fn leaving_mut(&mut self, id: u64) -> Option<&mut Leaving> {
        match &mut self.stops.get_mut(&id)?.state {
            State::Leaves(leaving) => Some(leaving),
            State::Tries | State::Waits(_) => None,
        }
    }
}

/// Messages of one read,
const MESSAGES_MAX: usize = 1024;
/// and bytes.
const BYTES_MAX: usize = 1 << 20;
/// After a read that failed.
const REST: Duration = Duration::from_secs(1);
