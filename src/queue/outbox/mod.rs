//! The outbox of a unit: what was accepted for it, in one line, and how it goes there on two lanes (M-D1).
//!
//! # How
//! A message that is stored while the way is open goes into the live window, a copy in memory, and out on the live lane. All
//! others are the backlog: they stay on disk, and cursors read them back in order for the backlog lane, as fast as the
//! limits allow. A message whose key has messages in the backlog goes behind them.
//!
//! # Invariants
//! - O1. Nothing is sent before `on_stored` was called for it (M-A3).
//! - O2. Two messages of one key are on their way on different lanes only if the later one is live and the earlier one
//!   is not in the backlog: a message of the backlog goes only while its number is below all of the live window, and one
//!   whose key is in the backlog does not become live. So the first arrivals of a key are in its order (M-C1).
//! - O3. What becomes of a message is decided once: by the first record that is wanted about it. What the peer says about it
//!   afterwards changes nothing. A record that was lost with the disk is wanted again.
//! - O4. A number ends by an acknowledgement, or by a record on disk; then it is counted in the books, once (M-G8).
//! - O5. A key whose owner is another unit by now has all its messages in one line, or leaves one for another in its order (`homes`,
//!   `moving`); what comes meanwhile comes behind them.
//! - O6. Memory is bounded by `live_bytes_max`, `lane_bytes_max`, the read-ahead and `backlog_keys_max`, whatever the
//!   backlog (M-G7).
//!
//! # Not here
//! Numbers among dead letters, writing, reading (the engine); what the peer does (`arrivals`).

mod acks;
mod backlog;
mod books;
mod ends;
mod homes;
mod intake;
mod keys;
mod lane;
mod later;
mod ledger;
mod live;
mod moving;
mod operate;
mod pace;
mod reads;
mod runs;
mod send;
mod share;
mod snapshot;
mod state;
mod stops;
mod stranded;
mod sweep;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use backlog::STRANDED;
pub use homes::Stay;
pub use intake::Full;
pub use keys::key_hash;
pub use snapshot::OutboxSnapshot;

use super::Setup;
use super::effects::Effects;
use super::lanes::LaneId;
use super::line::LineId;
use super::operator::LimitValues;
use super::record::Pause;
use crate::model::{RelayName, Seq, Topic, UnitId};
use acks::Settling;
use backlog::{Cursor, Cursors, GENERAL};
use ends::Wish;
use homes::Homes;
use lane::Lane;
use ledger::Ledger;
use live::Live;
use moving::Moving;
use pace::Pace;
use share::Share;
use stops::Stops;
use stranded::Stranded;
use sweep::Sweep;
use topics::{Table, TopicId};

/// The sending half of a pair.
#[derive(Debug)]
pub struct Outbox {
    unit: UnitId,
    line: LineId,
    epoch: u64,
    /// The highest number that was given.
    assigned: Seq,
    last_stored: Seq,
    /// What relays of the unit can have of this life of the log: the highest number before the restart, and the highest
    /// that was named to each since.
    known: Seq,
    named: BTreeMap<RelayName, Seq>,
    config: Config,
    /// Changed at run time; in place of the settings.
    limits: Option<LimitValues>,
    topic_limits: BTreeMap<Topic, LimitValues>,
    ledger: Ledger,
    settling: Settling,
    topics: Table,
    /// Room that was granted to the next number.
    granted: Option<(TopicId, u64)>,
    /// Room that was granted to numbers that are not on disk yet.
    promised: VecDeque<(Seq, TopicId, u64)>,
    live: Live,
    live_lane: Option<Lane>,
    backlog_lane: Option<Lane>,
    cursors: Cursors,
    next_cursor: u32,
    /// Which cursor begins.
    turn: usize,
    /// Messages of the backlog that are on their way.
    flying: BTreeSet<Seq>,
    /// Messages in the live window or on their way, whose end was decided otherwise.
    void: BTreeSet<Seq>,
    /// Messages that will not be sent, as soon as that is on disk.
    wished: BTreeMap<Seq, Wish>,
    /// Those of them whose record must still be wanted.
    unwritten: BTreeSet<Seq>,
    /// Those of them that a restart would send if their record was lost: nothing behind them is sent before it is on disk.
    held: BTreeSet<Seq>,
    /// Messages of the backlog whose publishers wait until they are delivered.
    tell: BTreeSet<Seq>,
    sweep: Sweep,
    /// Keys whose messages are in the line or will be, and those that do not go on for now.
    homes: Homes,
    stops: Stops,
    moving: Moving,
    stranded: Stranded,
    share: Share,
    pace: Pace,
    /// Topics that are full there, and until when they rest.
    resting: BTreeMap<TopicId, Duration>,
    /// Since when its limits have held the backlog back.
    held_back: Option<Duration>,
    pause: Option<Pause>,
    /// Dead letters of it find no room: nothing is sent until they do. Not kept: a restart finds out anew.
    no_room: Option<Pause>,
    denied: Option<String>,
    /// Why the last lane went.
    lost: Option<String>,
    /// The peer has seen numbers that were never sent to it.
    foreign: bool,
    /// A new life was begun because the peer had, and it has opened no lane of that yet.
    unproven: bool,
    /// Lanes that are given up; said with the next poll.
    closing: Vec<LaneId>,
    /// The latest moment there was.
    clock: Duration,
}

/// What of the settings counts here.
#[derive(Clone, Debug)]
struct Config {
    live_bytes_max: usize,
    lane_bytes_max: usize,
    batch_bytes: usize,
    keys_max: usize,
    backlog_after: Duration,
    limits: LimitValues,
    topic_limits: BTreeMap<Topic, LimitValues>,
    topics: Arc<super::Topics>,
}

impl Outbox {
    /// An empty one, with the settings' defaults.
    pub fn new(unit: UnitId, epoch: u64) -> Self {
        let line = LineId::outbox(&unit);
        let queue = super::Settings::default();
        let replay = super::ReplaySettings::default();
        let config = Config::of(&queue, &replay, &Arc::default(), &unit);
        let mut share = Share::default();
        share.configure(replay.min_share, config.lane_bytes_max);
        Self {
            unit,
            line,
            epoch,
            assigned: 0,
            last_stored: 0,
            known: 0,
            named: BTreeMap::new(),
            config,
            limits: None,
            topic_limits: BTreeMap::new(),
            ledger: Ledger::default(),
            settling: Settling::default(),
            topics: Table::new(),
            granted: None,
            promised: VecDeque::new(),
            live: Live::default(),
            live_lane: None,
            backlog_lane: None,
            cursors: BTreeMap::from([(GENERAL, Cursor::new(None, false, 1, 0))]),
            next_cursor: STRANDED + 1,
            turn: 0,
            flying: BTreeSet::new(),
            void: BTreeSet::new(),
            wished: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            held: BTreeSet::new(),
            tell: BTreeSet::new(),
            sweep: Sweep::default(),
            homes: Homes::default(),
            stops: Stops::default(),
            moving: Moving::default(),
            stranded: Stranded::default(),
            share,
            pace: Pace::default(),
            resting: BTreeMap::new(),
            held_back: None,
            pause: None,
            no_room: None,
            denied: None,
            lost: None,
            foreign: false,
            unproven: false,
            closing: Vec::new(),
            clock: Duration::ZERO,
        }
    }

    /// Other settings are in force.
    pub fn configure(&mut self, setup: &Setup) {
        self.config = Config::of(&setup.queue, &setup.replay, &setup.topics, &self.unit);
        self.share.configure(setup.replay.min_share, self.config.lane_bytes_max);
        self.put_limits();
        for topic in self.topics.places() {
            self.place(topic);
        }
    }

    /// The log has begun a new life: all lanes are made anew (M-A1). Call `poll` then.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.unproven |= self.foreign;
        self.foreign = false;
        self.known = 0;
        self.named.clear();
        for lane in [self.live_lane.take(), self.backlog_lane.take()].into_iter().flatten() {
            self.closing.push(lane.id);
            self.ground(lane);
        }
    }

    /// A restart has read all: what is here now is all that a relay of the unit can have (M-A1).
    pub fn recovered(&mut self) {
        self.known = self.last_stored;
        self.clamp_moves();
    }

    /// Numbers up to this one were named to a relay.
    fn name(&mut self, relay: &RelayName, seq: Seq) {
        match self.named.get_mut(relay) {
            Some(highest) => *highest = seq.max(*highest),
            None => _ = self.named.insert(relay.clone(), seq),
        }
    }

    /// The peer has seen more than was ever sent to it: the log was restored, and needs another epoch (M-A1).
    pub fn wants_new_epoch(&self) -> bool {
        self.foreign
    }

    /// The highest number on disk.
    pub fn last_stored(&self) -> Seq {
        self.last_stored
    }

    /// Why nothing is sent, if that is so.
    fn paused(&self) -> Option<&Pause> {
        self.pause.as_ref().or(self.no_room.as_ref())
    }

    /// Whether the message with this number is not needed any more.
    pub fn is_done(&self, seq: Seq) -> bool {
        self.ledger.done.contains(seq)
    }

    /// How many of the numbers from `from` to `to`, both included, are done.
    pub fn done_between(&self, from: Seq, to: Seq) -> u64 {
        self.ledger.done.done_between(from, to)
    }

    /// Wants on disk what the unit acknowledged of late; before a snapshot (H2 of `homes`), and before the queue is closed.
    pub fn flush(&mut self, fx: &mut Effects) {
        self.write_relayed(fx);
    }

    /// A cursor of the backlog. That of a topic is there as long as the topic names it; the general one always is.
    fn cursor_of(&mut self, topic: TopicId) -> &mut Cursor {
        let number = self.topics.at(topic).cursor;
        let number = if self.cursors.contains_key(&number) {
            number
        } else {
            GENERAL
        };
        self.cursors
            .entry(number)
            .or_insert_with(|| Cursor::new(None, false, 1, 0))
    }

    /// Whether another key can be told apart.
    fn has_room_for_keys(&self) -> bool {
        let keys: usize = self.cursors.values().map(|cursor| cursor.keys.len()).sum();
        keys < self.config.keys_max
    }

    fn open_live_lane(&self) -> bool {
        self.live_lane.as_ref().is_some_and(Lane::is_open)
    }

    fn open_backlog_lane(&self) -> bool {
        self.backlog_lane.as_ref().is_some_and(Lane::is_open)
    }
}

impl Config {
    fn of(queue: &super::Settings, replay: &super::ReplaySettings, topics: &Arc<super::Topics>, unit: &UnitId) -> Self {
        let values = |limits: &super::ReplayLimits| LimitValues {
            messages_per_second: limits.messages_per_second,
            bytes_per_second: limits.bytes_per_second.as_u64(),
            burst: limits.burst,
        };
        let own = replay.units.get(unit);
        let topic_limits = own.iter().flat_map(|own| &own.topics);
        Self {
            live_bytes_max: queue.live_bytes_max.as_usize(),
            lane_bytes_max: queue.lane_bytes_max.as_usize(),
            batch_bytes: queue.batch_bytes.as_usize(),
            keys_max: queue.backlog_keys_max,
            backlog_after: replay.backlog_after,
            limits: values(own.map_or(&replay.default, |own| &own.limits)),
            topic_limits: topic_limits
                .map(|(topic, limits)| (topic.clone(), values(limits)))
                .collect(),
            topics: Arc::clone(topics),
        }
    }
}
