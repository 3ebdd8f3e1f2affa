//! What was published and what arrived, by the demo's own count. Time is an argument.
//!
//! # Invariants
//! - L1. A message is written down before it is published, so that none arrives unknown.
//! - L2. Delay and order are those of the first arrival. Each further one counts as "twice": delivery is at least once.
//! - L3. What this demo did not publish is not counted; a demo that is kept gets messages from others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::world::Unit;

/// The ledger. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Pages>>);

/// What happens while a message is published.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Phase {
    /// All units are there.
    #[default]
    Calm,
    /// Something that is not measured.
    Between,
    /// It is back, and gets its backlog.
    Replay,
}

/// Messages of one key, which keep their order.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// Who publishes.
    pub(super) from: Unit,
    /// Who owns the key.
    pub(super) owner: Unit,
    /// The key.
    pub(super) key: String,
    /// When it began.
    pub(super) phase: Phase,
}

/// Times from publishing to arrival.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Spread {
    /// Messages.
    pub(super) count: u64,
    /// Half of them took so long at most.
    pub(super) half: Duration,
    /// 99 of 100 took so long at most.
    pub(super) most: Duration,
}

/// What came of all messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// By unit of the publisher and owner of the key.
    pub(super) pairs: BTreeMap<(Unit, Unit), Sum>,
    /// All of them together.
    pub(super) total: Sum,
    /// Arrivals of messages that had arrived before.
    pub(super) twice: u64,
    /// Messages that came after a later one of their conversation.
    pub(super) out_of_order: u64,
    /// The same, because a redrive put them there.
    pub(super) moved: u64,
    /// Arrivals at a unit that does not own the key, or with another id than was published.
    pub(super) strays: u64,
    /// Publications that failed, as the relay said it.
    pub(super) failed: Vec<String>,
}

/// Messages that were accepted, and those of them that arrived.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Sum {
    /// On the disk of the publisher's relay.
    pub(super) published: u64,
    /// Acknowledged by a subscriber of the owner.
    pub(super) delivered: u64,
}

#[derive(Default)]
struct Pages {
    phase: Phase,
    conversations: u32,
    entries: Vec<Entry>,
    /// The last message of each key that arrived.
    last: BTreeMap<String, usize>,
    refused: BTreeSet<String>,
    twice: u64,
    out_of_order: u64,
    moved: u64,
    strays: u64,
    failed: Vec<String>,
}

struct Entry {
    from: Unit,
    owner: Unit,
    key: String,
    phase: Phase,
    begun: Instant,
    arrived: Option<Instant>,
    id: Option<String>,
    state: State,
    redriven: bool,
}

/// How far the publication of a message is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    UnderWay,
    Accepted,
    Failed,
}

impl Ledger {
    /// From now on this happens.
    pub(super) fn enter(&self, phase: Phase) {
        self.pages().phase = phase;
    }

    /// What happens now.
    pub(super) fn phase(&self) -> Phase {
        self.pages().phase
    }

    /// A conversation that nobody has published to yet.
    pub(super) fn open(&self, from: Unit, owner: Unit) -> Conversation {
        let mut pages = self.pages();
        pages.conversations += 1;
        Conversation {
            from,
            owner,
            key: format!("{}{:04}", owner.prefix, pages.conversations),
            phase: pages.phase,
        }
    }

    /// A message is about to be published; gives its number (L1).
    pub(super) fn begin(&self, conversation: &Conversation, now: Instant) -> usize {
        let mut pages = self.pages();
        let Conversation {
            from,
            owner,
            key,
            phase,
        } = conversation.clone();
        pages.entries.push(Entry {
            from,
            owner,
            key,
            phase,
            begun: now,
            arrived: None,
            id: None,
            state: State::UnderWay,
            redriven: false,
        });
        pages.entries.len()
    }

    /// It is on the relay's disk, or the relay says why not.
    pub(super) fn end(&self, number: usize, result: Result<&str, String>) {
        let mut pages = self.pages();
        let Some(entry) = pages.entry(number) else { return };
        entry.state = if result.is_ok() { State::Accepted } else { State::Failed };
        let is_other = result.as_ref().is_ok_and(|id| entry.is_other(id));
        pages.strays += u64::from(is_other);
        pages.failed.extend(result.err());
    }

    /// A subscriber of a unit got it.
    pub(super) fn arrived(&self, at: Unit, number: usize, id: &str, now: Instant) {
        let mut pages = self.pages();
        let Some(entry) = pages.entry(number) else { return };
        let is_stray = entry.owner != at || entry.is_other(id);
        let is_first = entry.arrived.is_none();
        entry.arrived.get_or_insert(now);
        let (key, redriven) = (entry.key.clone(), entry.redriven);
        pages.strays += u64::from(is_stray);
        if !is_first {
            pages.twice += 1;
            return;
        }
        let last = pages.last.entry(key).or_default();
        let is_late = *last > number;
        *last = number.max(*last);
        if is_late && redriven {
            pages.moved += 1;
        } else {
            pages.out_of_order += u64::from(is_late);
        }
    }

    /// An operator takes it back from the dead letters, behind later ones of its conversation.
    pub(super) fn redriven(&self, number: usize) {
        if let Some(entry) = self.pages().entry(number) {
            entry.redriven = true;
        }
    }

    /// Whether a subscriber that cannot read a message sees it for the first time; it is repaired then.
    pub(super) fn refuses(&self, id: &str) -> bool {
        let mut pages = self.pages();
        if pages.refused.len() >= REFUSED_MAX {
            pages.refused.clear();
        }
        pages.refused.insert(id.to_owned())
    }

    /// Messages of a phase that are under way.
    pub(super) fn missing(&self, phase: Phase) -> u64 {
        self.count(|entry| entry.phase == phase && entry.is_missing())
    }

    /// Messages that are under way.
    pub(super) fn missing_in_all(&self) -> u64 {
        self.count(Entry::is_missing)
    }

    /// Whether this message arrived.
    pub(super) fn has_arrived(&self, number: usize) -> bool {
        self.pages().entry(number).is_some_and(|entry| entry.arrived.is_some())
    }

    /// Whether all messages of a conversation arrived.
    pub(super) fn is_through(&self, conversation: &Conversation) -> bool {
        self.count(|entry| entry.key == conversation.key && entry.is_missing()) == 0
    }

    fn count(&self, which: impl Fn(&Entry) -> bool) -> u64 {
        let pages = self.pages();
        u64::try_from(pages.entries.iter().filter(|entry| which(entry)).count()).unwrap_or(u64::MAX)
    }

    /// Times of the messages of a phase that came from one unit to another.
    pub(super) fn spread(&self, phase: Phase, from: Unit, owner: Unit) -> Spread {
        let pages = self.pages();
        let entries = pages.entries.iter();
        let entries = entries.filter(|entry| (entry.phase, entry.from, entry.owner) == (phase, from, owner));
        let took = entries.filter_map(|entry| Some(entry.arrived?.duration_since(entry.begun)));
        Spread::of(took.collect())
    }

    /// What came of all, or by pair and in total of those of a phase.
    pub(super) fn account(&self, phase: Option<Phase>) -> Account {
        let pages = self.pages();
        let mut account = Account {
            twice: pages.twice,
            out_of_order: pages.out_of_order,
            moved: pages.moved,
            strays: pages.strays,
            failed: pages.failed.clone(),
            ..Account::default()
        };
        let entries = pages.entries.iter().filter(|entry| entry.state == State::Accepted);
        for entry in entries.filter(|entry| phase.is_none_or(|phase| entry.phase == phase)) {
            for sum in [
                account.pairs.entry((entry.from, entry.owner)).or_default(),
                &mut account.total,
            ] {
                sum.published += 1;
                sum.delivered += u64::from(entry.arrived.is_some());
            }
        }
        account
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Sections under this lock move values; they cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// `None`: this demo did not publish it (L3).
    fn entry(&mut self, number: usize) -> Option<&mut Entry> {
        self.entries.get_mut(number.checked_sub(1)?)
    }
}

impl Entry {
    fn is_missing(&self) -> bool {
        self.arrived.is_none() && self.state != State::Failed
    }

    /// Whether it had another id before.
    fn is_other(&mut self, id: &str) -> bool {
        *self.id.get_or_insert_with(|| id.to_owned()) != id
    }
}

impl Spread {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        // The smallest time that so many of a hundred messages did not exceed.
        let within = |share: usize| {
            let rank = (took.len() * share).div_ceil(100).saturating_sub(1);
            took.get(rank).copied().unwrap_or_default()
        };
        Self {
            count: u64::try_from(took.len()).unwrap_or(u64::MAX),
            half: within(50),
            most: within(99),
        }
    }
}

impl Sum {
    /// Accepted and not delivered.
    pub(super) fn lost(self) -> u64 {
        self.published.saturating_sub(self.delivered)
    }
}

/// Messages that a subscriber remembers as refused; a demo that is kept may be sent any number.
const REFUSED_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::world::UNITS;

    const A: Unit = UNITS[0];
    const B: Unit = UNITS[1];

    /// A ledger with so many accepted messages of one conversation from `a` to `b`.
    fn with(messages: usize) -> (Ledger, Instant) {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let conversation = ledger.open(A, B);
        for number in 1..=messages {
            assert_eq!(ledger.begin(&conversation, now), number);
            ledger.end(number, Ok(&number.to_string()));
        }
        (ledger, now)
    }

    fn arrive(ledger: &Ledger, at: Unit, numbers: &[usize], now: Instant) {
        for number in numbers {
            ledger.arrived(at, *number, &number.to_string(), now);
        }
    }

    // M-B1: lost, again and out of order are told apart; a first arrival in order is none of them.
    #[test]
    fn what_is_lost_comes_again_or_late_is_counted_as_that() {
        let (ledger, now) = with(4);
        arrive(&ledger, B, &[1, 2, 1, 4], now);
        let seen = ledger.account(None);
        assert_eq!((seen.total.lost(), seen.twice, seen.out_of_order), (1, 1, 0));
        assert_eq!(ledger.missing(Phase::Calm), 1);
        arrive(&ledger, B, &[3], now);
        let seen = ledger.account(None);
        assert_eq!((seen.total.lost(), seen.out_of_order, seen.moved), (0, 1, 0));
        assert_eq!((seen.strays, seen.pairs[&(A, B)].delivered), (0, 4));
    }

    // M-C4: what an operator put behind is no fault of the relay.
    #[test]
    fn a_redriven_message_may_come_late() {
        let (ledger, now) = with(3);
        arrive(&ledger, B, &[1, 3], now);
        ledger.redriven(2);
        arrive(&ledger, B, &[2], now);
        let seen = ledger.account(None);
        assert_eq!((seen.out_of_order, seen.moved), (0, 1));
    }

    #[test]
    fn a_wrong_unit_or_id_is_a_stray_and_what_others_publish_is_nothing() {
        let (ledger, now) = with(2);
        arrive(&ledger, A, &[1], now);
        ledger.arrived(B, 2, "9", now);
        arrive(&ledger, B, &[0, 3], now);
        let seen = ledger.account(None);
        assert_eq!((seen.strays, seen.twice, seen.total.delivered), (2, 0, 2));
    }

    #[test]
    fn a_publication_that_failed_is_neither_published_nor_missing() {
        let (ledger, now) = with(1);
        let conversation = ledger.open(A, B);
        let number = ledger.begin(&conversation, now);
        assert_eq!(ledger.missing_in_all(), 2);
        ledger.end(number, Err("full".to_owned()));
        assert_eq!((ledger.missing_in_all(), ledger.account(None).total.published), (1, 1));
        assert_eq!(ledger.account(None).failed, ["full"]);
    }

    #[test]
    fn the_spread_is_of_one_phase_and_way() {
        let (ledger, now) = with(100);
        ledger.enter(Phase::Replay);
        let other = ledger.open(A, B);
        ledger.begin(&other, now);
        for number in 1..=101 {
            let millis = u64::try_from(number).unwrap();
            arrive(&ledger, B, &[number], now + Duration::from_millis(millis));
        }
        let millis = Duration::from_millis;
        let seen = ledger.spread(Phase::Calm, A, B);
        assert_eq!((seen.count, seen.half, seen.most), (100, millis(50), millis(99)));
        assert_eq!(ledger.spread(Phase::Replay, A, B).most, millis(101));
        assert_eq!(ledger.spread(Phase::Calm, B, A), Spread::default());
    }

    #[test]
    fn a_subscriber_refuses_a_message_once() {
        let ledger = Ledger::default();
        assert!(ledger.refuses("1") && !ledger.refuses("1") && ledger.refuses("2"));
    }
}
