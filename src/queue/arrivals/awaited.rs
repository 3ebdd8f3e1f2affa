//! Messages whose senders wait until they are delivered: each hears of one end, and its place is free then.

use super::Arrivals;
use crate::model::{Seq, Topic};
use crate::queue::api::Output;
use crate::queue::effects::{Effects, Why};
use crate::queue::lanes::{LaneId, Refused, ToSender};

impl Arrivals {
    /// All groups are done with a message.
    pub fn on_done(&mut self, topic: &Topic, seq: Seq, fx: &mut Effects) {
        if self.awaited.is_empty() {
            return;
        }
        let Some((lane, seq)) = self.awaiting(topic, seq) else {
            return;
        };
        if let Some(Output::ToSender {
            lane: to,
            frame: ToSender::Delivered { seqs },
        }) = fx.outputs.last_mut()
            && *to == lane
        {
            return seqs.push(seq);
        }
        let frame = ToSender::Delivered { seqs: vec![seq] };
        fx.output(Output::ToSender { lane, frame });
    }

    /// A group gave a message up: nobody waits for it any more (M-A2).
    pub fn on_given_up(&mut self, topic: &Topic, seq: Seq, why: &Why, fx: &mut Effects) {
        if self.awaited.is_empty() {
            return;
        }
        let Some((lane, seq)) = self.awaiting(topic, seq) else {
            return;
        };
        let ended = Refused {
            seq,
            reason: why.reason.clone(),
            detail: why.detail.clone(),
        };
        let frame = ToSender::Ended { ended: vec![ended] };
        fx.output(Output::ToSender { lane, frame });
    }

    /// Takes out who waits for a message: a lane to there, and its number there.
    fn awaiting(&mut self, topic: &Topic, seq: Seq) -> Option<(LaneId, Seq)> {
        let (id, seq) = self.awaited.remove(&(topic.clone(), seq))?;
        let lane = self.lanes.iter().find(|(_, lane)| lane.stream.as_ref() == Some(&id));
        lane.map(|(lane, _)| (*lane, seq))
    }
}
