//! The keys that route tokens of this Geo are signed with, as their file says now.
//!
//! # Invariants
//! - K1. A file that cannot be read, or makes no sense, ends the start of the relay with the reason. Later the keys before
//!   stay in force, and a line says so once: a rotation that goes wrong takes nobody's tokens.
//! - K2. A changed file counts within seconds, on all shards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::Settings;
use crate::model::{Map, Name};
use crate::routing::record::{Rev, Target};
use crate::routing::token::{Grounds, Lifetime, Ring, Secrets, SecretsError, Text};
use crate::routing::{Decision, Evidence, Found, Routes};
use crate::telemetry::Chain;
use crate::telemetry::span::wall_clock;

/// The keys of the Geo, and how long tokens of which dimension are good for. Clones share them.
#[derive(Clone, Debug)]
pub struct TokenKeys(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    ring: ArcSwap<Ring>,
    lifetimes: Map<Name, Option<Lifetime>>,
    /// The file was not as it should be when it was read last.
    is_wrong: AtomicBool,
}

/// The file of the keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenKeysError {
    /// It cannot be read.
    #[error("cannot read {}, the file of the token keys; `strait token-key` makes one (routes.tokens.key_file)", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("the file of the token keys {} cannot be used (routes.tokens.key_file)", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// Where and why; never what stands there.
        source: SecretsError,
    },
}

impl TokenKeys {
    /// Reads the file that the settings name; `None` if they name none.
    ///
    /// # Errors
    /// [`TokenKeysError`].
    pub fn open(settings: &Settings) -> Result<Option<Self>, TokenKeysError> {
        let path = settings.tokens.key_file.clone();
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let ring = Ring::new(read(&path)?, settings.tokens.geo_number, unix_now());
        let lifetimes = settings.dimension.iter();
        let lifetimes = lifetimes.map(|dimension| (dimension.name.clone(), dimension.tokens.lifetime()));
        Ok(Some(Self(Arc::new(Shared {
            path,
            ring: ArcSwap::from_pointee(ring),
            lifetimes: lifetimes.collect(),
            is_wrong: AtomicBool::new(false),
        }))))
    }

    /// The keys in force.
    pub fn ring(&self) -> Guard<Arc<Ring>> {
        self.0.ring.load()
    }

    /// How long tokens of a dimension are good for; `None` if it has none.
    pub fn lifetime(&self, dimension: &Name) -> Option<Lifetime> {
        let known = self.0.lifetimes.get(dimension).copied();
        known.unwrap_or(Some(Lifetime::default()))
    }

    /// Reads the file again now and then, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(READ_AGAIN) => self.read_again(),
            }
        }
    }

    /// The token for whoever brought none that speaks of the key of this decision; `claims` knows who has claimed it. `None`: keys of
    /// its dimension have no tokens, or nothing is known that one could say.
    pub fn issue(&self, routes: &Routes, decision: &Decision<'_>, key: &[u8], claims: &impl Evidence) -> Option<Text> {
        let dimension = decision.dimension?;
        let claim = claim_of(claims, routes, dimension, key);
        let grounds = Grounds {
            routes,
            decision,
            key,
            check: None,
            claim: claim.as_ref(),
            now: unix_now(),
            then: Rev::ZERO,
            lifetime: self.lifetime(dimension)?,
        };
        self.ring().issue(dimension, key, &grounds.token()?)
    }

    fn read_again(&self) {
        let shared = &self.0;
        match read(&shared.path) {
            Ok(secrets) => {
                let ring = shared.ring.load().renewed(secrets, unix_now());
                shared.ring.store(Arc::new(ring));
                shared.is_wrong.store(false, Ordering::Relaxed);
            }
            Err(error) if !shared.is_wrong.swap(true, Ordering::Relaxed) => {
                tracing::warn!(error = %Chain(&error), "token keys refused; those before stay in force");
            }
            Err(_) => {}
        }
    }
}

/// The target of the claim of a key, if it is known.
pub fn claim_of(claims: &impl Evidence, routes: &Routes, dimension: &Name, key: &[u8]) -> Option<Target> {
    let hash = routes.hash(dimension.as_str().as_bytes(), key);
    match claims.claim(dimension, key, hash) {
        Found::Known(known) => Some(known.target),
        Found::Nothing | Found::Unasked => None,
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    wall_clock()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn read(path: &Path) -> Result<Secrets, TokenKeysError> {
    let path = path.to_owned();
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(source) => return Err(TokenKeysError::Read { path, source }),
    };
    Secrets::parse(text).map_err(|source| TokenKeysError::Wrong { path, source })
}

const READ_AGAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::record::{Epoch, Rev};
    use crate::routing::token::{Flags, Text, Token, TokenTarget};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("strait-token-keys-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn settings(&self) -> Settings {
            let mut settings = Settings::default();
            settings.tokens.key_file = self.0.join("keys");
            settings
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn issue(keys: &TokenKeys) -> Text {
        let token = Token {
            target: TokenTarget::Follow,
            epoch: Epoch::new(0, Rev(1)),
            as_of: Rev(1),
            issued_at: unix_now(),
            lifetime: Lifetime::Usual,
            flags: Flags::default(),
        };
        keys.ring().issue(&Name::new("cid").unwrap(), b"1", &token).unwrap()
    }

    fn opens(keys: &TokenKeys, text: &Text) -> bool {
        let dimension = Name::new("cid").unwrap();
        keys.ring().open(text.as_bytes(), &dimension, b"1", unix_now()).is_ok()
    }

    // K1, K2, R-3.6: an added key lets the old tokens live, one in its place does not, and a broken file changes nothing.
    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let folder = Folder::new("changed");
        let file = folder.0.join("keys");
        let (old, new) = ("5a".repeat(32), "a5".repeat(32));
        fs::write(&file, &old).unwrap();
        let keys = TokenKeys::open(&folder.settings()).unwrap().unwrap();
        let first = issue(&keys);
        fs::write(&file, format!("{new} sign\n{old} verify\n")).unwrap();
        keys.read_again();
        assert!(opens(&keys, &first), "the key before is still there");
        fs::write(&file, "garbage").unwrap();
        keys.read_again();
        assert!(opens(&keys, &first), "a broken file takes nobody's tokens");
        fs::write(&file, &new).unwrap();
        keys.read_again();
        assert!(!opens(&keys, &first), "the key was removed");
        let second = issue(&keys);
        assert!(opens(&keys, &second));
    }

    #[test]
    fn a_missing_file_says_how_to_make_one_and_none_is_none() {
        let folder = Folder::new("missing");
        let error = TokenKeys::open(&folder.settings()).unwrap_err();
        assert!(error.to_string().contains("strait token-key"), "{error}");
        fs::write(folder.0.join("keys"), "zz").unwrap();
        let error = TokenKeys::open(&folder.settings()).unwrap_err();
        assert!(Chain(&error).to_string().contains("64 hexadecimal digits"), "{error}");
        assert!(TokenKeys::open(&Settings::default()).unwrap().is_none());
    }
}
