//! Messages from peers: each is taken once, and acknowledged when it is on disk.
//!
//! # Path
//! `Open` -> `Opened` with what is here already; `Messages` -> duplicate, refused, or `Record::Stored` -> `Ack` when all
//! that the batch holds is on disk. `Gap` -> `Record::Skipped` -> `Ack`.
//!
//! # While nothing can be taken (A4)
//! If the disk is nearly full the lane is told `Busy` and keeps its place: the rest of the batch waits here, and what comes after it waits behind. The edge that puts a `Busy` with a pushback on a lane
//! must read no more from that lane until it puts a `Busy` without one there; what it has read before it still hands in. So
//! QUIC's flow control holds the sender, and what waits here is bounded by [`LIMIT_FACTOR`] times `queue.lane_bytes_max` and one frame, whatever the sender's
//! settings.
//!
//! # While a topic is full (A3)
//! Its messages are refused as `full` and come again; what else is on the lane goes on.
//!
//! # While a key moves
//! Its messages are refused as `frozen` and come again, or as `moved` and go elsewhere; other keys go on. What was taken before
//! is acknowledged as taken, whoever owns the key by now (D1).
//!
//! # Invariants
//! - D1. A number is a duplicate if it is in `seen` or on its way to the disk, and in no other case (M-B2). `seen` is
//!   changed by records that are on disk only, in the order of the log.
//! - D2. The `Ack` of a batch is written behind the records of the batch, and so behind the first copies of its duplicates
//!   (A2).
//! - D3. A number is skipped only by a gap record, or because the sender says that it is done with it (M-G2).
//! - D4. What a lane sends is taken in order, or the lane is closed.
//! - D5. One frame costs no more memory, on disk, and time than its bytes can stand for: a gap has a greatest length, and no
//!   number is further ahead of the frontier than a line can be long (M-G7).

mod awaited;
mod lane;
mod later;
mod snapshot;
mod stream;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

pub use snapshot::ArrivalsSnapshot;
pub use verdict::{Judge, Verdict};

use self::lane::{Batch, Lane};
use self::stream::{SEQ_MAX, Stream};
use super::Setup;
use super::api::Output;
use super::effects::{Effects, Now};
use super::lanes::{FROZEN, FULL, LaneId, Refused, ToReceiver};
use super::line::StreamId;
use super::metrics::Seen;
use super::planted::{Bug, planted};
use super::record::Record;
use super::settings::Settings;
use crate::model::{GapReason, Geo, RelayName, Seq, Topic, UnitId};

/// What peers have sent and are sending.
pub struct Arrivals {
    unit: Option<UnitId>,
    lane_bytes_max: usize,
    streams: BTreeMap<StreamId, Stream>,
    lanes: BTreeMap<LaneId, Lane>,
    /// The disk is nearly full.
    busy: Option<Duration>,
    /// Whom to tell when all groups are done with a message.
    awaited: BTreeMap<(Topic, Seq), (StreamId, Seq)>,
    /// Streams opened so far; the order in which they are forgotten.
    opened: u64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::new()
    }
}

impl Arrivals {
    /// Nobody has sent anything.
    pub fn new() -> Self {
        Self {
            unit: None,
            lane_bytes_max: Settings::default().lane_bytes_max.as_usize(),
            streams: BTreeMap::new(),
            lanes: BTreeMap::new(),
            busy: None,
            awaited: BTreeMap::new(),
            opened: 0,
        }
    }

    /// Other settings are in force.
    pub fn configure(&mut self, setup: &Setup) {
        self.unit = Some(setup.place.unit.clone());
        self.lane_bytes_max = setup.queue.lane_bytes_max.as_usize();
    }

    /// A peer opened a lane.
    pub fn on_accepted(&mut self, lane: LaneId, geo: Geo, unit: UnitId, relay: RelayName) {
        self.lanes.insert(lane, Lane::new(geo, unit, relay));
    }

    /// Came on a lane; `bytes` count until what was sent is acknowledged.
    pub fn on_frame(
        &mut self,
        now: Now,
        lane: LaneId,
        (frame, bytes): (ToReceiver, usize),
        judge: &mut dyn Judge,
        fx: &mut Effects,
    ) {
        let taken = match frame {
            ToReceiver::Open { epoch, base, .. } => self.open(lane, epoch, base, fx),
            ToReceiver::Messages { batch, messages } => {
                let batch = Batch::of_messages(batch, bytes, messages);
                self.take(lane, batch)
            }
            ToReceiver::Gap { batch, seqs, reason } => {
                let batch = Batch::of_gap(batch, bytes, seqs, reason);
                self.take(lane, batch)
            }
        };
        match taken {
            Ok(()) => self.go_on(now, lane, judge, fx),
            Err(why) => self.close(lane, why, fx),
        }
    }

    /// A lane ended.
    pub fn on_lane_down(&mut self, lane: LaneId) {
        self.remove(lane);
    }

    /// A message of a peer is on disk. `false`: it had been before.
    pub fn on_stored(&mut self, id: &StreamId, seq: Seq) -> bool {
        let new = self.stream(id).on_stored(seq);
        self.acknowledge(id);
        new
    }

    /// Messages of a peer will not come; that is on disk. Returns how many had not come.
    pub fn on_skipped(&mut self, id: &StreamId, seqs: (Seq, Seq)) -> u64 {
        let new = self.stream(id).on_skipped(seqs);
        self.acknowledge(id);
        new
    }

    /// The disk is nearly full, or no more. What waited is taken by [`poll`](Self::poll).
    pub fn set_busy(&mut self, pushback: Option<Duration>, fx: &mut Effects) {
        let before = std::mem::replace(&mut self.busy, pushback);
        if before.is_some() == pushback.is_some() {
            return;
        }
        for (id, lane) in &mut self.lanes {
            if lane.stream.is_some() {
                lane.tell_busy(*id, pushback, fx);
            }
        }
    }

    /// Takes what waited, where that is possible again. Returns when to try again.
    pub fn poll(&mut self, now: Now, judge: &mut dyn Judge, fx: &mut Effects) -> Option<Duration> {
        let waits = |lane: &Lane| !lane.waiting.is_empty();
        let waiting: Vec<LaneId> = self
            .lanes
            .iter()
            .filter(|(_, lane)| waits(lane))
            .map(|(id, _)| *id)
            .collect();
        for lane in waiting {
            self.go_on(now, lane, judge, fx);
        }
        let times = self
            .lanes
            .values()
            .filter(|lane| waits(lane))
            .filter_map(|lane| lane.again_at);
        times.min().filter(|_| self.busy.is_none())
    }

    /// The disk failed: what was on its way there was not taken. All lanes are closed, their senders send it again.
    pub fn rollback(&mut self, fx: &mut Effects) {
        for stream in self.streams.values_mut() {
            stream.rollback();
        }
        for lane in std::mem::take(&mut self.lanes).into_keys() {
            let why = "the disk failed".to_owned();
            fx.output(Output::CloseLane { lane, why });
        }
        self.awaited.clear();
    }

    fn open(&mut self, lane: LaneId, epoch: u64, base: Seq, fx: &mut Effects) -> Result<(), String> {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return Ok(());
        };
        if state.stream.is_some() {
            return Err("the lane was opened twice".to_owned());
        }
        if base == 0 || base > SEQ_MAX {
            return Err(format!("the lane begins with number {base}"));
        }
        let id = StreamId {
            unit: state.unit.clone(),
            relay: state.relay.clone(),
            epoch,
        };
        state.stream = Some(id.clone());
        self.opened += 1;
        let order = self.opened;
        let stream = self.stream(&id);
        if let Some(missing) = stream.on_open(base, order) {
            let (unit, relay) = (&id.unit, &id.relay);
            let (from, to) = missing;
            tracing::warn!(%unit, %relay, from, to, "a peer is done with messages that never came here");
            fx.record(Record::Skipped {
                stream: id.clone(),
                seqs: missing,
                reason: GapReason::Corrupted,
            });
        }
        let frame = stream.opened();
        fx.output(Output::ToSender { lane, frame });
        if let Some(lane_state) = self.lanes.get_mut(&lane).filter(|_| self.busy.is_some()) {
            lane_state.tell_busy(lane, self.busy, fx);
        }
        self.forget_streams(&id);
        Ok(())
    }

    /// A batch came; it waits for its turn.
    fn take(&mut self, lane: LaneId, batch: Batch) -> Result<(), String> {
        let limit = self.lane_bytes_max.saturating_mul(LIMIT_FACTOR);
        let Some(lane) = self.lanes.get_mut(&lane) else {
            return Ok(());
        };
        lane.take(batch, limit)
    }

    /// Takes all of a lane that can be taken now.
    fn go_on(&mut self, now: Now, lane: LaneId, judge: &mut dyn Judge, fx: &mut Effects) {
        while self.busy.is_none() {
            match self.take_first(now, lane, judge, fx) {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => return self.close(lane, why, fx),
            }
        }
    }

    /// Takes the first batch of a lane that waits; `false` if none does or if it must wait longer.
    fn take_first(&mut self, now: Now, id: LaneId, judge: &mut dyn Judge, fx: &mut Effects) -> Result<bool, String> {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return Ok(false);
        };
        if lane.again_at.is_some_and(|at| at > now.mono) {
            return Ok(false);
        }
        let (Some(stream_id), Some(batch)) = (lane.stream.clone(), lane.waiting.front_mut()) else {
            return Ok(false);
        };
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return Ok(false);
        };
        if let Some((seqs, reason)) = batch.gap.take() {
            stream.skip(&stream_id, seqs, reason, fx)?;
        }
        while let Some(sent) = batch.messages.pop_front() {
            stream.check((sent.seq, sent.seq))?;
            let asked_before = planted(Bug::MovedBeforeDedup) && judge.elsewhere(&sent.message).is_some();
            if stream.has(sent.seq) && !asked_before {
                let unit = lane.unit.clone();
                fx.seen.push(Seen::Again { unit });
                continue;
            }
            if sent.message.visited.last() != Some(&lane.unit) {
                return Err(format!("message {} was not in unit {} last", sent.seq, lane.unit));
            }
            let verdict = stream.behind(&sent);
            let verdict = verdict.unwrap_or_else(|| judge.judge(now, &lane.unit, &lane.geo, &sent.message));
            let verdict = stream.book(verdict, &sent, id);
            if let Some(reason) = verdict.is_elsewhere() {
                let unit = lane.unit.clone();
                fx.seen.push(Seen::Elsewhere { unit, reason });
            }
            match verdict {
                Verdict::Busy { pushback } => {
                    batch.messages.push_front(sent);
                    lane.again_at = Some(now.mono + pushback.max(AGAIN_MIN));
                    lane.tell_busy(id, Some(pushback), fx);
                    return Ok(false);
                }
                Verdict::Frozen { detail, .. } => batch.refuse(Refused::new(sent.seq, FROZEN, detail)),
                Verdict::Later { detail, .. } => batch.refuse(Refused::new(sent.seq, FULL, detail)),
                Verdict::Moved { unit, epoch, .. } => batch.refuse(Refused::moved(sent.seq, &unit, epoch)),
                Verdict::Refuse { reason, detail } => batch.refuse(Refused::new(sent.seq, &reason, detail)),
                Verdict::Store { outs, inbox, mirror } => {
                    if let Some(inbox) = inbox.filter(|_| sent.tell_delivered && self.awaited.len() < AWAITED_MAX) {
                        let topic = sent.message.topic.clone();
                        self.awaited.insert((topic, inbox), (stream_id.clone(), sent.seq));
                    }
                    stream.on_taken(sent.seq);
                    let stored = Batch::stored(sent, (&stream_id, self.unit.as_ref()), (outs, inbox, mirror));
                    fx.record(Record::Stored(Box::new(stored)));
                }
            }
        }
        lane.again_at = None;
        lane.finish(id, stream.progress(), fx);
        if lane.told_busy {
            lane.tell_busy(id, None, fx);
        }
        Ok(true)
    }

    fn close(&mut self, lane: LaneId, why: String, fx: &mut Effects) {
        if self.remove(lane) {
            fx.output(Output::CloseLane { lane, why });
        }
    }

    fn remove(&mut self, lane: LaneId) -> bool {
        let Some(state) = self.lanes.remove(&lane) else {
            return false;
        };
        let stream = state.stream.and_then(|id| self.streams.get_mut(&id));
        if let Some(stream) = stream {
            stream.later.lane_down(lane);
        }
        true
    }

    /// Some records of a stream are on disk: bytes of batches behind them count no more.
    fn acknowledge(&mut self, id: &StreamId) {
        let Some((_, on_disk)) = self.streams.get(id).map(Stream::progress) else {
            return;
        };
        for lane in self.lanes.values_mut().filter(|lane| lane.stream.as_ref() == Some(id)) {
            lane.acknowledge(on_disk);
        }
    }

    fn stream(&mut self, id: &StreamId) -> &mut Stream {
        if !self.streams.contains_key(id) {
            self.streams.insert(id.clone(), Stream::default());
        }
        self.streams.entry(id.clone()).or_default()
    }

    /// A relay has one life of its log at a time: old ones are forgotten, but for a few.
    fn forget_streams(&mut self, id: &StreamId) {
        let same = |other: &StreamId| other.unit == id.unit && other.relay == id.relay;
        let mut lives: Vec<_> = self.streams.iter().filter(|(other, _)| same(other)).collect();
        lives.sort_by_key(|(_, stream)| std::cmp::Reverse(stream.order));
        let old: Vec<StreamId> = lives.into_iter().skip(LIVES_MAX).map(|(old, _)| old.clone()).collect();
        for old in old {
            self.awaited.retain(|_, (id, _)| *id != old);
            self.streams.remove(&old);
        }
    }
}

/// A lane may have so many times `queue.lane_bytes_max` without acknowledgement, and one frame: with more, its edge has read on
/// though it must not.
pub const LIMIT_FACTOR: usize = 2;
/// Messages whose senders wait until they are delivered.
const AWAITED_MAX: usize = 65_536;
/// Lives of the log of a relay that are remembered.
const LIVES_MAX: usize = 8;
/// Pause before a message is tried again that found no room.
const AGAIN_MIN: Duration = Duration::from_millis(20);
