//! Certificate, key and trust of this relay: read from files, checked as a whole, exchanged as a whole.
//!
//! # Invariants
//! - D12. Credentials in force were complete and valid when they were loaded: key and certificate match, the identity
//!   is this relay's, the chain is valid now. A bad set is refused and the old one stays.
//! - D13. The key file is readable by its owner only, and the key is never printed.
//!
//! # Not here
//! When to reload (`app`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{IntGauge, Registry};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;

use crate::model::{Geo, RelayName, UnitId};

use super::identity::{IdentityError, Leaf, PeerIdentity};
use super::inspect::Shown;
use super::pem;
use super::refusals::Direction;
use super::reset::ResetSecret;
use super::settings::{Settings, Units};
use super::tls;
use super::verify::{Bundle, Policy, Presented, Refusal};

/// Who this relay is, by its configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Own {
    /// Its Geo.
    pub geo: Geo,
    /// Its unit.
    pub unit: UnitId,
    /// Its name.
    pub relay: RelayName,
    /// What it has to do with lines.
    pub lines: LineRole,
}

/// What a relay has to do with lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LineRole {
    /// Nothing; then no relay of its own unit may connect.
    #[default]
    None,
    /// It opens one to the relay that has the routes.
    Opens,
    /// It has the routes: relays of its own unit and of others may open lines to it.
    Takes,
}

/// Certificate, key and trust of this relay. Immutable.
pub struct Credentials {
    leaf: Leaf,
    not_after: i64,
    key: Arc<CertifiedKey>,
    reset: ResetSecret,
    policy: Policy,
    lines: LineRole,
}

/// The credentials in force; a clone sees the same ones. Handshakes look them up when they begin.
#[derive(Clone, Debug)]
pub struct CredentialsHandle {
    current: Arc<ArcSwap<Credentials>>,
    expiry: IntGauge,
}

/// Why credentials cannot be used. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A setting is missing.
    #[error("[peer] {0} is not set; links need a certificate, its key and [peer.trust]")]
    Missing(&'static str),
    /// A file cannot be read.
    #[error("cannot read {path}; check that it exists and that this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is too large to be what it should be.
    #[error("{path} has {bytes} bytes; that is no PEM file of certificates or keys")]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Others may read the key.
    #[error("{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds no PEM of the kind that is needed.
    #[error("{path} has no usable {what} in it; it needs PEM ({detail})")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What the reader found.
        detail: String,
    },
    /// The key cannot be used for TLS.
    #[error("{path} holds a key that cannot be used; use ECDSA P-256, P-384, Ed25519 or RSA 2048 and more")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key {key} is not the key of the certificate {certificate}; configure the two files that were made together"
    )]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The own certificate has no usable identity.
    #[error("the certificate {path} cannot be this relay's; have a new one issued")]
    Identity {
        /// The certificate file.
        path: PathBuf,
        /// Which rule it breaks.
        source: IdentityError,
    },
    /// The own certificate is another relay's.
    #[error(
        "the certificate {path} is for {found}, but this relay is {expected}; correct [relay], [peer] trust_domain or the certificate"
    )]
    NotOurs {
        /// The certificate file.
        path: PathBuf,
        /// Who it is for.
        found: Box<PeerIdentity>,
        /// Who we are.
        expected: Box<PeerIdentity>,
    },
    /// The own chain would be refused by everyone.
    #[error(
        "peers would refuse the certificate {path}; have a new one issued, with its intermediate certificates in the file"
    )]
    Chain {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        source: Box<Refusal>,
    },
    /// A certificate of the own chain is outside of its validity.
    #[error("certificate {position} in {path} is {state}; have a new one issued, and compare the clock")]
    Validity {
        /// The certificate file.
        path: PathBuf,
        /// Position in the file, from 1.
        position: usize,
        /// `expired` or `not valid yet`.
        state: &'static str,
    },
    /// A bundle holds something that is no CA certificate.
    #[error("certificate {position} in the bundle {path} is not a CA certificate; a bundle holds CAs only")]
    NotCa {
        /// The bundle file.
        path: PathBuf,
        /// Position in the file, from 1.
        position: usize,
    },
    /// Revocation lists for a Geo that has no bundle.
    #[error("[peer.crls] names Geo {0}, which has no bundle in [peer.trust]")]
    CrlGeo(Geo),
}

/// The time by which certificates are judged.
pub fn wall_clock() -> UnixTime {
    UnixTime::now()
}

impl Credentials {
    /// Reads and checks everything `[peer]` names. Paths are used as they stand, see
    /// [`Settings::resolve_paths`](super::settings::Settings::resolve_paths).
    ///
    /// # Errors
    /// [`CredentialsError`] names the first file that cannot be used, and what to do (D12).
    pub fn load(settings: &Settings, units: &Units, own: &Own, now: UnixTime) -> Result<Self, CredentialsError> {
        let certificate = settings.certificate.as_deref();
        let certificate = certificate.ok_or(CredentialsError::Missing("certificate"))?;
        let key = settings.key.as_deref().ok_or(CredentialsError::Missing("key"))?;
        let chain = pem::read_certificates(certificate)?;
        let leaf = own_leaf(certificate, &chain, settings, own)?;
        let not_after = check_validity(certificate, &chain, now)?;
        let (certified, reset) = certified_key(certificate, chain, key, own)?;
        let mut policy = read_policy(settings, units)?;
        if own.lines != LineRole::None {
            policy.units.insert(own.unit.clone(), own.geo.clone());
        }
        let credentials = Self {
            leaf,
            not_after,
            key: Arc::new(certified),
            reset,
            policy,
            lines: own.lines,
        };
        credentials.check_as_peers_do(certificate, now)?;
        Ok(credentials)
    }

    /// Identity of this relay.
    pub fn identity(&self) -> &PeerIdentity {
        &self.leaf.identity
    }

    /// Last second in which the own chain is valid, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The own certificate, as status pages show it.
    pub fn shown(&self) -> Shown {
        self.key.cert.first().map(Shown::of).unwrap_or_default()
    }

    /// Whether both show the same certificate to peers.
    pub fn shows_same_as(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// What this relay has to do with lines.
    pub fn lines(&self) -> LineRole {
        self.lines
    }

    /// Whom this relay trusts.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the keys of QUIC endpoints are derived from.
    pub(super) fn reset(&self) -> &ResetSecret {
        &self.reset
    }

    /// The chain and its key, as TLS takes them.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// A chain that our own Geo's bundle does not carry would be refused everywhere: better said now, with a file name.
    fn check_as_peers_do(&self, path: &Path, now: UnixTime) -> Result<(), CredentialsError> {
        let (Some(bundle), Some((der, intermediates))) = (
            self.policy.bundles.get(&self.leaf.identity.geo),
            self.key.cert.split_first(),
        ) else {
            return Ok(());
        };
        let presented = Presented {
            leaf: &self.leaf,
            der,
            intermediates,
        };
        for direction in [Direction::Accepted, Direction::Dialled] {
            bundle
                .check(&presented, direction, self.policy.crl_expired, now)
                .map_err(|refusal| CredentialsError::Chain {
                    path: path.to_owned(),
                    source: Box::new(refusal),
                })?;
        }
        Ok(())
    }
}

/// Shows who and whom, never the key (D13).
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.leaf.identity)
            .field("not_after", &self.not_after)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl CredentialsHandle {
    /// Puts the first credentials in force and registers `strait_peer_certificate_expiry_timestamp_seconds`.
    ///
    /// # Errors
    /// The registry has a metric of that name already.
    pub fn register(credentials: Credentials, registry: &Registry) -> Result<Self, prometheus::Error> {
        let expiry = IntGauge::new(
            "strait_peer_certificate_expiry_timestamp_seconds",
            "When the certificate chain of this relay expires, in seconds since 1970.",
        )?;
        registry.register(Box::new(expiry.clone()))?;
        expiry.set(credentials.not_after);
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(credentials)),
            expiry,
        })
    }

    /// The credentials in force.
    pub fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    /// Puts new credentials in force for handshakes that begin from now on. Open connections stay.
    pub fn replace(&self, credentials: Credentials) {
        self.expiry.set(credentials.not_after);
        self.current.store(Arc::new(credentials));
    }
}

/// Reads the own leaf and checks that it is ours.
fn own_leaf(
    path: &Path,
    chain: &[CertificateDer<'_>],
    settings: &Settings,
    own: &Own,
) -> Result<Leaf, CredentialsError> {
    let der = chain.first().map_or(&[][..], |der| der.as_ref());
    let leaf = Leaf::from_der(der).map_err(|source| CredentialsError::Identity {
        path: path.to_owned(),
        source,
    })?;
    let expected = PeerIdentity {
        trust_domain: settings.trust_domain.clone(),
        geo: own.geo.clone(),
        unit: own.unit.clone(),
        relay: leaf.identity.relay.as_ref().map(|_| own.relay.clone()),
    };
    if leaf.identity != expected {
        return Err(CredentialsError::NotOurs {
            path: path.to_owned(),
            found: Box::new(leaf.identity),
            expected: Box::new(expected),
        });
    }
    Ok(leaf)
}

/// Last second in which all certificates of the chain are valid.
fn check_validity(path: &Path, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<i64, CredentialsError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let mut earliest = i64::MAX;
    for (index, der) in chain.iter().enumerate() {
        let certificate = pem::parse(path, der)?;
        let validity = certificate.validity();
        let state = match () {
            () if now > validity.not_after.timestamp() => Some("expired"),
            () if now < validity.not_before.timestamp() => Some("not valid yet"),
            () => None,
        };
        if let Some(state) = state {
            return Err(CredentialsError::Validity {
                path: path.to_owned(),
                position: index + 1,
                state,
            });
        }
        earliest = earliest.min(validity.not_after.timestamp());
    }
    Ok(earliest)
}

fn certified_key(
    certificate: &Path,
    chain: Vec<CertificateDer<'static>>,
    path: &Path,
    own: &Own,
) -> Result<(CertifiedKey, ResetSecret), CredentialsError> {
    let der = pem::read_key(path)?;
    let reset = ResetSecret::derive(der.secret_der(), own.relay.as_str());
    let unusable = |source| CredentialsError::Key {
        path: path.to_owned(),
        source,
    };
    let key = tls::provider().key_provider.load_private_key(der).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| CredentialsError::KeyMismatch {
        certificate: certificate.to_owned(),
        key: path.to_owned(),
    })?;
    Ok((certified, reset))
}

fn read_policy(settings: &Settings, units: &Units) -> Result<Policy, CredentialsError> {
    if settings.trust.is_empty() {
        return Err(CredentialsError::Missing("trust"));
    }
    let mut policy = Policy {
        trust_domain: settings.trust_domain.clone(),
        bundles: std::collections::BTreeMap::new(),
        units: units
            .iter()
            .map(|(name, unit)| (name.clone(), unit.geo.clone()))
            .collect(),
        crl_expired: settings.crl_expired,
    };
    for (geo, path) in &settings.trust {
        let anchors = pem::read_anchors(path)?;
        policy.bundles.insert(geo.clone(), Bundle { anchors, crls: vec![] });
    }
    for (geo, paths) in &settings.crls {
        let bundle = policy.bundles.get_mut(geo);
        let bundle = bundle.ok_or_else(|| CredentialsError::CrlGeo(geo.clone()))?;
        for path in paths {
            bundle.crls.append(&mut pem::read_crls(path)?);
        }
    }
    Ok(policy)
}
