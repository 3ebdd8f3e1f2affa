//! Answers about routes for people.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use super::csv::{state, write_nodes};
use super::provisional;
use crate::cli::table::{Table, moment, number, time};
use crate::control::operator::{
    Answer, BookRow, ClaimRow, Given, History, How, KeyRow, MoveRow, NodeRow, Plan, Published, RelayRow, Status, Undone,
};
use crate::model::OnFailure;
use crate::routing::record::{DimensionSpec, Fallback, HookNote, Lease, MoveState, NodeId, Placement, State, Target};
use crate::routing::{Observed, Rule, RuleKind};

/// Writes an answer.
pub(super) fn answer(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    match answer {
        Answer::Status(found) => status(found, out),
        Answer::Key(row) => key(row, out),
        Answer::History(found) => history(found, out),
        Answer::Nodes(nodes) => write_nodes(nodes, out),
        Answer::Book(row) => book(row, out),
        Answer::Moves(rows) => moves(rows, out),
        Answer::Relays(rows) => relays(rows, out),
        Answer::Plan(found) => plan(found, out),
        Answer::Undone(found) => undone(found, out),
        Answer::Given(found) => given(*found, out),
        Answer::Published(found) => published(found, out),
        Answer::Provisional(found) => provisional::show(found, out),
        Answer::Done => writeln!(out, "done"),
        // An import has a report of its own; errors are told as such.
        _ => Ok(()),
    }
}

fn status(status: &Status, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "store      {}", status.store)?;
    match status.epoch {
        Some(epoch) => writeln!(out, "copy       at revision {epoch}")?,
        None => writeln!(out, "copy       none yet: calls with a key wait")?,
    }
    if status.is_stale {
        writeln!(
            out,
            "feed       SILENT: the store is away, or this relay is cut off; calls go on by the copy"
        )?;
    } else {
        writeln!(out, "feed       up to date")?;
    }
    match status.session {
        Some(session) => writeln!(out, "session    {}", session.0)?,
        None => writeln!(out, "session    none: no writes are admitted")?,
    }
    writeln!(out, "decided    {} keys", count(status.overrides))?;
    writeln!(
        out,
        "moves      {} under way, with {} keys, buckets, rules or units at the moment",
        count(status.moves.len()),
        count(status.under_way)
    )?;
    if status.dimensions.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&["DIMENSION", "LEASE", "ADMITS WRITES"]);
    for row in &status.dimensions {
        let admits = if row.admits { "yes" } else { "no" };
        table.row(vec![row.dimension.to_string(), lease(row.lease), admits.to_owned()]);
    }
    table.print(out)
}

fn key(row: &KeyRow, out: &mut impl Write) -> io::Result<()> {
    let found = &row.explanation;
    match (&found.owner, &found.error) {
        (Some(owner), _) => writeln!(out, "owner       {owner}")?,
        (None, error) => writeln!(out, "no owner    {}", error.as_deref().unwrap_or_default())?,
    }
    if let Some(rule) = &found.rule {
        writeln!(out, "decided by  {rule}")?;
    }
    if let Some(epoch) = found.epoch {
        writeln!(out, "epoch       {epoch}")?;
    }
    if let Some(by) = &found.frozen {
        writeln!(out, "frozen      by move {by}")?;
    }
    if !found.routed_by.is_empty() {
        writeln!(out, "routed by   {}", found.routed_by.join(", "))?;
    }
    if found.only_reads {
        writeln!(out, "only reads  yes")?;
    }
    match found.on_failure {
        OnFailure::Fail => {}
        OnFailure::Park => writeln!(out, "while away  park: its calls are stored for the owner")?,
        OnFailure::Local => writeln!(
            out,
            "while away  local: the callers' unit executes its calls, and stores them for the owner"
        )?,
    }
    if let Some(away) = &found.counts_as_away {
        writeln!(out, "its owner   counts as away for calls that are kept, {away}")?;
    }
    if let Some(Observed { away, of }) = found.observers {
        writeln!(
            out,
            "its owner   is away, as {away} of {of} units say; more than half have to, if on_failure goes by a quorum"
        )?;
    }
    if let Some(node) = &row.node {
        writeln!(out, "decided     {}", described(node))?;
    }
    if let Some(claim) = &row.claim {
        writeln!(out, "claimed     {}", claimed(claim))?;
    }
    for step in &found.steps {
        let mark = if step.matched { "->" } else { "  " };
        writeln!(out, "{mark} {:<12} {}", step.looked_at, step.why)?;
    }
    Ok(())
}

fn history(history: &History, out: &mut impl Write) -> io::Result<()> {
    for node in &history.nodes {
        writeln!(out, "{}", described(node))?;
    }
    match &history.claim {
        Some(claim) => writeln!(out, "before that: claimed {}", claimed(claim)),
        None if history.nodes.is_empty() => {
            writeln!(out, "nothing was decided about this key, and nobody has claimed it")
        }
        None => Ok(()),
    }
}

fn described(node: &NodeRow) -> String {
    let mut text = format!(
        "revision {}: {}, {}",
        node.rev,
        target(&node.target),
        state(&node.state)
    );
    // Writing to a String cannot fail.
    if let State::Migrating { to, by } | State::Frozen { to, by } = &node.state {
        let _ = write!(text, " to unit {to} by move {by}");
    }
    if let Some(previous) = &node.previous {
        let _ = write!(text, ", before unit {previous}");
    }
    if !node.reason.is_empty() {
        let _ = write!(text, " ({})", node.reason);
    }
    text
}

fn claimed(claim: &ClaimRow) -> String {
    let by = &claim.by;
    format!("for {} by unit {by}, at revision {}", target(&claim.target), claim.base)
}

pub(super) fn target(target: &Target) -> String {
    match target {
        Target::Unit(unit) => format!("unit {unit}"),
        Target::Follow(dimension) => format!("the owner of the call's key of {dimension}"),
        Target::Group { dimension, key } => format!("the owner of {dimension}={}", String::from(key.clone())),
    }
}

fn book(row: &BookRow, out: &mut impl Write) -> io::Result<()> {
    let units: Vec<_> = row.book.units.iter().map(ToString::to_string).collect();
    writeln!(out, "published at revision {}; units {}", row.rev, units.join(", "))?;
    writeln!(out)?;
    let mut table = Table::new(&[
        "DIMENSION",
        "NEW KEYS",
        "WITHOUT STORE",
        "LEASE",
        "READS WHILE FROZEN",
        "ASKED WHEN KEYS MOVE",
    ]);
    for spec in &row.book.dimensions {
        let placement = match spec.placement {
            Placement::Rules => "by the rules",
            Placement::Claim(_) => "claimed",
        };
        table.row(vec![
            spec.name.to_string(),
            placement.to_owned(),
            without_store(spec).to_owned(),
            lease(spec.owner_lease),
            if spec.freeze_reads { "wait" } else { "go on" }.to_owned(),
            spec.hooks
                .as_ref()
                .map_or_else(|| "-".to_owned(), |hooks| hooks.service.to_string()),
        ]);
    }
    table.print(out)?;
    if row.book.rules.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&["RULE", "KEYS", "UNIT", "NOW"]);
    for (id, rule) in &row.book.rules {
        // An id is that of one rule, whatever its dimension.
        let is_about = |node: &&NodeRow| matches!(&node.id, NodeId::Rule { rule, .. } if rule == id);
        let now = row
            .moved
            .iter()
            .find(is_about)
            .map_or_else(String::new, |node| match &node.state {
                State::Active => target(&node.target),
                other => format!("{}, {}", target(&node.target), state(other)),
            });
        table.row(vec![
            format!("{}={id}", rule.dimension),
            names(rule),
            rule.unit.to_string(),
            now,
        ]);
    }
    table.print(out)
}

/// What becomes of a new key while the store is away (`claim_fallback`).
fn without_store(spec: &DimensionSpec) -> &'static str {
    match (&spec.placement, spec.claim_fallback) {
        (Placement::Rules, _) => "by the rules",
        (Placement::Claim(_), Fallback::Deny) => "deny",
        (Placement::Claim(_), Fallback::Deterministic) => "deterministic",
    }
}

fn names(rule: &Rule) -> String {
    match rule.kind() {
        Some(RuleKind::Keys) => format!("{} keys", count(rule.keys.len())),
        Some(RuleKind::Prefix) => format!("prefix {}", rule.prefix.as_deref().unwrap_or_default()),
        Some(RuleKind::Range) => {
            let [first, last] = rule.range.clone().unwrap_or_default();
            format!("range {first} to {last}")
        }
        Some(RuleKind::Hash) => {
            let buckets = rule.buckets().unwrap_or_default();
            format!("buckets {} to {}", buckets.start, buckets.end.saturating_sub(1))
        }
        Some(RuleKind::Default) => "all others".to_owned(),
        None => "none".to_owned(),
    }
}

fn moves(rows: &[MoveRow], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no moves");
    }
    let mut table = Table::new(&[
        "MOVE",
        "TO",
        "STATE",
        "MOVED>",
        "STAYED>",
        "LEFT>",
        "ENDS IN>",
        "ASKED AT",
        "DRIVER",
        "WHO AND WHY",
    ]);
    for row in rows {
        table.row(vec![
            row.id.to_string(),
            row.to.to_string(),
            move_state(row).to_owned(),
            number(row.moved.into()),
            number(row.aborted.into()),
            count(row.left),
            eta(row).unwrap_or_else(|| "-".to_owned()),
            moment(row.asked_at.saturating_mul(1000)),
            row.driver.to_string(),
            row.reason.clone(),
        ]);
    }
    table.print(out)?;
    for row in rows {
        for (id, found) in row.under_way.iter().take(UNDER_WAY_MAX) {
            writeln!(out, "{}: {} is {}", row.id, node(id), state(found))?;
        }
        let more = row.under_way.len().saturating_sub(UNDER_WAY_MAX);
        if more > 0 {
            writeln!(out, "{}: and {} more", row.id, count(more))?;
        }
        for (id, why) in row.stayed.iter().take(UNDER_WAY_MAX) {
            writeln!(out, "{}: {} stayed: {why}", row.id, node(id))?;
        }
        let told = row.stayed.len().min(UNDER_WAY_MAX);
        let more = usize::try_from(row.aborted).unwrap_or(usize::MAX).saturating_sub(told);
        if told > 0 && more > 0 {
            writeln!(
                out,
                "{}: and {} more stayed; `strait route history --key DIMENSION=KEY` says why",
                row.id,
                count(more)
            )?;
        }
        waiting(row, out)?;
        if row.shadow_incomplete {
            writeln!(out, "{}: {INCOMPLETE}", row.id)?;
        } else if row.mirror {
            writeln!(out, "{}: mirrored; no shadow is known to be missing", row.id)?;
        }
    }
    Ok(())
}

/// What a move waits for, and what an application said of it.
fn waiting(row: &MoveRow, out: &mut impl Write) -> io::Result<()> {
    if let Some(note) = &row.note {
        writeln!(out, "{}: {}", row.id, noted(note))?;
    }
    if let Some(relay) = &row.waits_for {
        writeln!(
            out,
            "{}: nothing is frozen yet: {relay} was killed and has started again, and what it had let through may run until \
             routes.in_flight_max is over",
            row.id
        )?;
    }
    if let Some(relay) = &row.undelivered_at {
        writeln!(
            out,
            "{}: nothing more is frozen before the messages that wait at {relay} are delivered (strait queue status)",
            row.id
        )?;
    }
    Ok(())
}

/// What an application said last: `lag at unit b of cid=1: 12 changes, 3400 bytes, 150ms behind`.
fn noted(note: &HookNote) -> String {
    let mut text = format!("{} at unit {} of {}", note.hook, note.unit, node(&note.node));
    match &note.lag {
        Some(lag) => {
            let _ = write!(
                text,
                ": {} changes, {} bytes, {} behind",
                number(lag.changes),
                number(lag.bytes),
                humantime::format_duration(lag.time)
            );
        }
        None if note.said.is_empty() => text.push_str(": done"),
        None => {
            let _ = write!(text, ": {}", note.said);
        }
    }
    text
}

fn move_state(row: &MoveRow) -> &'static str {
    match row.state {
        MoveState::Running => "running",
        MoveState::Aborting => "aborting",
        MoveState::Trailing => "moved",
        MoveState::Finished => "finished",
    }
}

fn eta(row: &MoveRow) -> Option<String> {
    row.eta_seconds.map(|seconds| time(Duration::from_secs(seconds)))
}

/// How far a move is, for a person who waits for it.
pub(super) fn far(row: &MoveRow) -> String {
    let eta = eta(row).map_or_else(String::new, |eta| format!(", {eta} left"));
    let (moved, left) = (number(row.moved.into()), count(row.left));
    let stayed = match row.aborted {
        0 => String::new(),
        aborted => format!(", {} stayed", number(aborted.into())),
    };
    format!("{}: {moved} moved{stayed}, {left} to go{eta}", move_state(row))
}

fn relays(rows: &[RelayRow], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no relay has the routes");
    }
    let mut table = Table::new(&["RELAY", "SESSION>", "SILENT FOR>", "FROZEN>"]);
    for row in rows {
        let silent = row.silent_for.map_or_else(|| "long".to_owned(), time);
        table.row(vec![
            row.relay.to_string(),
            row.session.0.to_string(),
            silent,
            count(row.frozen),
        ]);
    }
    table.print(out)
}

fn plan(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let to = &plan.to;
    if plan.there_already > 0 {
        writeln!(out, "{} belong to unit {to} already", count(plan.there_already))?;
    }
    if plan.nodes.is_empty() {
        return writeln!(out, "nothing is to be moved");
    }
    for planned in plan.nodes.iter().take(PLANNED_MAX) {
        writeln!(out, "{}: unit {} -> unit {to}", node(&planned.id), planned.from)?;
    }
    let more = plan.nodes.len().saturating_sub(PLANNED_MAX);
    if more > 0 {
        writeln!(out, "and {} more", count(more))?;
    }
    if plan.hooks.is_empty() {
        writeln!(out, "{NOT_ASKED}")?;
    } else {
        let services: Vec<_> = plan.hooks.iter().map(ToString::to_string).collect();
        writeln!(out, "the application is asked at each step: {}", services.join(", "))?;
    }
    match plan.id {
        None => writeln!(out, "{} would be moved; nothing was changed", count(plan.nodes.len())),
        Some(id) => writeln!(
            out,
            "move {id} has begun; see how far it is with: strait route moves {id}"
        ),
    }
}

fn node(id: &NodeId) -> String {
    match id {
        NodeId::Key { dimension, key } => format!("{dimension}={}", String::from(key.clone())),
        NodeId::Bucket { dimension, bucket } => format!("bucket {bucket} of {dimension}"),
        NodeId::Rule { dimension, rule } => format!("rule {rule} of {dimension}"),
        NodeId::Unit(unit) => format!("unit {unit}"),
    }
}

fn given(given: Given, out: &mut impl Write) -> io::Result<()> {
    let text = match (given.how, given.dry_run) {
        (How::There, _) => "it belongs to that unit already",
        (How::Claimed, false) => "claimed",
        (How::Claimed, true) => "would be claimed; nothing was changed",
        (How::Pinned, false) => "pinned",
        (How::Pinned, true) => "would be pinned; nothing was changed",
    };
    writeln!(out, "{text}")
}

fn undone(undone: &Undone, out: &mut impl Write) -> io::Result<()> {
    if undone.stay > 0 {
        writeln!(
            out,
            "{} stay: the move did not give them to its unit, or they have moved on since",
            count(undone.stay)
        )?;
    }
    if undone.plans.is_empty() {
        return writeln!(out, "nothing is to be moved");
    }
    undone.plans.iter().try_for_each(|found| plan(found, out))
}

fn published(published: &Published, out: &mut impl Write) -> io::Result<()> {
    if let Some(why) = &published.unread {
        writeln!(out, "NOT FROM THE FILE AS IT IS NOW: {why}")?;
    }
    if published.changes.is_empty() {
        return writeln!(out, "all that this relay has read is published already");
    }
    for line in &published.changes {
        writeln!(out, "{line}")?;
    }
    match published.rev {
        Some(rev) => writeln!(out, "published at revision {rev}"),
        None => writeln!(out, "would be published; nothing was changed"),
    }
}

fn lease(lease: Lease) -> String {
    String::from(lease)
}

pub(super) fn count(count: usize) -> String {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// What a move without hooks means (R-D11).
const NOT_ASKED: &str =
    "no application is asked: a call that outlives its deadline may still write at the old owner after the move";
/// Lines of a plan.
const PLANNED_MAX: usize = 20;
/// Lines about what a move has under way.
const UNDER_WAY_MAX: usize = 10;

const INCOMPLETE: &str = "shadow incomplete: the other unit lacks writes that the owner served; strait_shadow_calls_total of the \
                          owner's relays says how many and why, copy them before you rely on it";
