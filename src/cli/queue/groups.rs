//! `strait queue group-remove`: groups that nobody uses any more.

use std::io::Write;

use super::{CliError, PurgeArgs, Session, who};
use crate::model::{GroupName, Topic};
use crate::queue::operator::Command;

/// Which group, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Topic of the group
    #[arg(long, value_name = "TOPIC", value_parser = crate::cli::name)]
    topic: Topic,
    /// The group
    #[arg(long, value_name = "GROUP", value_parser = crate::cli::name)]
    group: GroupName,
    /// Why; for the log of the relay
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only count what it is not done with
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Counts what is lost with it, asks, removes (Q1).
pub(super) fn remove(session: &Session<'_>, remove: &Remove, out: &mut impl Write) -> Result<(), CliError> {
    let Remove {
        topic,
        group,
        reason,
        dry_run,
        yes,
    } = remove;
    let command = |dry_run| Command::RemoveGroup {
        topic: topic.clone(),
        group: group.clone(),
        reason: reason.clone(),
        dry_run,
        who: who(),
    };
    let args = PurgeArgs {
        all: true,
        dry_run: *dry_run,
        yes: *yes,
    };
    let place = format!("topic {topic} together with its group {group}");
    session.purge(&args, false, &place, &command, out)
}
