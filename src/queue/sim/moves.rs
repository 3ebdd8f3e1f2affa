//! Keys that move from unit to unit, as the control group would have it: frozen, then nothing left in the inbox of the owner,
//! then another owner. Each relay hears of each step in its own time, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::relay::unit;
use super::{Event as WorldEvent, World};
use crate::model::{Key, UnitId};
use crate::queue::api::{Input, Question, Ticket};
use crate::queue::{Keys, Owner, Ownership, Route};

#[derive(Default)]
pub(super) struct Moves {
    /// All steps; the number of a step is its place, and the epoch is that and the one behind the first.
    steps: Vec<Step>,
    open: BTreeMap<String, Move>,
    /// Question of which move.
    tickets: BTreeMap<u64, String>,
    pub done: usize,
    pub aborted: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Key {
        key: String,
        owner: usize,
        frozen: bool,
    },
    /// A unit is evacuated, or back.
    Unit(usize, bool),
}

#[derive(Debug)]
struct Move {
    from: usize,
    to: usize,
    /// The step that froze it.
    frozen: usize,
    ticket: u64,
}

#[derive(Debug)]
pub(super) enum Event {
    Begin,
    /// A relay hears of all steps up to one.
    Hear(usize, usize),
    /// The owner of a key is asked, again perhaps.
    Ask(String, usize),
    Abort(String, usize),
}

/// What a relay has heard.
#[derive(Debug, Default)]
pub(super) struct View {
    pub relays: usize,
    pub own: usize,
    /// An old table says of odd keys that they belong to the first unit.
    pub old: bool,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    steps: usize,
    /// Owner of each key, its epoch, and whether it is about to move.
    keys: BTreeMap<String, (usize, u64, bool)>,
    evacuated: BTreeSet<usize>,
    /// It may act for its unit only when it has heard of so many steps.
    fence: usize,
    /// It hears nothing.
    is_deaf: bool,
}

#[derive(Debug)]
struct Just(String);

impl Keys for Just {
    fn contains(&self, key: &Key) -> bool {
        &key.key[..] == self.0.as_bytes()
    }
}

impl View {
    pub(super) fn new(own: usize, relays: usize, old: bool) -> Arc<Self> {
        Arc::new(Self {
            relays,
            own,
            old,
            heard: Mutex::default(),
        })
    }

    /// The relay may not act for its unit until it has heard of so many steps.
    pub(super) fn fence(&self, steps: usize) {
        self.heard.lock().unwrap().fence = steps;
    }

    pub(super) fn set_deaf(&self, is_deaf: bool) {
        self.heard.lock().unwrap().is_deaf = is_deaf;
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.heard.lock().unwrap().is_deaf
    }

    fn is_fenced(&self) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.steps < heard.fence
    }

    /// Owner of a key that can move, its epoch, and whether it is about to.
    pub(super) fn owner(&self, key: &str) -> Option<(usize, u64, bool)> {
        let heard = self.heard.lock().unwrap();
        match heard.keys.get(key) {
            Some(owner) => Some(*owner),
            None => first_owner(key, self.relays).map(|owner| (owner, FIRST_EPOCH, false)),
        }
    }
}

impl Ownership for View {
    fn of(&self, key: &Key) -> Owner {
        let text = std::str::from_utf8(&key.key).unwrap();
        if !text.starts_with("odd") {
            return match self.owner(text) {
                None => Owner::Unknown,
                Some((owner, epoch, _)) if owner != self.own => Owner::Other {
                    unit: unit(owner),
                    epoch,
                },
                Some((_, _, true)) => Owner::Frozen,
                Some(_) if self.is_fenced() => Owner::Frozen,
                Some(_) => Owner::Ours,
            };
        }
        let owner = if self.old {
            Some(0)
        } else {
            first_owner(text, self.relays)
        };
        match owner {
            Some(owner) if owner == self.own => Owner::Ours,
            Some(owner) => Owner::Settings(unit(owner)),
            None => Owner::Unknown,
        }
    }

    fn route(&self, key: &Key) -> Route {
        match self.owner(std::str::from_utf8(&key.key).unwrap()) {
            // As if its routes were not known until then.
            Some((_, _, true)) => Route::Later,
            Some((owner, epoch, false)) => Route::To(unit(owner), epoch),
            None => Route::Nowhere,
        }
    }

    fn is_evacuated(&self, of: &UnitId) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.evacuated.iter().any(|number| unit(*number) == *of)
    }
}

/// Keys belong to units by the number they end with, until they move.
pub(super) fn first_owner(key: &str, relays: usize) -> Option<usize> {
    let number: usize = key.rsplit('-').next()?.parse().ok()?;
    Some(number % relays)
}

impl World {
    pub(super) fn on_move(&mut self, event: Event) {
        match event {
            Event::Begin => self.begin_move(),
            Event::Hear(relay, steps) => self.hear(relay, steps),
            Event::Ask(key, frozen) => self.ask_owner(&key, frozen),
            Event::Abort(key, frozen) => {
                let open = self.moves.open.get(&key).filter(|open| open.frozen == frozen);
                if let Some(from) = open.map(|open| open.from) {
                    self.moves.aborted += 1;
                    self.end_move(&key, from);
                }
            }
        }
    }

    fn end_move(&mut self, key: &str, owner: usize) {
        self.moves.open.remove(key);
        self.take_step(key, owner, false);
    }

    /// Moves from and to a unit are given up, and all its keys get other owners. Returns these keys.
    pub(super) fn take_keys(&mut self, from: usize, heirs: &[usize]) -> Vec<String> {
        let to_it = self.moves.open.iter().filter(|(_, open)| open.to == from);
        let to_it: Vec<(String, usize)> = to_it.map(|(key, open)| (key.clone(), open.from)).collect();
        let mut steps: Vec<Step> = Vec::new();
        for (key, owner) in to_it {
            self.moves.open.remove(&key);
            self.moves.aborted += 1;
            let frozen = false;
            steps.push(Step::Key { key, owner, frozen });
        }
        let all = ["key", "bad"].into_iter();
        let all = all.flat_map(|kind| (0..12).map(move |number| format!("{kind}-{number}")));
        let keys: Vec<String> = all.filter(|key| self.true_owner(key) == Some(from)).collect();
        for (place, key) in keys.iter().enumerate() {
            self.moves.aborted += usize::from(self.moves.open.remove(key).is_some());
            steps.push(Step::Key {
                key: key.clone(),
                owner: heirs[place % heirs.len()],
                frozen: false,
            });
        }
        steps.push(Step::Unit(from, true));
        self.take_steps(steps);
        keys
    }

    /// How many steps there are.
    pub(super) fn steps(&self) -> usize {
        self.moves.steps.len()
    }

    /// Whose a key that can move is, in truth.
    pub(super) fn true_owner(&self, key: &str) -> Option<usize> {
        let owner = |step: &Step| match step {
            Step::Key { key: of, owner, .. } if of == key => Some(*owner),
            _ => None,
        };
        let last = self.moves.steps.iter().rev().find_map(owner);
        last.or_else(|| first_owner(key, self.relays.len()))
    }

    pub(super) fn moves_under_way(&self) -> bool {
        let all = self.moves.steps.len();
        !self.moves.open.is_empty()
            || self
                .relays
                .iter()
                .any(|relay| relay.view.heard.lock().unwrap().steps < all)
    }

    fn begin_move(&mut self) {
        if self.calm {
            return;
        }
        let time = self.dice.u64(20_000..800_000);
        self.plan_in(time, WorldEvent::Move(Event::Begin));
        let kind = self.dice.choice(["key", "key", "key", "bad"]).unwrap();
        let key = format!("{kind}-{}", self.dice.usize(..12));
        self.begin_move_of(key);
    }

    pub(super) fn begin_move_of(&mut self, key: String) {
        if self.moves.open.contains_key(&key) {
            return;
        }
        let from = self.true_owner(&key).unwrap();
        let to = (from + self.dice.usize(1..self.relays.len())) % self.relays.len();
        if self.evacuations.is_gone(to) {
            return;
        }
        let frozen = self.take_step(&key, from, true);
        let ticket = 0;
        self.moves.open.insert(
            key.clone(),
            Move {
                from,
                to,
                frozen,
                ticket,
            },
        );
        let time = self.dice.u64(500_000..6_000_000);
        self.plan_in(time, WorldEvent::Move(Event::Abort(key, frozen)));
    }

    fn take_step(&mut self, key: &str, owner: usize, frozen: bool) -> usize {
        let key = key.to_owned();
        self.take_steps(vec![Step::Key { key, owner, frozen }])
    }

    /// Everybody hears of all of them at once. Returns the number of the last one.
    pub(super) fn take_steps(&mut self, new: Vec<Step>) -> usize {
        self.moves.steps.extend_from_slice(&new);
        let steps = self.moves.steps.len();
        self.note(&("steps", steps, new));
        for relay in 0..self.relays.len() {
            let time = match self.dice.u8(..4) {
                0 => self.dice.u64(100_000..2_000_000),
                _ => self.dice.u64(1_000..100_000),
            };
            self.plan_in(time, WorldEvent::Move(Event::Hear(relay, steps)));
        }
        steps - 1
    }

    fn hear(&mut self, relay: usize, steps: usize) {
        let mut asks = Vec::new();
        let view = Arc::clone(&self.relays[relay].view);
        let mut heard = view.heard.lock().unwrap();
        if heard.is_deaf {
            return;
        }
        for number in heard.steps..steps.max(heard.steps) {
            let epoch = u64::try_from(number).unwrap() + FIRST_EPOCH + 1;
            match self.moves.steps[number].clone() {
                Step::Key { key, owner, frozen } => {
                    if frozen && owner == relay {
                        asks.push((key.clone(), number));
                    }
                    heard.keys.insert(key, (owner, epoch, frozen));
                }
                Step::Unit(unit, true) => _ = heard.evacuated.insert(unit),
                Step::Unit(unit, false) => _ = heard.evacuated.remove(&unit),
            }
        }
        heard.steps = heard.steps.max(steps);
        drop(heard);
        if let Some(life) = self.relays[relay].life_number() {
            self.input(relay, life, Input::Routes);
        }
        for (key, frozen) in asks {
            self.ask_owner(&key, frozen);
        }
    }

    /// A relay has started, or hears again: it learns what there is in time.
    pub(super) fn hear_again(&mut self, relay: usize) {
        if self.plan.outages {
            let (time, steps) = (self.dice.u64(10_000..800_000), self.moves.steps.len());
            self.plan_in(time, WorldEvent::Move(Event::Hear(relay, steps)));
        }
    }

    /// Asks the owner of a key that is about to move whether something of it is left, now and then again.
    fn ask_owner(&mut self, key: &str, frozen: usize) {
        let Some(open) = self.moves.open.get_mut(key).filter(|open| open.frozen == frozen) else {
            return;
        };
        let (relay, before) = (open.from, open.ticket);
        self.tickets += 1;
        open.ticket = self.tickets;
        self.moves.tickets.insert(self.tickets, key.to_owned());
        let ticket = |number| Ticket { shard: 1, number };
        if let Some(life) = self.relays[relay].life_number() {
            if before > 0 {
                self.input(relay, life, Input::Withdraw(ticket(before)));
            }
            let question = Question {
                ticket: ticket(self.moves.open[key].ticket),
                keys: Arc::new(Just(key.to_owned())),
                at_most: 0,
            };
            self.input(relay, life, Input::Ask(question));
        }
        let time = self.dice.u64(300_000..1_500_000);
        self.plan_in(time, WorldEvent::Move(Event::Ask(key.to_owned(), frozen)));
    }

    /// Nothing of a key is left: it gets its new owner.
    pub(super) fn on_none_left(&mut self, ticket: Ticket, messages: u64) {
        let key = self.moves.tickets.get(&ticket.number).cloned();
        let open = key.and_then(|key| Some((key.clone(), self.moves.open.get(&key)?)));
        let Some((key, to)) = open
            .filter(|(_, open)| open.ticket == ticket.number)
            .map(|(key, open)| (key, open.to))
        else {
            return;
        };
        if messages > 0 {
            return self
                .ledger
                .blame(format!("{messages} messages are left though none should be"));
        }
        self.moves.open.remove(&key);
        self.moves.done += 1;
        self.take_step(&key, to, false);
    }
}

/// By which all keys are owned at the beginning. Not the lowest: that one is of provisional owners, no store gives it.
const FIRST_EPOCH: u64 = 2;
