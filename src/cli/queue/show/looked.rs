//! Messages that were looked at.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::number_of;
use crate::cli::table::{Table, moment, number, size};
use crate::queue::CALLS_TOPIC;
use crate::queue::operator::Peeked;

/// One line for each.
pub(super) fn list(messages: &[Peeked], out: &mut impl Write) -> io::Result<()> {
    let Some(first) = messages.first() else {
        return writeln!(out, "no message fits");
    };
    let is_dead = first.place.is_some();
    let mut table = if is_dead {
        Table::new(&[
            "SEQ>",
            "GIVEN UP",
            "TOPIC",
            "KEY",
            "PLACE",
            "REASON",
            "FOR",
            "ATTEMPTS>",
            "BYTES>",
        ])
    } else {
        Table::new(&["SEQ>", "ACCEPTED", "TOPIC", "KEY", "STATE", "ATTEMPTS>", "BYTES>", "ID"])
    };
    for message in messages {
        let at = if is_dead {
            message.last_failure.unwrap_or_default()
        } else {
            message.accepted_at
        };
        let mut row = vec![
            number_of(message.seq),
            moment(at),
            topic_of(message),
            or_dash(message.key.as_deref()),
        ];
        let (attempts, bytes) = (number(message.attempts.into()), size(message.body_bytes));
        if is_dead {
            row.extend([&message.place, &message.reason, &message.was_for].map(|text| or_dash(text.as_deref())));
            row.extend([attempts, bytes]);
        } else {
            row.extend([message.state.clone(), attempts, bytes, message.id.clone()]);
        }
        table.row(row);
    }
    table.print(out)
}

/// Everything about each message.
pub(in crate::cli::queue) fn in_full(messages: &[Peeked], out: &mut impl Write) -> io::Result<()> {
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        for (name, value) in facts(message) {
            writeln!(out, "{name:<14} {value}")?;
        }
        for (name, value) in &message.attributes {
            writeln!(out, "  {name} = {value}")?;
        }
        if let Some(body) = &message.body {
            writeln!(out, "{}", readable(body))?;
        }
    }
    Ok(())
}

fn facts(message: &Peeked) -> Vec<(&'static str, String)> {
    let some = |name, value: &Option<String>| value.clone().map(|value| (name, value));
    let time = |name, value: Option<u64>| value.map(|value| (name, moment(value)));
    let facts = [
        Some(("seq", number_of(message.seq))),
        Some(("id", message.id.clone())),
        Some(("topic", message.topic.clone())),
        some("key", &message.key),
        Some(("state", message.state.clone())),
        Some(("accepted", moment(message.accepted_at))),
        time("deadline", message.deadline),
        (message.attempts > 0).then(|| ("attempts", message.attempts.to_string())),
        (message.redrives > 0).then(|| ("redrives", message.redrives.to_string())),
        some("place", &message.place),
        some("reason", &message.reason),
        some("was for", &message.was_for),
        time("first failure", message.first_failure),
        time("last failure", message.last_failure),
        some("last error", &message.error),
        Some(("body", size(message.body_bytes))),
    ];
    facts.into_iter().flatten().collect()
}

/// The topic; of a call that is kept for its unit, also which one it is.
fn topic_of(message: &Peeked) -> String {
    let call = message.attributes.iter().find(|(name, _)| name == "type");
    match call {
        Some((_, call)) if message.topic == CALLS_TOPIC => format!("{} {call}", message.topic),
        _ => message.topic.clone(),
    }
}

/// A body as text if it is text, else as it came, in base64.
fn readable(body: &str) -> String {
    let bytes = BASE64_STANDARD.decode(body).unwrap_or_default();
    let text = String::from_utf8(bytes).ok();
    let is_plain = |text: &String| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    text.filter(is_plain).unwrap_or_else(|| format!("(base64) {body}"))
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}
