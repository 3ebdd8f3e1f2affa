//! The backlog: messages that are read back from the log, in order, some ahead of time.
//!
//! # Invariants
//! - C1. The general cursor reads the line for all topics but those that have a cursor of their own because they are limited,
//!   paused or wanted newest first; so a topic that may not go holds up no other.
//! - C2. What a cursor holds ahead is bounded; of the rest only numbers and keys are counted (M-G7).
//! - C3. A cursor that goes up passes each number once, or goes back to it and forgets what it held from there on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::keys::{Keys, NO_KEY};
use super::pace::Pace;
use super::topics::TopicId;
use crate::model::{Message, Seq, UnixMillis};

/// A message of the backlog in memory.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) seq: Seq,
    pub(super) topic: TopicId,
    pub(super) bytes: usize,
    pub(super) hash: u64,
    /// It will not be sent.
    pub(super) void: bool,
    pub(super) message: Message,
}

impl Waiting {
    /// What it counts as in `homes`.
    pub(super) fn home(&self) -> u64 {
        if self.message.routed > 0 && self.message.redrives == 0 {
            self.hash
        } else {
            NO_KEY
        }
    }
}

/// A cursor over the line.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The topic that has it for itself.
    pub(super) topic: Option<TopicId>,
    place: Place,
    reading: Option<Reading>,
    /// Reading failed: not before.
    pub(super) rest_until: Duration,
    buffer: VecDeque<Waiting>,
    buffer_bytes: usize,
    /// Messages held ahead that will not be sent.
    voids: u64,
    /// Messages of its topics in the backlog.
    pub(super) pending: u64,
    /// Those of them that are on their way.
    pub(super) flying: u64,
    /// Bytes of those.
    pub(super) flying_bytes: usize,
    /// So many of them may be on their way: less than all while their topic was full there.
    pub(super) window: u64,
    /// When the oldest of them was accepted, or an earlier moment.
    pub(super) oldest: UnixMillis,
    /// Messages of its topics that will not be sent, as soon as that is on disk.
    pub(super) ending: u64,
    pub(super) keys: Keys,
    pub(super) pace: Pace,
    /// Nothing is sent.
    pub(super) paused: bool,
    /// It goes when it is empty.
    pub(super) retiring: bool,
}

/// What was not looked at yet.
#[derive(Clone, Debug)]
enum Place {
    /// All numbers from this one on.
    Up(Seq),
    /// Ranges, the next one last; and the highest number that was ever in one.
    Down(Vec<(Seq, Seq)>, Seq),
}

/// A read under way.
#[derive(Clone, Copy, Debug)]
struct Reading {
    from: Seq,
    /// Numbers beyond were not on disk when it began, or are not wanted.
    to: Seq,
    /// The cursor went elsewhere in the meantime.
    stale: bool,
}

/// A read that should be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) from: Seq,
    pub(super) messages_max: usize,
}

impl Cursor {
    /// One over all numbers from `low` to `high`.
    pub(super) fn new(topic: Option<TopicId>, newest_first: bool, low: Seq, high: Seq) -> Self {
        Self {
            topic,
            place: Place::new(newest_first, low, high),
            reading: None,
            rest_until: Duration::ZERO,
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            voids: 0,
            pending: 0,
            flying: 0,
            flying_bytes: 0,
            window: WINDOW_OPEN,
            oldest: UnixMillis(0),
            ending: 0,
            keys: Keys::default(),
            pace: Pace::default(),
            paused: false,
            retiring: false,
        }
    }

    /// Messages that are not in memory.
    pub(super) fn unread(&self) -> u64 {
        let held = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        self.pending.saturating_sub(self.flying + held - self.voids)
    }

    /// Whether every number up to the last one was looked at and nothing of it is left.
    pub(super) fn is_through(&self, last: Seq) -> bool {
        let looked = match &self.place {
            Place::Up(next) => *next > last,
            Place::Down(ranges, _) => ranges.is_empty(),
        };
        looked && self.reading.is_none() && self.buffer.is_empty() && self.flying == 0 && self.ending == 0
    }

    /// Whether it reads newest first.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.place, Place::Down(..))
    }

    /// What is held ahead.
    pub(super) fn buffer(&self) -> &VecDeque<Waiting> {
        &self.buffer
    }

    /// The next message to be sent.
    pub(super) fn head(&self) -> Option<&Waiting> {
        self.buffer.front()
    }

    /// Takes it.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.buffer.pop_front()?;
        self.buffer_bytes -= waiting.bytes;
        self.voids -= u64::from(waiting.void);
        Some(waiting)
    }

    /// A message will not be sent, if it is held.
    pub(super) fn void(&mut self, seq: Seq) {
        let found = if self.is_down() {
            self.buffer.iter().position(|waiting| waiting.seq == seq)
        } else {
            self.buffer.binary_search_by_key(&seq, |waiting| waiting.seq).ok()
        };
        if let Some(waiting) = found.and_then(|index| self.buffer.get_mut(index)) {
            self.voids += u64::from(!waiting.void);
            waiting.void = true;
        }
    }

    /// A message that was read, behind the others.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.buffer_bytes += waiting.bytes;
        self.buffer.push_back(waiting);
    }

    /// A message that did not arrive, in front of the others; unless it will be read anyway. Going up, some before it may have
    /// been left out, and come to the front again meanwhile.
    pub(super) fn put_back(&mut self, waiting: Waiting) {
        let (ahead, at) = match &self.place {
            Place::Up(next) => {
                let at = self.buffer.partition_point(|other| other.seq < waiting.seq);
                (waiting.seq >= *next, at)
            }
            Place::Down(ranges, _) => {
                let ahead = ranges.iter().any(|(from, to)| (*from..=*to).contains(&waiting.seq));
                (ahead, 0)
            }
        };
        if !ahead {
            self.buffer_bytes += waiting.bytes;
            self.buffer.insert(at, waiting);
        }
    }

    /// A message was not taken, and neither perhaps some of those behind it that are on their way: it waits at its place among
    /// the others.
    pub(super) fn take_back(&mut self, waiting: Waiting, last: Seq) {
        match &self.place {
            Place::Up(next) if waiting.seq < *next => {
                let at = self.buffer.partition_point(|other| other.seq < waiting.seq);
                self.buffer_bytes += waiting.bytes;
                self.buffer.insert(at, waiting);
            }
            Place::Up(_) => {}
            Place::Down(..) => self.go_back(waiting.seq, last),
        }
    }

    /// A message joined the backlog as its newest. `true`: the cursor has nothing left to read, so it can take it at once.
    pub(super) fn grow(&mut self, seq: Seq) -> bool {
        let caught_up = self.unread() == 0 && self.reading.is_none();
        self.pending += 1;
        match &mut self.place {
            Place::Up(next) if caught_up => *next = seq,
            Place::Up(_) => {}
            Place::Down(ranges, top) => {
                match ranges.last_mut() {
                    Some((_, to)) if *to == *top => *to = seq,
                    _ => ranges.push((*top + 1, seq)),
                }
                *top = seq;
                // Some numbers are looked at twice then.
                if ranges.len() > RANGES_MAX {
                    let (from, _) = ranges.remove(0);
                    if let Some(first) = ranges.first_mut() {
                        first.0 = from;
                    }
                }
            }
        }
        caught_up && !self.is_down()
    }

    /// The newest message was taken at once.
    pub(super) fn pass(&mut self, waiting: Waiting) {
        self.place = match self.place {
            Place::Up(_) => Place::Up(waiting.seq + 1),
            Place::Down(..) => return,
        };
        self.push(waiting);
    }

    /// Goes back to a number: some from there on, up to the last one, have joined the backlog.
    pub(super) fn go_back(&mut self, seq: Seq, last: Seq) {
        match &mut self.place {
            Place::Up(next) if seq < *next => *next = seq,
            Place::Up(_) => return,
            Place::Down(ranges, top) => {
                // What is being read was taken out.
                let reading = self.reading.filter(|reading| !reading.stale);
                ranges.extend(reading.map(|reading| (reading.from, reading.to)));
                ranges.retain(|(from, _)| *from < seq);
                if let Some((_, to)) = ranges.last_mut() {
                    *to = (*to).min(seq - 1);
                }
                *top = last;
                ranges.push((seq, last));
            }
        }
        if let Some(reading) = &mut self.reading {
            reading.stale = true;
        }
        self.keep(|waiting| waiting.seq < seq);
    }

    /// Whether more may be held ahead.
    pub(super) fn wants_more(&self) -> bool {
        self.buffer_bytes <= AHEAD_BYTES / 2
    }

    /// Takes all messages of a topic out of what is held ahead.
    pub(super) fn drop_topic(&mut self, topic: TopicId) {
        self.keep(|waiting| waiting.topic != topic);
    }

    fn keep(&mut self, stays: impl Fn(&Waiting) -> bool) {
        self.buffer.retain(stays);
        self.buffer_bytes = self.buffer.iter().map(|waiting| waiting.bytes).sum();
        let voids = self.buffer.iter().filter(|waiting| waiting.void).count();
        self.voids = u64::try_from(voids).unwrap_or(u64::MAX);
    }

    /// The read that should be made now, if any; it is under way then.
    pub(super) fn wants(&mut self, now: Duration, last: Seq) -> Option<Wanted> {
        if self.reading.is_some() || self.unread() == 0 || !self.wants_more() || now < self.rest_until {
            return None;
        }
        let (from, to) = match &mut self.place {
            Place::Up(next) if *next <= last => (*next, last),
            Place::Up(_) => return None,
            Place::Down(ranges, _) => {
                let (from, to) = ranges.pop()?;
                let start = from.max((to + 1).saturating_sub(BLOCK));
                if start > from {
                    ranges.push((from, start - 1));
                }
                (start, to)
            }
        };
        self.reading = Some(Reading { from, to, stale: false });
        let messages_max = if self.is_down() { to - from + 1 } else { AHEAD_MESSAGES };
        Some(Wanted {
            from,
            messages_max: usize::try_from(messages_max).unwrap_or(usize::MAX),
        })
    }

    /// A read came back, and says that all numbers below `next` were looked for. Returns the range that it speaks for;
    /// `None`: nothing is to be made of it.
    pub(super) fn arrived(&mut self, from: Seq, next: Option<Seq>, failed: bool) -> Option<(Seq, Seq)> {
        let reading = self.reading.take()?;
        if reading.stale {
            return None;
        }
        let to = next.map_or(reading.to, |next| reading.to.min(next.saturating_sub(1)));
        let nothing = failed || reading.from != from || to < from;
        match &mut self.place {
            Place::Up(_) if nothing => return None,
            Place::Up(place) => *place = to + 1,
            Place::Down(ranges, _) => {
                let rest = if nothing { from } else { to + 1 };
                if rest <= reading.to {
                    let at = ranges.partition_point(|(low, _)| *low < rest);
                    ranges.insert(at, (rest, reading.to));
                }
                if nothing {
                    return None;
                }
            }
        }
        Some((from, to))
    }

    /// Whether all of its backlog is in memory.
    pub(super) fn is_at_hand(&self) -> bool {
        self.unread() == 0 && self.reading.is_none()
    }
}

impl Place {
    fn new(newest_first: bool, low: Seq, high: Seq) -> Self {
        if newest_first {
            let ranges = if low <= high { vec![(low, high)] } else { Vec::new() };
            Self::Down(ranges, high)
        } else {
            Self::Up(low)
        }
    }
}

/// All cursors, by the number that reads name them by.
pub(super) type Cursors = BTreeMap<u32, Cursor>;

/// The cursor of all topics that have none of their own.
pub(super) const GENERAL: u32 = 0;
/// Not a cursor of the backlog: looks for what is to be removed.
pub(super) const SWEEP: u32 = 1;
/// Not a cursor of the backlog: looks for messages of keys that have moved.
pub(super) const MOVING: u32 = 2;
/// What looks for messages whose unit was evacuated.
pub const STRANDED: u32 = 3;
/// Bytes held ahead by one cursor, about; a read brings half of it.
pub(super) const AHEAD_BYTES: usize = 2 << 20;
/// Messages of one read.
const AHEAD_MESSAGES: u64 = 4096;
/// No limit of messages on their way.
pub(super) const WINDOW_OPEN: u64 = u64::MAX;
/// Ranges that a cursor that goes down remembers.
const RANGES_MAX: usize = 256;
/// Numbers of one read of a cursor that goes down.
const BLOCK: u64 = 512;
