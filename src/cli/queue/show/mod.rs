//! Answers of the queue for people.

mod looked;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

pub(super) use self::looked::in_full;
use self::looked::list;
use crate::cli::Output;
use crate::cli::table::{Table, moment, number, rate, size, time};
use crate::model::{Topic, UnitId};
use crate::queue::operator::{Answer, AuditRow, GroupStatus, LimitValues, RedriveStatus, Status, UnitStatus};
use crate::queue::record::Pause;

/// Writes an answer.
pub(super) fn answer(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    match answer {
        Answer::Done { messages: 0 } => writeln!(out, "done"),
        Answer::Done { messages: concerned } => writeln!(out, "done, {}", messages(*concerned)),
        Answer::Messages { messages, more } => {
            if messages.iter().any(|message| message.body.is_some()) {
                in_full(messages, out)?;
            } else {
                list(messages, out)?;
            }
            if *more {
                writeln!(out, "there are more; see them with --limit, or choose with a filter")?;
            }
            Ok(())
        }
        Answer::Status(status) => whole(status, out),
        Answer::Audit { rows } => books(rows, out),
        Answer::Redrives { tasks } => redrives(tasks, out),
        // Told while it went on, or an error by now.
        Answer::Progress { .. } | Answer::Refused { .. } => Ok(()),
    }
}

/// `1 message`, `1,200 messages`.
pub(super) fn messages(count: u64) -> String {
    let word = if count == 1 { "message" } else { "messages" };
    format!("{} {word}", number(count))
}

fn whole(status: &Status, out: &mut impl Write) -> io::Result<()> {
    head(status, out)?;
    units(&status.units, out)?;
    if !status.groups.is_empty() {
        writeln!(out)?;
        groups(&status.groups, out)?;
    }
    Ok(())
}

/// What there is of one unit.
pub(super) fn of_unit(status: &Status, unit: &UnitId, out: &mut impl Write) -> io::Result<()> {
    head(status, out)?;
    if status.units.is_empty() {
        return writeln!(out, "no messages go to unit {unit}");
    }
    units(&status.units, out)
}

/// What there is of one topic here.
pub(super) fn of_topic(status: &Status, topic: &Topic, out: &mut impl Write) -> io::Result<()> {
    head(status, out)?;
    if status.groups.is_empty() {
        writeln!(out, "no group of this relay takes messages of {topic}")?;
    } else {
        groups(&status.groups, out)?;
    }
    writeln!(
        out,
        "what waits for another unit: strait queue peek --unit UNIT --topic {topic}"
    )
}

/// The relay's disk and what is of no unit and no group.
fn head(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let durability = match status.durability.as_str() {
        "buffered" => "buffered: a power cut can lose messages that were acknowledged (queue.sync)",
        "group" => "group: what was acknowledged is on disk",
        other => other,
    };
    writeln!(out, "durability    {durability}")?;
    let share = status
        .bytes_used
        .saturating_mul(100)
        .checked_div(status.bytes_max)
        .unwrap_or_default();
    let level = match status.disk.as_str() {
        "low" => "low: topics of low priority are refused",
        "full" => "full: all new messages are refused",
        "failing" => "FAILING: nothing can be stored; see the log of the relay",
        other => other,
    };
    let (used, limit) = (size(status.bytes_used), size(status.bytes_max));
    writeln!(
        out,
        "disk          {used} of {limit} used ({share} %) in {} segments, {level}",
        number(status.segments)
    )?;
    writeln!(out, "epoch         {}", status.epoch)?;
    let reasons: Vec<_> = status
        .dead_by_reason
        .iter()
        .map(|(reason, count)| format!("{reason} {}", number(*count)))
        .collect();
    let reasons = if reasons.is_empty() {
        String::new()
    } else {
        format!(": {}", reasons.join(", "))
    };
    let letters = size(status.dead_letter_bytes);
    writeln!(
        out,
        "dead letters  {} ({letters}){reasons}",
        number(status.dead_letters)
    )?;
    for damaged in &status.damaged {
        writeln!(out, "damaged       {damaged}")?;
    }
    writeln!(out)
}

/// Messages to units, with what there is to know about each below.
pub(super) fn units(units: &[UnitStatus], out: &mut impl Write) -> io::Result<()> {
    if units.is_empty() {
        return writeln!(out, "no messages go to other units");
    }
    let mut table = Table::new(&[
        "UNIT",
        "STATE",
        "LIVE>",
        "BACKLOG>",
        "BYTES>",
        "OLDEST>",
        "REPLAY>",
        "LIMIT>",
        "EMPTY IN>",
    ]);
    for unit in units {
        let eta = match unit.eta_seconds {
            _ if unit.backlog == 0 => "-".to_owned(),
            Some(seconds) => time(Duration::from_secs(seconds)),
            None => "?".to_owned(),
        };
        table.row(vec![
            unit.unit.clone(),
            unit.state.clone(),
            number(unit.live),
            number(unit.backlog),
            size(unit.bytes),
            oldest(unit.oldest_ms),
            rate(unit.replay_rate),
            limits(&unit.limits),
            eta,
        ]);
    }
    table.print(out)?;
    for unit in units {
        let name = &unit.unit;
        if !unit.detail.is_empty() {
            writeln!(out, "{name}: {}", unit.detail)?;
        }
        note_pause(name, unit.pause.as_ref(), out)?;
        if let Some(away) = &unit.counts_as_away {
            let until = away.until.map_or_else(String::new, moment);
            writeln!(
                out,
                "{name}: counts as away for calls until {until}: {}; to end that: strait unit local-mode {name} --off",
                away.reason
            )?;
        }
        if unit.keys_coarse {
            writeln!(out, "{name}: new messages with a key wait behind the backlog")?;
        } else if unit.keys_behind > 0 {
            writeln!(
                out,
                "{name}: {} keys wait behind their backlog, all others go at once",
                number(unit.keys_behind)
            )?;
        }
    }
    Ok(())
}

fn groups(groups: &[GroupStatus], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&[
        "TOPIC",
        "GROUP",
        "CONSUMERS>",
        "PENDING>",
        "IN FLIGHT>",
        "RETRYING>",
        "BEHIND>",
        "BLOCKED KEYS>",
        "OLDEST>",
    ]);
    for group in groups {
        let numbers = [
            group.consumers,
            group.pending,
            group.in_flight,
            group.retrying,
            group.behind,
            group.blocked_keys,
        ];
        let mut row = vec![group.topic.clone(), group.group.clone()];
        row.extend(numbers.map(number));
        row.push(oldest(group.oldest_ms));
        table.row(row);
    }
    table.print(out)?;
    for group in groups {
        let name = format!("{} of {}", group.group, group.topic);
        note_pause(&name, group.pause.as_ref(), out)?;
        if group.blocked_keys > 0 {
            let (topic, name) = (&group.topic, &group.group);
            writeln!(
                out,
                "blocked keys go on with: strait queue unblock --topic {topic} --group {name}"
            )?;
        }
    }
    Ok(())
}

fn note_pause(name: &str, pause: Option<&Pause>, out: &mut impl Write) -> io::Result<()> {
    let Some(pause) = pause else { return Ok(()) };
    let until = pause.until.map_or_else(|| "resumed".to_owned(), moment);
    writeln!(out, "{name}: paused until {until}: {}", pause.reason)
}

fn oldest(millis: Option<u64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| time(Duration::from_millis(millis)))
}

fn limits(limits: &LimitValues) -> String {
    let mut parts = Vec::new();
    if limits.messages_per_second > 0.0 {
        parts.push(rate(limits.messages_per_second));
    }
    if limits.bytes_per_second > 0 {
        parts.push(format!("{}/s", size(limits.bytes_per_second)));
    }
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

fn books(rows: &[AuditRow], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no message was ever accepted here");
    }
    let mut table = Table::new(&[
        "TOPIC",
        "TO",
        "ACCEPTED>",
        "RELAYED>",
        "PENDING>",
        "EXPIRED>",
        "DROPPED>",
        "DEAD>",
        "PURGED>",
        "CORRUPTED>",
        "REROUTED>",
        "DIFFERENCE>",
    ]);
    for row in rows {
        let numbers = [
            row.accepted,
            row.relayed,
            row.pending,
            row.expired,
            row.dropped,
            row.dead_lettered,
            row.purged,
            row.corrupted,
            row.rerouted,
        ];
        let mut texts = vec![row.topic.clone(), row.to.clone()];
        texts.extend(numbers.map(number));
        texts.push(row.difference.to_string());
        table.row(texts);
    }
    table.print(out)?;
    let wrong = rows.iter().filter(|row| row.difference != 0).count();
    if wrong == 0 {
        return writeln!(out, "the books balance");
    }
    writeln!(
        out,
        "THE BOOKS DO NOT BALANCE in {wrong} of {} lines; keep data_dir and report it",
        rows.len()
    )
}

fn redrives(tasks: &[RedriveStatus], out: &mut impl Write) -> io::Result<()> {
    if tasks.is_empty() {
        return writeln!(out, "no redrives");
    }
    let mut table = Table::new(&[
        "TASK>",
        "STATE",
        "MOVED>",
        "REMAINING>",
        "FAILED>",
        "RATE>",
        "STARTED",
        "ENDS IN>",
        "WHO",
    ]);
    for task in tasks {
        table.row(vec![
            number_of(task.task),
            task.state.clone(),
            number(task.moved),
            number(task.remaining),
            number(task.failed),
            rate(task.rate),
            moment(task.started),
            task.eta_seconds
                .map_or_else(|| "-".to_owned(), |eta| time(Duration::from_secs(eta))),
            task.who.clone(),
        ]);
    }
    table.print(out)?;
    for task in tasks.iter().filter(|task| !task.reason.is_empty()) {
        writeln!(out, "{}: {}", task.task, task.reason)?;
    }
    Ok(())
}

/// How far a redrive is, for a person who waits for it.
pub(super) fn progress(task: &RedriveStatus, output: Output) {
    let mut err = io::stderr();
    if output == Output::Human && err.is_terminal() {
        let eta = task
            .eta_seconds
            .map_or_else(String::new, |eta| format!(", {} left", time(Duration::from_secs(eta))));
        let (moved, remaining) = (number(task.moved), number(task.remaining));
        // Nothing depends on it.
        let _ = write!(
            err,
            "\r\u{1b}[K{}: {moved} moved, {remaining} to go at {}{eta}",
            task.state,
            rate(task.rate)
        );
    }
}

/// Takes the last progress back.
pub(super) fn progress_ends(output: Output) {
    let mut err = io::stderr();
    if output == Output::Human && err.is_terminal() {
        let _ = write!(err, "\r\u{1b}[K");
    }
}

/// A number that names something: without separators, to be copied.
fn number_of(number: u64) -> String {
    number.to_string()
}
