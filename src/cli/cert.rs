//! `strait cert`: certificates of relays.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Subcommand;
use time::OffsetDateTime;

use super::{CliError, Output, cert_status};
use crate::model::{Geo, Name, NameError, RelayName, UnitId};
use crate::peer::credentials::CredentialsError;
use crate::peer::dev_ca::{self, Ca, DevCaError};
use crate::peer::identity::TrustDomain;
use crate::peer::inspect::{self, Description};

/// Arguments of `strait cert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make certificates for development: one private CA per Geo, one certificate per relay
    #[command(after_help = "Example:\n  strait cert dev --dir certs --unit cn-east/a/a-1 --unit sg/b/b-1")]
    Dev(Dev),
    /// Show who a certificate is for, and how long
    #[command(after_help = "Example:\n  strait cert show certs/a-1.pem")]
    Show(Show),
    /// Show which certificates a running relay and its peers use, and until when
    #[command(after_help = cert_status::HELP)]
    Status(cert_status::Args),
}

#[derive(Debug, clap::Args)]
struct Dev {
    /// Folder for the files; made if it is missing. CAs found in it are used again
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
    /// A relay, as geo/unit/relay; may be repeated
    #[arg(long = "unit", value_name = "GEO/UNIT/RELAY", required = true)]
    relays: Vec<RelayPath>,
    /// Trust domain of the identities; the same on all relays
    #[arg(long, default_value = "strait.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// How long the relay certificates are valid
    #[arg(long, default_value = "90d", value_parser = humantime::parse_duration)]
    validity: Duration,
    /// Replace relay certificates that exist; CAs are never replaced
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// PEM file with one or more certificates
    file: PathBuf,
}

/// A relay with its place: `geo/unit/relay`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct RelayPath {
    geo: Geo,
    unit: UnitId,
    relay: RelayName,
}

/// Why a `strait cert` command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A certificate could not be made or written.
    #[error(transparent)]
    DevCa(#[from] DevCaError),
    /// A certificate could not be read.
    #[error(transparent)]
    Read(#[from] CredentialsError),
    /// Two relays would share their files.
    #[error("relay {0} is named twice; files are named after relays, so each needs a name of its own")]
    Twice(RelayName),
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// Runs `strait cert`.
///
/// # Errors
/// Says what failed and what to do.
pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let now = OffsetDateTime::now_utc();
    match &args.command {
        Command::Dev(dev) => Ok(make(dev, now, out)?),
        Command::Show(show) => {
            let descriptions = inspect::describe(&show.file).map_err(CertError::from)?;
            for description in &descriptions {
                print(description, now, out)?;
            }
            Ok(())
        }
        Command::Status(status) => cert_status::run(status, output, out),
    }
}

fn make(dev: &Dev, now: OffsetDateTime, out: &mut impl Write) -> Result<(), CertError> {
    let mut names = BTreeSet::new();
    if let Some(path) = dev.relays.iter().find(|path| !names.insert(&path.relay)) {
        return Err(CertError::Twice(path.relay.clone()));
    }
    let mut authorities: BTreeMap<&Geo, Ca> = BTreeMap::new();
    for path in &dev.relays {
        if !authorities.contains_key(&path.geo) {
            authorities.insert(&path.geo, Ca::open(&dev.dir, &path.geo, now)?);
        }
        let Some(ca) = authorities.get(&path.geo) else {
            continue;
        };
        let pair = ca.relay(&dev_ca::Request {
            trust_domain: dev.trust_domain.clone(),
            unit: path.unit.clone(),
            relay: path.relay.clone(),
            now,
            validity: dev.validity,
        })?;
        let (certificate, key) = dev_ca::write_pair(&dev.dir, path.relay.as_str(), &pair, dev.replace)?;
        writeln!(out, "{}/{}/{}", path.geo, path.unit, path.relay)?;
        writeln!(out, "  certificate = {:?}", certificate.display().to_string())?;
        writeln!(out, "  key = {:?}", key.display().to_string())?;
    }
    writeln!(out, "[peer.trust]")?;
    for geo in authorities.keys() {
        let bundle = dev.dir.join(format!("{geo}-ca.pem"));
        writeln!(out, "  {geo} = {:?}", bundle.display().to_string())?;
    }
    Ok(())
}

fn print(description: &Description, now: OffsetDateTime, out: &mut impl Write) -> io::Result<()> {
    let identity = match &description.identity {
        Ok(identity) => identity.to_string(),
        Err(_) if description.is_ca => "none (a CA certificate)".to_owned(),
        Err(error) => format!("none ({}: {error})", error.reason()),
    };
    let days = description.days_left(now.unix_timestamp());
    writeln!(out, "identity    {identity}")?;
    writeln!(out, "subject     {}", description.subject)?;
    writeln!(out, "issuer      {}", description.issuer)?;
    writeln!(out, "serial      {}", description.serial)?;
    writeln!(out, "not before  {}", moment(description.not_before))?;
    writeln!(out, "not after   {} ({days} days left)", moment(description.not_after))
}

/// A time as people and scripts read it: RFC 3339 in UTC.
pub(super) fn moment(seconds: i64) -> String {
    let since = u64::try_from(seconds).unwrap_or(0);
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(since);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).ok_or_else(|| "a trust domain is [a-z0-9._-], at most 255 characters".to_owned())
}

impl FromStr for RelayPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let [geo, unit, relay] = parts.as_slice() else {
            return Err("a relay is geo/unit/relay, such as cn-east/a/a-1".to_owned());
        };
        let name = |part: &str| Name::new(part).map_err(|error: NameError| error.to_string());
        Ok(Self {
            geo: name(geo)?,
            unit: name(unit)?,
            relay: name(relay)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(dir: &std::path::Path, relays: &[&str]) -> Dev {
        Dev {
            dir: dir.to_owned(),
            relays: relays.iter().map(|text| text.parse().unwrap()).collect(),
            trust_domain: TrustDomain::default(),
            validity: Duration::from_secs(86_400 * 90),
            replace: false,
        }
    }

    // O-N1: what `cert dev` writes is shown by `cert show`, with the identity that was asked for.
    #[test]
    fn certificates_are_made_and_shown() {
        let dir = std::env::temp_dir().join(format!("strait-cli-cert-{}", std::process::id()));
        let now = OffsetDateTime::now_utc();
        let mut out = Vec::new();
        make(&dev(&dir, &["cn-east/a/a-1", "sg/b/b-1"]), now, &mut out).unwrap();
        let made = String::from_utf8(out).unwrap();
        assert!(made.contains("cn-east-ca.pem") && made.contains("b-1.key"), "{made}");
        let mut shown = Vec::new();
        for description in inspect::describe(&dir.join("b-1.pem")).unwrap() {
            print(&description, now, &mut shown).unwrap();
        }
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains("spiffe://strait.local/geo/sg/unit/b/relay/b-1"),
            "{shown}"
        );
        assert!(
            shown.contains("(90 days left)") || shown.contains("(89 days left)"),
            "{shown}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    // Two relays of one name would overwrite each other's key.
    #[test]
    fn one_name_for_two_relays_is_refused() {
        let dir = std::env::temp_dir().join("strait-cli-cert-never-made");
        let result = make(
            &dev(&dir, &["sg/b/r-1", "sg/c/r-1"]),
            OffsetDateTime::now_utc(),
            &mut Vec::new(),
        );
        assert!(matches!(result, Err(CertError::Twice(_))));
        assert!(!dir.exists());
        assert!("sg/b".parse::<RelayPath>().is_err());
        assert!("sg/b/../x".parse::<RelayPath>().is_err());
    }
}
