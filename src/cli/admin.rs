//! Asks the admin address of a relay.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::CliError;

/// Where the relay is, for commands that only look.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// Admin address of the relay
    #[arg(long, default_value = "127.0.0.1:7402", value_name = "HOST:PORT")]
    admin: String,
    /// File with the secret of `admin.read_token_file`, if the relay asks for it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl At {
    /// Status and text of a page.
    ///
    /// # Errors
    /// The relay cannot be asked, or wants a secret.
    pub(super) fn page(&self, path: &str) -> Result<(u16, String), CliError> {
        let token = self.token_file.as_ref().map(fs::read_to_string).transpose()?;
        let token = token.as_deref().map(str::trim);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = async { tokio::time::timeout(WAIT, get(&self.admin, path, token)).await };
        let answer = runtime.block_on(asked);
        let answer = answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        match answer {
            Ok((status @ (401 | 403), _)) => Err(self.failed(io::Error::other(format!(
                "it answers with status {status}; give the right secret with --token-file"
            )))),
            answer => answer.map_err(|source| self.failed(source)),
        }
    }

    /// The relay answers with something else.
    pub(super) fn failed(&self, source: io::Error) -> CliError {
        CliError::Admin {
            address: self.admin.clone(),
            source,
        }
    }
}

/// `GET`; gives status and body. `token` is what `admin.read_token_file` holds at the relay.
///
/// # Errors
/// Nothing answers, or not in HTTP.
pub(super) async fn get(address: &str, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let authorization = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Pages of metrics or links have tens or hundreds of kilobytes.
    stream.take(8 << 20).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")),
    }
}

const WAIT: Duration = Duration::from_secs(5);
