//! `strait explain`: which unit owns a key, by the rules of a configuration (C-R4).

use std::io::Write;

use super::{CliError, Output, SourceArgs, load, write_json};
use crate::model::{Key, MissingKey, RouteHints, UnitId};
use crate::routing::Explanation;

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
    /// The service that is called; decides what becomes of calls without key
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
}

pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let checked = load(&args.source.source())?;
    let missing_key = checked.missing_key(args.service.as_deref());
    let explanation = checked.routes.explain(&args.hints(), missing_key, &checked.unit, &());
    if output == Output::Json {
        write_json(out, &explanation)?;
    } else {
        print(&explanation, missing_key, out)?;
    }
    if explanation.error.is_some() {
        Err(CliError::No)
    } else {
        Ok(())
    }
}

impl Args {
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

fn print(explanation: &Explanation, missing_key: &MissingKey, out: &mut impl Write) -> Result<(), CliError> {
    match (&explanation.owner, &explanation.error) {
        (Some(owner), _) => writeln!(out, "owner        {owner}")?,
        (None, error) => writeln!(out, "refused      {}", error.as_deref().unwrap_or_default())?,
    }
    if let Some(rule) = &explanation.rule {
        writeln!(out, "decided by   {rule}")?;
    }
    writeln!(out, "version      {}", explanation.table_version)?;
    writeln!(out, "missing key  {missing_key}")?;
    for step in &explanation.steps {
        let mark = if step.matched { "->" } else { "  " };
        writeln!(out, "{mark} {:<12} {}", step.looked_at, step.why)?;
    }
    Ok(())
}
