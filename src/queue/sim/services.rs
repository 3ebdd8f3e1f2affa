//! Services of the owners that get the calls which were kept for their units: they remember by its id what they have applied, and their
//! replies are the settlements (`inbound::push`).
//!
//! # Invariants
//! - P1. Every call of which its caller was told that it is kept is applied, once by its id, or is in the dead letters; those of a key
//!   and a relay that kept them are applied in the order in which it did (I16). An evacuation may break the order: what the unit had
//!   comes when it is back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::World;
use super::publishers::Published;
use crate::queue::api::{Deliver, Settlement};
use crate::queue::operator::Peeked;

#[derive(Default)]
pub(super) struct Services {
    /// How often each call was applied, by id.
    applied: BTreeMap<u64, u64>,
    /// The last one that was applied of a key and of the relay that kept it, and where.
    order: BTreeMap<(String, usize), ((u64, u64), usize)>,
}

impl Services {
    pub(super) fn applied(&self) -> usize {
        self.applied.len()
    }
}

impl World {
    /// A relay makes a call that was kept for its unit.
    pub(super) fn make_call(&mut self, (relay, event): (usize, u64), deliver: &Deliver) {
        let of = &self.publishers.all[usize::try_from(event).unwrap()];
        let (Some(call), Some(key)) = (of.call, of.key.clone()) else {
            return self.ledger.blame(format!("event {event} is no call, but {of:?}"));
        };
        let kept_by = of.relay;
        let is_free = deliver.message.redrives > 0 || self.ledger.was_left_at(relay, of);
        let nack = |delay| Settlement::Nack {
            delay,
            reason: "no answer".to_owned(),
        };
        let is_bad = key.starts_with("bad");
        // As the gate of the owner has it: while a key moves nothing of it is let through.
        let is_for_now = self.relays[relay].view.owner(&key).is_none_or(|(.., frozen)| frozen);
        let (applies, outcome) = match self.dice.u8(..100) {
            _ if self.services.applied.contains_key(&call) => (false, Some(Settlement::Ack)),
            _ if self.calm => (true, Some(Settlement::Ack)),
            _ if is_bad => (false, Some(nack(None))),
            0..50 if is_for_now => (false, Some(away())),
            0..6 => (false, Some(nack(None))),
            6..14 => (true, Some(nack(None))),
            14..16 => (false, Some(refuses())),
            16..18 => (false, None),
            18..20 => (true, None),
            20..24 => (false, Some(away())),
            _ => (true, Some(Settlement::Ack)),
        };
        if applies {
            *self.services.applied.entry(call).or_default() += 1;
            let place = (deliver.message.id.epoch, deliver.message.id.number);
            let line = (key, kept_by);
            let (last, there) = self.services.order.get(&line).copied().unwrap_or((place, relay));
            let of = &self.publishers.all[usize::try_from(event).unwrap()];
            let had_it_too = there != relay && self.ledger.may_come_again(there, of);
            if last > place && !is_free && !had_it_too {
                let text = format!(
                    "call {call} ({}) is applied behind number {} (I16)",
                    deliver.message.id, last.1
                );
                self.ledger.blame(text);
            } else if !is_free {
                self.services.order.insert(line, (place, relay).max((last, there)));
            }
        }
        if let Some(outcome) = outcome {
            self.settle_soon(deliver, event, outcome);
        }
    }

    /// What is wrong with a call that is kept (P1).
    pub(super) fn lost_call(&self, of: &Published, id: &str, dead: &[Vec<Peeked>]) -> Option<String> {
        let call = of.call?;
        let is_dead = dead.iter().flatten().any(|letter| letter.id == id);
        match self.services.applied.get(&call) {
            Some(1) => None,
            None if is_dead => None,
            times => Some(format!(
                "call {call} ({id}) is applied {} times and no dead letter (I16)",
                times.unwrap_or(&0)
            )),
        }
    }
}

fn away() -> Settlement {
    let pushback = Duration::from_millis(50);
    Settlement::Unavailable { pushback }
}

fn refuses() -> Settlement {
    let reason = "refused".to_owned();
    Settlement::Terminate { reason }
}
