//! `strait dlq`: dead letters.

use std::io::Write;
use std::thread;
use std::time::Duration;

use clap::Subcommand;

use super::super::{CliError, Output};
use super::filter::Dead;
use super::{At, PauseArgs, PurgeArgs, Session, show, unexpected, who};
use crate::queue::operator::{Answer, Command, Line, RedriveRequest, RedriveStatus};
use crate::queue::record::Pausable;

/// For `strait dlq --help`.
pub(in crate::cli) const HELP: &str = "\
Examples:
  strait dlq list --topic chat.messages --reason attempts
  strait dlq show --seq 17 --bodies
  strait dlq redrive --topic chat.messages --since 2h --rate 50 --ramp 1m --dry-run
  strait dlq redrive --topic chat.messages --since 2h --rate 50 --ramp 1m --wait
  strait dlq purge --before 2026-11-01T00:00:00Z --dry-run

Exit codes: 0 done, 1 failed (no relay, no answer), 2 the relay says no, 64 the command line is wrong";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Dlq {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        which: Dead,
        /// How many at most
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
    },
    /// Show everything about dead letters; exit code 2 if there is none that fits
    Show {
        #[command(flatten)]
        which: Dead,
        /// How many at most
        #[arg(long, default_value_t = 1, value_name = "N")]
        limit: usize,
        /// Show the bodies too; needs the permission to change
        #[arg(long)]
        bodies: bool,
    },
    /// Remove dead letters for good
    Purge {
        #[command(flatten)]
        which: Dead,
        #[command(flatten)]
        purge: PurgeArgs,
    },
    /// Take dead letters back to where they were
    #[command(
        after_help = "Redriven messages go through the backlog lane, within its limits, and keep id, key and deadline.\nMessages of ordered topics come behind later ones of their key: that needs --allow-reorder."
    )]
    Redrive {
        #[command(flatten)]
        which: Dead,
        #[command(flatten)]
        how: How,
    },
    /// List redrives, the last ones first
    Tasks,
    /// Stop a redrive for a while
    Pause {
        /// Number of the redrive
        task: u64,
        #[command(flatten)]
        pause: PauseArgs,
    },
    /// Let a redrive go on
    Resume {
        /// Number of the redrive
        task: u64,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
    /// End a redrive; what was moved stays moved
    Cancel {
        /// Number of the redrive
        task: u64,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct How {
    /// Messages per second; without, as fast as the backlog lane takes them
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = rate)]
    rate: f64,
    /// Time in which the rate rises from one message per second to --rate
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "rate")]
    ramp: Option<Duration>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    /// Give them a new end, so long from now
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    extend_ttl: Option<Duration>,
    /// Take back messages of ordered topics too, behind later ones of their keys
    #[arg(long)]
    allow_reorder: bool,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Wait until it has ended; exit code 2 if it fails
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected messages per second, such as 50 or 0.5".to_owned()),
    }
}

pub(in crate::cli) fn dlq(args: &Dlq, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let session = Session { at: &args.at, output };
    match &args.verb {
        Verb::List { which, limit } => session.write(&peek(&session, which, *limit, false)?, out),
        Verb::Show { which, limit, bodies } => {
            let answer = peek(&session, which, *limit, *bodies)?;
            let Answer::Messages { messages, .. } = &answer else {
                return Err(unexpected(&answer));
            };
            if messages.is_empty() {
                return Err(CliError::Refused {
                    detail: "no dead letter fits; `strait dlq list` shows those there are".to_owned(),
                });
            }
            match output {
                Output::Human => Ok(show::in_full(messages, out)?),
                Output::Json => session.write(&answer, out),
            }
        }
        Verb::Purge { which, purge } => {
            let filter = which.filter();
            let command = |dry_run| Command::Purge {
                line: Line::Dead,
                filter: filter.clone(),
                all: purge.all,
                dry_run,
                who: who(),
            };
            session.purge(purge, filter.is_empty(), "the dead letters", &command, out)
        }
        Verb::Redrive { which, how } => redrive(&session, which, how, out),
        Verb::Tasks => session.write(&session.ask(&Command::Redrives)?, out),
        Verb::Pause { task, pause } => {
            session.change(&pause.command(Pausable::Redrive { task: *task }), pause.dry_run, out)
        }
        Verb::Resume { task, dry_run } => {
            let what = Pausable::Redrive { task: *task };
            session.change(&Command::Resume { what, who: who() }, *dry_run, out)
        }
        Verb::Cancel { task, dry_run } => {
            let command = Command::CancelRedrive {
                task: *task,
                who: who(),
            };
            session.change(&command, *dry_run, out)
        }
    }
}

fn peek(session: &Session<'_>, which: &Dead, limit: usize, bodies: bool) -> Result<Answer, CliError> {
    session.ask(&Command::Peek {
        line: Line::Dead,
        filter: which.filter(),
        limit,
        bodies,
    })
}

fn redrive(session: &Session<'_>, which: &Dead, how: &How, out: &mut impl Write) -> Result<(), CliError> {
    let request = RedriveRequest {
        filter: which.filter(),
        rate: how.rate,
        ramp_seconds: how.ramp.map_or(0, |ramp| ramp.as_secs()),
        limit: how.limit,
        dry_run: how.dry_run,
        extend_ttl_seconds: how.extend_ttl.map_or(0, |ttl| ttl.as_secs().max(1)),
        allow_reorder: how.allow_reorder,
    };
    let answer = session.ask(&Command::Redrive { request, who: who() })?;
    let Answer::Redrives { tasks } = &answer else {
        return Err(unexpected(&answer));
    };
    let Some(task) = tasks.first() else {
        return Err(unexpected(&answer));
    };
    let found = follow(session, task, how)?;
    if found.state == "failed" {
        let detail = format!("redrive {}: {}", found.task, found.reason);
        return Err(CliError::Refused { detail });
    }
    if how.dry_run && session.output == Output::Human {
        let fit = show::messages(found.remaining);
        return Ok(writeln!(out, "{fit} would be taken back; nothing was changed")?);
    }
    let is_wrong = how.wait && found.state != "done";
    session.write(&Answer::Redrives { tasks: vec![found] }, out)?;
    if is_wrong { Err(CliError::No) } else { Ok(()) }
}

/// Looks until the task has ended, or, if nobody waits for that, until it moves: what cannot be done fails before.
fn follow(session: &Session<'_>, task: &RedriveStatus, how: &How) -> Result<RedriveStatus, CliError> {
    let mut found = task.clone();
    for look in 0.. {
        let begun = found.moved > 0 || found.state == "paused" || look >= LOOKS;
        if is_over(&found) || (begun && !how.wait && !how.dry_run) {
            break;
        }
        show::progress(&found, session.output);
        thread::sleep(LOOK);
        let answer = session.ask(&Command::Redrives)?;
        let Answer::Redrives { tasks } = answer else {
            return Err(unexpected(&answer));
        };
        let Some(now) = tasks.into_iter().find(|one| one.task == task.task) else {
            let detail = format!("redrive {} is not there any more; see `strait dlq tasks`", task.task);
            return Err(CliError::Refused { detail });
        };
        found = now;
    }
    show::progress_ends(session.output);
    Ok(found)
}

fn is_over(task: &RedriveStatus) -> bool {
    !matches!(task.state.as_str(), "paused" | "running")
}

const LOOK: Duration = Duration::from_millis(250);
/// So often, for a redrive to begin.
const LOOKS: u32 = 12;
