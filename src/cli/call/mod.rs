//! `strait call`: one call through a relay, as a service would make it.
//!
//! # Not here
//! How the answer looks (`answer`).

pub(super) mod answer;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use self::answer::{Answer, Trouble};
use super::{CliError, Output, grpc};
use crate::client::{Call, Client};
use crate::model::UnitId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to call
    #[arg(value_name = "SERVICE/METHOD")]
    method: String,
    /// A key to route by; may be repeated
    #[arg(long = "key", value_name = "DIMENSION=KEY", value_parser = super::assignment)]
    keys: Vec<(String, String)>,
    /// Go to this unit, whoever owns the key
    #[arg(long, value_name = "UNIT", value_parser = super::name)]
    unit: Option<UnitId>,
    /// The message
    #[arg(long, value_name = "TEXT", conflicts_with = "data_file")]
    data: Option<String>,
    /// The message, encoded, from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// When to give up
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Where the relay listens; the default ports of this machine if not given
    #[arg(long, value_name = "ADDRESS", env = "STRAIT_RELAY")]
    relay: Option<String>,
    /// Speak gRPC instead of the framed protocol
    #[arg(long)]
    grpc: bool,
}

/// For `strait call --help`.
pub(super) const HELP: &str = "\
Examples:
  strait call im.Echo/Say --key im.conversation=cid:1001 --data hello
  strait call im.Echo/Say --unit b --data-file message.bin --relay unix:data/strait.sock
  strait call im.Echo/Say --key uid=42 --data hello --relay http://127.0.0.1:7400 --output json

Addresses: unix:/path and tcp://host:port speak the framed protocol, http://host:port speaks gRPC.
The reply goes to standard output, who answered and what went wrong to standard error.
Exit codes: 0 answered, 1 failed (unit away, deadline, no relay), 2 the answer is no (an error status of the
service, or a call that the relay refuses), 64 the command line is wrong";

/// Where and how to reach the relay.
pub(super) enum Way {
    Framed(String),
    Grpc(String),
}

pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let body = args.body()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(call(args, body));
    answer::print(&answer, output, out)?;
    match &answer.error {
        None => Ok(()),
        Some(error) if error.is_no => Err(CliError::No),
        Some(_) => Err(CliError::Told),
    }
}

async fn call(args: &Args, body: Bytes) -> Answer {
    let started = tokio::time::Instant::now();
    let attempt = async {
        match args.way() {
            Way::Framed(address) => framed(args, &address, body).await,
            Way::Grpc(address) => over_grpc(args, &address, body).await,
        }
    };
    // The deadline is the callee's to keep; this one is for relays that do not answer at all.
    let result = tokio::time::timeout(args.timeout + GRACE, attempt).await;
    let mut answer = result.unwrap_or_else(|_| Answer::failed(Trouble::silent(args.timeout)));
    answer.method.clone_from(&args.method);
    answer.total = started.elapsed();
    answer
}

async fn framed(args: &Args, address: &str, body: Bytes) -> Answer {
    let client = match Client::connect(address).await {
        Ok(client) => client,
        Err(error) => return Answer::failed(Trouble::unreachable(&error)),
    };
    let mut call = Call::new(&args.method).body(body).timeout(args.timeout);
    for (dimension, key) in &args.keys {
        call = call.key(dimension, key);
    }
    if let Some(unit) = &args.unit {
        call = call.unit(unit.as_str());
    }
    match client.call(call).await {
        Ok(reply) => Answer::of_reply(&reply),
        Err(error) => Answer::failed(Trouble::of_call(&error)),
    }
}

async fn over_grpc(args: &Args, address: &str, body: Bytes) -> Answer {
    let channel = match grpc::connect(address, args.timeout).await {
        Ok(channel) => channel,
        Err(error) => return Answer::failed(Trouble::unreachable(&error)),
    };
    let keys = args
        .keys
        .iter()
        .map(|(dimension, key)| ("strait-key", format!("{dimension}={key}")));
    let unit = args.unit.iter().map(|unit| ("strait-unit", unit.to_string()));
    let call = grpc::Unary {
        method: args.method.clone(),
        fields: keys.chain(unit).collect(),
        body,
        timeout: args.timeout,
    };
    match grpc::unary(channel, call).await {
        Ok(reply) => Answer::of_grpc(reply),
        Err(status) => Answer::failed(Trouble::of_status(&status)),
    }
}

impl Args {
    fn body(&self) -> io::Result<Bytes> {
        let Some(file) = &self.data_file else {
            return Ok(self.data.clone().unwrap_or_default().into());
        };
        if file.as_os_str() == "-" {
            let mut body = Vec::new();
            io::stdin().lock().read_to_end(&mut body)?;
            return Ok(body.into());
        }
        let read = std::fs::read(file);
        let body = read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())));
        Ok(body?.into())
    }

    fn way(&self) -> Way {
        way(self.relay.as_deref(), self.grpc)
    }
}

/// `http://` means gRPC; a Unix socket may be either.
pub(super) fn way(relay: Option<&str>, grpc: bool) -> Way {
    match (relay, grpc) {
        (None, false) => Way::Framed("tcp://127.0.0.1:7401".to_owned()),
        (None, true) => Way::Grpc("http://127.0.0.1:7400".to_owned()),
        (Some(address), grpc) if grpc || address.starts_with("http://") => Way::Grpc(as_uri(address)),
        (Some(address), _) => Way::Framed(address.to_owned()),
    }
}

/// The form gRPC wants: no `tcp`, and a path of a socket from the root.
fn as_uri(address: &str) -> String {
    if let Some(address) = address.strip_prefix("tcp://") {
        return format!("http://{address}");
    }
    match address.strip_prefix("unix:") {
        Some(path) if !path.starts_with('/') => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            format!("unix:{}", path.display())
        }
        _ => address.to_owned(),
    }
}

/// How much longer than the deadline the command waits for the error that tells of it.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn way(relay: Option<&str>, grpc: bool) -> String {
        let args = Args {
            method: "im.Echo/Say".to_owned(),
            keys: Vec::new(),
            unit: None,
            data: None,
            data_file: None,
            timeout: Duration::from_secs(1),
            relay: relay.map(str::to_owned),
            grpc,
        };
        match args.way() {
            Way::Framed(address) => format!("framed {address}"),
            Way::Grpc(address) => format!("grpc {address}"),
        }
    }

    #[test]
    fn the_protocol_follows_from_the_address_unless_asked_for() {
        assert_eq!(way(None, false), "framed tcp://127.0.0.1:7401");
        assert_eq!(way(None, true), "grpc http://127.0.0.1:7400");
        assert_eq!(way(Some("http://h:1"), false), "grpc http://h:1");
        assert_eq!(way(Some("tcp://h:1"), true), "grpc http://h:1");
        assert_eq!(way(Some("unix:/s"), false), "framed unix:/s");
        assert_eq!(way(Some("unix:/s"), true), "grpc unix:/s");
        let relative = way(Some("unix:data/s"), true);
        assert!(
            relative.starts_with("grpc unix:/") && relative.ends_with("/data/s"),
            "{relative}"
        );
    }
}
