//! What was acknowledged and what arrived, and everything that is wrong between the two.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;
use strait::model::MessageId;

use crate::content::Content;

/// Written by producers and consumers, read at the end.
pub struct Ledger {
    seed: u64,
    /// By number.
    messages: Vec<Entry>,
    /// Number of the id of the last message of a key that arrived for the first time.
    last_of_key: HashMap<String, u64>,
    /// When consumers of B may have lost what they had settled.
    blows_to: HashMap<&'static str, Vec<Instant>>,
    /// The log's life at A: another one would mean that it was lost.
    epoch: Option<u64>,
    counts: Counts,
    errors: BTreeMap<String, u64>,
    /// What is wrong, in words; the first of it.
    wrong: Vec<String>,
}

/// One message.
#[derive(Clone, Default)]
struct Entry {
    acknowledged: bool,
    /// Number of the id under which it is known; 0 if it is not yet.
    id: u64,
    /// Hand-overs to consumers.
    arrivals: u32,
    /// When a consumer said that it is done.
    settled: Option<Instant>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Of these, how many had been stored by an attempt whose answer was lost (M-B3).
    pub recognised: u64,
    /// Attempts to publish that got an error or no answer.
    pub failed_attempts: u64,
    /// Different messages that arrived.
    pub arrived: u64,
    /// Arrivals of messages that a consumer had settled.
    pub duplicates: u64,
    /// Arrivals after a consumer failed the message or never answered.
    pub redeliveries: u64,
    /// Bytes that differ.
    pub corrupt: u64,
    /// Arrivals at a unit that does not own the key.
    pub misrouted: u64,
    /// First arrivals before an older message of the same key.
    pub out_of_order: u64,
    /// Messages known under two ids.
    pub two_ids: u64,
    /// Duplicates without a blow that explains them.
    pub unexplained: u64,
}

/// How long before a blow a settlement can have been made and still not be on disk.
const UNSETTLED: Duration = Duration::from_secs(5);

impl Ledger {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            messages: Vec::new(),
            last_of_key: HashMap::new(),
            blows_to: HashMap::new(),
            epoch: None,
            counts: Counts::default(),
            errors: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    /// A relay acknowledged this number.
    pub fn on_acknowledged(&mut self, number: u64, id: &MessageId, duplicate: bool) {
        self.check_id(number, id);
        let entry = self.entry(number);
        assert!(!entry.acknowledged, "a number is published once");
        entry.acknowledged = true;
        self.counts.acknowledged += 1;
        self.counts.recognised += u64::from(duplicate);
    }

    /// An attempt to publish failed; it will be tried again.
    pub fn on_failed(&mut self, error: &str) {
        self.counts.failed_attempts += 1;
        if self.errors.len() < 20 || self.errors.contains_key(error) {
            *self.errors.entry(error.to_owned()).or_default() += 1;
        }
    }

    /// Why attempts to publish failed, and how often.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// A message was handed to a consumer of this unit. Whether it is what was published.
    pub fn on_arrived(&mut self, unit: &'static str, id: &MessageId, key: &str, body: &[u8]) -> Option<Content> {
        let Some(number) = body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) else {
            self.counts.corrupt += 1;
            self.complain(format!("{id} came with {} bytes", body.len()));
            return None;
        };
        let content = Content::of(self.seed, number);
        if content.body != body || content.key != key {
            self.counts.corrupt += 1;
            self.complain(format!("{id}, number {number}, came with other bytes or another key"));
            return None;
        }
        if content.unit != unit {
            self.counts.misrouted += 1;
            self.complain(format!(
                "{id}, number {number} of unit {}, came to {unit}",
                content.unit
            ));
        }
        self.check_id(number, id);
        let entry = self.entry(number);
        entry.arrivals += 1;
        let (arrivals, settled) = (entry.arrivals, entry.settled);
        if arrivals == 1 {
            self.counts.arrived += 1;
            let last = self.last_of_key.entry(content.key.clone()).or_insert(0);
            if *last > id.number {
                let last = *last;
                self.counts.out_of_order += 1;
                self.complain(format!("{id} came after number {last} of the same key"));
            } else {
                *last = id.number;
            }
        } else if let Some(settled) = settled {
            self.counts.duplicates += 1;
            let blows = self.blows_to.get(unit).map_or(&[][..], Vec::as_slice);
            if !blows
                .iter()
                .any(|blow| *blow + Duration::from_millis(100) > settled && *blow < settled + UNSETTLED)
            {
                self.counts.unexplained += 1;
                self.complain(format!("{id} came again {:?} after it was settled", settled.elapsed()));
            }
        } else {
            self.counts.redeliveries += 1;
        }
        Some(content)
    }

    /// A consumer is about to say that it is done with this number.
    pub fn on_settled(&mut self, number: u64) {
        self.entry(number).settled = Some(Instant::now());
    }

    /// A relay of this unit was killed.
    pub fn on_blow(&mut self, unit: &'static str) {
        self.blows_to.entry(unit).or_default().push(Instant::now());
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Numbers that were acknowledged and did not arrive.
    pub fn missing(&self) -> Vec<u64> {
        let entries = self.messages.iter().enumerate();
        let lost = entries.filter(|(_, entry)| entry.acknowledged && entry.arrivals == 0);
        lost.map(|(number, _)| number as u64).collect()
    }

    /// The first things that were wrong.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// Id under which a number is known, for a complaint.
    pub fn id_of(&self, number: u64) -> u64 {
        self.messages.get(number as usize).map_or(0, |entry| entry.id)
    }

    fn check_id(&mut self, number: u64, id: &MessageId) {
        let epoch = *self.epoch.get_or_insert(id.epoch);
        if epoch != id.epoch {
            self.complain(format!("{id} is of another life of the log than {epoch:016x}"));
        }
        let entry = self.entry(number);
        let known = entry.id;
        if known == 0 {
            entry.id = id.number;
        } else if known != id.number {
            self.counts.two_ids += 1;
            self.complain(format!("number {number} is known as {known} and as {id}"));
        }
    }

    fn complain(&mut self, text: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(text);
        }
    }

    fn entry(&mut self, number: u64) -> &mut Entry {
        let index = number as usize;
        if index >= self.messages.len() {
            self.messages.resize(index + 1, Entry::default());
        }
        &mut self.messages[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> MessageId {
        format!("a/a-1/0000000000000001/{number}").parse().unwrap()
    }

    /// Two messages to `b` of the same key.
    fn two_of_a_key() -> [Content; 2] {
        let contents = || (1..10_000).map(|number| Content::of(1, number));
        let first = contents().find(|content| content.unit == "b").unwrap();
        let behind = |content: &Content| content.key == first.key && content.number > first.number;
        let second = contents().find(behind).unwrap();
        [first, second]
    }

    #[test]
    fn the_ledger_finds_each_kind_of_fault() {
        let mut ledger = Ledger::new(1);
        let [first, second] = two_of_a_key();
        ledger.on_acknowledged(first.number, &id(1), false);
        ledger.on_acknowledged(second.number, &id(2), false);
        assert_eq!(ledger.missing(), [first.number, second.number]);
        assert!(ledger.on_arrived("b", &id(2), &second.key, &second.body).is_some());
        assert_eq!(ledger.missing(), [first.number]);
        ledger.on_arrived("b", &id(1), &first.key, &first.body);
        assert_eq!(ledger.counts().out_of_order, 1);
        ledger.on_arrived("a", &id(1), &first.key, &first.body);
        assert_eq!((ledger.counts().misrouted, ledger.counts().redeliveries), (1, 1));
        ledger.on_settled(first.number);
        ledger.on_arrived("b", &id(1), &first.key, &first.body);
        assert_eq!((ledger.counts().duplicates, ledger.counts().unexplained), (1, 1));
        ledger.on_blow("b");
        ledger.on_arrived("b", &id(1), &first.key, &first.body);
        assert_eq!((ledger.counts().duplicates, ledger.counts().unexplained), (2, 1));
        ledger.on_arrived("b", &id(3), &first.key, &first.body);
        assert_eq!(ledger.counts().two_ids, 1);
        let mut broken = first.body.to_vec();
        *broken.last_mut().unwrap() ^= 1;
        assert!(ledger.on_arrived("b", &id(1), &first.key, &broken).is_none());
        assert!(ledger.on_arrived("b", &id(1), "b:other", &first.body).is_none());
        assert_eq!(ledger.counts().corrupt, 2);
    }
}
