//! `strait replay`: how fast stored messages go to units that were away.

use std::io::Write;

use clap::Subcommand;

use super::super::{CliError, Output, write_json};
use super::{At, PauseArgs, Session, show, unexpected, who};
use crate::model::{ByteSize, Topic, UnitId};
use crate::queue::operator::{Answer, Command, LimitValues};
use crate::queue::record::Pausable;

/// For `strait replay --help`.
pub(in crate::cli) const HELP: &str = "\
Examples:
  strait replay status
  strait replay limit --unit b --rate 500 --burst 50
  strait replay limit --unit b --topic chat.edits --bytes 1MiB
  strait replay limit --unit b --clear
  strait replay pause --unit b --reason 'b is under load' --for 15m

Exit codes: 0 done, 1 failed (no relay, no answer), 2 the relay says no, 64 the command line is wrong";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show backlogs, their speed, limits and when they end
    Status {
        /// Only this unit
        #[arg(long, value_name = "UNIT", value_parser = super::super::name)]
        unit: Option<UnitId>,
    },
    /// Set limits at once, until they are cleared; those of the settings come back then
    Limit(Limit),
    /// Stop sending to a unit for a while
    Pause {
        /// The unit
        #[arg(long, value_name = "UNIT", value_parser = super::super::name)]
        unit: UnitId,
        #[command(flatten)]
        pause: PauseArgs,
    },
    /// Let it go on
    Resume {
        /// The unit
        #[arg(long, value_name = "UNIT", value_parser = super::super::name)]
        unit: UnitId,
        /// Only say what would be sent to the relay
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Limit {
    /// To this unit
    #[arg(long, value_name = "UNIT", value_parser = super::super::name)]
    unit: UnitId,
    /// Of this topic only, beside the limit of the unit
    #[arg(long, value_name = "TOPIC", value_parser = super::super::name)]
    topic: Option<Topic>,
    /// Messages per second; 0 is no limit
    #[arg(long, value_name = "N", value_parser = super::dlq::rate)]
    rate: Option<f64>,
    /// Bytes per second, such as 1MiB; 0 is no limit
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes: Option<u64>,
    /// Messages that may go at once after a pause
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Put the limits of the settings back in force
    #[arg(long, conflicts_with_all = ["rate", "bytes", "burst"])]
    clear: bool,
    /// Only say what would be sent to the relay
    #[arg(long)]
    dry_run: bool,
}

fn size(text: &str) -> Result<u64, String> {
    let size: Result<ByteSize, _> = text.parse();
    size.map(ByteSize::as_u64).map_err(|error| error.to_string())
}

pub(in crate::cli) fn replay(args: &Replay, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let session = Session { at: &args.at, output };
    match &args.verb {
        Verb::Status { unit } => {
            let answer = session.ask(&Command::Status)?;
            let Answer::Status(mut status) = answer else {
                return Err(unexpected(&answer));
            };
            status
                .units
                .retain(|row| unit.as_ref().is_none_or(|unit| unit.as_str() == row.unit));
            match output {
                Output::Human => Ok(show::units(&status.units, out)?),
                Output::Json => write_json(out, &status.units),
            }
        }
        Verb::Limit(limit) => session.change(&limit.command()?, limit.dry_run, out),
        Verb::Pause { unit, pause } => session.change(
            &pause.command(Pausable::Unit { unit: unit.clone() }),
            pause.dry_run,
            out,
        ),
        Verb::Resume { unit, dry_run } => {
            let what = Pausable::Unit { unit: unit.clone() };
            session.change(&Command::Resume { what, who: who() }, *dry_run, out)
        }
    }
}

impl Limit {
    fn command(&self) -> Result<Command, CliError> {
        let given = (self.rate, self.bytes, self.burst);
        if given == (None, None, None) && !self.clear {
            let text = "which limit? give --rate, --bytes or --burst, or --clear for those of the settings";
            return Err(CliError::Usage(text.to_owned()));
        }
        let (rate, bytes, burst) = given;
        let limits = LimitValues {
            messages_per_second: rate.unwrap_or_default(),
            bytes_per_second: bytes.unwrap_or_default(),
            burst: burst.unwrap_or_default(),
        };
        Ok(Command::Limits {
            unit: self.unit.clone(),
            topic: self.topic.clone(),
            limits: (!self.clear).then_some(limits),
            who: who(),
        })
    }
}
