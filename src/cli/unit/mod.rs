//! `strait unit`: units as a whole: how they stand, drain, evacuate, give them their keys back.
//!
//! # Invariants
//! - Q2. Each change carries the name of the user, for the audit log.
//!
//! # Not here
//! What the relay does with a command (`control::operator`).

mod follow;
mod local_mode;
mod show;

use std::io::Write;
use std::time::Duration;

use clap::Subcommand;

use super::ask::{At, who};
use super::{CliError, Output, write_json};
use crate::control::operator::{Answer, Command, DrainAsk, EvacuateAsk, ReturnAsk, UnitAct, UnitPlan};
use crate::model::UnitId;
use crate::routing::record::MoveOptions;

/// For `strait unit --help`.
pub(super) const HELP: &str = "\
Examples:
  strait unit status
  strait unit drain a --to b=2,c=1 --dry-run
  strait unit drain a --to b=2,c=1 --reason 'hall 3 closes' --wait
  strait unit evacuate a --to b=2,c=1 --accept-loss --wait
  strait unit return a --wait
  strait unit local-mode a --for 30m --reason 'its database is read-only'

Nothing drains or evacuates a unit by itself: a person decides. Units of other Geos have routes of their own.
Exit codes: 0 done, 1 failed (no relay, no answer, no route store), 2 the relay says no or something stayed where it was,
64 the command line is wrong";

#[derive(Debug, clap::Args)]
pub(super) struct Unit {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Move all keys of a unit to others while it works; it gets no new ones
    #[command(after_help = DRAIN_HELP)]
    Drain(Drain),
    /// Let others take over the keys of a unit that does not work any more; what was not copied is lost
    #[command(after_help = EVACUATE_HELP)]
    Evacuate(Evacuate),
    /// Give a unit that was drained or evacuated its keys back
    #[command(after_help = RETURN_HELP)]
    Return(Return),
    /// Say that a unit counts as away for calls of methods with `on_failure`, before the relay sees it; or show which do
    #[command(after_help = local_mode::HELP)]
    LocalMode(local_mode::LocalMode),
    /// Show whether units take keys, what they have, and what is being done about them
    #[command(after_help = "Example:\n  strait unit status a")]
    Status {
        /// Only this one; then the keys that were claimed for it are counted too
        #[arg(value_name = "UNIT", value_parser = super::name)]
        unit: Option<UnitId>,
    },
}

const DRAIN_HELP: &str = "\
Keys go by ordinary moves: nothing is lost, each key waits for some milliseconds, none has two owners. Asked again it takes what was left, such
as keys that were claimed meanwhile. To stop it, stop its moves (`strait route abort`), then `strait unit return`.

Examples:
  strait unit drain a --to b=2,c=1 --dry-run
  strait unit drain a --to b=2,c=1 --reason 'hall 3 closes' --wait";

const EVACUATE_HELP: &str = "\
For a unit that is dead or cut off; drain one that works. Its relays stop, or are waited for until the longest owner_lease and
routes.in_flight_max are over. Then others have its keys, each key by the weights. What their applications have not copied is lost:
--accept-loss. Where owner_lease is \"infinite\" a relay that does not answer is waited for until it is forgotten
(`strait route forget UNIT/RELAY --stopped`), or somebody signs for two owners: --accept-dual, with --reason.

Examples:
  strait unit evacuate a --to b=2,c=1 --dry-run
  strait unit evacuate a --to b=2,c=1 --accept-loss --reason 'fire in hall 3' --wait";

const RETURN_HELP: &str = "\
After a drain its keys come back by ordinary moves, except those that were moved again since. After an evacuation all come back at once;
their calls wait about a second. Copy the data back before.

Example:
  strait unit return a --dry-run";

/// Units and their weights, such as `b=2,c=1`.
#[derive(Clone, Debug)]
struct Shares(Vec<(UnitId, u16)>);

#[derive(Debug, clap::Args)]
struct Drain {
    /// The unit
    #[arg(value_name = "UNIT", value_parser = super::name)]
    unit: UnitId,
    /// Who gets what it has, with weights
    #[arg(long, value_name = "UNIT=WEIGHT,...", value_parser = shares)]
    to: Shares,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    moves: Moves,
}

#[derive(Debug, clap::Args)]
struct Evacuate {
    /// The unit
    #[arg(value_name = "UNIT", value_parser = super::name)]
    unit: UnitId,
    /// Who takes over, with weights
    #[arg(long, value_name = "UNIT=WEIGHT,...", value_parser = shares)]
    to: Shares,
    /// I know that what the applications have not copied is lost
    #[arg(long)]
    accept_loss: bool,
    /// I know that until relays that do not answer have stopped, keys with an endless lease may be written at two units
    #[arg(long, requires = "reason")]
    accept_dual: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct Return {
    /// The unit
    #[arg(value_name = "UNIT", value_parser = super::name)]
    unit: UnitId,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    moves: Moves,
}

/// Of all that changes something.
#[derive(Debug, clap::Args)]
struct How {
    /// Why; shown to whoever looks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is over, and show how far it is; exit code 2 if something stayed where it was
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

/// How keys are moved.
#[derive(Debug, clap::Args)]
struct Moves {
    /// Keys, buckets or rules under way at once, for each unit that gets some
    #[arg(long, value_name = "N", default_value_t = MoveOptions::default().parallel, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Longest time one may be frozen before it goes back
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    freeze_budget: Duration,
    /// Send what the owner serves to the other unit too, as shadows, while keys are on their way and while their trail lasts
    #[arg(long)]
    mirror: bool,
}

/// `strait unit`.
pub(super) fn run(args: &Unit, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let session = Session { at: &args.at, output };
    match &args.verb {
        Verb::Drain(args) => session.drain(args, out),
        Verb::Evacuate(args) => {
            let plan = session.plan(&Command::Evacuate(args.ask()))?;
            session.finish(&args.unit, plan, &args.how, out)
        }
        Verb::Return(args) => {
            let plan = session.plan(&Command::Return(args.ask()))?;
            session.finish(&args.unit, plan, &args.how, out)
        }
        Verb::LocalMode(args) => local_mode::run(args, session.at, output, out),
        Verb::Status { unit } => {
            session.write(&session.ask(&Command::Units { unit: unit.clone() })?, out)?;
            match output {
                Output::Human => local_mode::note(session.at, output, out),
                Output::Json => Ok(()),
            }
        }
    }
}

impl Drain {
    fn ask(&self) -> DrainAsk {
        DrainAsk {
            unit: self.unit.clone(),
            to: self.to.0.clone(),
            options: self.moves.options(),
            after: None,
            dry_run: self.how.dry_run,
            reason: self.how.reason(),
            who: who(),
        }
    }
}

impl Evacuate {
    fn ask(&self) -> EvacuateAsk {
        EvacuateAsk {
            unit: self.unit.clone(),
            to: self.to.0.clone(),
            accept_loss: self.accept_loss,
            accept_dual: self.accept_dual,
            dry_run: self.how.dry_run,
            reason: self.how.reason(),
            who: who(),
        }
    }
}

impl Return {
    fn ask(&self) -> ReturnAsk {
        ReturnAsk {
            unit: self.unit.clone(),
            options: self.moves.options(),
            dry_run: self.how.dry_run,
            reason: self.how.reason(),
            who: who(),
        }
    }
}

impl How {
    fn reason(&self) -> String {
        self.reason.clone().unwrap_or_default()
    }
}

impl Moves {
    fn options(&self) -> MoveOptions {
        MoveOptions {
            parallel: self.parallel,
            freeze_budget: self.freeze_budget,
            mirror: self.mirror,
            ..MoveOptions::default()
        }
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

    fn plan(&self, command: &Command) -> Result<UnitPlan, CliError> {
        match self.ask(command)? {
            Answer::UnitPlan(plan) => Ok(*plan),
            answer => Err(unexpected(&answer)),
        }
    }

    fn write(&self, answer: &Answer, out: &mut impl Write) -> Result<(), CliError> {
        match self.output {
            Output::Human => Ok(show::answer(answer, out)?),
            Output::Json => write_json(out, answer),
        }
    }

    /// Claims come some at a time. Whoever waits waits for each part, and looks again for keys that were claimed meanwhile.
    fn drain(&self, args: &Drain, out: &mut impl Write) -> Result<(), CliError> {
        let mut whole = self.drain_once(args)?;
        if args.how.wait {
            for _ in 0..AGAIN_MAX {
                let more = self.drain_once(args)?;
                if more.moves.is_empty() {
                    break;
                }
                whole.merge(more);
            }
        }
        self.finish(&args.unit, whole, &args.how, out)
    }

    fn drain_once(&self, args: &Drain) -> Result<UnitPlan, CliError> {
        let mut ask = args.ask();
        let mut whole = self.plan(&Command::Drain(ask.clone()))?;
        loop {
            if args.how.wait {
                follow::until_over(self, &args.unit, &whole.moves)?;
            }
            let Some(next) = whole.next.take() else {
                return Ok(whole);
            };
            ask.after = Some(next);
            whole.merge(self.plan(&Command::Drain(ask.clone()))?);
        }
    }

    /// Says what was begun, or waits until it is over and says how it ended.
    fn finish(&self, unit: &UnitId, plan: UnitPlan, how: &How, out: &mut impl Write) -> Result<(), CliError> {
        if !how.wait {
            let refusal = plan.refusal.is_some();
            self.write(&Answer::UnitPlan(Box::new(plan)), out)?;
            return if refusal { Err(CliError::No) } else { Ok(()) };
        }
        let stayed = follow::until_over(self, unit, &plan.moves)?;
        let answer = self.ask(&Command::Units {
            unit: Some(unit.clone()),
        })?;
        self.write(&answer, out)?;
        let stayed = usize::try_from(stayed).unwrap_or(usize::MAX);
        let left = match (plan.act, &answer) {
            // What stayed at first may have been taken by another round.
            (UnitAct::Drain, Answer::Units(rows)) => rows.first().map_or(0, |row| row.has.sum()),
            _ => stayed,
        };
        match left {
            0 => Ok(()),
            left => Err(CliError::Refused {
                detail: unfinished(unit, &plan, left),
            }),
        }
    }
}

/// Why it is not done, and what to do.
fn unfinished(unit: &UnitId, plan: &UnitPlan, left: usize) -> String {
    if plan.act != UnitAct::Drain && plan.shares.is_empty() {
        return format!(
            "unit {unit} is as it was: that was stopped, or could not be done; the log of the relay that drives it says why"
        );
    }
    format!(
        "{left} of its keys, buckets and rules stayed where they were; the log of the relay that drives the moves says why \
         (`strait route moves`); ask again to try those again"
    )
}

impl UnitPlan {
    /// Adds what another part does.
    fn merge(&mut self, other: Self) {
        for share in other.shares {
            if let Some(own) = self.shares.iter_mut().find(|own| own.unit == share.unit) {
                own.gets = own.gets.plus(share.gets);
            }
        }
        self.moves.extend(other.moves);
        self.next = other.next;
    }
}

fn unexpected(answer: &Answer) -> CliError {
    let text = format!(
        "the relay answers with something else ({}); is it of another version?",
        answer.outcome()
    );
    CliError::Format(text.into())
}

fn shares(text: &str) -> Result<Shares, String> {
    let share = |part: &str| {
        let (unit, weight) = part.split_once('=').unwrap_or((part, "1"));
        let weight = weight
            .trim()
            .parse()
            .map_err(|_| format!("expected UNIT=WEIGHT with a weight from 0 to 65535, such as b=2, not {part:?}"))?;
        Ok((super::name(unit.trim())?, weight))
    };
    text.split(',').map(share).collect::<Result<_, String>>().map(Shares)
}

/// How often whoever waits for a drain looks again for what was claimed meanwhile.
const AGAIN_MAX: usize = 3;
