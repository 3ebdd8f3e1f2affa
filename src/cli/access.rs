//! `strait access`: where the client of a user connects, as a running relay tells gateways (S1).

use std::io::{self, Write};

use serde_json::Value;

use super::admin::At;
use super::ask::escaped;
use super::{CliError, Output, write_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The user's key in the dimension of users; `base64:...` if it is no text
    user: String,
    #[command(flatten)]
    at: At,
}

/// Asks the relay and writes what it says.
///
/// # Errors
/// The relay cannot be asked; [`CliError::Refused`] if it knows no users, or this can be none.
pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let (status, body) = args.at.page(&format!("/access?user={}", escaped(&args.user)))?;
    let detail = || body.trim().to_owned();
    let page = match status {
        200 => serde_json::from_str(&body).map_err(|error| args.at.failed(io::Error::other(error)))?,
        400 | 409 => return Err(CliError::Refused { detail: detail() }),
        404 => {
            let source = io::Error::other("it has no access list: it is of an earlier version");
            return Err(args.at.failed(source));
        }
        other => {
            let source = io::Error::other(format!("it answers with status {other} ({})", detail()));
            return Err(args.at.failed(source));
        }
    };
    match output {
        Output::Human => print(&page, out)?,
        Output::Json => write_json(out, &page)?,
    }
    Ok(())
}

fn print(page: &Value, out: &mut impl Write) -> io::Result<()> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match text(page, "home").as_str() {
        "" => writeln!(out, "home    none: {}", text(page, "detail"))?,
        home => writeln!(out, "home    {home}")?,
    }
    if page.get("moving").and_then(Value::as_bool) == Some(true) {
        writeln!(
            out,
            "moving  frozen on its way to another unit; clients are told when it is there"
        )?;
    }
    writeln!(out, "epoch   {}", page.get("epoch").unwrap_or(&Value::Null))?;
    let points = page.get("points").and_then(Value::as_array);
    let points = points.map(Vec::as_slice).unwrap_or_default();
    if points.is_empty() {
        writeln!(out, "no access points: set access in [relay] and [units.<name>]")?;
    }
    for (number, point) in (1..).zip(points) {
        writeln!(out, "{number:>5}.  {}  {}", text(point, "unit"), text(point, "address"))?;
    }
    Ok(())
}
