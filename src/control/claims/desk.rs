//! The state machine of the desk. Pure: time is an argument, and so are dice.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::batches::{Answer, Batch, BatchId, Kind, Line};
use super::outage::Outage;
use super::{ClaimKey, Holder, Known, Limits, Outcome};
use crate::control::store::StoreError;
use crate::model::Name;
use crate::routing::record::{Claim, Epoch, KeyBytes, OpId};

/// Whoever asked: the caller's own number, another one for each question. Told exactly once.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Waiter(pub u64);

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// Who has this key?
    Read(Name, KeyBytes),
    /// I want this key.
    Write(Claim),
}

/// What the driver does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Ask the store, and bring the answer with this number.
    Send(BatchId, Batch),
    /// Tell a caller.
    Tell(Waiter, Outcome),
}

/// The claim desk of a relay. Times are on any clock that only goes forward.
pub struct Desk {
    limits: Limits,
    known: Known,
    /// Where the relay's copy of the routes is.
    applied: Epoch,
    flights: HashMap<ClaimKey, Flight>,
    lines: [Line; 2],
    /// By the time their patience ends.
    waiting: BTreeSet<(Duration, Waiter, ClaimKey)>,
    outage: Outage,
    next_batch: u64,
}

/// A key that the store is asked about (B1).
struct Flight {
    /// What is claimed; `None` while the key is only looked up.
    claim: Option<Claim>,
    /// The batch it is in; `None` while it waits for one.
    batch: Option<BatchId>,
    waiters: Vec<Caller>,
}

struct Caller {
    waiter: Waiter,
    /// Of a claim.
    op: Option<OpId>,
    until: Duration,
}

impl Desk {
    /// A desk that puts what it learns into `known`.
    pub fn new(limits: Limits, known: Known) -> Self {
        Self {
            limits,
            known,
            applied: Epoch::default(),
            flights: HashMap::new(),
            lines: [Line::new(Kind::Claim), Line::new(Kind::LookUp)],
            waiting: BTreeSet::new(),
            outage: Outage::default(),
            next_batch: 0,
        }
    }

    /// The relay's copy of the routes is there now.
    pub fn applied(&mut self, epoch: Epoch) {
        self.applied = epoch;
    }

    /// A caller asks, and waits until `until` at most. An answer that needs no store is returned at once; then the waiter is
    /// not told.
    pub fn ask(&mut self, ask: Ask, waiter: Waiter, until: Duration, now: Duration) -> Option<Outcome> {
        let (key, claim) = match ask {
            Ask::Read(dimension, key) => ((dimension, key), None),
            Ask::Write(claim) => ((claim.dimension.clone(), claim.key.clone()), Some(claim)),
        };
        let op = claim.as_ref().map(|claim| claim.op);
        // A store that was restored from a backup may have forgotten what was heard before.
        let in_time = |holder: &Holder| holder.as_of.incarnation() >= self.applied.incarnation();
        if let Some(holder) = self.known.find(&key).filter(in_time) {
            return Some(outcome(holder, op));
        }
        if claim.is_none() && self.known.is_free(&key, now) {
            return Some(Outcome::Free);
        }
        if until <= now {
            return Some(Outcome::Away);
        }
        if self.is_full() {
            return Some(Outcome::Full);
        }
        if claim.is_some() {
            self.known.is_wanted(&key);
        }
        self.waiting.insert((until, waiter, key.clone()));
        let caller = Caller { waiter, op, until };
        self.board(key, claim, caller, now);
        None
    }

    /// What the store answered to a batch. It may be late, or come twice.
    pub fn answered(&mut self, id: BatchId, answer: Answer, now: Duration, dice: u64, out: &mut Vec<Output>) {
        match &answer {
            Answer::Failed(StoreError::Away(_)) => self.outage.failed(now),
            // Late, or a refusal: it is there.
            _ => self.outage.answered(),
        }
        let batch = self.lines.iter_mut().find_map(|line| {
            let batch = line.finish(id)?;
            match &answer {
                Answer::Failed(error) if is_temporary(error) => line.on_failed(now, &self.limits),
                _ => line.on_answered(),
            }
            Some(batch)
        });
        // An answer to a batch that was given up says what it says as of the claim itself.
        let (keys, as_of) = batch.map(|batch| (batch.keys, batch.as_of)).unwrap_or_default();
        match answer {
            Answer::Claimed(claims) => self.on_holders(claims, as_of, out),
            Answer::Found(found) => {
                let free = keys.iter().zip(&found).filter(|(_, found)| found.is_none());
                for (at, (key, _)) in (1_u64..).zip(free) {
                    self.on_free(key, id, now, dice.wrapping_mul(at), out);
                }
                self.on_holders(found.into_iter().flatten(), as_of, out);
            }
            Answer::Failed(error) if is_temporary(&error) => {}
            Answer::Failed(error) => self.on_denied(&keys, id, &error, out),
        }
        self.again(keys, id, now);
    }

    /// Time has passed: sends what is due, and tells those whose patience is over.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.give_up(now, out);
        for at in 0..self.lines.len() {
            while let Some((id, batch)) = self.overdue(at, now) {
                self.again(batch, id, now);
            }
            while let Some(keys) = self.lines.get_mut(at).and_then(|line| line.due(now, &self.limits)) {
                self.send(at, keys, now, out);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn wake_at(&self) -> Option<Duration> {
        let lines = self.lines.iter().filter_map(|line| line.wake_at(&self.limits));
        let patience = self.waiting.first().map(|(until, ..)| *until);
        lines.chain(patience).min()
    }

    /// Whether the store is away: it does not answer, and has not for [`Limits::away_after`]. `heard`: when anything else of this
    /// relay heard of it last.
    pub fn is_away(&self, heard: Duration, now: Duration) -> bool {
        self.outage.is_on(heard, now, self.limits.away_after)
    }

    /// Nothing is asked any more about a key (B6); those who wait for it are told that the store is away. What was sent may be done
    /// all the same.
    pub fn withdraw(&mut self, key: &ClaimKey, out: &mut Vec<Output>) {
        self.land(key, out, |_| Outcome::Away);
    }

    /// Who has which key, as far as is known: where to look before asking.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// How many callers wait.
    pub fn waiters(&self) -> usize {
        self.waiting.len()
    }

    /// Keys of callers that have left count too until the store has answered, or would be sent anew.
    fn is_full(&self) -> bool {
        let load: usize = self.lines.iter().map(Line::load).sum();
        self.waiting.len() >= self.limits.waiters_max || load >= self.limits.waiters_max.saturating_mul(2)
    }

    fn board(&mut self, key: ClaimKey, claim: Option<Claim>, caller: Caller, now: Duration) {
        let kind = if claim.is_some() { Kind::Claim } else { Kind::LookUp };
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.waiters.push(caller);
            // Readers wait for the claim of a writer; a claim that is under way is that of the first one.
            if flight.claim.is_some() || claim.is_none() {
                return;
            }
            flight.claim = claim;
            flight.batch = None;
        } else {
            let flight = Flight {
                claim,
                batch: None,
                waiters: vec![caller],
            };
            self.flights.insert(key.clone(), flight);
        }
        self.queue(kind, key, now);
    }

    fn queue(&mut self, kind: Kind, key: ClaimKey, now: Duration) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.kind() == kind) {
            line.push(key, now);
        }
    }

    fn overdue(&mut self, at: usize, now: Duration) -> Option<(BatchId, Vec<ClaimKey>)> {
        let line = self.lines.get_mut(at)?;
        let (id, batch) = line.overdue(now, &self.limits)?;
        line.on_failed(now, &self.limits);
        self.outage.failed(now);
        Some((id, batch.keys))
    }

    /// Keys that are still in this batch wait for another one: it said nothing about them (B4).
    fn again(&mut self, keys: Vec<ClaimKey>, id: BatchId, now: Duration) {
        for key in keys {
            let Some(flight) = self.flights.get_mut(&key).filter(|flight| flight.batch == Some(id)) else {
                continue;
            };
            flight.batch = None;
            let kind = flight.kind();
            self.queue(kind, key, now);
        }
    }

    fn send(&mut self, at: usize, keys: Vec<ClaimKey>, now: Duration, out: &mut Vec<Output>) {
        let Some(line) = self.lines.get_mut(at) else { return };
        let id = BatchId(self.next_batch);
        let (mut sent, mut claims) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            // A key that was answered meanwhile, or that is claimed instead of looked up, has no business here any more.
            let flight = self.flights.get_mut(&key);
            let flight = flight.filter(|flight| flight.kind() == line.kind() && flight.batch.is_none());
            let Some(flight) = flight else { continue };
            flight.batch = Some(id);
            claims.extend(flight.claim.clone());
            sent.push(key);
        }
        if sent.is_empty() {
            return;
        }
        self.next_batch += 1;
        let batch = match line.kind() {
            Kind::Claim => Batch::Claim(claims),
            Kind::LookUp => Batch::LookUp(sent.clone()),
        };
        line.sent(id, sent, self.applied, now);
        out.push(Output::Send(id, batch));
    }

    fn on_holders(&mut self, claims: impl IntoIterator<Item = Claim>, as_of: Epoch, out: &mut Vec<Output>) {
        for claim in claims {
            let key = (claim.dimension.clone(), claim.key.clone());
            let holder = Holder::new(claim, as_of);
            self.known.insert(&key, holder.clone());
            self.land(&key, out, |caller| outcome(holder.clone(), caller.op));
        }
    }

    /// Nobody has a key; believed only if it is this question that is open (B2).
    fn on_free(&mut self, key: &ClaimKey, id: BatchId, now: Duration, dice: u64, out: &mut Vec<Output>) {
        let flight = self.flights.get(key);
        if flight.is_some_and(|flight| flight.claim.is_none() && flight.batch == Some(id)) {
            self.known.set_free(key, now, dice, &self.limits);
            self.land(key, out, |_| Outcome::Free);
        }
    }

    fn on_denied(&mut self, keys: &[ClaimKey], id: BatchId, error: &StoreError, out: &mut Vec<Output>) {
        for key in keys {
            if self.flights.get(key).is_some_and(|flight| flight.batch == Some(id)) {
                self.land(key, out, |_| Outcome::Denied(error.to_string()));
            }
        }
    }

    /// The question about a key is over: all who wait for it are told.
    fn land(&mut self, key: &ClaimKey, out: &mut Vec<Output>, outcome: impl Fn(&Caller) -> Outcome) {
        for caller in self.flights.remove(key).into_iter().flat_map(|flight| flight.waiters) {
            self.waiting.remove(&(caller.until, caller.waiter, key.clone()));
            out.push(Output::Tell(caller.waiter, outcome(&caller)));
        }
    }

    fn give_up(&mut self, now: Duration, out: &mut Vec<Output>) {
        while self.waiting.first().is_some_and(|(until, ..)| *until <= now) {
            let Some((_, waiter, key)) = self.waiting.pop_first() else {
                return;
            };
            out.push(Output::Tell(waiter, Outcome::Away));
            let Some(flight) = self.flights.get_mut(&key) else {
                continue;
            };
            flight.waiters.retain(|caller| caller.waiter != waiter);
            // A claim that is under way may still be done; its answer is remembered when it comes.
            if flight.waiters.is_empty() {
                self.flights.remove(&key);
            }
        }
    }
}

impl Flight {
    fn kind(&self) -> Kind {
        if self.claim.is_some() {
            Kind::Claim
        } else {
            Kind::LookUp
        }
    }
}

/// Whoever has the key by the caller's own operation has won it, at whichever attempt (R-I5).
fn outcome(holder: Holder, op: Option<OpId>) -> Outcome {
    if op == Some(holder.op) {
        Outcome::Won(holder)
    } else {
        Outcome::Lost(holder)
    }
}

/// Whether the same question may be answered a moment later.
fn is_temporary(error: &StoreError) -> bool {
    !matches!(error, StoreError::Denied(_))
}
