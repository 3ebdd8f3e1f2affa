//! Whether a peer is who it says it is, and whom we meant.
//!
//! # Path
//! `tls` calls [`Policy::check`] inside the handshake, on both sides: read the identity, compare the trust domain, take
//! the trust bundle of the Geo the certificate claims, check the chain with that bundle alone, then compare with the
//! configured units and, if we dialled, with the relay we dialled.
//!
//! # Invariants
//! - D6. A CA vouches for the units of its own Geo only: the chain is checked with one bundle, never with all.
//! - D7. Names are compared only after the chain was found good, so `unknown_unit` and the like are told of
//!   authenticated peers.
//! - D8. Pure: time is an argument.

use std::collections::BTreeMap;
use std::fmt;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::model::{Geo, RelayName, UnitId};

use super::identity::{IdentityError, Leaf, PeerIdentity, TrustDomain};
use super::refusals::Direction;
use super::settings::CrlExpired;

/// Whom we meant to reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dialled {
    /// The unit.
    pub unit: UnitId,
    /// The relay, where one is meant. A certificate that names no relay is good for each of its unit.
    pub relay: Option<RelayName>,
}

/// Whom this relay trusts. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    /// Trust domain every identity must have.
    pub trust_domain: TrustDomain,
    /// Per Geo who may vouch for its units.
    pub bundles: BTreeMap<Geo, Bundle>,
    /// Configured units and their Geos.
    pub units: BTreeMap<UnitId, Geo>,
    /// What a revocation list past its next update means.
    pub crl_expired: CrlExpired,
}

/// CA certificates and revocation lists of one Geo.
#[derive(Default)]
pub struct Bundle {
    /// The CA certificates.
    pub anchors: Vec<Anchor>,
    /// Revocation lists; none means that revocation is not checked for this Geo.
    pub crls: Vec<CertRevocationList<'static>>,
}

/// A trusted CA certificate.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// Name and key of the CA.
    pub anchor: TrustAnchor<'static>,
    /// Last second of its validity, in seconds since 1970; chain checks do not look at it, so we do.
    pub not_after: i64,
}

/// A chain as a peer presents it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// What was read from the leaf.
    pub leaf: &'a Leaf,
    /// The leaf itself.
    pub der: &'a CertificateDer<'a>,
    /// The other certificates of the chain.
    pub intermediates: &'a [CertificateDer<'a>],
}

/// Why a peer was refused. Each has its own label, see [`Refusal::reason`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The certificate has no usable identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer sent an empty chain.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// Another trust domain than ours.
    #[error("{0} is of another trust domain; ours is {1}")]
    WrongTrustDomain(PeerIdentity, TrustDomain),
    /// No trust bundle for the Geo the certificate claims.
    #[error("{0} claims a Geo without a bundle in [peer.trust]")]
    UnknownGeo(PeerIdentity),
    /// No CA in the bundle of the claimed Geo has signed the chain: wrong CA, CA of another Geo, self-signed.
    #[error("{0} is not vouched for by any CA that [peer.trust] has for its Geo")]
    UnknownIssuer(PeerIdentity),
    /// The chain is past its validity.
    #[error("{0}: the certificate or its CA has expired")]
    Expired(PeerIdentity),
    /// The validity of the chain has not begun.
    #[error("{0}: the certificate or its CA is not valid yet; compare the clocks")]
    NotYetValid(PeerIdentity),
    /// The leaf has no extended key usage.
    #[error("{0}: the certificate has no extended key usage; it needs clientAuth and serverAuth")]
    NoEku(PeerIdentity),
    /// The extended key usage does not allow this direction.
    #[error("{0}: the certificate's extended key usage does not allow this; it needs clientAuth and serverAuth")]
    WrongEku(PeerIdentity),
    /// A certificate of the chain is on a revocation list.
    #[error("{0}: the certificate has been revoked")]
    Revoked(PeerIdentity),
    /// The Geo has revocation lists, but none for a CA of this chain.
    #[error("{0}: no list in [peer.crls] says whether the certificate is revoked")]
    RevocationUnknown(PeerIdentity),
    /// The revocation list that decides is past its next update.
    #[error("{0}: the revocation list of its CA is past its next update; install the current one")]
    CrlExpired(PeerIdentity),
    /// Any other fault of the chain.
    #[error("{0}: the chain is not valid: {1}")]
    BadChain(PeerIdentity, webpki::Error),
    /// The unit is not configured here.
    #[error("{0} is of a unit that [units] does not name")]
    UnknownUnit(PeerIdentity),
    /// The unit is configured in another Geo.
    #[error("{0} claims another Geo than [units] has for it: {1}")]
    WrongGeo(PeerIdentity, Geo),
    /// Another unit answered than the one dialled.
    #[error("{0} answered where unit {1} was dialled")]
    WrongUnit(PeerIdentity, UnitId),
    /// Another relay answered than the one dialled.
    #[error("{0} answered where relay {1} was dialled")]
    WrongRelay(PeerIdentity, RelayName),
    /// The peer presented no certificate.
    #[error("the peer presented no client certificate")]
    NoClientCertificate,
    /// The peer does not speak our protocol or version of it.
    #[error("the peer does not offer the protocol strait/1")]
    WrongAlpn,
    /// The peer does not speak TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    TlsVersion,
    /// The peer does not own the key of its certificate, or the handshake was tampered with.
    #[error("the handshake is broken: {0}")]
    BadHandshake(String),
    /// The other side refused us; its log has the reason.
    #[error("the peer refused this relay: {0}")]
    ByPeer(String),
    /// The handshake did not end in time.
    #[error("the handshake took too long")]
    TimedOut,
}

impl Policy {
    /// Checks the chain of a peer, leaf first.
    ///
    /// # Errors
    /// [`Refusal`] names the first rule that is broken.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        direction: Direction,
        dialled: Option<&Dialled>,
        now: UnixTime,
    ) -> Result<Leaf, Refusal> {
        let (der, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let leaf = Leaf::from_der(der)?;
        let bundle = self.bundle_of(&leaf.identity)?;
        let presented = Presented {
            leaf: &leaf,
            der,
            intermediates,
        };
        bundle.check(&presented, direction, self.crl_expired, now)?;
        self.check_unit(&leaf.identity)?;
        if let Some(dialled) = dialled {
            dialled.check(&leaf.identity)?;
        }
        Ok(leaf)
    }

    /// The one bundle that may vouch for the claimed identity (D6).
    fn bundle_of(&self, identity: &PeerIdentity) -> Result<&Bundle, Refusal> {
        if identity.trust_domain != self.trust_domain {
            return Err(Refusal::WrongTrustDomain(identity.clone(), self.trust_domain.clone()));
        }
        self.bundles
            .get(&identity.geo)
            .ok_or_else(|| Refusal::UnknownGeo(identity.clone()))
    }

    fn check_unit(&self, identity: &PeerIdentity) -> Result<(), Refusal> {
        match self.units.get(&identity.unit) {
            None => Err(Refusal::UnknownUnit(identity.clone())),
            Some(geo) if *geo != identity.geo => Err(Refusal::WrongGeo(identity.clone(), geo.clone())),
            Some(_) => Ok(()),
        }
    }
}

impl Bundle {
    /// Checks a chain with this bundle alone.
    ///
    /// # Errors
    /// [`Refusal`] says what is wrong with the chain.
    pub fn check(
        &self,
        presented: &Presented<'_>,
        direction: Direction,
        crl_expired: CrlExpired,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let refusal = |error| chain_refusal(presented.leaf.identity.clone(), error);
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let anchors = self.anchors_at(now);
        EndEntityCert::try_from(presented.der)
            .and_then(|end_entity| {
                end_entity
                    .verify_for_usage(
                        webpki::ALL_VERIFICATION_ALGS,
                        &anchors,
                        presented.intermediates,
                        now,
                        chain_usage(direction),
                        revocation(&crls, crl_expired),
                        None,
                    )
                    .map(|_path| ())
            })
            .map_err(refusal)?;
        check_usage(presented.leaf, direction)
    }

    /// The CA certificates that are still valid. An expired root would otherwise vouch for ever.
    fn anchors_at(&self, now: UnixTime) -> Vec<TrustAnchor<'static>> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = self.anchors.iter().filter(|anchor| anchor.not_after >= now);
        valid.map(|anchor| anchor.anchor.clone()).collect()
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("anchors", &self.anchors.len())
            .field("crls", &self.crls.len())
            .finish()
    }
}

impl Dialled {
    fn check(&self, identity: &PeerIdentity) -> Result<(), Refusal> {
        if identity.unit != self.unit {
            return Err(Refusal::WrongUnit(identity.clone(), self.unit.clone()));
        }
        match (&self.relay, &identity.relay) {
            (Some(meant), Some(found)) if meant != found => Err(Refusal::WrongRelay(identity.clone(), meant.clone())),
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// All labels [`Refusal::reason`] can give.
    pub const REASONS: &'static [&'static str] = &[
        "bad_chain",
        "bad_der",
        "bad_extension",
        "bad_handshake",
        "bad_san",
        "by_peer",
        "ca_key_usage",
        "ca_leaf",
        "crl_expired",
        "expired",
        "no_certificate",
        "no_client_certificate",
        "no_digital_signature",
        "no_eku",
        "no_uri_san",
        "not_yet_valid",
        "revocation_unknown",
        "revoked",
        "timed_out",
        "tls_version",
        "two_uri_sans",
        "unknown_geo",
        "unknown_issuer",
        "unknown_unit",
        "uri_character",
        "uri_empty_segment",
        "uri_name",
        "uri_path",
        "uri_scheme",
        "uri_too_long",
        "uri_trailing_slash",
        "uri_trust_domain",
        "wrong_alpn",
        "wrong_eku",
        "wrong_geo",
        "wrong_relay",
        "wrong_trust_domain",
        "wrong_unit",
    ];

    /// Label of this refusal in logs and metrics; one per variant.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.reason(),
            Self::NoCertificate => "no_certificate",
            Self::WrongTrustDomain(..) => "wrong_trust_domain",
            Self::UnknownGeo(_) => "unknown_geo",
            Self::UnknownIssuer(_) => "unknown_issuer",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::NoEku(_) => "no_eku",
            Self::WrongEku(_) => "wrong_eku",
            Self::Revoked(_) => "revoked",
            Self::RevocationUnknown(_) => "revocation_unknown",
            Self::CrlExpired(_) => "crl_expired",
            Self::BadChain(..) => "bad_chain",
            Self::UnknownUnit(_) => "unknown_unit",
            Self::WrongGeo(..) => "wrong_geo",
            Self::WrongUnit(..) => "wrong_unit",
            Self::WrongRelay(..) => "wrong_relay",
            Self::NoClientCertificate => "no_client_certificate",
            Self::WrongAlpn => "wrong_alpn",
            Self::TlsVersion => "tls_version",
            Self::BadHandshake(_) => "bad_handshake",
            Self::ByPeer(_) => "by_peer",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Usage the chain check asks of every certificate that states one; the leaf must state it ([`check_usage`]).
const fn chain_usage(direction: Direction) -> KeyUsage {
    match direction {
        Direction::Accepted => KeyUsage::client_auth(),
        Direction::Dialled => KeyUsage::server_auth(),
    }
}

fn check_usage(leaf: &Leaf, direction: Direction) -> Result<(), Refusal> {
    let usage = leaf.usage.ok_or_else(|| Refusal::NoEku(leaf.identity.clone()))?;
    let allowed = match direction {
        Direction::Accepted => usage.client,
        Direction::Dialled => usage.server,
    };
    if !allowed {
        return Err(Refusal::WrongEku(leaf.identity.clone()));
    }
    Ok(())
}

/// Lists decide for the whole chain, and a status they do not tell is a refusal.
fn revocation<'a>(crls: &'a [&'a CertRevocationList<'a>], expired: CrlExpired) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(crls).ok()?;
    let expiration = match expired {
        CrlExpired::Accept => ExpirationPolicy::Ignore,
        CrlExpired::Refuse => ExpirationPolicy::Enforce,
    };
    Some(
        builder
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(expiration)
            .build(),
    )
}

fn chain_refusal(identity: PeerIdentity, error: webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired(identity),
        webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid(identity),
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Refusal::UnknownIssuer(identity),
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Refusal::WrongEku(identity),
        webpki::Error::CertRevoked => Refusal::Revoked(identity),
        webpki::Error::UnknownRevocationStatus => Refusal::RevocationUnknown(identity),
        webpki::Error::CrlExpired { .. } => Refusal::CrlExpired(identity),
        error => Refusal::BadChain(identity, error),
    }
}
