//! `strait cert status`: which certificates a running relay and its peers use (O-S2).

use std::io::{self, Write};

use serde_json::Value;

use super::admin::At;
use super::{CliError, Output, write_json};

/// What `--help` shows below the options.
pub(super) const HELP: &str = "Example:\n  strait cert status --admin 127.0.0.1:7402\n\nExit code 2: a link still \
                               uses an earlier certificate of one of its sides";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
}

/// Asks the relay and writes what it says.
///
/// # Errors
/// The relay cannot be asked; [`CliError::No`] if a link still uses an earlier certificate.
pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let page = ask(&args.at)?;
    match output {
        Output::Human => print(&page, out)?,
        Output::Json => write_json(out, &page)?,
    }
    let old = |link: &Value| is(link, "own_is_old") || is(link, "peer_is_old");
    if links(&page).any(old) {
        return Err(CliError::No);
    }
    Ok(())
}

fn ask(at: &At) -> Result<Value, CliError> {
    let (status, body) = at.page("/certificates")?;
    if status != 200 {
        return Err(at.failed(io::Error::other(format!("it answers with status {status}"))));
    }
    serde_json::from_str(&body).map_err(|error| at.failed(io::Error::other(error)))
}

fn print(page: &Value, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "identity     {}", text(page, "identity"))?;
    let own = page.get("own").unwrap_or(&Value::Null);
    writeln!(out, "serial       {}", text(own, "serial"))?;
    writeln!(out, "fingerprint  {}", text(own, "fingerprint"))?;
    writeln!(out, "valid until  {}", moment(page, "chain_not_after"))?;
    if links(page).next().is_none() {
        return writeln!(out, "no open link");
    }
    writeln!(out)?;
    for link in links(page) {
        let direction = if is(link, "dialled") { "dialled " } else { "accepted" };
        let retiring = if is(link, "retiring") {
            "  (ends with its last call)"
        } else {
            ""
        };
        writeln!(
            out,
            "{}/{}/{}  {direction}  shard {}  ends by {}{retiring}",
            text(link, "geo"),
            text(link, "unit"),
            text(link, "relay"),
            link.get("shard").unwrap_or(&Value::Null),
            moment(link, "ends_at"),
        )?;
        for (side, old) in [("own", "own_is_old"), ("peer", "peer_is_old")] {
            let shown = link.get(side).unwrap_or(&Value::Null);
            let age = if is(link, old) { "OLD    " } else { "current" };
            let (serial, until) = (text(shown, "serial"), moment(shown, "not_after"));
            writeln!(out, "  {side:<5} {age}  until {until}  serial {serial}")?;
        }
    }
    Ok(())
}

fn links(page: &Value) -> impl Iterator<Item = &Value> {
    page.get("links").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("?")
}

fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn moment(value: &Value, key: &str) -> String {
    let seconds = value.get(key).and_then(Value::as_i64).unwrap_or_default();
    super::cert::moment(seconds)
}
