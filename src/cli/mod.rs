//! The commands of the binary.
//!
//! # Invariants
//! - L1. Standard output carries what was asked for and nothing else; complaints go to standard error.
//! - L2. Exit codes: 0 done; 1 failed; 2 the answer is no (mistakes in the configuration, a call that would
//!   be refused); 64 the command line is wrong.
//!
//! # Not here
//! What the relay does (`app`).

mod access;
mod admin;
mod ask;
mod call;
pub mod cert;
mod cert_status;
mod configuration;
mod demo;
mod explain;
mod grpc;
mod messages;
mod queue;
mod route;
mod table;
mod token_key;
mod unit;
mod version;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::app::{self, AppError};
use crate::model::Name;
use crate::settings::{Checked, Problems, Source};
use crate::telemetry::{self, Chain};

/// Carries calls and messages between the units of a cell-based system.
#[derive(Debug, Parser)]
#[command(name = "strait", version = version::LONG, after_help = EXIT_CODES, propagate_version = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How answers are written
    #[arg(long, global = true, value_enum, default_value_t = Output::Human)]
    output: Output,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 the answer is no (mistakes in the configuration, a call \
                          that would be refused), 64 the command line is wrong";

/// How answers are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// For people
    Human,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say where the client of a user connects, by a running relay
    #[command(after_help = "Example:\n  strait access 1001 --admin 127.0.0.1:7402")]
    Access(access::Args),
    /// Count every message of a running relay twice, by the books and by the log; exit code 2 if they differ
    #[command(after_help = "Example:\n  strait audit --admin 127.0.0.1:7402")]
    Audit(queue::Audit),
    /// Make one call through a relay
    #[command(after_help = call::HELP)]
    Call(call::Args),
    /// Make and inspect certificates
    Cert(cert::Args),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  strait completions bash > /etc/bash_completion.d/strait")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Check, show and describe the configuration
    #[command(subcommand)]
    Config(configuration::Command),
    /// Show three units on this machine: calls cross, a conversation moves under writes, a unit goes away and comes back
    #[command(after_help = demo::HELP)]
    Demo(demo::Args),
    /// Dead letters of a running relay: list, show, purge, redrive
    #[command(after_help = queue::DLQ_HELP)]
    Dlq(queue::Dlq),
    /// Say which unit owns a key, and why
    #[command(
        after_help = "Example:\n  strait explain --config config/relay.toml --key im.conversation=cid:1:42 --service im.Echo"
    )]
    Explain(explain::Args),
    /// Publish messages at the local relay
    #[command(after_help = messages::PUBLISH_HELP)]
    Publish(messages::PublishArgs),
    /// Messages of a running relay: status, peek, purge, pause, resume, audit, unblock
    #[command(after_help = queue::HELP)]
    Queue(queue::Queue),
    /// How fast a running relay sends stored messages to units that were away
    #[command(after_help = queue::REPLAY_HELP)]
    Replay(queue::Replay),
    /// Which units own which keys, while relays run: look, give, move, publish
    #[command(after_help = route::HELP)]
    Route(route::Route),
    /// Run a relay until SIGTERM
    #[command(after_help = "Example:\n  strait run --config config/relay.toml --set relay.shards=2")]
    Run(SourceArgs),
    /// Receive messages of a group from the local relay
    #[command(after_help = messages::SUBSCRIBE_HELP)]
    Subscribe(messages::SubscribeArgs),
    /// Make the secret that route tokens are signed with, or a new one beside it
    #[command(after_help = token_key::HELP)]
    TokenKey(token_key::Args),
    /// Units as a whole: how they stand, drain, evacuate, give them their keys back
    #[command(after_help = unit::HELP)]
    Unit(unit::Unit),
    /// Print version, revision and what is built in
    Version,
}

/// Where settings come from.
#[derive(Clone, Debug, clap::Args)]
struct SourceArgs {
    /// The configuration file; pairs/GEO--GEO.toml next to it are read too
    #[arg(long, short, env = "STRAIT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A value that wins over all others; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum CliError {
    /// The admin address of a relay does not answer.
    #[error("cannot ask the relay at its admin address {address}; is it running there? (admin.listen)")]
    Admin {
        /// Where it was asked.
        address: String,
        /// What came back.
        source: io::Error,
    },
    /// The relay could not start, or broke.
    #[error(transparent)]
    App(#[from] AppError),
    /// A certificate command failed.
    #[error(transparent)]
    Cert(#[from] cert::CertError),
    /// The demo did not show what it should.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// The relay could not do it.
    #[error("{detail}")]
    Failed {
        /// Why, and what to do about it.
        detail: String,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The answer could not be turned into text.
    #[error("cannot write the answer as text")]
    Format(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is no, and has been written.
    #[error("the answer is no")]
    No,
    /// The answer could not be written.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] telemetry::LogError),
    /// The relay says no.
    #[error("{detail}")]
    Refused {
        /// Why, and what to do about it.
        detail: String,
    },
    /// The command line is wrong in a way that its grammar cannot say.
    #[error("{0}")]
    Usage(String),
    /// Mistakes in the configuration, one per line.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// It failed, and why has been written.
    #[error("it failed")]
    Told,
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::No | Self::Problems(_) | Self::Refused { .. } => 2,
            Self::Usage(_) => 64,
            _ => 1,
        }
    }
}

/// Runs the command that `arguments` name and gives the exit code of the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere else to say that standard error is closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(64)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = dispatch(cli, &mut io::stdout().lock());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `strait ... | head` ends this way; it is no failure.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::No | CliError::Told) {
                let _ = writeln!(io::stderr().lock(), "{}", Chain(&error));
            }
            ExitCode::from(error.code())
        }
    }
}

fn dispatch(cli: Cli, out: &mut impl Write) -> Result<(), CliError> {
    match cli.command {
        Command::Access(args) => access::run(&args, cli.output, out),
        Command::Audit(args) => queue::audit(&args, cli.output, out),
        Command::Call(args) => call::run(&args, cli.output, out),
        Command::Cert(args) => cert::run(&args, cli.output, out),
        Command::Completions { shell } => {
            // Into memory first: the generator panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "strait", &mut script);
            Ok(out.write_all(&script)?)
        }
        Command::Config(command) => configuration::run(&command, cli.output, out),
        Command::Demo(args) => demo::run(&args, cli.output, out),
        Command::Dlq(args) => queue::dlq(&args, cli.output, out),
        Command::Explain(args) => explain::run(&args, cli.output, out),
        Command::Publish(args) => messages::publish(&args, cli.output, out),
        Command::Subscribe(args) => messages::subscribe(&args, cli.output, out),
        Command::Queue(args) => queue::run(&args, cli.output, out),
        Command::Replay(args) => queue::replay(&args, cli.output, out),
        Command::Route(args) => route::run(&args, cli.output, out),
        Command::Run(args) => {
            let source = args.source();
            let checked = load(&source)?;
            let log = telemetry::init(&checked.settings.log)?;
            checked.warn();
            Ok(app::run(source, checked, log)?)
        }
        Command::TokenKey(args) => token_key::run(&args, out),
        Command::Unit(args) => unit::run(&args, cli.output, out),
        Command::Version => version::print(cli.output, out),
    }
}

/// Reads and checks the settings.
fn load(source: &Source) -> Result<Checked, Problems> {
    source.load()?.check(source.base())
}

impl SourceArgs {
    fn source(&self) -> Source {
        let text = |text: OsString| text.into_string().ok();
        Source {
            file: self.config.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .filter(|(name, _)| name.starts_with("STRAIT__"))
                .collect(),
            flags: self.set.clone(),
        }
    }
}

/// Reads a name, such as that of a unit.
fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, such as relay.shards=2".to_owned()),
    }
}

/// Writes one JSON document.
fn write_json(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Format(Box::new(error)))?;
    Ok(writeln!(out, "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Command lines between backquotes.
    fn named_in(text: &str) -> Vec<&str> {
        let spans = text.split('`').skip(1).step_by(2);
        spans
            .filter(|span| span.starts_with("strait ") && !span.contains('\n'))
            .collect()
    }

    #[test]
    fn every_command_that_the_runbook_names_exists() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/grafana/runbook.md");
        let text = std::fs::read_to_string(file).unwrap();
        let named = named_in(&text);
        assert!(named.len() > 20, "{named:?}");
        for line in named {
            // A placeholder for a number is one.
            let words = line.split_whitespace().map(|word| if word == "N" { "1" } else { word });
            let help = |error: clap::Error| error.kind() == clap::error::ErrorKind::DisplayHelp;
            assert!(Cli::try_parse_from(words).map_or_else(help, |_| true), "{line}");
        }
    }

    /// Whether the words after `strait` name a command.
    fn exists(words: &str) -> bool {
        let mut command = Cli::command();
        for word in words.split_whitespace() {
            if !command.has_subcommands() || !word.starts_with(|first: char| first.is_ascii_lowercase()) {
                break;
            }
            match command.find_subcommand(word) {
                Some(found) => command = found.clone(),
                None => return false,
            }
        }
        true
    }

    // Advice that names a command which is not there is worse than none.
    #[test]
    fn every_command_that_a_text_of_the_relay_names_exists() {
        assert!(exists("route moves") && !exists("status") && !exists("route burn"));
        let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    for (at, _) in text.match_indices("`strait ") {
                        let rest = text[at + "`strait ".len()..].replace(['\\', '\n'], " ");
                        let span = rest.split('`').next().unwrap_or_default();
                        assert!(exists(span), "{}: strait {span}", path.display());
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 20, "{count}");
    }
}
