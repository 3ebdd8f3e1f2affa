//! `strait unit local-mode`: a unit counts as away for calls of methods with `on_failure`, because a person says so.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::cli::ask::{At, who};
use crate::cli::table::{Table, moment};
use crate::cli::{CliError, Output, name, queue, write_json};
use crate::model::{UnitId, UnixMillis};
use crate::queue::operator::{Answer, Command, UnitStatus};
use crate::queue::record::{Pausable, Pause};

pub(super) const HELP: &str = "\
For a unit that answers, but wrongly, or before this relay has seen that it is away. Calls of methods with on_failure = \"park\" or \"local\" do not
go there any more: they are kept, or end as unit_away if they cannot be. Other calls, and methods that only read, go on. What is kept waits here until
that is taken back, or its time is over. Each relay of this unit decides for itself; it remembers it when it starts anew.

Examples:
  strait unit local-mode b --for 30m --reason 'its database is read-only'
  strait unit local-mode b --for 30m --reason 'its database is read-only' --relays 10.0.0.1:7402,10.0.0.2:7402
  strait unit local-mode b --off
  strait unit local-mode";

#[derive(Debug, clap::Args)]
pub(super) struct LocalMode {
    /// The unit; without one, those that count as away are shown
    #[arg(value_name = "UNIT", value_parser = name)]
    unit: Option<UnitId>,
    /// Until when, from now on; 24 hours at most
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, requires_all = ["unit", "reason"])]
    time: Option<Duration>,
    /// Why; shown to whoever looks
    #[arg(long, value_name = "TEXT", requires = "time")]
    reason: Option<String>,
    /// It counts as away no more
    #[arg(long, requires = "unit", conflicts_with = "time")]
    off: bool,
    /// Admin addresses of all relays of this unit, in place of --admin
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    relays: Vec<String>,
}

/// A unit that counts as away at a relay.
#[derive(Serialize)]
struct Row {
    admin: String,
    unit: String,
    until: Option<u64>,
    reason: String,
}

/// Does it at each of the relays, whatever the others say, and shows how they stand then.
pub(super) fn run(args: &LocalMode, at: &At, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let command = args.command()?;
    let mut rows = Vec::new();
    let mut failed: Vec<(String, CliError)> = Vec::new();
    // Of relays that cannot be asked nothing is known.
    let mut is_known = false;
    let relays = match args.relays.as_slice() {
        [] => vec![at.clone()],
        relays => relays.iter().map(|relay| at.at(relay)).collect(),
    };
    for relay in relays {
        match change(&relay, command.as_ref(), output) {
            Ok(mut found) => {
                is_known = true;
                rows.append(&mut found);
            }
            Err(error) => failed.push((relay.address().to_owned(), error)),
        }
    }
    // The last one is told as any error.
    let last = failed.pop();
    if output == Output::Json {
        write_json(out, &rows)?;
    } else {
        if is_known {
            show(&rows, !args.relays.is_empty(), out)?;
        }
        for (relay, error) in failed {
            writeln!(out, "not at {relay}: {error}")?;
        }
    }
    last.map_or(Ok(()), |(_, error)| Err(error))
}

impl LocalMode {
    /// What is to be done, if something is.
    fn command(&self) -> Result<Option<Command>, CliError> {
        let Some(unit) = &self.unit else { return Ok(None) };
        let what = Pausable::Calls { unit: unit.clone() };
        if self.off {
            return Ok(Some(Command::Resume { what, who: who() }));
        }
        let (Some(time), Some(reason)) = (self.time, &self.reason) else {
            let text = "say for how long and why, with --for and --reason; or --off";
            return Err(CliError::Usage(text.to_owned()));
        };
        Ok(Some(Command::Pause {
            what,
            pause: Pause::for_time(reason, Some(time), UnixMillis(queue::now())),
            who: who(),
        }))
    }
}

fn change(relay: &At, command: Option<&Command>, output: Output) -> Result<Vec<Row>, CliError> {
    if let Some(command) = command {
        relay.ask(command, output)?;
    }
    away(relay, output)
}

/// The units that count as away at a relay.
fn away(relay: &At, output: Output) -> Result<Vec<Row>, CliError> {
    let status = match relay.ask(&Command::Status, output)? {
        Answer::Status(status) => status,
        answer => return Err(queue::unexpected(&answer)),
    };
    let row = |unit: UnitStatus| {
        let pause = unit.counts_as_away?;
        Some(Row {
            admin: relay.address().to_owned(),
            unit: unit.unit,
            until: pause.until,
            reason: pause.reason,
        })
    };
    Ok(status.units.into_iter().filter_map(row).collect())
}

fn show(rows: &[Row], where_from: bool, out: &mut impl Write) -> Result<(), CliError> {
    if rows.is_empty() {
        return Ok(writeln!(out, "no unit counts as away")?);
    }
    let mut heading = vec!["UNIT", "AWAY UNTIL", "WHO AND WHY"];
    if where_from {
        heading.push("AT");
    }
    let mut table = Table::new(&heading);
    for row in rows {
        let until = row.until.map_or_else(String::new, moment);
        let mut cells = vec![row.unit.clone(), until, row.reason.clone()];
        if where_from {
            cells.push(row.admin.clone());
        }
        table.row(cells);
    }
    Ok(table.print(out)?)
}

/// For whoever looks at units: which of them count as away at the relay that is asked. A relay without a queue says nothing.
pub(super) fn note(at: &At, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    for row in away(at, output).unwrap_or_default() {
        let until = row.until.map_or_else(String::new, moment);
        writeln!(
            out,
            "unit {} counts as away at this relay until {until}: {}",
            row.unit, row.reason
        )?;
    }
    Ok(())
}
