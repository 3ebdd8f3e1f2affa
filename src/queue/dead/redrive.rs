//! Redrives: tasks that take dead letters back to where they were (M-F).
//!
//! A task first counts what fits, then moves it at its rate. Its state is a record, so that it goes on after a restart;
//! what was moved by then is no dead letter any more.
//!
//! # Invariants
//! - T1. A letter is moved by one record: its message is stored again and the letter is gone (R3).
//! - T2. Without leave to reorder nothing is moved if a message of an ordered topic fits (M-C4).
//! - T3. The rate holds from the moment the task runs; a pause or a restart saves up nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Seq, UnixMillis};
use crate::queue::operator::{RedriveRequest, RedriveStatus};
use crate::queue::record::Pause;

/// All tasks that are known.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: BTreeMap<u64, Task>,
    last: u64,
}

/// A redrive.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Task {
    /// Its number.
    pub number: u64,
    /// What was asked.
    pub request: RedriveRequest,
    /// Who asked.
    pub who: String,
    /// When.
    pub started: u64,
    /// What it does.
    pub state: State,
    /// The next letter to look at.
    pub next: Seq,
    /// The last letter to look at: the last one when it started.
    pub end: Seq,
    /// Letters that fit, as far as they were counted.
    pub found: u64,
    /// Letters that were moved.
    pub moved: u64,
    /// Letters that fit and were not moved.
    pub failed: u64,
    /// Why it failed.
    pub reason: String,
    /// Its pause.
    pub pause: Option<Pause>,
    #[serde(skip)]
    pace: Pace,
}

/// What a task does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum State {
    /// It looks what fits.
    Counting,
    /// It moves.
    Moving,
    /// Nothing more.
    Done,
    /// Nothing more: an operator ended it.
    Cancelled,
    /// Nothing more: it cannot be done.
    Failed,
}

/// What the rate has room for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pace {
    since: Option<Duration>,
    at: Duration,
    room: f64,
    /// Letters moved in the last seconds, for the status.
    recent: f64,
}

impl Tasks {
    /// A new one over all letters up to `end`.
    pub fn start(&mut self, request: RedriveRequest, who: String, now: UnixMillis, end: Seq) -> &mut Task {
        self.last += 1;
        let task = Task {
            number: self.last,
            who,
            started: now.0,
            state: State::Counting,
            next: request.filter.from_seq.unwrap_or(1).max(1),
            end: request.filter.to_seq.unwrap_or(end).min(end),
            request,
            found: 0,
            moved: 0,
            failed: 0,
            reason: String::new(),
            pause: None,
            pace: Pace::default(),
        };
        self.put(task)
    }

    /// A task as a record or a checkpoint holds it.
    pub fn put(&mut self, task: Task) -> &mut Task {
        self.last = self.last.max(task.number);
        let number = task.number;
        while self.tasks.len() >= TASKS_MAX {
            let ended = self.tasks.values().find(|task| task.has_ended());
            let Some(number) = ended.map(|task| task.number) else {
                break;
            };
            self.tasks.remove(&number);
        }
        let place = self.tasks.entry(number).or_insert_with(|| task.clone());
        *place = task;
        place
    }

    /// A task.
    pub fn task(&mut self, number: u64) -> Option<&mut Task> {
        self.tasks.get_mut(&number)
    }

    /// All, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Task> {
        self.tasks.values()
    }

    /// Those that have something to do: not ended, not paused.
    pub fn running(&self) -> Vec<u64> {
        let running = self
            .tasks
            .values()
            .filter(|task| !task.has_ended() && task.pause.is_none());
        running.map(|task| task.number).collect()
    }

    /// Whether one more may be started.
    pub fn has_room(&self) -> bool {
        self.tasks.values().filter(|task| !task.has_ended()).count() < RUNNING_MAX
    }
}

impl Task {
    /// Whether it does nothing more.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Done | State::Cancelled | State::Failed)
    }

    /// It has looked at all letters: what it does next.
    pub fn on_end_reached(&mut self) {
        self.state = match self.state {
            State::Counting if !self.request.dry_run => {
                self.next = self.request.filter.from_seq.unwrap_or(1).max(1);
                State::Moving
            }
            _ => State::Done,
        };
    }

    /// All letters are looked at again, after a restart.
    pub fn begin_again(&mut self) {
        self.next = self.request.filter.from_seq.unwrap_or(1).max(1);
        self.failed = 0;
        if self.state == State::Counting {
            self.found = 0;
        }
    }

    /// It cannot be done.
    pub fn fail(&mut self, reason: String) {
        self.state = State::Failed;
        self.reason = reason;
    }

    /// Letters that may be moved at once, at most `max`.
    ///
    /// # Errors
    /// How long there is no room.
    pub fn room(&mut self, mono: Duration, max: u32) -> Result<u32, Duration> {
        let left = match self.request.limit {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.moved),
        };
        let max = u64::from(max).min(left);
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        if self.request.rate <= 0.0 {
            return Ok(max);
        }
        let since = *self.pace.since.get_or_insert(mono);
        let rate = self.rate_at(mono.saturating_sub(since));
        let passed = mono.saturating_sub(self.pace.at.max(since)).as_secs_f64();
        // A twentieth of a second's worth may go at once: the task does not run more often.
        self.pace.room = (self.pace.room + passed * rate).min((rate / 20.0).max(1.0));
        self.pace.at = mono;
        if self.pace.room < 1.0 {
            return Err(Duration::from_secs_f64(((1.0 - self.pace.room) / rate).min(1.0)));
        }
        // At most `max`, before it becomes a time: a rate may be larger than the longest one.
        let room = Duration::from_secs_f64(self.pace.room.min(f64::from(max))).as_secs();
        Ok(u32::try_from(room).unwrap_or(max))
    }

    /// A letter was moved.
    pub fn on_moved(&mut self) {
        self.moved += 1;
        self.pace.room -= 1.0;
        self.pace.recent += 1.0;
    }

    /// It does not run for a while: nothing is saved up meanwhile.
    pub fn stand_still(&mut self) {
        self.pace = Pace::default();
    }

    /// Letters that are still to move, about.
    pub fn remaining(&self) -> u64 {
        let found = match self.request.limit {
            0 => self.found,
            limit => self.found.min(limit),
        };
        if self.has_ended() {
            return 0;
        }
        found.saturating_sub(self.moved + self.failed)
    }

    /// For operators.
    pub fn status(&self, mono: Duration) -> RedriveStatus {
        let state = match (self.state, &self.pause) {
            (State::Done, _) => "done",
            (State::Cancelled, _) => "cancelled",
            (State::Failed, _) => "failed",
            (_, Some(_)) => "paused",
            (State::Counting | State::Moving, None) => "running",
        };
        let rate = match (state, self.pace.since) {
            ("running", Some(since)) if self.request.rate > 0.0 => self.rate_at(mono.saturating_sub(since)),
            ("running", Some(since)) => self.pace.recent / mono.saturating_sub(since).as_secs_f64().max(1.0),
            _ => 0.0,
        };
        let remaining = if self.request.dry_run {
            self.found
        } else {
            self.remaining()
        };
        let eta = |rate: f64| Duration::try_from_secs_f64(f64::from(small(remaining)) / rate).ok();
        let reason = match &self.pause {
            Some(pause) if !self.has_ended() => pause.reason.clone(),
            _ => self.reason.clone(),
        };
        RedriveStatus {
            task: self.number,
            state: state.to_owned(),
            moved: self.moved,
            remaining,
            failed: self.failed,
            rate,
            started: self.started,
            eta_seconds: (rate > 0.0).then(|| eta(rate).map(|eta| eta.as_secs())).flatten(),
            request: self.request.clone(),
            who: self.who.clone(),
            reason,
        }
    }

    fn rate_at(&self, running: Duration) -> f64 {
        let (rate, ramp) = (self.request.rate, self.request.ramp_seconds);
        if ramp == 0 || rate <= 1.0 {
            return rate;
        }
        let share = (running.as_secs_f64() / f64::from(small(ramp))).min(1.0);
        1.0 + (rate - 1.0) * share
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Tasks that are remembered.
const TASKS_MAX: usize = 100;
/// Tasks that run at a time.
const RUNNING_MAX: usize = 8;
