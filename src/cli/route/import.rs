//! `strait route import`: keys of a file get their units.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::{Answer, CliError, Command, Output, Session, csv, unexpected, who, write_json};
use crate::cli::table::number;
use crate::control::operator::ImportRow;

/// For `strait route import --help`.
pub(super) const HELP: &str = "\
A line is dimension,key,unit (CSV; a key that is no text as base64:...), or the file is what `strait route export` wrote. Keys that nobody
has are claimed, or pinned where keys are not claimed. Keys that belong to another unit are named and left alone; move them with
`strait route move`. Doing it again does no harm.

Examples:
  strait route import owners.csv --dry-run
  strait route export | ssh other strait route import -";

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What became of the lines.
#[derive(Default, Serialize)]
struct Report {
    given: usize,
    there_already: usize,
    skipped: usize,
    conflicts: Vec<Trouble>,
    refused: Vec<Trouble>,
    dry_run: bool,
}

/// A line that nothing came of.
#[derive(Serialize)]
struct Trouble {
    line: usize,
    why: String,
}

/// Sends the file in parts.
pub(super) fn run(session: &Session<'_>, args: &Import, out: &mut impl Write) -> Result<(), CliError> {
    let text = csv::read(&args.file)?;
    let mut report = Report {
        dry_run: args.dry_run,
        ..Report::default()
    };
    let mut part = Part::default();
    for line in csv::keys(&text) {
        let (line, row) = line.map_err(CliError::Usage)?;
        match row {
            Ok(Some((key, Some(unit)))) => {
                if part.is_full() {
                    part.send(session, &mut report)?;
                }
                part.add(line, key, unit);
            }
            Ok(Some((_, None))) => report.refused.push(Trouble {
                line,
                why: "the unit is missing; a line is dimension,key,unit".to_owned(),
            }),
            Ok(None) => report.skipped += 1,
            Err(why) => report.refused.push(Trouble { line, why }),
        }
    }
    part.send(session, &mut report)?;
    report.conflicts.sort_by_key(|trouble| trouble.line);
    report.refused.sort_by_key(|trouble| trouble.line);
    match session.output {
        Output::Human => report.print(out)?,
        Output::Json => write_json(out, &report)?,
    }
    if report.conflicts.is_empty() && report.refused.is_empty() {
        Ok(())
    } else {
        Err(CliError::No)
    }
}

/// Lines that are sent together.
#[derive(Default)]
struct Part {
    rows: Vec<ImportRow>,
    lines: Vec<usize>,
    bytes: usize,
}

impl Part {
    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes >= BYTES_MAX
    }

    fn add(&mut self, line: usize, (dimension, key): super::csv::Key, unit: crate::model::UnitId) {
        self.bytes += key.0.len() + ROW_BYTES;
        self.lines.push(line);
        self.rows.push(ImportRow { dimension, key, unit });
    }

    fn send(&mut self, session: &Session<'_>, report: &mut Report) -> Result<(), CliError> {
        let Self { rows, lines, .. } = std::mem::take(self);
        if rows.is_empty() {
            return Ok(());
        }
        let command = Command::Import {
            rows,
            dry_run: report.dry_run,
            who: who(),
        };
        let answer = session.ask(&command).map_err(|error| report.broken_off(error))?;
        let Answer::Imported(imported) = answer else {
            return Err(unexpected(&answer));
        };
        report.given += imported.given;
        report.there_already += imported.there_already;
        let line = |at: usize| lines.get(at).copied().unwrap_or_default();
        report
            .conflicts
            .extend(imported.conflicts.into_iter().map(|conflict| Trouble {
                line: line(conflict.at),
                why: format!("the key belongs to unit {}", conflict.owner),
            }));
        report
            .refused
            .extend(imported.refused.into_iter().map(|refusal| Trouble {
                line: line(refusal.at),
                why: refusal.detail,
            }));
        report.progress(session.output);
        Ok(())
    }
}

impl Report {
    /// An error in the middle: how far it came.
    fn broken_off(&self, error: CliError) -> CliError {
        if self.given > 0 && !self.dry_run {
            let given = number_of(self.given);
            // Nothing depends on it.
            let _ = writeln!(
                io::stderr(),
                "{given} keys were given before; import the same file again to go on"
            );
        }
        error
    }

    fn progress(&self, output: Output) {
        let mut err = io::stderr();
        if output == Output::Human && err.is_terminal() {
            let done = self.given + self.there_already + self.conflicts.len() + self.refused.len();
            // Nothing depends on it.
            let _ = write!(err, "\r\u{1b}[K{} keys\r", number_of(done));
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let given = if self.dry_run { "would be given" } else { "given" };
        writeln!(out, "{given:<14}  {}", number_of(self.given))?;
        writeln!(out, "there already   {}", number_of(self.there_already))?;
        if self.skipped > 0 {
            writeln!(out, "not about keys  {}", number_of(self.skipped))?;
        }
        writeln!(out, "of other units  {}", number_of(self.conflicts.len()))?;
        writeln!(out, "refused         {}", number_of(self.refused.len()))?;
        for trouble in self.conflicts.iter().chain(&self.refused) {
            writeln!(out, "line {}: {}", trouble.line, trouble.why)?;
        }
        if !self.conflicts.is_empty() {
            writeln!(
                out,
                "keys of other units were left alone; move them with: strait route move --file FILE --to UNIT"
            )?;
        }
        Ok(())
    }
}

fn number_of(count: usize) -> String {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Keys that are sent together.
const ROWS_MAX: usize = 200;
/// Bytes of keys that are sent together: a dry run must fit into the query of an address.
const BYTES_MAX: usize = 8 << 10;
/// What a row takes beside its key, about.
const ROW_BYTES: usize = 60;
