//! Lanes come, go and answer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Outbox;
use super::backlog::Waiting;
use super::ends::{End, Ending, From};
use super::keys::NO_KEY;
use super::lane::{Cargo, Flight, Lane};
use super::live::Entry;
use super::stops::Stopped;
use super::topics::TopicId;
use crate::model::{Message, RelayName, Seq, UnitId};
use crate::queue::api::Output;
use crate::queue::effects::{Effects, Now, Told, Why};
use crate::queue::lanes::{EXPIRED, LaneId, LaneKind, Refused, ToReceiver, ToSender};
use crate::queue::line::Settled;
use crate::queue::metrics::Seen;

/// Messages that turned out to be with the unit.
#[derive(Debug, Default)]
pub(super) struct Settling {
    runs: Vec<(Seq, Seq)>,
    counts: Vec<(TopicId, u64)>,
    /// To be counted.
    seen: Vec<Seen>,
}

impl Settling {
    /// A message came to the unit on a lane.
    fn came(&mut self, now: Now, unit: &UnitId, lane: LaneKind, message: &Message) {
        self.seen.push(Seen::Relayed {
            unit: unit.clone(),
            topic: message.topic.clone(),
            lane,
            age: message.age(now.wall),
        });
    }

    fn add(&mut self, seq: Seq, topic: TopicId) {
        match self.runs.last_mut() {
            Some((_, to)) if *to + 1 == seq => *to = seq,
            _ => self.runs.push((seq, seq)),
        }
        match self.counts.last_mut() {
            Some((last, count)) if *last == topic => *count += 1,
            _ => self.counts.push((topic, 1)),
        }
    }
}

impl Outbox {
    /// A lane that was opened to a relay of the unit is up.
    pub fn on_lane_up(&mut self, now: Now, lane: LaneId, relay: RelayName, kind: LaneKind, fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        let close = |why: &str| Output::CloseLane {
            lane,
            why: why.to_owned(),
        };
        if self.foreign {
            fx.output(close("the log needs a new epoch first"));
            return;
        }
        if let Some(before) = self.slot(kind).take() {
            fx.output(Output::CloseLane {
                lane: before.id,
                why: "another lane takes its place".to_owned(),
            });
            self.ground(before);
        }
        let base = self.ledger.base();
        let open = ToReceiver::Open {
            epoch: self.epoch,
            kind,
            base,
        };
        self.name(&relay, base - 1);
        fx.output(Output::ToReceiver { lane, frame: open });
        *self.slot(kind) = Some(Lane::new(now.mono, lane, kind, relay));
    }

    /// A lane ended.
    pub fn on_lane_down(&mut self, now: Now, lane: LaneId, _fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        if let Some(lane) = self.take_lane(lane) {
            self.lost = Some("the link is gone".to_owned());
            self.ground(lane);
        }
    }

    /// The peer says something.
    pub fn on_frame(&mut self, now: Now, lane: LaneId, frame: ToSender, fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        let Some(kind) = self.lane(lane).map(|lane| lane.kind) else {
            return;
        };
        match frame {
            ToSender::Opened {
                frontier,
                above,
                highest,
            } => self.on_opened(now, lane, (frontier, &above, highest), fx),
            ToSender::Denied { detail } => {
                self.close(lane, "denied", fx);
                self.denied = Some(detail);
            }
            ToSender::Ack { batch, refused } => self.on_ack(now, lane, batch, refused, fx),
            ToSender::Busy { pushback } => {
                if let Some(lane) = self.slot(kind) {
                    lane.set_busy(now.mono, pushback.is_some());
                }
                if pushback.is_some() {
                    self.share.on_busy(now.mono);
                }
            }
            ToSender::Delivered { seqs } => fx.told.push(Told::Delivered {
                unit: self.unit.clone(),
                seqs,
            }),
            ToSender::Ended { ended } => fx.told.extend(ended.into_iter().map(|ended| Told::Gone {
                unit: self.unit.clone(),
                seqs: (ended.seq, ended.seq),
                there: true,
                why: Why {
                    reason: ended.reason,
                    detail: ended.detail,
                },
            })),
        }
        self.settle(now.mono, fx);
    }

    fn on_opened(&mut self, now: Now, id: LaneId, (frontier, above, highest): Opened<'_>, fx: &mut Effects) {
        // What was accepted here since a restart says nothing about what the relay there can have.
        let relay = self.lane(id).map(|lane| &lane.relay);
        let named = relay.and_then(|relay| self.named.get(relay)).copied();
        let known = self.known.max(named.unwrap_or_default());
        let runs_end = above.iter().map(|(_, to)| *to).max().unwrap_or_default();
        let highest = highest.max(frontier).max(runs_end);
        if highest > known {
            return self.on_foreign((highest, known), fx);
        }
        let mut there = Settled::up_to(frontier);
        for (from, to) in above {
            if from <= to {
                there.insert_range(*from, *to);
            }
        }
        if self.lane(id).is_some_and(Lane::is_open) {
            self.close(id, "opened twice", fx);
            return;
        }
        self.denied = None;
        self.unproven = false;
        self.ledger.there(&there);
        for entry in self.live.take_unsent(|entry| there.contains(entry.seq)) {
            if !self.void.remove(&entry.seq) {
                self.settle_live(&entry);
            }
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.open(now.mono, there);
        }
    }

    /// The peer has seen numbers that were never given here: the log begins a new life, but not again and again for one peer
    /// that says so of the new life too (M-A1).
    fn on_foreign(&mut self, (highest, known): (Seq, Seq), fx: &mut Effects) {
        if self.unproven {
            self.denied = Some(format!(
                "a relay there claims to have message {highest} of this relay, which has named {known} at most, and claimed the \
                 like before the log began a new life; its state is wrong"
            ));
        } else {
            self.foreign = true;
        }
        let ids: Vec<LaneId> = self.lanes().map(|lane| lane.id).collect();
        for id in ids {
            self.close(id, "the relay there has seen messages that are not known here", fx);
        }
    }

    fn on_ack(&mut self, now: Now, id: LaneId, batch: u64, refused: Vec<Refused>, fx: &mut Effects) {
        let sent = |lane: &&mut Lane| lane.is_open() && lane.has_sent(batch);
        if !self.lane_mut(id).filter(sent).is_some_and(|lane| lane.refuse(refused)) {
            self.close(id, "the relay there acknowledged what was not sent", fx);
            return;
        }
        if batch == 0 {
            return;
        }
        let refused = self.lane_mut(id).map(Lane::take_refused).unwrap_or_default();
        while let Some(lane) = self.lane_mut(id)
            && let Some(flight) = lane.land(now.mono, batch)
        {
            let empty = lane.bytes() == 0;
            self.on_landed(now, flight, empty, &refused);
        }
    }

    fn on_landed(&mut self, now: Now, flight: Flight, empty: bool, refused: &BTreeMap<Seq, Refused>) {
        let mut stops = Stopped::default();
        match flight.cargo {
            Cargo::Live(count) => {
                self.share.on_live_arrived(now.mono, flight.bytes, flight.sent);
                for _ in 0..count {
                    let Some(entry) = self.live.pop_sent() else { break };
                    if !self.void.is_empty() && self.void.remove(&entry.seq) {
                        continue;
                    }
                    match refused.get(&entry.seq) {
                        Some(refused) if Self::is_for_now(refused) => {
                            self.stop_live(now.mono, entry, refused, &mut stops);
                        }
                        Some(refused) => self.refuse_live(now, entry, refused),
                        None => {
                            self.settling.came(now, &self.unit, LaneKind::Live, &entry.message);
                            self.settle_live(&entry);
                        }
                    }
                }
            }
            Cargo::Backlog(waiting) => {
                self.share
                    .on_backlog_arrived(now.mono, flight.bytes, flight.sent, empty);
                let count = super::pace::float(waiting.len());
                self.share.backlog_messages.add(now.mono, count);
                for waiting in waiting {
                    if !self.void.is_empty() && self.void.remove(&waiting.seq) {
                        continue;
                    }
                    self.unfly(&waiting);
                    match refused.get(&waiting.seq) {
                        Some(refused) if Self::is_for_now(refused) => {
                            self.stop_backlog(now.mono, waiting, refused, &mut stops);
                        }
                        Some(refused) => self.refuse_backlog(now, waiting, refused),
                        None => {
                            self.settling.came(now, &self.unit, LaneKind::Backlog, &waiting.message);
                            self.settle_backlog(&waiting);
                        }
                    }
                }
            }
            Cargo::Gap(seqs, _) => self.ledger.told(seqs),
        }
        self.put_stopped(now.mono, stops);
    }

    /// The peer will never take this one (M-E5).
    fn refuse_live(&mut self, now: Now, entry: Entry, refused: &Refused) {
        let ending = Ending {
            seq: entry.seq,
            topic: entry.topic,
            bytes: entry.bytes,
            hash: NO_KEY,
            home: self.home_key(entry.topic, &entry.message),
        };
        self.refuse(now, ending, From::Taken, entry.message, refused);
    }

    fn refuse_backlog(&mut self, now: Now, waiting: Waiting, refused: &Refused) {
        let ending = Ending::of(&waiting);
        self.refuse(now, ending, From::Backlog, waiting.message, refused);
    }

    fn refuse(&mut self, now: Now, ending: Ending, from: From, message: Message, refused: &Refused) {
        if refused.reason == EXPIRED {
            // By the clock there: what is to become of it says its topic (M-E2).
            return self.expire(now, ending, from, message);
        }
        let dead = self.dead(now, ending.seq, message, &refused.reason, &refused.detail);
        self.end(ending, from, End::Dead(Box::new(dead)));
    }

    fn settle_live(&mut self, entry: &Entry) {
        self.on_taken(entry.topic, entry.seq, &entry.message);
        self.topics.at_mut(entry.topic).live -= 1;
        self.lighten(entry.topic, entry.bytes);
        self.settling.add(entry.seq, entry.topic);
    }

    /// A message of the backlog is with the unit.
    pub(super) fn settle_backlog(&mut self, waiting: &Waiting) {
        self.on_taken(waiting.topic, waiting.seq, &waiting.message);
        // After damage it may have been written off while it was on its way: see `write_off`.
        let state = self.topics.at_mut(waiting.topic);
        state.backlog = state.backlog.saturating_sub(1);
        self.lighten(waiting.topic, waiting.bytes);
        let cursor = self.cursor_of(waiting.topic);
        cursor.pending = cursor.pending.saturating_sub(1);
        cursor.keys.remove(waiting.hash);
        cursor.window = cursor.window.saturating_add(1);
        cursor.oldest = cursor.oldest.max(waiting.message.accepted_at);
        if !self.tell.is_empty() {
            self.tell.remove(&waiting.seq);
        }
        self.settling.add(waiting.seq, waiting.topic);
    }

    /// A message of the backlog is not on its way any more.
    fn unfly(&mut self, waiting: &Waiting) {
        self.flying.remove(&waiting.seq);
        self.topics.at_mut(waiting.topic).flying -= 1;
        let cursor = self.cursor_of(waiting.topic);
        cursor.flying -= 1;
        cursor.flying_bytes -= waiting.bytes;
    }

    /// Enters what turned out to be with the unit.
    pub(super) fn settle(&mut self, now: Duration, fx: &mut Effects) {
        if self.settling.runs.is_empty() {
            return;
        }
        let Settling { runs, counts, seen } = std::mem::take(&mut self.settling);
        fx.seen.extend(seen);
        self.ledger.relay(now, &runs, &counts);
        fx.told.push(Told::Relayed {
            unit: self.unit.clone(),
            seqs: runs,
        });
    }

    /// Gives a lane up.
    pub(super) fn close(&mut self, id: LaneId, why: &str, fx: &mut Effects) {
        if let Some(lane) = self.take_lane(id) {
            fx.output(Output::CloseLane {
                lane: id,
                why: why.to_owned(),
            });
            self.lost = Some(why.to_owned());
            self.ground(lane);
        }
    }

    /// A lane is gone: what was on its way is to be sent again.
    pub(super) fn ground(&mut self, lane: Lane) {
        match lane.kind {
            LaneKind::Live => {
                self.live.unsend();
                self.follow_keys();
            }
            LaneKind::Backlog => self.share.on_backlog_down(),
        }
        for flight in lane.into_flights().into_iter().rev() {
            match flight.cargo {
                Cargo::Live(_) => {}
                Cargo::Backlog(waiting) => {
                    for waiting in waiting.into_iter().rev() {
                        if !self.void.remove(&waiting.seq) {
                            self.unfly(&waiting);
                            self.cursor_of(waiting.topic).put_back(waiting);
                        }
                    }
                }
                Cargo::Gap(seqs, reason) => self.ledger.untell(seqs, reason),
            }
        }
    }

    /// Whether the unit had a message when a lane was opened.
    pub(super) fn is_there(&self, seq: Seq) -> bool {
        let mut there = self.lanes().filter_map(|lane| lane.there.as_ref());
        there.any(|there| there.contains(seq))
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.live_lane.iter().chain(&self.backlog_lane)
    }

    fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.lanes().find(|lane| lane.id == id)
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        let mut lanes = self.live_lane.iter_mut().chain(&mut self.backlog_lane);
        lanes.find(|lane| lane.id == id)
    }

    fn take_lane(&mut self, id: LaneId) -> Option<Lane> {
        let kind = self.lane(id)?.kind;
        self.slot(kind).take()
    }

    fn slot(&mut self, kind: LaneKind) -> &mut Option<Lane> {
        match kind {
            LaneKind::Backlog => &mut self.backlog_lane,
            LaneKind::Live => &mut self.live_lane,
        }
    }
}

impl Ending {
    /// That of a message of the backlog.
    pub(super) fn of(waiting: &Waiting) -> Self {
        Self {
            seq: waiting.seq,
            topic: waiting.topic,
            bytes: waiting.bytes,
            hash: waiting.hash,
            home: waiting.home(),
        }
    }
}

/// Frontier, runs above it and highest number at the peer.
type Opened<'a> = (Seq, &'a [(Seq, Seq)], Seq);
