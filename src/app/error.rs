//! Why a relay cannot run.

use std::io;
use std::path::PathBuf;

use crate::control::embedded::FileError;
use crate::control::etcd::AddressError;
use crate::control::provisional::ProvisionalError;
use crate::control::tokens::TokenKeysError;
use crate::peer::ConnectError;
use crate::peer::credentials::CredentialsError;
use crate::peer::quic::QuicError;
use crate::queue::QueueError;
use crate::{admin, ingress};

/// Why the relay cannot run. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The admin address cannot be used.
    #[error("the admin address cannot be used")]
    Admin(#[from] admin::ServerError),
    /// An address is taken or not allowed.
    #[error("cannot listen on {address} ({what}); is another relay running there?")]
    Bind {
        /// What listens there.
        what: &'static str,
        /// The address or socket path.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Certificate, key or trust cannot be used.
    #[error("the credentials of this relay cannot be used")]
    Credentials(#[from] CredentialsError),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// `relay.data_dir`.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The relay's own API cannot be made.
    #[error(transparent)]
    Api(#[from] ingress::api::ApiError),
    /// Two components want the same series.
    #[error("metrics cannot be registered; this is a fault of this build")]
    Metrics(#[from] prometheus::Error),
    /// The queue cannot be opened.
    #[error("the queue of messages below the data directory cannot be used")]
    Queue(#[from] QueueError),
    /// A file for the route store cannot be read.
    #[error("cannot read {path}, which [routes.etcd] names")]
    RouteFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file of the route store cannot be used.
    #[error("the route store of this relay cannot be used")]
    Routes(#[from] FileError),
    /// The file of keys that were placed without the route store cannot be used.
    #[error("what this relay has placed without the route store cannot be used")]
    Provisional(#[from] ProvisionalError),
    /// The way to the relay that has the routes cannot be prepared.
    #[error("no line can be opened to the relay that has the routes")]
    Line(#[from] ConnectError),
    /// etcd cannot be reached as the settings say.
    #[error("etcd cannot be used as the route store")]
    Etcd(#[from] AddressError),
    /// TLS cannot be set up.
    #[error("QUIC cannot be set up")]
    Quic(#[from] QuicError),
    /// The files of Unix sockets cannot have the permissions that were asked for.
    #[error("the permissions of Unix sockets cannot be set")]
    Access(#[from] ingress::access::AccessError),
    /// A token cannot be read.
    #[error("a token of the settings cannot be used")]
    Token(#[from] crate::token::TokenError),
    /// The keys of route tokens cannot be used.
    #[error("the keys of route tokens cannot be used")]
    TokenKeys(#[from] TokenKeysError),
    /// A limit of the framed protocol is out of range.
    #[error("the settings of the framed protocol do not fit together")]
    Framed(#[from] ingress::framed::SettingsError),
    /// A thread or runtime cannot be started.
    #[error("cannot start {what}")]
    Thread {
        /// What.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}
