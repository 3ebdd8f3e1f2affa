//! The relay that receives, as simple as can be.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{GapReason, Message, Seq, Topic};
use crate::queue::lanes::{FROZEN, FULL, LaneKind, Refused, Sent, ToReceiver, ToSender};
use crate::queue::line::Settled;

/// The relay that receives.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) seen: Settled,
    /// First arrivals in their order, with the lane's kind.
    pub(super) arrivals: Vec<(Seq, LaneKind)>,
    /// First arrivals since they were last looked at.
    pub(super) fresh: Vec<Seq>,
    pub(super) skipped: BTreeMap<Seq, GapReason>,
    pub(super) duplicates: u64,
    /// It will never take these.
    pub(super) refuses: BTreeSet<Seq>,
    /// Topics that are full.
    pub(super) full: BTreeSet<Topic>,
    /// Messages with keys that must come again.
    later: BTreeMap<Topic, BTreeSet<Seq>>,
    /// Keys that have moved ever: since which epoch, and whether they belong to this unit now.
    pub(super) owners: BTreeMap<Vec<u8>, (u64, bool)>,
    /// Keys that are about to move.
    pub(super) frozen: BTreeSet<Vec<u8>>,
    later_of_key: BTreeMap<(Topic, Vec<u8>), BTreeSet<Seq>>,
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
                    } else if let Some(elsewhere) = self.elsewhere(&sent) {
                        refused.push(elsewhere);
                        continue;
                    } else if self.seen.insert(sent.seq) {
                        self.arrivals.push((sent.seq, kind));
                        self.fresh.push(sent.seq);
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

    /// Epoch of a key, and whether it belongs to this unit.
    pub(super) fn owner(&self, key: &[u8]) -> (u64, bool) {
        self.owners.get(key).copied().unwrap_or((1, true))
    }

    /// As `engine::judge` and `arrivals::later` have it.
    fn elsewhere(&mut self, sent: &Sent) -> Option<Refused> {
        let message = &sent.message;
        let key = message
            .key
            .as_ref()
            .filter(|_| message.routed > 0 && !self.seen.contains(sent.seq))?;
        let key = key.key.to_vec();
        let later = self
            .later_of_key
            .entry((message.topic.clone(), key.clone()))
            .or_default();
        let behind = later.first().is_some_and(|lowest| *lowest < sent.seq);
        let (epoch, ours) = self.owners.get(&key).copied().unwrap_or((1, true));
        let refused = match (ours, epoch > message.routed) {
            (true, _) if !behind && !self.frozen.contains(&key) => return None,
            (false, true) if !behind => Refused::moved(sent.seq, &"elsewhere".parse().unwrap(), epoch),
            _ => Refused::new(sent.seq, FROZEN, String::new()),
        };
        if !UNORDERED.contains(&message.topic.as_str()) {
            later.insert(sent.seq);
        }
        Some(refused)
    }

    /// As `arrivals::later` has it, for topics that are ordered.
    fn is_full(&mut self, sent: &Sent) -> bool {
        let topic = &sent.message.topic;
        let keyed = sent.message.key.is_some() && !UNORDERED.contains(&topic.as_str());
        let later = self.later.entry(topic.clone()).or_default();
        let behind = keyed && later.first().is_some_and(|lowest| *lowest < sent.seq);
        let full = behind || self.full.contains(topic);
        if full && keyed {
            later.insert(sent.seq);
        }
        full
    }

    fn came(&mut self, seq: Seq) {
        for later in self.later.values_mut().chain(self.later_of_key.values_mut()) {
            later.remove(&seq);
        }
    }
}

/// Topics without order.
pub(super) const UNORDERED: [&str; 2] = ["loose", "last"];
