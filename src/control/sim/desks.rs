//! What a relay knows of claims and tokens, and the driver of its claim desk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::World;
use super::calls::Call;
use super::relay::{Asked, Input, Life};
use super::store::{Answer, Ask};
use crate::control::claims::{self, Ask as Wanted, Batch, BatchId, Known as Cache, Outcome, Output, Waiter};
use crate::control::store::StoreError;
use crate::model::Name;
use crate::routing::record::{Claim, Epoch, Target};
use crate::routing::token::Text;
use crate::routing::{Evidence, Found, KeyHash, Known};

/// Who waits at the desk, and where the copy was when a key was asked about.
#[derive(Default)]
pub(super) struct Heard {
    waiting: BTreeMap<u64, (usize, Option<u64>)>,
    asked_at: BTreeMap<usize, Epoch>,
    looking: BTreeSet<usize>,
    last: u64,
}

/// What is known of one key.
pub(super) struct Knows {
    token: Option<Known>,
    claims: Cache,
    asked_at: Epoch,
}

impl Evidence for Knows {
    fn token(&self, dimension: &Name, _: &[u8]) -> Option<Known> {
        self.token.clone().filter(|_| dimension.as_str() == "cid")
    }

    fn claim(&self, _: &Name, _: &[u8], hash: KeyHash) -> Found {
        let holder = self.claims.get(hash);
        holder.map_or(Found::Unasked, |holder| {
            Found::Known(Known {
                target: holder.target,
                base: holder.base,
                as_of: self.asked_at,
            })
        })
    }
}

impl World {
    /// What a relay knows of a key besides its copy.
    pub(super) fn evidence(&mut self, life: Life, subject: usize, token: Option<Text>) -> Knows {
        let token = token.and_then(|text| self.open_token(life, subject, &text));
        let running = self.at(life);
        Knows {
            token,
            claims: running.desk.known().clone(),
            asked_at: running.heard.asked_at.get(&subject).copied().unwrap_or_default(),
        }
    }

    /// A call claims its key.
    pub(super) fn claim_for(&mut self, life: Life, id: u64) {
        let Call { subject, op, .. } = self.at(life).calls[&id].clone();
        if std::mem::replace(&mut self.at(life).calls.get_mut(&id).unwrap().asked, true) {
            return;
        }
        let of = self.subjects[subject].clone();
        let here = self.relays[life.relay].unit().clone();
        let target = match self.dice.u8(..4) {
            0 => Target::Follow(super::keys::name("org")),
            1 => Target::Group {
                dimension: super::keys::name("org"),
                key: of.company.as_str().into(),
            },
            _ => Target::Unit(here.clone()),
        };
        let claim = Claim {
            dimension: of.dimension.clone(),
            key: of.bytes(),
            target,
            base: Epoch(self.at(life).table.version()),
            op,
            by: here,
        };
        self.ask_desk(life, subject, Some(id), Wanted::Write(claim));
    }

    /// Somebody else's call: who has its key?
    pub(super) fn look_up(&mut self, life: Life, subject: usize) {
        if self.at(life).heard.looking.insert(subject) {
            let of = self.subjects[subject].clone();
            let read = Wanted::Read(of.dimension.clone(), of.bytes());
            self.ask_desk(life, subject, None, read);
        }
    }

    fn ask_desk(&mut self, life: Life, subject: usize, call: Option<u64>, wanted: Wanted) {
        let now = self.relays[life.relay].clock(self.now);
        let running = self.at(life);
        let epoch = Epoch(running.table.version());
        running.heard.asked_at.entry(subject).or_insert(epoch);
        running.heard.last += 1;
        let waiter = running.heard.last;
        running.heard.waiting.insert(waiter, (subject, call));
        let outcome = running.desk.ask(wanted, Waiter(waiter), now + PATIENCE, now);
        match outcome {
            Some(outcome) => self.told(life, waiter, &outcome),
            None => self.plan_for(life, 2_000, Input::Desk),
        }
    }

    pub(super) fn on_desk(&mut self, life: Life) {
        let now = self.relays[life.relay].clock(self.now);
        let mut out = Vec::new();
        self.at(life).desk.tick(now, &mut out);
        self.do_outputs(life, out);
    }

    pub(super) fn on_desk_answer(&mut self, life: Life, batch: BatchId, answer: Answer) {
        let now = self.relays[life.relay].clock(self.now);
        let answer = match answer {
            Answer::Claimed(claims) => claims::Answer::Claimed(claims),
            Answer::Found(found) => claims::Answer::Found(found),
            Answer::Failed(error) => claims::Answer::Failed(error),
            _ => claims::Answer::Failed(StoreError::Broken("another answer".to_owned())),
        };
        let (dice, mut out) = (self.dice.u64(..), Vec::new());
        self.at(life).desk.answered(batch, answer, now, dice, &mut out);
        self.do_outputs(life, out);
    }

    fn do_outputs(&mut self, life: Life, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(id, Batch::Claim(claims)) => {
                    self.ask_store(life, Asked::Batch(id), Ask::Claim(claims));
                }
                Output::Send(id, Batch::LookUp(keys)) => {
                    self.ask_store(life, Asked::Batch(id), Ask::Claims(keys));
                }
                Output::Tell(Waiter(waiter), outcome) => self.told(life, waiter, &outcome),
            }
        }
    }

    fn told(&mut self, life: Life, waiter: u64, outcome: &Outcome) {
        let Some((subject, call)) = self.at(life).heard.waiting.remove(&waiter) else {
            return;
        };
        if call.is_none() {
            self.at(life).heard.looking.remove(&subject);
        }
        if let Outcome::Won(holder) | Outcome::Lost(holder) = outcome {
            self.witness.on_told(subject, holder);
        }
        let Some(id) = call else { return };
        if let Some(call) = self.at(life).calls.get_mut(&id) {
            call.asked = false;
            self.on_look(life, id);
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
