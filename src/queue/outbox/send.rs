//! What goes out now, and when to look again.

use std::time::Duration;

use super::backlog::Waiting;
use super::ends::{Ending, From};
use super::keys::NO_KEY;
use super::lane::Cargo;
use super::{Outbox, state};
use crate::model::Seq;
use crate::queue::api::Output;
use crate::queue::effects::{Effects, Now};
use crate::queue::lanes::{LaneId, Sent, ToReceiver};
use crate::queue::metrics::Seen;
use crate::queue::record::Record;

/// The earliest moment of some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wake(pub(super) Option<Duration>);

impl Wake {
    pub(super) fn at(&mut self, moment: impl Into<Option<Duration>>) {
        self.0 = self.0.into_iter().chain(moment.into()).min();
    }
}

/// A batch of the backlog, and when its cursor has more if a limit ended it.
#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    bytes: usize,
    wake: Wake,
}

impl Outbox {
    /// Does what can be done now. Call it after all other calls; returns when to call it next, if nothing else happens.
    pub fn poll(&mut self, now: Now, fx: &mut Effects) -> Option<Duration> {
        self.clock = self.clock.max(now.mono);
        let mut wake = Wake::default();
        self.end_pause(now, &mut wake);
        self.end_rests(now.mono, &mut wake);
        self.end_stops(now.mono, &mut wake);
        self.close_dead(now.mono, fx, &mut wake);
        self.demote(now.mono);
        if self.paused().is_none() && !self.foreign {
            self.send_gaps(now.mono, fx);
            self.send_live(now, fx, &mut wake);
            self.send_backlog(now, fx, &mut wake);
            self.settle(now.mono, fx);
        }
        self.tidy();
        self.read_ahead(now.mono, fx, &mut wake);
        self.sweep(now, fx, &mut wake);
        self.write_wishes(fx);
        if self.ledger.flush_at().is_some_and(|at| at <= now.mono) {
            self.write_relayed(fx);
        }
        wake.at(self.ledger.flush_at());
        if let Some(entry) = self.live.next() {
            wake.at(entry.since + self.config.backlog_after);
        }
        wake.0
    }

    /// Wants the record of what was acknowledged of late.
    pub(super) fn write_relayed(&mut self, fx: &mut Effects) {
        let Some((seqs, counts)) = self.ledger.flush() else {
            return;
        };
        for (topic, count) in &counts {
            self.topics.at_mut(*topic).books.relayed += count;
        }
        let counts = counts.into_iter();
        fx.record(Record::Relayed {
            unit: self.unit.clone(),
            seqs,
            counts: counts
                .map(|(topic, count)| (self.topics.at(topic).name.clone(), count))
                .collect(),
        });
    }

    fn end_pause(&mut self, now: Now, wake: &mut Wake) {
        if self.pause.as_ref().is_some_and(|pause| pause.is_over(now.wall)) {
            self.pause = None;
        }
        if let Some(until) = self.pause.as_ref().and_then(|pause| pause.until) {
            wake.at(now.mono + Duration::from_millis(until.saturating_sub(now.wall.0)));
        }
    }

    fn close_dead(&mut self, now: Duration, fx: &mut Effects, wake: &mut Wake) {
        for lane in self.closing.drain(..) {
            let why = "the log has a new epoch".to_owned();
            fx.output(Output::CloseLane { lane, why });
        }
        let dead: Vec<LaneId> = self
            .lanes()
            .filter(|lane| state::is_dead(now, lane))
            .map(|lane| lane.id)
            .collect();
        for id in dead {
            self.close(id, "nothing was acknowledged for too long", fx);
        }
        for lane in self.lanes() {
            wake.at(state::dead_at(lane));
        }
    }

    /// Tells the peer what will not come (M-G2).
    fn send_gaps(&mut self, now: Duration, fx: &mut Effects) {
        let open = |lane: &&mut super::Lane| lane.is_open();
        let backlog = self.backlog_lane.as_mut().filter(open);
        let Some(lane) = backlog.or(self.live_lane.as_mut().filter(open)) else {
            return;
        };
        let mut highest = 0;
        while lane.bytes() < self.config.lane_bytes_max
            && let Some((seqs, reason)) = self.ledger.tell()
        {
            let batch = lane.launch(now, GAP_BYTES, Cargo::Gap(seqs, reason));
            highest = highest.max(seqs.1);
            fx.output(Output::ToReceiver {
                lane: lane.id,
                frame: ToReceiver::Gap { batch, seqs, reason },
            });
        }
        if highest > 0 {
            let relay = lane.relay.clone();
            self.name(&relay, highest);
        }
    }

    fn send_live(&mut self, now: Now, fx: &mut Effects, wake: &mut Wake) {
        if !self.open_live_lane() || !self.live.waits() {
            return;
        }
        if let Some(backlog) = &self.backlog_lane
            && let Some(until) = self.share.holds_live(now.mono, backlog)
        {
            wake.at(until);
            return;
        }
        while self
            .live_lane
            .as_ref()
            .is_some_and(|lane| lane.bytes() < self.config.lane_bytes_max)
        {
            let (messages, bytes) = self.live_batch(now);
            let Some(lane) = self.live_lane.as_mut().filter(|_| !messages.is_empty()) else {
                return;
            };
            let batch = lane.launch(now.mono, bytes, Cargo::Live(messages.len()));
            let (lane, relay) = (lane.id, lane.relay.clone());
            self.share.on_live_sent(now.mono, bytes);
            self.name(&relay, messages.last().map_or(0, |sent| sent.seq));
            fx.output(Output::ToReceiver {
                lane,
                frame: ToReceiver::Messages { batch, messages },
            });
        }
    }

    fn live_batch(&mut self, now: Now) -> (Vec<Sent>, usize) {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = self.live.next() {
            if bytes > 0 && bytes + entry.bytes > self.config.batch_bytes {
                break;
            }
            if !self.void.is_empty() && self.void.remove(&entry.seq) {
                self.live.take_next();
                continue;
            }
            if self.held.first().is_some_and(|held| entry.seq > *held) {
                break;
            }
            if entry.message.is_expired(now.wall) {
                if let Some(entry) = self.live.take_next() {
                    let ending = Ending {
                        seq: entry.seq,
                        topic: entry.topic,
                        bytes: entry.bytes,
                        hash: NO_KEY,
                        home: self.home_key(entry.topic, &entry.message),
                    };
                    self.expire(now, ending, From::Taken, entry.message);
                }
                continue;
            }
            bytes += entry.bytes;
            messages.push(Sent {
                seq: entry.seq,
                tell_delivered: entry.tell,
                message: entry.message.clone(),
            });
            self.live.advance();
        }
        (messages, bytes)
    }

    fn send_backlog(&mut self, now: Now, fx: &mut Effects, wake: &mut Wake) {
        let held_back = self.held_back.take();
        let live_waits = self.live.waits() && self.open_live_lane();
        let Some(lane) = self.backlog_lane.as_ref().filter(|lane| lane.is_open()) else {
            return;
        };
        if self
            .cursors
            .values()
            .all(|cursor| cursor.paused || cursor.head().is_none())
        {
            return;
        }
        let allowance = self.share.allowance(now.mono, lane, live_waits);
        self.pace.refill(now.mono);
        for cursor in self.cursors.values_mut() {
            cursor.pace.refill(now.mono);
        }
        let (mut room, mut limited) = (allowance.bytes, false);
        let numbers: Vec<u32> = self.cursors.keys().copied().collect();
        let (before, after) = numbers.split_at(self.turn % numbers.len().max(1));
        let mut turn: Vec<u32> = after.iter().chain(before).copied().collect();
        while room > 0 && !turn.is_empty() {
            turn.retain(|number| {
                let batch = self.backlog_batch(now, *number, room.min(self.config.batch_bytes));
                wake.at(batch.wake.0);
                limited |= batch.wake.0.is_some();
                let some = !batch.waiting.is_empty();
                room = room.saturating_sub(batch.bytes);
                if some {
                    self.launch_backlog(now.mono, batch, fx);
                    self.turn = self.turn.wrapping_add(1);
                }
                some && room > 0
            });
        }
        if room == 0 {
            wake.at(allowance.wake);
        }
        if let Some(since) = held_back {
            let (unit, time) = (self.unit.clone(), now.mono.saturating_sub(since));
            fx.seen.push(Seen::Throttled { unit, time });
        }
        self.held_back = limited.then_some(now.mono);
    }

    fn launch_backlog(&mut self, now: Duration, batch: Batch, fx: &mut Effects) {
        let Some(lane) = &mut self.backlog_lane else { return };
        let tell = |seq: &Seq| !self.tell.is_empty() && self.tell.contains(seq);
        let messages = batch.waiting.iter().map(|waiting| Sent {
            seq: waiting.seq,
            tell_delivered: tell(&waiting.seq),
            message: waiting.message.clone(),
        });
        let messages: Vec<Sent> = messages.collect();
        let number = lane.launch(now, batch.bytes, Cargo::Backlog(batch.waiting));
        let (lane, relay) = (lane.id, lane.relay.clone());
        self.share.on_backlog_sent(now, batch.bytes);
        self.name(&relay, messages.iter().map(|sent| sent.seq).max().unwrap_or_default());
        fx.output(Output::ToReceiver {
            lane,
            frame: ToReceiver::Messages {
                batch: number,
                messages,
            },
        });
    }

    /// Takes what may go now from a cursor, at most so many bytes but for one message.
    fn backlog_batch(&mut self, now: Now, number: u32, bytes_max: usize) -> Batch {
        let mut batch = Batch::default();
        // O2: what is live and was accepted before must have arrived.
        let mut barrier = self.live.front().map_or(Seq::MAX, |entry| entry.seq);
        barrier = self.held.first().map_or(barrier, |held| barrier.min(*held));
        let lane = self.backlog_lane.as_ref().map(|lane| (lane.messages(), lane.bytes()));
        let (lane_messages, lane_bytes) = lane.unwrap_or_default();
        while let Some(cursor) = self.cursors.get_mut(&number).filter(|cursor| !cursor.paused)
            && let Some(head) = cursor.head()
        {
            if head.void {
                cursor.pop();
                continue;
            }
            let (hash, seq) = (head.hash, head.seq);
            if !self.stops.is_empty() && self.leaves_out(hash, seq) {
                self.cursors.get_mut(&number).and_then(super::Cursor::pop);
                continue;
            }
            let Some(cursor) = self.cursors.get_mut(&number) else {
                break;
            };
            let Some(head) = cursor.head() else { break };
            if head.seq > barrier || cursor.flying >= cursor.window {
                break;
            }
            let (seq, bytes) = (head.seq, head.bytes);
            if head.message.is_expired(now.wall) {
                if let Some(waiting) = cursor.pop() {
                    self.expire(now, Ending::of(&waiting), From::Backlog, waiting.message);
                }
                continue;
            }
            if self.is_there(seq) {
                if let Some(waiting) = self.cursors.get_mut(&number).and_then(super::Cursor::pop) {
                    self.settle_backlog(&waiting);
                }
                continue;
            }
            if batch.bytes > 0 && batch.bytes + bytes > bytes_max {
                break;
            }
            let under_way = (lane_messages + batch.waiting.len(), lane_bytes + batch.bytes);
            if !self.take_pace(number, bytes, under_way, &mut batch.wake) {
                break;
            }
            if let Some(waiting) = self.take_off(number) {
                batch.bytes += bytes;
                batch.waiting.push(waiting);
            }
        }
        batch
    }

    /// Whether the limits allow a message of so many bytes; it is paid for then.
    fn take_pace(&mut self, number: u32, bytes: usize, under_way: (usize, usize), wake: &mut Wake) -> bool {
        let delay = self.share.delay();
        let Some(cursor) = self.cursors.get_mut(&number) else {
            return false;
        };
        let own = (
            usize::try_from(cursor.flying).unwrap_or(usize::MAX),
            cursor.flying_bytes,
        );
        if self.pace.allows(bytes, under_way, delay) && cursor.pace.allows(bytes, own, delay) {
            self.pace.take(bytes);
            cursor.pace.take(bytes);
            return true;
        }
        wake.at(self.pace.ready_at(bytes).max(cursor.pace.ready_at(bytes)));
        false
    }

    /// The next message of a cursor goes on its way.
    fn take_off(&mut self, number: u32) -> Option<Waiting> {
        let cursor = self.cursors.get_mut(&number)?;
        let waiting = cursor.pop()?;
        cursor.flying += 1;
        cursor.flying_bytes += waiting.bytes;
        self.topics.at_mut(waiting.topic).flying += 1;
        self.flying.insert(waiting.seq);
        Some(waiting)
    }
}

/// A gap frame on its way counts as so many bytes.
const GAP_BYTES: usize = 64;
