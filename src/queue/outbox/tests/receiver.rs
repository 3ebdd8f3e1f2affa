//! The relay that receives, as simple as can be.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{GapReason, Message, Seq};
use crate::queue::lanes::{LaneKind, Refused, ToReceiver, ToSender};
use crate::queue::line::Settled;

/// The relay that receives.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) seen: Settled,
    /// First arrivals in their order, with the lane's kind.
    pub(super) arrivals: Vec<(Seq, LaneKind)>,
    pub(super) skipped: BTreeMap<Seq, GapReason>,
    pub(super) duplicates: u64,
    /// It will never take these.
    pub(super) refuses: BTreeSet<Seq>,
    pub(super) deny: bool,
}

impl Receiver {
    pub(super) fn take(&mut self, frame: ToReceiver, kind: LaneKind, accepted: &BTreeMap<Seq, Message>) -> ToSender {
        match frame {
            ToReceiver::Open { base, .. } => {
                if self.deny {
                    return ToSender::Denied {
                        detail: "not wanted".to_owned(),
                    };
                }
                self.seen.insert_range(1, base.saturating_sub(1));
                ToSender::Opened {
                    frontier: self.seen.frontier(),
                    above: self.seen.runs_above(1000),
                    highest: self.seen.highest(),
                }
            }
            ToReceiver::Messages { batch, messages } => {
                let mut refused = Vec::new();
                for sent in messages {
                    assert!(accepted.contains_key(&sent.seq), "M-A3: {} is not on disk", sent.seq);
                    assert_eq!(accepted[&sent.seq], sent.message);
                    if self.refuses.contains(&sent.seq) && !self.seen.contains(sent.seq) {
                        refused.push(Refused {
                            seq: sent.seq,
                            reason: "not_allowed".to_owned(),
                            detail: "test".to_owned(),
                        });
                    } else if self.seen.insert(sent.seq) {
                        self.arrivals.push((sent.seq, kind));
                    } else {
                        self.duplicates += 1;
                    }
                }
                ToSender::Ack { batch, refused }
            }
            ToReceiver::Gap { batch, seqs, reason } => {
                for seq in seqs.0..=seqs.1 {
                    if self.seen.insert(seq) {
                        self.skipped.insert(seq, reason);
                    }
                }
                ToSender::Ack {
                    batch,
                    refused: Vec::new(),
                }
            }
        }
    }
}
