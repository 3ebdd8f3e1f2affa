//! `[routes]` in `config/relay.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Name;
use crate::routing::record::{DimensionSpec, Fallback, HookSpec, Lease, Placement, PlacementRule};
use crate::routing::token::Lifetime;

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
    /// Longest time a call with a key may run where `owner_lease` is finite: a forced takeover waits for it. `1h` at most, and eight
    /// times the shortest `owner_lease` at most; the same at all relays of the Geo. Default `10s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub in_flight_max: Duration,
    /// Calls that wait for a key that is being moved or claimed, per relay; more are refused. As many publications may wait for that
    /// beside them. Of each 64 MiB at most, and of one key 256 calls per core and 1024 publications. Default 10000.
    pub parked_max: usize,
    /// Keys whose claims are remembered, about 80 bytes each. Default 1000000.
    pub claims_known_max: usize,
    /// How long the store must have been silent, with a claim that it did not answer, before `claim_fallback` applies. Shorter than
    /// an election in etcd (1 s to 3 s), and keys are placed without claims during each. From `100ms` to `1m`; new keys wait 5 s at
    /// most, and callers try again. Default `3s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub claim_fallback_after: Duration,
    /// Keys that this relay has placed while the store was away and not settled since, conflicts included, about 500 bytes each in
    /// memory and on disk; more are refused. Default 100000.
    pub provisional_max: usize,
    /// How the keys of single dimensions are placed and moved. A dimension that is not listed has the defaults.
    pub dimension: Vec<DimensionSettings>,
    /// The etcd cluster.
    pub etcd: EtcdSettings,
    /// Route tokens.
    pub tokens: TokenSettings,
}

/// `[routes.tokens]`: what clients keep about claimed keys and bring along, so that a relay need not ask the store.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// File with the secrets that tokens are signed with, the same at all relays of the Geo; `strait token-key` makes one. Read
    /// again when it changes. Default empty: tokens are neither given nor taken.
    pub key_file: PathBuf,
    /// Number of the Geo in its tokens, the same at all its relays and another one in other Geos. Default 1.
    pub geo_number: u16,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            key_file: PathBuf::new(),
            geo_number: 1,
        }
    }
}

/// `[[routes.dimension]]`: how the keys of a dimension are placed and moved. In force when it is published: a new store begins
/// with what the first relay has here.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DimensionSettings {
    /// Its name, from `routing.dimensions`. Required.
    pub name: Name,
    /// `rules`: a key without a record goes where the rules say. `claim`: a key that no rule matches belongs to the unit that
    /// asks first. Default `rules`.
    #[serde(default)]
    pub placement: PlacementKind,
    /// Where new keys go with `claim`: the first of these that fits, else the unit that asks. Default none.
    #[serde(default)]
    pub new_keys: Vec<PlacementRule>,
    /// With `claim`: what becomes of a new key while the store is away. `deny`: its calls are refused. `deterministic`: it goes where
    /// `new_keys` names units, else to a unit computed from the key and the units that are active; each relay remembers on disk
    /// where, and claims the key when the store is back. Two relays with different copies of the routes, or of which one knows of
    /// a claim that the other has not heard of, may send a key to different units meanwhile: use it for keys whose writes can be
    /// merged later. Owners still admit writes only as long as `owner_lease` lasts, so it goes best with `infinite`.
    /// Default `deny`.
    #[serde(default)]
    pub claim_fallback: Fallback,
    /// How long a relay that lost the store goes on admitting writes: whole seconds from `7s` to `1h`, or `infinite`; then nobody takes
    /// the keys over by force. Default `20s`.
    #[serde(default)]
    pub owner_lease: Lease,
    /// Whether methods that only read (`[calls.route]`) wait too while a key is frozen and may be executed only under the lease, as
    /// those that write. Default `false`: they go on at the old owner until the move is done.
    #[serde(default)]
    pub freeze_reads: bool,
    /// Longest key in bytes. Default 256.
    #[serde(default = "key_bytes_max")]
    pub key_bytes_max: u16,
    /// The application that is asked while keys of this dimension move (`proto/strait/v1/owner_control.proto`). Default none:
    /// then a call that outlives its deadline may still write at the old owner after a move.
    #[serde(default)]
    pub hooks: Option<HookSpec>,
    /// How long route tokens of its keys are good for: `usual`, renewed after 10 minutes and refused after a day; `short`, a minute
    /// and an hour; `long`, an hour and a week; or `none`. This one is not published: each relay goes by its own. Default `usual`.
    #[serde(default)]
    pub tokens: TokensOf,
}

/// How long route tokens of a dimension are good for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokensOf {
    /// Renewed after 10 minutes, refused after a day.
    #[default]
    Usual,
    /// Renewed after a minute, refused after an hour.
    Short,
    /// Renewed after an hour, refused after a week.
    Long,
    /// None are given.
    None,
}

impl TokensOf {
    /// The lifetime; `None` if there are no tokens.
    pub fn lifetime(self) -> Option<Lifetime> {
        match self {
            Self::Usual => Some(Lifetime::Usual),
            Self::Short => Some(Lifetime::Short),
            Self::Long => Some(Lifetime::Long),
            Self::None => None,
        }
    }
}

/// How a key that nothing was decided about gets its owner.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlacementKind {
    /// By the rules.
    #[default]
    Rules,
    /// The first writer claims it.
    Claim,
}

impl DimensionSettings {
    /// As it is published.
    pub fn spec(&self) -> DimensionSpec {
        DimensionSpec {
            placement: match self.placement {
                PlacementKind::Rules => Placement::Rules,
                PlacementKind::Claim => Placement::Claim(self.new_keys.clone()),
            },
            owner_lease: self.owner_lease,
            freeze_reads: self.freeze_reads,
            claim_fallback: self.claim_fallback,
            key_bytes_max: self.key_bytes_max,
            hooks: self.hooks.clone(),
            ..DimensionSpec::new(self.name.clone())
        }
    }
}

fn key_bytes_max() -> u16 {
    DimensionSpec::KEY_BYTES_MAX
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
    /// Members, each `https://host:port`; `http` only for trying it out. Required with `store = "etcd"`.
    pub endpoints: Vec<String>,
    /// What all keys begin with; the Geo follows. Default `/strait`.
    pub prefix: String,
    /// File with the CA certificates that sign those of the members, PEM. Required with `https`.
    pub authorities: PathBuf,
    /// File with this relay's certificate for etcd, PEM. Required with `https`.
    pub certificate: PathBuf,
    /// File with its key, readable by the owner only. Required with `https`.
    pub key: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: StoreKind::None,
            authority: String::new(),
            authority_addresses: Vec::new(),
            in_flight_max: Duration::from_secs(10),
            parked_max: 10_000,
            claims_known_max: 1_000_000,
            claim_fallback_after: Duration::from_secs(3),
            provisional_max: 100_000,
            dimension: Vec::new(),
            etcd: EtcdSettings::default(),
            tokens: TokenSettings::default(),
        }
    }
}

impl Default for EtcdSettings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/strait".to_owned(),
            authorities: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

impl Settings {
    /// Makes relative paths start at `base`, the folder of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        let etcd = &mut self.etcd;
        let keys = &mut self.tokens.key_file;
        for path in [&mut etcd.authorities, &mut etcd.certificate, &mut etcd.key, keys] {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
    }
}
