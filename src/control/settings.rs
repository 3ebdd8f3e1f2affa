//! `[routes]` in `config/relay.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::routing::record::DimensionSpec;

/// `[routes]`: where routes are kept that change while relays run. Without a store the rules of `[routing]` decide alone,
/// and nothing can be moved.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `none`: the rules of `[routing]` decide. `embedded`: a file of the relay that `authority` names; the other relays of
    /// the Geo reach it over their peer port. `etcd`: see `[routes.etcd]`. Default `none`.
    pub store: StoreKind,
    /// The relay that has the embedded store, as `unit/relay`. Required with `embedded`; the same at all relays of the Geo.
    pub authority: String,
    /// Where the authority's peer port is, each `host:port`, tried in order. Required at all other relays with `embedded`.
    pub authority_addresses: Vec<String>,
    /// Longest time an admitted write may still run after its relay lost the store; calls of owned keys get no longer
    /// deadline. A forced takeover waits for it. Default `10s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub in_flight_max: Duration,
    /// Calls that wait for a key that is being moved or claimed, per relay; more are refused as `moving`. Default 10000.
    pub parked_max: usize,
    /// File with the secrets of route tokens, one per line as 64 hexadecimal digits and `sign` or `verify`, readable by the
    /// owner only; the same at all relays of the Geo. Empty: no tokens. Default empty.
    pub token_keys_file: PathBuf,
    /// How the keys of single dimensions are placed and moved. A dimension that is not listed has the defaults.
    pub dimension: Vec<DimensionSpec>,
    /// The etcd cluster.
    pub etcd: EtcdSettings,
}

/// Where routes are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Nowhere: rules only.
    #[default]
    None,
    /// In a file of one relay.
    Embedded,
    /// In an etcd cluster.
    Etcd,
}

/// `[routes.etcd]`: the cluster that keeps the routes of this Geo.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdSettings {
    /// Members, each `http://host:port`. Required with `store = "etcd"`.
    pub endpoints: Vec<String>,
    /// What all keys begin with; the Geo follows. Default `/strait`.
    pub prefix: String,
    /// User, if etcd wants one. Default empty.
    pub user: String,
    /// File with the password, readable by the owner only. Default empty.
    pub password_file: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: StoreKind::None,
            authority: String::new(),
            authority_addresses: Vec::new(),
            in_flight_max: Duration::from_secs(10),
            parked_max: 10_000,
            token_keys_file: PathBuf::new(),
            dimension: Vec::new(),
            etcd: EtcdSettings::default(),
        }
    }
}

impl Default for EtcdSettings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/strait".to_owned(),
            user: String::new(),
            password_file: PathBuf::new(),
        }
    }
}

impl Settings {
    /// Makes relative paths start at `base`, the folder of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        for path in [&mut self.token_keys_file, &mut self.etcd.password_file] {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
    }
}
