//! `strait route`: which units own which keys, of relays that have a route store.
//!
//! # Invariants
//! - Q2. Each change carries the name of the user, for the audit log.
//!
//! # Not here
//! What the relay does with a command (`control::operator`).

mod csv;
mod follow;
mod import;
mod provisional;
mod show;
mod what;

use std::io::Write;
use std::time::Duration;

use clap::Subcommand;

use self::what::What;
use super::ask::{At, who};
use super::{CliError, Output, write_json};
use crate::control::operator::{Answer, Command, GiveAsk, MoveAsk, Undo};
use crate::model::{Name, UnitId};
use crate::routing::record::{KeyBytes, MoveId, MoveOptions, RelayId};

/// For `strait route --help`.
pub(super) const HELP: &str = "\
Examples:
  strait route get --key im.conversation=cid:1:42
  strait route set --key im.conversation=cid:1:42 --unit b
  strait route move --key im.conversation=cid:1:42 --to b --dry-run
  strait route move --rule im.user=3 --to c --reason 'hall 3 closes' --wait
  strait route moves
  strait route undo 00c0ffee00c0ffee --dry-run
  strait route import owners.csv --dry-run
  strait route publish --dry-run

Exit codes: 0 done, 1 failed (no relay, no answer, no route store), 2 the relay says no, 64 the command line is wrong";

#[derive(Debug, clap::Args)]
pub(super) struct Route {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Stop a move: what is under way goes back, what was moved stays
    Abort {
        /// Number of the move
        id: MoveId,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
    /// List what is published: units, dimensions, and rules with their ids
    Book,
    /// Claim a key that has no owner yet for a unit, as its first writer would
    Claim(Give),
    /// Write all that was decided about keys, buckets, rules and units as CSV, or JSON
    #[command(
        after_help = "Claims are not among it: there may be billions.\n\nExamples:\n  strait route export > routes.csv\n  strait route export --output json > routes.json"
    )]
    Export,
    /// Forget that a key was placed without the route store, once what two units have of it is merged
    #[command(after_help = "Example:\n  strait route dismiss --key im.conversation=cid:1:42")]
    Dismiss {
        #[command(flatten)]
        key: OneKey,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a relay that will not come back, so that moves do not wait for it
    #[command(after_help = "Example:\n  strait route forget b/b-1 --stopped")]
    Forget {
        /// The relay
        #[arg(value_name = "UNIT/RELAY", value_parser = relay)]
        relay: RelayId,
        /// Its process does not run any more, I have seen to it: do not wait until its leases are over
        #[arg(long)]
        stopped: bool,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
    /// Say who owns a key now, and why
    #[command(
        after_help = "Examples:\n  strait route get --key im.conversation=cid:1:42\n  strait route get --key im.user=7 --service im.Chat --method Invite    # whether this key routes such calls"
    )]
    Get {
        #[command(flatten)]
        key: OneKey,
        /// The service that is called: its settings may say which keys route its calls
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// Its method that is called
        #[arg(long, value_name = "METHOD", requires = "service", value_parser = crate::cli::explain::method)]
        method: Option<String>,
    },
    /// List what was decided about a key, newest first
    History {
        #[command(flatten)]
        key: OneKey,
        /// How much at most
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
    },
    /// Give keys that have no owner yet to units; exit code 2 if some were not given
    #[command(after_help = import::HELP)]
    Import(import::Import),
    /// Move keys to a unit, without two owners at any time
    #[command(after_help = MOVE_HELP)]
    Move(Move),
    /// List moves, the last ones first, and how far they are
    Moves {
        /// Only this one
        id: Option<MoveId>,
    },
    /// List keys that this relay has placed while the route store was away, and conflicts with claims; exit code 2 if there are some
    #[command(after_help = provisional::HELP)]
    Provisional {
        /// How many at most
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
    },
    /// Publish units, dimensions and rules that are new in the configuration of the relay
    #[command(after_help = PUBLISH_HELP)]
    Publish {
        /// Not the configuration: new keys go where they went before what was published last
        #[arg(long)]
        previous: bool,
        /// Only say what would be published
        #[arg(long)]
        dry_run: bool,
    },
    /// List relays that have the routes, and when they were heard of
    Relays,
    /// Give a key that has no owner yet to a unit: claim it, or pin it if keys of its dimension are not claimed
    Set(Give),
    /// Show how the relay stands with its route store; works while that is away
    Status,
    /// Take back a move that is over: what it moved goes where it came from
    #[command(after_help = UNDO_HELP)]
    Undo {
        /// Number of the move
        id: MoveId,
        /// Only say what would be moved
        #[arg(long)]
        dry_run: bool,
        /// Wait until it is over; exit code 2 if something stayed where it was
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
    },
}

const PUBLISH_HELP: &str = "\
No key changes its owner by that: rules that would do it are refused, with the move that does it.

--previous takes back a change of `new_keys`, for new keys from now on; those that were given meanwhile stay. Change the configuration
too, or the next publication brings it again.

Examples:
  strait route publish --dry-run
  strait route publish --previous";

const UNDO_HELP: &str = "\
That are moves of their own, one for each unit that gets something back, with the options of the first one. What was not moved by it, or
has moved on since, stays where it is.

Example:
  strait route undo 00c0ffee00c0ffee --dry-run";

const MOVE_HELP: &str = "\
Calls of a key that is being moved wait for about a second. Where the dimension names an application (hooks in
[[routes.dimension]]), it copies and is asked at each step; see how far it is with `strait route moves`. --file takes lines as `strait route import` does; units in it do not matter.

Examples:
  strait route move --key im.conversation=cid:1:42 --to b --dry-run
  strait route move --buckets im.user=0-99 --to b --wait
  strait route move --rule im.user=3 --to c --reason 'hall 3 closes'
  strait route move --file keys.csv --to c --parallel 32 --wait";

/// A key.
#[derive(Debug, clap::Args)]
struct OneKey {
    /// The key; `base64:...` for one that is no text
    #[arg(long, value_name = "DIMENSION=KEY", value_parser = what::key)]
    key: (Name, KeyBytes),
}

#[derive(Debug, clap::Args)]
struct Give {
    #[command(flatten)]
    key: OneKey,
    /// The unit
    #[arg(long, value_name = "UNIT", value_parser = super::name)]
    unit: UnitId,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct Move {
    #[command(flatten)]
    what: What,
    /// The new owner
    #[arg(long, value_name = "UNIT", value_parser = super::name)]
    to: UnitId,
    /// Why; shown to whoever looks
    #[arg(long, value_name = "TEXT", default_value_t)]
    reason: String,
    /// Keys, buckets or rules under way at once
    #[arg(long, value_name = "N", default_value_t = MoveOptions::default().parallel, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Longest time one may be frozen before it goes back
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    freeze_budget: Duration,
    /// How long the old owner remembers where it went
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    trail: Duration,
    /// Longest time the application may copy, and messages may wait, before it is frozen; then it goes back
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    copy_limit: Duration,
    /// Do not ask the application: nothing is copied, and calls that outlive their deadline may still write at the old owner
    #[arg(long)]
    no_hooks: bool,
    /// Send what the owner serves to the other unit too, as shadows: to the new owner until it has the keys, then to the old one
    /// while it remembers them
    #[arg(long)]
    mirror: bool,
    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is over; exit code 2 if something stayed where it was
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

/// `strait route`.
pub(super) fn run(args: &Route, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let session = Session { at: &args.at, output };
    match &args.verb {
        Verb::Abort { id, dry_run } => {
            let (id, who) = (*id, who());
            session.change(&Command::Abort { id, who }, *dry_run, out)
        }
        Verb::Book => session.show(&Command::Book, out),
        Verb::Claim(give) => session.show(&Command::Claim(give.ask()), out),
        Verb::Dismiss { key, dry_run } => {
            let (dimension, key) = key.key.clone();
            let who = who();
            session.change(&Command::Dismiss { dimension, key, who }, *dry_run, out)
        }
        Verb::Export => session.export(out),
        Verb::Forget {
            relay,
            stopped,
            dry_run,
        } => {
            let command = Command::Forget {
                relay: relay.clone(),
                is_stopped: *stopped,
                who: who(),
            };
            session.change(&command, *dry_run, out)
        }
        Verb::Get { key, service, method } => session.get(key, (service.clone(), method.clone()), out),
        Verb::History { key, limit } => {
            let (dimension, key) = key.key.clone();
            let limit = *limit;
            session.show(&Command::History { dimension, key, limit }, out)
        }
        Verb::Import(args) => import::run(&session, args, out),
        Verb::Move(args) => session.begin(args, out),
        Verb::Moves { id } => session.show(&Command::Moves { id: *id }, out),
        Verb::Publish { previous, dry_run } => {
            let command = Command::Publish {
                previous: *previous,
                dry_run: *dry_run,
                who: who(),
            };
            session.show(&command, out)
        }
        Verb::Provisional { limit } => provisional::run(&session, *limit, out),
        Verb::Relays => session.show(&Command::Relays, out),
        Verb::Set(give) => session.show(&Command::Set(give.ask()), out),
        Verb::Status => session.show(&Command::Status, out),
        Verb::Undo { id, dry_run, wait } => session.undo(*id, *dry_run, *wait, out),
    }
}

impl Give {
    fn ask(&self) -> GiveAsk {
        let (dimension, key) = self.key.key.clone();
        GiveAsk {
            dimension,
            key,
            unit: self.unit.clone(),
            dry_run: self.dry_run,
            who: who(),
        }
    }
}

impl Move {
    fn ask(&self) -> Result<MoveAsk, CliError> {
        Ok(MoveAsk {
            what: self.what.all()?,
            to: self.to.clone(),
            options: MoveOptions {
                parallel: self.parallel,
                freeze_budget: self.freeze_budget,
                trail: self.trail,
                copy_limit: self.copy_limit,
                hooks: !self.no_hooks,
                mirror: self.mirror,
            },
            dry_run: self.dry_run,
            reason: self.reason.clone(),
            who: who(),
        })
    }
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

    fn show(&self, command: &Command, out: &mut impl Write) -> Result<(), CliError> {
        self.write(&self.ask(command)?, out)
    }

    /// Sends a change, or says what would be sent.
    fn change(&self, command: &Command, dry_run: bool, out: &mut impl Write) -> Result<(), CliError> {
        if !dry_run {
            return self.show(command, out);
        }
        if self.output == Output::Human {
            writeln!(out, "would be sent; nothing was changed:")?;
        }
        write_json(out, command)
    }

    /// A key without owner is a no, as for `strait explain`.
    fn get(
        &self,
        key: &OneKey,
        (service, method): (Option<String>, Option<String>),
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        let (dimension, key) = key.key.clone();
        let answer = self.ask(&Command::Get {
            dimension,
            key,
            service,
            method,
        })?;
        self.write(&answer, out)?;
        match answer {
            Answer::Key(row) if row.explanation.owner.is_some() => Ok(()),
            Answer::Key(_) => Err(CliError::No),
            answer => Err(unexpected(&answer)),
        }
    }

    fn export(&self, out: &mut impl Write) -> Result<(), CliError> {
        let answer = self.ask(&Command::Export)?;
        match (&answer, self.output) {
            (Answer::Nodes(nodes), Output::Human) => Ok(csv::write_nodes(nodes, out)?),
            _ => self.write(&answer, out),
        }
    }

    /// Begins a move, and waits for its end if that is wanted.
    fn begin(&self, args: &Move, out: &mut impl Write) -> Result<(), CliError> {
        let answer = self.ask(&Command::Move(args.ask()?))?;
        let Answer::Plan(plan) = &answer else {
            return Err(unexpected(&answer));
        };
        match plan.id {
            Some(id) if args.wait => follow::until_over(self, id, out),
            _ => self.write(&answer, out),
        }
    }

    /// Takes a move back, and waits for the end of that if it is wanted.
    fn undo(&self, id: MoveId, dry_run: bool, wait: bool, out: &mut impl Write) -> Result<(), CliError> {
        let who = who();
        let answer = self.ask(&Command::Undo(Undo { id, dry_run, who }))?;
        let Answer::Undone(undone) = &answer else {
            return Err(unexpected(&answer));
        };
        let begun: Vec<_> = undone.plans.iter().filter_map(|plan| plan.id).collect();
        if !wait || begun.is_empty() {
            return self.write(&answer, out);
        }
        // All are told, also after one of which something stayed.
        let mut stayed = undone.stay > 0;
        for id in begun {
            match follow::until_over(self, id, out) {
                Err(CliError::No) => stayed = true,
                other => other?,
            }
        }
        if stayed { Err(CliError::No) } else { Ok(()) }
    }
}

fn unexpected(answer: &Answer) -> CliError {
    let text = format!(
        "the relay answers with something else ({}); is it of another version?",
        answer.outcome()
    );
    CliError::Format(text.into())
}

fn relay(text: &str) -> Result<RelayId, String> {
    let names = text.split_once('/').ok_or("expected UNIT/RELAY, such as b/b-1")?;
    Ok(RelayId {
        unit: super::name(names.0)?,
        relay: super::name(names.1)?,
    })
}
