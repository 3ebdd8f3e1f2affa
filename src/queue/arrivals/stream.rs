//! What came from one life of the log of a relay (M-B2).

use std::collections::BTreeSet;
use std::time::Duration;

use super::Verdict;
use super::lane::Batch;
use super::later::{Behind, Later};
use crate::model::{GapReason, Seq, UnitId};
use crate::queue::effects::Effects;
use crate::queue::lanes::{GAP_SPAN_MAX, LaneId, Sent, ToSender};
use crate::queue::line::{Settled, StreamId};
use crate::queue::planted::{Bug, planted};
use crate::queue::record::{Record, Stored};

#[derive(Default)]
pub(super) struct Stream {
    /// Numbers that are here, or will never come: on disk.
    pub seen: Settled,
    /// Numbers on their way to the disk.
    pending: BTreeSet<Seq>,
    /// Its sender has said where it begins; until then the numbers below are not known to be done.
    pub opened: bool,
    /// The larger, the later it was opened.
    pub order: u64,
    /// Numbers that must come again.
    pub later: Later,
    /// Messages that were taken in this process.
    written: u64,
    /// Those of them that are on disk or taken back.
    on_disk: u64,
}

impl Stream {
    /// As a snapshot says.
    pub(super) fn restored(seen: Settled, opened: bool, order: u64) -> Self {
        Self {
            seen,
            opened,
            order,
            ..Self::default()
        }
    }

    /// The sender is done with all numbers below `base`. Returns those that should be here and are not: state was lost
    /// here, or another relay of this unit has them.
    pub(super) fn on_open(&mut self, base: Seq, order: u64) -> Option<(Seq, Seq)> {
        self.order = order;
        self.later.gone((0, base - 1));
        if !self.opened {
            self.opened = true;
            self.seen.insert_range(1, base - 1);
            return None;
        }
        let missing = (self.seen.frontier() + 1, base - 1);
        (missing.0 <= missing.1 && self.lacks(missing)).then_some(missing)
    }

    /// What the sender is told about what is here.
    pub(super) fn opened(&self) -> ToSender {
        let highest = planted(Bug::FrontierIsHighest).then(|| self.seen.highest());
        ToSender::Opened {
            frontier: highest.unwrap_or(self.seen.frontier()),
            above: self.seen.runs_above(RUNS_MAX),
            highest: self.seen.highest(),
        }
    }

    /// Whether a sender can mean these numbers (D5).
    ///
    /// # Errors
    /// A text for a person.
    pub(super) fn check(&self, (from, to): (Seq, Seq)) -> Result<(), String> {
        let highest = self.seen.frontier().saturating_add(AHEAD_MAX).min(SEQ_MAX);
        let fits = 0 < from && from <= to && to - from <= GAP_SPAN_MAX && to <= highest;
        let wrong = || format!("numbers {from} to {to} cannot be");
        fits.then_some(()).ok_or_else(wrong)
    }

    /// Whether a number came already (D1).
    pub(super) fn has(&self, seq: Seq) -> bool {
        let lower = planted(Bug::HighestSeen) && seq <= self.seen.highest();
        self.seen.contains(seq) || self.pending.contains(&seq) || lower
    }

    /// Whether some of these numbers did not come.
    pub(super) fn lacks(&self, (from, to): (Seq, Seq)) -> bool {
        self.seen.done_between(from, to) < to - from + 1
    }

    /// The sender will never send these.
    ///
    /// # Errors
    /// A text for a person, if it cannot mean them.
    pub(super) fn skip(
        &mut self,
        id: &StreamId,
        seqs: (Seq, Seq),
        reason: GapReason,
        fx: &mut Effects,
    ) -> Result<(), String> {
        self.check(seqs)?;
        self.later.gone(seqs);
        if self.lacks(seqs) && !planted(Bug::GapForgotten) {
            let stream = id.clone();
            fx.record(Record::Skipped { stream, seqs, reason });
        }
        Ok(())
    }

    /// What is said of a message that has to wait for an earlier one of its topic or its key, which must come again.
    pub(super) fn behind(&self, sent: &Sent) -> Option<Verdict> {
        let (topic, key) = (&sent.message.topic, sent.message.key.as_ref()?);
        if self.later.is_before(topic, sent.seq) {
            return Some(Verdict::behind());
        }
        let waits = self.later.is_before_of_key(topic, key, sent.seq);
        waits.then(Verdict::behind_key)
    }

    /// Enters what is to become of a message that came on a lane.
    pub(super) fn book(&mut self, verdict: Verdict, sent: &Sent, lane: LaneId) -> Verdict {
        let (topic, key) = (&sent.message.topic, sent.message.key.as_ref());
        let behind = match &verdict {
            Verdict::Later { ordered: true, .. } => key.map(|_| Behind::Topic),
            Verdict::Frozen { ordered: true, .. } | Verdict::Moved { ordered: true, .. } => key.map(Behind::Key),
            Verdict::Refuse { .. } | Verdict::Store { .. } => {
                self.later.came(topic, key, sent.seq);
                None
            }
            Verdict::Busy { .. } | Verdict::Frozen { .. } | Verdict::Later { .. } | Verdict::Moved { .. } => None,
        };
        match behind {
            Some(behind) if !self.later.expect(topic, behind, sent.seq, lane) => Verdict::Busy { pushback: CROWDED },
            _ => verdict,
        }
    }

    /// A message is on its way to the disk.
    pub(super) fn on_taken(&mut self, seq: Seq) {
        self.pending.insert(seq);
        self.written += 1;
    }

    pub(super) fn on_stored(&mut self, seq: Seq) -> bool {
        if self.pending.remove(&seq) {
            self.on_disk += 1;
        }
        self.seen.insert(seq)
    }

    pub(super) fn on_skipped(&mut self, (from, to): (Seq, Seq)) -> u64 {
        self.seen.insert_range(from, to)
    }

    pub(super) fn rollback(&mut self) {
        self.later = Later::default();
        self.pending.clear();
        self.on_disk = self.written;
    }

    /// Messages taken, and those of them on disk.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.written, self.on_disk)
    }
}

impl Batch {
    /// The record of a message of this batch.
    pub(super) fn stored(
        sent: Sent,
        (stream, unit): (&StreamId, Option<&UnitId>),
        (outs, inbox, mirror): (Vec<(UnitId, Seq)>, Option<Seq>, Option<Seq>),
    ) -> Stored {
        let mut message = sent.message;
        message.visited.extend(unit.cloned());
        Stored {
            message,
            from: Some((stream.clone(), sent.seq)),
            outs,
            inbox,
            only: None,
            redriven: None,
            rerouted: None,
            mirror,
        }
    }
}

/// Pause if too many messages must come again.
const CROWDED: Duration = Duration::from_millis(500);
/// Runs of numbers above the frontier in one `Opened`.
const RUNS_MAX: usize = 4096;
/// No message comes so far ahead of the first one that is missing: as many would have to wait.
const AHEAD_MAX: u64 = 1 << 40;
/// No line is longer; room for sums.
pub(super) const SEQ_MAX: Seq = Seq::MAX / 4;
