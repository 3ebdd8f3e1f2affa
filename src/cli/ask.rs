//! Asks a running relay at its admin address about its queue or its routes, and the person at the terminal.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CliError, Output, table};
use crate::control::operator as routes;
use crate::queue::operator as queue;

/// A question for the admin address.
pub(super) trait Question: Serialize {
    /// What comes back.
    type Answer: Told;
    /// Where it is asked.
    const PATH: &'static str;

    /// Whether it takes the permission to change.
    fn is_change(&self) -> bool;
}

/// What the admin address answers.
pub(super) trait Told: DeserializeOwned {
    /// How far long work is, and of how much; then more answers follow.
    fn progress(&self) -> Option<(u64, u64)> {
        None
    }

    /// The answer, or that there is none.
    fn into_result(self) -> Result<Self, CliError>;
}

impl Question for queue::Command {
    type Answer = queue::Answer;
    const PATH: &'static str = "/queue";

    fn is_change(&self) -> bool {
        self.changes() || self.shows_bodies()
    }
}

impl Told for queue::Answer {
    fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Progress { done, of } => Some((*done, *of)),
            _ => None,
        }
    }

    fn into_result(self) -> Result<Self, CliError> {
        match self {
            Self::Refused { detail } => Err(CliError::Refused { detail }),
            answer => Ok(answer),
        }
    }
}

impl Question for routes::Command {
    type Answer = routes::Answer;
    const PATH: &'static str = "/routes";

    fn is_change(&self) -> bool {
        self.changes()
    }
}

impl Told for routes::Answer {
    fn into_result(self) -> Result<Self, CliError> {
        match self {
            Self::Refused { detail } => Err(CliError::Refused { detail }),
            Self::Failed { detail } => Err(CliError::Failed { detail }),
            answer => Ok(answer),
        }
    }
}

/// Where the relay is and what it lets us do.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct At {
    /// Admin address of the relay
    #[arg(long, global = true, default_value = "127.0.0.1:7402", value_name = "HOST:PORT")]
    admin: String,
    /// File with the secret of `admin.change_token_file` (of `admin.read_token_file` for what only reads), if the relay
    /// asks for it
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Shows how far long work is.
pub(super) struct Shown {
    is_shown: bool,
}

impl At {
    /// A relay of this machine that asks for no secret.
    pub(super) fn local(admin: &str) -> Self {
        Self {
            admin: admin.to_owned(),
            token_file: None,
        }
    }

    /// Another relay with the same secret.
    pub(super) fn at(&self, admin: &str) -> Self {
        Self {
            admin: admin.to_owned(),
            ..self.clone()
        }
    }

    /// Its admin address.
    pub(super) fn address(&self) -> &str {
        &self.admin
    }

    /// Asks and waits for the last answer, a refusal included. Shows no progress.
    ///
    /// # Errors
    /// The relay cannot be asked.
    pub(super) async fn ask_quietly<Q: Question>(&self, question: &Q) -> io::Result<Q::Answer> {
        self.exchange(question, &mut Shown { is_shown: false }).await
    }

    /// Asks and waits for the last answer.
    ///
    /// # Errors
    /// The relay cannot be asked; [`CliError::Refused`] if it says no.
    pub(super) fn ask<Q: Question>(&self, question: &Q, output: Output) -> Result<Q::Answer, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut shown = Shown::new(output);
        let answer = runtime.block_on(self.exchange(question, &mut shown));
        shown.end();
        let failed = |source| CliError::Admin {
            address: self.admin.clone(),
            source,
        };
        answer.map_err(failed)?.into_result()
    }

    async fn exchange<Q: Question>(&self, question: &Q, shown: &mut Shown) -> io::Result<Q::Answer> {
        let request = self.request(question)?;
        let stream = timeout(CONNECT, TcpStream::connect(&self.admin)).await??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let asked = async move {
            let response = timeout(SILENCE, sender.send_request(request)).await?;
            read(response.map_err(io::Error::other)?, shown).await
        };
        // The connection ends with what was asked on it.
        let (answer, _) = tokio::join!(asked, connection);
        answer
    }

    /// Who may only read asks with `GET`; what is too long for that takes the permission to change.
    fn request<Q: Question>(&self, question: &Q) -> io::Result<Request<Full<Bytes>>> {
        let text = serde_json::to_string(question)?;
        let request = if question.is_change() || text.len() > QUERY_BYTES_MAX {
            let request = Request::post(Q::PATH).header("content-type", "application/json");
            request.header("host", &self.admin).body(Full::from(text))
        } else {
            let path = format!("{}?command={}", Q::PATH, escaped(&text));
            Request::get(path).header("host", &self.admin).body(Full::default())
        };
        let mut request = request.map_err(io::Error::other)?;
        if let Some(file) = &self.token_file {
            let token = fs::read_to_string(file)?;
            let bearer = format!("Bearer {}", token.trim())
                .try_into()
                .map_err(io::Error::other)?;
            request.headers_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

async fn read<A: Told>(response: Response<Incoming>, shown: &mut Shown) -> io::Result<A> {
    let status = response.status().as_u16();
    let is_json = response
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    let mut last = None;
    while let Some(frame) = timeout(SILENCE, body.frame()).await? {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            text.extend_from_slice(&data);
        }
        if !is_json {
            continue;
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            last = Some(shown.take(&text.split_to(end))?);
            text.advance(1);
        }
    }
    if !is_json {
        return Err(refused(status, &String::from_utf8_lossy(&text)));
    }
    if !text.is_empty() {
        last = Some(shown.take(&text)?);
    }
    let ended = last.filter(|answer: &A| answer.progress().is_none());
    ended.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the answer ended early; the work may go on",
        )
    })
}

fn refused(status: u16, text: &str) -> io::Error {
    let hint = match status {
        401 | 403 => "; give the right secret with --token-file",
        404 => "; it has none, or is of an earlier version",
        _ => "",
    };
    io::Error::other(format!("it answers with status {status} ({}){hint}", text.trim()))
}

impl Shown {
    fn new(output: Output) -> Self {
        Self {
            is_shown: output == Output::Human && io::stderr().is_terminal(),
        }
    }

    /// Reads an answer; progress is shown.
    fn take<A: Told>(&self, line: &[u8]) -> io::Result<A> {
        let answer: A = serde_json::from_slice(line)?;
        if let (Some((done, of)), true) = (answer.progress(), self.is_shown) {
            let share = done.saturating_mul(100).checked_div(of).unwrap_or_default();
            let (done, of) = (table::number(done), table::number(of));
            // Nothing depends on it.
            let _ = write!(io::stderr(), "\r\u{1b}[K{done} of {of} ({share} %)");
        }
        Ok(answer)
    }

    fn end(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// Asks the person at the terminal.
pub(super) fn confirm(what: &str) -> Result<(), CliError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(format!("this would {what}; say so with --yes")));
    }
    write!(io::stderr(), "{what}? Type yes: ")?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    if line.trim() == "yes" {
        return Ok(());
    }
    writeln!(io::stderr(), "nothing was changed")?;
    Err(CliError::No)
}

/// The user, for the audit log; sudo does not hide him.
pub(super) fn who() -> String {
    named(|name| std::env::var(name).ok(), rustix::process::geteuid().as_raw())
}

/// The first of the variables that names somebody; without one, the number of the user.
fn named(variable: impl Fn(&str) -> Option<String>, user: u32) -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    let mut found = names.filter_map(variable).filter(|name| !name.trim().is_empty());
    found.next().unwrap_or_else(|| format!("uid:{user}"))
}

/// For the query of an address.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = fmt::Write::write_fmt(&mut escaped, format_args!("%{byte:02X}"));
        }
    }
    escaped
}

/// Longest question in the query of an address.
const QUERY_BYTES_MAX: usize = 16 << 10;
const CONNECT: Duration = Duration::from_secs(5);
/// The relay gives up waiting for its queue before that.
const SILENCE: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use super::*;

    // The audit log names whoever did it, also where a service manager sets no variables.
    #[test]
    fn somebody_is_always_named() {
        let of = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            named(variable, 1001)
        };
        assert_eq!(of(&[("USER", "root"), ("SUDO_USER", "ann")]), "ann");
        assert_eq!(of(&[("USER", ""), ("LOGNAME", "bob")]), "bob");
        assert_eq!(of(&[("USER", " ")]), "uid:1001");
    }
}
