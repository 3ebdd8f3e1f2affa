//! Publishers that wait for more than `ACCEPTED` (M-A2).
//!
//! # Invariants
//! - W1. A publisher is told each level once, in their order, and nothing after the level it waits for.
//! - W2. A wait ends when its level is reached, when the message ends so that it never will be, or when the publisher forgets
//!   it; the edge does that at its deadline. `DELIVERED` means that every group acknowledged: the first that gives the
//!   message up ends the wait.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::model::{AckLevel, Map, MessageId, Reason, RelayError, Retry, Seq, Topic, UnitId};
use crate::queue::api::{Output, Progress, Ticket};
use crate::queue::effects::{Told, Why};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_number: Map<u64, Wait>,
    /// By life and number of the message.
    by_message: Map<(u64, u64), u64>,
    last: u64,
    outs: Legs,
    inboxes: BTreeMap<(Topic, Seq), u64>,
    by_ticket: Map<Ticket, u64>,
}

/// A publisher of a message that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) level: AckLevel,
    pub(super) duplicate: bool,
}

/// A message as those who wait for it need it.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) id: MessageId,
    pub(super) buffered: bool,
    pub(super) outs: Vec<(UnitId, Seq)>,
    pub(super) inbox: Option<(Topic, Seq)>,
}

#[derive(Debug)]
struct Wait {
    awaited: Awaited,
    waiters: Vec<Waiter>,
    not_relayed: usize,
    not_delivered: usize,
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    wait: u64,
    relayed: bool,
}

/// On their way to units, by number in the line of each: names are compared once, not at each step of a search.
#[derive(Debug, Default)]
struct Legs(BTreeMap<UnitId, BTreeMap<Seq, Leg>>);

impl Legs {
    fn insert(&mut self, unit: &UnitId, seq: Seq, leg: Leg) {
        match self.0.get_mut(unit) {
            Some(line) => _ = line.insert(seq, leg),
            None => _ = self.0.insert(unit.clone(), BTreeMap::from([(seq, leg)])),
        }
    }

    fn remove(&mut self, (unit, seq): &(UnitId, Seq)) -> Option<Leg> {
        self.0.get_mut(unit)?.remove(seq)
    }

    fn range_mut(&mut self, unit: &UnitId, from: Seq, to: Seq) -> impl Iterator<Item = &mut Leg> {
        let line = self.0.get_mut(unit).into_iter();
        line.flat_map(move |line| line.range_mut(from..=to)).map(|(_, leg)| leg)
    }
}

impl Awaited {
    /// What a publisher is told of whose message no more is known.
    pub(super) fn at_least_accepted(&self, waiter: &Waiter) -> Output {
        let level = AckLevel::Accepted;
        self.progress(&Waiter { level, ..*waiter }, level)
    }

    /// What a publisher is told.
    pub(super) fn progress(&self, waiter: &Waiter, level: AckLevel) -> Output {
        Output::Published {
            ticket: waiter.ticket,
            result: Ok(Progress {
                id: self.id.clone(),
                level,
                duplicate: waiter.duplicate,
                buffered: self.buffered,
                last: level >= waiter.level,
            }),
        }
    }
}

impl Waits {
    /// Whether one more may wait for more than `ACCEPTED`.
    pub(super) fn has_room(&self) -> bool {
        self.by_ticket.len() < WAITS_MAX
    }

    /// A message is on disk; some wait for more than that.
    pub(super) fn add(&mut self, awaited: Awaited, waiters: Vec<Waiter>, outputs: &mut VecDeque<Output>) {
        self.last += 1;
        let number = self.last;
        for (unit, seq) in &awaited.outs {
            let leg = Leg {
                wait: number,
                relayed: false,
            };
            self.outs.insert(unit, *seq, leg);
        }
        if let Some(inbox) = &awaited.inbox {
            self.inboxes.insert(inbox.clone(), number);
        }
        for waiter in &waiters {
            self.by_ticket.insert(waiter.ticket, number);
        }
        self.by_message.insert((awaited.id.epoch, awaited.id.number), number);
        let wait = Wait {
            not_relayed: awaited.outs.len(),
            not_delivered: awaited.outs.len() + usize::from(awaited.inbox.is_some()),
            awaited,
            waiters,
        };
        let all_relayed = wait.not_relayed == 0;
        self.by_number.insert(number, wait);
        if all_relayed {
            self.reached(number, AckLevel::Relayed, outputs);
        }
    }

    /// One more waits for a message, if others do: it is told how far the message is, and what they are told.
    pub(super) fn join(&mut self, (epoch, message): (u64, u64), waiter: Waiter) -> Option<Output> {
        let number = *self.by_message.get(&(epoch, message))?;
        let wait = self.by_number.get_mut(&number)?;
        let reached = if wait.not_relayed == 0 {
            AckLevel::Relayed
        } else {
            AckLevel::Accepted
        };
        let level = reached.min(waiter.level);
        if waiter.level > level {
            self.by_ticket.insert(waiter.ticket, number);
            wait.waiters.push(waiter);
        }
        Some(wait.awaited.progress(&waiter, level))
    }

    /// Messages have come further.
    pub(super) fn on_told(&mut self, told: &Told, outputs: &mut VecDeque<Output>) {
        if self.by_number.is_empty() {
            return;
        }
        match told {
            Told::Relayed { unit, seqs } => {
                for (from, to) in seqs {
                    let legs = self.outs.range_mut(unit, *from, *to).filter(|leg| !leg.relayed);
                    let waits: Vec<u64> = legs
                        .map(|leg| {
                            leg.relayed = true;
                            leg.wait
                        })
                        .collect();
                    for wait in waits {
                        self.on_relayed(wait, outputs);
                    }
                }
            }
            Told::Delivered { unit, seqs } => {
                for seq in seqs {
                    let Some(leg) = self.outs.remove(&(unit.clone(), *seq)) else {
                        continue;
                    };
                    if !leg.relayed {
                        self.on_relayed(leg.wait, outputs);
                    }
                    self.on_delivered(leg.wait, outputs);
                }
            }
            Told::Gone {
                unit,
                seqs: (from, to),
                there,
                why,
            } => {
                let legs: Vec<Leg> = self.outs.range_mut(unit, *from, *to).map(|leg| *leg).collect();
                for leg in legs {
                    if *there && !leg.relayed {
                        self.on_relayed(leg.wait, outputs);
                    }
                    let lost = if *there { AckLevel::Delivered } else { AckLevel::Relayed };
                    self.fail(leg.wait, lost, (Some(unit), why), outputs);
                }
            }
            Told::GivenUp { topic, seq, why } => {
                if let Some(wait) = self.inboxes.get(&(topic.clone(), *seq)).copied() {
                    self.fail(wait, AckLevel::Delivered, (None, why), outputs);
                }
            }
            Told::Done { topic, seq } => {
                if let Some(wait) = self.inboxes.remove(&(topic.clone(), *seq)) {
                    self.on_delivered(wait, outputs);
                }
            }
        }
    }

    /// A message has left the line of a unit for that of another, or for the inbox here. Says whether somebody waits until it is
    /// delivered.
    pub(super) fn on_rerouted(
        &mut self,
        from: &(UnitId, Seq),
        out: Option<&(UnitId, Seq)>,
        inbox: Option<(Topic, Seq)>,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        let Some(leg) = self.outs.remove(from) else {
            return false;
        };
        let Some(wait) = self.by_number.get_mut(&leg.wait) else {
            return false;
        };
        wait.awaited.outs.retain(|out| out != from);
        wait.awaited.outs.extend(out.cloned());
        let tell = wait.waiters.iter().any(|waiter| waiter.level == AckLevel::Delivered);
        if let Some(out) = out {
            self.outs.insert(&out.0, out.1, leg);
        }
        if let Some(inbox) = inbox {
            wait.awaited.inbox = Some(inbox.clone());
            self.inboxes.insert(inbox, leg.wait);
            if !leg.relayed {
                self.on_relayed(leg.wait, outputs);
            }
        }
        tell
    }

    /// Nobody waits for this publish any more.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        let Some(number) = self.by_ticket.remove(&ticket) else {
            return;
        };
        if let Some(wait) = self.by_number.get_mut(&number) {
            wait.waiters.retain(|waiter| waiter.ticket != ticket);
            if wait.waiters.is_empty() {
                self.remove(number);
            }
        }
    }

    fn on_relayed(&mut self, number: u64, outputs: &mut VecDeque<Output>) {
        if let Some(wait) = self.by_number.get_mut(&number) {
            wait.not_relayed = wait.not_relayed.saturating_sub(1);
            if wait.not_relayed == 0 {
                self.reached(number, AckLevel::Relayed, outputs);
            }
        }
    }

    fn on_delivered(&mut self, number: u64, outputs: &mut VecDeque<Output>) {
        if let Some(wait) = self.by_number.get_mut(&number) {
            wait.not_delivered = wait.not_delivered.saturating_sub(1);
            if wait.not_delivered == 0 {
                self.reached(number, AckLevel::Delivered, outputs);
            }
        }
    }

    fn reached(&mut self, number: u64, level: AckLevel, outputs: &mut VecDeque<Output>) {
        let Some(wait) = self.by_number.get_mut(&number) else {
            return;
        };
        for waiter in wait.waiters.iter().filter(|waiter| waiter.level >= level) {
            outputs.push_back(wait.awaited.progress(waiter, level));
            if waiter.level == level {
                self.by_ticket.remove(&waiter.ticket);
            }
        }
        wait.waiters.retain(|waiter| waiter.level > level);
        if wait.waiters.is_empty() {
            self.remove(number);
        }
    }

    /// A message will not come to a level: those who wait for it, or for more, are told why.
    fn fail(
        &mut self,
        number: u64,
        level: AckLevel,
        (unit, why): (Option<&UnitId>, &Why),
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(wait) = self.by_number.get_mut(&number) else {
            return;
        };
        let reached = if wait.not_relayed == 0 {
            AckLevel::Relayed
        } else {
            AckLevel::Accepted
        };
        let unit = unit.unwrap_or(&wait.awaited.id.unit);
        for waiter in wait.waiters.iter().filter(|waiter| waiter.level >= level) {
            let error = undelivered(&wait.awaited.id, reached, level, (unit, why));
            self.by_ticket.remove(&waiter.ticket);
            outputs.push_back(Output::Published {
                ticket: waiter.ticket,
                result: Err(Box::new(error)),
            });
        }
        wait.waiters.retain(|waiter| waiter.level < level);
        // Who comes now would wait in vain.
        let id = &wait.awaited.id;
        self.by_message.remove(&(id.epoch, id.number));
        if wait.waiters.is_empty() {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(wait) = self.by_number.remove(&number) else {
            return;
        };
        let id = &wait.awaited.id;
        if self.by_message.get(&(id.epoch, id.number)) == Some(&number) {
            self.by_message.remove(&(id.epoch, id.number));
        }
        for out in &wait.awaited.outs {
            self.outs.remove(out);
        }
        if let Some(inbox) = &wait.awaited.inbox {
            self.inboxes.remove(inbox);
        }
    }
}

/// What a publisher is told whose message will not come to a level.
fn undelivered(id: &MessageId, reached: AckLevel, level: AckLevel, (unit, why): (&UnitId, &Why)) -> RelayError {
    let reason = match why.reason.as_str() {
        "loop" => Reason::Loop,
        "not_allowed" => Reason::Policy,
        "too_large" => Reason::TooLarge,
        "unknown_topic" => Reason::UnknownTopic,
        _ => Reason::Undelivered,
    };
    let place = if level == AckLevel::Delivered {
        "in"
    } else {
        "on its way to"
    };
    let Why { reason: word, detail } = why;
    let semicolon = if detail.is_empty() { "" } else { "; " };
    let detail = format!(
        "the message was accepted with id {id}, has come as far as {} and comes no further: {word} {place} unit \
         {unit}{semicolon}{detail}",
        reached.as_str(),
    );
    RelayError::new(reason, Retry::Never, detail)
}

/// Publishers that may wait for more than `ACCEPTED`.
const WAITS_MAX: usize = 1_000_000;
