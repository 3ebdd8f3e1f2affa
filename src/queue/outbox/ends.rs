//! Messages that end without being relayed: expired, dropped, purged, damaged, refused, or taken elsewhere.
//!
//! A *wish* is made first: from then on the message is not sent. When its record is on disk, the number is done, counted, and the
//! peer is told (O3, O4, M-G2).

use std::collections::BTreeMap;

use super::Outbox;
use super::keys::NO_KEY;
use super::stops::id_of;
use super::topics::{TopicId, UNKNOWN};
use crate::model::{DeadPlace, GapReason, Message, Seq, Topic, UnitId};
use crate::queue::effects::{DeadWish, Effects, Now, RerouteWish, Told, Why};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{DeadSource, Record};

/// A message that will not be sent, as soon as that is on disk.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) topic: TopicId,
    bytes: usize,
    pub(super) hash: u64,
    home: u64,
    pub(super) end: End,
}

/// How it ends.
#[derive(Debug)]
pub(super) enum End {
    /// With a gap.
    Gap(GapReason),
    /// As a dead letter.
    Dead(Box<DeadWish>),
    /// In the line of the unit that owns its key since an epoch.
    Moved {
        message: Box<Message>,
        to: UnitId,
        epoch: u64,
    },
}

/// Where a message is that ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum From {
    /// In the backlog, wherever that is.
    Backlog,
    /// Nowhere: its record is damaged.
    Lost,
    /// It was live and was just taken out of the window.
    Taken,
    /// In the live window.
    Window,
}

/// A message, as far as it must be known to let it end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) seq: Seq,
    pub(super) topic: TopicId,
    pub(super) bytes: usize,
    /// As the cursor counts it; [`NO_KEY`] if it is live.
    pub(super) hash: u64,
    /// As `homes` counts it.
    pub(super) home: u64,
}

impl Outbox {
    /// The operator removed these, or they make room (M-H2, M-E3).
    pub fn gone(&mut self, now: Now, messages: &[(Seq, Topic)], reason: GapReason, fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        let held = self.held();
        for (seq, topic) in messages {
            let (seq, topic) = (*seq, self.known(topic));
            if !self.is_open(seq) {
                continue;
            }
            if let Some((entry, _)) = self.live.find(seq) {
                let ending = Ending {
                    seq,
                    topic: entry.topic,
                    bytes: entry.bytes,
                    hash: NO_KEY,
                    home: self.home_key(entry.topic, &entry.message),
                };
                self.end(ending, From::Window, End::Gap(reason));
                continue;
            }
            let ending = held.get(&seq).copied().unwrap_or_else(|| {
                // Its key is not known: the counts of keys are too high from now on.
                self.cursor_of(topic).keys.remove_some();
                self.homes.remove_some();
                let bytes = self.topics.at(topic).mean_bytes();
                Ending {
                    seq,
                    topic,
                    bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
                    hash: NO_KEY,
                    home: NO_KEY,
                }
            });
            self.end(ending, From::Backlog, End::Gap(reason));
        }
        self.write_wishes(fx);
    }

    /// A gap is on disk: its numbers are done, and the peer must be told.
    pub fn on_gap(&mut self, now: Now, seqs: (Seq, Seq), reason: GapReason, counts: &[(Topic, u64)], fx: &mut Effects) {
        self.clock = self.clock.max(now.mono);
        self.on_given(seqs.1);
        let mut why = Why::of_gap(reason);
        let mut known: BTreeMap<TopicId, u64> = BTreeMap::new();
        let wished: Vec<Seq> = self.wished.range(seqs.0..=seqs.1).map(|(seq, _)| *seq).collect();
        for seq in wished {
            let Some(wish) = self.wished.remove(&seq) else { continue };
            if let End::Dead(dead) = &wish.end {
                why = Why::of_dead(&dead.reason, &dead.error);
            }
            self.unwritten.remove(&seq);
            self.held.remove(&seq);
            *known.entry(wish.topic).or_default() += 1;
            self.topics.at_mut(wish.topic).ending -= 1;
            self.lighten(wish.topic, wish.bytes);
            let cursor = self.cursor_of(wish.topic);
            cursor.ending = cursor.ending.saturating_sub(1);
            cursor.keys.remove(wish.hash);
            self.homes.remove(wish.home);
        }
        if self.ledger.gap(seqs.0, seqs.1, reason) == 0 {
            return;
        }
        if reason != GapReason::Rerouted {
            fx.told.push(Told::Gone {
                unit: self.unit.clone(),
                seqs,
                there: false,
                why,
            });
        }
        for (topic, count) in counts {
            let topic = self.known(topic);
            self.topics.at_mut(topic).books.gone(reason, *count);
            let nameless = count.saturating_sub(known.get(&topic).copied().unwrap_or_default());
            self.forget_some(topic, nameless);
        }
    }

    /// A message became a dead letter.
    pub fn on_dead(&mut self, now: Now, seq: Seq, topic: &Topic, fx: &mut Effects) {
        self.on_gap(now, (seq, seq), GapReason::DeadLettered, &[(topic.clone(), 1)], fx);
    }

    /// A message of the backlog is too old.
    pub(super) fn expire(&mut self, now: Now, ending: Ending, from: From, message: Message) {
        let end = if self.topics.at(ending.topic).rules.dead_letter {
            End::Dead(Box::new(self.dead(
                now,
                ending.seq,
                message,
                "expired",
                "its deadline passed before it was there",
            )))
        } else {
            End::Gap(GapReason::Expired)
        };
        self.end(ending, from, end);
    }

    /// A dead letter of this line.
    pub(super) fn dead(&self, now: Now, seq: Seq, message: Message, reason: &str, error: &str) -> DeadWish {
        DeadWish {
            message,
            place: DeadPlace::Link,
            reason: reason.to_owned(),
            at: DeadSource::Outbox(self.unit.clone(), seq),
            attempts: 0,
            first_failure: now.wall,
            last_failure: now.wall,
            error: error.to_owned(),
        }
    }

    /// Whether nothing is decided about a number yet.
    pub(super) fn is_open(&self, seq: Seq) -> bool {
        seq <= self.last_stored && !self.ledger.is_settled(seq) && !self.wished.contains_key(&seq)
    }

    /// A message will not be sent.
    pub(super) fn end(&mut self, ending: Ending, from: From, end: End) {
        let Ending {
            seq,
            topic,
            bytes,
            home,
            ..
        } = ending;
        let flies = from == From::Backlog && self.flying.remove(&seq);
        let state = self.topics.at_mut(topic);
        state.ending += 1;
        let from_backlog = match from {
            From::Backlog => true,
            From::Lost => state.backlog > 0,
            From::Taken | From::Window => false,
        };
        if from_backlog {
            state.backlog = state.backlog.saturating_sub(1);
            state.flying -= u64::from(flies);
        } else if from != From::Lost {
            state.live -= 1;
        }
        if flies || from == From::Window {
            self.void.insert(seq);
        }
        let cursor = self.cursor_of(topic);
        cursor.ending += 1;
        if from_backlog {
            cursor.pending = cursor.pending.saturating_sub(1);
        }
        if flies {
            cursor.flying -= 1;
            cursor.flying_bytes -= bytes;
        } else if from == From::Backlog {
            cursor.void(seq);
        }
        self.tell.remove(&seq);
        self.unwritten.insert(seq);
        let undone_by_crash = matches!(end, End::Gap(GapReason::Purged | GapReason::Dropped));
        if undone_by_crash && self.topics.at(topic).rules.ordered {
            self.held.insert(seq);
        }
        self.wished.insert(
            seq,
            Wish {
                topic,
                bytes,
                hash: ending.hash,
                home,
                end,
            },
        );
    }

    /// Numbers of the line that are not on disk though nothing is decided about them.
    pub(super) fn corrupt(&mut self, from: Seq, to: Seq) {
        let mut seq = self.ledger.done.next_open(from);
        while seq <= to {
            if self.is_open(seq) && self.live.find(seq).is_none() && !self.flying.contains(&seq) {
                let ending = Ending {
                    seq,
                    topic: UNKNOWN,
                    bytes: 0,
                    hash: NO_KEY,
                    home: NO_KEY,
                };
                self.homes.remove_some();
                self.end(ending, From::Lost, End::Gap(GapReason::Corrupted));
            }
            seq = self.ledger.done.next_open(seq + 1);
        }
    }

    /// Wants the records of all wishes that have none.
    pub(super) fn write_wishes(&mut self, fx: &mut Effects) {
        let mut moved = Vec::new();
        let mut gaps: Vec<(GapReason, Seq, Seq, BTreeMap<TopicId, u64>)> = Vec::new();
        for seq in std::mem::take(&mut self.unwritten) {
            let Some(wish) = self.wished.get(&seq) else { continue };
            let reason = match &wish.end {
                End::Gap(reason) => *reason,
                End::Dead(dead) => {
                    fx.dead((**dead).clone());
                    continue;
                }
                End::Moved { message, to, epoch } => {
                    moved.push(RerouteWish {
                        message: (**message).clone(),
                        from: (self.unit.clone(), seq),
                        key: id_of(wish.hash, seq),
                        to: to.clone(),
                        epoch: *epoch,
                    });
                    continue;
                }
            };
            match gaps.last_mut() {
                Some((last_reason, _, to, counts)) if *last_reason == reason && *to + 1 == seq => {
                    *to = seq;
                    *counts.entry(wish.topic).or_default() += 1;
                }
                _ => gaps.push((reason, seq, seq, BTreeMap::from([(wish.topic, 1)]))),
            }
        }
        if planted(Bug::MovedOutOfOrder) {
            moved.reverse();
        }
        for wish in moved {
            fx.reroute(wish);
        }
        for (reason, from, to, counts) in gaps {
            let counts = counts.into_iter();
            fx.record(Record::Gap {
                unit: self.unit.clone(),
                seqs: (from, to),
                reason,
                counts: counts
                    .map(|(topic, count)| (self.topics.at(topic).name.clone(), count))
                    .collect(),
            });
        }
    }

    /// Messages of a topic are done, of which only the number is known: as a restart reads it.
    pub(super) fn forget_some(&mut self, topic: TopicId, count: u64) {
        if count == 0 {
            return;
        }
        let state = self.topics.at_mut(topic);
        let bytes = state.mean_bytes().saturating_mul(count);
        state.backlog = state.backlog.saturating_sub(count);
        self.lighten(topic, usize::try_from(bytes).unwrap_or(usize::MAX));
        let cursor = self.cursor_of(topic);
        cursor.pending = cursor.pending.saturating_sub(count);
        cursor.keys.remove_some();
        self.homes.remove_some();
    }

    /// Messages of the backlog that are in memory.
    fn held(&self) -> BTreeMap<Seq, Ending> {
        let flights = self.backlog_lane.iter().flat_map(super::lane::Lane::waiting);
        let buffers = self.cursors.values().flat_map(super::Cursor::buffer);
        let endings = flights.chain(buffers).map(|waiting| Ending {
            seq: waiting.seq,
            topic: waiting.topic,
            bytes: waiting.bytes,
            hash: waiting.hash,
            home: waiting.home(),
        });
        endings.map(|ending| (ending.seq, ending)).collect()
    }
}

/// Bytes of no messages.
pub(super) const NO_BYTES: u64 = 0;
