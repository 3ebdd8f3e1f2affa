//! `[admin]` in `config/relay.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `[admin]`: the HTTP address for operators: metrics, health, explain, drain.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether there is such an address. Default true.
    pub enabled: bool,
    /// The address. Default `127.0.0.1:7402`.
    pub listen: SocketAddr,
    /// File with a secret of 16 characters or more, read again within a second of a change. If it is given, whoever reads
    /// anything but `/livez` and `/readyz` must send it, or the one for changes, as `Authorization: Bearer <secret>`,
    /// and `listen` may be an address that other machines reach; the traffic is not encrypted. Default empty: none.
    pub read_token_file: PathBuf,
    /// The same for changes: `POST /drain`, `PUT /log`, `POST /queue`, `POST /routes`; and to see bodies of messages. If there is a token
    /// for reading and none here, nothing can be changed. Default empty: none.
    pub change_token_file: PathBuf,
    /// Accept a `listen` address that other machines can reach, although the address speaks clear text and
    /// asks nobody who he is: whoever reaches it can drain the relay, unless there are tokens. For containers whose network is
    /// closed by other means. Default false: the relay refuses to start.
    pub allow_remote: bool,
}

/// Why the admin address cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Other machines can reach the address.
    #[error(
        "{0} can be reached from other machines, and the admin address speaks clear text without any login; \
         use a loopback address, name admin.read_token_file, or set admin.allow_remote = true if the network is closed by other means"
    )]
    Remote(SocketAddr),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
            read_token_file: PathBuf::new(),
            change_token_file: PathBuf::new(),
            allow_remote: false,
        }
    }
}

impl Settings {
    /// Makes paths independent of the folder of the file.
    pub fn resolve_paths(&mut self, base: &Path) {
        for path in [&mut self.read_token_file, &mut self.change_token_file] {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
    }

    /// The address to listen on, if any (O-S3).
    ///
    /// # Errors
    /// [`SettingsError::Remote`] unless it is loopback, asks for a token, or that is allowed.
    pub fn address(&self) -> Result<Option<SocketAddr>, SettingsError> {
        if !self.enabled {
            return Ok(None);
        }
        let asks = !self.read_token_file.as_os_str().is_empty();
        if self.listen.ip().is_loopback() || asks || self.allow_remote {
            return Ok(Some(self.listen));
        }
        Err(SettingsError::Remote(self.listen))
    }
}
