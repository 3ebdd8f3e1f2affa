//! `[admin]` in `config/relay.toml`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `[admin]`: the HTTP address for operators: metrics, health, explain, drain.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether there is such an address. Default true.
    pub enabled: bool,
    /// The address. Default `127.0.0.1:7402`.
    pub listen: SocketAddr,
    /// Accept a `listen` address that other machines can reach, although the address speaks clear text and
    /// asks nobody who he is: whoever reaches it can drain the relay. For containers whose network is
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
         use a loopback address, or set admin.allow_remote = true if the network is closed by other means"
    )]
    Remote(SocketAddr),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
            allow_remote: false,
        }
    }
}

impl Settings {
    /// The address to listen on, if any (O-S3).
    ///
    /// # Errors
    /// [`SettingsError::Remote`] unless it is loopback or that is allowed.
    pub fn address(&self) -> Result<Option<SocketAddr>, SettingsError> {
        if !self.enabled {
            return Ok(None);
        }
        if self.listen.ip().is_loopback() || self.allow_remote {
            return Ok(Some(self.listen));
        }
        Err(SettingsError::Remote(self.listen))
    }
}
