//! `strait route provisional`: keys that a relay has placed while the route store was away.

use std::io::{self, Write};

use super::show::{count, target};
use super::{CliError, Session, unexpected};
use crate::cli::table::{Table, moment};
use crate::control::operator::{Answer, Command, ProvisionalRows};

/// For `strait route provisional --help`.
pub(super) const HELP: &str = "\
Dimensions with claim_fallback = \"deterministic\" have them. What is pending is claimed by itself when the store is back. A conflict is a
key that another unit had claimed first: calls go there, and what the chosen unit has of the key is to be merged by you; then dismiss it.
Each relay lists its own.

Examples:
  strait route provisional
  strait route provisional --output json
  strait route dismiss --key im.conversation=cid:1:42";

/// Lists them. That there are some is a no, so that a script can wait until there are none.
pub(super) fn run(session: &Session<'_>, limit: usize, out: &mut impl Write) -> Result<(), CliError> {
    let answer = session.ask(&Command::Provisional { limit })?;
    session.write(&answer, out)?;
    match answer {
        Answer::Provisional(found) if found.pending == 0 && found.conflicts == 0 => Ok(()),
        Answer::Provisional(_) => Err(CliError::No),
        answer => Err(unexpected(&answer)),
    }
}

/// Writes the list.
pub(super) fn show(found: &ProvisionalRows, out: &mut impl Write) -> io::Result<()> {
    if found.rows.is_empty() {
        return writeln!(out, "no key is placed without the route store");
    }
    let mut table = Table::new(&["KEY", "STATE", "CHOSEN", "CLAIMED FOR", "PLACED AT", "FOUND AT"]);
    let at = |seconds: u64| moment(seconds.saturating_mul(1000));
    for row in &found.rows {
        let state = if row.claimed.is_some() { "conflict" } else { "pending" };
        table.row(vec![
            format!("{}={}", row.dimension, String::from(row.key.clone())),
            state.to_owned(),
            target(&row.chosen),
            row.claimed.as_ref().map_or_else(|| "-".to_owned(), target),
            at(row.at),
            row.found_at.map_or_else(|| "-".to_owned(), at),
        ]);
    }
    table.print(out)?;
    let (pending, conflicts) = (count(found.pending), count(found.conflicts));
    let when = if found.in_force {
        "the store is away, calls go by them"
    } else {
        "the store answers, they are being claimed"
    };
    writeln!(out, "{pending} pending ({when}), {conflicts} in conflict")
}
