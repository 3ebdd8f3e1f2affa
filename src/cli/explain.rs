//! `strait explain`: which unit owns a key, by the rules of a configuration (C-R4).

use std::io::Write;
use std::sync::Arc;

use super::{CliError, Output, SourceArgs, load, write_json};
use crate::model::{AwayBy, Key, OnFailure, ParkedAs, RouteHints, RoutePolicy, UnitId};
use crate::routing::record::{Book, Change, Epoch, Record, RecordId, Rev, Snapshot};
use crate::routing::{Explanation, Routes, Step};
use crate::settings::Problems;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// A key the call carries; may be repeated
    #[arg(long = "key", value_name = "DIMENSION=KEY", value_parser = super::assignment)]
    keys: Vec<(String, String)>,
    /// The unit the call names
    #[arg(long, value_name = "UNIT", value_parser = super::name)]
    unit: Option<UnitId>,
    /// The service that is called; decides what becomes of calls without key, and which key routes
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Its method that is called; may decide which key routes
    #[arg(long, value_name = "METHOD", requires = "service", value_parser = method)]
    method: Option<String>,
}

pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let checked = load(&args.source.source()).map_err(|problems| args.explained(problems))?;
    let policy = checked.route_policy(args.service.as_deref(), args.method.as_deref());
    let has_store = checked.routes.has_store() && !args.keys.is_empty() && args.unit.is_none();
    let explanation = if has_store {
        let table = checked
            .routes
            .with_routes(Arc::new(as_new(&checked.settings.route_book())));
        let mut explanation = table.explain(&args.hints(), &policy, &checked.unit, &());
        explanation.steps.insert(0, not_asked());
        explanation
    } else {
        checked.routes.explain(&args.hints(), &policy, &checked.unit, &())
    };
    if output == Output::Json {
        write_json(out, &explanation)?;
    } else {
        print(&explanation, &policy, out)?;
    }
    if explanation.error.is_some() {
        Err(CliError::No)
    } else {
        Ok(())
    }
}

impl Args {
    /// Whoever names no file may think that a running relay is asked.
    fn explained(&self, problems: Problems) -> CliError {
        if self.source.config.is_some() {
            return problems.into();
        }
        let detail = format!(
            "{problems}\nno configuration file is named: give one with --config or in STRAIT_CONFIG, or ask a running relay with \
             strait route get --key DIMENSION=KEY"
        );
        CliError::Refused { detail }
    }

    fn hints(&self) -> RouteHints {
        let keys = self.keys.iter().map(|(dimension, key)| Key {
            dimension: dimension.clone().into(),
            key: key.clone().into(),
        });
        RouteHints {
            keys: keys.collect(),
            unit: self.unit.clone(),
            ..RouteHints::default()
        }
    }
}

/// A store that this configuration has just been published in.
fn as_new(book: &Book) -> Routes {
    Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(1)),
        seed: 0,
        changes: vec![Change {
            rev: Rev(1),
            id: RecordId::Book,
            record: Some(Record::Book(book.clone())),
        }],
    })
}

/// What this answer is by.
fn not_asked() -> Step {
    Step {
        looked_at: "route store".to_owned(),
        matched: false,
        why: "not asked: so it is in a new store that begins with this configuration. What was published, claimed and moved since \
              wins; a running relay says that: strait route get --key DIMENSION=KEY"
            .to_owned(),
    }
}

pub(super) fn method(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("expected its name alone, as behind the last slash of /package.Service/Method".to_owned());
    }
    Ok(text.to_owned())
}

/// What becomes of calls whose unit is away, if anything is said.
fn while_away(policy: &RoutePolicy) -> Option<&'static str> {
    Some(match (policy.away.on_failure, policy.away.parked_as) {
        (OnFailure::Fail, _) => return None,
        (OnFailure::Park, ParkedAs::Unavailable) => "park: stored for the owner, answered UNAVAILABLE with a ticket",
        (OnFailure::Park, ParkedAs::Ok) => "park: stored for the owner, answered OK with a ticket",
        (OnFailure::Local, _) => "local: executed by this unit, stored for the owner, answered as provisional",
    })
}

fn print(explanation: &Explanation, policy: &RoutePolicy, out: &mut impl Write) -> Result<(), CliError> {
    match (&explanation.owner, &explanation.error) {
        (Some(owner), _) => writeln!(out, "owner        {owner}")?,
        (None, error) => writeln!(out, "refused      {}", error.as_deref().unwrap_or_default())?,
    }
    if let Some(rule) = &explanation.rule {
        writeln!(out, "decided by   {rule}")?;
    }
    writeln!(out, "version      {}", explanation.table_version)?;
    writeln!(out, "missing key  {}", policy.missing_key)?;
    if !explanation.routed_by.is_empty() {
        writeln!(out, "routed by    {}", explanation.routed_by.join(", "))?;
    }
    if explanation.only_reads {
        writeln!(out, "only reads   yes")?;
    }
    if let Some(text) = while_away(policy) {
        writeln!(out, "while away   {text}")?;
        let by = match policy.away.away_by {
            AwayBy::OwnLinks => "own-links: this relay has no link to the owner",
            AwayBy::Quorum => {
                "quorum: more than half of the units that say something have no link to the owner, this one among them"
            }
        };
        writeln!(out, "away by      {by}")?;
    }
    for step in &explanation.steps {
        let mark = if step.matched { "->" } else { "  " };
        writeln!(out, "{mark} {:<12} {}", step.looked_at, step.why)?;
    }
    Ok(())
}
