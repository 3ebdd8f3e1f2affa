//! Redrives at work: dead letters on their way back (M-F).
//!
//! # Invariants
//! - R1. A letter is on its way back at most once; it is a dead letter until the record that moves it is on disk (T1).
//! - R2. A task that begins again after a restart looks at all its letters again: those it moved are none any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Engine;
use super::upkeep::Level;
use crate::model::{Message, Seq, UnixMillis};
use crate::queue::codec;
use crate::queue::dead::redrive::{State, Task, Tasks};
use crate::queue::effects::Now;
use crate::queue::jobs::filter::Matcher;
use crate::queue::jobs::slice;
use crate::queue::line::LineId;
use crate::queue::log::Scanned;
use crate::queue::operator::{Answer, RedriveRequest};
use crate::queue::record::{DeadLetter, DeadSource, Kept, Pausable, Record, Stored};
use crate::queue::{Owner, TopicSettings};

/// Letters on their way back.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Letters, and the task of each.
    letters: BTreeMap<Seq, u64>,
    /// Tasks that wait for a read.
    reading: BTreeSet<u64>,
    /// Tasks that wait until then: a place was full.
    until: BTreeMap<u64, Duration>,
}

/// What becomes of a letter.
enum Fate {
    Moved,
    /// It stays; the task goes on.
    Stays,
    /// Not now.
    Wait(Duration),
    /// The task cannot go on.
    Fail(String),
}

impl Engine {
    pub(super) fn redrive(&mut self, now: Now, request: RedriveRequest, who: String) -> Result<Answer, String> {
        Matcher::new(&request.filter)?;
        if !(request.rate.is_finite() && request.rate >= 0.0) {
            return Err("the rate is a number of messages per second; zero is no limit".to_owned());
        }
        if !self.tasks.has_room() {
            return Err("too many redrives are under way; wait for one, or cancel one".to_owned());
        }
        tracing::info!(who, ?request.rate, request.limit, request.dry_run, "an operator redrives dead letters");
        let task = self.tasks.start(request, who, now.wall, self.dead.last());
        let (number, status) = (task.number, task.status(now.mono));
        self.keep_task(number);
        Ok(Answer::Redrives { tasks: vec![status] })
    }

    pub(super) fn redrives(&self, now: Now) -> Answer {
        let tasks = self.tasks.iter().rev().map(|task| task.status(now.mono));
        Answer::Redrives { tasks: tasks.collect() }
    }

    pub(super) fn cancel_redrive(&mut self, now: Now, number: u64, who: &str) -> Result<Answer, String> {
        let task = self.tasks.task(number).filter(|task| !task.has_ended());
        let task = task.ok_or_else(|| format!("no redrive {number} is under way; see the list of redrives"))?;
        task.state = State::Cancelled;
        let status = task.status(now.mono);
        tracing::info!(
            who,
            task = number,
            moved = status.moved,
            "an operator cancelled a redrive"
        );
        self.pauses.remove(&Pausable::Redrive { task: number });
        self.keep_task(number);
        Ok(Answer::Redrives { tasks: vec![status] })
    }

    /// Writes the state of a task down.
    pub(super) fn keep_task(&mut self, number: u64) {
        if let Some(task) = self.tasks.task(number) {
            let kept = Kept::Task(task.to_bytes());
            self.journal.push(Record::Kept(Box::new(kept)));
        }
    }

    /// Asks for the next letters of tasks that have room for them. Returns when there is more to do.
    pub(super) fn run_tasks(&mut self, now: Now) -> Option<Duration> {
        let mut wake = None;
        for number in self.tasks.running() {
            let again = self.run_task(now, number);
            wake = wake.into_iter().chain(again).min();
        }
        wake
    }

    fn run_task(&mut self, now: Now, number: u64) -> Option<Duration> {
        let under_way = self.moves.letters.values().filter(|task| **task == number).count();
        if self.moves.reading.contains(&number) || under_way > 0 || !self.journal.may_try(now.mono) {
            return None;
        }
        if let Some(until) = self.moves.until.get(&number).copied().filter(|until| *until > now.mono) {
            return Some(until);
        }
        self.moves.until.remove(&number);
        let level = self.upkeep.level();
        let first = self.dead.first();
        let task = self.tasks.task(number)?;
        task.next = first.map_or(task.end + 1, |first| task.next.max(first));
        if task.state == State::Moving && task.next <= task.end {
            let wait = match task.room(now.mono, 1) {
                Ok(0) => {
                    task.next = task.end + 1;
                    None
                }
                Ok(_) => (level == Level::Full).then_some(FULL_PAUSE),
                Err(wait) => Some(wait),
            };
            if let Some(wait) = wait {
                return Some(now.mono + wait.max(Duration::from_millis(1)));
            }
        }
        if task.next > task.end {
            task.on_end_reached();
            let state = task.state;
            self.keep_task(number);
            if state == State::Done {
                tracing::info!(task = number, "a redrive is done");
            }
            return Some(now.mono);
        }
        let scan = slice(LineId::dead_letters(), task.next);
        self.moves.reading.insert(number);
        self.read_for(TASK_JOBS + number, scan);
        None
    }

    /// Letters for a task were read.
    pub(super) fn on_task_read(&mut self, now: Now, number: u64, result: Result<Scanned, String>) {
        self.moves.reading.remove(&number);
        let Some(task) = self.tasks.task(number) else {
            return;
        };
        let Ok(scanned) = result else {
            self.moves.until.insert(number, now.mono + FULL_PAUSE);
            return;
        };
        if task.has_ended() || task.pause.is_some() {
            return;
        }
        let Ok(matcher) = Matcher::new(&task.request.filter) else {
            return task.fail("the filter cannot be read".to_owned());
        };
        let (end, counting) = (task.end, task.state == State::Counting);
        let mut next = scanned.next.unwrap_or(end + 1);
        for (seq, found) in scanned.found {
            if seq > end {
                break;
            }
            let Ok(Record::Dead(letter)) = codec::decode(found.kind, found.content) else {
                continue;
            };
            let free = self.dead.contains(seq) && !self.moves.letters.contains_key(&seq);
            if !free || !matcher.fits_letter(&letter) {
                continue;
            }
            let fate = if counting {
                self.count(number, &letter)
            } else {
                self.move_letter(now, number, *letter)
            };
            match fate {
                Fate::Moved | Fate::Stays => {}
                Fate::Wait(pause) => {
                    self.moves.until.insert(number, now.mono + pause);
                    next = seq;
                    break;
                }
                Fate::Fail(reason) => {
                    if let Some(task) = self.tasks.task(number) {
                        task.fail(reason);
                    }
                    return self.keep_task(number);
                }
            }
        }
        if let Some(task) = self.tasks.task(number) {
            task.next = next;
        }
    }

    fn count(&mut self, number: u64, letter: &DeadLetter) -> Fate {
        let topic = &letter.message.topic;
        let ordered = TopicSettings::of(&self.setup.topics, topic).is_none_or(|settings| settings.ordered);
        let Some(task) = self.tasks.task(number) else {
            return Fate::Stays;
        };
        if ordered && letter.message.key.is_some() && !task.request.allow_reorder && !task.request.dry_run {
            return Fate::Fail(format!(
                "topic {topic} keeps the order of its keys, and redriven messages come behind later ones: allow that \
                 with allow_reorder (--allow-reorder), or filter by topic"
            ));
        }
        task.found += 1;
        Fate::Stays
    }

    fn move_letter(&mut self, now: Now, number: u64, letter: DeadLetter) -> Fate {
        let topics = std::sync::Arc::clone(&self.setup.topics);
        let redrives_max = self.setup.queue.dead_letters.redrives_max;
        let Some(task) = self.tasks.task(number) else {
            return Fate::Stays;
        };
        match task.room(now.mono, SLICE_MAX) {
            Ok(0) => return Fate::Wait(Duration::ZERO),
            Ok(_) => {}
            Err(wait) => return Fate::Wait(wait),
        }
        let mut message = letter.message;
        if task.request.extend_ttl_seconds > 0 {
            let millis = task.request.extend_ttl_seconds.saturating_mul(1000);
            message.deadline = Some(UnixMillis(now.wall.0.saturating_add(millis)));
        }
        let settings = TopicSettings::of(&topics, &message.topic);
        let hopeless = message.redrives >= redrives_max || message.is_expired(now.wall);
        let (Some(settings), false, false) = (settings, hopeless, letter.at == DeadSource::None) else {
            task.failed += 1;
            return Fate::Stays;
        };
        if let Some(fate) = self.belongs_elsewhere(&message, &letter.at) {
            if let (Fate::Stays, Some(task)) = (&fate, self.tasks.task(number)) {
                task.failed += 1;
            }
            return fate;
        }
        message.redrives += 1;
        let Some(stored) = self.place_again(message, settings, letter.at, letter.seq) else {
            return Fate::Wait(FULL_PAUSE);
        };
        if let Some(task) = self.tasks.task(number) {
            task.on_moved();
        }
        self.moves.letters.insert(letter.seq, number);
        self.journal.push(Record::Stored(Box::new(stored)));
        Fate::Moved
    }

    /// What becomes of a letter of a group whose key is about to move, or is another unit's: there it would be delivered beside the
    /// owner, so it stays.
    fn belongs_elsewhere(&self, message: &Message, at: &DeadSource) -> Option<Fate> {
        if message.routed == 0 || !matches!(at, DeadSource::Group(..)) {
            return None;
        }
        match self.setup.neighbours.owner(message) {
            Owner::Frozen => Some(Fate::Wait(FULL_PAUSE)),
            Owner::Other { .. } => Some(Fate::Stays),
            Owner::Ours | Owner::Settings(_) | Owner::Unknown => None,
        }
    }

    /// A message with a number where it was before; `None` if there is no room for it.
    fn place_again(
        &mut self,
        message: Message,
        settings: &TopicSettings,
        at: DeadSource,
        letter: Seq,
    ) -> Option<Stored> {
        let (topic, bytes) = (message.topic.clone(), message.bytes());
        let mut stored = Stored {
            message,
            from: None,
            outs: Vec::new(),
            inbox: None,
            only: None,
            redriven: Some(letter),
            rerouted: None,
            mirror: None,
        };
        match at {
            DeadSource::None => return None,
            DeadSource::Outbox(unit, _) => {
                let outbox = self.places.outbox(&unit, &self.setup);
                outbox.admit(&topic, settings, bytes).ok()?;
                let seq = outbox.assign();
                stored.outs.push((unit, seq));
            }
            DeadSource::Group(group, _) => {
                let inbox = &mut self.places.inbox;
                inbox.admit(&topic, settings, bytes).ok()?;
                stored.inbox = Some(inbox.assign(&topic));
                stored.only = Some(group);
            }
        }
        Some(stored)
    }

    /// A letter has left, as the disk says.
    pub(super) fn on_letter_moved(&mut self, letter: Seq) {
        let Some(number) = self.moves.letters.remove(&letter) else {
            return;
        };
        if !self.moves.letters.values().any(|task| *task == number) {
            self.keep_task(number);
        }
    }

    /// The disk failed: letters on their way back are where they were.
    pub(super) fn forget_moves(&mut self) {
        for (seq, number) in std::mem::take(&mut self.moves.letters) {
            if let Some(task) = self.tasks.task(number) {
                task.moved = task.moved.saturating_sub(1);
                task.next = task.next.min(seq);
            }
        }
    }
}

impl Task {
    /// For a record.
    fn to_bytes(&self) -> Vec<u8> {
        // Writing to a vector fails for no value of ours.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Tasks {
    /// A task as a record has it.
    pub(super) fn on_kept(&mut self, bytes: &[u8]) {
        match serde_json::from_slice::<Task>(bytes) {
            Ok(task) => self.put_again(task),
            Err(error) => tracing::error!(%error, "a redrive cannot be read; start it again"),
        }
    }

    /// A task after a restart begins where it began (R2).
    pub(super) fn put_again(&mut self, mut task: Task) {
        if !task.has_ended() {
            task.begin_again();
        }
        self.put(task);
    }
}

/// Jobs with such numbers are tasks.
pub(super) const TASK_JOBS: u64 = 1 << 48;
/// Pause of a task that finds no room.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Letters that a task moves at a time.
const SLICE_MAX: u32 = 1024;
