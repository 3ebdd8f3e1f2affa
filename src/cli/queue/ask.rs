//! Asks the queue of a running relay at its admin address.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
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

use super::super::{CliError, Output, table};
use crate::queue::operator::{Answer, Command};

/// Where the relay is and what it lets us do.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct At {
    /// Admin address of the relay
    #[arg(long, global = true, default_value = "127.0.0.1:7402", value_name = "HOST:PORT")]
    admin: String,
    /// File with the secret of `admin.change_token_file` (of `admin.read_token_file` for what only reads), if the relay
    /// asks for it
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What is told while long work goes on.
pub(in crate::cli) struct Told {
    shown: bool,
}

impl At {
    /// A relay of this machine that asks for no secret.
    pub(in crate::cli) fn local(admin: &str) -> Self {
        Self {
            admin: admin.to_owned(),
            token_file: None,
        }
    }

    /// Asks and waits for the last answer, [`Answer::Refused`] included. Shows no progress.
    ///
    /// # Errors
    /// The relay cannot be asked.
    pub(in crate::cli) async fn ask_quietly(&self, command: &Command) -> io::Result<Answer> {
        self.exchange(command, &mut Told { shown: false }).await
    }

    /// Asks and waits for the last answer.
    ///
    /// # Errors
    /// The relay cannot be asked; [`CliError::Refused`] if it says no.
    pub(super) fn ask(&self, command: &Command, output: Output) -> Result<Answer, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut told = Told::new(output);
        let answer = runtime.block_on(self.exchange(command, &mut told));
        told.end();
        let failed = |source| CliError::Admin {
            address: self.admin.clone(),
            source,
        };
        match answer.map_err(failed)? {
            Answer::Refused { detail } => Err(CliError::Refused { detail }),
            answer => Ok(answer),
        }
    }

    async fn exchange(&self, command: &Command, told: &mut Told) -> io::Result<Answer> {
        let request = self.request(command)?;
        let stream = timeout(CONNECT, TcpStream::connect(&self.admin)).await??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let asked = async move {
            let response = timeout(SILENCE, sender.send_request(request)).await?;
            read(response.map_err(io::Error::other)?, told).await
        };
        // The connection ends with what was asked on it.
        let (answer, _) = tokio::join!(asked, connection);
        answer
    }

    /// Who may only read asks with `GET`.
    fn request(&self, command: &Command) -> io::Result<Request<Full<Bytes>>> {
        let text = serde_json::to_string(command)?;
        let request = if command.changes() || command.shows_bodies() {
            let request = Request::post("/queue").header("content-type", "application/json");
            request.header("host", &self.admin).body(Full::from(text))
        } else {
            let path = format!("/queue?command={}", escaped(&text));
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

async fn read(response: Response<Incoming>, told: &mut Told) -> io::Result<Answer> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    let mut last = None;
    while let Some(frame) = timeout(SILENCE, body.frame()).await? {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            text.extend_from_slice(&data);
        }
        if !matches!(status, 200 | 409) {
            continue;
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            last = Some(told.take(&text.split_to(end))?);
            text.advance(1);
        }
    }
    if !matches!(status, 200 | 409) {
        return Err(refused(status, &String::from_utf8_lossy(&text)));
    }
    if !text.is_empty() {
        last = Some(told.take(&text)?);
    }
    match last {
        Some(answer) if answer.is_last() => Ok(answer),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the answer ended early; the work may go on",
        )),
    }
}

fn refused(status: u16, text: &str) -> io::Error {
    let hint = match status {
        401 | 403 => "; give the right secret with --token-file",
        404 => "; it carries no messages, or is of an earlier version",
        _ => "",
    };
    io::Error::other(format!("it answers with status {status} ({}){hint}", text.trim()))
}

impl Told {
    fn new(output: Output) -> Self {
        Self {
            shown: output == Output::Human && io::stderr().is_terminal(),
        }
    }

    /// Reads an answer; progress is shown.
    fn take(&self, line: &[u8]) -> io::Result<Answer> {
        let answer = serde_json::from_slice(line)?;
        if let (Answer::Progress { done, of }, true) = (&answer, self.shown) {
            let share = done.saturating_mul(100).checked_div(*of).unwrap_or_default();
            let (done, of) = (table::number(*done), table::number(*of));
            // Nothing depends on it.
            let _ = write!(io::stderr(), "\r\u{1b}[K{done} of {of} ({share} %)");
        }
        Ok(answer)
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// For the query of an address.
fn escaped(text: &str) -> String {
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

const CONNECT: Duration = Duration::from_secs(5);
/// The relay gives up waiting for its queue before that.
const SILENCE: Duration = Duration::from_secs(40);
