//! The relay that receives, as simple as can be.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{GapReason, Message, Seq, Topic};
use crate::queue::lanes::{FULL, LaneKind, Refused, Sent, ToReceiver, ToSender};
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
    /// Topics that are full.
    pub(super) full: BTreeSet<Topic>,
    /// Messages with keys that must come again.
    later: BTreeMap<Topic, BTreeSet<Seq>>,
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
                    } else if !self.seen.contains(sent.seq) && self.is_full(&sent) {
                        refused.push(Refused {
                            seq: sent.seq,
                            reason: FULL.to_owned(),
                            detail: String::new(),
                        });
                        continue;
                    } else if self.seen.insert(sent.seq) {
                        self.arrivals.push((sent.seq, kind));
                    } else {
                        self.duplicates += 1;
                    }
                    self.came(sent.seq);
                }
                ToSender::Ack { batch, refused }
            }
            ToReceiver::Gap { batch, seqs, reason } => {
                for seq in seqs.0..=seqs.1 {
                    self.came(seq);
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

    /// As `arrivals::later` has it, for topics that are ordered.
    fn is_full(&mut self, sent: &Sent) -> bool {
        let topic = &sent.message.topic;
        let keyed = sent.message.key.is_some() && !["loose", "last"].contains(&topic.as_str());
        let later = self.later.entry(topic.clone()).or_default();
        let behind = keyed && later.first().is_some_and(|lowest| *lowest < sent.seq);
        let full = behind || self.full.contains(topic);
        if full && keyed {
            later.insert(sent.seq);
        }
        full
    }

    fn came(&mut self, seq: Seq) {
        for later in self.later.values_mut() {
            later.remove(&seq);
        }
    }
}
