//! `strait queue`, `strait dlq`, `strait replay`, `strait audit`: messages of a running relay, for operators.
//!
//! # Invariants
//! - Q1. What destroys is shown first and done after a yes, or with `--yes`.
//! - Q2. Each change carries the name of the user, for the audit log.
//!
//! # Not here
//! What the relay does with a command (`queue`).

mod dlq;
mod filter;
mod groups;
mod replay;
mod show;

use std::io::Write;
use std::time::Duration;

use clap::Subcommand;

pub(super) use self::dlq::{Dlq, HELP as DLQ_HELP, dlq};
use self::filter::Where;
pub(super) use self::replay::{HELP as REPLAY_HELP, Replay, replay};
use super::ask::{At, confirm, who};
use super::{CliError, Output, write_json};
use crate::model::{GroupName, Topic, UnitId, UnixMillis};
use crate::peer::credentials::wall_clock;
use crate::queue::operator::{Answer, Command};
use crate::queue::record::{Pausable, Pause};

/// For `strait queue --help`.
pub(super) const HELP: &str = "\
Examples:
  strait queue status
  strait queue peek --unit b --topic chat.messages --key uid=1500
  strait queue purge --unit b --before 2h --dry-run
  strait queue pause --topic chat.edits --reason 'bad release of im.Editor' --for 30m
  strait queue unblock --topic chat.edits --group archive

Exit codes: 0 done, 1 failed (no relay, no answer), 2 the relay says no, 64 the command line is wrong";

#[derive(Debug, clap::Args)]
pub(super) struct Queue {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what waits, for whom, and why
    Status {
        /// Only messages to this unit
        #[arg(long, value_name = "UNIT", value_parser = super::name, conflicts_with = "topic")]
        unit: Option<UnitId>,
        /// Only groups of this topic
        #[arg(long, value_name = "TOPIC", value_parser = super::name)]
        topic: Option<Topic>,
    },
    /// Look at messages without touching them
    #[command(
        after_help = "Examples:\n  strait queue peek --unit b --limit 5\n  strait queue peek --topic chat.messages --group archive --bodies"
    )]
    Peek {
        #[command(flatten)]
        place: Where,
        /// How many at most
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
        /// Show the bodies too; needs the permission to change
        #[arg(long)]
        bodies: bool,
    },
    /// Remove messages for good; their units are told
    #[command(
        after_help = "Examples:\n  strait queue purge --unit b --before 24h --dry-run\n  strait queue purge --topic chat.typing --all --yes"
    )]
    Purge {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        purge: PurgeArgs,
    },
    /// Stop sending to a unit, or delivering a topic or to a group, for a while
    #[command(
        after_help = "Examples:\n  strait queue pause --unit b --reason 'moving b' --for 2h\n  strait queue pause --topic chat.edits --group archive --reason 'archive is full'"
    )]
    Pause {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        pause: PauseArgs,
    },
    /// Let it go on
    Resume {
        #[command(flatten)]
        what: What,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
    /// Count every message twice, by the books and by the log; exit code 2 if they differ
    Audit,
    /// Remove a group that nobody uses any more; what it is not done with is gone
    #[command(
        after_help = "Examples:\n  strait queue group-remove --topic chat.edits --group archvie --reason 'a typing error' --dry-run"
    )]
    GroupRemove(groups::Remove),
    /// Let blocked keys of a group go on: their first message is tried again
    Unblock {
        /// Topic of the group
        #[arg(long, value_name = "TOPIC", value_parser = super::name)]
        topic: Topic,
        /// The group
        #[arg(long, value_name = "GROUP", value_parser = super::name)]
        group: GroupName,
        /// Only this key
        #[arg(long, value_name = "DIMENSION=KEY", value_parser = filter::pair)]
        key: Option<String>,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
}

/// How a purge is done.
#[derive(Debug, clap::Args)]
struct PurgeArgs {
    /// All of them; needed if nothing says which
    #[arg(long)]
    all: bool,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What can be paused here.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// Sending to this unit
    #[arg(long, value_name = "UNIT", value_parser = super::name, conflicts_with = "topic")]
    unit: Option<UnitId>,
    /// Sending and delivering this topic
    #[arg(long, value_name = "TOPIC", value_parser = super::name)]
    topic: Option<Topic>,
    /// Delivering to this group of the topic only
    #[arg(long, value_name = "GROUP", value_parser = super::name, requires = "topic")]
    group: Option<GroupName>,
}

#[derive(Debug, clap::Args)]
struct PauseArgs {
    /// Why; shown to whoever looks
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// After so long it goes on by itself
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Only say what would be sent to the relay
    #[arg(long)]
    dry_run: bool,
}

impl What {
    fn pausable(&self) -> Result<Pausable, CliError> {
        match (&self.unit, &self.topic, &self.group) {
            (Some(unit), ..) => Ok(Pausable::Unit { unit: unit.clone() }),
            (_, Some(topic), None) => Ok(Pausable::Topic { topic: topic.clone() }),
            (_, Some(topic), Some(group)) => Ok(Pausable::Group {
                topic: topic.clone(),
                group: group.clone(),
            }),
            _ => Err(CliError::Usage("give --unit or --topic".to_owned())),
        }
    }
}

impl PauseArgs {
    fn command(&self, what: Pausable) -> Command {
        Command::Pause {
            what,
            pause: Pause::for_time(&self.reason, self.time, UnixMillis(now())),
            who: who(),
        }
    }
}

/// `strait queue`.
pub(super) fn run(args: &Queue, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let session = Session { at: &args.at, output };
    match &args.verb {
        Verb::Status { unit, topic } => {
            let answer = session.ask(&Command::Status)?;
            let Answer::Status(mut status) = answer else {
                return Err(unexpected(&answer));
            };
            status
                .units
                .retain(|row| unit.as_ref().is_none_or(|unit| unit.as_str() == row.unit) && topic.is_none());
            status
                .groups
                .retain(|row| topic.as_ref().is_none_or(|topic| topic.as_str() == row.topic) && unit.is_none());
            match (output, unit, topic) {
                (Output::Human, Some(unit), None) => Ok(show::of_unit(&status, unit, out)?),
                (Output::Human, None, Some(topic)) => Ok(show::of_topic(&status, topic, out)?),
                _ => session.write(&Answer::Status(status), out),
            }
        }
        Verb::Peek { place, limit, bodies } => {
            let (line, filter) = place.line()?;
            let (limit, bodies) = (*limit, *bodies);
            let command = Command::Peek {
                line,
                filter,
                limit,
                bodies,
            };
            session.write(&session.ask(&command)?, out)
        }
        Verb::Purge { place, purge } => {
            let (line, filter) = place.line()?;
            let where_ = line.to_string();
            let command = |dry_run| Command::Purge {
                line: line.clone(),
                filter: filter.clone(),
                all: purge.all,
                dry_run,
                who: who(),
            };
            session.purge(purge, filter.is_empty(), &where_, &command, out)
        }
        Verb::Pause { what, pause } => session.change(&pause.command(what.pausable()?), pause.dry_run, out),
        Verb::Resume { what, dry_run } => {
            let command = Command::Resume {
                what: what.pausable()?,
                who: who(),
            };
            session.change(&command, *dry_run, out)
        }
        Verb::Audit => session.audit(out),
        Verb::GroupRemove(remove) => groups::remove(&session, remove, out),
        Verb::Unblock {
            topic,
            group,
            key,
            dry_run,
        } => {
            let command = Command::Unblock {
                topic: topic.clone(),
                group: group.clone(),
                key: key.clone(),
                who: who(),
            };
            session.change(&command, *dry_run, out)
        }
    }
}

/// `strait audit`.
pub(super) fn audit(args: &Audit, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    Session { at: &args.at, output }.audit(out)
}

/// One relay, asked by one command.
struct Session<'a> {
    at: &'a At,
    output: Output,
}

impl Session<'_> {
    fn ask(&self, command: &Command) -> Result<Answer, CliError> {
        self.at.ask(command, self.output)
    }

    fn write(&self, answer: &Answer, out: &mut impl Write) -> Result<(), CliError> {
        match self.output {
            Output::Human => Ok(show::answer(answer, out)?),
            Output::Json => write_json(out, answer),
        }
    }

    /// Sends a change, or says what would be sent.
    fn change(&self, command: &Command, dry_run: bool, out: &mut impl Write) -> Result<(), CliError> {
        if !dry_run {
            return self.write(&self.ask(command)?, out);
        }
        if self.output == Output::Human {
            writeln!(out, "would be sent; nothing was changed:")?;
        }
        write_json(out, command)
    }

    /// Counts, asks, removes (Q1).
    fn purge(
        &self,
        purge: &PurgeArgs,
        is_unfiltered: bool,
        where_: &str,
        command: &dyn Fn(bool) -> Command,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        if is_unfiltered && !purge.all {
            let text = "which messages? give a filter such as --before 24h or --key, or --all for all of them";
            return Err(CliError::Usage(text.to_owned()));
        }
        if purge.dry_run || !purge.yes {
            let counted = self.ask(&command(true))?;
            let Answer::Done { messages } = counted else {
                return Err(unexpected(&counted));
            };
            if purge.dry_run {
                return match self.output {
                    Output::Human => Ok(writeln!(
                        out,
                        "{} would be removed from {where_}",
                        show::messages(messages)
                    )?),
                    Output::Json => write_json(out, &counted),
                };
            }
            confirm(&format!("remove {} from {where_} for good", show::messages(messages)))?;
        }
        self.write(&self.ask(&command(false))?, out)
    }

    fn audit(&self, out: &mut impl Write) -> Result<(), CliError> {
        let answer = self.ask(&Command::Audit)?;
        self.write(&answer, out)?;
        match answer {
            Answer::Audit { rows } if rows.iter().any(|row| row.difference != 0) => Err(CliError::No),
            Answer::Audit { .. } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }
}

pub(super) fn unexpected(answer: &Answer) -> CliError {
    let text = format!(
        "the relay answers with something else ({}); is it of another version?",
        answer.outcome()
    );
    CliError::Format(text.into())
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    u64::try_from(Duration::from_secs(wall_clock().as_secs()).as_millis()).unwrap_or(u64::MAX)
}
