//! The store in etcd: several machines, majority writes.
//!
//! # Path
//! Each commit reads what it compares, then writes in one transaction that holds if no other commit came between: they all
//! write `routes/head`, which says at which revision the commit before was. Revisions are etcd's; those in between belong to
//! claims, reports and others.
//!
//! # Invariants
//! - T1. A commit and that it was done are written together, so asked again it is not done again (G2).
//! - T2. A feed follows the chain of heads. Where a link is missing, it ends: nothing is trusted to be complete (R-I13).
//! - T3. A feed says that there is nothing new only after a linearizable read of the head has said so.
//! - T4. A lease ends before the record of its life goes or names another: no relay goes on that nobody waits for.
//! - T5. The time a relay was silent is never said too long: see `SLACK` in `lives`.
//!
//! # Limits
//! A commit of 120 records and, all together, 1.5 MiB, unless etcd is configured for more. etcd keeps all that ever was: it
//! needs `--auto-compaction-retention`; a relay that was away for longer takes a snapshot.
//!
//! # Not here
//! What a commit may do (`ledger`).

mod api;
mod claims;
mod commits;
mod feed;
mod keys;
mod lives;
mod reads;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use self::api::Api;
use self::commits::Operations;
use self::keys::Keys;
use super::store::{Answer, ClaimKey, ClaimsPage, Feed, Opened, Reading, RelayStanding, Reports, Store, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Book, Change, Claim, Commit, Committed, FreezeAck, KeyBytes, RecordId, RelayId, Rev, SessionId, Snapshot,
};

/// The store in etcd. Clones share its connections.
#[derive(Clone)]
pub struct Etcd {
    api: Api,
    keys: Keys,
    /// Of a new store: random bits.
    seed: u128,
    tasks: TaskTracker,
    operations: Arc<Mutex<Operations>>,
    /// What was last seen published; claims are checked against it.
    book: Arc<Mutex<Option<Arc<Book>>>>,
}

/// Where etcd is, and how to get in.
pub struct Parts {
    /// Members, `https://host:port` or, for tests, `http://host:port` each.
    pub addresses: Vec<String>,
    /// All keys begin with it, such as `/strait/eu`.
    pub prefix: String,
    /// For `https`.
    pub tls: Option<Tls>,
    /// For a new store: random bits.
    pub seed: u128,
}

/// Whom to trust, and who we are, in PEM.
pub struct Tls {
    /// Authorities that sign certificates of members.
    pub authorities: Vec<u8>,
    /// Our certificate chain.
    pub chain: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// An address of etcd cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It is none.
    #[error("{address:?} is no address of etcd; expected https://host:port")]
    Address {
        /// The text.
        address: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// Certificate and key, or authorities, cannot be used.
    #[error("the certificates for etcd at {address} cannot be used")]
    Tls {
        /// For which.
        address: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// There are no certificates.
    #[error("{0} needs certificates: authorities, and one of this relay with its key")]
    NoTls(String),
}

impl Etcd {
    /// Connects when something is asked. Feeds are read on `tasks`, and end with their reader. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn new(parts: &Parts, tasks: TaskTracker) -> Result<Self, AddressError> {
        let members = parts
            .addresses
            .iter()
            .map(|address| member(address, parts.tls.as_ref()));
        let members: Result<_, _> = members.collect();
        Ok(Self {
            api: Api::new(members?),
            keys: Keys::new(&parts.prefix),
            seed: parts.seed,
            tasks,
            operations: Arc::default(),
            book: Arc::default(),
        })
    }
}

impl Store for Etcd {
    fn snapshot(&self) -> Answer<'_, Snapshot> {
        Box::pin(self.read_all())
    }

    fn watch(&self, from: Rev) -> Answer<'_, Feed> {
        Box::pin(self.open_feed(from))
    }

    fn commit(&self, commit: Commit) -> Answer<'_, Committed> {
        Box::pin(self.do_asked(commit))
    }

    fn read(&self, ids: Vec<RecordId>) -> Answer<'_, Reading> {
        Box::pin(self.read_some(ids))
    }

    fn history(&self, id: RecordId, limit: usize) -> Answer<'_, Vec<Change>> {
        Box::pin(self.read_back(id, limit))
    }

    fn claim(&self, claims: Vec<Claim>) -> Answer<'_, Vec<Claim>> {
        Box::pin(self.claim_all(claims))
    }

    fn claims(&self, keys: Vec<(Name, KeyBytes)>) -> Answer<'_, (Rev, Vec<Option<Claim>>)> {
        Box::pin(self.read_claims(keys))
    }

    fn claims_of(&self, unit: UnitId, after: Option<ClaimKey>) -> Answer<'_, ClaimsPage> {
        Box::pin(async move { self.read_claims_of(&unit, after).await })
    }

    fn open(&self, relay: RelayId) -> Answer<'_, Opened> {
        Box::pin(self.begin_life(relay))
    }

    fn renew(&self, session: SessionId) -> Answer<'_, ()> {
        Box::pin(self.renew_life(session))
    }

    fn close(&self, session: SessionId) -> Answer<'_, ()> {
        Box::pin(self.end_life(session))
    }

    fn forget(&self, relay: RelayId) -> Answer<'_, ()> {
        Box::pin(self.forget_relay(relay))
    }

    fn report(&self, acks: Vec<FreezeAck>) -> Answer<'_, ()> {
        Box::pin(self.report_all(acks))
    }

    fn reports(&self) -> Answer<'_, Reports> {
        Box::pin(self.open_reports())
    }

    fn standing(&self, unit: Option<UnitId>) -> Answer<'_, Vec<RelayStanding>> {
        Box::pin(self.read_standing(unit))
    }
}

/// A connection to a member, when it is needed.
fn member(address: &str, tls: Option<&Tls>) -> Result<Channel, AddressError> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|source| AddressError::Address {
        address: address.to_owned(),
        source,
    })?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if endpoint.uri().scheme_str() == Some("https") {
        let tls = tls.ok_or_else(|| AddressError::NoTls(address.to_owned()))?;
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.authorities))
            .identity(Identity::from_pem(&tls.chain, &tls.key));
        endpoint = endpoint.tls_config(config).map_err(|source| AddressError::Tls {
            address: address.to_owned(),
            source,
        })?;
    }
    Ok(endpoint.connect_lazy())
}

fn broken<T>(text: &str) -> Result<T, StoreError> {
    Err(StoreError::Broken(text.to_owned()))
}

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A member that does not answer for twice as long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Operations in one transaction: etcd takes 128, parts included, and there are some of our own.
const TOGETHER_MAX: usize = 60;
/// Records in one commit.
const COMMIT_MAX: usize = 120;
