//! A secret in a file that whoever calls over the network has to name (O-S3).
//!
//! # Invariants
//! - T1. The time a comparison takes tells nothing of the secret but its length.
//! - T2. A new secret in the file counts within a second, and the old one no longer does. While the file cannot be
//!   read, or is empty, the last one counts: a rotation that goes wrong locks nobody out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A file with one secret; white space around it does not count.
pub struct TokenFile {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    secret: Vec<u8>,
    read_at: Instant,
    /// The last reading failed.
    is_stale: bool,
}

/// The file holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the token file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What it holds is too short to be one.
    #[error("the token file {path} holds less than {SECRET_BYTES_MIN} characters; write a longer secret into it")]
    Short {
        /// Which.
        path: PathBuf,
    },
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let state = State {
            secret: read(path)?,
            read_at: now(),
            is_stale: false,
        };
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Whether this is the secret. Reads the file again now and then.
    pub fn admits(&self, given: Option<&[u8]>) -> bool {
        // Each statement under the lock leaves a valid state.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if now.saturating_duration_since(state.read_at) >= READ_AGAIN {
            state.read_at = now;
            match read(&self.path) {
                Ok(secret) => {
                    state.secret = secret;
                    state.is_stale = false;
                }
                Err(error) if !std::mem::replace(&mut state.is_stale, true) => {
                    tracing::warn!(%error, "a token file cannot be read; the last token is still taken");
                }
                Err(_) => {}
            }
        }
        given.is_some_and(|given| is_same(given, &state.secret))
    }
}

impl fmt::Debug for TokenFile {
    /// Never the secret (O-S5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenError> {
    let bytes = std::fs::read(path).map_err(|source| TokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    let secret = bytes.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(TokenError::Short { path: path.to_owned() });
    }
    Ok(secret.to_vec())
}

/// Looks at all bytes whatever the first ones are (T1).
fn is_same(given: &[u8], secret: &[u8]) -> bool {
    let differing = given.iter().zip(secret).fold(0_u8, |differing, (given, secret)| {
        differing | std::hint::black_box(given ^ secret)
    });
    std::hint::black_box(differing) == 0 && given.len() == secret.len()
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

const READ_AGAIN: Duration = Duration::from_secs(1);
/// A secret that is shorter is a mistake.
const SECRET_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("strait-token-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    // O-S3, T2
    #[test]
    fn only_the_whole_secret_counts_and_a_new_one_replaces_it() {
        let folder = Folder::new("new");
        let path = folder.0.join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = TokenFile::open(&path).unwrap();
        assert!(token.admits(Some(b"0123456789abcdef")));
        for wrong in [&b"0123456789abcdeF"[..], b"0123456789abcde", b"0123456789abcdef0", b""] {
            assert!(!token.admits(Some(wrong)));
        }
        assert!(!token.admits(None));
        assert!(!format!("{token:?}").contains("0123"));
        let age = |token: &TokenFile| token.state.lock().unwrap().read_at -= READ_AGAIN;
        std::fs::write(&path, "fedcba9876543210").unwrap();
        age(&token);
        assert!(!token.admits(Some(b"0123456789abcdef")));
        assert!(token.admits(Some(b"fedcba9876543210")));
        std::fs::write(&path, "").unwrap();
        age(&token);
        assert!(
            token.admits(Some(b"fedcba9876543210")),
            "an empty file locks nobody out"
        );
    }

    #[test]
    fn a_file_without_a_secret_is_refused() {
        let folder = Folder::new("none");
        let path = folder.0.join("token");
        let error = TokenFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
        std::fs::write(&path, "short").unwrap();
        let error = TokenFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("16 characters"), "{error}");
    }
}
