//! `strait token-key`: the file of secrets that route tokens are signed with.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CliError;
use crate::routing::token::Secrets;

pub(super) const HELP: &str = "\
Examples:
  strait token-key token.keys            # the first key; copy the file to all relays of the Geo
  strait token-key --rotate token.keys   # a new key signs, those before only verify

A new key signs a day after a relay has read it, so that all relays know it by then. A week after that no token of the old one is
left; take its line out.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file that `routes.tokens.key_file` names
    file: PathBuf,
    /// Adds a new key to a file that is there
    #[arg(long)]
    rotate: bool,
}

/// Runs `strait token-key`.
///
/// # Errors
/// Says what is wrong with the file, and never what stands there.
pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<(), CliError> {
    let file = &args.file;
    let fresh = fresh_key().map_err(|source| CliError::File {
        path: PathBuf::from(RANDOM),
        source,
    })?;
    let before = if args.rotate { Some(read(file)?) } else { None };
    let text = text_of(&fresh, before.as_ref());
    check(&text, file)?;
    match before {
        None => write_new(file, &text).map_err(|error| not_written(file, &error))?,
        // Whoever reads meanwhile finds one whole file or the other.
        Some(_) => replace(file, &text).map_err(|error| not_written(file, &error))?,
    }
    let what = if args.rotate { "added a key to" } else { "wrote" };
    writeln!(out, "{what} {}", file.display())?;
    writeln!(
        out,
        "all relays of the Geo need this file; routes.tokens.key_file names it"
    )?;
    Ok(())
}

/// A file in which a new key signs, and those of an older file verify.
fn text_of(fresh: &str, before: Option<&Zeroizing<String>>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("{fresh} sign\n"));
    for line in before.iter().flat_map(|before| before.lines()) {
        let content = line.split('#').next().unwrap_or_default();
        if let Some(key) = content.split_whitespace().next() {
            text.push_str(key);
            text.push_str(" verify\n");
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn check(text: &Zeroizing<String>, file: &Path) -> Result<(), CliError> {
    Secrets::parse(text.clone())
        .map(drop)
        .map_err(|error| CliError::Failed {
            detail: format!("{} would not be a file of token keys any more: {error}", file.display()),
        })
}

fn read(file: &Path) -> Result<Zeroizing<String>, CliError> {
    let text = fs::read_to_string(file).map_err(|source| CliError::File {
        path: file.to_owned(),
        source,
    })?;
    let text = Zeroizing::new(text);
    Secrets::parse(text.clone()).map_err(|error| CliError::Failed {
        detail: format!("{} is no file of token keys: {error}", file.display()),
    })?;
    Ok(text)
}

fn fresh_key() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    fs::File::open(RANDOM)?.read_exact(bytes.as_mut_slice())?;
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
    Ok(text)
}

/// Never over a file that is there: its key would be lost, and with it all tokens.
fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(OWNER_ONLY).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    write_new(&new, text)?;
    fs::rename(&new, file)
}

fn not_written(file: &Path, error: &io::Error) -> CliError {
    let hint = match error.kind() {
        io::ErrorKind::AlreadyExists => "; with --rotate a key is added to it",
        _ => "",
    };
    CliError::Failed {
        detail: format!("cannot write {}: {error}{hint}", file.display()),
    }
}

const RANDOM: &str = "/dev/urandom";
const OWNER_ONLY: u32 = 0o600;
