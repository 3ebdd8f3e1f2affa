//! Jobs of operators: peek, purge, audit. Each slice is one read; the next is asked for when it was worked through.

use super::Engine;
use crate::model::{GapReason, Message, Seq, Topic};
use crate::queue::api::{Output, Ticket};
use crate::queue::codec;
use crate::queue::effects::{Now, Reader};
use crate::queue::jobs::audit::{Audit, AuditLine};
use crate::queue::jobs::filter::Matcher;
use crate::queue::jobs::{Course, Job, Work, peek};
use crate::queue::line::LineId;
use crate::queue::log::disk::Request;
use crate::queue::log::{Found, Scan, Scanned};
use crate::queue::operator::{Answer, Command, Filter, Line, Peeked};
use crate::queue::record::{DeadLetter, Record};

/// What was read of a line.
enum Read {
    Letter(DeadLetter),
    Message(Seq, Message),
}

impl Engine {
    pub(super) fn begin_job(&mut self, ticket: Ticket, command: Command) -> Result<(), String> {
        if !self.jobs.has_room() {
            return Err("too much is asked at a time; try again when it is done".to_owned());
        }
        let work = match command {
            Command::Peek {
                line,
                filter,
                limit,
                bodies,
            } => Work::Peek {
                course: self.course(line, &filter)?,
                limit: limit.clamp(1, PEEK_MAX),
                bodies,
                found: Vec::new(),
            },
            Command::Purge {
                line,
                filter,
                all,
                dry_run,
                who,
            } => {
                if filter == Filter::default() && !all {
                    return Err("say which messages to remove with a filter, or that all of them are meant".to_owned());
                }
                if matches!(line, Line::Mirror { .. }) {
                    return Err("copies are read-only; they go by queue.mirror.retention".to_owned());
                }
                tracing::info!(who, ?line, all, dry_run, "an operator purges messages");
                Work::Purge {
                    course: self.course(line, &filter)?,
                    dry_run,
                    messages: 0,
                }
            }
            _ => Work::Audit(Box::new(self.audit())),
        };
        let job = Job {
            ticket,
            work,
            slices: 0,
        };
        let number = self.jobs.next();
        self.go_on_with(number, job);
        Ok(())
    }

    /// The next slice of a job, or its answer.
    fn go_on_with(&mut self, number: u64, mut job: Job) {
        let scan = match &mut job.work {
            Work::Audit(audit) => audit.scan(),
            Work::Peek {
                course, limit, found, ..
            } => course.scan().filter(|_| found.len() <= *limit),
            Work::Purge { course, .. } => course.scan(),
        };
        let Some(scan) = scan else {
            let answer = match job.work {
                Work::Audit(audit) => {
                    let rows = audit.into_rows();
                    self.metrics.on_audit(&rows);
                    Answer::Audit { rows }
                }
                Work::Peek { limit, mut found, .. } => {
                    let more = found.len() > limit;
                    found.truncate(limit);
                    Answer::Messages { messages: found, more }
                }
                Work::Purge { messages, .. } => {
                    // Behind the records: what an operator was told to be gone does not come back.
                    let answer = Box::new(Answer::Done { messages });
                    return self.fx.then(Output::Answer(job.ticket, answer));
                }
            };
            return self.answer(job.ticket, answer);
        };
        job.slices += 1;
        if job.slices.is_multiple_of(PROGRESS_SLICES) {
            let (done, of) = match &job.work {
                Work::Audit(audit) => audit.progress(),
                Work::Peek { course, .. } | Work::Purge { course, .. } => course.progress(),
            };
            self.answer(job.ticket, Answer::Progress { done, of });
        }
        self.jobs.put(number, job);
        self.read_for(number, scan);
    }

    pub(super) fn read_for(&mut self, number: u64, scan: Scan) {
        let reader = Reader::Job(number);
        self.requests.push(Request::Read { reader, scan });
    }

    /// A slice was read.
    pub(super) fn on_job_read(&mut self, now: Now, number: u64, result: Result<Scanned, String>) {
        if let Some(question) = number.checked_sub(super::undelivered::QUESTION_JOBS) {
            return self.on_question_read(question, result);
        }
        if let Some(task) = number.checked_sub(super::redrive::TASK_JOBS) {
            return self.on_task_read(now, task, result);
        }
        let Some(mut job) = self.jobs.take(number) else {
            return;
        };
        let scanned = match result {
            Ok(scanned) => scanned,
            Err(error) => {
                let detail = format!("the disk does not give the messages: {error}");
                return self.answer(job.ticket, Answer::Refused { detail });
            }
        };
        let next = scanned.next;
        let reads: Vec<Read> = scanned.found.into_iter().filter_map(read).collect();
        match &mut job.work {
            Work::Audit(audit) => {
                let found: Vec<(Seq, Topic)> = reads.iter().map(Read::topic).collect();
                audit.on_read(&found, next);
            }
            Work::Peek {
                course,
                limit,
                bodies,
                found,
            } => {
                for read in &reads {
                    if found.len() <= *limit && course.fits(read) {
                        found.extend(self.look(now, &course.line, read, *bodies));
                    }
                }
                course.next = next.unwrap_or(course.end + 1);
            }
            Work::Purge {
                course,
                dry_run,
                messages,
            } => {
                let fitting: Vec<(Seq, Topic)> =
                    reads.iter().filter(|read| course.fits(read)).map(Read::topic).collect();
                *messages += self.purge(now, &course.line, &fitting, *dry_run);
                course.next = next.unwrap_or(course.end + 1);
            }
        }
        self.go_on_with(number, job);
    }

    fn course(&mut self, line: Line, filter: &Filter) -> Result<Course, String> {
        let matcher = Matcher::new(filter)?;
        let (id, span) = match &line {
            Line::Dead => (
                LineId::dead_letters(),
                (self.dead.first().unwrap_or(1), self.dead.last()),
            ),
            Line::Inbox { topic, group } => {
                if let Some(group) = group
                    && !self.places.inbox.has_group(topic, group)
                {
                    return Err(format!("topic {topic} has no group {group}; see the status"));
                }
                (LineId::inbox(topic), (1, self.places.inbox.last_stored(topic)))
            }
            Line::Mirror { topic } => (LineId::mirror(topic), self.places.mirrors.span(topic)),
            Line::Outbox { unit } => {
                let outbox = self.places.outboxes.get(unit);
                let outbox = outbox.ok_or_else(|| format!("no messages go to a unit {unit}; see the status"))?;
                (LineId::outbox(unit), (1, outbox.last_stored()))
            }
        };
        Ok(Course::new(line, id, matcher, span))
    }

    /// A message of a line, if it is there still.
    fn look(&self, now: Now, line: &Line, read: &Read, bodies: bool) -> Option<Peeked> {
        let (seq, message) = match read {
            Read::Letter(letter) => {
                let there = self.dead.contains(letter.seq);
                return there.then(|| peek::letter(letter, bodies));
            }
            Read::Message(seq, message) => (*seq, message),
        };
        let state = match line {
            Line::Dead => return None,
            Line::Inbox {
                topic,
                group: Some(group),
            } => {
                let state = self.places.inbox.look(now, topic, group, seq);
                (state.0 != "done").then_some(state)?
            }
            Line::Inbox { topic, group: None } => (!self.places.inbox.is_done(topic, seq)).then_some(("waiting", 0))?,
            Line::Mirror { topic } => (!self.places.mirrors.is_done(topic, seq)).then_some(("mirror", 0))?,
            Line::Outbox { unit } => {
                let outbox = self.places.outboxes.get(unit)?;
                (!outbox.is_done(seq)).then(|| (outbox.look(seq), 0))?
            }
        };
        Some(peek::message(seq, message, state, bodies))
    }

    /// Removes messages of a line; how many were there.
    fn purge(&mut self, now: Now, line: &Line, messages: &[(Seq, Topic)], dry_run: bool) -> u64 {
        let open = |(seq, _): &&(Seq, Topic)| match line {
            Line::Dead => self.dead.contains(*seq),
            Line::Inbox {
                topic,
                group: Some(group),
            } => self.places.inbox.look(now, topic, group, *seq).0 != "done",
            Line::Inbox { topic, group: None } => !self.places.inbox.is_done(topic, *seq),
            Line::Mirror { .. } => false,
            Line::Outbox { unit } => {
                let outbox = self.places.outboxes.get(unit);
                outbox.is_some_and(|outbox| !outbox.is_done(*seq))
            }
        };
        let open: Vec<(Seq, Topic)> = messages.iter().filter(open).cloned().collect();
        let count = u64::try_from(open.len()).unwrap_or(u64::MAX);
        if dry_run || open.is_empty() {
            return count;
        }
        let seqs: Vec<Seq> = open.iter().map(|(seq, _)| *seq).collect();
        match line {
            Line::Dead => self.journal.push(Record::DeadGone {
                seqs: runs(&seqs),
                reason: GapReason::Purged,
            }),
            Line::Inbox { topic, group } => {
                let whose = (topic, group.as_ref());
                let inbox = &mut self.places.inbox;
                inbox.gone(now, whose, &seqs, GapReason::Purged, &mut self.fx);
            }
            Line::Mirror { .. } => {}
            Line::Outbox { unit } => {
                let outbox = self.places.outbox(unit, &self.setup);
                outbox.gone(now, &open, GapReason::Purged, &mut self.fx);
            }
        }
        count
    }

    fn audit(&mut self) -> Audit {
        let places = &mut self.places;
        let mut books = places.inbox.books();
        books.extend(places.outboxes.values().flat_map(super::super::outbox::Outbox::books));
        let outs = places.outboxes.iter().map(|(unit, outbox)| AuditLine {
            id: LineId::outbox(unit),
            end: outbox.last_stored(),
            shares: vec![(unit.to_string(), outbox.done().clone())],
            next: outbox.done().frontier() + 1,
        });
        let mut lines: Vec<AuditLine> = outs.collect();
        for topic in places.topics() {
            let groups = places.inbox.done(&topic);
            let first = groups.iter().map(|(_, done)| done.frontier()).min().unwrap_or(0) + 1;
            lines.push(AuditLine {
                id: LineId::inbox(&topic),
                end: places.inbox.last_stored(&topic),
                shares: groups
                    .into_iter()
                    .map(|(group, done)| (format!("group {group}"), done))
                    .collect(),
                next: first,
            });
        }
        Audit::new(books, lines)
    }
}

impl Course {
    fn fits(&self, read: &Read) -> bool {
        match read {
            Read::Letter(letter) => letter.seq <= self.end && self.matcher.fits_letter(letter),
            Read::Message(seq, message) => *seq <= self.end && self.matcher.fits(*seq, message),
        }
    }
}

impl Read {
    fn topic(&self) -> (Seq, Topic) {
        match self {
            Self::Letter(letter) => (letter.seq, letter.message.topic.clone()),
            Self::Message(seq, message) => (*seq, message.topic.clone()),
        }
    }
}

fn read((seq, found): (Seq, Found)) -> Option<Read> {
    match codec::decode(found.kind, found.content).ok()? {
        Record::Stored(stored) => Some(Read::Message(seq, stored.message)),
        Record::Dead(letter) => Some(Read::Letter(*letter)),
        _ => None,
    }
}

/// Ascending numbers as runs.
fn runs(seqs: &[Seq]) -> Vec<(Seq, Seq)> {
    let mut runs: Vec<(Seq, Seq)> = Vec::new();
    for seq in seqs {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *seq => *last = *seq,
            _ => runs.push((*seq, *seq)),
        }
    }
    runs
}

/// Messages that one look shows at most.
const PEEK_MAX: usize = 1000;
/// Slices between two answers about how far a job is.
const PROGRESS_SLICES: u64 = 64;
