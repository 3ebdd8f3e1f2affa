//! What operators ask for: at once what is short; what is long becomes a job.
//!
//! # Invariants
//! - O1. Each command gets one last answer; progress may come before it.
//! - O2. Looking changes nothing (M-H1).
//! - O3. What an operator changes is written down and in the log of the process (M-H2, M-H3).

use super::Engine;
use super::upkeep::Level;
use crate::model::{GroupName, Topic, UnitId};
use crate::queue::api::{Output, Ticket};
use crate::queue::effects::Now;
use crate::queue::jobs::filter::key_of;
use crate::queue::operator::{Answer, Command, LimitValues, Status, UnitStatus};
use crate::queue::record::{Kept, Pausable, Pause, Record};
use crate::queue::{CALLS_TOPIC, Sync, TopicSettings};

impl Engine {
    pub(super) fn operate(&mut self, now: Now, ticket: Ticket, command: Command) {
        let answer = match command {
            Command::Status => Ok(Answer::Status(Box::new(self.status(now)))),
            Command::Redrives => Ok(self.redrives(now)),
            Command::Pause { what, pause, who } => self.pause(now, what, Some(pause), &who),
            Command::Resume { what, who } => self.pause(now, what, None, &who),
            Command::Limits {
                unit,
                topic,
                limits,
                who,
            } => self.limit(unit, topic, limits, &who),
            Command::RemoveGroup {
                topic,
                group,
                reason,
                dry_run,
                who,
            } => self.remove_group((topic, group), &reason, dry_run, &who),
            Command::Unblock { topic, group, key, who } => self.unblock(now, (&topic, &group), key.as_deref(), &who),
            Command::Redrive { request, who } => self.redrive(now, request, who),
            Command::CancelRedrive { task, who } => self.cancel_redrive(now, task, &who),
            long @ (Command::Audit | Command::Peek { .. } | Command::Purge { .. }) => {
                match self.begin_job(ticket, long) {
                    Ok(()) => return,
                    Err(detail) => Err(detail),
                }
            }
        };
        self.answer(ticket, answer.unwrap_or_else(|detail| Answer::Refused { detail }));
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.outputs.push_back(Output::Answer(ticket, Box::new(answer)));
    }

    /// How things stand.
    pub fn status(&self, now: Now) -> Status {
        Status {
            groups: self.places.inbox.status(now),
            ..self.status_but_groups(now)
        }
    }

    /// The same, without a look at each group.
    pub(super) fn status_but_groups(&self, now: Now) -> Status {
        let space = self.upkeep.space();
        let disk = match self.upkeep.level() {
            _ if self.journal.is_failing() => "failing",
            Level::Ok => "ok",
            Level::Low => "low",
            Level::Full => "full",
        };
        let durability = match self.setup.queue.sync {
            Sync::Group => "group",
            Sync::Buffered => "buffered",
        };
        Status {
            durability: durability.to_owned(),
            epoch: format!("{:016x}", self.places.epoch),
            bytes_used: space.used,
            bytes_max: self.setup.queue.bytes_max.as_u64(),
            segments: space.segments,
            disk: disk.to_owned(),
            units: self.unit_status(now),
            groups: Vec::new(),
            dead_letters: self.dead.len(),
            dead_letter_bytes: self.dead.bytes(),
            dead_by_reason: self.dead.by_reason(),
            damaged: self.damaged.clone(),
        }
    }

    fn unit_status(&self, now: Now) -> Vec<UnitStatus> {
        let outboxes = self.places.outboxes.iter();
        let status = outboxes.map(|(unit, outbox)| UnitStatus {
            counts_as_away: self.setup.neighbours.away.of(unit),
            ..outbox.status(now)
        });
        status.collect()
    }

    fn pause(&mut self, now: Now, what: Pausable, pause: Option<Pause>, who: &str) -> Result<Answer, String> {
        self.check_pausable(&what)?;
        let mut pause = pause;
        if let (Pausable::Calls { .. }, Some(pause)) = (&what, &mut pause) {
            check_away(now, pause)?;
            // Whoever looks is to know whom to ask.
            if !who.is_empty() {
                pause.reason = format!("{who}: {}", pause.reason);
            }
        }
        let reason = pause.as_ref().map(|pause| pause.reason.as_str());
        tracing::info!(
            who,
            ?what,
            paused = pause.is_some(),
            reason,
            "an operator changed a pause"
        );
        self.set_pause(&what, pause.clone());
        if let Pausable::Redrive { task } = what {
            self.keep_task(task);
        }
        self.journal.push(Record::Kept(Box::new(Kept::Pause { what, pause })));
        Ok(Answer::Done { messages: 0 })
    }

    fn check_pausable(&mut self, what: &Pausable) -> Result<(), String> {
        let known = match what {
            Pausable::Calls { unit } => self.setup.neighbours.geos.contains_key(unit),
            Pausable::Group { topic, group } => self.places.inbox.has_group(topic, group),
            Pausable::Redrive { task } => self.tasks.task(*task).is_some_and(|task| !task.has_ended()),
            Pausable::Topic { .. } => true,
            Pausable::Unit { unit } => self.places.outboxes.contains_key(unit),
        };
        let none = || format!("there is no such thing to pause: {what:?}; see the status");
        known.then_some(()).ok_or_else(none)
    }

    /// A pause is in force, or no more.
    pub(super) fn set_pause(&mut self, what: &Pausable, pause: Option<Pause>) {
        match &pause {
            Some(pause) => self.pauses.insert(what.clone(), pause.clone()),
            None => self.pauses.remove(what),
        };
        match what {
            Pausable::Calls { unit } => {
                self.setup.neighbours.away.set(unit, pause.as_ref());
                if let Ok(topic) = Topic::new(CALLS_TOPIC) {
                    let paused = self.is_paused(&topic, unit);
                    self.places.outbox(unit, &self.setup).pause_topic(&topic, paused);
                }
            }
            Pausable::Group { .. } => self.places.inbox.pause(what, pause),
            Pausable::Redrive { task } => {
                if let Some(task) = self.tasks.task(*task) {
                    task.pause = pause;
                    task.stand_still();
                }
            }
            Pausable::Topic { topic } => {
                self.places.know_topic(topic);
                let units: Vec<UnitId> = self.places.outboxes.keys().cloned().collect();
                for unit in units {
                    let paused = self.is_paused(topic, &unit);
                    self.places.outbox(&unit, &self.setup).pause_topic(topic, paused);
                }
                self.places.inbox.pause(what, pause);
            }
            Pausable::Unit { unit } => self.places.outbox(unit, &self.setup).pause(pause),
        }
    }

    /// Whether a topic does not go to a unit: for one of two reasons, of which each may end alone.
    fn is_paused(&self, topic: &Topic, unit: &UnitId) -> bool {
        let calls = Pausable::Calls { unit: unit.clone() };
        let topic_itself = Pausable::Topic { topic: topic.clone() };
        self.pauses.contains_key(&topic_itself) || topic.as_str() == CALLS_TOPIC && self.pauses.contains_key(&calls)
    }

    /// Pauses whose time is over end by themselves (M-H3).
    pub(super) fn end_pauses(&mut self, now: Now) {
        let over = self.pauses.iter().filter(|(_, pause)| pause.is_over(now.wall));
        let over: Vec<Pausable> = over.map(|(what, _)| what.clone()).collect();
        for what in over {
            tracing::info!(?what, "a pause is over");
            self.set_pause(&what, None);
            self.journal
                .push(Record::Kept(Box::new(Kept::Pause { what, pause: None })));
        }
    }

    fn limit(
        &mut self,
        unit: UnitId,
        topic: Option<Topic>,
        limits: Option<LimitValues>,
        who: &str,
    ) -> Result<Answer, String> {
        if !self.places.outboxes.contains_key(&unit) {
            return Err(format!("no messages go to a unit {unit}; see the status"));
        }
        let legal = |limits: &LimitValues| limits.messages_per_second.is_finite() && limits.messages_per_second >= 0.0;
        if !limits.as_ref().is_none_or(legal) {
            return Err("a limit is a number of messages per second, zero or more".to_owned());
        }
        tracing::info!(who, %unit, ?topic, ?limits, "an operator changed limits of the replay");
        let limits = limits.map(|limits| (limits.messages_per_second, limits.bytes_per_second, limits.burst));
        self.set_limits(&unit, topic.as_ref(), limits);
        let kept = Kept::Limits { unit, topic, limits };
        self.journal.push(Record::Kept(Box::new(kept)));
        Ok(Answer::Done { messages: 0 })
    }

    pub(super) fn set_limits(&mut self, unit: &UnitId, topic: Option<&Topic>, limits: Option<(f64, u64, u32)>) {
        let key = (unit.clone(), topic.cloned());
        match limits {
            Some(limits) => self.limits.insert(key, limits),
            None => self.limits.remove(&key),
        };
        let values = limits.map(|(messages_per_second, bytes_per_second, burst)| LimitValues {
            messages_per_second,
            bytes_per_second,
            burst,
        });
        self.places.outbox(unit, &self.setup).limit(topic, values);
    }

    /// A group that was made by mistake, or is not wanted any more, would keep all messages of its topic (O3).
    fn remove_group(
        &mut self,
        (topic, group): (Topic, GroupName),
        reason: &str,
        dry_run: bool,
        who: &str,
    ) -> Result<Answer, String> {
        let inbox = &self.places.inbox;
        let size = inbox.size(&topic, &group).filter(|_| inbox.has_group(&topic, &group));
        let (consumers, messages) =
            size.ok_or_else(|| format!("topic {topic} has no group {group}; see the status"))?;
        let settings = TopicSettings::of(&self.setup.topics, &topic);
        if settings.is_some_and(|settings| settings.groups.contains_key(&group)) {
            return Err(format!(
                "the settings declare group {group} of topic {topic}; take it out of there and reload them first"
            ));
        }
        if consumers > 0 {
            return Err(format!(
                "{consumers} consumers take messages of group {group}; stop them first"
            ));
        }
        if dry_run {
            return Ok(Answer::Done { messages });
        }
        tracing::info!(who, %topic, %group, reason, messages, "an operator removed a group");
        let what = Pausable::Group {
            topic: topic.clone(),
            group: group.clone(),
        };
        if self.pauses.remove(&what).is_some() {
            let pause = None;
            self.journal.push(Record::Kept(Box::new(Kept::Pause { what, pause })));
        }
        self.places.inbox.forget_group(&topic, &group, &mut self.fx);
        Ok(Answer::Done { messages })
    }

    fn unblock(
        &mut self,
        now: Now,
        (topic, group): (&Topic, &GroupName),
        key: Option<&str>,
        who: &str,
    ) -> Result<Answer, String> {
        let key = key.map(key_of).transpose()?.map(|(dimension, key)| crate::model::Key {
            dimension: dimension.into(),
            key: key.into(),
        });
        let inbox = &mut self.places.inbox;
        let messages = inbox.unblock(now, topic, group, key.as_ref(), &mut self.fx);
        tracing::info!(who, %topic, %group, messages, "an operator unblocked keys");
        Ok(Answer::Done { messages })
    }
}

/// A unit counts as away for a time that was thought about, and everybody can see why.
fn check_away(now: Now, pause: &Pause) -> Result<(), String> {
    if pause.reason.trim().is_empty() {
        return Err("say why the unit counts as away: --reason".to_owned());
    }
    let left = pause.until.map(|until| until.saturating_sub(now.wall.0));
    if left.is_none_or(|left| left > AWAY_MAX_MILLIS) {
        return Err("say for how long the unit counts as away, for 24 hours at most: --for".to_owned());
    }
    Ok(())
}

/// Longest time that a unit counts as away without another word: a day, and a minute for clocks that differ.
const AWAY_MAX_MILLIS: u64 = (24 * 60 + 1) * 60 * 1000;
