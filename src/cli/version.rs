//! `strait version`.

use std::io::Write;

use serde::Serialize;

use super::{CliError, Output, write_json};

/// For `--version`.
pub(super) const LONG: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the JSON document")]
struct Version {
    version: &'static str,
    revision: &'static str,
    profile: &'static str,
    target: String,
    tls: &'static str,
    http2: &'static str,
}

pub(super) fn print(output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let version = Version {
        version: LONG,
        revision: option_env!("STRAIT_REVISION").unwrap_or("unreleased"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        tls: "rustls with ring",
        http2: "libnghttp2",
    };
    if output == Output::Json {
        return write_json(out, &version);
    }
    writeln!(
        out,
        "strait {} ({}, {})",
        version.version, version.revision, version.profile
    )?;
    Ok(writeln!(out, "{}, {}, {}", version.target, version.tls, version.http2)?)
}
