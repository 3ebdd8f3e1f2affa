//! A lane that a peer opened: what came and is not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{GapReason, Geo, RelayName, Seq, UnitId};
use crate::queue::api::Output;
use crate::queue::effects::Effects;
use crate::queue::lanes::{LaneId, Refused, Sent, ToSender};
use crate::queue::line::StreamId;

pub(super) struct Lane {
    pub geo: Geo,
    pub unit: UnitId,
    pub relay: RelayName,
    /// Set by `Open`.
    pub stream: Option<StreamId>,
    /// Batches that wait for their turn.
    pub waiting: VecDeque<Batch>,
    /// The first of them has to wait until then.
    pub again_at: Option<Duration>,
    /// The sender knows that nothing is taken.
    pub told_busy: bool,
    next_batch: u64,
    /// Bytes that wait or are on their way to the disk.
    bytes: usize,
    /// Bytes on their way to the disk: how far the records of the stream must be on disk for them to be there.
    writing: VecDeque<(u64, usize)>,
}

/// A frame with messages or a gap, as far as it is not taken.
pub(super) struct Batch {
    pub gap: Option<((Seq, Seq), GapReason)>,
    pub messages: VecDeque<Sent>,
    number: u64,
    bytes: usize,
    refused: Vec<Refused>,
}

impl Lane {
    pub(super) fn new(geo: Geo, unit: UnitId, relay: RelayName) -> Self {
        Self {
            geo,
            unit,
            relay,
            stream: None,
            waiting: VecDeque::new(),
            again_at: None,
            told_busy: false,
            next_batch: 1,
            bytes: 0,
            writing: VecDeque::new(),
        }
    }

    /// A batch came. It is an error if the sender breaks the rules.
    pub(super) fn take(&mut self, batch: Batch, bytes_max: usize) -> Result<(), String> {
        if self.stream.is_none() {
            return Err("the lane was not opened".to_owned());
        }
        if batch.number != self.next_batch {
            return Err(format!("batch {} came in place of {}", batch.number, self.next_batch));
        }
        self.next_batch += 1;
        // The edge reads no further once it has its limit, so a batch of any length may be on top of that: how long a batch
        // is, is a setting of the sender.
        if self.bytes > bytes_max {
            return Err(format!("more than {bytes_max} bytes came without acknowledgement"));
        }
        self.bytes += batch.bytes;
        self.waiting.push_back(batch);
        Ok(())
    }

    /// The first batch is taken: it is acknowledged once its records are on disk, the last of which is the `written`th of
    /// the stream.
    pub(super) fn finish(&mut self, lane: LaneId, (written, on_disk): (u64, u64), fx: &mut Effects) {
        let Some(batch) = self.waiting.pop_front() else {
            return;
        };
        self.writing.push_back((written, batch.bytes));
        self.acknowledge(on_disk);
        let frame = ToSender::Ack {
            batch: batch.number,
            refused: batch.refused,
        };
        fx.then(Output::ToSender { lane, frame });
    }

    /// So many records of the stream are on disk.
    pub(super) fn acknowledge(&mut self, on_disk: u64) {
        while let Some((_, bytes)) = self.writing.front().filter(|(written, _)| *written <= on_disk) {
            self.bytes -= bytes;
            self.writing.pop_front();
        }
    }

    pub(super) fn tell_busy(&mut self, lane: LaneId, pushback: Option<Duration>, fx: &mut Effects) {
        if self.told_busy == pushback.is_some() {
            return;
        }
        self.told_busy = pushback.is_some();
        let frame = ToSender::Busy { pushback };
        fx.output(Output::ToSender { lane, frame });
    }
}

impl Batch {
    pub(super) fn of_messages(number: u64, bytes: usize, messages: Vec<Sent>) -> Self {
        Self {
            gap: None,
            messages: messages.into(),
            number,
            bytes,
            refused: Vec::new(),
        }
    }

    pub(super) fn of_gap(number: u64, bytes: usize, seqs: (Seq, Seq), reason: GapReason) -> Self {
        Self {
            gap: Some((seqs, reason)),
            messages: VecDeque::new(),
            number,
            bytes,
            refused: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, refused: Refused) {
        self.refused.push(refused);
    }
}
