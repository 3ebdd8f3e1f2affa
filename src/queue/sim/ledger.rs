//! What must have become of each message.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use super::publishers::Published;
use super::relay::groups;
use crate::model::{MessageId, UnixMillis};
use crate::queue::api::{Deliver, DeliveryId, Settlement};
use crate::queue::operator::{Answer, Command, Filter, Line, Peeked};

/// Relay, its life, topic and group.
pub(super) type Home = (usize, u64, &'static str, &'static str);

#[derive(Default)]
pub(super) struct Ledger {
    wrong: Vec<String>,
    /// By relay, group, topic and event.
    shares: BTreeMap<(usize, &'static str, &'static str, u64), Share>,
    ids: BTreeMap<u64, MessageId>,
    /// The last first delivery of a key, and where it was: by relay, group, topic, key and origin.
    order: BTreeMap<KeyLine, ((u64, u64), usize)>,
    crashes: BTreeMap<usize, Vec<u64>>,
    troubles: BTreeMap<usize, Vec<(u64, u64)>>,
    unblocked: BTreeSet<usize>,
    /// First deliveries of events whose keys can move: by group, topic and event, and where.
    firsts: BTreeMap<(&'static str, &'static str, u64), usize>,
    /// Of keys: which units lost them by an evacuation, and when.
    pub evacuated: BTreeMap<String, Vec<(usize, u64)>>,
    pub evacuations: Vec<(usize, u64)>,
    /// Who owns the key of the message that is delivered now.
    pub owner: Option<usize>,
    pub rerouted: u64,
    pub deliveries: u64,
}

/// Relay, group, topic, key and origin.
type KeyLine = (usize, &'static str, &'static str, String, usize);

/// What one group had of one event.
#[derive(Default)]
struct Share {
    deliveries: u64,
    acked: Option<(u64, u64)>,
    nacked: Vec<u64>,
    open: BTreeSet<(u64, u64)>,
}

impl Ledger {
    pub(super) fn blame(&mut self, text: String) {
        self.wrong.push(text);
    }

    pub(super) fn on_crash(&mut self, relay: usize, now: u64) {
        self.crashes.entry(relay).or_default().push(now);
    }

    /// The disk of a relay is in trouble for a while.
    pub(super) fn on_disk_trouble(&mut self, relay: usize, from: u64, to: u64) {
        self.troubles.entry(relay).or_default().push((from, to + RECOVERY));
    }

    /// From now on nothing is known about attempts there.
    pub(super) fn on_unblocked(&mut self, relay: usize) {
        self.unblocked.insert(relay);
    }

    /// Whether what happened then may not have come to the disk.
    pub(super) fn may_be_lost(&self, relay: usize, at: u64) -> bool {
        let crash = self
            .crashes
            .get(&relay)
            .and_then(|all| all.iter().find(|crash| **crash >= at));
        let Some(crash) = crash else {
            return false;
        };
        let troubled = |(from, to): &(u64, u64)| *to >= at && *from <= *crash;
        *crash - at <= GRACE || self.troubles.get(&relay).is_some_and(|all| all.iter().any(troubled))
    }

    /// A message is handed to a consumer. Which event it is.
    pub(super) fn on_delivered(
        &mut self,
        (relay, life, topic, group): Home,
        wall: UnixMillis,
        published: &[Published],
        deliver: &Deliver,
    ) -> Option<u64> {
        self.deliveries += 1;
        let message = &deliver.message;
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let event: Option<u64> = text.split(' ').next().and_then(|text| text.parse().ok());
        let of = event.and_then(|event| published.get(usize::try_from(event).ok()?));
        let (Some(event), Some(of)) = (event, of) else {
            self.blame(format!("a message was invented: {text:?} (M-A4)"));
            return None;
        };
        let key = message
            .key
            .as_ref()
            .map(|key| String::from_utf8_lossy(&key.key).into_owned());
        let here = if of.moves {
            self.owner == Some(relay) || self.was_left_at(relay, of)
        } else {
            of.units.contains(&relay)
        };
        if of.topic != topic || of.key != key || !here {
            self.blame(format!(
                "event {event} came to relay {relay} as {message:?}, was {of:?} (M-G4)"
            ));
        }
        let id = self.ids.entry(event).or_insert_with(|| message.id.clone()).clone();
        if id != message.id {
            self.blame(format!(
                "event {event} was stored twice, as {id} and {} (M-B3)",
                message.id
            ));
        }
        if message.deadline.is_some_and(|deadline| deadline.0 + 1000 < wall.0) {
            self.blame(format!("event {event} was delivered after its deadline (M-E2)"));
        }
        let (is_first, where_it_counts) = self.first_of((relay, topic, group), event, of, message.redrives > 0);
        if message.redrives == 0 && !self.may_come_again(relay, of) {
            self.check_share((relay, life, topic, group), event, deliver);
        }
        let share = self.shares.entry((relay, group, topic, event)).or_default();
        share.open.insert((deliver.delivery.seq, deliver.delivery.stamp));
        if is_first
            && message.redrives == 0
            && topic != "short"
            && let Some(key) = key
        {
            self.check_order(
                relay,
                event,
                of,
                (where_it_counts, group, topic, key, of.relay),
                &message.id,
            );
        }
        if let Some(share) = self.shares.get_mut(&(relay, group, topic, event)) {
            share.deliveries += 1;
        }
        Some(event)
    }

    /// Whether it is the first delivery of an event, and where the order of its key counts: what a unit had when it was evacuated
    /// counts there only.
    fn first_of(
        &mut self,
        (relay, topic, group): (usize, &'static str, &'static str),
        event: u64,
        of: &Published,
        is_redriven: bool,
    ) -> (bool, usize) {
        let share = self.shares.get(&(relay, group, topic, event));
        let is_first_here = share.is_none_or(|share| share.deliveries == 0);
        if !of.moves || is_redriven {
            return (is_first_here, relay);
        }
        let first = self.firsts.get(&(group, topic, event)).copied();
        let again = |unit| self.may_come_again(unit, of);
        let is_allowed = first.is_none_or(|first| first == relay || again(first) || again(relay));
        self.firsts.entry((group, topic, event)).or_insert(relay);
        if !is_allowed {
            self.blame(format!(
                "event {event} is delivered at relay {relay} and was at {first:?} (M-B2)"
            ));
        }
        if self.was_left_at(relay, of) {
            return (is_first_here, relay);
        }
        (first.is_none(), EVERYWHERE)
    }

    /// M-C1
    fn check_order(&mut self, relay: usize, event: u64, of: &Published, line: KeyLine, id: &MessageId) {
        let place = (id.epoch, id.number);
        let (last, there) = self.order.get(&line).copied().unwrap_or((place, relay));
        // Or that unit had it too, before it was evacuated, and dropped it.
        if last > place && (there == relay || !self.may_come_again(there, of)) {
            self.blame(format!(
                "event {event} ({id}) came to relay {relay} behind number {} (M-C1)",
                last.1
            ));
        }
        self.order.insert(line, (place, relay).max((last, there)));
    }

    fn check_share(&mut self, (relay, life, topic, group): Home, event: u64, deliver: &Deliver) {
        let Some(share) = self.shares.get(&(relay, group, topic, event)) else {
            return;
        };
        if let Some((at, of)) = share.acked
            && (of == life || !self.may_be_lost(relay, at))
        {
            let text =
                format!("event {event} was acknowledged at relay {relay} by {group} at {at} and comes again (M-B2)");
            return self.blame(text);
        }
        let nacks = share.nacked.iter().filter(|at| !self.may_be_lost(relay, **at)).count();
        let attempts = usize::try_from(deliver.attempts).unwrap();
        if !self.unblocked.contains(&relay) && attempts < nacks {
            let text = format!("event {event} failed {nacks} times at relay {relay}, which counts {attempts} (M-E1)");
            self.blame(text);
        } else if attempts >= 3 {
            self.blame(format!("event {event} is tried after {attempts} failures (M-E1)"));
        }
    }

    /// A consumer settles, whether it counts or not.
    pub(super) fn on_settled(
        &mut self,
        (relay, life, topic, group): Home,
        (now, event): (u64, u64),
        delivery: DeliveryId,
        outcome: &Settlement,
    ) {
        let share = self.shares.entry((relay, group, topic, event)).or_default();
        match outcome {
            Settlement::Ack => share.acked = Some((now, life)),
            Settlement::Nack { .. } => share.nacked.push(now),
            _ => {}
        }
        share.open.remove(&(delivery.seq, delivery.stamp));
    }
}

impl World {
    /// Everything is at rest: what must hold (M-A4, M-G8).
    pub(super) fn check(&mut self) -> Result<(), String> {
        let mut dead = Vec::new();
        for relay in 0..self.relays.len() {
            match self.ask(relay, Command::Audit) {
                Answer::Audit { rows } => self.check_books(&rows),
                other => self.ledger.blame(format!("no audit: {other:?}")),
            }
            dead.push(self.dead_letters(relay));
        }
        if self.relays.iter().any(|relay| relay.damaged) {
            self.ledger.blame("a crash looks like damage (M-A4)".to_owned());
        }
        self.check_frontiers();
        let mid_run: Vec<_> = std::mem::take(&mut self.answers).into_values().flatten().collect();
        for answer in mid_run {
            if let Answer::Audit { rows } = answer {
                self.check_books(&rows);
            }
        }
        self.check_events(&dead);
        if self.ledger.wrong.is_empty() {
            return Ok(());
        }
        let wrong = &self.ledger.wrong;
        Err(format!(
            "{} things: {}",
            wrong.len(),
            wrong[..wrong.len().min(5)].join("\n")
        ))
    }

    /// What came is without holes: what did not come was skipped by name (M-G2).
    fn check_frontiers(&mut self) {
        for (number, relay) in self.relays.iter().enumerate() {
            for (stream, frontier, highest) in relay.life.iter().flat_map(|life| life.engine.frontiers()) {
                if frontier != highest {
                    let text =
                        format!("relay {number} has a hole in {stream:?} behind {frontier}, up to {highest} (M-G2)");
                    self.ledger.wrong.push(text);
                }
            }
        }
    }

    fn check_books(&mut self, rows: &[crate::queue::operator::AuditRow]) {
        for row in rows {
            self.ledger.rerouted += row.rerouted;
            if row.difference != 0 || row.corrupted != 0 {
                self.ledger.blame(format!("books are wrong (M-G8): {row:?}"));
            }
        }
    }

    fn dead_letters(&mut self, relay: usize) -> Vec<Peeked> {
        let mut all: Vec<Peeked> = Vec::new();
        loop {
            let command = Command::Peek {
                line: Line::Dead,
                filter: Filter {
                    from_seq: all.last().map(|last| last.seq + 1),
                    ..Filter::default()
                },
                limit: 500,
                bodies: false,
            };
            let Answer::Messages { messages, more } = self.ask(relay, command) else {
                self.ledger.blame("no look at dead letters".to_owned());
                return all;
            };
            all.extend(messages);
            if !more {
                return all;
            }
        }
    }

    /// What is wrong with an event whose key can move: each group must have had it, wherever, or it is a dead letter.
    fn lost_on_the_move(&self, event: u64, of: &Published, id: &str, dead: &[Vec<Peeked>]) -> Vec<String> {
        let is_dead = |group: &str| {
            let was_for = format!("group {group}");
            let mut letters = dead.iter().flatten().filter(|letter| letter.id == id);
            letters.any(|letter| {
                let place = letter.was_for.as_deref().unwrap_or_default();
                place == was_for || place.starts_with("unit ")
            })
        };
        let shares = |group: &'static str| {
            (0..self.relays.len()).filter_map(move |relay| self.ledger.shares.get(&(relay, group, of.topic, event)))
        };
        let lost = |group: &&'static str| {
            let acked = shares(group).any(|share| share.acked.is_some());
            !acked && !is_dead(group) && of.topic != "small"
        };
        let lost = groups(of.topic).iter().copied().filter(lost);
        lost.map(|group| format!("event {event} ({id}) of {} is lost for {group} (M-A4)", of.topic))
            .collect()
    }

    fn check_events(&mut self, dead: &[Vec<Peeked>]) {
        let is_dead = |relay: usize, id: &str, was_for: &str| {
            dead[relay]
                .iter()
                .any(|letter| letter.id == id && letter.was_for.as_deref() == Some(was_for))
        };
        let mut wrong = Vec::new();
        for (event, of) in self.publishers.all.iter().enumerate() {
            let Some(id) = &of.accepted else {
                continue;
            };
            let id = id.to_string();
            if of.moves {
                wrong.extend(self.lost_on_the_move(u64::try_from(event).unwrap(), of, &id, dead));
                wrong.extend(self.lost_call(of, &id, dead));
                continue;
            }
            for unit in of.units.iter().copied() {
                let odd = of.key.as_ref().is_some_and(|key| key.starts_with("odd"));
                // Relays that disagree about an owner send a message on until one of them has had it before.
                let looped = odd && dead.iter().flatten().any(|letter| letter.id == id);
                let at_link = looped || (unit != of.relay && is_dead(of.relay, &id, &format!("unit unit-{unit}")));
                for group in groups(of.topic) {
                    let share = self
                        .ledger
                        .shares
                        .get(&(unit, *group, of.topic, u64::try_from(event).unwrap()));
                    let acked = share.is_some_and(|share| share.acked.is_some());
                    let at_group = is_dead(unit, &id, &format!("group {group}"));
                    if acked && (at_group || at_link) && share.is_some_and(|share| share.deliveries == 1) {
                        wrong.push(format!("event {event} was acknowledged and is a dead letter (R3)"));
                    }
                    let may_go = matches!(of.topic, "short" | "small");
                    if !acked && !at_group && !at_link && !may_go {
                        wrong.push(format!(
                            "event {event} ({id}) of {} is lost for {group} of relay {unit} (M-A4)",
                            of.topic
                        ));
                    }
                }
            }
        }
        self.ledger.wrong.extend(wrong);
    }
}

/// In place of a relay: the order of a key counts over all units that owned it.
const EVERYWHERE: usize = usize::MAX;
/// What was decided so long before a crash is on disk.
const GRACE: u64 = 700_000;
/// So long after a trouble the disk is used again at the latest.
const RECOVERY: u64 = 3_000_000;
