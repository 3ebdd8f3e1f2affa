//! `strait config`.

use std::io::Write;

use clap::Subcommand;
use serde::Serialize;

use super::{CliError, Output, SourceArgs, load, write_json};
use crate::settings::{Problems, Schema, reference, show};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Find mistakes; exit code 2 if there are any
    Check(SourceArgs),
    /// Print a configuration file with every key, its description and default
    Reference,
    /// Print the JSON schema of the configuration, for editors
    Schema,
    /// Print the values in force and where each came from
    Show(SourceArgs),
}

#[derive(Serialize)]
struct Checked<'a> {
    ok: bool,
    problems: Vec<Problem<'a>>,
    /// Odd, but allowed.
    warnings: Vec<Problem<'a>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    place: Option<&'a str>,
    key: &'a str,
    text: &'a str,
}

pub(super) fn run(command: &Command, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    match command {
        Command::Check(args) => check(args, output, out),
        Command::Reference => {
            let text = reference().map_err(|error| CliError::Format(Box::new(error)))?;
            Ok(out.write_all(text.as_bytes())?)
        }
        Command::Schema => write_json(out, Schema::new().json()),
        Command::Show(args) => print(args, output, out),
    }
}

fn check(args: &SourceArgs, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let result = load(&args.source());
    match (result, output) {
        (Ok(checked), Output::Human) => {
            for warning in &checked.warnings.0 {
                writeln!(out, "warning: {warning}")?;
            }
            Ok(writeln!(out, "the configuration is right")?)
        }
        (Err(problems), Output::Human) => Err(problems.into()),
        (Ok(right), Output::Json) => write_json(out, &checked(&Problems::default(), &right.warnings)),
        (Err(problems), Output::Json) => {
            write_json(out, &checked(&problems, &Problems::default()))?;
            Err(CliError::No)
        }
    }
}

fn checked<'a>(problems: &'a Problems, warnings: &'a Problems) -> Checked<'a> {
    let list = |problems: &'a Problems| {
        let each = problems.0.iter().map(|problem| Problem {
            place: problem.place.as_deref(),
            key: &problem.key,
            text: &problem.text,
        });
        each.collect()
    };
    Checked {
        ok: problems.0.is_empty(),
        problems: list(problems),
        warnings: list(warnings),
    }
}

fn print(args: &SourceArgs, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let shown = show(&args.source().load()?);
    if output == Output::Json {
        return write_json(out, &shown);
    }
    let lines: Vec<_> = shown
        .iter()
        .map(|shown| (format!("{} = {}", shown.key, shown.value), &shown.from))
        .collect();
    let width = lines.iter().map(|(line, _)| line.len()).filter(|len| *len <= 60).max();
    for (line, from) in &lines {
        writeln!(out, "{line:width$}  # {from}", width = width.unwrap_or_default())?;
    }
    Ok(())
}
