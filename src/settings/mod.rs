//! Root of all settings; the only place that reads configuration.
//!
//! # Path
//! [`Source`] says where values come from, [`Source::load`] lays them over each other, [`Loaded::check`]
//! checks that they fit together and hands out what the app needs.
//!
//! # Invariants
//! - C1. A key that does not exist is an error that names the key, the file, the line and the key that was
//!   probably meant (O-C1).
//! - C2. Everything that is wrong is reported at once, as far as it can be found at once.
//! - C3. `config/relay.toml` is what [`reference()`] writes: every key with its description and default.
//!
//! # Not here
//! What a component's own settings mean (its `settings.rs`).

mod access;
mod call_route;
mod check;
mod document;
mod messages;
mod path;
mod problem;
mod reference;
mod relay;
mod rest;
mod routes;
mod schema;
mod show;
mod source;
#[cfg(test)]
mod tests;
mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use call_route::{CallRoute, MethodRoute};
pub use check::Checked;
pub use problem::{Origins, Problem, Problems};
pub use reference::reference;
pub use relay::{Calls, Relay};
pub use schema::Schema;
pub use show::{Shown, differences, show};
pub use source::{Loaded, Source};

use crate::{admin, admission, control, delivery, ingress, peer, queue, routing, telemetry};

/// All settings of a relay.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who this relay is and where it works.
    pub relay: Relay,
    /// Where local services reach this relay.
    pub ingress: Ingress,
    /// The HTTP address for operators.
    pub admin: admin::Settings,
    /// Links to relays of other units.
    pub peer: peer::Settings,
    /// The other units this relay may talk to, by name.
    pub units: peer::Units,
    /// What all local services share.
    pub delivery: delivery::Settings,
    /// The services of this unit, by their gRPC names.
    pub services: delivery::Services,
    /// Which unit owns which keys.
    pub routing: routing::Settings,
    /// Where owners of keys are kept that change while relays run.
    pub routes: control::Settings,
    /// Where clients of users connect.
    pub access: control::access::Settings,
    /// Messages on disk.
    pub queue: queue::Settings,
    /// How fast stored messages go to units that were away.
    pub replay: queue::ReplaySettings,
    /// The topics of messages: where they go, how long they are kept, how they are delivered. A name that ends in `*`
    /// stands for all that begin so; the longest wins. A topic without settings is refused.
    pub topics: queue::Topics,
    /// For calls to services that have no table of their own.
    pub calls: Calls,
    /// Whether calls of local services that failed are sent again.
    pub retry: admission::RetrySettings,
    /// What is written to standard error.
    pub log: telemetry::Settings,
}

/// `[ingress]`: where local services reach this relay.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ingress {
    /// Connections of local services, both protocols together; one more is closed at once. Default 16384.
    pub connections_max: usize,
    /// Permissions of the files of Unix sockets, in octal: whoever may write to the file may call. Default `0660`:
    /// the relay's user and the group.
    pub socket_mode: String,
    /// Group of these files, by name or number. Default empty: the group of the relay's process.
    pub socket_group: String,
    /// Which service runs under which user. Calls over Unix sockets then carry its name to the service they reach
    /// (`strait-source-service`); nothing that a caller writes can change that. Default none.
    pub identities: Vec<ingress::access::Identity>,
    /// File with a secret of 16 characters or more. If it is given, gRPC calls over TCP must carry it as
    /// `strait-local-token`, and `ingress.grpc.listen` may name addresses that other machines reach. The file is read
    /// again within a second of a change. The traffic is not encrypted. Default empty: none.
    pub token_file: PathBuf,
    /// The framed protocol.
    pub framed: ingress::framed::Settings,
    /// gRPC.
    pub grpc: ingress::grpc::Settings,
}

impl Ingress {
    /// Permissions of the files of Unix sockets.
    ///
    /// # Errors
    /// [`ingress::access::AccessError`] if they cannot be read.
    pub fn socket_files(&self) -> Result<ingress::access::SocketFiles, ingress::access::AccessError> {
        ingress::access::socket_files(&self.socket_mode, &self.socket_group)
    }
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            socket_mode: "0660".to_owned(),
            socket_group: String::new(),
            identities: Vec::new(),
            token_file: PathBuf::new(),
            framed: ingress::framed::Settings::default(),
            grpc: ingress::grpc::Settings::default(),
        }
    }
}
