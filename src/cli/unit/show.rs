//! Answers about units for people.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::table::{Table, number, time};
use crate::control::mover::units::Counts;
use crate::control::operator::{Answer, Fence, MoveRow, UnitAct, UnitPlan, UnitRow};
use crate::model::UnitId;
use crate::routing::record::State;

/// Writes an answer.
pub(super) fn answer(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    match answer {
        Answer::Units(rows) => match rows.as_slice() {
            [row] => unit(row, out),
            rows => units(rows, out),
        },
        Answer::UnitPlan(found) => plan(found, out),
        // Errors are told as such.
        _ => Ok(()),
    }
}

fn units(rows: &[UnitRow], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["UNIT", "STATE", "BUCKETS>", "RULES>", "KEYS>", "RELAYS>", "WHO AND WHY"]);
    for row in rows {
        table.row(vec![
            row.unit.to_string(),
            state(row),
            count(row.has.buckets),
            count(row.has.rules),
            count(row.has.keys),
            count(row.relays.len()),
            row.reason.clone(),
        ]);
    }
    table.print(out)?;
    writeln!(
        out,
        "\nkeys that were claimed, and nothing else, are counted by: strait unit status UNIT"
    )
}

fn unit(row: &UnitRow, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "unit       {}", row.unit)?;
    let since = if row.rev.0 == 0 {
        String::new()
    } else {
        format!(", since revision {}", row.rev)
    };
    writeln!(out, "state      {}{since}", state(row))?;
    if !row.reason.is_empty() {
        writeln!(out, "because    {}", row.reason)?;
    }
    if let State::Evacuated { takeover } | State::Returning { takeover, .. } = &row.state {
        writeln!(out, "its keys   are at {}", weighed(takeover))?;
    }
    let more = if row.has_more { " or more" } else { "" };
    writeln!(out, "has        {}{more}", counts(row.has))?;
    for relay in &row.relays {
        let heard = relay
            .silent_for
            .map_or_else(|| "long ago".to_owned(), |silent| format!("{} ago", time(silent)));
        writeln!(out, "relay      {} was heard of {heard}", relay.relay)?;
    }
    if row.relays.is_empty() {
        writeln!(out, "relay      none has the routes")?;
    }
    if let Some(fence) = &row.fence {
        writeln!(out, "now        {}", fenced(fence))?;
    } else if !row.moves.is_empty() {
        writeln!(out, "now        {}", far(row.moves.iter()))?;
    }
    writeln!(out, "next       {}", next(row))
}

/// What a person can do then.
fn next(row: &UnitRow) -> String {
    let unit = &row.unit;
    match &row.state {
        State::Fencing { by } | State::Returning { by, .. } => {
            format!("wait; or stop it, then it is as it was before: strait route abort {by}")
        }
        State::Evacuated { .. } => {
            format!("when it works again and its data is copied back: strait unit return {unit}")
        }
        State::Draining if !row.is_at_rest() => {
            "wait; or stop its moves: strait route abort, strait route moves".to_owned()
        }
        State::Draining if row.has.sum() > 0 => {
            format!(
                "take what is left: strait unit drain {unit} --to ...; or give it back what it had: strait unit return {unit}"
            )
        }
        State::Draining => format!("it may be stopped; when it is to take keys again: strait unit return {unit}"),
        _ => "nothing: it takes keys".to_owned(),
    }
}

fn state(row: &UnitRow) -> String {
    match &row.state {
        State::Draining if row.is_at_rest() && row.has.sum() == 0 => "drained",
        State::Draining => "draining: takes no new keys",
        State::Fencing { .. } => "fencing: nobody writes its keys",
        State::Evacuated { .. } => "evacuated",
        State::Returning { .. } => "returning: nobody writes its keys",
        _ => "takes keys",
    }
    .to_owned()
}

/// Whom it waits for, and how long.
pub(super) fn fenced(fence: &Fence) -> String {
    let relays: Vec<_> = fence.waits_for.iter().map(|row| row.relay.to_string()).collect();
    if relays.is_empty() {
        return "all its relays have stopped; it goes on at once".to_owned();
    }
    let relays = relays.join(", ");
    let left = fence.waits_for.iter().map(|row| row.left).max();
    let is_endless = fence.waits_for.iter().any(|row| row.left.is_none());
    match left.flatten().filter(|_| !is_endless) {
        Some(left) => {
            let left = time(Duration::from_secs(left.as_secs() + 1));
            format!("waits until {relays} have said that they stopped, or were silent for {left} more")
        }
        None => format!(
            "waits until relays {relays} say that they have stopped; they may go on for ever (owner_lease = \"infinite\"), so see that their \
             processes end, then: strait route forget UNIT/RELAY --stopped"
        ),
    }
}

/// How far moves are, together.
pub(super) fn far<'a>(rows: impl Iterator<Item = &'a MoveRow> + Clone) -> String {
    let moved: u64 = rows.clone().map(|row| u64::from(row.moved)).sum();
    let stayed: u64 = rows.clone().map(|row| u64::from(row.aborted)).sum();
    let left: usize = rows.clone().map(|row| row.left).sum();
    let unknown = rows.clone().any(|row| row.left > 0 && row.eta_seconds.is_none());
    let eta = rows.filter_map(|row| row.eta_seconds).max().filter(|_| !unknown);
    let eta = eta.map_or_else(String::new, |eta| {
        format!(", ends in about {}", time(Duration::from_secs(eta)))
    });
    let stayed = match stayed {
        0 => String::new(),
        stayed => format!(", {} stayed", number(stayed)),
    };
    format!("{} moved{stayed}, {} to go{eta}", number(moved), count(left))
}

fn plan(plan: &UnitPlan, out: &mut impl Write) -> io::Result<()> {
    let unit = &plan.unit;
    let would = if plan.dry_run { "would be" } else { "is being" };
    match plan.act {
        UnitAct::Drain => writeln!(
            out,
            "unit {unit} {would} drained: it gets no new keys, and what it has goes to others, a key at a time, without loss"
        )?,
        UnitAct::Evacuate => writeln!(
            out,
            "unit {unit} {would} evacuated: nobody writes its keys until its relays have stopped, then others have them"
        )?,
        UnitAct::Return => writeln!(out, "unit {unit} {would} given its keys back, and takes new ones")?,
    }
    if !plan.shares.is_empty() {
        writeln!(out)?;
        let mut table = Table::new(&["UNIT", "WEIGHT>", "GETS BUCKETS>", "RULES>", "KEYS>", "CLAIMED KEYS>"]);
        for share in &plan.shares {
            table.row(vec![
                share.unit.to_string(),
                number(share.weight.into()),
                count(share.gets.buckets),
                count(share.gets.rules),
                count(share.gets.keys),
                count(share.gets.claims),
            ]);
        }
        table.print(out)?;
    }
    if plan.key_by_key.sum() > 0 {
        writeln!(
            out,
            "\nkeys of {} go to these units one by one, by the weights",
            counts(plan.key_by_key)
        )?;
    }
    if !plan.notes.is_empty() {
        writeln!(out)?;
    }
    for note in &plan.notes {
        writeln!(out, "- {note}")?;
    }
    writeln!(out)?;
    if let Some(refusal) = &plan.refusal {
        writeln!(out, "would be refused as it stands: {refusal}")?;
    }
    if plan.dry_run {
        return writeln!(out, "nothing was changed");
    }
    writeln!(out, "it has begun; see how far it is with: strait unit status {unit}")
}

fn weighed(shares: &[(UnitId, u16)]) -> String {
    let shares: Vec<_> = shares
        .iter()
        .map(|(unit, weight)| format!("unit {unit} (weight {weight})"))
        .collect();
    shares.join(", ")
}

fn counts(counts: Counts) -> String {
    let parts = [
        (counts.buckets, "bucket"),
        (counts.rules, "rule"),
        (counts.keys, "key"),
        (counts.claims, "claimed key"),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(some, _)| *some > 0)
        .map(|(some, what)| format!("{} {what}{}", count(some), if some == 1 { "" } else { "s" }))
        .collect();
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    parts.join(", ")
}

fn count(count: usize) -> String {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}
